"""What several verbs need: progress, and the parts that a run's recorded options name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from hwnas import latency_table, registry
from hwnas.budget import Budget, parse_also
from hwnas.costs import macs, params
from hwnas.data import shipped
from hwnas.errors import DamagedFile, InputError
from hwnas.feasible_set import Constraint, Feasibility, FeasibleSet, Share
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.memory import peak_memory
from hwnas.model_size import model_size
from hwnas.pinned import pinned
from hwnas.predictor import Additive, Metric
from hwnas.predictors.calibrated import calibrated, variant_for
from hwnas.problem import Objective, Problem
from hwnas.rewards import feasible_first, named
from hwnas.run import RunDirectory
from hwnas.space import Codes, SearchSpace
from hwnas.variant import Variant
from hwnas.verbs.records import ALSO, EVALUATED, OPTIONS, RESULTS, TABLE, checked

if TYPE_CHECKING:
    from hwnas.images import Images, Split
    from hwnas.measured_latency import MeasuredLatency
    from hwnas.supernet.supernet import Supernet
    from hwnas.training.evaluate import SupernetAccuracy

#: Metrics that can have a budget beside that on latency; they need no device.
COSTS = ("macs", "params", "memory", "size")

#: Where the latency of a search comes from: from measurements on the device, or from the table.
MEASURED, BY_TABLE = "measured", "table"
SEARCHED_ONLY = "only the same search goes on with them"

#: (what is being done, how much of it is done, of how much)
Progress: TypeAlias = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Progress that is not shown."""


def check_begun(run: Path) -> None:
    """Raises InputError, naming the command that begins one, where there is no run."""
    if not (Path(run) / "run.sqlite").is_file():
        raise InputError(f"{run} is no run; begin one with: hwnas train {run} --space SPACE --data DATA")


def existing(run: Path) -> RunDirectory:
    """A run that was begun. Raises InputError where there is none."""
    check_begun(run)
    return RunDirectory(Path(run))


def table_folder(table: Path | str) -> Path:
    """The folder itself, or that of the shipped table of that name."""
    folder, ours = Path(table), shipped("latency_tables")
    named = ours / folder
    return named if not folder.exists() and named.resolve().is_relative_to(ours.resolve()) and (named / latency_table.TABLE).is_file() else folder


def _code(space: SearchSpace, code: Sequence[int], where: Path) -> Codes:
    """The code (1, choices) that a run recorded. Raises DamagedFile."""
    try:
        return space.check(np.array([code], np.int64))
    except (InputError, ValueError, OverflowError) as error:
        raise DamagedFile(f"{where} names an architecture that {space.name} does not have: {error}") from None


@dataclass(frozen=True, slots=True)
class Predicted:
    """A space, and a metric of its architectures in the place of a supernet's accuracy; None where what it said is recorded and nothing more is asked."""

    index: BlockIndex
    accuracy: Metric | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A budget on latency on another device than the search's own: its table, and what it predicts there."""

    table: LatencyTable
    budget: Budget
    latency: Additive


def elsewhere(index: BlockIndex, variant: Variant, table: LatencyTable, text: str) -> Elsewhere:
    """text: `<= 30ms p50`. Raises InputError, MissingLatency where the table has no prices for this variant: one file is what runs on all devices."""
    budget = replace(Budget.parse("latency", text), where=str(table.conditions))
    return Elsewhere(table, budget, calibrated(table, index, budget.quantile, variant))


def other_tables(also: Sequence[str]) -> list[tuple[Path, str]]:
    """(folder of the table, budget) of each `TABLE <= 30ms p50`. Raises InputError."""
    return [(table_folder(table), text) for table, text in map(parse_also, also)]


def keep_others(run: RunDirectory, others: Sequence[tuple[Path, str]], tables: Sequence[LatencyTable]) -> None:
    """Copies of the tables of other devices, once; `others` as `other_tables` gives them."""
    copies = [{"name": folder.resolve().name, "files": run.keep_files(table.save)} for (folder, _), table in zip(others, tables, strict=True)]
    if copies and [event.body for event in run.events("search", "also")][-1:] != [{"tables": copies}]:
        run.append("search", "also", {"tables": copies})


class Job:
    """The parts of a run, each made once when it is first asked for, from the options that the run recorded.

    given, table, also: options of stages, the latency table, and those of other devices, that are not recorded yet, because they are being checked.
    predicted: what predicts the accuracy in a search that has no supernet. run: None where nothing is recorded yet; it is set
    before anything that is asks for it.
    """

    run: RunDirectory
    on_device: MeasuredLatency | None = None
    """Where latency is measured while the search goes on, what measures it; set by the search, which alone measures."""

    def __init__(
        self,
        run: RunDirectory | None,
        given: Mapping[str, Mapping[str, Any]] | None = None,
        table: LatencyTable | None = None,
        predicted: Predicted | None = None,
        also: Sequence[LatencyTable] = (),
    ):
        if run is not None:
            self.run = run
        self.given, self._table, self._predicted, self._also = given or {}, table, predicted, also
        self._images: dict[str, Images] = {}

    def options(self, stage: str) -> Mapping[str, Any]:
        """What a stage was called with. Raises InputError naming the command to run first."""
        if stage in self.given:
            return self.given[stage]
        options = self.run.recorded_options(stage)
        if options is None:
            raise InputError(f"{self.run.folder} has no {stage} yet; first run: hwnas {stage} {self.run.folder}")
        return cast(Mapping[str, Any], checked(options, OPTIONS[stage], f"{stage} of {self.run.folder}"))

    def result(self, stage: str) -> Mapping[str, Any]:
        """What a stage came to. Raises InputError naming the command to run first."""
        result = self.recorded(stage)
        if result is None:
            raise InputError(f"{stage} of {self.run.folder} has not come to its end; run: hwnas {stage} {self.run.folder}")
        return result

    def recorded(self, stage: str) -> Mapping[str, Any] | None:
        """What a stage came to, None where it has not come to its end. Raises DamagedFile where it is not as stages record it."""
        result = self.run.result(stage)
        return None if result is None else cast(Mapping[str, Any], checked(result, RESULTS[stage], f"{stage} of {self.run.folder}"))

    def evaluations(self, stage: str) -> list[Mapping[str, Any]]:
        """The `evaluated` records of a stage, in their order; after a searcher that trains those since its weights are as they are. Raises DamagedFile."""
        trained = self.run.events("search", "trained")
        since = [event for event in self.run.events(stage, "evaluated") if not trained or event.id > trained[-1].id]
        return [checked(event.body, EVALUATED, f"{stage} of {self.run.folder}") for event in since]

    @property
    def predicted(self) -> Predicted | None:
        """What stands in the place of a supernet, None where there is one."""
        return self._predicted

    @property
    def is_measured(self) -> bool:
        """Whether the budget on latency is kept by measurements, and not by the table."""
        return self.options("search").get("latency_source") == MEASURED

    @property
    def is_trained(self) -> bool:
        """Whether accuracies are those of a supernet, not of a predictor."""
        return self._predicted is None

    @property
    def _folder(self) -> Path | None:
        """Of the run, None where it is not begun."""
        return self.run.folder if hasattr(self, "run") else None

    @cached_property
    def index(self) -> BlockIndex:
        if self._predicted is not None:
            return self._predicted.index
        return index_of(self.options("train"), self._folder)

    def images(self, split: Split) -> Images:
        """A split of the run's data set, read once. Raises InputError where it is another one than it was trained on."""
        if split not in self._images:
            self._images[split] = images_of(self.options("train"), split, self._folder)
        return self._images[split]

    @property
    def weights(self) -> Mapping[str, str]:
        """The files of the supernet's weights: those that the search ended with where that went on training them."""
        trained, searched = self.result("train"), self.recorded("search") or {}
        return cast(Mapping[str, str], searched.get("files") or trained["files"])

    @cached_property
    def supernet(self) -> Supernet:
        """The trained supernet, with `weights`."""
        from hwnas.supernet.supernet import Supernet
        from hwnas.training.trainer import load_tensors

        supernet = Supernet(self.index, sharing=self.options("train").get("sharing") or "slices")
        self.run.load_files(self.weights, lambda folder: supernet.load(load_tensors(folder / "supernet.safetensors")))
        return supernet

    @cached_property
    def accuracy(self) -> SupernetAccuracy:
        """Validation accuracy of subnets with inherited weights."""
        from hwnas.training.evaluate import SupernetAccuracy

        return SupernetAccuracy(self.supernet, self.images("train"), self.images("validation"), seed=self.options("train")["seed"])

    @cached_property
    def table(self) -> LatencyTable:
        """The latency table of the search, from the run's own copy."""
        if self._table is not None:
            return self._table
        loaded: list[LatencyTable] = []
        self.run.load_files(self._table_copy["files"], lambda folder: loaded.append(LatencyTable.load(folder)))
        return loaded[0]

    @property
    def table_name(self) -> str:
        """The name of the folder that the table was in."""
        return str(self._table_copy["name"])

    @property
    def other_names(self) -> list[str]:
        """The names of the folders that the tables of other devices were in."""
        copies = self.run.events("search", "also")
        kept = checked(copies[-1].body, ALSO, f"the tables of {self.run.folder}")["tables"] if copies else []
        return [str(each["name"]) for each in kept]

    @property
    def _table_copy(self) -> Mapping[str, Any]:
        copies = self.run.events("search", "table")
        if not copies:
            raise DamagedFile(f"{self.run.folder} has lost the latency table of its search")
        return cast(Mapping[str, Any], checked(copies[-1].body, TABLE, f"the table of {self.run.folder}"))

    @cached_property
    def budget(self) -> Budget:
        """The budget as it was asked for; `problem` holds it resolved."""
        budget = Budget.parse("latency", self.options("search")["latency"])
        return replace(budget, where=str(self.table.conditions)) if self.options("search").get("also") else budget

    @cached_property
    def latency(self) -> Additive:
        """Predicted latency in ms of the budget's statistic."""
        return calibrated(self.table, self.index, self.budget.quantile, self.variant)

    @cached_property
    def elsewhere(self) -> tuple[Elsewhere, ...]:
        """The budgets on latency on other devices, in the order they were given. Raises InputError."""
        asked = self.options("search").get("also") or []
        texts = [each["latency"] for each in asked]
        return tuple(elsewhere(self.index, self.variant, table, text) for table, text in zip(self._other_tables(len(asked)), texts, strict=True))

    def _other_tables(self, n: int) -> Sequence[LatencyTable]:
        if self._also or not n:
            return self._also
        copies = self.run.events("search", "also")
        kept = checked(copies[-1].body, ALSO, f"the tables of {self.run.folder}")["tables"] if copies else []
        if len(kept) != n:
            raise DamagedFile(f"{self.run.folder} has lost a latency table of its search")
        loaded: list[LatencyTable] = []
        for copy in kept:
            self.run.load_files(copy["files"], lambda folder: loaded.append(LatencyTable.load(folder)))
        return loaded

    @cached_property
    def variant(self) -> Variant:
        """The precision and batch that the search is for: those of its table."""
        options = self.options("search")
        return variant_for(self.table, self.index, options.get("precision"), options.get("batch"))

    @cached_property
    def deployed(self) -> BlockIndex:
        """The space in that precision and batch; its blocks are those of `index` in the same order."""
        return self.variant.index(self.index)

    @cached_property
    def costs(self) -> Mapping[str, Metric]:
        """MACs, parameters, peak memory and size of the file of the run's space, by the names in COSTS."""
        return cost_metrics(self.index, self.deployed)

    @cached_property
    def budgets(self) -> list[tuple[Budget, Metric]]:
        """On latency, on that of other devices, and on other costs, each with its metric; shares are not resolved."""
        options = self.options("search")
        costs = [(Budget.parse(name, options[name]), self.costs[name]) for name in COSTS if options.get(name) is not None]
        return [(self.budget, self.latency), *((each.budget, each.latency) for each in self.elsewhere), *costs]

    @cached_property
    def problem(self) -> Problem:
        """Accuracy under the budget on latency, and under those on other costs. Raises Infeasible."""
        accuracy: Metric | None = self.accuracy if self._predicted is None else self._predicted.accuracy
        if accuracy is None:
            raise InputError(f"{self.run.folder} has predicted accuracies only, and what predicted them is not at hand")
        rule = named(self.options("search").get("reward") or feasible_first.__name__)
        budgets: list[tuple[Budget, Metric]] = self.budgets
        if self.is_measured:
            if self.on_device is None:
                raise InputError(f"{self.run.folder} was searched by measured latencies: {SEARCHED_ONLY}")
            budgets = [(self.budget, self.on_device), *budgets[1:]]
        return Problem(self.index, [Objective(accuracy, maximize=True)], budgets, rule)

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """The budgets with their limits, in the order of `budgets`. Raises Infeasible."""
        if self.is_measured:  # what the table says of the budget on latency decides nothing
            return tuple(Constraint.of(self.index.space, *each) for each in self.budgets)
        return FeasibleSet(self.index, self.budgets).constraints

    @property
    def budget_ms(self) -> float:
        return self.constraints[0].limit


def index_of(options: Mapping[str, Any], folder: Path | None) -> BlockIndex:
    """The space that the supernet of a run was trained on. Raises InputError where it is another one by now."""
    space = registry.create("spaces", options["space"])
    if (code := options.get("architecture")) is not None:
        space = pinned(space, _code(space, code, folder or Path()))
    index = BlockIndex(space)
    if index.fingerprint != options["fingerprint"]:
        raise InputError(f"{options['space']} is not the space it was when {folder or 'the run'} was begun: restore it, or begin a new run")
    return index


def images_of(options: Mapping[str, Any], split: Split, folder: Path | None) -> Images:
    """A split of the data set that the supernet of a run was trained on. Raises InputError where its training images are others by now."""
    from hwnas.images import contents, load_images

    images = load_images(options["data"], split)
    if split == "train" and options.get("images") not in (None, contents(images)):
        raise InputError(f"the images of {options['data']} are not those that {folder or 'the run'} was trained on: restore them, or begin a new run")
    return images


def job_of(run: RunDirectory) -> Job:
    """The job of a run with a supernet, or of one that was searched by a predictor of accuracy. Raises InputError."""
    job, options = Job(run), run.recorded_options("search") or {}
    if run.recorded_options("train") is None and options.get("accuracy") is not None:
        index = BlockIndex(registry.create("spaces", str(options.get("space"))))
        if index.fingerprint != options.get("fingerprint"):
            raise InputError(f"{options.get('space')} is not the space it was when {run.folder} was begun: restore it, or begin a new run")
        return Job(run, predicted=Predicted(index, None))
    job.result("train")
    return job


def cost_metrics(index: BlockIndex, deployed: BlockIndex | None = None) -> dict[str, Metric]:
    """The metrics that COSTS names: MACs of one image, parameters, peak memory and size of the file in bytes.

    deployed: the index of the same space in the precision and batch it is deployed in, which memory and size depend on.
    """
    sums: list[tuple[str, str, Callable[..., Any]]] = [("macs", "MACs", macs), ("params", "parameters", params)]
    counted = {name: Additive(index, price(index.blocks), name=name, unit=unit) for name, unit, price in sums}
    return {**counted, "memory": peak_memory(index, deployed), "size": model_size(index, deployed)}


def budget_facts(feasibility: Feasibility) -> list[dict[str, Any]]:
    """Each budget for JSON: its limit, the space's least and greatest value (`exact`: of the whole space), its share of the space."""
    return [
        {
            "metric": each.constraint.budget.metric,
            "budget": str(each.constraint.budget),
            "limit": each.constraint.limit,
            "where": each.constraint.budget.where,
            "unit": each.constraint.metric.unit,
            "origin": each.constraint.metric.origin,
            "min": each.least.value,
            "max": each.greatest.value,
            "exact": each.exact,
            "share": share_facts(each.share),
        }
        for each in feasibility.reaches
    ]


def share_facts(share: Share) -> dict[str, float]:
    """A share of the space for JSON, with its 95 % interval and the number of samples."""
    return {"value": share.value, "low": share.low, "high": share.high, "samples": share.samples}


def check_seed(seed: int) -> None:
    """Raises InputError where a seed is not one that every library takes."""
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed is {seed}, it must be from 0 to {2**32 - 1}")


def use_threads(threads: int | None) -> int:
    """Set PyTorch's threads, by default all cores; their number."""
    import torch

    if threads is not None:
        if threads < 1:
            raise InputError(f"--threads is {threads}, it must be at least 1")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def use_threads_of_training(job: Job) -> None:
    """As many as the supernet was trained with: beside other work two threads may be slower than one, and whoever trained had chosen."""
    if (trained := job.recorded("train")) is not None:
        use_threads(trained.get("threads"))


def placed(name: str) -> Any:
    """`cpu`, or the GPU of this process. Raises InputError."""
    import os

    import torch

    if name not in ("cpu", "cuda"):
        raise InputError(f"--device is '{name}', it must be cpu or cuda")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("--device is cuda, but PyTorch finds no GPU here; see: hwnas doctor")
    local = os.environ.get("LOCAL_RANK", "0")
    torch.cuda.set_device(int(local) if local.isdecimal() else 0)
    return torch.device("cuda", torch.cuda.current_device())


def moved(supernet: Supernet, device: str) -> str:
    """Where the supernet is from now on, no subnet of it having been made yet. Raises InputError."""
    from hwnas.training.trainer import move

    place = placed(device)
    move(supernet, place)
    return str(place)
