"""The loss of predictors; missing labels do not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from headstrip.encoder.attribute import Attribute


def masked_loss(
    attributes: Sequence[Attribute], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> Tensor:
    """Average the losses of attributes; see ``Predictors.loss``."""
    names = {one.name for one in attributes}
    for what, given in (("outputs", outputs), ("targets", targets)):
        if lacking := [name for name in names if name not in given]:
            raise ValueError(
                f"{what} lacks the attribute {min(lacking)!r:.60}. Pass a tensor for each "
                "attribute; -1 and NaN are missing labels."
            )
        if unknown := [name for name in given if name not in names]:
            raise ValueError(
                f"{what} has {unknown[0]!r:.60}, and there is no predictor of that name. Leave it "
                "out."
            )
    losses = [_loss(one, outputs[one.name], targets[one.name]) for one in attributes]
    return torch.stack(losses).mean()


def _loss(attribute: Attribute, outputs: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss of the known labels, 0 if all are missing."""
    expected = outputs.shape if attribute.kind == "labels" else outputs.shape[:1]
    if outputs.shape[1:] != (attribute.outputs,) or target.shape != expected:
        raise ValueError(
            f"The attribute {attribute.name!r:.60} has outputs of shape {tuple(outputs.shape)} and "
            f"targets of shape {tuple(target.shape)}. Pass outputs (N, {attribute.outputs}) and "
            f"targets {'(N, labels)' if attribute.kind == 'labels' else '(N,)'}."
        )
    if attribute.kind == "class":
        return _of_class(attribute, outputs, target)
    target = target.to(outputs.dtype)
    is_known = ~target.isnan()
    # The gradient of a missing label would be NaN, so it is replaced before the loss.
    target = torch.where(is_known, target, torch.zeros_like(target))
    if attribute.kind == "number":
        losses = (outputs[:, 0] - target).square()
    else:
        if not ((target >= 0) & (target <= 1)).all():
            raise ValueError(
                f"The targets of {attribute.name!r:.60} must be 0, 1 or NaN, or probabilities. "
                "Pass 1 for each label that the image has."
            )
        losses = functional.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    return (losses * is_known).sum() / is_known.sum().clamp_min(1)


def _of_class(attribute: Attribute, outputs: Tensor, target: Tensor) -> Tensor:
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"The targets of {attribute.name!r:.60} are {target.dtype}, and must be indices of "
            "classes. Pass integers, -1 for a missing label."
        )
    target = target.long()
    if target.numel() and (target.max() >= attribute.outputs or target.min() < -1):
        raise ValueError(
            f"The targets of {attribute.name!r:.60} go from {int(target.min())} to "
            f"{int(target.max())}, and it has {attribute.outputs} classes. Pass indices from 0, "
            "-1 for a missing label."
        )
    total = functional.cross_entropy(outputs, target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp_min(1)
