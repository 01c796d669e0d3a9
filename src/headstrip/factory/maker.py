"""Call a backbone's plugins, which make its network and take its head off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from headstrip.network.channels import Widening
from headstrip.network.checkpoints import extra_states, plain_state_dict
from headstrip.network.head import Stripped
from headstrip.plugins.loader import Plugin
from headstrip.spec import BackboneSpec, WeightsEntry


@dataclass(frozen=True, slots=True)
class NetworkMaker:
    """Calls the hooks that make a backbone's network and take it apart.

    Attributes:
        owner: The plugin that builds.
        stripper: The plugin that takes the head off, and its name for the family.
        spec: The backbone.
        entry: Its weights, None for random ones.
        widening: The channels of the first convolution, None for those of the network.
        is_resized: Whether the user chose the image size, so that position embeddings of a file may
            have another size.
    """

    owner: Plugin
    stripper: tuple[Plugin, str]
    spec: BackboneSpec
    entry: WeightsEntry | None = None
    widening: Widening | None = None
    is_resized: bool = False

    @property
    def about(self) -> str:
        """The backbone, for messages."""
        return self.spec.qualified_name

    def network(self, options: Mapping[str, Any]) -> nn.Module:
        """Return a new network, with the values that its constructor gives it."""
        model: nn.Module = self.owner.call(
            "build_model", self.about, spec=self.spec, options=dict(options)
        )
        return self._widened(model)

    def loaded_network(self) -> nn.Module:
        """Return a network whose weights the plugin loads itself."""
        model: nn.Module = self.owner.call(
            "load_model", self.about, spec=self.spec, entry=self.entry
        )
        return self._widened(model)

    def state_dict(self, content: Any, model: nn.Module) -> dict[str, Any]:
        """Return the state dict in the content of a file, with the names and shapes of a network.

        Raises:
            WeightsError: The content has no state dict.
        """
        state = self.trained_state_dict(content, model)
        if self.widening is not None:
            state = self.widening.adapt(state)
        return {**state, **extra_states(content)}

    def trained_state_dict(self, content: Any, model: nn.Module) -> dict[str, Any]:
        """Return the state dict in a file, with the channels that it was trained with.

        Raises:
            WeightsError: The content has no state dict.
        """
        if self.owner.implements("adapt_state_dict"):
            state: dict[str, Any] = self.owner.call(
                "adapt_state_dict", self.about, loaded=content, model=model, entry=self.entry
            )
        else:
            state = dict(plain_state_dict(content))
        if self.is_resized and self.owner.implements("resize_state_dict"):
            state = self.owner.call("resize_state_dict", self.about, state=state, model=model)
        return state

    def stripped(self, model: nn.Module) -> Stripped:
        """Take the head off a network, in place."""
        plugin, own = self.stripper
        return strip_with(plugin, own, model.eval(), self.spec, self.entry, self.about)

    def _widened(self, model: nn.Module) -> nn.Module:
        if self.widening is not None:
            self.widening.widen(model)
        return model


def strip_with(
    plugin: Plugin,
    own: str,
    model: nn.Module,
    spec: BackboneSpec | None,
    entry: WeightsEntry | None,
    about: str,
) -> Stripped:
    """Let a family's plugin take the head off a network, in place."""
    stripped: Stripped = plugin.call(
        "strip_head", about, model=model, family=own, spec=spec, entry=entry
    )
    return stripped
