"""Accuracy by a small multilayer perceptron on one-hot features: the predictor of Once-for-All (Cai et al., 2020, section 3.4).

A file of it is safetensors: `0.weight` (features, hidden), `0.bias` (hidden,), `1.weight` ..., the last layer with one output, in %;
its metadata say the format and the fingerprint of the space it was fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.errors import DamagedFile
from hwnas.features import OneHot
from hwnas.files import write_whole
from hwnas.index import BlockIndex
from hwnas.predictor import Metric, Origin
from hwnas.space import Codes, FloatArray

FORMAT = "hwnas.accuracy_mlp/1"
MAX_BYTES = 1 << 28
MAX_LAYERS = 16

Array: TypeAlias = npt.NDArray[np.float32]


class AccuracyMlp:
    """Predicted accuracy in %; hidden layers have ReLU."""

    name: str = "accuracy"
    unit: str = "%"
    origin: Origin = "predicted"

    def __init__(self, index: BlockIndex, layers: Sequence[tuple[Array, Array]]):
        """layers: (weight (inputs, outputs), bias (outputs,)) each. Raises DamagedFile where they do not fit each other or the space."""
        self.features, self.layers = OneHot(index), [(np.ascontiguousarray(w, np.float32), np.asarray(b, np.float32)) for w, b in layers]
        width = self.features.width
        for i, (weight, bias) in enumerate(self.layers):
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise DamagedFile(f"layer {i} of the predictor has shapes {weight.shape} and {bias.shape}; it receives {width} numbers of {index.space.name}")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise DamagedFile(f"layer {i} of the predictor holds numbers that are not finite")
            width = weight.shape[1]
        if not self.layers or width != 1:
            raise DamagedFile(f"the predictor ends in {width if self.layers else 'no'} numbers, it must end in one")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        digest = sha256()
        for weight, bias in self.layers:
            digest.update(weight.tobytes() + bias.tobytes())
        return digest.hexdigest()

    def __call__(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> accuracy in %, (n,)."""
        x = self.features(codes)
        with np.errstate(over="ignore", invalid="ignore"):  # weights from outside may be huge; what overflows is a failed candidate
            for weight, bias in self.layers[:-1]:
                x = x @ weight
                x += bias
                np.maximum(x, 0, out=x)
            weight, bias = self.layers[-1]
            return np.asarray((x @ weight + bias)[:, 0], np.float64)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        from safetensors.numpy import save

        tensors = {f"{i}.{part}": array for i, layer in enumerate(self.layers) for part, array in zip(("weight", "bias"), layer, strict=True)}
        write_whole(path, save(tensors, {"format": FORMAT, "fingerprint": self.features.index.fingerprint}))


def accuracy_mlp(index: BlockIndex, *, file: str) -> Metric:
    """The predictor in a file. Raises DamagedFile where it is none, or of another space."""
    from safetensors import SafetensorError, safe_open

    path = Path(file)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedFile(f"{path} has {path.stat().st_size:,} bytes, over the limit of {MAX_BYTES:,} for a predictor")
        with safe_open(path, framework="np") as opened:
            facts = opened.metadata() or {}
            if facts.get("format") != FORMAT:
                raise DamagedFile(f"{path} has the format {str(facts.get('format'))[:60]!r}, a predictor of accuracy has '{FORMAT}'")
            if facts.get("fingerprint") != index.fingerprint:
                raise DamagedFile(f"{path} was fitted to another space than {index.space.name}; fit it to this one")
            names = set(opened.keys())
            n = len(names) // 2
            if names != {f"{i}.{part}" for i in range(n) for part in ("weight", "bias")} or n > MAX_LAYERS:
                raise DamagedFile(f"{path} holds other tensors than the weights and biases of up to {MAX_LAYERS} layers")
            return AccuracyMlp(index, [(opened.get_tensor(f"{i}.weight"), opened.get_tensor(f"{i}.bias")) for i in range(n)])
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, MemoryError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"{path} is not a readable predictor: {' '.join(str(error).split())}") from None


if TYPE_CHECKING:
    _is_a_metric: type[Metric] = AccuracyMlp
