"""PyTorch: a network interpreted from its graph, over whatever tensors it is given.

A static network owns its tensors; a subnet of a supernet is the same module over views of the supernet's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch as th
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas import weights as weights_by_name
from hwnas.graph import Graph, GraphNode
from hwnas.ops import Activation, Add, Affine, AvgPool, ChannelShuffle, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul, Shape, Zero
from hwnas.weights import Array, Weights

#: Gives the tensor of that name at every forward pass: a constant, or one computed from shared weights.
Source: TypeAlias = Callable[[], Tensor]

BN_MOMENTUM = 0.1

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu_,
    "relu6": F.relu6,
    "hswish": F.hardswish,
    "hsigmoid": F.hardsigmoid,
    "swish": F.silu,
    "sigmoid": th.sigmoid,
}


#: One operator at work: the network (for its mode) and the inputs' values -> the output's.
Step: TypeAlias = Callable[..., Tensor]


class Network(nn.Module):
    """A graph over named tensors; the batch size comes from the data, every other size from the graph.

    `sources` computes tensors anew at each forward pass (kernel transforms); it wins over `tensors`. `steps` are those of the
    graph's nodes, with the positions of their inputs (0 is the network's), where somebody has them already; then the graph may be
    a function that makes it when it is asked for.
    """

    def __init__(
        self,
        graph: Graph | Callable[[], Graph],
        tensors: Mapping[str, Tensor],
        sources: Mapping[str, Source] | None = None,
        steps: Sequence[tuple[Step, tuple[int, ...]]] | None = None,
    ):
        super().__init__()
        self._graph = graph
        self.tensors = dict(tensors)
        self.sources = dict(sources or {})
        self.momentum = BN_MOMENTUM
        self._steps = graph_steps(self.graph, self.tensors, self.sources) if steps is None else steps

    @property
    def graph(self) -> Graph:
        if not isinstance(self._graph, Graph):
            self._graph = self._graph()
        return self._graph

    def weights(self) -> dict[str, Array]:
        """Copies of all tensors, computed ones included, by the names of hwnas.weights."""
        with th.no_grad():
            values = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.tensors.items()}
            return values | {name: source().cpu().numpy().copy() for name, source in self.sources.items()}

    def parameters_by_name(self) -> dict[str, Tensor]:
        """Tensors that take gradients."""
        return {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}

    def forward(self, x: Tensor) -> Tensor:
        values = [_channels_last(x) if x.dim() == 4 else x]
        for step, inputs in self._steps:
            values.append(step(self, *[values[i] for i in inputs]))
        return values[-1]


def graph_steps(graph: Graph, tensors: Mapping[str, Tensor], sources: Mapping[str, Source]) -> list[tuple[Step, tuple[int, ...]]]:
    """The step of each node in order, with the positions of its inputs among the values: 0 is the network's input."""
    slot = {"input": 0} | {each.name: i for i, each in enumerate(graph.nodes, start=1)}
    return [(_step(each, tensors, sources), tuple(slot[name] for name in each.inputs)) for each in graph.nodes]


def _step(each: GraphNode, tensors: Mapping[str, Tensor], sources: Mapping[str, Source]) -> Step:
    op, prefix = each.op, each.name
    if isinstance(op, Add):
        summed = _ACTIVATIONS.get(op.act)
        return (lambda net, x, y: x + y) if summed is None else lambda net, x, y: summed(x + y)
    if isinstance(op, Mul):
        return lambda net, x, y: x * y
    if isinstance(op, Flatten):
        return lambda net, x: x.flatten(1)
    if isinstance(op, Activation):
        alone: Callable[[Tensor], Tensor] = F.relu if op.act == "relu" else _ACTIVATIONS[op.act]  # not in place: others read what it is given
        return lambda net, x: alone(x)
    if isinstance(op, Affine):
        scale, shift, behind = tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"], _ACTIVATIONS.get(op.act)
        scaled: Callable[[Tensor], Tensor] = lambda x: th.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1))  # noqa: E731
        return (lambda net, x: scaled(x)) if behind is None else lambda net, x: behind(scaled(x))
    if isinstance(op, Zero):
        return lambda net, x: th.zeros_like(x)
    if isinstance(op, GlobalPool):
        return lambda net, x: x.mean((2, 3), keepdim=True)
    if isinstance(op, MaxPool):
        return lambda net, x: F.max_pool2d(x, op.kernel, op.stride, op.padding, ceil_mode=op.ceil)
    if isinstance(op, AvgPool):
        return lambda net, x: F.avg_pool2d(x, op.kernel, op.stride, op.padding, op.ceil, count_include_pad=False)
    if isinstance(op, ChannelShuffle):
        return lambda net, x: F.channel_shuffle(x, op.groups)
    assert isinstance(op, Conv2d | Linear)  # the vocabulary is closed
    act = _ACTIVATIONS.get(op.act)
    norm = _norm(prefix, each.node.norm, tensors) if each.node.norm is not None else None
    bias = tensors.get(f"{prefix}.bias") if norm is None else None
    weight = sources.get(f"{prefix}.weight") or partial(_given, tensors.get(f"{prefix}.weight"))
    if isinstance(op, Linear):
        apply: Callable[[Tensor], Tensor] = lambda x: F.linear(x, weight(), bias)  # noqa: E731
    else:
        stride, padding, groups = op.stride, op.kernel // 2, op.groups
        apply = lambda x: F.conv2d(x, weight(), bias, stride, padding, 1, groups)  # noqa: E731
    if norm is None:
        return (lambda net, x: apply(x)) if act is None else lambda net, x: act(apply(x))
    return (lambda net, x: norm(net, apply(x))) if act is None else lambda net, x: act(norm(net, apply(x)))


def _norm(prefix: str, eps: float, tensors: Mapping[str, Tensor]) -> Callable[[Network, Tensor], Tensor]:
    mean, var = tensors[f"{prefix}.norm.mean"], tensors[f"{prefix}.norm.var"]
    weight, bias = tensors[f"{prefix}.norm.weight"], tensors[f"{prefix}.norm.bias"]
    return lambda net, x: F.batch_norm(x, mean, var, weight, bias, net.training, net.momentum, eps)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # `weights.check` and the supernet name every tensor
    return tensor


def _channels_last(x: Tensor) -> Tensor:
    """The same values in the layout in which CPU training of small networks took 0.55 of the time (forward and backward, one core)."""
    x = x.contiguous(memory_format=th.channels_last)
    _, c, h, w = x.shape
    return x.as_strided(x.shape, (h * w, 1, w, 1)) if c == 1 else x  # with one channel the layout is ambiguous: say which


def static(graph: Graph, weights: Weights, *, device: th.device | None = None) -> Network:
    """A stand-alone network with its own copies of the weights, trainable, on the device. Raises InputError on missing or misshapen weights."""
    weights_by_name.check(graph, weights)
    trained = {f"{each.name}.{name}" for each in graph.nodes for name in each.node.parameters}
    tensors = {name: th.tensor(weights[name], device=device, requires_grad=name in trained) for name in weights_by_name.shapes(graph)}
    return Network(graph, tensors)


def initial_weights(graph: Graph, generator: th.Generator) -> dict[str, Array]:
    """Weights to train from: He initialisation by fan-out for convolutions, 0.01 for the classifier, fresh batch norms (OFA's)."""
    return {name: initial_tensor(name, shape, generator) for name, shape in weights_by_name.shapes(graph).items()}


def initial_tensor(name: str, shape: Shape, generator: th.Generator) -> Array:
    """One of them."""
    value: Array
    if len(shape) == 4:
        fan_out = shape[0] * shape[2] * shape[3] if shape[1] > 1 else shape[2] * shape[3]
        value = (th.randn(shape, generator=generator) * (2 / fan_out) ** 0.5).numpy()
    elif len(shape) == 2:
        value = (th.randn(shape, generator=generator) * 0.01).numpy()
    else:
        value = th.full(shape, 1.0 if name.rpartition(".")[2] in ("weight", "var") else 0.0).numpy()
    return value


def torch(graph: Graph, weights: Weights) -> Callable[[Array], Array]:
    """The network as a function of arrays (n, c, h, w) -> (n, classes), in evaluation mode."""
    network = static(graph, weights).eval()

    def run(x: Array) -> Array:
        with th.no_grad():
            y: Array = network(th.from_numpy(x)).numpy()
            return y

    return run
