"""The encoder: a backbone without its head, its width, and what belongs to both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headstrip.encoder.file_watch import Guarded
from headstrip.encoder.predictors import Predictors, check_predictors
from headstrip.errors import HeadNotFoundError, PreprocessingError
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.dtypes import computing_dtype
from headstrip.network.head import Law
from headstrip.spec import BackboneSpec, WeightsEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from PIL import Image

    from headstrip.encoder.fingerprint import Fingerprint
    from headstrip.weights.mapping import Guard


class Encoder(Guarded):
    """A backbone that turns images into embeddings, as ``build_encoder`` gives it.

    Attributes:
        backbone: The network without its head.
        head: The head that was taken off: (N, output_dim) to the network's own eval logits. It
            does not train. None where the law is ``declared`` or ``headless``.
        law: How ``head(encoder(x))`` relates to the untouched network's logits; see ``Stripped``.
        output_dim: Width of the embedding.
        spec: The backbone, as its catalog describes it.
        weights: The set of weights, None for random ones.
        weights_sha256: Hash of the weights file, None without one.
        weights_file: Name of a weights file of the user's own, None for any other.
        options: Constructor arguments of the network.
        input_shape: Input without the batch axis.
        preprocessing: What turns an image into the input, or None.
        predictors: The attribute predictors, or None.
        labels: Names of the classes of the logits, or None.
    """

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
    ) -> None:
        """Put the parts together; ``build_encoder`` does it."""
        super().__init__(guards)
        self.backbone, self.head, self.law = backbone, head, law
        self.output_dim, self.spec, self.weights = output_dim, spec, weights
        self.weights_sha256, self.options = weights_sha256, dict(options)
        self.input_shape, self.preprocessing = input_shape, preprocessing
        self.predictors, self.labels = predictors, labels
        self._frozen = False
        self._thawed: list[str] = []
        self.weights_file = weights_file
        if head is not None:
            # An unused parameter that asks for a gradient stops DistributedDataParallel.
            head.requires_grad_(False)
        self._guard(backbone, head)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch (N, *input_shape) to embeddings (N, output_dim).

        Raises:
            WeightsError: The parameters are a mapped file's pages, and another process has written
                to that file since.
        """
        self._check_before_computing()
        embedding: Tensor = self.backbone(x)
        return embedding

    def logits(self, x: Tensor) -> Tensor:
        """Map a batch (N, *input_shape) to the logits (N, classes) of the head that was kept.

        Raises:
            HeadNotFoundError: There is no head: the law is ``declared`` or ``headless``.
        """
        if self.head is None:
            reason = (
                "the weights file has none"
                if self.law == "headless"
                else "its logits are no function of the embedding"
            )
            raise HeadNotFoundError(
                f"{self.spec.qualified_name} has no head to give logits: {reason}. "
                "Use the embedding, or another backbone."
            )
        logits: Tensor = self.head(self(x))
        return logits

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        """Map a batch (N, *input_shape) to the logits (N, classes) of each attribute.

        Raises:
            ValueError: The encoder was built without predictors.
        """
        if self.predictors is None:
            raise ValueError(
                f"The encoder of {self.spec.qualified_name} has no predictors. "
                "Build it with predictors={'colour': 12}."
            )
        return self.predictors.predict(self(x))

    def preprocess(self, image: Image.Image | str | Any) -> Tensor:
        """Turn one image, or one clip, into the input of this network.

        Args:
            image: A path to an image file, the bytes of one, a binary file object, or a PIL
                image, which all give the same input: turned as the EXIF orientation says, with
                transparent parts on the preprocessing's background; or a uint8 array (H, W, 3)
                or a uint8 tensor (3, H, W), taken as it is. For video a uint8 array or tensor
                (T, H, W, 3).

        Returns:
            float32 tensor of shape ``input_shape``, on the CPU.

        Raises:
            PreprocessingError: The encoder has no preprocessing, or the input is of another kind.
            ImageError: The file cannot be read.
        """
        from headstrip.images.pictures import to_frames, to_picture

        preprocessing = self._preprocessing()
        convert = to_picture if self.spec.task == "image" else to_frames
        ready: Tensor = preprocessing.transform()(convert(image, preprocessing))
        return ready

    def embed(self, images: Iterable[Any], *, batch_size: int = 16) -> np.ndarray:
        """Embed images in eval mode, whatever the mode of the encoder.

        Args:
            images: What ``preprocess`` takes, one after the other.
            batch_size: Images that go through the network at once. The last bits of an embedding
                depend on it.

        Returns:
            float32 array of shape (number of images, output_dim), in the order given.

        Raises:
            PreprocessingError: The encoder has no preprocessing, ``images`` is one image, or an
                input is of another kind.
            ImageError: A file cannot be read.
            ValueError: ``batch_size`` is below 1.
        """
        import numpy as np

        from headstrip.encoder.batches import check_batch_size, in_batches, is_one

        check_batch_size(batch_size)
        if is_one(images, 3 if self.spec.task == "image" else 4):
            raise PreprocessingError(
                f"images is a {type(images).__name__}, which is not several images. "
                "Pass a list, or any other iterable, of images."
            )
        parts = [
            self._embed_batch(torch.stack([self.preprocess(image) for image in batch]))
            for batch in in_batches(images, batch_size)
        ]
        return np.concatenate([np.empty((0, self.output_dim), np.float32), *parts])

    def _embed_batch(self, batch: Tensor) -> np.ndarray:
        """Map a batch (N, *input_shape) on any device to float32 (N, output_dim)."""
        device, dtype = self.place()
        with self.evaluating():
            embedding: Tensor = self(batch.to(device, dtype))
            return embedding.float().cpu().numpy()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load values of backbone, head and predictors, those by the names of their attributes.

        Args:
            state_dict: What ``state_dict()`` of such an encoder gave.
            strict: Whether the keys must be the same.
            assign: As in ``torch.nn.Module.load_state_dict``.

        Returns:
            The missing and the unexpected keys, as every module does.

        Raises:
            WeightsError: The predictors are others; see ``Predictors.load_state_dict``. No value
                has changed then.
            RuntimeError: The keys or shapes of the backbone or the head are others.
        """
        if self.predictors is None or isinstance(self.predictors, Predictors):
            check_predictors(self.predictors, state_dict, "predictors.", strict)
        return super().load_state_dict(state_dict, strict, assign)

    def freeze(self) -> Encoder:
        """Stop the backbone from training: no gradients, and eval mode that survives ``train()``.

        The predictors go on training.

        Returns:
            The encoder itself.
        """
        if not self._frozen:
            parameters = self.backbone.named_parameters()
            self._thawed = [name for name, parameter in parameters if parameter.requires_grad]
        self._frozen = True
        self.backbone.requires_grad_(False)
        return self.train(self.training)

    def unfreeze(self) -> Encoder:
        """Let what ``freeze`` stopped train again.

        Returns:
            The encoder itself.
        """
        if self._frozen:
            for name in self._thawed:
                self.backbone.get_parameter(name).requires_grad_(True)
        self._frozen = False
        return self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Set train or eval mode; the head stays in eval, a frozen backbone too.

        Returns:
            The encoder itself.
        """
        super().train(mode)
        if self.head is not None:
            self.head.eval()
        if self._frozen:
            self.backbone.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Encoder:
        """Turn gradients on or off; never on for the head, nor for a frozen backbone.

        Returns:
            The encoder itself.
        """
        super().requires_grad_(requires_grad)
        for part in (self.head, self.backbone if self._frozen else None):
            if part is not None:
                part.requires_grad_(False)
        return self

    @property
    def frozen(self) -> bool:
        """Whether ``freeze`` is in force."""
        return self._frozen

    @property
    def fingerprint(self) -> Fingerprint:
        """What makes embeddings of this encoder comparable with others; see ``Fingerprint``.

        The parameters are hashed when it is read, so a trained encoder has another one.
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
            dtype=self.place()[1],
        )

    def manifest(self) -> dict[str, Any]:
        """Write down what the encoder is made of; ``build_encoder`` makes the same one of it.

        It has no values of predictors: a ``UserWarning`` says so where they were trained.

        Returns:
            Plain JSON values: the name, the weights and their sha256, the options, the
            preprocessing, the dtype, the identity of the fingerprint, a hash of the head, whether
            the backbone is frozen, the names and classes of the predictors and whether they were
            trained, and the versions of what computes. See ``docs/how-to/reproduce-runs.md``.

        Raises:
            ManifestError: A predictor has no number of classes.
            PluginError: The plugin that builds such encoders is not in this process.
        """
        from headstrip.encoder.manifest import manifest_of

        return manifest_of(self)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run the body in eval and inference mode, and put every module's mode back."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def place(self) -> tuple[torch.device, torch.dtype]:
        """Return the device and dtype that inputs must have."""
        parameters = (one for one in self.backbone.parameters() if one.is_floating_point())
        first = next(parameters, None)
        device = torch.device("cpu") if first is None else first.device
        return device, computing_dtype(self.backbone)

    def extra_repr(self) -> str:
        """Show what it is."""
        tag = self.weights.tag if self.weights else None
        return f"{self.spec.qualified_name}, weights={tag!r}, output_dim={self.output_dim}"

    def _preprocessing(self) -> Preprocessing:
        if self.preprocessing is None:
            tag = self.spec.default_weights
            named = (
                f", or the tag of the weights whose one it is to have, such as {tag!r}"
                if tag
                else ""
            )
            why = "was built without weights, so it has" if self.weights is None else "states"
            raise PreprocessingError(
                f"{self.spec.qualified_name} {why} no preprocessing. Pass "
                f"preprocessing=Preprocessing(...){named}, to build_encoder."
            )
        return self.preprocessing
