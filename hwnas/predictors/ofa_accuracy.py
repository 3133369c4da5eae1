"""The published accuracy predictors of Once-for-All, for spaces of mobile blocks (Cai et al., 2020; official code at f03b267).

A file is a state dict of PyTorch of one of two networks, both with three hidden layers and accuracy as a share of 1:

- `ofa.nas.accuracy_predictor`: `layers.0.0.weight` ... `layers.3.weight` without a bias, and `base_acc`, which is added. Inputs are the
  resolutions of the list that it was made with, then the kernels of all blocks, then their expand ratios, each one-hot.
- `ofa.tutorial.AccuracyPredictor` (`acc_predictor.pth`): `0.weight`, `0.bias`, `2.weight` ... `6.bias`. Inputs are kernels, expand ratios, and eight
  resolutions from 112 to 224.

Values are in ascending order; of a block that is skipped all inputs are 0, as in `features.py`, and depths are no inputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import DamagedFile, InputError
from hwnas.features import OneHot
from hwnas.index import BlockIndex
from hwnas.predictors.accuracy_mlp import MAX_BYTES, MAX_LAYERS, AccuracyMlp, Array
from hwnas.tensor_files import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

TUTORIAL_RESOLUTIONS = tuple(range(112, 225, 16))

_PACKAGE = re.compile(r"layers\.(\d{1,2})(?:\.0)?\.(weight|bias)")
_TUTORIAL = re.compile(r"(\d{1,2})\.(weight|bias)")


def ofa_accuracy(index: BlockIndex, *, file: str, resolutions: Sequence[int] | None = None) -> AccuracyMlp:
    """The predictor in a published file, in %; its `save` writes a file of ours, without anything of PyTorch's.

    resolutions: those that the file was made for, ascending; by default the tutorial's for its format, and else the space's own. Raises DamagedFile
    where it is no such file, InputError where it is of another space or does not know a resolution of this one.
    """
    path = Path(file)
    held = read_tensors(path, what="accuracy predictor", most_bytes=MAX_BYTES)
    tensors = {key: _array(key, value, path) for key, value in held.items()}
    package = "base_acc" in tensors
    pattern = _PACKAGE if package else _TUTORIAL
    found: dict[int, dict[str, Array]] = {}
    for key, tensor in tensors.items():
        if match := pattern.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = tensor
        elif key != "base_acc":
            raise DamagedFile(f"{path} is no predictor of Once-for-All: it holds a tensor '{key[:60]}'")
    layers = [found[number] for number in sorted(found)]
    if not 2 <= len(layers) <= MAX_LAYERS or any("weight" not in layer or layer["weight"].ndim != 2 for layer in layers):
        raise DamagedFile(f"{path} is no predictor of Once-for-All: it must have from 2 to {MAX_LAYERS} layers, each with a matrix of weights")
    weights = [layer["weight"].T for layer in layers]
    biases = [layer.get("bias", np.zeros(weight.shape[1], np.float32)) for layer, weight in zip(layers, weights, strict=True)]
    rows, constant = _rows(index, weights[0], resolutions, package, path)
    weights[0], biases[0] = rows, biases[0] + constant if biases[0].shape == constant.shape else biases[0]
    offset = tensors["base_acc"].reshape(-1) if package else np.zeros(1, np.float32)
    weights[-1], biases[-1] = 100 * weights[-1], 100 * (biases[-1] + offset) if biases[-1].shape == offset.shape else biases[-1]
    return AccuracyMlp(index, list(zip(weights, biases, strict=True)))  # refuses what does not fit


def _rows(index: BlockIndex, weight: Array, resolutions: Sequence[int] | None, package: bool, path: Path) -> tuple[Array, Array]:
    """(weights of our features (width, hidden), what choices of one value add (hidden,)), from those of the file's inputs (inputs, hidden)."""
    space = index.space
    kernels, expands = ([choice for choice in space.choices if choice.name.endswith(f".{role}")] for role in ("kernel", "expand"))
    sides = next((choice for choice in space.choices if choice.name == "resolution"), None)
    if not kernels or len(kernels) != len(expands) or sides is None:
        raise InputError(f"{path} predicts accuracies of mobile blocks with a choice of kernel and expand ratio each; {space.name} has none")
    known = tuple(resolutions or (sides.values if package else TUTORIAL_RESOLUTIONS))
    inputs: dict[tuple[str, object], int] = {}
    blocks = [(choice.name, value) for choice in (*kernels, *expands) for value in sorted(choice.values, key=float)]
    images = [(sides.name, value) for value in known]
    for name in [*images, *blocks] if package else [*blocks, *images]:
        inputs[name] = len(inputs)
    if weight.shape[0] != len(inputs):
        raise InputError(
            f"{path} takes {weight.shape[0]} inputs, {space.name} with {len(known)} resolution(s) has {len(inputs)}; "
            "name the resolutions that the file was made for: ofa_accuracy(file=..., resolutions=(...))"
        )
    if unknown := [value for value in sides.values if (sides.name, value) not in inputs]:
        raise InputError(f"{path} knows no resolution {unknown[0]} of {space.name}, only {', '.join(map(str, known))}; write the space with those")
    one_hot = OneHot(index)
    rows, constant = np.zeros((one_hot.width, weight.shape[1]), np.float32), np.zeros(weight.shape[1], np.float32)
    for position, column in enumerate(one_hot.choices):
        choice = space.choices[column]
        for i, value in enumerate(choice.values):
            if (choice.name, value) in inputs:  # depths are none
                rows[one_hot.starts[position] + i] = weight[inputs[choice.name, value]]
    for choice in (sides, *kernels, *expands):
        if len(choice.values) == 1:
            constant += weight[inputs[choice.name, choice.values[0]]]
    return rows, constant


def _array(key: str, tensor: Tensor, path: Path) -> Array:
    import torch

    plain = tensor.dtype == torch.float32 and tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.ndim > 2 or tensor.numel() * 4 > MAX_BYTES:  # a view may be far larger than what it is a view of
        raise DamagedFile(f"{path}: '{key[:60]}' is a tensor of {tensor.dtype} and shape {tuple(tensor.shape)}, no weights of a perceptron")
    return tensor.detach().contiguous().numpy().copy()
