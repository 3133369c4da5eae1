"""`train`: a weight-sharing supernet of a space on images, by progressive shrinking."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.errors import InputError
from hwnas.files import write_whole
from hwnas.images import Images, load_images
from hwnas.index import BlockIndex
from hwnas.run import RunDirectory
from hwnas.training.schedule import Phase
from hwnas.training.schedule import schedule as phases_of
from hwnas.verbs.common import Job, Progress, check_seed, silent, use_threads
from hwnas.verbs.records import CHECKPOINT, checked

MAX_LENGTH = 10_000


def train(
    run: Path,
    *,
    space: str,
    data: str,
    schedule: str = "small",
    length: float = 1.0,
    batch: int = 64,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Train the supernet of `space` on the data set `data`, through all phases of the schedule, into the folder `run`.

    length: multiplies every phase's epochs. A checkpoint is kept after each epoch; the same call again continues from the last
    one with the same batches and the same sampled subnets. Returns the stage's result. Raises HwnasError.
    """
    if batch < 2 or not 0 < length <= MAX_LENGTH:
        raise InputError(f"--batch must be at least 2 and --length positive and at most {MAX_LENGTH:,}, got {batch} and {length:g}")
    check_seed(seed)
    options: dict[str, Any] = {"space": space, "data": data, "schedule": schedule, "length": length, "batch": batch, "seed": seed}
    index = BlockIndex(registry.create("spaces", space))
    options["fingerprint"] = index.fingerprint
    phases, used_threads = phases_of(schedule), use_threads(threads)
    images = load_images(data, "train")
    check_fits(index, images)
    with RunDirectory(Path(run)) as directory:
        directory.options("train", options)
        result = Job(directory).recorded("train")
        return _train(directory, index, images, phases, {**options, "threads": used_threads}, progress) if result is None else result


def _train(
    directory: RunDirectory, index: BlockIndex, images: Images, phases: Sequence[Phase], options: Mapping[str, Any], progress: Progress
) -> Mapping[str, Any]:
    from safetensors.torch import save

    from hwnas.supernet.supernet import Supernet
    from hwnas.training.evaluate import SupernetAccuracy
    from hwnas.training.trainer import SupernetTrainer, rate_at, steps_per_epoch

    started = time.monotonic()
    trainer = SupernetTrainer(Supernet(index, seed=options["seed"]), images, batch=options["batch"], seed=options["seed"])
    per_epoch = steps_per_epoch(images, options["batch"])
    lengths = [max(1, round(phase.epochs * options["length"] * per_epoch)) for phase in phases]
    seconds_before, curve = _restore(directory, trainer)
    losses: list[float] = []
    start = 0
    for phase, length in zip(phases, lengths, strict=True):
        while trainer.steps < start + length:
            step = trainer.steps
            if step == start and start > 0 and trainer.teacher is None:
                trainer.adopt_teacher()
            codes = phase.sample(index.space, np.random.default_rng([options["seed"], 3, step]))
            losses.append(trainer.step(codes, rate_at(phase.rate, (step - start) / length), sandwich=phase.sandwich))
            progress(f"train {phase.name}", trainer.steps, sum(lengths))
            if trainer.steps % per_epoch == 0 or trainer.steps == start + length:
                curve.append({"phase": phase.name, "step": trainer.steps, "loss": float(np.mean(losses))})
                losses = []
                _checkpoint(directory, trainer, seconds_before + time.monotonic() - started, curve)
        start += length
    accuracy = SupernetAccuracy(trainer.supernet, images, load_images(options["data"], "validation"), seed=options["seed"])
    ends = {name: float(accuracy(code)[0]) for name, code in (("largest", index.space.largest()), ("smallest", index.space.smallest()))}
    result = {
        "files": directory.keep_files(lambda folder: write_whole(folder / "supernet.safetensors", save(trainer.supernet.state()))),
        "fingerprint": trainer.supernet.fingerprint,
        "steps": trainer.steps,
        "seconds": seconds_before + time.monotonic() - started,
        "threads": options["threads"],
        "validation_accuracy_pct": ends,
        "curve": curve,
    }
    directory.finish("train", result)
    return result


def check_fits(index: BlockIndex, images: Images) -> None:
    """Raises InputError where the networks of the space do not take these images or have too few outputs for their classes."""
    graph = index.space.lower(index.space.largest())
    channels, classes = images.pixels.shape[1], len(images.classes)
    if graph.input[1] != channels or graph.output[-1] != classes:
        raise InputError(
            f"{images.name} has {channels} channel(s) and {classes} classes, {index.space.name} takes {graph.input[1]} and has {graph.output[-1]}; "
            f"write the space as {index.space.name}(channels={channels}, classes={classes})"
        )


def _checkpoint(directory: RunDirectory, trainer: Any, seconds: float, curve: list[dict[str, Any]]) -> None:
    directory.checkpoint("train", "checkpoint", trainer.save, {"seconds": seconds, "curve": curve})


def _restore(directory: RunDirectory, trainer: Any) -> tuple[float, list[dict[str, Any]]]:
    """Seconds spent and the learning curve so far, once the trainer is what the last checkpoint kept."""
    checkpoints = directory.events("train", "checkpoint")
    if not checkpoints:
        return 0.0, []
    last = checked(checkpoints[-1].body, CHECKPOINT, f"training of {directory.folder}")
    directory.load_files(last["files"], trainer.load)
    return float(last["seconds"]), list(last["curve"])
