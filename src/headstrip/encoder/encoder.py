"""The encoder: a backbone without its head, with its width, preprocessing and predictors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from headstrip.encoder.file_watch import FileWatch
from headstrip.encoder.predictors import Predictors, check_predictors
from headstrip.errors import (
    HeadNotFoundError,
    HeadstripError,
    PreprocessingError,
    WeightsWarning,
)
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.dtypes import computing_dtype
from headstrip.network.head import Law
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.system.arguments import type_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import numpy as np
    from PIL import Image
    from typing_extensions import Self

    from headstrip.encoder.fingerprint import Fingerprint
    from headstrip.encoder.map_sizes import Makeup, MapSize
    from headstrip.encoder.maps import Tokens
    from headstrip.encoder.prediction import Prediction
    from headstrip.encoder.pyramid import Pyramid
    from headstrip.weights.mapping import Guard


class Save(Protocol):
    """The function that ``Encoder.save`` calls. The room that builds encoders has it."""

    def __call__(
        self, encoder: Encoder, path: str | os.PathLike[str], /, *, include_weights: bool
    ) -> None:
        """Write an encoder to a folder."""


class Encoder(nn.Module):
    """A backbone that turns images into embeddings, as ``build_encoder`` returns it.

    Attributes:
        backbone: The network without its head.
        head: The head that was taken off. It maps (N, output_dim) to the logits that the untouched
            network gives in eval mode. It does not train. None if ``law`` is ``declared`` or
            ``headless``.
        law: How ``head(encoder(x))`` relates to the untouched network's logits; see ``Stripped``.
        output_dim: Width of the embedding.
        spec: The backbone, as its catalog describes it.
        weights: The set of weights, None for random ones.
        weights_sha256: Hash of the weights file, None without one.
        weights_file: Name of the weights file that the user passed, None for published weights.
        weights_key: Where in that file the state dict is: the keys and the prefix that lead to it,
            joined by dots, such as ``"state_dict.model"``. Empty if the file contains nothing
            else, None for published and random weights.
        options: Constructor arguments of the network.
        input_shape: Input without the batch axis.
        inputs: The ``in_chans``, ``new_channels`` and ``img_size`` that the user passed, as plain
            JSON values; empty if the user passed none.
        expand: Turns grey input (N, 1, H, W) into the channels that the backbone takes. None if
            the backbone takes the input unchanged.
        preprocessing: The steps that turn an image into the input, or None.
        predictors: The attribute predictors, or None.
        labels: Names of the classes of the logits, or None.

    Example:
        >>> import torch
        >>> from headstrip import build_encoder
        >>> encoder = build_encoder("squeezenet1_1", weights=None)
        >>> encoder.output_dim
        512
        >>> encoder(torch.zeros(2, 3, 224, 224)).shape
        torch.Size([2, 512])
    """

    # Pickles of earlier versions lack these attributes.
    _keeps_norms = False
    _save: Save | None = None

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None,
        *,
        law: Law,
        output_dim: int,
        spec: BackboneSpec,
        weights: WeightsEntry | None,
        weights_sha256: str | None,
        options: Mapping[str, Any],
        input_shape: tuple[int, ...],
        preprocessing: Preprocessing | None,
        predictors: Predictors | None,
        labels: tuple[str, ...] | None,
        guards: tuple[Guard, ...] = (),
        weights_file: str | None = None,
        weights_key: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        expand: nn.Module | None = None,
        invented: int = 0,
        save: Save | None = None,
    ) -> None:
        """Combine the parts; users call ``build_encoder`` instead."""
        super().__init__()
        self._watch = FileWatch(guards)
        self.backbone, self.head, self.law = backbone, head, law
        self.output_dim, self.spec, self.weights = output_dim, spec, weights
        self.weights_sha256, self.options = weights_sha256, dict(options)
        self.input_shape, self.preprocessing = input_shape, preprocessing
        self.predictors, self.labels = predictors, labels
        self._frozen = False
        self._thawed: list[str] = []
        self.weights_file, self.weights_key = weights_file, weights_key
        self.inputs, self.expand = dict(inputs or {}), expand
        self._invented = invented
        self._save = save
        self._map_sizes: tuple[Makeup, tuple[MapSize, ...]] | None = None
        if head is not None:
            # DistributedDataParallel fails if an unused parameter requires a gradient.
            head.requires_grad_(False)
        for part in filter(None, (backbone, head)):
            self._watch.copy_before_state_dict(self, part)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch (N, *input_shape) to embeddings (N, output_dim).

        Raises:
            WeightsError: The parameters are pages of a mapped file, and another program has
                written to that file since.
        """
        if not torch.compiler.is_compiling():
            self._check_guards()
        embedding: Tensor = self.backbone(x if self.expand is None else self.expand(x))
        return embedding

    def logits(self, x: Tensor) -> Tensor:
        """Map a batch (N, *input_shape) to the logits (N, classes) of the head.

        Raises:
            HeadNotFoundError: The encoder has no head: its ``law`` is ``declared`` or ``headless``.
        """
        if self.head is None:
            reason = (
                "the weights file has none"
                if self.law == "headless"
                else "its logits cannot be computed from the embedding"
            )
            raise HeadNotFoundError(
                f"{self.spec.qualified_name} has no head that gives logits: {reason}. "
                "Use the embedding, or another backbone."
            )
        logits: Tensor = self.head(self(x))
        return logits

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        """Map a batch (N, *input_shape) to the logits (N, classes) of each attribute.

        Raises:
            ValueError: The encoder was built without predictors.
        """
        return self._predictors().predict(self(x))

    def predict_labels(
        self, images: Iterable[Any], *, batch_size: int = 16, threshold: float = 0.5
    ) -> list[dict[str, Prediction]]:
        """Predict the attributes of images in eval mode; the encoder keeps the mode that it has.

        Args:
            images: An iterable of what ``preprocess`` takes.
            batch_size: As in ``embed``.
            threshold: Smallest probability of a label that is returned. It applies to attributes
                of the kind ``labels``.

        Returns:
            For each image, in the order of ``images``, a dict from the name of each attribute to a
            ``Prediction``: the class or the labels with their probabilities, or the number.

        Raises:
            PreprocessingError: As ``embed``.
            ImageError: A file cannot be read.
            ValueError: The encoder was built without predictors, ``batch_size`` is below 1,
                ``threshold`` is not a probability, an embedding or a prediction is not finite, or
                a module that you put into ``predictors`` has another number of outputs than its
                attribute.
        """
        from headstrip.encoder.prediction import check_threshold, predict_embeddings

        predictors = self._predictors()
        check_threshold(threshold)
        embeddings = self.embed(images, batch_size=batch_size)
        return list(predict_embeddings(predictors, embeddings, threshold))

    def maps(
        self,
        x: Tensor,
        *,
        levels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        norm: bool = True,
    ) -> list[Tensor]:
        """Map a batch (N, *input_shape) to feature maps (N, C, H, W), the finest first.

        The network runs once, as in ``forward``. Its own hooks and results do not change. Calls
        from several threads do not disturb each other.

        Args:
            x: The batch.
            levels: Numbers of the maps, such as ``[-1]`` for the last one. By default all.
            strides: Strides instead of numbers, such as ``(8, 16, 32)``: pixels between two
                neighbouring cells. Each stride selects the last map of that stride.
            norm: Whether to apply the network's last norm to the last map, if the head reads the
                map after that norm. False returns the map before it.

        Returns:
            The maps, the finest first. They may be views, with any memory format.

        Raises:
            LevelError: The encoder has no maps, or lacks one of those that you chose. The message
                lists the maps that it has.
            WeightsError: As ``forward``.

        Example:
            >>> import torch
            >>> from headstrip import build_encoder
            >>> encoder = build_encoder("resnet18", weights=None)
            >>> maps = encoder.maps(torch.zeros(1, 3, 64, 64), levels=[-2, -1])
            >>> [tuple(one.shape) for one in maps]
            [(1, 256, 4, 4), (1, 512, 2, 2)]
        """
        return self.with_maps(x, levels=levels, strides=strides, norm=norm)[1]

    def with_maps(
        self,
        x: Tensor,
        *,
        levels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        norm: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding (N, output_dim) and the maps of a batch, from one forward pass.

        The arguments and errors are those of ``maps``.

        Returns:
            What ``forward`` returns, and what ``maps`` returns.
        """
        from headstrip.encoder.maps import choose_levels, read_maps

        self._check_guards()
        embedding, maps, _ = read_maps(self, x, choose_levels(self, levels, strides), norm)
        return embedding, maps

    def tokens(self, x: Tensor, *, level: int = -1, norm: bool = True) -> Tokens:
        """Map a batch (N, *input_shape) to the tokens of one level of a transformer.

        Args:
            x: The batch.
            level: Number of the level, by default the last one.
            norm: As for ``maps``.

        Returns:
            The tokens of the patches (N, L, C), row by row; the tokens before them (N, T, C), such
            as a class token and registers; and the numbers of rows and columns of the patches.

        Raises:
            LevelError: The encoder has no tokens, or not that level.
            WeightsError: As ``forward``.
        """
        from headstrip.encoder.maps import read_tokens

        self._check_guards()
        return read_tokens(self, x, level, norm)

    def pyramid(
        self,
        strides: Sequence[int] | None = None,
        *,
        levels: Sequence[int] | None = None,
        names: bool = False,
        norm: bool = True,
        resample: bool = False,
    ) -> Pyramid:
        """Return a module that maps a batch to feature maps, for detectors and decoders.

        It shares the encoder's parameters and mode. You can put it into other modules, compile,
        export and pickle it. It has the attributes ``channels``, ``strides`` and ``out_channels``;
        ``out_channels`` begins with the channels of the input.

        Args:
            strides: As for ``maps``.
            levels: As for ``maps``.
            names: Whether the module returns an ordered dict with the keys "0", "1", ..., which
                torchvision's detectors take, instead of a list.
            norm: As for ``maps``.
            resample: Whether to resample the maps to ``strides``, for a network whose maps all have
                the same stride, such as a plain ViT. headstrip takes levels at equal distances of
                depth, the last one included, and interpolates bilinearly.

        Raises:
            LevelError: The encoder has no maps, or lacks one of those that you chose.

        Example:
            >>> from headstrip import build_encoder
            >>> pyramid = build_encoder("resnet18", weights=None).pyramid((8, 16, 32))
            >>> pyramid.channels, pyramid.strides, pyramid.out_channels
            ((128, 256, 512), (8, 16, 32), (3, 128, 256, 512))
        """
        from headstrip.encoder.pyramid import make_pyramid

        return make_pyramid(
            self, levels=levels, strides=strides, norm=norm, names=names, resample=resample
        )

    def preprocess(self, image: Image.Image | str | Any) -> Tensor:
        """Turn one image, or one clip, into the input of this network.

        Args:
            image: The path of an image file, its bytes, a binary file object, or a PIL image. All
                of these give the same input: headstrip applies the EXIF orientation and puts
                transparent parts on the preprocessing's background. Or an array (H, W, C) or
                (H, W) of uint8, uint16 or float32, whose values ``value_range`` scales, or a uint8
                tensor (C, H, W); headstrip does not apply these two steps to them. Or a TIFF of
                several bands, if the encoder takes other channels than grey or RGB. For video a
                uint8 array or tensor (T, H, W, 3).

        Returns:
            float32 tensor of shape ``input_shape``, on the CPU.

        Raises:
            PreprocessingError: The encoder has no preprocessing, or ``image`` has another type.
            ImageError: The file cannot be read.
        """
        from headstrip.images.inputs import to_frames, to_input

        preprocessing = self._preprocessing()
        if self.spec.task == "image":
            return to_input(image, preprocessing)
        ready: Tensor = preprocessing.transform()(to_frames(image, preprocessing))
        return ready

    def embed(self, images: Iterable[Any], *, batch_size: int = 16) -> np.ndarray:
        """Embed images in eval mode; the encoder keeps the mode that it has.

        Args:
            images: An iterable of what ``preprocess`` takes.
            batch_size: Number of images that go through the network at once. The last bits of an
                embedding depend on it.

        Returns:
            float32 array of shape (number of images, output_dim), in the order of
            ``images``.

        Raises:
            PreprocessingError: The encoder has no preprocessing, ``images`` is one image or a
                mapping, or one of them is not what ``preprocess`` takes.
            ImageError: A file cannot be read.
            ValueError: ``batch_size`` is below 1.
        """
        import numpy as np

        from headstrip.encoder.batches import check_batch_size, in_batches, is_one

        check_batch_size(batch_size)
        if isinstance(images, Mapping):
            raise PreprocessingError(
                f"images is {type_of(images)}, and iterating over it gives its keys. "
                "Pass list(images.values())."
            )
        self.warn_of_invented_channels()
        if is_one(images, 3 if self.spec.task == "image" else 4):
            raise PreprocessingError(
                f"images is {type_of(images)}, and embed takes several images. "
                "Pass a list, or another iterable, of images."
            )
        parts = [
            self._embed_batch(torch.stack([self.preprocess(image) for image in batch]))
            for batch in in_batches(images, batch_size)
        ]
        return np.concatenate([np.empty((0, self.output_dim), np.float32), *parts])

    def _embed_batch(self, batch: Tensor) -> np.ndarray:
        """Map a batch (N, *input_shape) on any device to float32 (N, output_dim)."""
        device, dtype = self.device, self.dtype
        with self.evaluating():
            embedding: Tensor = self(batch.to(device, dtype))
            return embedding.float().cpu().numpy()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load the values of backbone, head and predictors.

        The keys of predictors contain the names of their attributes.

        Args:
            state_dict: What ``state_dict()`` of an encoder of the same kind returned.
            strict: Whether the keys must be the same.
            assign: As in ``torch.nn.Module.load_state_dict``.

        Returns:
            The missing and the unexpected keys, as every module does.

        Raises:
            WeightsError: The state dict has other predictors; see ``Predictors.load_state_dict``.
                No value has changed then.
            RuntimeError: The backbone or the head has other keys or shapes.
        """
        if self.predictors is None or isinstance(self.predictors, Predictors):
            check_predictors(self.predictors, state_dict, "predictors.", strict)
        return super().load_state_dict(state_dict, strict, assign)

    def freeze(self, keep: Literal["norms"] | None = None) -> Encoder:
        """Stop the training of the backbone, or only of the statistics of its norms.

        The predictors can still be trained.

        Args:
            keep: None freezes the whole backbone: it gets no gradients, and stays in eval mode even
                after ``train()``. ``"norms"`` lets the weights train. Each layer with running
                statistics, such as ``BatchNorm2d``, stays in eval mode even after ``train()``,
                because small batches would spoil the statistics. The manifest does not record
                ``"norms"``.

        Returns:
            The encoder itself.

        Raises:
            ValueError: ``keep`` is neither ``"norms"`` nor None.
        """
        if keep not in (None, "norms"):
            raise ValueError(f"keep must be 'norms' or None, got {keep!r:.60}.")
        if keep == "norms":
            self.unfreeze()
            self._keeps_norms = True
            return self.train(self.training)
        if not self._frozen:
            parameters = self.backbone.named_parameters()
            self._thawed = [name for name, parameter in parameters if parameter.requires_grad]
        self._frozen = True
        self.warn_of_invented_channels()
        self.backbone.requires_grad_(False)
        return self.train(self.training)

    def unfreeze(self) -> Encoder:
        """Let the parameters and statistics that ``freeze`` stopped train again.

        Returns:
            The encoder itself.
        """
        if self._frozen:
            for name in self._thawed:
                self.backbone.get_parameter(name).requires_grad_(True)
        self._frozen = self._keeps_norms = False
        return self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Set train or eval mode; the head and the parts that ``freeze`` stopped keep eval mode.

        Returns:
            The encoder itself.
        """
        super().train(mode)
        if self.head is not None:
            self.head.eval()
        self._stop(self.backbone)
        return self

    def _stop(self, part: nn.Module) -> None:
        """Set the parts that ``freeze`` stopped to eval mode, in the backbone or a view of it."""
        if self._frozen:
            part.eval()
        elif self._keeps_norms:
            for module in part.modules():
                if isinstance(getattr(module, "running_mean", None), Tensor):
                    module.eval()

    def requires_grad_(self, requires_grad: bool = True) -> Encoder:
        """Turn gradients on or off; for the head and a frozen backbone they stay off.

        Returns:
            The encoder itself.
        """
        super().requires_grad_(requires_grad)
        for part in (self.head, self.backbone if self._frozen else None):
            if part is not None:
                part.requires_grad_(False)
        return self

    def parameter_groups(
        self,
        *,
        lr: float,
        backbone_lr: float | None = None,
        layer_decay: float = 1.0,
        weight_decay: float = 0.0,
    ) -> list[dict[str, Any]]:
        """Divide the parameters that train into groups for an optimizer of torch.

        Call it after ``freeze``, because it leaves out parameters that do not train. Weight decay
        applies to matrices only. It does not apply to norms, biases, scales, class and position
        tokens, other parameters with one axis, and parameters that a timm network exempts.

        Args:
            lr: Learning rate of the predictors, and of other parameters outside the backbone.
            backbone_lr: Learning rate of the backbone's last layer; None for ``lr * layer_decay``,
                as in BEiT and MAE.
            layer_decay: Factor between the learning rates of two neighbouring layers; the layer
                nearer to the input has the smaller rate. A layer is a block of a transformer, a
                residual block, or a convolution outside such blocks. headstrip finds the layers by
                a run of the backbone on torch's meta device, which takes no memory.
            weight_decay: Weight decay of the matrices.

        Returns:
            Groups with ``params``, ``lr``, ``weight_decay`` and ``name``, from the input to the
            predictors. Each parameter that trains is in exactly one group.

        Raises:
            ValueError: A number is negative or infinite, ``layer_decay`` is not above 0 and at most
                1, or no parameter trains.

        Example:
            >>> import torch
            >>> from headstrip import build_encoder
            >>> encoder = build_encoder("resnet18", weights=None, predictors={"colour": 3})
            >>> groups = encoder.parameter_groups(lr=1e-3, layer_decay=0.5, weight_decay=0.05)
            >>> groups[0]["name"], groups[-2]["name"], groups[-2]["lr"]
            ('backbone.layer0', 'predictors', 0.001)
            >>> optimizer = torch.optim.AdamW(groups)
        """
        from headstrip.encoder.maps import backbone_shape
        from headstrip.encoder.parameter_groups import parameter_groups

        return parameter_groups(
            self,
            backbone_shape(self),
            lr=lr,
            backbone_lr=backbone_lr,
            layer_decay=layer_decay,
            weight_decay=weight_decay,
        )

    def warn_of_invented_channels(self) -> None:
        """Warn once if the backbone is frozen and has filters that were never trained."""
        if not self._invented:
            return
        count, self._invented = self._invented, 0
        warnings.warn(
            f"{count} of the {self.input_shape[0]} channels of {self.spec.qualified_name} have "
            "filters that no training made, and the backbone is frozen. In torchgeo-bench (pull "
            "request 85) tiled RGB weights were worse in 16 of 17 frozen cells, by 3.9 points on "
            "average. Fine-tune the encoder, or pass only the channels that it knows.",
            WeightsWarning,
            stacklevel=3,
        )

    @property
    def frozen(self) -> bool:
        """Whether the whole backbone is frozen; see ``freeze``."""
        return self._frozen

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity and environment of this encoder's embeddings; see ``Fingerprint``.

        Each access hashes the present parameters, so training changes the fingerprint.
        """
        from headstrip.encoder.fingerprint import fingerprint_of

        self._check_guards()
        return fingerprint_of(
            self.backbone,
            name=self.spec.qualified_name,
            weights=self.weights.tag if self.weights else None,
            weights_sha256=self.weights_sha256,
            options=self.options,
            preprocessing=self.preprocessing,
            dtype=self.dtype,
            inputs=self.inputs,
            expand=self.expand,
        )

    def manifest(self) -> dict[str, Any]:
        """Describe the encoder as JSON, from which ``build_encoder`` builds the same encoder.

        A manifest does not contain the values of the predictors. If they were trained, a
        ``UserWarning`` says so.

        Returns:
            Plain JSON values: the name, the weights and their sha256, the options, the
            preprocessing, the dtype, the identity of the fingerprint, a hash of the head, whether
            the backbone is frozen, the names and classes of the predictors and whether they were
            trained, and the versions of the libraries. See ``docs/how-to/reproduce-runs.md``.

        Raises:
            ManifestError: A predictor is not a linear layer.
            PluginError: The plugin that builds such encoders cannot be used in this process.
        """
        from headstrip.encoder.manifest import manifest_of

        return manifest_of(self)

    def save(self, path: str | os.PathLike[str], *, include_weights: bool = False) -> None:
        """Write the encoder to a folder, from which ``build_encoder`` builds the same encoder.

        The folder has the manifest, the preprocessing, the labels and the predictors. It also has
        the tensors of the backbone and the head if they differ from the catalog's weights, for
        example after training. headstrip builds the encoder from the new files and compares it
        with this one before it replaces an encoder that was saved there earlier.

        Args:
            path: The folder. Its parent folder must exist. Other files in it stay.
            include_weights: Whether to write the tensors even if they are equal to the catalog's
                weights, so that the folder needs no other file.

        Raises:
            HeadstripError: headstrip cannot build the encoder again, or cannot write the files. An
                encoder that was saved there earlier then stays unchanged.

        Example:
            >>> from headstrip import build_encoder
            >>> encoder = build_encoder("resnet18", weights=None, predictors={"colour": 12})
            >>> encoder.save("cells/")  # doctest: +SKIP
            >>> build_encoder("cells/").predictors.names  # doctest: +SKIP
            ['colour']
        """
        if self._save is None:
            raise HeadstripError(
                f"The encoder of {self.spec.qualified_name} was not built by build_encoder, so "
                "headstrip cannot build it again. Build it with build_encoder, load its values "
                "with load_state_dict, and save that."
            )
        # The folder may contain the weights file that is mapped now.
        self._watch.copy_into_memory(self)
        self._save(self, path, include_weights=include_weights)

    def __getstate__(self) -> dict[str, Any]:
        """Return the content of a copy or a pickle; its tensors are copies and need no watch."""
        self._check_guards()
        state = {**self.__dict__, "_watch": FileWatch(), "_map_sizes": None}
        # As in every torch module, the result of `compile()` is not pickled.
        state.pop("_compiled_call_impl", None)
        return state

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the tensors by name, as every module does; all of them are copies in memory.

        Raises:
            WeightsError: As ``forward``.
        """
        self._watch.copy_into_memory(self)
        return super().state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast everything, as every module does."""
        with self._watch.moving(self):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _check_guards(self) -> None:
        self._watch.check()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run the body in eval and inference mode, and restore every module's mode."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    @property
    def device(self) -> torch.device:
        """The device that inputs must be on."""
        parameters = (one for one in self.backbone.parameters() if one.is_floating_point())
        first = next(parameters, None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that inputs must have."""
        return computing_dtype(self.backbone)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows of the encoder."""
        tag = self.weights.tag if self.weights else None
        return f"{self.spec.qualified_name}, weights={tag!r}, output_dim={self.output_dim}"

    def _predictors(self) -> Predictors:
        if self.predictors is None:
            raise ValueError(
                f"The encoder of {self.spec.qualified_name} has no predictors. "
                "Build it with predictors={'colour': 12}."
            )
        return self.predictors

    def _preprocessing(self) -> Preprocessing:
        if self.preprocessing is None:
            tag = self.spec.default_weights
            hint = f", or choose weights that have one, such as {tag!r}" if tag else ""
            why = "was built without weights, so it has" if self.weights is None else "states"
            raise PreprocessingError(
                f"{self.spec.qualified_name} {why} no preprocessing. Pass "
                f"preprocessing=Preprocessing(...) to build_encoder{hint}."
            )
        return self.preprocessing
