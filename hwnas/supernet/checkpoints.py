"""Weights from elsewhere as tensors by our names: published supernets, our own files, and torchvision's networks.

Published checkpoints exist under three namings (Once-for-All, official code at f03b267: `load_state_dict` of its supernets): elastic modules
double the last part of a name (`conv.conv.weight`, `bn.bn.bias`, `linear.linear.weight`), static networks do not, and files of 2019 say
`mobile_inverted_conv` for `conv`. All three are one name once doubled parts are written once; a space says which module each
of its nodes is (`SearchSpace.checkpoint_names`), and has no other part in this.

Files are hostile: tensors are read, code never (`weights_only`), and nothing is touched before its shape is known to fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hwnas.backends.torch import static
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.graph import Graph
from hwnas.index import BlockIndex
from hwnas.ops import Shape
from hwnas.space import Codes
from hwnas.supernet.supernet import Supernet
from hwnas.tensor_files import read_tensors

TOLERANCE = 1e-4  # of the logits' standard deviation, between torchvision's network and ours


class Unmatched(NamedTuple):
    """What a file and a supernet do not have in common."""

    unknown: tuple[str, ...]
    """Keys of the file that no tensor of the supernet corresponds to."""
    missing: tuple[str, ...]
    """Tensors of the supernet that the file has nothing for: whoever loads it keeps their initial values."""
    misshapen: tuple[str, ...]
    """Tensors that the file has in another shape or type, such as the classifier of other classes; each with the two shapes."""

    def __bool__(self) -> bool:
        return bool(self.unknown or self.missing or self.misshapen)

    def __str__(self) -> str:
        def some(names: tuple[str, ...], what: str) -> str:
            return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

        parts = [
            some(self.unknown, "keys of the file have no counterpart") if self.unknown else "",
            some(self.missing, "tensors are not in the file") if self.missing else "",
            some(self.misshapen, "tensors do not fit") if self.misshapen else "",
        ]
        return "; ".join(filter(None, parts)) or "all tensors matched"


class Loaded(NamedTuple):
    """`tensors` by the names of hwnas.weights, in the supernet's shapes, and what did not match."""

    tensors: dict[str, Tensor]
    unmatched: Unmatched


def load_checkpoint(path: Path, index: BlockIndex) -> Loaded:
    """Tensors for the supernet of a space from a file of PyTorch or safetensors, for `Supernet.initialise`.

    The names may be the published ones, in any of their three forms, those of a plain largest network, or ours. Kernel transforms that a plain
    network lacks are reported as missing; the identity, their initial value, makes centre crops of them. Raises DamagedFile where the
    file cannot be read or holds values that are not finite, and InputError where it has nothing for this space.
    """
    wanted: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in Supernet(index).tensors.items()}
    ours = {theirs: name for name, theirs in published_names(index.space.checkpoint_names, wanted).items()}
    tensors: dict[str, Tensor] = {}
    unknown, misshapen, found = [], [], set()
    for key, tensor in read_tensors(path).items():
        if key.endswith("num_batches_tracked"):  # how often PyTorch updated a statistic; nothing depends on it
            continue
        name = key if key in wanted else ours.get(canonical(key))
        if name is None:
            unknown.append(key)
            continue
        if name in found:
            raise DamagedFile(f"{path} holds '{name}' twice, the second time as '{key}'")
        found.add(name)
        if tuple(tensor.shape) != wanted[name] or not _is_plain(tensor):
            misshapen.append(f"{name}: {tensor.dtype} {tuple(tensor.shape)}, expected {wanted[name]}")
        else:
            tensors[name] = _finite(tensor, key, path)
    if not tensors:
        example = f", such as '{unknown[0]}'" if unknown else ""
        raise InputError(
            f"{path} has no tensor for {index.space.name}: none of its {len(found) + len(unknown)} keys{example} is one of this space in its shape"
        )
    missing = tuple(name for name in wanted if name not in found)
    return Loaded(tensors, Unmatched(tuple(unknown), missing, tuple(misshapen)))


#: The last parts of a published name, where a module of the same name is inside of itself in elastic layers.
_DOUBLED = re.compile(r"(?<=\.)(conv|bn|linear)(?:\.\1)+(?=\.)")


def canonical(key: str) -> str:
    """A published name as its latest static network would have it."""
    return _DOUBLED.sub(r"\1", key.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv."))


def published_names(modules: Mapping[str, str], names: Mapping[str, Shape]) -> dict[str, str]:
    """Our names -> canonical published ones, of those `names` whose node is in `modules`: node -> module that holds its weight.

    The batch norm of a module is the `bn` beside it; a kernel transform is part of it (`5to3_matrix`).
    """
    found: dict[str, str] = {}
    for node, module in modules.items():
        norm = f"{module.rpartition('.')[0]}.bn"
        leaves = {"weight": f"{module}.weight", "bias": f"{module}.bias", "norm.weight": f"{norm}.weight", "norm.bias": f"{norm}.bias"}
        leaves |= {"norm.mean": f"{norm}.running_mean", "norm.var": f"{norm}.running_var"}
        leaves |= {step: f"{module}.{step}_matrix" for step in ("7to5", "5to3")}
        found |= {f"{node}.{leaf}": canonical(theirs) for leaf, theirs in leaves.items() if f"{node}.{leaf}" in names}
    return found


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _finite(tensor: Tensor, key: str, path: Path) -> Tensor:
    """A copy as float32. Raises DamagedFile."""
    copy = tensor.detach().to(torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(copy).all()):
        raise DamagedFile(f"{path} is damaged: '{key}' holds values that are not finite")
    return copy


# -- torchvision ----------------------------------------------------------------------------------------------------------------------


def load_torchvision(name: str, index: BlockIndex, path: Path | None = None) -> tuple[Codes, dict[str, Tensor]]:
    """torchvision's network of that name as one of this space: its codes (1, choices), and its weights by our names, for `Supernet.initialise`.

    path: the file of weights that torchvision publishes for it; without one the weights are random. It is the largest network of the
    space or one of its references: the first whose operators have the shapes of torchvision's in their order, and whose logits are the
    same on random images. Raises UnknownName, DamagedFile, and InputError where none fits.
    """
    from torchvision import models

    if name not in (known := models.list_models(module=models)):
        raise UnknownName("network of torchvision", name, known)
    module: nn.Module = models.get_model(name, weights=None)
    if path is not None:
        try:
            module.load_state_dict(read_tensors(path))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise DamagedFile(f"{path} is not torchvision's {name}: {reason}") from None
    space = index.space
    reasons = []
    for what, code in [("its largest", space.largest()), *((each, space.encode(values)) for each, values in space.references.items())]:
        try:
            return code, weights_of(module, space.lower(code[0]))
        except InputError as error:
            reasons.append(f"{what}: {error}")
    raise InputError(f"torchvision's {name} is none of the {len(reasons)} networks that {space.name} names; {reasons[-1]}")


def weights_of(module: nn.Module, graph: Graph) -> dict[str, Tensor]:
    """The weights of a module of PyTorch for a network of ours that is the same one, by our names.

    Convolutions and linear layers are paired in the order in which they run, and their shapes must agree; so must the batch norms behind them. Another
    epsilon is made up for by the variance, which changes nothing in evaluation. Raises InputError naming what does not fit, also where all
    shapes do and the logits on random images differ.
    """
    images = torch.rand((2, *graph.input[1:]), generator=torch.Generator().manual_seed(0))
    expected, calls = _run(module, images)
    nodes = [each for each in graph.nodes if each.op.weights]
    tensors: dict[str, Tensor] = {}
    for each, (layer, norm) in zip(nodes, calls, strict=False):
        wanted, weight = each.node.parameters["weight"], layer.weight.detach()
        if _trimmed(tuple(weight.shape)) != _trimmed(wanted) or (norm is None) != (each.node.norm is None):
            pairs = ((tuple(weight.shape), norm), (wanted, each.node.norm))
            theirs, mine = (f"{shape} with{'out' if kind is None else ''} batch norm" for shape, kind in pairs)
            raise InputError(f"{each.name} has weights {mine}, the module has {theirs} in its place")
        own = {"weight": weight.reshape(wanted)}
        bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        if norm is not None and each.node.norm is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            own |= {"norm.weight": norm.weight.detach(), "norm.bias": norm.bias.detach()}
            own |= {"norm.mean": norm.running_mean - bias, "norm.var": norm.running_var + (norm.eps - each.node.norm)}
        elif "bias" in each.node.parameters:
            own["bias"] = bias
        elif layer.bias is not None:
            raise InputError(f"{each.name} has no bias, the module has one in its place")
        tensors |= {f"{each.name}.{leaf}": value.clone() for leaf, value in own.items()}
    if len(calls) != len(nodes):
        raise InputError(f"the network has {len(nodes)} operators with weights, the module {len(calls)}")
    with torch.no_grad():
        logits = static(graph, {name: tensor.numpy() for name, tensor in tensors.items()}).eval()(images)
    if logits.shape != expected.shape or not bool((logits - expected).abs().max() <= TOLERANCE * expected.std()):
        raise InputError("all shapes agree, and the logits do not: the module is another network")
    return tensors


_Layer = nn.Conv2d | nn.Linear


def _run(module: nn.Module, images: Tensor) -> tuple[Tensor, list[tuple[_Layer, nn.BatchNorm2d | None]]]:
    """Logits in evaluation mode, and each layer in the order of its run with the batch norm that read its output. Raises InputError."""
    calls: list[tuple[_Layer, nn.BatchNorm2d | None]] = []
    outputs: list[Tensor] = []

    def seen(each: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(each, nn.BatchNorm2d):
            if not outputs or inputs[0] is not outputs[-1]:
                raise InputError("the module has a batch norm that does not follow a convolution")
            calls[-1] = (calls[-1][0], each)
        elif isinstance(each, _Layer):
            calls.append((each, None))
            outputs.append(output)

    leaves = [each for each in module.modules() if any(True for _ in each.parameters(recurse=False))]
    if strange := [type(each).__name__ for each in leaves if not isinstance(each, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]:
        raise InputError(f"the module has weights in {strange[0]}, which no operator of ours has")
    hooks = [each.register_forward_hook(seen) for each in leaves]
    training = module.training
    try:
        with torch.no_grad():
            logits: Tensor = module.eval()(images)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the module does not run on images of shape {tuple(images.shape)}: {str(error).partition(chr(10))[0]}") from None
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return logits, calls


def _trimmed(shape: Shape) -> Shape:
    """Without trailing axes of one: a linear layer is a 1x1 convolution of one pixel."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
