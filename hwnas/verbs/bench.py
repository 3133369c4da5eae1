"""`bench`: any ONNX files measured against each other on a device, and published networks as the baseline of every report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwnas import __version__
from hwnas.device import Device, load_device
from hwnas.errors import InputError, MeasurementFailed, RunHeld
from hwnas.files import write_json
from hwnas.profiling.benchmark import Bench, BenchRow, check_takes_onnx, measure_bench
from hwnas.profiling.layers import RUNS, profile_layers
from hwnas.profiling.model_file import ModelFile, parse_shapes, read_model
from hwnas.verbs.common import Progress, check_seed, silent

FORMAT = "hwnas.bench/1"
MAX_BATCH = 1 << 16
_QUANTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,2})?)")


def bench(
    files: Sequence[str | Path],
    *,
    device: str = "localhost",
    runtime: str = "",
    threads: int | None = None,
    seconds: float = 60.0,
    batch: Sequence[int] = (),
    shape: Sequence[str] = (),
    quantiles: Sequence[str] = ("p50", "p90"),
    confidence: float = 0.95,
    streams: int = 0,
    regime: str = "warm",
    seed: int = 0,
    layers: bool = False,
    to: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure ONNX files interleaved in one window; each quantile with an interval of that confidence, whose unit is the visit.

    runtime: one of the device's, by default its first; one that loads ONNX. batch: sizes of the free first dimensions, each file with each of them.
    shape: `NAME=1x3x224x224` of inputs, `NAME=224` of free dimensions. streams: 0 for one run at a time; else so many at once, and samples per
    second. regime: warm, steady, first-run, cold-start or sustained. to: a JSON file of the result.
    layers: also what each operator takes, from a profile after the timing: shares of a run, whose sum is no latency. Raises HwnasError.
    """
    check_seed(seed)
    if not files:
        raise InputError("name the ONNX files to measure, or give --zoo for published networks")
    if bad := [size for size in batch if not 1 <= size <= MAX_BATCH]:
        raise InputError(f"--batch is {bad[0]}, it must be from 1 to {MAX_BATCH:,}")
    chosen = parse_quantiles(quantiles)
    target = load_device(device)
    check_takes_onnx(target, runtime)
    used = target.threads if threads is None else threads
    shapes = parse_shapes(shape)
    models = [read_model(Path(file), shapes, size) for file in files for size in (dict.fromkeys(batch) or [None])]
    if unknown := sorted(set(shapes) - {name for model in models for name in model.names}):
        known = sorted({name for model in models for name in model.names})
        raise InputError(f"no file has an input or a free dimension '{unknown[0]}'; there are {', '.join(known)}")
    measured = measure_bench(
        [model.data for model in models],
        target,
        runtime=runtime,
        quantiles=chosen,
        confidence=confidence,
        seconds=seconds,
        threads=used,
        streams=streams,
        regime=regime,
        seed=seed,
        progress=progress,
    )
    rows: list[dict[str, Any]] = [_model(model, measured.rows[i], measured) for i, model in enumerate(models)]
    if layers:
        profiles = _profiles([model.data for model in models], target, runtime, used, seed, progress)
        rows = [{**row, "layers": each} for row, each in zip(rows, profiles, strict=True)]
    result = {**header(FORMAT, measured), "models": rows}
    if to is not None:
        write_json(Path(to), result)
    return result


def _profiles(models: Sequence[bytes], device: Device, runtime: str, threads: int, seed: int, progress: Progress) -> list[dict[str, Any]]:
    """For JSON: of each model its operators, or an `error`; what was timed before is not lost where there is no profile."""
    try:
        found = profile_layers(models, device, runtime=runtime, threads=threads, seed=seed, progress=progress)
    except (MeasurementFailed, RunHeld) as error:
        found = [str(error)] * len(models)
    return [{"error": each} if isinstance(each, str) else {"origin": "profile", "runs": RUNS, "operators": [asdict(layer) for layer in each]} for each in found]


def parse_quantiles(texts: Sequence[str]) -> tuple[float, ...]:
    """`p50`, `p99.9` -> 0.5, 0.999; each once. Raises InputError."""
    found = []
    for text in texts:
        match = _QUANTILE.fullmatch(text.strip())
        if match is None or not 0 < float(match[1]) < 100:
            raise InputError(f"'{text}' is no quantile; write p50, p90 or p99.9")
        found.append(round(float(match[1]) / 100, 6))
    return tuple(dict.fromkeys(found))


def header(kind: str, measured: Bench) -> dict[str, Any]:
    """What all rows of a window have in common, for JSON."""
    return {
        "format": kind,
        "origin": "measured",
        "confidence": measured.confidence,
        "streams": measured.streams,
        "seconds": measured.seconds,
        "rounds": measured.rounds,
        "independent_every": measured.stride,
        "speed_states": [asdict(state) for state in measured.states],
        "conditions": asdict(measured.conditions),
        "system": dict(measured.system),
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "hwnas": __version__,
    }


def row_facts(row: BenchRow, measured: Bench, batch: int) -> dict[str, Any]:
    """What was measured of one model, for JSON."""
    rate = row.runs_per_s
    return {
        "latency_ms": {f"p{100 * q:g}": asdict(each) for q, each in zip(measured.quantiles, row.latency_ms, strict=False)},
        "samples_per_s": None if rate is None else {key: None if each is None else each * batch for key, each in asdict(rate).items()},
        "runs": row.runs,
        "visits": row.visits,
        "independent_visits": row.independent_visits,
        "dropped": row.dropped,
        "doubt": row.doubt,
        "facts": dict(row.facts),
    }


def _model(model: ModelFile, row: BenchRow, measured: Bench) -> dict[str, Any]:
    return {
        "file": model.name,
        "batch": model.batch,
        "shapes": {name: list(shape) for name, shape in model.shapes.items()},
        "model_sha256": model.sha256,
        "graph_sha256": model.graph_sha256,
        "opset": dict(model.opset),
        "nodes": model.nodes,
        **row_facts(row, measured, model.batch),
    }
