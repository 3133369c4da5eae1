"""Search spaces of ordinary PyTorch code: a module that takes its choices as a dictionary; what it computes is seen while it runs.

Nothing is traced symbolically. The module is called once with concrete choices, and without data (PyTorch's `meta` device):
forward hooks say which module is at work, and a function mode which function is called with what. What is called that hwnas has no
operator for is refused by name, never left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Block, Node
from hwnas.ops import Add, AvgPool, ChannelShuffle, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul, Op, Shape
from hwnas.space import Choice, Layer, SearchSpace, Value

Values: TypeAlias = Mapping[str, Value]
#: Makes a module of its choices; or a module whose forward takes them beside the image.
Make: TypeAlias = Callable[[dict[str, Value]], nn.Module] | nn.Module

#: Every combination that a layer reads is run once, at some ten milliseconds.
MAX_COMBINATIONS = 20_000
#: Modules that only hold others: their parts are the layers.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def capture(
    name: str, make: Make, choices: Mapping[str, Sequence[Value]], input: Shape | Callable[[Values], Shape], *, samples: int = 20, seed: int = 0
) -> SearchSpace:
    """The search space of the modules that `make` makes of a value for each of the `choices`, whose values go from small to large.

    make: called with a dictionary of the choices; or an elastic module, whose forward is called with the image and that dictionary.

    input: shape of the network's input, batch first, or a function of the choices that gives it. Layers are the module's parts by name, those of
    nn.Sequential and nn.ModuleList one by one, and form a chain; one that does not run is skipped. A layer reads what its block was seen to depend on:
    each choice is varied from the largest and the smallest architecture, then random ones are run whole until `samples` in a row are what the layers
    say; a choice that matters in fewer architectures than that can show stays unseen. Dropout is left out, batch norms belong to what is before them.

    Raises InputError naming the module and what it calls that hwnas has no operator for, or how the layers are no chain.
    """
    if not choices:
        raise InputError(f"{name}: a search space needs at least one choice")
    runs = _Runs(name, make, [Choice(each, tuple(values)) for each, values in choices.items()], input)
    rng = np.random.default_rng(seed)
    for base in (runs.largest, tuple(choice.values[0] for choice in runs.choices)):
        for i, choice in enumerate(runs.choices):
            for value in choice.values:
                runs.compare(base, (*base[:i], value, *base[i + 1 :]), i)
    agreed = 0
    while agreed < samples:
        agreed += 1
        if runs.learn(tuple(choice.values[rng.integers(len(choice.values))] for choice in runs.choices)):
            agreed = 0
    for layer in runs.order:
        if (cells := prod(len(choice.values) for choice in runs.read_by(layer))) > MAX_COMBINATIONS:
            reads = ", ".join(choice.name for choice in runs.read_by(layer))
            raise InputError(f"{name}: layer {layer} depends on {reads}: {cells:,} combinations, more than the {MAX_COMBINATIONS:,} that are run one by one")
    runs.closed = True
    return SearchSpace(name, runs.choices, [Layer(layer, runs.read_by(layer), partial(runs.build, layer)) for layer in runs.order])


class _Runs:
    """Architectures that were run, by the tuple of their values, and what is known of the layers from them."""

    def __init__(self, name: str, make: Make, choices: list[Choice], shape: Shape | Callable[[Values], Shape]):
        self.name, self.choices, self.shape = name, choices, shape
        self.make = deepcopy(make).to("meta").eval() if isinstance(make, nn.Module) else make
        self.known: dict[tuple[Value, ...], dict[str, Block]] = {}
        self.order: list[str] = []
        self.reads: dict[str, set[int]] = {}
        self.largest = tuple(choice.values[-1] for choice in choices)
        self.closed = False

    def read_by(self, layer: str) -> tuple[Choice, ...]:
        return tuple(self.choices[i] for i in sorted(self.reads[layer]))

    def blocks(self, values: tuple[Value, ...]) -> dict[str, Block]:
        """Layer -> block of one architecture, in order; what is not there is skipped."""
        if values not in self.known:
            given: dict[str, Value] = dict(zip((choice.name for choice in self.choices), values, strict=True))
            self.known[values] = found = _captured(self.name, self.make, given, self.shape(given) if callable(self.shape) else self.shape)
            self._put_in_order(list(found))
        return self.known[values]

    def _put_in_order(self, names: list[str]) -> None:
        at = 0
        for each in names:
            if each not in self.reads:
                if self.closed:
                    raise InputError(f"{self.name}: the layer {each} runs in few architectures, none of which was met; look at more with samples=")
                self.order.insert(at, each)
                self.reads[each] = set()
            place = self.order.index(each)
            if place < at:
                raise InputError(f"{self.name}: {each} runs now before, now after {self.order[at - 1]}; layers have one order in all architectures")
            at = place + 1

    def compare(self, first: tuple[Value, ...], second: tuple[Value, ...], choice: int) -> None:
        """Two architectures that differ in one choice: layers that differ read it."""
        one, other = self.blocks(first), self.blocks(second)
        for layer in one.keys() | other.keys():
            if one.get(layer, IDENTITY) != other.get(layer, IDENTITY):
                self.reads[layer].add(choice)

    def learn(self, values: tuple[Value, ...]) -> bool:
        """Whether an architecture showed that a layer reads more than was known."""
        known = sum(map(len, self.reads.values())), len(self.order)
        self.blocks(values)  # layers that were never seen join the order
        for layer in tuple(self.order):
            while self._changes(layer, here := self._held(layer, values), values):
                for i, value in enumerate(values):  # one choice after the other becomes what it is there: the first that matters is read
                    there = (*here[:i], value, *here[i + 1 :])
                    if self._changes(layer, here, there):
                        self.reads[layer].add(i)
                        break
                    here = there
        return known != (sum(map(len, self.reads.values())), len(self.order))

    def _held(self, layer: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
        """The architecture that stands for these values of what the layer reads: all else is as in the largest."""
        return tuple(values[i] if i in self.reads[layer] else largest for i, largest in enumerate(self.largest))

    def _changes(self, layer: str, first: tuple[Value, ...], second: tuple[Value, ...]) -> bool:
        return self.blocks(first).get(layer, IDENTITY) != self.blocks(second).get(layer, IDENTITY)

    def build(self, layer: str, *values: Value) -> Block:
        given = dict(zip(sorted(self.reads[layer]), values, strict=True))
        return self.blocks(tuple(given.get(i, largest) for i, largest in enumerate(self.largest))).get(layer, IDENTITY)


# -- one architecture ------------------------------------------------------------------------------------------------------------------


def _captured(name: str, make: Make, values: dict[str, Value], shape: Shape) -> dict[str, Block]:
    """Layer -> block of the module that is made of these values, in the order in which they run."""
    try:
        module, given = (make, (dict(values),)) if isinstance(make, nn.Module) else (_made(make, values), ())
        recorder = _Recorder(name, module, shape)
        with torch.no_grad(), recorder.watched(), recorder:
            output = module(recorder.input, *given)
    except InputError:
        raise
    except Exception as error:  # foreign code may fail in any way
        raise InputError(f"{name}: with {_text(values)} the module cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    return recorder.layers(output)


def _text(values: Values) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())


def _made(make: Callable[[dict[str, Value]], nn.Module], values: dict[str, Value]) -> nn.Module:
    """Without memory for its weights, where its own code allows that."""
    try:
        with torch.device("meta"):
            module = make(dict(values))
    except Exception:  # such as .item() of a tensor that has no data; what else is wrong is said the second time
        module = make(dict(values))
    if not isinstance(module, nn.Module):
        raise InputError(f"what is captured must be a torch.nn.Module, got {type(module).__name__}")
    if any(not each.is_meta for each in (*module.parameters(), *module.buffers())):
        module = deepcopy(module).to("meta")  # it may be somebody's trained one
    return module.eval()


@dataclass(slots=True)
class _Step:
    """A node under way: `value` is the number of what it computes, 0 is the network's input."""

    layer: str
    name: str
    op: Op
    inputs: tuple[int, ...]
    norm: float | None = None


class _Recorder(TorchFunctionMode):
    """Sees the functions that are called with the network's values, while it is entered."""

    def __init__(self, name: str, module: nn.Module, shape: Shape):
        super().__init__()
        self.name, self.module = name, module
        self.input = torch.empty(shape, device="meta")
        self.steps: list[_Step] = []
        self.running = [""]  # paths of the modules at work, innermost last
        self.parts = dict(module.named_modules())
        self.numbers: dict[int, int | None] = {id(self.input): 0}  # None: of a value that became part of another
        self.kept: list[object] = [self.input]  # or their ids would be given again
        self.read: dict[int, int] = {}
        self.weights: set[int] = set()
        self.outside: set[str] = set()  # layers of no module

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Hooks on every module say which one is at work."""
        hooks = []
        for path, module in self.parts.items():
            hooks.append(module.register_forward_pre_hook(lambda module, given, path=path: self.running.append(path)))
            hooks.append(module.register_forward_hook(lambda module, given, output: _nothing(self.running.pop()), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        given = [each for each in _tensors([*args, *kwargs.values()]) if id(each) in self.numbers]
        if not given or not list(_tensors([output])):  # of weights alone, or a question such as x.shape
            return output
        called = getattr(func, "__name__", str(func)).strip("_")
        handler = _FUNCTIONS.get(called.removesuffix("_"))
        if handler is None or not isinstance(output, Tensor):
            raise self.refused(f"calls {called}, which hwnas has no operator for")
        try:
            number = handler(self, output, *args, **kwargs)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise self.refused(f"calls {called} in a way that hwnas has no operator for: {error}") from None
        self.numbers[id(output)] = number
        self.kept.append(output)
        return output

    def refused(self, what: str) -> InputError:
        path = self.running[-1]
        kind = type(self.parts[path]).__name__
        return InputError(f"{self.name}: {f'the module {path} ({kind})' if path else f'the forward of {kind}'} {what}")

    # -- what handlers are made of -----------------------------------------------------------------------------------------------------

    def number(self, tensor: object) -> int:
        """The number of a value. Raises InputError where it is none, or is no more."""
        if id(tensor) not in self.numbers:
            raise self.refused(f"combines a value with {type(tensor).__name__ if not isinstance(tensor, Tensor) else 'a tensor that is none of the network'}")
        number = self.numbers[id(tensor)]
        if number is None:
            raise self.refused("reads a value before its batch norm or activation, which is one operator with what computes it")
        return number

    def add(self, op: Op, *inputs: object) -> int:
        """The number of what an operator computes from values."""
        sources = tuple(each if isinstance(each, int) else self.number(each) for each in inputs)
        for each in sources:
            self.read[each] = self.read.get(each, 0) + 1
        path = self.running[-1]
        layer = self._layer(path) if path else self._layer_outside(op, sources)
        name = (path.removeprefix(layer).lstrip(".") if path else "") or op.kind
        if path and list(self.parts[path].children()):  # a function in a module of several parts
            name = f"{path.removeprefix(layer)}.{op.kind}".lstrip(".")
        taken = {step.name for step in self.steps if step.layer == layer}
        number, wanted = 2, f"{name}_" if re.fullmatch(r"in\d+", name) else name
        name = wanted
        while name in taken:
            name, number = f"{wanted}{number}", number + 1
        self.steps.append(_Step(layer, name, op, sources))
        return len(self.steps)

    def _layer(self, path: str) -> str:
        """The layer that a module is in: the outermost one that is no mere container."""
        names = path.split(".")
        depth = 1
        while depth < len(names) and type(self.parts[".".join(names[:depth])]) in _CONTAINERS:
            depth += 1
        return ".".join(names[:depth])

    def _layer_outside(self, op: Op, sources: Sequence[int]) -> str:
        """The layer of what the outermost forward computes itself: that of the last value it combines; of a single value a layer of its own."""
        before = self.steps[max(sources) - 1].layer if max(sources) else ""
        if len(set(sources)) > 1 or before in self.outside:
            return before
        taken = {*self.outside, *self.parts}
        name = next(each for each in (f"{op.kind}{i if i > 1 else ''}" for i in count(1)) if each not in taken)
        self.outside.add(name)
        return name

    def joined(self, tensor: Tensor, what: str, kinds: tuple[type[Op], ...]) -> _Step:
        """The step that computes a value, which nobody else reads and which is about to become part of it."""
        number = self.number(tensor)
        step = self.steps[number - 1] if number else None
        if step is None or not isinstance(step.op, kinds) or getattr(step.op, "act", "none") != "none":
            names = ", ".join(kind.kind for kind in kinds)
            raise self.refused(f"has {what} behind {step.op if step else 'the input'}; hwnas has it directly behind {names} alone")
        if self.read.get(number):
            raise self.refused(f"has {what} behind a value that is read without it, too; hwnas makes one operator of both")
        self.numbers[id(tensor)] = None
        return step

    def once(self, weight: Tensor) -> None:
        """Weights belong to one node."""
        if id(weight) in self.weights:
            raise self.refused("runs a second time with the same weights; in hwnas each node has its own")
        self.weights.add(id(weight))
        self.kept.append(weight)

    # -- layers of the steps -----------------------------------------------------------------------------------------------------------

    def layers(self, output: object) -> dict[str, Block]:
        if not self.steps or self.numbers.get(id(output)) != len(self.steps):
            raise InputError(f"{self.name}: the module must return one tensor, that which it computes last, and returns {type(output).__name__}")
        found: dict[str, list[Node]] = {}
        entry, start, current = 0, 0, ""  # what the layer at hand is given, the last step before it
        for number, step in enumerate(self.steps, start=1):
            if step.layer != current:
                if step.layer in found:
                    raise InputError(f"{self.name}: {step.layer} goes on after {current} has begun; layers run one after the other, each once")
                entry, start, current = number - 1, number - 1, step.layer
                found[current] = []
            for each in step.inputs:
                if each != entry and each <= start:
                    there = self.steps[each - 1].layer if each else "the input"
                    raise InputError(
                        f"{self.name}: {step.layer} reads what {there} computes, which is not the layer before it or not the last that it computes; "
                        "layers form a chain: put what branches into a module of its own"
                    )
            inputs = tuple("in0" if each == entry else self.steps[each - 1].name for each in step.inputs)
            found[current].append(Node(step.name, step.op, inputs, step.norm))
        return {layer: tuple(nodes) for layer, nodes in found.items()}


def _nothing(value: object) -> None:
    """A hook that returns something would replace the output by it."""


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


# -- one handler per function: (recorder, output, the function's own arguments) -> number of the value -----------------------------------


def _one(value: Any, what: str) -> int:
    """The one number of a pair of equal ones. Raises ValueError."""
    pair = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(set(pair)) != 1 or not isinstance(pair[0], int):
        raise ValueError(f"{what} is {value}, it must be the same in both directions")
    return pair[0]


def _conv2d(
    at: _Recorder, output: Tensor, input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> int:
    kernel = _one(tuple(weight.shape[2:]), "kernel")
    if padding != "same" and _one(padding, "padding") != kernel // 2:
        raise ValueError(f"padding is {_one(padding, 'padding')}, of a kernel of {kernel} it must be {kernel // 2}")
    if _one(dilation, "dilation") != 1:
        raise ValueError(f"dilation is {dilation}, it must be 1")
    at.once(weight)
    op = Conv2d(tuple(input.shape), out=weight.shape[0], kernel=kernel, stride=_one(stride, "stride"), groups=groups, bias=bias is not None)
    return at.add(op, input)


def _linear(at: _Recorder, output: Tensor, input: Tensor, weight: Tensor, bias: Any = None) -> int:
    at.once(weight)
    return at.add(Linear(tuple(input.shape), out=weight.shape[0], bias=bias is not None), input)


def _batch_norm(
    at: _Recorder,
    output: Tensor,
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> int:
    if weight is None or bias is None or running_mean is None or training:
        raise ValueError("a batch norm has a scale, a shift and running statistics")
    at.once(weight)
    number, step = at.number(input), at.joined(input, "a batch norm", (Conv2d, Linear))
    if step.norm is not None or not isinstance(step.op, Conv2d | Linear):
        raise ValueError("a second batch norm")
    if step.op.bias:
        raise ValueError("before a batch norm a bias changes nothing: make what is before it with bias=False")
    step.op, step.norm = replace(step.op, bias=True), eps
    return number


def _activation(act: str, at: _Recorder, output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> int:
    number, step = at.number(input), at.joined(input, act, (Conv2d, Linear, Add))
    step.op = replace(step.op, act=act)  # type: ignore[call-arg]  # these have one
    return number


def _hardtanh(at: _Recorder, output: Tensor, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> int:
    if (min_val, max_val) != (0, 6):
        raise ValueError(f"of bounds {min_val} and {max_val}; those of ReLU6 are 0 and 6")
    return _activation("relu6", at, output, input)


def _add(at: _Recorder, output: Tensor, input: Any, other: Any, *, alpha: Any = 1) -> int:
    for each in (input, other):
        at.number(each)
    if alpha != 1 or input.shape != other.shape:
        raise ValueError(f"of shapes {tuple(input.shape)} and {tuple(other.shape)}, and a factor of {alpha}")
    return at.add(Add(tuple(input.shape)), input, other)


def _mul(at: _Recorder, output: Tensor, input: Any, other: Any) -> int:
    for each in (input, other):
        at.number(each)
    gated, gate = (input, other) if input.numel() >= other.numel() else (other, input)
    op = Mul(tuple(gated.shape))
    if op.inputs[1] != tuple(gate.shape):
        raise ValueError(f"of shapes {tuple(gated.shape)} and {tuple(gate.shape)}: images are scaled channel by channel")
    return at.add(op, gated, gate)


def _mean(at: _Recorder, output: Tensor, input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> int:
    if input.dim() != 4 or not isinstance(dim, Sequence) or {each % 4 for each in dim} != {2, 3} or dtype is not None:
        raise ValueError("a mean is over height and width of an image")
    pooled = at.add(GlobalPool(tuple(input.shape)), input)
    return pooled if keepdim else at.add(Flatten((*input.shape[:2], 1, 1)), pooled)


def _adaptive_avg_pool2d(at: _Recorder, output: Tensor, input: Tensor, output_size: Any) -> int:
    if _one(output_size, "output_size") != 1:
        raise ValueError(f"output_size is {output_size}, it must be 1")
    return at.add(GlobalPool(tuple(input.shape)), input)


def _max_pool2d(
    at: _Recorder,
    output: Tensor,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> int:
    if _one(dilation, "dilation") != 1:
        raise ValueError(f"dilation is {dilation}, it must be 1")
    return at.add(MaxPool(tuple(input.shape), *_window(kernel_size, stride, padding), bool(ceil_mode)), input)


def _avg_pool2d(
    at: _Recorder,
    output: Tensor,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> int:
    kernel, step, pad = _window(kernel_size, stride, padding)
    if divisor_override is not None or (pad and count_include_pad):
        raise ValueError("a mean is over the pixels inside the image: count_include_pad=False, and no divisor_override")
    return at.add(AvgPool(tuple(input.shape), kernel, step, pad, bool(ceil_mode)), input)


def _window(kernel: Any, stride: Any, padding: Any) -> tuple[int, int, int]:
    return _one(kernel, "kernel"), _one(kernel if stride is None or stride == [] else stride, "stride"), _one(padding, "padding")


def _channel_shuffle(at: _Recorder, output: Tensor, input: Tensor, groups: int) -> int:
    return at.add(ChannelShuffle(tuple(input.shape), groups), input)


def _reshaped(at: _Recorder, output: Tensor, input: Tensor, *shape: Any, **more: Any) -> int:
    if output.shape == input.shape:
        return at.number(input)
    if tuple(output.shape) != (input.shape[0], prod(input.shape[1:])):
        raise ValueError(f"of {tuple(input.shape)} to {tuple(output.shape)}: all axes but the batch may become one")
    return at.add(Flatten(tuple(input.shape)), input)


def _same(at: _Recorder, output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> int:
    """What changes nothing when a network is deployed."""
    return at.number(input)


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "relu": partial(_activation, "relu"),
    "relu6": partial(_activation, "relu6"),
    "hardswish": partial(_activation, "hswish"),
    "hardsigmoid": partial(_activation, "hsigmoid"),
    "silu": partial(_activation, "swish"),
    "sigmoid": partial(_activation, "sigmoid"),
    "hardtanh": _hardtanh,
    "add": _add,
    "iadd": _add,
    "mul": _mul,
    "imul": _mul,
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "channel_shuffle": _channel_shuffle,
    **dict.fromkeys(("flatten", "reshape", "view"), _reshaped),
    **dict.fromkeys(("dropout", "dropout2d", "contiguous", "clone", "identity"), _same),
}
