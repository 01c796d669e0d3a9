"""The layers of a network from input to output, for learning rates that decay with depth.

A layer is what people count: a block of a transformer, a residual block, a convolution of VGG.
Names of modules do not show this in every library, so the network runs once without memory, and the
data flow shows it. A module whose parts run one after another, with no connection around them, is a
sequence of layers. A module with a connection around its parts, such as a residual block, is one
layer, and so is every other module of its class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headstrip.network.decay import is_matrix
from headstrip.network.dtypes import computing_dtype
from headstrip.network.meta_ops import ByShape, twin
from headstrip.network.width import tensors_within

Call = tuple[int, int]
"""The number of a module's first operation in one call, and the number after its last one."""


def layers_of(network: nn.Module, shape: tuple[int, ...]) -> list[list[str]]:
    """Divide the parameters of a network into its layers.

    Args:
        network: A network, which does not change.
        shape: Its input without the batch axis.

    Returns:
        The names of the parameters of each layer, from input to output. Each parameter is in one
        layer. Norms and other parameters without a matrix belong to the layer before them, those at
        the start to the first layer.

    Raises:
        Exception: Any error of the network's forward pass.

    Example:
        >>> small = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 4))
        >>> layers_of(small, (2,))
        [['0.weight', '0.bias', '1.weight', '1.bias'], ['2.weight', '2.bias']]
    """
    tensors = tensors_within(network)
    # The copy shares no container with the network, which another thread may be running.
    light = copy.deepcopy(network, {id(one): _light(one) for one in tensors}).eval()
    x = torch.zeros((1, *shape), dtype=computing_dtype(network), device="meta")
    try:
        flow = _run(light, x)
    except Exception:
        # Networks fail on meta for many reasons; then a real forward pass shows the data flow.
        first = next((one for one in tensors if not one.is_meta), None)
        if first is None:
            raise
        light = copy.deepcopy(network).eval()
        flow = _run(light, torch.zeros(x.shape, dtype=x.dtype, device=first.device))
    return _named(light, _Splitter(flow).layers(light), flow)


def _light(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape without memory."""
    found = twin(tensor)
    return nn.Parameter(found, requires_grad=False) if isinstance(tensor, nn.Parameter) else found


@dataclass(frozen=True)
class _Flow:
    """The data flow of one forward pass.

    Attributes:
        calls: The first call of each module that was called.
        first_use: The first operation that takes a parameter, by the parameter's id.
        is_cut: For each operation, whether exactly one of the tensors that depend on the input is
            used after it.
    """

    calls: Mapping[nn.Module, Call]
    first_use: Mapping[int, int]
    is_cut: Sequence[bool]

    def has_cut(self, start: int, stop: int) -> bool:
        """Whether one of the operations from ``start`` up to ``stop`` is a cut."""
        return any(self.is_cut[max(0, start) : stop])


class _Recorder(TorchFunctionMode):
    """A torch mode that records which operation makes and uses which tensor.

    Tensors that share memory count as one: views, and results of operations in place.
    """

    def __init__(self, x: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.count = 0
        self.first_use: dict[int, int] = {}
        self._parameters = {id(one) for one in parameters}
        self.made: dict[int, int] = {_memory(x): -1}
        self.last_use: dict[int, int] = {_memory(x): -1}
        # The id of memory that was freed could be given to another tensor.
        self._kept: list[Any] = [x]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation and record it."""
        result = func(*args, **(kwargs or {}))
        results = list(_tensors(result))
        name = getattr(func, "__name__", "")
        is_in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if is_in_place:
            results += list(_tensors(args[:1]))
        if results:
            self._record(list(_tensors((args, kwargs or {}))), results)
        return result

    def use(self, output: Any) -> None:
        """Record that the caller uses what the network returned."""
        for tensor in _tensors(output):
            if _memory(tensor) in self.made:
                self.last_use[_memory(tensor)] = self.count

    def _record(self, given: list[Tensor], results: list[Tensor]) -> None:
        depends = False
        for tensor in given:
            if id(tensor) in self._parameters:
                self.first_use.setdefault(id(tensor), self.count)
            memory = _memory(tensor)
            if memory in self.made:
                depends, self.last_use[memory] = True, self.count
        if depends:
            for tensor in results:
                self.made.setdefault(_memory(tensor), self.count)
                self.last_use.setdefault(_memory(tensor), self.count)
            self._kept.append(results)
        self.count += 1

    def cuts(self) -> list[bool]:
        """Return, for each operation, whether exactly one tensor is used after it."""
        change = [0] * (self.count + 1)
        for memory, at in self.made.items():
            change[max(at, 0)] += 1
            change[max(self.last_use[memory], 0)] -= 1
        alive, found = 0, []
        for at in range(self.count):
            alive += change[at]
            found.append(alive == 1)
        return found


def _memory(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        # A sparse tensor, or another one without plain memory.
        return id(tensor)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def _run(network: nn.Module, x: Tensor) -> _Flow:
    """Run a copy of a network, and record its data flow."""
    recorder = _Recorder(x, network.parameters())
    calls: dict[nn.Module, Call] = {}
    open_calls: list[int] = []

    def before(module: nn.Module, inputs: Any) -> None:
        open_calls.append(recorder.count)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        calls.setdefault(module, (open_calls.pop(), recorder.count))

    for module in network.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
    with torch.no_grad():
        if x.is_meta:
            with ByShape(), recorder:
                recorder.use(network(x))
        else:
            with recorder:
                recorder.use(network(x))
    return _Flow(calls, recorder.first_use, recorder.cuts())


@dataclass
class _Layer:
    """Modules that are trained as one layer.

    Attributes:
        start: The first operation.
        modules: The modules; all their parameters belong to the layer.
    """

    start: int
    modules: list[nn.Module] = field(default_factory=list)


class _Splitter:
    """Divides the modules of a network into layers."""

    def __init__(self, flow: _Flow) -> None:
        self._flow = flow
        self._blocks: set[type[nn.Module]] = set()

    def layers(self, network: nn.Module) -> list[_Layer]:
        """Return the layers in the order in which they run."""
        # The first call finds the classes of blocks. A block that reduces the resolution has no
        # connection around it, but is one layer like the others of its class.
        self._split(network, is_spine=True)
        return sorted(self._split(network, is_spine=True), key=lambda layer: layer.start)

    def _split(self, module: nn.Module, *, is_spine: bool) -> list[_Layer]:
        start, _ = self._flow.calls.get(module, (0, 0))
        whole = [_Layer(start, [module])]
        if not is_spine and type(module) in self._blocks:
            return whole
        units = sorted(self._units(module), key=lambda one: self._flow.calls[one])
        if not units:
            return whole
        groups = [[units[0]]]
        for unit in units[1:]:
            _, end = self._flow.calls[groups[-1][-1]]
            following, _ = self._flow.calls[unit]
            if self._flow.has_cut(end - 1, following):
                groups.append([unit])
            else:
                groups[-1].append(unit)
        _, end = self._flow.calls[units[-1]]
        is_sequence = len(groups) == len(units) and self._flow.has_cut(end - 1, end)
        if not is_sequence and not is_spine:
            # Anything can be in a plain sequence, so its class says nothing.
            if type(module) is not nn.Sequential:
                self._blocks.add(type(module))
            return whole
        found: list[_Layer] = []
        for group in groups:
            if len(group) > 1:
                found.append(_Layer(self._flow.calls[group[0]][0], group))
            else:
                found += self._split(group[0], is_spine=is_spine and len(units) == 1)
        return found

    def _units(self, module: nn.Module) -> Iterator[nn.Module]:
        """Yield the called parts with parameters; lists are never called, so yield their parts."""
        for child in module.children():
            if next(child.parameters(), None) is None:
                continue
            if child in self._flow.calls:
                yield child
            else:
                yield from self._units(child)


def _named(network: nn.Module, layers: Sequence[_Layer], flow: _Flow) -> list[list[str]]:
    """Return the names of the parameters of each layer that has a matrix."""
    within = {
        id(parameter): number
        for number, layer in reversed(list(enumerate(layers)))
        for module in layer.modules
        for parameter in module.parameters()
    }
    starts = [layer.start for layer in layers]
    owners = {
        id(one): module for module in network.modules() for one in module._parameters.values()
    }
    numbers: dict[str, int] = {}
    last = 0
    for name, parameter in network.named_parameters():
        if id(parameter) in within:
            last = within[id(parameter)]
        elif id(parameter) in flow.first_use:
            # Tokens and positions: they belong to the layer that runs when they are used.
            first = flow.first_use[id(parameter)]
            last = max((at for at, start in enumerate(starts) if start <= first), default=0)
        numbers[name] = last
    parameters = dict(network.named_parameters())
    with_matrix = {
        number
        for name, number in numbers.items()
        if is_matrix(name, parameters[name], owners[id(parameters[name])])
    }
    found: dict[int, list[str]] = {}
    for name, number in numbers.items():
        before = [one for one in with_matrix if one <= number] or sorted(with_matrix)[:1] or [0]
        found.setdefault(max(before), []).append(name)
    return [found[number] for number in sorted(found)]
