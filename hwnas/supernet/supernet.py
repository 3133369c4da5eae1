"""One set of weights for every architecture of a space, derived from the space alone (ARCHITECTURE: the supernet).

For each layer and tensor the supernet holds the largest shape among the layer's blocks. A subnet is an ordinary network over
*views* of those tensors, and its gradients are views of the supernet's gradients: no elastic layer classes, and no copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hwnas.backends.torch import Network, Source, Step, graph_steps, initial_weights
from hwnas.errors import DamagedFile, InputError
from hwnas.graph import Graph
from hwnas.index import BlockIndex
from hwnas.ops import Conv2d, Shape
from hwnas.space import Codes
from hwnas.supernet.sharing import identity, transform_names, transformed, window
from hwnas.weights import Array


@dataclass(frozen=True, slots=True)
class _Piece:
    """A layer that runs one of its blocks; steps count positions from the layer's input."""

    tensors: dict[str, Tensor]
    sources: dict[str, Source]
    steps: list[tuple[Step, tuple[int, ...]]]


class Supernet:
    """`tensors`: name -> tensor of the largest shape; parameters and statistics as in hwnas.weights, plus kernel transforms."""

    def __init__(self, index: BlockIndex, *, transforms: bool = True, seed: int = 0):
        self.index = index
        self.shapes, trained, kernels = _largest_shapes(index)
        self._matrices: dict[str, list[tuple[int, str]]] = {}
        if transforms:
            for name, sizes in kernels.items():
                steps = transform_names(sizes)
                if steps:
                    self._matrices[name] = [(small, f"{name.removesuffix('weight')}{step}") for step, _, small in steps]
        matrix_names = {matrix: small for steps in self._matrices.values() for small, matrix in steps}
        self.trained = tuple(name for name in (*self.shapes, *matrix_names) if name in trained or name in matrix_names)
        initial = _initial(index, self.shapes, torch.Generator().manual_seed(seed))
        initial |= {name: identity(small) for name, small in matrix_names.items()}
        self.tensors: dict[str, Tensor] = initial
        for name in self.trained:
            self.tensors[name].requires_grad_(True)
        self._views: dict[tuple[str, Shape], Tensor] = {}
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
        if any(layer.after is not None for layer in space.layers):
            graph = space.lower(code)
            return Network(graph, *self._tensors(graph))
        tensors: dict[str, Tensor] = {}
        sources: dict[str, Source] = {}
        steps: list[tuple[Step, tuple[int, ...]]] = []
        for layer, block in enumerate(self.index.ids(space.check(np.asarray(code).reshape(1, -1)))[0].tolist()):
            if self.index.blocks[block]:
                piece = self._pieces.get((layer, block)) or self._piece(layer, block)
                tensors.update(piece.tensors)
                sources.update(piece.sources)
                start = len(steps)  # the position of the piece's input: the output of the piece before it
                steps += [(step, tuple([i + start for i in inputs])) for step, inputs in piece.steps]
        return Network(partial(space.lower, code), tensors, sources, steps)

    def _piece(self, layer: int, block: int) -> _Piece:
        graph = Graph([(self.index.space.layers[layer].name, self.index.blocks[block], None)])
        tensors, sources = self._tensors(graph)
        piece = self._pieces[layer, block] = _Piece(tensors, sources, graph_steps(graph, tensors, sources))
        return piece

    def _tensors(self, graph: Graph) -> tuple[dict[str, Tensor], dict[str, Source]]:
        """The tensors of a graph's nodes: views, and sources where a transform makes the kernel."""
        tensors: dict[str, Tensor] = {}
        sources: dict[str, Source] = {}
        for each in graph.nodes:
            for leaf, shape in (each.node.parameters | each.node.buffers).items():
                name = f"{each.name}.{leaf}"
                if name in self._matrices:
                    full = self._view(name, (*shape[:2], *self.shapes[name][2:]))
                    steps = [(small, self.tensors[matrix]) for small, matrix in self._matrices[name] if small >= shape[-1]]
                    if steps:
                        sources[name] = partial(transformed, full, shape[-1], steps)
                    else:
                        tensors[name] = full
                else:
                    tensors[name] = self._view(name, shape)
        return tensors, sources

    def extract(self, code: Codes) -> dict[str, Array]:
        """Weights of a subnet as arrays of its own, kernel transforms applied, by the names of hwnas.weights."""
        return self.subnet(code).weights()

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
        """Add the gradients of all views into their tensors' `grad`; call it once before the optimiser's step.

        Tensors that no subnet used keep `grad` None: no momentum moves them and no weight decay shrinks them.
        """
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
                full = self.tensors[name]
                full[window(tuple(full.shape), tuple(tensor.shape))] = tensor


def _largest_shapes(index: BlockIndex) -> tuple[dict[str, Shape], set[str], dict[str, set[int]]]:
    """Largest shape of each tensor over each layer's blocks; which of them are trained; kernel sizes of each depthwise weight."""
    shapes: dict[str, Shape] = {}
    trained: set[str] = set()
    kernels: dict[str, set[int]] = {}
    for layer, table in zip(index.space.layers, index.tables, strict=True):
        for block in (index.blocks[i] for i in np.unique(table)):
            for node in block:
                prefix = f"{layer.name}/{node.name}"
                for leaf, shape in (node.parameters | node.buffers).items():
                    known = shapes.get(f"{prefix}.{leaf}", shape)
                    shapes[f"{prefix}.{leaf}"] = tuple(map(max, known, shape))
                trained |= {f"{prefix}.{leaf}" for leaf in node.parameters}
                if isinstance(node.op, Conv2d) and node.op.is_depthwise:
                    kernels.setdefault(f"{prefix}.weight", set()).add(node.op.kernel)
    return shapes, trained, kernels


def _initial(index: BlockIndex, shapes: Mapping[str, Shape], generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh weights of every largest shape."""
    graph = index.space.lower(index.space.largest())
    initial = {name: torch.from_numpy(np.array(array)) for name, array in initial_weights(graph, generator).items()}
    missing = {name: shape for name, shape in shapes.items() if name not in initial or tuple(initial[name].shape) != shape}
    if missing:
        raise InputError(f"the largest architecture of {index.space.name} does not hold the largest '{next(iter(missing))}'")
    return {name: initial[name] for name in shapes}
