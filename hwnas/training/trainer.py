"""Weight steps of a supernet and of stand-alone networks: one data order, one rate curve, one loss for both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.backends.torch import Network, initial_weights, static
from hwnas.errors import DamagedFile, HwnasError, InputError
from hwnas.files import parse_json, write_whole
from hwnas.graph import Graph
from hwnas.images import Images
from hwnas.space import Codes
from hwnas.supernet.sorting import permute, sort_channels
from hwnas.supernet.supernet import Supernet
from hwnas.training import processes
from hwnas.training.batches import Batches, batch_rows, steps_per_epoch
from hwnas.training.recipe import PRECISIONS, Recipe
from hwnas.weights import Array

WARM_UP = 0.03  # share of a phase over which the rate rises from nothing
WEIGHT_DECAY = 3e-5  # OFA's
MAX_BYTES = 16 << 30  # of a file of weights

__all__ = ["SupernetTrainer", "TrainingFailed", "batch_rows", "calibration_batches", "load_tensors", "rate_at", "steps_per_epoch", "train_alone"]


class TrainingFailed(HwnasError):
    """The loss is no longer finite, or the memory is not enough."""


def rate_at(peak: float, progress: float) -> float:
    """Linear warm-up, then half a cosine to zero; progress in [0, 1)."""
    return peak * min(1.0, (progress + 1e-3) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))


class SupernetTrainer:
    """Takes weight steps of a supernet: cross-entropy, and distillation from the largest subnet.

    In a sandwich the first network of the step learns the labels, and the others its probabilities alone (in-place distillation,
    Yu et al., 2020). Otherwise `teacher` teaches, if set: the largest network as it was after its own phase, in training mode;
    then a student's loss is cross-entropy with the labels plus cross-entropy with the teacher's probabilities (OFA's).

    A step's images are `shards` parts of `batch`, each normalised with its own statistics, as in OFA each GPU's are. The processes of
    `hwnas.training.processes` share the parts; their gradients are added, so that any number of them comes to the same weights up to
    rounding. `resolution_of` lets workers load the images of later steps.
    """

    def __init__(
        self,
        supernet: Supernet,
        images: Images,
        *,
        batch: int = 64,
        seed: int = 0,
        recipe: Recipe | None = None,
        shards: int = 1,
        device: str = "cpu",
        workers: int | None = None,
        resolution_of: Callable[[int], int | None] | None = None,
    ):
        self.supernet, self.images, self.batch, self.seed, self.shards = supernet, images, batch, seed, shards
        self.recipe, self.device = recipe or Recipe(), torch.device(device)
        if shards < 1 or shards % processes.world():
            raise InputError(f"{shards} shards cannot be shared by {processes.world()} processes: their number must be a multiple of it")
        _move(supernet, self.device)
        self.optimizer = _optimizer(dict(zip(supernet.trained, supernet.parameters(), strict=True)), self.recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=PRECISIONS[self.recipe.precision])
        self.average = [tensor.detach().clone() for tensor in supernet.parameters()] if self.recipe.ema else None
        self.mine = range(processes.rank(), shards, processes.world())
        augment = images.augmentation if self.recipe.augment == "data" else self.recipe.augment
        self.batches = Batches(images, batch=batch, shards=shards, seed=seed, augment=augment, workers=workers, mine=self.mine, resolution_of=resolution_of)
        self.teacher: Network | None = None
        self.steps = 0

    def adopt_teacher(self) -> None:
        """The largest subnet, as it is now, teaches from here on."""
        code = self.supernet.index.space.largest()
        self.teacher = static(self.supernet.index.space.lower(code), self.supernet.extract(code), device=self.device).train()

    def sort_channels(self, trained: npt.NDArray[np.integer]) -> None:
        """Sort the supernet's elastic channels by importance, and with them what the optimiser and the average know of each; trained: see there."""
        orders = sort_channels(self.supernet, trained=trained)
        named = dict(zip(self.supernet.trained, self.supernet.parameters(), strict=True))
        for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
            permute({name: state[key] for name, tensor in named.items() if key in (state := self.optimizer.state.get(tensor, {}))}, orders)
        if self.average is not None:
            permute(dict(zip(named, self.average, strict=True)), orders)

    def step(self, codes: Codes, rate: float, *, sandwich: bool) -> float:
        """One optimiser step on the summed losses of the subnets `codes` (n, choices); their mean loss. Raises TrainingFailed."""
        total = 0.0
        try:
            for shard in self.mine:
                total += self._backward(codes, shard, sandwich)
            self.supernet.merge()
        except (MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            raise self._too_large(codes) from None
        total = processes.summed(total, self.device)
        if not math.isfinite(total):
            raise TrainingFailed(
                f"the loss is {total} at step {self.steps}: the rate {rate:.3g} is too high for this data; use a schedule with a lower one, or begin "
                f"another run with --set rate={self.recipe.rate / 4:g}"
            )
        self._update(rate)
        self.steps += 1
        return total / len(codes)

    def _backward(self, codes: Codes, shard: int, sandwich: bool) -> float:
        """Add the gradients of all subnets for one shard; their summed loss."""
        recipe, soft, total = self.recipe, None, 0.0
        ready: dict[int, tuple[Tensor, Tensor]] = {}
        for code, resolution in zip(codes, self.supernet.index.resolutions(codes), strict=True):
            network = self.supernet.subnet(code).train()
            if resolution not in ready:
                x, labels = self.batches(self.steps, shard, resolution)
                ready[resolution] = x.to(self.device), labels.to(self.device)
            x, labels = ready[resolution]
            if soft is None and self.teacher is not None and not sandwich and recipe.distillation:
                with torch.no_grad(), self._autocast():
                    soft = F.softmax(self.teacher(x).float(), dim=1)
            with self._autocast():
                logits = network(x)
            logits = logits.float()
            if sandwich and soft is not None:
                loss = recipe.distillation * F.cross_entropy(logits, soft)
            else:
                loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
                if soft is not None:
                    loss = loss + recipe.distillation * F.cross_entropy(logits, soft)
                elif sandwich and recipe.distillation:
                    soft = F.softmax(logits.detach(), dim=1)
            loss = loss / self.shards
            self.scaler.scale(loss).backward()
            total += float(loss.detach())
        return total

    def _update(self, rate: float) -> None:
        parameters = self.supernet.parameters()
        processes.sum_gradients(parameters)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        self.scaler.step(self.optimizer)  # leaves a step out whose scaled gradients overflow, and lowers the scale
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            with torch.no_grad():
                decay = min(self.recipe.ema, (1 + self.steps) / (10 + self.steps))  # the first weights are forgotten sooner
                torch._foreach_lerp_(self.average, [each.detach() for each in parameters], 1 - decay)

    def _autocast(self) -> torch.autocast:
        lower = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.recipe.precision]
        return torch.autocast(self.device.type, lower, enabled=lower != torch.float32)

    def _too_large(self, codes: Codes) -> TrainingFailed:
        resolution = max(self.supernet.index.resolutions(codes))
        fewer = f"--batch {max(2, self.batch // 2)} --shards {2 * self.shards}"
        return TrainingFailed(
            f"the memory of {self.device.type} is not enough for {self.batch} images of {resolution} pixels at step {self.steps}: "
            f"begin another run with {fewer}, which takes equally many images a step; with more memory the same command continues"
        )

    # -- files ----------------------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Tensor]:
        """What the training came to, name -> tensor: the weights, or their average."""
        state = {name: tensor.detach().cpu() for name, tensor in self.supernet.state().items()}
        if self.average is not None:
            state |= {name: tensor.cpu() for name, tensor in zip(self.supernet.trained, self.average, strict=True)}
        return state

    def state(self) -> bytes:
        """All that the next steps depend on: weights, average, teacher, optimiser, loss scale and step count, as one safetensors file."""
        from safetensors.torch import save

        names, tensors = self.supernet.trained, self.supernet.parameters()
        parts = {f"weights/{name}": tensor for name, tensor in self.supernet.state().items()}
        for name, tensor in zip(names, tensors, strict=True):
            parts |= {f"{key}/{name}": each for key, each in self.optimizer.state.get(tensor, {}).items() if isinstance(each, Tensor)}
        if self.average is not None:
            parts |= {f"average/{name}": tensor for name, tensor in zip(names, self.average, strict=True)}
        if self.teacher is not None:
            parts |= {f"teacher/{name}": tensor.detach() for name, tensor in self.teacher.tensors.items()}
        # Gradients of views are added in the order in which blocks were first met, and the order decides the last bit of every sum.
        pieces = [list(key) for key in self.supernet._pieces]
        facts = {"steps": self.steps, "fingerprint": self.supernet.fingerprint, "scaler": self.scaler.state_dict(), "pieces": pieces}
        raw: bytes = save({name: tensor.cpu().contiguous() for name, tensor in parts.items()}, {"facts": json.dumps(facts)})
        return raw

    def restore(self, raw: bytes) -> None:
        """Become what was saved. Raises DamagedFile."""
        facts, tensors = _parsed(raw, "the checkpoint")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            parts.setdefault(kind, {})[rest] = tensor
        if facts.get("fingerprint") != self.supernet.fingerprint or type(facts.get("steps")) is not int:
            raise DamagedFile("the checkpoint holds training of another space")
        self.supernet.load(parts.pop("weights", {}))
        teacher, average = parts.pop("teacher", None), parts.pop("average", None)
        try:
            for name, tensor in zip(self.supernet.trained, self.supernet.parameters(), strict=True):
                state = {key: group[name] for key, group in parts.items() if name in group}
                if state:
                    self.optimizer.state[tensor] = {key: each if key == "step" else each.to(tensor.device) for key, each in state.items()}
            if self.average is not None:
                for name, tensor in zip(self.supernet.trained, self.average, strict=True):
                    tensor.copy_((average or {})[name])
            if teacher is not None:
                self.adopt_teacher()
                assert self.teacher is not None
                with torch.no_grad():
                    for name, tensor in self.teacher.tensors.items():
                        tensor.copy_(teacher[name])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(facts["scaler"])
            for layer, block in facts["pieces"]:
                if block not in self.supernet.index.tables[layer]:
                    raise ValueError(f"layer {layer} has no block {block}")
                if (layer, block) not in self.supernet._pieces:
                    self.supernet._piece(layer, block)
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise DamagedFile(f"the checkpoint is not whole: {error}") from None
        self.steps = facts["steps"]

    def save(self, folder: Path) -> None:
        """Write `state` into a folder."""
        write_whole(folder / CHECKPOINT, self.state())

    def load(self, folder: Path) -> None:
        """Become what `save` wrote. Raises DamagedFile."""
        self.restore(_bytes(folder / CHECKPOINT))


CHECKPOINT = "trainer.safetensors"


def _optimizer(parameters: Mapping[str, Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """Its rate is set at each step. Groups are made only where they differ."""
    groups: list[dict[str, Any]] = [{"params": list(parameters.values())}]
    if not recipe.decay_norms:
        plain = [name for name in parameters if name.endswith((".bias", ".norm.weight"))]
        groups = [
            {"params": [tensor for name, tensor in parameters.items() if name not in plain]},
            {"params": [parameters[name] for name in plain], "weight_decay": 0.0},
        ]
    if recipe.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0, weight_decay=recipe.weight_decay)
        if recipe.momentum:
            for tensor in parameters.values():  # else the first gradient's layout in memory, which no file keeps, decides the rounding of all later steps
                sgd.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
        return sgd
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=recipe.weight_decay)


def _move(supernet: Supernet, device: torch.device) -> None:
    """The supernet's tensors on another device; no subnet may have been made yet."""
    for name, tensor in supernet.tensors.items():
        if tensor.device.type != device.type:
            supernet.tensors[name] = tensor.detach().to(device).requires_grad_(tensor.requires_grad)


def _is_memory(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in said for each in ("can't allocate memory", "out of memory", "bad_alloc"))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises DamagedFile."""
    return _parsed(_bytes(path), str(path))[1]


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedFile(f"{path} has {path.stat().st_size:,} bytes, over the limit of {MAX_BYTES:,}")
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from None


def _parsed(raw: bytes, where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts that `state` wrote, if any, and tensors of a safetensors file. Raises DamagedFile."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(raw)
        header = parse_json(raw[8 : 8 + int.from_bytes(raw[:8], "little")].decode())  # the bindings give metadata of files alone
        facts = parse_json(header.get("__metadata__", {}).get("facts", "{}"))
        if not isinstance(facts, dict):
            raise ValueError("its facts are no mapping")
        return facts, tensors
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError, MemoryError) as error:
        raise DamagedFile(f"{where} is not a readable safetensors file: {error}") from None


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
        loss = F.cross_entropy(network(images.at(rows, graph.input[2])), images.labels[rows])
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
        yield images.at(torch.from_numpy(part), resolution)
