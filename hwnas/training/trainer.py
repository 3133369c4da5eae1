"""Weight steps of a supernet and of stand-alone networks: one data order, one rate curve, one loss for both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.backends.torch import Network, initial_weights, static
from hwnas.errors import DamagedFile, HwnasError
from hwnas.files import read_json, write_whole
from hwnas.graph import Graph
from hwnas.images import Images
from hwnas.space import Codes
from hwnas.supernet.supernet import Supernet
from hwnas.weights import Array

WARM_UP = 0.03  # share of a phase over which the rate rises from nothing
WEIGHT_DECAY = 3e-5  # OFA's
MAX_BYTES = 16 << 30  # of a file of weights


class TrainingFailed(HwnasError):
    """The loss is no longer finite."""


def rate_at(peak: float, progress: float) -> float:
    """Linear warm-up, then half a cosine to zero; progress in [0, 1)."""
    return peak * min(1.0, (progress + 1e-3) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))


def steps_per_epoch(images: Images, batch: int) -> int:
    return max(1, len(images) // batch)


def batch_rows(images: Images, batch: int, seed: int, step: int) -> Tensor:
    """Rows of the step's batch: each epoch a new order that depends on (seed, epoch) only, so that training resumes anywhere."""
    epoch, i = divmod(step, steps_per_epoch(images, batch))
    order = np.random.default_rng([seed, 1, epoch]).permutation(len(images))
    return torch.from_numpy(order[i * batch : (i + 1) * batch])


class SupernetTrainer:
    """Takes weight steps of a supernet: AdamW, cross-entropy, and distillation from the largest subnet.

    In a sandwich the first network of the step learns the labels, and the others its probabilities alone (in-place distillation,
    Yu et al., 2020). Otherwise `teacher` teaches, if set: the largest network as it was after its own phase, in training mode;
    then a student's loss is cross-entropy with the labels plus cross-entropy with the teacher's probabilities (OFA's).
    """

    def __init__(self, supernet: Supernet, images: Images, *, batch: int = 64, seed: int = 0):
        self.supernet, self.images, self.batch, self.seed = supernet, images, batch, seed
        self.optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.0, weight_decay=WEIGHT_DECAY)
        self.teacher: Network | None = None
        self.steps = 0

    def adopt_teacher(self) -> None:
        """The largest subnet, as it is now, teaches from here on."""
        code = self.supernet.index.space.largest()
        self.teacher = static(self.supernet.index.space.lower(code), self.supernet.extract(code)).train()

    def step(self, codes: Codes, rate: float, *, sandwich: bool) -> float:
        """One optimiser step on the summed losses of the subnets `codes` (n, choices); their mean loss. Raises TrainingFailed."""
        rows = batch_rows(self.images, self.batch, self.seed, self.steps)
        labels = self.images.labels[rows]
        soft: Tensor | None = None
        total = 0.0
        resolutions = self.supernet.index.resolutions(codes)
        for code, resolution in zip(codes, resolutions, strict=True):
            network = self.supernet.subnet(code).train()
            x = self.images.inputs(self.images.pixels[rows], resolution)
            if soft is None and self.teacher is not None and not sandwich:
                with torch.no_grad():
                    soft = F.softmax(self.teacher(x), dim=1)
            logits = network(x)
            if sandwich and soft is not None:
                loss = F.cross_entropy(logits, soft)
            else:
                loss = F.cross_entropy(logits, labels)
                if soft is not None:
                    loss = loss + F.cross_entropy(logits, soft)
                elif sandwich:
                    soft = F.softmax(logits.detach(), dim=1)
            loss.backward()
            total += float(loss.detach())
        self.supernet.merge()
        if not math.isfinite(total):
            raise TrainingFailed(f"the loss is {total} at step {self.steps}: the rate {rate:.3g} is too high for this data; use a schedule with a lower one")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return total / len(codes)

    def save(self, folder: Path) -> None:
        """Weights, teacher, optimiser and step count: all that the next steps depend on."""
        from safetensors.torch import save

        names = self.supernet.trained
        moments = {
            f"{key}/{name}": state[key]
            for name, tensor in zip(names, self.supernet.parameters(), strict=True)
            if (state := self.optimizer.state.get(tensor))
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
        teacher = {} if self.teacher is None else {f"teacher/{name}": tensor.detach() for name, tensor in self.teacher.tensors.items()}
        weights = {f"weights/{name}": tensor for name, tensor in self.supernet.state().items()}
        write_whole(folder / "trainer.safetensors", save({**weights, **moments, **teacher}))
        facts = {"steps": self.steps, "batch": self.batch, "seed": self.seed, "fingerprint": self.supernet.fingerprint}
        write_whole(folder / "trainer.json", json.dumps(facts))

    def load(self, folder: Path) -> None:
        """Become what was saved. Raises DamagedFile."""
        facts = read_json(folder / "trainer.json")
        state = load_tensors(folder / "trainer.safetensors")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            kind, _, rest = name.partition("/")
            parts.setdefault(kind, {})[rest] = tensor
        if not isinstance(facts, dict) or facts.get("fingerprint") != self.supernet.fingerprint or not isinstance(facts.get("steps"), int):
            raise DamagedFile(f"{folder} holds training of another space")
        self.supernet.load(parts.get("weights", {}))
        try:
            for name, tensor in zip(self.supernet.trained, self.supernet.parameters(), strict=True):
                if name in parts.get("exp_avg", {}):
                    self.optimizer.state[tensor] = {key: parts[key][name] for key in ("step", "exp_avg", "exp_avg_sq")}
            if "teacher" in parts:
                self.adopt_teacher()
                assert self.teacher is not None
                with torch.no_grad():
                    for name, tensor in self.teacher.tensors.items():
                        tensor.copy_(parts["teacher"][name])
        except (KeyError, RuntimeError) as error:
            raise DamagedFile(f"{folder} holds training that is not whole: {error}") from None
        self.steps = facts["steps"]


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises DamagedFile."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedFile(f"{path} has {path.stat().st_size:,} bytes, over the limit of {MAX_BYTES:,}")
        tensors: dict[str, Tensor] = load(path.read_bytes())
        return tensors
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"{path} is not a readable safetensors file: {error}") from None


def train_alone(
    graph: Graph,
    images: Images,
    *,
    steps: int,
    rate: float,
    batch: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Array]:
    """Weights of one network trained from scratch for that many steps: the same data order, optimiser and rate curve, labels only."""
    network = static(graph, initial_weights(graph, torch.Generator().manual_seed(seed))).train()
    optimizer = torch.optim.AdamW(list(network.parameters_by_name().values()), lr=0.0, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        rows = batch_rows(images, batch, seed, step)
        loss = F.cross_entropy(network(images.inputs(images.pixels[rows], graph.input[2])), images.labels[rows])
        loss.backward()
        if not math.isfinite(float(loss.detach())):
            raise TrainingFailed(f"the loss is {float(loss.detach())} at step {step}: the rate {rate:.3g} is too high for this data")
        for group in optimizer.param_groups:
            group["lr"] = rate_at(rate, step / steps)
        optimizer.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps)
    return network.weights()


def calibration_batches(images: Images, resolution: int, *, n: int = 1_000, batch: int = 250, seed: int = 0) -> Iterator[Tensor]:
    """Normalised batches of n random training images, the same for every subnet."""
    rows = np.random.default_rng([seed, 2]).permutation(len(images))[:n]
    for part in np.array_split(rows, max(1, n // batch)):
        yield images.inputs(images.pixels[torch.from_numpy(part)], resolution)
