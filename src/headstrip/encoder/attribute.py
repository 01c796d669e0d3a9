"""Attributes: what a predictor reads from an embedding, as data. This module imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

from headstrip.system.arguments import type_of

Kind = Literal["class", "labels", "number"]
KINDS: tuple[str, ...] = get_args(Kind)

_MAX_CLASSES = 1 << 24


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of images, which one linear predictor reads from an embedding.

    Attributes:
        name: Name of the attribute; any text.
        kind: ``class``: exactly one of the classes; ``labels``: any number of them; ``number``.
        classes: Names of the classes, in the order of the logits; empty for a number.

    Raises:
        ValueError: The kind is unknown, or the classes are missing, repeated or not strings.

    Example:
        >>> Attribute("colour", "class", ("red", "blue")).outputs
        2
        >>> Attribute("age", "number").outputs
        1
    """

    name: str
    kind: Kind = "class"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"The name of an attribute must be a string, got {self.name!r:.100}.")
        if self.kind not in KINDS:
            raise ValueError(
                f"The attribute {self.name!r:.60} has the kind {self.kind!r:.100}. Pass one of "
                f"{', '.join(map(repr, KINDS))}."
            )
        # JSON gives a list; a frozen value needs a tuple.
        is_text = isinstance(self.classes, str) or not isinstance(self.classes, Sequence)
        classes = (None,) if is_text else tuple(self.classes)
        object.__setattr__(self, "classes", classes)
        if self.kind == "number" and classes:
            raise ValueError(
                f"The attribute {self.name!r:.60} is a number, which has no classes. Leave out "
                "classes, or pass another kind."
            )
        if self.kind != "number" and not classes:
            raise ValueError(
                f"The attribute {self.name!r:.60} has no classes. Pass their names, such as "
                "classes=('red', 'blue')."
            )
        if not all(isinstance(one, str) for one in classes):
            raise ValueError(
                f"The classes of the attribute {self.name!r:.60} must be a list of strings. Pass "
                "their names, such as classes=('red', 'blue')."
            )
        if len(set(classes)) != len(classes):
            repeated = next(one for one in classes if classes.count(one) > 1)
            raise ValueError(
                f"The attribute {self.name!r:.60} has the class {repeated!r:.60} twice. Name each "
                "class once."
            )

    @property
    def outputs(self) -> int:
        """Number of outputs of the predictor: one per class, or one for a number."""
        return len(self.classes) or 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``Attribute(**values)`` makes an equal attribute from them."""
        return {"name": self.name, "kind": self.kind, "classes": list(self.classes)}


AttributesArgument: TypeAlias = (
    Mapping[str, int] | Mapping[str, Sequence[str]] | Mapping[str, Any] | Sequence[Attribute]
)


def attributes_of(given: AttributesArgument) -> tuple[Attribute, ...]:
    """Return the attributes that a caller passed as ``predictors``.

    Args:
        given: A mapping of names to a number of classes, to the names of classes, or to an
            ``Attribute`` of that name; or a sequence of attributes. If only the number of classes
            is known, the classes are called ``"0"``, ``"1"`` and so on.

    Raises:
        ValueError: ``given`` has another type, or two attributes have the same name.

    Example:
        >>> attributes_of({"colour": ["red", "blue"]})
        (Attribute(name='colour', kind='class', classes=('red', 'blue')),)
    """
    if isinstance(given, Attribute):
        return (given,)
    if isinstance(given, Mapping):
        return tuple(_attribute(name, value) for name, value in given.items())
    if not isinstance(given, Sequence) or not all(isinstance(one, Attribute) for one in given):
        raise ValueError(
            f"predictors={given!r} is {type_of(given)}. "
            "Pass a mapping of attributes to numbers of classes, such as {'colour': 12}, to names "
            "of classes, such as {'colour': ['red', 'blue']}, or a list of headstrip.Attribute."
        )
    names = [one.name for one in given]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"predictors has the attribute {repeated[0]!r:.60} twice. Give each attribute its own "
            "name."
        )
    return tuple(given)


def _attribute(name: object, value: object) -> Attribute:
    if isinstance(name, str) and isinstance(value, Attribute):
        if value.name != name:
            raise ValueError(
                f"predictors has {name!r:.60}: an attribute with the name {value.name!r:.60}. Use "
                "one name, or pass a list of attributes."
            )
        return value
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if isinstance(name, str) and is_list:
        return Attribute(name, "class", tuple(value))  # type: ignore[arg-type]  # checked there
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not isinstance(name, str) or not is_integer or int(value) < 1:  # type: ignore[call-overload]
        raise ValueError(
            f"predictors has {name!r}: {value!r}, which is not an attribute with a number of "
            "classes. Write {'colour': 12}, or {'colour': ['red', 'blue']}."
        )
    count = int(value)  # type: ignore[call-overload]  # checked above
    if count > _MAX_CLASSES:
        raise ValueError(
            f"predictors has {name!r:.60} with {count:,} classes, and headstrip accepts at most "
            f"{_MAX_CLASSES:,}. Pass the number of your classes."
        )
    return Attribute(name, "class", tuple(map(str, range(count))))
