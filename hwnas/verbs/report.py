"""`report`: what a run came to, on one page and in the terminal, beside the baselines, on images nobody searched with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwnas import __version__
from hwnas.costs import macs, params
from hwnas.errors import InputError
from hwnas.files import write_whole
from hwnas.graph import block_text
from hwnas.latency_table import Conditions
from hwnas.predictors.calibrated import assess
from hwnas.report_data import Comparison, CostBudget, Interval, LayerShare, Measured, Point, Report
from hwnas.variant import Variant
from hwnas.verbs import reproduce, review
from hwnas.verbs.common import Job, Progress, existing, silent, use_threads_of_training
from hwnas.verbs.deployed import classified, graph_of
from hwnas.verbs.search import BASELINES
from hwnas.verbs.verify import matched
from hwnas.verbs.zoo import baseline

CONFIDENCE = 0.95
RESAMPLES = 2_000


def report(run: Path, *, to: Path | None = None, layers: bool = False, progress: Progress = silent) -> Report:
    """Evaluate the measured networks on the test images, and write the page `report.html` (by default into the run's folder).

    Test accuracy is evaluated once for what `verify` measured last, and recorded. layers: also profile the operators of the chosen file on its device,
    once, which is recorded, too. Raises HwnasError.
    """
    from hwnas.report_html import render_html

    with existing(run) as directory:
        job = Job(directory)
        verified = job.result("verify")
        if layers:
            chosen = next((each for each in verified["measured"] if each.get("chosen")), None)
            if chosen is None:
                raise InputError(f"{directory.folder} has no chosen network whose layers could be profiled: verify certified none; leave out --layers")
            review.profile_chosen(job, chosen, _conditions(job, verified), progress)
        made = _report(job, _tested(job, progress))
        write_whole(Path(to) if to is not None else directory.folder / "report.html", render_html(made))
        return made


def _tested(job: Job, progress: Progress) -> Mapping[str, Any]:
    """Which test images each measured network classifies right, as one hexadecimal number per network, and their source digits."""
    from hwnas.training.evaluate import correct

    result, measured = job.recorded("report"), job.result("verify")["measured"]
    codes = [each["code"] for each in measured]
    if result is not None and result.get("codes") == codes and len(result["sources"]) == result["images"]:  # verify may have tried again since
        return result
    use_threads_of_training(job)
    images = job.images("test")
    hits = []
    for i, each in enumerate(measured):
        progress("test", i, len(measured))
        if each.get("accuracy_in", "fp32") == "fp32":
            right = correct(job.accuracy.network(np.array(each["code"], np.int16)), images)
        else:
            right = classified(job.run.store.blob(each["model_sha256"]), graph_of(job, each["code"]).input, images)
        hits.append(np.packbits(right).tobytes().hex())
    progress("test", len(measured), len(measured))
    result = {"images": len(images), "codes": codes, "correct": hits, "sources": images.sources.tolist()}
    job.run.finish("report", result)
    return result


def bootstrap(values: npt.NDArray[Any], sources: npt.NDArray[np.int64], *, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """Mean of values (n,) in %, with a percentile bootstrap over *sources*: images of one source digit are not independent."""
    _, group = np.unique(sources, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    picked = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(100 * float(values.mean()), 100 * float(low), 100 * float(high), confidence)


def _report(job: Job, tested: Mapping[str, Any]) -> Report:
    search, verified, trained = job.result("search"), job.result("verify"), job.result("train")
    sources = np.array(tested["sources"], np.int64)
    hits = [np.unpackbits(np.frombuffer(bytes.fromhex(each), np.uint8), count=tested["images"]).astype(np.float64) for each in tested["correct"]]
    networks = verified["measured"]
    chosen = next((i for i, each in enumerate(networks) if each.get("chosen")), None)
    conditions = _conditions(job, verified)
    known, margin, level = review.known_networks(job)
    beside, said = review.published_beside(verified["certificate"])
    reach = f"; {conditions.reach}" if conditions.reach else ""
    variant = "" if job.variant == Variant() else f"{job.variant}, "
    return Report(
        title=job.run.folder.resolve().name,
        space=job.options("train")["space"],
        data=job.options("train")["data"],
        device=f"{conditions.device} ({conditions.processor})",
        conditions=f"{conditions.runtime} {conditions.version}, {conditions.threads} thread(s), {variant}{conditions.regime}{reach}",
        budget_ms=search["budget_ms"],
        statistic=search["statistic"],
        space_min_ms=search["space_min_ms"],
        space_max_ms=search["space_max_ms"],
        latency_origin=search["latency_origin"],
        searched_origin="measured" if job.is_measured else None,
        points=tuple(Point(point["accuracy_pct"], point["latency_ms"], point["on_front"]) for point in search["points"]),
        measured=tuple(_measured(each, bootstrap(hits[i], sources), i == chosen) for i, each in enumerate(networks)),
        layers=_layers(job, networks[chosen]["code"]) if chosen is not None else (),
        comparisons=tuple(_comparisons(search, networks, hits, sources, chosen)) if chosen is not None else (),
        architecture=networks[chosen]["values"] if chosen is not None else {},
        certificate=verified["certificate"],
        quality=assess(job.table, job.index, job.budget.quantile, job.variant),
        commands=reproduce.commands(job),
        budgets=_budgets(search, networks[chosen] if chosen is not None else {}),
        surrogate=search.get("surrogate"),
        curve=tuple(trained.get("curve") or ()),
        trace=tuple(search.get("trace") or ()),
        best_so_far={stage: found for stage in ("search", *BASELINES) if (found := review.best_so_far(job, stage))},
        beside=beside,
        published_said=said,
        known=known,
        margin=margin,
        margin_level=level,
        devices=review.devices(job, conditions, search["budget_ms"], networks[chosen]) if chosen is not None else (),
        precisions=review.precisions(job, networks[chosen], 100 * float(hits[chosen].mean()), len(sources)) if chosen is not None else (),
        profiled=review.profiled(job, networks[chosen]) if chosen is not None else None,
        setting=review.setting(conditions, verified["certificate"]),
        seeds=reproduce.seeds(job),
        hashes=reproduce.hashes(job, networks[chosen]["model_sha256"] if chosen is not None else None),
        published=baseline(conditions, search["statistic"], search["budget_ms"]) if job.table.origin == "measured" else None,
        seconds={"train": trained["seconds"], "search": search["seconds"]},
        versions={"hwnas": __version__, "python": sys.version.split()[0]} | {name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
    )


def _conditions(job: Job, verified: Mapping[str, Any]) -> Conditions:
    """Those of the certificate, of the table where there is none."""
    if not verified["certificate"]:
        return job.table.conditions
    stated = verified["certificate"]["conditions"]
    return Conditions(**{each.name: stated[each.name] for each in fields(Conditions)})


def _budgets(search: Mapping[str, Any], chosen: Mapping[str, Any]) -> tuple[CostBudget, ...]:
    """Budgets beside that on latency; a run of an older version recorded none."""
    recorded = {"memory": "memory_bytes", "size": "size_bytes"}
    others = [each for each in search.get("budgets") or () if each["metric"] != "latency"]
    return tuple(CostBudget(name := each["metric"], each["limit"], each["min"], each["max"], chosen.get(recorded.get(name, name))) for each in others)


def _measured(each: Mapping[str, Any], test: Interval, chosen: bool) -> Measured:
    return Measured(
        role=each["role"],
        predicted_ms=each.get("latency_predicted_ms", each["latency_ms"]),
        measured_ms=each["measured_ms"],
        upper_bound_ms=each["upper_bound_ms"],
        p10_ms=each["p10_ms"],
        p90_ms=each["p90_ms"],
        visits=each["visits"],
        verdict=each["verdict"],
        validation_accuracy_pct=each["accuracy_pct"],
        test_accuracy_pct=test,
        macs=each["macs"],
        params=each["params"],
        chosen=chosen,
    )


def _comparisons(
    search: Mapping[str, Any], networks: Sequence[Mapping[str, Any]], hits: Sequence[npt.NDArray[Any]], sources: npt.NDArray[np.int64], chosen: int
) -> list[Comparison]:
    made = []
    for name in BASELINES:
        row = matched(networks, name, networks[chosen])
        if row is not None:
            difference = bootstrap(hits[chosen] - hits[row], sources)
            evaluations = round(search["baselines"][name]["evaluations"])
            made.append(Comparison(name, evaluations, difference, networks[row]["measured_ms"], networks[chosen]["measured_ms"]))
    return made


def _layers(job: Job, code: Sequence[int]) -> tuple[LayerShare, ...]:
    """Layers that compute something; the constant of the calibration is a row of its own."""
    codes = np.asfortranarray([code], np.int16)
    ids, latency = job.index.ids(codes)[0], job.latency
    per_layer = latency.layers(codes)[0].tolist()
    total = float(latency(codes)[0])
    shares = []
    for layer, i, ms in zip(job.index.space.layers, ids, per_layer, strict=True):
        block = job.deployed.blocks[i]
        if block:
            shares.append(LayerShare(layer.name, block_text(block), float(macs([block])[0]), float(params([block])[0]), ms, ms / total))
    return (*shares, LayerShare("(constant)", "start of a run", 0.0, 0.0, latency.constant, latency.constant / total))
