"""The names of backbones in the code of WBCAtt."""

from __future__ import annotations

_LATER_TIMM = "timm."


def name_of(name: str) -> str:
    """Return the name for ``build_encoder``; WBCAtt's later code writes ``timm.NAME``.

    Example:
        >>> name_of("timm.resnet18"), name_of("resnet50")
        ('timm:resnet18', 'resnet50')
    """
    if isinstance(name, str) and name.startswith(_LATER_TIMM):
        return f"timm:{name.removeprefix(_LATER_TIMM)}"
    return name
