"""The contract between headstrip and the plugins that bring backbones.

A plugin is a module, or an object, with functions marked ``@hookimpl``. Its distribution names it
under the entry-point group ``headstrip``. headstrip calls a hook only on the plugin that owns the
name or the family that the user asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from headstrip.images.preprocessing import Preprocessing
    from headstrip.network.head import Stripped
    from headstrip.network.levels import Level
    from headstrip.spec import BackboneSpec, WeightsEntry

API_VERSION = 1
"""Version of this contract; a plugin states the version that it was built for."""

hookspec = pluggy.HookspecMarker("headstrip")
hookimpl = pluggy.HookimplMarker("headstrip")


class HeadStripper:
    """All hooks that a plugin may implement.

    A plugin also has two plain attributes: ``API_VERSION``, the version of this contract that it
    was built for, which is 1 where it is missing; and ``FAMILIES``, a tuple of the names of the
    families whose head it takes off. ``INPUT_OPTIONS``, a third one, is optional: the constructor
    options that set the number of channels and the image size, such as
    ``{"in_chans": "num_channels", "img_size": "image_size"}``. headstrip sets the second for
    ``build_encoder(img_size=)``, to a number of pixels or to (height, width), and tries without it
    where the architecture does not take it. The first is also the name of the attribute in which
    modules around the first convolution keep its number of channels. Leave out what your networks
    do not have.

    Example:
        >>> from torch import nn
        >>> from headstrip import detach, hookimpl
        >>> class Plugin:
        ...     API_VERSION = 1
        ...     FAMILIES = ("pixels",)
        ...     @hookimpl
        ...     def build_model(self, spec, options):
        ...         return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        ...     @hookimpl
        ...     def strip_head(self, model, family, spec, entry):
        ...         return detach(model, "1")
        >>> Plugin().strip_head(Plugin().build_model(None, {}), "pixels", None, None).paths
        ('1',)
    """

    @hookspec(firstresult=True)
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module | None:
        """Build the architecture, head included, randomly initialised.

        headstrip calls it once per encoder, again when a file has other classes, and for the
        untouched network that a proof compares with. It may call it under
        ``torch.device("meta")``.

        Args:
            spec: The backbone.
            options: Constructor arguments: those of the spec, replaced by those that the weights
                demand, replaced by those of the user. Every plugin must accept ``num_classes``.

        Returns:
            A new network in train mode. Never load weights and never access the internet here.
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

        headstrip calls it after it has loaded the weights.

        Args:
            model: A network that ``build_model`` returned, or the user's own.
            family: One of this plugin's ``FAMILIES``.
            spec: The backbone, None for the user's own network.
            entry: The weights, None without weights.

        Returns:
            The stripped parts. In eval mode ``backbone`` maps (N, *input) to (N, dim).

        Raises:
            HeadNotFoundError: ``model`` does not have the structure of the family. Never guess.
        """

    @hookspec(firstresult=True)
    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...] | None:
        """List the sets of weights that ``weights.tsv`` does not have, the default first.

        headstrip calls it when no table has weights for ``spec``. The hook may read a configuration
        from the internet, except when offline.
        """

    @hookspec(firstresult=True)
    def adapt_state_dict(
        self, loaded: object, model: nn.Module, entry: WeightsEntry | None
    ) -> dict[str, Tensor] | None:
        """Turn the content of a weights file into a state dict of ``model``.

        headstrip calls it for every file that it reads for this plugin, and loads the result with
        ``strict=True``.

        Args:
            loaded: The content of the file, which may be nested.
            model: The network to load it into; its tensors may be on the meta device.
            entry: The weights, None for the user's own file.

        Returns:
            Exactly the keys of ``model.state_dict()``; those of heads may be missing.
        """

    @hookspec(firstresult=True)
    def resize_state_dict(
        self, state: dict[str, Tensor], model: nn.Module
    ) -> dict[str, Tensor] | None:
        """Interpolate the position embeddings of a file for another image size.

        headstrip calls it after ``adapt_state_dict``, only where the user passed ``img_size``. The
        hook is optional: a plugin whose networks take any size, or interpolate by themselves, does
        not need it.

        Args:
            state: What ``adapt_state_dict`` returned.
            model: The network to load it into, built for the new size; its tensors may be on the
                meta device.

        Returns:
            The same keys, with the shapes of ``model.state_dict()``; ``state`` where nothing
            changes.
        """

    @hookspec(firstresult=True)
    def describe_file(self, loaded: object, spec: BackboneSpec) -> WeightsEntry | None:
        """Describe the user's own weights file by what the file states.

        headstrip calls it for a file that the user passed by its path alone, after it has read the
        file and before the tensors go into a network. It does not call it for published weights,
        nor where the user named a tag (``weights="TAG=path"``). The hook is optional.

        Args:
            loaded: The content of the file, which may be nested: a checkpoint with its settings.
            spec: The backbone.

        Returns:
            What the file states, None where it states nothing. headstrip uses ``options``,
            ``input_shape``, ``preprocessing``, ``labels``, ``class_names`` and ``num_classes``.
            Where one of them is None, that of the default weights applies. The labels and the names
            of classes apply only where the head has that number of classes. Leave ``locations`` and
            ``sha256`` empty. Never guess: wrong options change the embeddings without an error.
        """

    @hookspec(firstresult=True)
    def load_model(self, spec: BackboneSpec, entry: WeightsEntry) -> nn.Module | None:
        """Return the complete network with its weights loaded.

        Only for a source whose weights are not a state dict in a file. headstrip cannot verify
        these weights, and ``headstrip show`` says so.
        """

    @hookspec(firstresult=True)
    def preprocessing(self, spec: BackboneSpec) -> Preprocessing | None:
        """Return the preprocessing for random weights, or None where none is known."""

    @hookspec(firstresult=True)
    def find_backbone(self, name: str) -> BackboneSpec | None:
        """Describe a backbone that is newer than the catalog, or return None.

        Args:
            name: The name that the user asked for, without source and tag; that of a hub id
                contains its revision.

        Returns:
            The backbone, with exactly this name.
        """

    @hookspec(firstresult=True)
    def backbones(self) -> tuple[BackboneSpec, ...] | None:
        """Describe every backbone of this plugin.

        headstrip calls it for objects that are passed to ``register_plugin``, which have no
        catalog, and for ``headstrip catalog``, which measures each backbone. ``dim`` and ``params``
        may be 0. ``default_weights`` may be None, which means the first that ``weights`` lists.
        """

    @hookspec(firstresult=True)
    def reference(self, model: nn.Module, x: Tensor, family: str) -> Tensor | None:
        """Compute the embedding of an untouched network another way.

        headstrip calls it where ``law`` is ``declared``: the logits cannot be computed from the
        embedding, so a proof compares the embedding with this one.

        Args:
            model: A network with its head on, in eval mode.
            x: Input of shape (N, *input).
            family: One of this plugin's ``FAMILIES``.

        Returns:
            Tensor of shape (N, dim), with the same bits as the output of the stripped backbone.
        """

    @hookspec(firstresult=True)
    def levels(
        self, model: nn.Module, family: str, spec: BackboneSpec
    ) -> tuple[Level | str, ...] | nn.Module | None:
        """Say where the feature maps of a stripped network are.

        headstrip calls it for ``encoder.maps``, ``encoder.tokens`` and ``encoder.pyramid``. The
        hook is optional; without it an encoder has no maps.

        Args:
            model: The backbone that ``strip_head`` returned; its tensors may be on the meta device.
            family: One of this plugin's ``FAMILIES``.
            spec: The backbone.

        Returns:
            The levels, the finest first. Everything that reaches the embedding must pass through
            each of them. A string is the dotted path of a module that gives a map (N, C, H, W), and
            ``">maxpool"`` means what that module reads; a ``Level`` describes other layouts. Where
            paths do not suffice, return a module that contains ``model`` and that headstrip calls
            as ``module(x, levels, norm)``: ``levels`` is a tuple of numbers of levels, or None for
            all; ``norm`` says whether the last level is after the network's last norm. It returns
            the embedding, the maps (N, C, H, W), and for each map the prefix tokens (N, T, C), or
            None where the network has no tokens. None or an empty tuple means no maps.
        """
