"""``detach`` refuses invalid arguments before it changes a network."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from headstrip import HeadNotFoundError, detach


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "x"}, "model must be a torch.nn.Module, got 'x'. Pass a network and "),
        ({"path": 3}, "path must be the dotted path of a layer, got 3. Pass one such as 'fc'."),
        ({"path": ""}, "path must be the dotted path of a layer, got ''. Pass one such as 'fc'."),
        ({"path": None}, "path must be the dotted path of a layer, got None. Pass one such as "),
        ({"kind": "Linear"}, "kind must be a class of layers, got 'Linear'. Pass one such as "),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(arguments: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(HeadNotFoundError) as raised:
        detach(**{"model": model, "path": "1"} | arguments)
    assert str(raised.value).startswith(message)
    assert isinstance(model[1], nn.Linear)
