"""The contract between headstrip and the plugins that bring backbones.

A plugin is a module, or an object, with functions marked ``@hookimpl``; its distribution names
it under the entry-point group ``headstrip``. Every plugin has a plugin manager of its own, so a
hook is called on the one plugin that owns the name or the family asked for, and on no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from headstrip.plugins import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP

if TYPE_CHECKING:
    from torch import Tensor, nn

    from headstrip.images.preprocessing import Preprocessing
    from headstrip.network.head import Stripped
    from headstrip.spec import BackboneSpec, WeightsEntry

API_VERSION = 1
"""Version of this contract; a plugin states the one it was built for as its ``API_VERSION``."""

hookspec = pluggy.HookspecMarker("headstrip")
hookimpl = pluggy.HookimplMarker("headstrip")


class HeadStripper:
    """All hooks a plugin may implement.

    A plugin also says, as plain attributes: ``API_VERSION``, the version of this contract that it
    was built for, and ``FAMILIES``, a tuple of the names of the families whose head it takes off.
    One without ``API_VERSION`` counts as built for version 1.
    """

    @hookspec(firstresult=True)
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module | None:
        """Build the architecture, head included, randomly initialised.

        Core calls it once for an encoder, again when a file has other classes, and for the
        untouched twin of a proof; it may do so under ``torch.device("meta")``.

        Args:
            spec: The backbone asked for.
            options: Constructor arguments: the spec's, over them those that the weights demand,
                over them the user's. ``num_classes`` must be understood by every plugin.

        Returns:
            A new network in train mode. Never weights, never the network.
        """

    @hookspec(firstresult=True)
    def strip_head(
        self,
        model: nn.Module,
        family: str,
        spec: BackboneSpec | None,
        entry: WeightsEntry | None,
    ) -> Stripped | None:
        """Take the head off ``model``, in place.

        Core calls it after the weights are in.

        Args:
            model: A network as ``build_model`` returns it, or one of the user's own.
            family: One of this plugin's ``FAMILIES``.
            spec: The backbone, None for a user's own network.
            entry: The weights, None without.

        Returns:
            The stripped parts. The eval forward of ``backbone`` maps (N, *input) to (N, dim).

        Raises:
            HeadNotFoundError: ``model`` is not shaped as the family is. Never guess.
        """

    @hookspec(firstresult=True)
    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...] | None:
        """List the sets of weights that ``weights.tsv`` does not have, the default first.

        Core calls it when the catalog has no weights for ``spec``. It may read a configuration
        from the network when building, and never when offline.
        """

    @hookspec(firstresult=True)
    def adapt_state_dict(
        self, loaded: object, model: nn.Module, entry: WeightsEntry | None
    ) -> dict[str, Tensor] | None:
        """Turn what a weights file holds into a state dict of ``model``.

        Core calls it with every file it has read for this plugin, and loads the result strictly.

        Args:
            loaded: The object as read, perhaps nested.
            model: The network that the result is for; its tensors may be on the meta device.
            entry: The weights, None for a user's own file.

        Returns:
            Exactly the keys of ``model.state_dict()``, heads aside.
        """

    @hookspec(firstresult=True)
    def describe_file(self, loaded: object, spec: BackboneSpec) -> WeightsEntry | None:
        """Describe a user's own weights file by what the file says of itself.

        Core calls it for a file that the user named by its path alone, once it is read and before
        its tensors go into a network; never for published weights, and not where the user named a
        tag (``weights="TAG=path"``). A plugin without the hook describes no file.

        Args:
            loaded: The object as read, perhaps nested: a checkpoint with its own settings.
            spec: The backbone asked for.

        Returns:
            What the file states, None where it states nothing. Core uses ``options``,
            ``input_shape``, ``preprocessing``, ``labels`` and ``num_classes``; what is None there
            is that of the default weights, and the labels hold only where the head has that
            number of classes. ``locations`` and ``sha256`` are left empty. Never guess: options
            that change numbers in silence are worse than none.
        """

    @hookspec(firstresult=True)
    def load_model(self, spec: BackboneSpec, entry: WeightsEntry) -> nn.Module | None:
        """Return the complete network with its weights in.

        Only for a source whose loading is not "a state dict in a file": core can check nothing
        of it, and ``headstrip show`` says so.
        """

    @hookspec(firstresult=True)
    def preprocessing(self, spec: BackboneSpec) -> Preprocessing | None:
        """Return the preprocessing for random weights, or None when there is none to assume."""

    @hookspec(firstresult=True)
    def find_backbone(self, name: str) -> BackboneSpec | None:
        """Describe a backbone that is newer than the catalog, or return None.

        Args:
            name: The name as it was asked for, without source and tag; a hub id has its revision.

        Returns:
            The backbone under exactly this name.
        """

    @hookspec(firstresult=True)
    def backbones(self) -> tuple[BackboneSpec, ...] | None:
        """Describe every backbone of this plugin.

        Core calls it for objects given to ``register_plugin``, which ship no catalog, and for
        ``headstrip catalog``, which measures what each shows: there ``dim`` and ``params`` may be
        0, and ``default_weights`` None where the first that ``weights`` lists are the default.
        """

    @hookspec(firstresult=True)
    def reference(self, model: nn.Module, x: Tensor, family: str) -> Tensor | None:
        """Compute the embedding of an untouched network another way.

        Core calls it where the law is ``declared``: the logits are no function of the embedding,
        so this is what a proof compares the embedding with.

        Args:
            model: A network with its head on, in eval mode.
            x: Input of shape (N, *input).
            family: One of this plugin's ``FAMILIES``.

        Returns:
            Tensor of shape (N, dim), bitwise what the stripped backbone gives.
        """
