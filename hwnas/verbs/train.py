"""`train`: a weight-sharing supernet of a space on images, by progressive shrinking; or one network of it alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import registry
from hwnas.architecture import Architecture
from hwnas.errors import InputError, MissingExtra, UnknownName
from hwnas.files import csv_text, write_whole
from hwnas.images import DecodedImages, Images, contents, load_images, resolved
from hwnas.index import BlockIndex
from hwnas.kept_weights import find, kept
from hwnas.pinned import pinned
from hwnas.run import RunDirectory
from hwnas.searcher import OptionSpec, parse_given
from hwnas.space import Codes, SearchSpace
from hwnas.training.schedule import Plan, alone
from hwnas.training.schedule import schedule as phases_of
from hwnas.verbs.common import Job, Progress, check_seed, placed, silent, use_threads
from hwnas.verbs.records import CHECKPOINT, checked

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.supernet.supernet import Supernet
    from hwnas.training.recipe import Recipe
    from hwnas.training.trainer import SupernetTrainer

MAX_LENGTH = 10_000
CHECKPOINT_SECONDS = 300.0  # longest time between two checkpoints, beside the one after each epoch
CURVE = "curve.csv"


@dataclass(frozen=True, slots=True)
class _Training:
    """One call: what is trained on what, and how."""

    index: BlockIndex
    images: Images
    plan: Plan
    recipe: Recipe
    options: Mapping[str, Any]
    shards: int
    device: str
    workers: int | None
    init: Path | None
    tensorboard: bool


def train(
    run: Path,
    *,
    data: str,
    space: str | None = None,
    schedule: str | None = None,
    sharing: str | None = None,
    length: float = 1.0,
    batch: int = 64,
    shards: int | None = None,
    options: Sequence[str] = (),
    init: Path | str | None = None,
    architecture: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    download: bool = False,
    tensorboard: bool = False,
    refit: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Train the supernet of `space` on the data set `data`, through all phases of the schedule, into the folder `run`.

    sharing: what the blocks of a layer have in common, one of `hwnas.supernet.sharing`, by default that of --init's run, or `slices`; with `paths`, where each
    block has weights of its own, the schedule is by default `single_path`. length: multiplies every phase's epochs.
    shards: parts of `batch` images that make a step together; by default one for each process
    that torchrun started. options: of the recipe, as `name=value` (`hwnas.training.recipe.Recipe`). init: a run or a file whose weights
    are the first ones, with a new classifier where the classes differ; then the space is by default the run's and the schedule `fine_tune`
    (`as_is` trains nothing). A file is a supernet's, published or ours, or of a network of torchvision that the space has.
    architecture: train this one alone: the file of one, a reference of the space, `largest` or `smallest`. device: `cpu` or `cuda`.
    workers: processes that load images. refit: measure so many subnets afterwards, which predictors of accuracy are fitted to anew; by default
    100 of a supernet that began with other weights. A checkpoint is kept after each epoch and every five minutes; the same call again continues
    from the last one with the same batches and the same sampled subnets. Returns the stage's result, of later processes nothing.
    Raises HwnasError.
    """
    from hwnas.training import processes
    from hwnas.training.recipe import RECIPES, Recipe
    from hwnas.training.trainer import steps_per_epoch

    if batch < 2 or not 0 < length <= MAX_LENGTH:
        raise InputError(f"--batch must be at least 2 and --length positive and at most {MAX_LENGTH:,}, got {batch} and {length:g}")
    if shards is not None and not 1 <= shards <= 1_000_000:
        raise InputError(f"--shards is {shards}, it must be at least 1")
    check_seed(seed)
    sharing = _sharing(sharing, init)
    schedule = schedule or ("single_path" if init is None or sharing == "paths" else "fine_tune")
    if sharing != "slices" and any(phase.sort for phase in phases_of(schedule)):
        raise InputError(f"--schedule {schedule} sorts channels, which blocks have in common with --sharing slices alone; use small or single_path")
    phases, used_threads = phases_of(schedule), use_threads(threads)
    if not phases and init is None:
        raise InputError(f"--schedule {schedule} trains nothing: name the weights with --init")
    specs = {each.name: OptionSpec(each.name, type(each.default), each.default) for each in fields(Recipe)}  # type: ignore[arg-type]
    changed = parse_given(specs, "option of training", options)
    recipe = replace(RECIPES[schedule], **changed)  # type: ignore[arg-type]
    place = placed(device)
    with ExitStack() as stack:
        stack.enter_context(processes.joined(place))
        images, space_text, data = _matched(space, data, init, download)
        whole = registry.create("spaces", space_text)
        code = None if architecture is None else _code(architecture, whole)
        index = BlockIndex(whole if code is None else pinned(whole, code))
        check_fits(index, images)
        shards = shards or processes.world()
        if len(images) < 2 * shards:
            raise InputError(f"{images.name} has {len(images)} images to train on, at least 2 for each of {shards} shard(s) are needed")
        recorded: dict[str, Any] = {"space": space_text, "data": data, "schedule": schedule, "length": length, "batch": batch, "seed": seed}
        recorded["fingerprint"] = index.fingerprint
        recorded |= {"shards": shards} if shards > 1 else {}  # what is as it always was is not named, so that older runs go on
        recorded |= {"recipe": changed} if changed else {}
        recorded |= {"sharing": sharing} if sharing != "slices" else {}
        recorded |= {"init": str(init)} if init is not None else {}
        recorded |= {"architecture": code[0].tolist()} if code is not None else {}
        recorded |= {"images": contents(images)} if isinstance(images.pixels, DecodedImages) else {}
        plan = Plan(index.space, phases if code is None else alone(phases), steps_per_epoch(images, batch * shards), length=length, seed=seed)
        training = _Training(
            index, images, plan, recipe, {**recorded, "threads": used_threads}, shards, str(place), workers, None if init is None else Path(init), tensorboard
        )
        if processes.rank():
            _train(None, training, silent)
            return {}
        directory = stack.enter_context(RunDirectory(Path(run)))
        if directory.recorded_options("search") is not None and directory.recorded_options("train") is None:
            raise InputError(f"{run} was searched by a predictor of accuracy: name another folder for the training")
        directory.options("train", recorded)
        result = Job(directory).recorded("train")
        if result is None:
            result = _train(directory, training, progress)
        else:
            processes.from_first(b"", place)  # the others wait to be told where to go on: nowhere
    samples = (100 if init is not None and code is None else 0) if refit is None else refit
    if samples:
        from hwnas.verbs.accuracy import build_accuracy

        build_accuracy(run, samples=samples, seed=seed, threads=threads, progress=progress)
    return result


def check_fits(index: BlockIndex, images: Images) -> None:
    """Raises InputError where the networks of the space do not take these images or have too few outputs for their classes."""
    graph = index.space.lower(index.space.largest())
    channels, classes = images.channels, len(images.classes)
    if graph.input[1] != channels or graph.output[-1] != classes:
        raise InputError(
            f"{images.name} has {channels} channel(s) and {classes} classes, {index.space.name} takes {graph.input[1]} and has {graph.output[-1]}; "
            f"write the space as {index.space.name}(channels={channels}, classes={classes})"
        )


def _code(text: str, space: SearchSpace) -> Codes:
    """The code that an architecture's file or name has in a space. Raises InputError."""
    if text in ("largest", "smallest"):
        return space.largest() if text == "largest" else space.smallest()
    if text in space.references:
        return space.encode(space.references[text])
    if Path(text).is_file():
        return Architecture.load(Path(text)).code(space)
    raise UnknownName(f"architecture of {space.name}, and no file,", text, ["largest", "smallest", *space.references])


def _sharing(sharing: str | None, init: Path | str | None) -> str:
    """Which weights blocks have in common. Raises InputError where it is not known, or those of --init have others."""
    from hwnas.supernet.sharing import SHARINGS

    source = None if init is None else _options_of(init)
    theirs = str((source or {}).get("sharing") or "slices")
    if sharing is not None and sharing not in SHARINGS:
        raise UnknownName("weight sharing", sharing, SHARINGS)
    if init is not None and sharing not in (None, theirs):
        raise InputError(f"--sharing is {sharing}, and the weights of --init {init} are shared by {theirs}; leave it out, or begin without --init")
    return sharing or theirs


def _matched(space: str | None, data: str, init: Path | str | None, download: bool) -> tuple[Images, str, str]:
    """The training images, and the texts of the space and of the data that go together, as a run records them.

    Without --space it is that of the run that --init names, with as many classes as the images have. A folder's images are grey where
    the space takes grey ones.
    """
    from hwnas.training import processes

    source = None if init is None else _options_of(init)
    if space is None and source is None:
        raise InputError("--space is missing: name a search space, or with --init a run, whose space is taken")
    data = resolved(data)
    if processes.rank():
        processes.wait()  # the first process downloads and checks the images for all
    images = load_images(data, "train", download=download)
    if not processes.rank():
        processes.wait()
    text = space
    if text is None:
        assert source is not None
        name, arguments = registry.split_call(source["space"])
        if _ends(source["space"])[1] != len(images.classes):
            arguments["classes"] = len(images.classes)
        text = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})" if arguments else name
    if Path(data).is_dir() and _ends(text)[0] == 1:
        data = f"folder(path={data!r}, channels=1)"
        images = load_images(data, "train")
    return images, text, data


def _ends(space: str) -> tuple[int, int]:
    """Channels and classes of a space's networks."""
    made = registry.create("spaces", space)
    graph = made.lower(made.smallest())
    return graph.input[1], graph.output[-1]


def _options_of(init: Path | str) -> Mapping[str, Any] | None:
    """What the run at that path was trained with, None where it is a file. Raises InputError."""
    path = Path(init)
    if not path.is_dir():
        return None
    with RunDirectory(path, write=False) as directory:
        return Job(directory).options("train")


def _first_weights(training: _Training) -> tuple[dict[str, Tensor], list[str]]:
    """(the tensors that --init names, what else is there). Of a supernet, where one network is trained alone, that network's."""
    from hwnas.supernet.supernet import Supernet
    from hwnas.training.initial import adopt, head, load_weights, pretrained, torchvision_name

    path, is_alone = training.init, "architecture" in training.options
    assert path is not None
    if path.is_dir():
        with RunDirectory(path, write=False) as directory:
            job = Job(directory)
            if not is_alone or "architecture" in job.options("train"):
                return job.supernet.state(), []
            return _extracted(job.supernet, training), []
    if not path.exists() and str(path) not in {each.name for each in kept()}:
        raise InputError(f"--init {path} is neither a run, nor a file, nor the name of kept weights (hwnas weights list)")
    file = path if path.exists() else find(str(path)).path
    try:
        return load_weights(file, training.index)
    except InputError as error:
        refused = error
    if is_alone:
        supernet = Supernet(BlockIndex(registry.create("spaces", training.options["space"])))
        try:
            tensors, left = load_weights(file, supernet.index)
            is_new = adopt(supernet, tensors).new_head
        except InputError as error:
            refused = error
        else:
            return {
                name: tensor for name, tensor in _extracted(supernet, training).items() if not is_new or name.rpartition(".")[0] != head(supernet.index)
            }, left
    if (name := torchvision_name(file)) is None:
        raise refused
    code = np.asfortranarray([training.options["architecture"]], np.int16) if is_alone else None
    return pretrained(file, name, training.options["space"], code, training.index), []


def _extracted(supernet: Supernet, training: _Training) -> dict[str, Tensor]:
    """The one network's slices of a supernet, and its kernels made small by the transforms."""
    import torch

    code = supernet.index.space.encode(training.index.space.decode(training.index.space.smallest()))
    return {name: torch.from_numpy(array) for name, array in supernet.extract(code[0]).items()}


def _train(directory: RunDirectory | None, training: _Training, progress: Progress) -> Mapping[str, Any]:
    """All steps that are left; in later processes (`directory` None) without any file."""
    from hwnas.supernet.supernet import Supernet
    from hwnas.training import processes
    from hwnas.training.trainer import SupernetTrainer, rate_at, steps_per_epoch

    plan, options, images, recipe = training.plan, training.options, training.images, training.recipe
    started = time.monotonic()
    trainer = SupernetTrainer(
        Supernet(training.index, sharing=options.get("sharing", "slices"), seed=options["seed"]),
        images,
        batch=options["batch"],
        seed=options["seed"],
        recipe=recipe,
        shards=training.shards,
        device=training.device,
        workers=training.workers,
        resolution_of=plan.resolution,
    )
    before: dict[str, Any] = {"seconds": 0.0, "curve": [], "losses": [], "init": None}
    if directory is not None:
        before |= _restored(directory, trainer, training)
    if processes.world() > 1:
        state = processes.from_first(trainer.state() if directory is not None else b"", trainer.device)
        if not state:
            return {}  # the run is done
        if directory is None:
            trainer.restore(state)
    curve, losses = list(before["curve"]), list(before["losses"])
    per_epoch, images_a_step = steps_per_epoch(images, options["batch"] * training.shards), options["batch"] * training.shards
    scale = recipe.rate * (images_a_step / recipe.rate_images if recipe.rate_images else 1.0)
    board = _board(directory.folder) if directory is not None and training.tensorboard else None
    saved, since, first = time.monotonic(), time.monotonic(), trainer.steps
    while trainer.steps < plan.steps:
        step = trainer.steps
        phase = plan.phases[plan.phase(step)]
        if trainer.teacher is None and plan.begins(step) and recipe.distillation and not all(each.sandwich for each in plan.phases[1:]):
            trainer.adopt_teacher()  # a sandwich has a teacher of its own
        if plan.begins(step) and phase.sort:
            trainer.sort_channels(plan.phases[plan.phase(step) - 1].lowest(plan.space))
        rate = rate_at(phase.rate * scale, plan.progress(step))
        losses.append(trainer.step(plan.codes(step), rate, sandwich=phase.sandwich))
        if directory is None:
            continue
        now = time.monotonic()
        speed = (trainer.steps - first) * images_a_step / max(now - since, 1e-9)
        progress(f"train {phase.name}, loss {losses[-1]:.3g}, {speed:.0f} images/s", trainer.steps, plan.steps)
        is_epoch = trainer.steps % per_epoch == 0 or trainer.steps in plan.ends
        if is_epoch:
            point: dict[str, Any] = {"phase": phase.name, "step": trainer.steps, "loss": float(np.mean(losses)), "rate": rate, "images_per_s": speed}
            if recipe.validate and (trainer.steps // per_epoch) % recipe.validate == 0:
                point["validation_accuracy_pct"] = _ends_accuracy(trainer, training)
            curve, losses = [*curve, point], []
            write_whole(directory.folder / CURVE, curve_csv(curve, per_epoch))
            if board is not None:
                _log(board, point)
        if is_epoch or now - saved > CHECKPOINT_SECONDS:
            body = {"seconds": before["seconds"] + time.monotonic() - started, "curve": curve, "losses": losses, "init": before["init"]}
            directory.checkpoint("train", "checkpoint", trainer.save, body)
            saved = time.monotonic()
    if directory is None:
        return {}
    if board is not None:
        board.close()
    return _finish(directory, trainer, training, {**before, "curve": curve, "seconds": before["seconds"] + time.monotonic() - started}, progress)


def _finish(directory: RunDirectory, trainer: SupernetTrainer, training: _Training, facts: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Keep what the training came to, evaluate its ends, record the result."""
    from safetensors.torch import save

    options, images = training.options, training.images
    state = trainer.result()
    trainer.supernet.load({name: tensor.to(trainer.device) for name, tensor in state.items()})
    result: dict[str, Any] = {
        "files": directory.keep_files(lambda folder: write_whole(folder / "supernet.safetensors", save(state))),
        "fingerprint": trainer.supernet.fingerprint,
        "steps": trainer.steps,
        "seconds": facts["seconds"],
        "threads": options["threads"],
        "validation_accuracy_pct": _ends_accuracy(trainer, training),
        "curve": facts["curve"],
    }
    if images.skipped:
        result["skipped"] = [list(each) for each in images.skipped]
        write_whole(directory.folder / "skipped.csv", csv_text([("file", "reason"), *images.skipped]))
    if facts["init"] is not None:
        result["init"] = facts["init"]
    directory.finish("train", result)
    return result


def _ends_accuracy(trainer: SupernetTrainer, training: _Training) -> dict[str, float]:
    """Validation accuracy in % of the largest and the smallest subnet, re-calibrated."""
    from hwnas.training.evaluate import SupernetAccuracy

    space = training.index.space
    validation = load_images(training.options["data"], "validation")
    accuracy = SupernetAccuracy(trainer.supernet, training.images, validation, seed=training.options["seed"])
    return {name: float(accuracy(code)[0]) for name, code in (("largest", space.largest()), ("smallest", space.smallest()))}


def _restored(directory: RunDirectory, trainer: SupernetTrainer, training: _Training) -> dict[str, Any]:
    """Seconds spent, the learning curve and the losses since its last point, once the trainer is what the last checkpoint kept, or --init."""
    checkpoints = directory.events("train", "checkpoint")
    if checkpoints:
        last = checked(checkpoints[-1].body, CHECKPOINT, f"training of {directory.folder}")
        directory.load_files(last["files"], trainer.load)
        return {"seconds": float(last["seconds"]), "curve": list(last["curve"]), "losses": list(last.get("losses") or []), "init": last.get("init")}
    if training.init is None:
        return {}
    from hwnas.training.initial import adopt

    tensors, left = _first_weights(training)
    found = adopt(trainer.supernet, tensors)
    untrained = [name for name in found.missing if not name.endswith(("7to5", "5to3"))]  # without transforms the centres of kernels are taken
    if not training.plan.phases and (found.new_head or untrained):
        lacks = "a classifier of these classes" if found.new_head else f"{len(untrained)} tensors of the space, such as '{untrained[0]}'"
        raise InputError(f"--schedule {training.options['schedule']} trains nothing, and {training.init} lacks {lacks}: leave --schedule out to tune the rest")
    if trainer.average is not None:
        for average, tensor in zip(trainer.average, trainer.supernet.parameters(), strict=True):
            average.copy_(tensor.detach())
    facts = {"taken": found.taken, "new_head": found.new_head, "missing": list(found.missing), "unknown": [*found.unknown, *left][:1000]}
    directory.checkpoint("train", "checkpoint", trainer.save, {"seconds": 0.0, "curve": [], "init": facts})  # what --init names may change
    return {"init": facts}


def curve_csv(curve: Sequence[Mapping[str, Any]], per_epoch: int) -> str:
    """The learning curve as a table: mean loss since the point before, rate, speed, and validation accuracy where it was measured."""
    rows: list[list[Any]] = [["phase", "step", "epoch", "loss", "rate", "images_per_s", "largest_accuracy_pct", "smallest_accuracy_pct"]]
    for point in curve:
        ends = point.get("validation_accuracy_pct") or {}
        cells = [*(point.get(key) for key in ("loss", "rate", "images_per_s")), ends.get("largest"), ends.get("smallest")]
        rows.append([point["phase"], point["step"], f"{point['step'] / per_epoch:.4g}", *("" if each is None else f"{each:.6g}" for each in cells)])
    return csv_text(rows)


def _board(folder: Path) -> Any:
    """A writer of TensorBoard's logs in `tensorboard` of the run. Raises MissingExtra."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("--tensorboard", "tensorboard", "tensorboard") from None
    return SummaryWriter(str(folder / "tensorboard"))


def _log(board: Any, point: Mapping[str, Any]) -> None:
    for key in ("loss", "rate", "images_per_s"):
        board.add_scalar(f"train/{key}", point[key], point["step"])
    for end, accuracy in (point.get("validation_accuracy_pct") or {}).items():
        board.add_scalar(f"validation_accuracy_pct/{end}", accuracy, point["step"])
    board.flush()
