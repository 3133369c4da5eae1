"""One set of weights for every architecture of a space, derived from the space alone (ARCHITECTURE: the supernet).

For each layer and tensor the supernet holds the largest shape among the layer's blocks. A subnet is an ordinary network over
*views* of those tensors, and its gradients are added into theirs: no elastic layer classes. What would be no contiguous view, such as a slice of
columns or a transformed kernel, is a tensor of its own, made anew whenever the weights have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hwnas.backends.torch import Network, Source, Step, graph_steps, initial_tensor, initial_weights
from hwnas.errors import DamagedFile, InputError
from hwnas.graph import ABSENT, Block, Graph, GraphNode
from hwnas.index import BlockIndex
from hwnas.ops import Conv2d, Shape
from hwnas.space import Codes
from hwnas.supernet.sharing import SHARINGS, Sharing, identity, transform_names, transformed, window
from hwnas.weights import Array

#: For each layer, block id -> weight of that block's output in the sum that leaves the layer.
Mixture = Sequence[Mapping[int, float | Tensor]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A layer that runs one of its blocks; steps count positions from the layer's input."""

    tensors: dict[str, Tensor]
    sources: dict[str, Source]
    steps: list[tuple[Step, tuple[int, ...]]]


@dataclass(slots=True)
class _Made:
    """A tensor that is computed from the supernet's: a leaf, so no slice and no transform is differentiated while subnets train."""

    make: Callable[[], Tensor]
    made_of: tuple[Tensor, ...]
    leaf: Tensor | None = None
    """None until a network runs: extraction needs none."""
    versions: tuple[int, ...] = ()
    """Of what it was last made of: how often each was written."""

    def __call__(self) -> Tensor:
        versions = tuple([tensor._version for tensor in self.made_of])
        if self.leaf is None or versions != self.versions:
            with torch.inference_mode(False), torch.no_grad(), _full_precision(self.made_of[0]):  # it may be trained later, whoever needs it first
                if self.leaf is None:
                    self.leaf = self.make().requires_grad_(self.made_of[0].requires_grad)
                else:
                    self.leaf.copy_(self.make())
            self.versions = versions
        return self.leaf if torch.is_grad_enabled() else self.leaf.detach()

    def pass_on(self) -> None:
        """Give its gradient to what it is made of."""
        if self.leaf is not None and self.leaf.grad is not None:
            with torch.enable_grad(), _full_precision(self.leaf):
                torch.autograd.backward(self.make(), self.leaf.grad)
            self.leaf.grad = None


def _full_precision(tensor: Tensor) -> torch.autocast:
    """What a network computes in less precision is made of whole weights."""
    return torch.autocast(tensor.device.type, enabled=False)


class Supernet:
    """`tensors`: name -> tensor of the largest shape; parameters and statistics as in hwnas.weights, plus kernel transforms.

    sharing: which weights the blocks of a layer have in common, see hwnas/supernet/sharing.py; transforms: whether small kernels that share a
    large one's weights are transformed or plain centre crops.
    """

    def __init__(self, index: BlockIndex, *, sharing: Sharing = "slices", transforms: bool = True, seed: int = 0):
        if sharing not in SHARINGS:
            raise InputError(f"there is no weight sharing '{sharing}': it must be one of {', '.join(SHARINGS)}")
        self.index, self.sharing = index, sharing
        self._elastic_kernels = _elastic_kernels(index)
        self._paths = [_paths([index.blocks[i] for i in np.unique(table)]) if sharing == "paths" else {} for table in index.tables]
        self._layer = {layer.name: i for i, layer in enumerate(index.space.layers)}
        self.shapes, trained, nodes = self._largest_shapes()
        self._matrices: dict[str, list[tuple[int, str]]] = {}
        if transforms and sharing == "slices":
            for name, sizes in self._elastic_kernels.items():
                self._matrices[name] = [(small, f"{name.removesuffix('weight')}{step}") for step, _, small in transform_names(sizes)]
        matrix_names = {matrix: small for steps in self._matrices.values() for small, matrix in steps}
        self.trained = tuple(name for name in (*self.shapes, *matrix_names) if name in trained or name in matrix_names)
        generator = torch.Generator().manual_seed(seed)
        initial = _alike(index, self.shapes, nodes, generator) if sharing == "paths" else _initial(index, self.shapes, generator)
        initial |= {name: identity(small) for name, small in matrix_names.items()}
        self.tensors: dict[str, Tensor] = initial
        for name in self.trained:
            self.tensors[name].requires_grad_(True)
        self._views: dict[tuple[str, Shape], Tensor] = {}
        self._made: dict[tuple[str, Shape], _Made] = {}
        self._pieces: dict[tuple[int, int], _Piece] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tensor names and shapes: weights fit a space of equal fingerprint, whatever its resolutions."""
        text = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors.items())
        return hashlib.sha256(text.encode()).hexdigest()

    # -- subnets --------------------------------------------------------------------------------------------------------------

    def subnet(self, code: Codes) -> Network:
        """The network of one row of codes over views of the supernet's tensors: training it trains the supernet, see `merge`.

        It is put together from one piece per layer, made when a block is first met.
        """
        space = self.index.space
        ids = self.index.ids(space.check(np.asarray(code).reshape(1, -1)))[0].tolist()
        if any(layer.after is not None for layer in space.layers):
            graph = space.lower(code)
            return Network(graph, *self._tensors(graph, ids))
        tensors: dict[str, Tensor] = {}
        sources: dict[str, Source] = {}
        steps: list[tuple[Step, tuple[int, ...]]] = []
        for layer, block in enumerate(ids):
            if self.index.blocks[block]:
                piece = self._pieces.get((layer, block)) or self._piece(layer, block)
                tensors.update(piece.tensors)
                sources.update(piece.sources)
                start = len(steps)  # the position of the piece's input: the output of the piece before it
                steps += [(step, tuple([i + start for i in inputs])) for step, inputs in piece.steps]
        return Network(partial(space.lower, code), tensors, sources, steps)

    def mixture(self, mixture: Mixture) -> Network:
        """The network whose layers are weighted sums of their blocks' outputs: one mapping per layer, from block id to weight.

        Weights that are tensors take gradients: gates of a differentiable search. A block that is not named is not run. Raises InputError
        where the sum is not defined: no block, blocks of different output shapes, or a layer that names its inputs.
        """
        space = self.index.space
        if len(mixture) != len(space.layers) or any(layer.after is not None for layer in space.layers):
            raise InputError(f"a mixture of {space.name} needs one mapping for each of {len(space.layers)} layers that follow each other")
        tensors: dict[str, Tensor] = {}
        sources: dict[str, Source] = {}
        steps: list[tuple[Step, tuple[int, ...]]] = []
        arriving: Shape | None = None
        for layer, weights in enumerate(mixture):
            name, start = space.layers[layer].name, len(steps)
            ends: list[int] = []
            shapes: set[Shape | None] = set()
            for block in weights:
                if block not in self.index.tables[layer] or self.index.blocks[block] is ABSENT:
                    raise InputError(f"{name} cannot mix block {block}: it is none of its blocks, or its output does not exist")
                shapes.add(self.index.blocks[block][-1].op.output if self.index.blocks[block] else arriving)
                if not self.index.blocks[block]:
                    ends.append(start)
                    continue
                piece = self._pieces.get((layer, block)) or self._piece(layer, block)
                tensors |= {f"{block}:{key}": tensor for key, tensor in piece.tensors.items()}
                sources |= {f"{block}:{key}": source for key, source in piece.sources.items()}
                offset = len(steps)  # of the piece's own positions, 0 of which is the layer's input
                steps += [(step, tuple([i + offset if i else start for i in inputs])) for step, inputs in piece.steps]
                ends.append(len(steps))
            if len(shapes) != 1:
                raise InputError(f"the blocks of {name} cannot be mixed: their outputs are of the shapes {', '.join(map(str, shapes)) or 'of no block'}")
            arriving = shapes.pop()
            steps.append((partial(_weighted_sum, list(weights.values())), tuple(ends)))
        return Network(_no_graph, tensors, sources, steps)

    def layer(self, layer: int, block: int) -> Network:
        """A layer alone, of that number, that runs one of its blocks (which is not the identity); on inputs of any resolution."""
        piece = self._pieces.get((layer, block)) or self._piece(layer, block)
        return Network(_no_graph, piece.tensors, piece.sources, piece.steps)

    def _piece(self, layer: int, block: int) -> _Piece:
        graph = Graph([(self.index.space.layers[layer].name, self.index.blocks[block], None)])
        tensors, sources = self._tensors(graph, {layer: block})
        piece = self._pieces[layer, block] = _Piece(tensors, sources, graph_steps(graph, tensors, sources))
        return piece

    def _tensors(self, graph: Graph, blocks: Sequence[int] | Mapping[int, int]) -> tuple[dict[str, Tensor], dict[str, Source]]:
        """The tensors of a graph's nodes: views, and sources where it takes more than a view; blocks: of each layer, by its number."""
        tensors: dict[str, Tensor] = {}
        sources: dict[str, Source] = {}
        for each in graph.nodes:
            for leaf, shape in (each.node.parameters | each.node.buffers).items():
                layer = self._layer[each.layer]
                stored, name = self._stored(layer, self.index.blocks[blocks[layer]], each, leaf), f"{each.name}.{leaf}"
                steps = [(small, self.tensors[matrix]) for small, matrix in self._matrices.get(stored, ()) if small >= shape[-1]]
                view = self._view(stored, (*shape[:2], *self.shapes[stored][2:]) if steps else shape)
                if steps:
                    made_of = (self.tensors[stored], *(matrix for _, matrix in steps))
                    sources[name] = self._source(stored, shape, partial(transformed, view, shape[-1], steps), made_of)
                elif leaf == "weight" and not view.is_contiguous():
                    # A convolution would copy it in every forward and again in every backward pass.
                    sources[name] = self._source(stored, shape, partial(_same, view), (self.tensors[stored],))
                else:
                    tensors[name] = view
        return tensors, sources

    def _stored(self, layer: int, block: Block, each: GraphNode, leaf: str) -> str:
        """The name of the supernet's tensor that holds a node's."""
        if self.sharing == "paths":
            return f"{each.layer}@{self._paths[layer][_path(block)]}/{each.node.name}.{leaf}"
        if self.sharing == "kernels" and leaf == "weight" and f"{each.name}.weight" in self._elastic_kernels:
            return f"{each.name}@{each.node.parameters['weight'][-1]}.weight"
        return f"{each.name}.{leaf}"

    def _source(self, name: str, shape: Shape, make: Callable[[], Tensor], made_of: tuple[Tensor, ...]) -> _Made:
        return self._made.setdefault((name, shape), _Made(make, made_of))

    @torch.no_grad()
    def extract(self, code: Codes) -> dict[str, Array]:
        """Weights of a subnet as arrays of its own, kernel transforms applied, by the names of hwnas.weights."""
        network = self.subnet(code)
        weights: dict[str, Array] = {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.tensors.items()}
        return weights | {name: made.make().cpu().numpy() for name, made in cast(Mapping[str, _Made], network.sources).items()}

    def _view(self, name: str, shape: Shape) -> Tensor:
        """The part of a tensor that a subnet of that shape uses: a leaf of its own, so no slice is ever differentiated."""
        full = self.tensors[name]
        if shape == self.shapes[name]:
            return full
        view = self._views.get((name, shape))
        if view is None:
            view = full.detach()[window(self.shapes[name], shape)]
            self._views[name, shape] = view.requires_grad_(full.requires_grad)
        return view

    # -- training -------------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[Tensor]:
        """Tensors for an optimiser."""
        return [self.tensors[name] for name in self.trained]

    def merge(self) -> None:
        """Add the gradients of all that subnets used into their tensors' `grad`; call it once before the optimiser's step.

        Tensors that no subnet used keep `grad` None: no momentum moves them and no weight decay shrinks them.
        """
        for made in self._made.values():
            made.pass_on()
        for (name, shape), view in self._views.items():
            if view.grad is not None:
                full = self.tensors[name]
                if full.grad is None:
                    full.grad = torch.zeros_like(full)
                full.grad[window(self.shapes[name], shape)] += view.grad
                view.grad = None

    # -- files ----------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Name -> tensor, for safetensors."""
        return {name: tensor.detach() for name, tensor in self.tensors.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state in. Raises DamagedFile naming the first tensor that is missing, unknown, misshapen or not finite."""
        for name in {*self.tensors, *state}:
            if name not in state or name not in self.tensors:
                raise DamagedFile(f"these weights are of another space: '{name}' is {'missing' if name not in state else 'unknown'}")
            if state[name].shape != self.tensors[name].shape or state[name].dtype != self.tensors[name].dtype:
                shapes = f"shape {tuple(state[name].shape)}, expected {tuple(self.tensors[name].shape)}"
                raise DamagedFile(f"these weights are of another space: '{name}' has {shapes}")
            if not bool(torch.isfinite(state[name]).all()):
                raise DamagedFile(f"these weights are damaged: '{name}' holds values that are not finite")
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state[name])

    def initialise(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors in by name, each into the part that a subnet of its shape uses; what is not named stays. Raises InputError."""
        for name, tensor in tensors.items():
            if name not in self.tensors:
                raise InputError(f"the supernet of {self.index.space.name} has no tensor '{name}'")
            full, shape = tuple(self.tensors[name].shape), tuple(tensor.shape)
            if len(shape) != len(full) or any(mine < given for mine, given in zip(full, shape, strict=True)):
                raise InputError(f"'{name}' has shape {shape}, the supernet of {self.index.space.name} holds {full}")
        with torch.no_grad():
            for name, tensor in tensors.items():
                own = self.tensors[name]
                own[window(tuple(own.shape), tuple(tensor.shape))] = tensor

    def _largest_shapes(self) -> tuple[dict[str, Shape], set[str], dict[str, str]]:
        """Largest shape of each tensor over each layer's blocks, which of them are trained, and what each is of its node."""
        shapes: dict[str, Shape] = {}
        nodes: dict[str, str] = {}
        trained: set[str] = set()
        for number, (layer, table) in enumerate(zip(self.index.space.layers, self.index.tables, strict=True)):
            for block in (self.index.blocks[i] for i in np.unique(table)):
                for node in block:
                    each = GraphNode(layer.name, node, ())
                    for leaf, shape in (node.parameters | node.buffers).items():
                        name = self._stored(number, block, each, leaf)
                        known = shapes.get(name, shape)
                        shapes[name] = tuple(map(max, known, shape))
                        nodes[name] = f"{each.name}.{leaf}"
                        if leaf in node.parameters:
                            trained.add(name)
        return shapes, trained, nodes


def _elastic_kernels(index: BlockIndex) -> dict[str, set[int]]:
    """Kernel sizes of each depthwise weight that has several."""
    kernels: dict[str, set[int]] = {}
    for layer, table in zip(index.space.layers, index.tables, strict=True):
        for block in (index.blocks[i] for i in np.unique(table)):
            for node in block:
                if isinstance(node.op, Conv2d) and node.op.is_depthwise:
                    kernels.setdefault(f"{layer.name}/{node.name}.weight", set()).add(node.op.kernel)
    return {name: sizes for name, sizes in kernels.items() if len(sizes) > 1}


def _path(block: Block) -> tuple[object, ...]:
    """What tells the blocks of a layer apart when each has weights of its own: everything but the resolution."""
    kinds = [str(node.op).split(maxsplit=2) for node in block]  # kind, shape of the input, attributes
    return tuple((node.name, kind[0], *kind[2:], *node.parameters.items()) for node, kind in zip(block, kinds, strict=True))


def _paths(blocks: Sequence[Block]) -> dict[tuple[object, ...], int]:
    """Path -> its number, of the blocks of a layer."""
    numbers: dict[tuple[object, ...], int] = {}
    for block in filter(None, blocks):
        numbers.setdefault(_path(block), len(numbers))
    return numbers


def _initial(index: BlockIndex, shapes: Mapping[str, Shape], generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh weights of every shape; first those of the largest architecture, in its order."""
    largest = initial_weights(index.space.lower(index.space.largest()), generator)
    initial = {name: torch.from_numpy(np.array(array)) for name, array in largest.items() if shapes.get(name) == array.shape}
    return {name: initial[name] if name in initial else torch.from_numpy(initial_tensor(name, shape, generator)) for name, shape in shapes.items()}


def _alike(index: BlockIndex, shapes: Mapping[str, Shape], nodes: Mapping[str, str], generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh weights with which the paths of a layer begin alike: each is a copy of the part of one tensor that a block of its shape would use.

    What follows a layer then sees much the same whichever path runs, and learns from the first step on; paths of their own random weights
    are told apart only after each was trained for long.
    """
    largest: dict[str, Shape] = {}
    for name, shape in shapes.items():
        largest[nodes[name]] = tuple(map(max, largest.get(nodes[name], shape), shape))
    drawn = _initial(index, largest, generator)
    return {name: drawn[node][window(largest[node], shape)].clone() for name, shape in shapes.items() for node in [nodes[name]]}


def _same(view: Tensor) -> Tensor:
    return view.contiguous()


def _weighted_sum(weights: Sequence[float | Tensor], network: Network, *outputs: Tensor) -> Tensor:
    return sum((weight * output for weight, output in zip(weights[1:], outputs[1:], strict=True)), weights[0] * outputs[0])


def _no_graph() -> Graph:
    raise InputError("this is no architecture but a part or a mixture: it has no graph")
