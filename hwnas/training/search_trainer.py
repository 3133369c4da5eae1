"""The shared weights of a search: weight steps on training images, gates and accuracies on validation images (`hwnas.searcher.Trainer`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.errors import DamagedFile, InputError
from hwnas.files import parse_json, write_whole
from hwnas.images import Images
from hwnas.space import Codes, FloatArray
from hwnas.supernet.gates import gate_gradients, gate_resolution, mixture_gradients, mixture_resolution
from hwnas.training.batches import batch_rows
from hwnas.training.trainer import SupernetTrainer

Gates = Sequence[FloatArray]

VALIDATED = 4  # batches of training make one that a reward is measured on (TuNAS, Bender et al., 2020)
FACTS = "search.json"


class SearchTrainer:
    """Weight steps are a SupernetTrainer's, at `rate` times what is asked for; validation images come in an order of their own, epoch by epoch.

    Looks at validation images normalise them by their own statistics, and change neither weights nor running statistics. Gates are
    differentiated in full precision, whatever the recipe says.
    """

    def __init__(self, trainer: SupernetTrainer, validation: Images, *, rate: float, seed: int = 0):
        self.trainer, self.validation, self.rate, self.seed = trainer, validation, rate, seed
        self.rng = np.random.default_rng([seed, 5])
        self.looks = 0

    def train(self, sampler: Callable[[np.random.Generator], Codes | Gates], steps: int, rate: float = 1.0) -> float:
        """Mean loss over `steps` steps, each on what `sampler` draws: codes, or gates of a mixture. Raises TrainingFailed, InputError."""
        if steps < 1 or not 0 < rate <= 1:
            raise InputError(f"a search trains at least 1 step at a share in (0, 1] of the rate, this one asks for {steps} at {rate:g}")
        space = self.trainer.supernet.index.space
        losses = []
        for _ in range(steps):
            drawn = sampler(self.rng)
            codes = space.check(drawn) if isinstance(drawn, np.ndarray) else drawn
            losses.append(self.trainer.step(codes, rate * self.rate, sandwich=False))
        return float(np.mean(losses))

    def gradient(self, gates: Gates, paths: str) -> tuple[float, list[FloatArray]]:
        """(cross-entropy on the next validation batch, its derivative by every gate), see `hwnas.supernet.gates`. Raises InputError."""
        if paths not in ("two", "all", "mixture"):
            raise InputError(f"there are no paths '{paths}': they must be two, all or mixture")
        index, given = self.trainer.supernet.index, [np.asarray(each, np.float64) for each in gates]
        mixes = paths == "mixture"
        x, labels = self._next(self.trainer.resolution((mixture_resolution if mixes else gate_resolution)(index, given)), self.trainer.batch)
        return (mixture_gradients if mixes else gate_gradients)(self.trainer.supernet, given, x, lambda logits: F.cross_entropy(logits, labels))

    @torch.no_grad()
    def validate(self, codes: Codes) -> FloatArray:
        """Top-1 accuracy in %, (n,), on the next four batches of validation images together, the same for all."""
        supernet, ready = self.trainer.supernet, dict[int, tuple[Tensor, Tensor]]()
        accuracies, looks = [], self.looks
        for code, resolution in zip(codes, supernet.index.resolutions(codes), strict=True):
            if resolution not in ready:
                self.looks = looks
                ready[resolution] = self._next(resolution, VALIDATED * self.trainer.batch)
            x, labels = ready[resolution]
            network = supernet.subnet(code).train()
            network.momentum = 0.0  # running statistics keep all of their weight
            accuracies.append(100 * float((network(x).argmax(1) == labels).float().mean()))
        return np.array(accuracies)

    def _next(self, resolution: int, n: int) -> tuple[Tensor, Tensor]:
        rows = batch_rows(self.validation, min(n, len(self.validation)), self.seed + 1, self.looks)
        self.looks += 1
        return self.validation.at(rows, resolution).to(self.trainer.device), self.validation.labels[rows].to(self.trainer.device)

    def save(self, folder: Path) -> None:
        """Write all that the next steps and looks depend on into a folder."""
        self.trainer.save(folder)
        write_whole(folder / FACTS, json.dumps({"looks": self.looks, "rng": self.rng.bit_generator.state}))

    def load(self, folder: Path) -> None:
        """Become what `save` wrote. Raises DamagedFile."""
        self.trainer.load(folder)
        try:
            facts = parse_json((folder / FACTS).read_text())
            self.looks = int(facts["looks"])
            self.rng.bit_generator.state = facts["rng"]
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise DamagedFile(f"the checkpoint of the search is not whole: {error}") from None
