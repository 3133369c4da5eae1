"""A supernet that starts from weights of elsewhere: which tensors are taken, and that its classifier is that of the new classes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hwnas import registry
from hwnas.errors import DamagedFile, InputError
from hwnas.index import BlockIndex
from hwnas.space import Codes
from hwnas.supernet.checkpoints import load_checkpoint, load_torchvision
from hwnas.supernet.supernet import Supernet
from hwnas.tensor_files import read_tensors

IMAGENET = 1000  # classes of torchvision's files of weights


@dataclass(frozen=True, slots=True)
class Adopted:
    """How many tensors were taken; whether the classifier was made anew; names that only the supernet or only the file has."""

    taken: int
    new_head: bool
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def load_weights(path: Path, index: BlockIndex) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors of a file by our names, keys of it that are none): a run's own weights, or a published checkpoint of the space.

    A classifier of other classes is left out. Raises DamagedFile, and InputError where anything else has another shape.
    """
    tensors, unmatched = load_checkpoint(path, index)
    classifier = head(index)
    for each in unmatched.misshapen:
        if each.partition(":")[0].rpartition(".")[0] != classifier:
            raise InputError(f"{path} is of another space than {index.space.name}: {each}")
    return tensors, list(unmatched.unknown)


def torchvision_name(path: Path) -> str | None:
    """Which of torchvision's classifiers this is a file of weights of, by names and shapes; None where it is none. Raises DamagedFile."""
    from torchvision import models

    found = {key: tuple(tensor.shape) for key, tensor in read_tensors(path).items()}
    names: list[str] = models.list_models(module=models)
    for name in names:
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some announce how they will initialise themselves
                state = models.get_model(name, weights=None).state_dict()
        except NotImplementedError:  # RegNets compute with weights while they are made; no space here has them
            continue
        counted = {key: tuple(tensor.shape) for key, tensor in state.items() if key in found or not key.endswith("num_batches_tracked")}
        if counted == found:
            return name
    return None


def pretrained(path: Path, name: str, space: str, code: Codes | None, index: BlockIndex) -> dict[str, Tensor]:
    """Weights of torchvision's network `name` for `index`, that of `space` or of its architecture `code` (1, choices) alone; without the classifier where
    the classes are others.

    Raises InputError where the network is another one, or is not the largest where a supernet is to have its weights.
    """
    called, arguments = registry.split_call(space)
    text = ", ".join(f"{key}={value!r}" for key, value in (arguments | {"classes": IMAGENET}).items())
    theirs = BlockIndex(registry.create("spaces", f"{called}({text})"))
    found, tensors = load_torchvision(name, theirs, path)
    values, whole = theirs.space.decode(found[0]), theirs.space
    wanted = whole.decode((whole.largest() if code is None else code)[0])
    if different := next((key for key in values if key != "resolution" and values[key] != wanted[key]), None):
        what = "its largest network" if code is None else "what --architecture names"
        known = next((each for each, reference in whole.references.items() if dict(reference) == values), None)
        advice = f"; name it with --architecture {known}" if known else ""
        raise InputError(f"{path} is torchvision's {name}, with {different} = {values[different]}, and {what} in {called} has {wanted[different]}{advice}")
    classes = index.space.lower(index.space.largest()).output[-1]
    return {key: tensor for key, tensor in tensors.items() if classes == IMAGENET or key.rpartition(".")[0] != head(index)}


def head(index: BlockIndex) -> str:
    """Name of the node that makes the logits: the last one with weights."""
    nodes = [each.name for each in index.space.lower(index.space.largest()).nodes if each.node.parameters]
    if not nodes:
        raise InputError(f"the networks of {index.space.name} have no weights")
    return nodes[-1]


def adopt(supernet: Supernet, tensors: Mapping[str, Tensor]) -> Adopted:
    """Copy tensors into the supernet by name. The classifier's are left as they are where their shape differs.

    Raises InputError where any other tensor has another shape, or less than half of the supernet is there; DamagedFile where values
    are not finite. Nothing is copied then.
    """
    classifier = head(supernet.index)
    taken: dict[str, Tensor] = {}
    left_out = []
    for name, own in supernet.tensors.items():
        if name not in tensors:
            continue
        if tensors[name].shape != own.shape and name.rpartition(".")[0] == classifier:
            left_out.append(name)
        elif tensors[name].shape != own.shape:
            raise InputError(
                f"these weights are of another space than {supernet.index.space.name}: '{name}' has shape {tuple(tensors[name].shape)}, not {tuple(own.shape)}"
            )
        elif not tensors[name].is_floating_point() or not bool(torch.isfinite(tensors[name]).all()):
            raise DamagedFile(f"these weights are damaged: '{name}' holds values that are not finite numbers")
        else:
            taken[name] = tensors[name]
    if 2 * len(taken) < len(supernet.tensors):
        raise InputError(f"these weights are of another space than {supernet.index.space.name}: they have {len(taken)} of its {len(supernet.tensors)} tensors")
    with torch.no_grad():
        for name, tensor in taken.items():
            supernet.tensors[name].copy_(tensor)
    missing = tuple(name for name in supernet.tensors if name not in tensors)
    is_new = bool(left_out) or f"{classifier}.weight" in missing
    missing = tuple(name for name in missing if name.rpartition(".")[0] != classifier)
    return Adopted(len(taken), is_new, missing, tuple(sorted(set(tensors) - set(supernet.tensors))))
