"""`predict`: what networks take by a latency table, each with an interval and with what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.architecture import Architecture
from hwnas.errors import DamagedFile, InputError, MissingLatency
from hwnas.files import parse_json, read_text
from hwnas.graph import Block, block_text
from hwnas.index import BlockIndex
from hwnas.intervals import LEVEL, least_networks, margin
from hwnas.latency_table import Failure, LatencyTable, NetworkMeasurement
from hwnas.measured_blocks import predicted_origin
from hwnas.onnx_blocks import OnnxBlocks, read_blocks, single
from hwnas.ops import Flatten
from hwnas.predictors.calibrated import variant_for
from hwnas.table_fill import filled
from hwnas.table_latency import EXTRAPOLATED, INTERPOLATED, MEASURED, ProxyLatency, TableLatency, measured_ms, own_networks, share_of
from hwnas.verbs.common import table_folder

MAX_ARCHITECTURES = 1_000_000

_FORMAT = "hwnas.architecture/1"


@dataclass(frozen=True, slots=True)
class _Onnx:
    name: str
    found: OnnxBlocks


def predict(
    files: Sequence[Path],
    *,
    table: Path | str,
    space: str = "",
    statistic: str = "p50",
    level: float = LEVEL,
    by: str = "",
    like: Sequence[Path | str] = (),
    precision: str | None = None,
    batch: int | None = None,
) -> Mapping[str, Any]:
    """Predicted latencies of architectures and ONNX models by a table.

    files: architectures (JSON), many of them (JSON Lines, one in each line), or ONNX models. space: that of the architectures, by default the one
    they name. An architecture is the calibrated sum of its blocks; its interval of `level` comes from the table's networks, each predicted without
    itself. by: the predictor of blocks that the table lacks (`hwnas.table_fill.PREDICTORS`); without one they are an error. An ONNX model is the
    sum of its blocks where its names tell them and the table has them, else of its operators, predicted by `by` (gaussian_process by default),
    scaled by how far the same sums of the table's own networks are off. like: tables of two or more other devices; the networks of `table`, 5 to 20,
    then tell how far the device is like them (`proxy_device`), and its blocks are not asked for.
    Raises InputError, DamagedFile.
    """
    quantiles = {"p50": 0.5, "p90": 0.9}
    if statistic not in quantiles:
        raise InputError(f"--statistic is {statistic!r}, it must be p50 or p90: those are what a table can be calibrated to")
    if not 0 < level < 1:
        raise InputError(f"--level is {level:g}, it must be between 0 and 1, such as 0.9")
    if not files:
        raise InputError("name an architecture (JSON), a file of architectures (JSON Lines), or an ONNX model")
    files = [Path(file) for file in files]
    is_text = [_is_text(file) for file in files]
    models = [_Onnx(str(file), read_blocks(file)) for file, text in zip(files, is_text, strict=True) if not text]
    named = [each for file, text in zip(files, is_text, strict=True) if text for each in read_architectures(file)]
    if like and models:
        raise InputError(f"--like is about architectures, and {models[0].name} is an ONNX model: leave one of them out")
    if like and by:
        raise InputError("with --like no block is asked for: leave out --by")
    folder = table_folder(table)
    loaded = LatencyTable.load(folder)
    loaded.refuse_emulated("no network is priced by them")
    result: dict[str, Any] = {"table": str(table), "conditions": str(loaded.conditions), "origin": predicted_origin(loaded)}
    result |= {"statistic": statistic, "level": level, "networks": []}
    quantile = quantiles[statistic]
    index = _index(loaded, space, [each for _, each in named], precision, batch)
    if named:
        assert index is not None
        result |= _of_architectures(named, loaded, index, space, quantile, level, by, like, precision, batch, result["networks"])
    if models:
        deployed = None if index is None else variant_for(loaded, index, precision, batch).index(index)
        result["onnx"] = _of_models(models, loaded, deployed, quantile, level, by or "gaussian_process", result["networks"])
    return result


def _of_architectures(
    named: Sequence[tuple[str, Architecture]],
    table: LatencyTable,
    index: BlockIndex,
    space: str,
    quantile: float,
    level: float,
    by: str,
    like: Sequence[Path | str],
    precision: str | None,
    batch: int | None,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    """Appends a row for each; facts about the fit."""
    others = [LatencyTable.load(table_folder(each)) for each in like]
    variant = variant_for(others[0] if others else table, index, precision, batch)
    codes = np.asfortranarray(np.concatenate([each.code(index.space) for _, each in named]))
    missing: Sequence[str] = () if others else table.missing(variant.index(index).blocks)
    if missing and not by:
        raise MissingLatency(f"{table.missing_latency(missing, len(index.blocks), space or index.space.name)}; or predict them: --by gaussian_process")
    latency: TableLatency | ProxyLatency
    if others:
        latency = ProxyLatency(table, index, others, quantile, variant, level=level)
    else:
        latency = TableLatency(filled(table, variant.index(index).blocks, by, renew=False) if missing else table, index, quantile, variant, level=level)
    found = latency.predict(codes)
    for i, (name, architecture) in enumerate(named):
        warnings = []
        if found.is_outside[i]:
            warnings.append("larger or smaller than every network that calibrates the table: the interval is of those")
        if (share := found.shares[i, EXTRAPOLATED]) > 0.005:
            warnings.append(f"{100 * share:.0f} % of it is extrapolated from blocks of other sizes or kinds")
        rows.append(_row(name, found.value_ms[i], latency.margin, found.shares[i], warnings) | {"space": architecture.space})
    return {
        "origin": "simulated" if "simulated" in (table.origin, latency.metric.origin) else latency.metric.origin,
        "space": index.space.name,
        "precision": variant.precision,
        "batch": variant.batch,
        "calibrated_on": latency.networks,
        "needed_for_interval": least_networks(level),
        "predicted_blocks": len(missing),
    }


def _of_models(
    models: Sequence[_Onnx], table: LatencyTable, index: BlockIndex | None, quantile: float, level: float, by: str, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Appends a row for each; facts about the scale."""
    own: list[NetworkMeasurement] = []
    lowered: list[list[Block]] = []
    if index is not None:
        own, codes = own_networks(table, index)
        lowered = [[index.blocks[i] for i in row if index.blocks[i]] for row in index.ids(codes)]
    facts: dict[str, Any] = {"by": by, "scaled_on": len(own)}
    layers = [[block for block in model.found.layers if block] for model in models]
    are_layers = [bool(each) and all(_is_priced(table, block) for block in each) for each in layers]
    priced = [own_layers if known else list(model.found.operators) for model, own_layers, known in zip(models, layers, are_layers, strict=True)]
    alike = {True: lowered}
    if not all(are_layers):
        alike[False] = [[alone for block in each for alone in _operators(block)] for each in lowered]
    asked = [block for each in (*priced, *(network for known in set(are_layers) for network in alike[known])) for block in each]
    full = filled(table, asked, by, renew=False)
    for model, blocks, as_layers in zip(models, priced, are_layers, strict=True):
        sums = np.array([_sum(full, each) for each in alike[as_layers]])
        ratios = measured_ms(own, quantile) / sums if len(own) else np.empty(0)
        scale = float(np.median(ratios)) if len(own) else 1.0
        left_out = [float(np.median(np.delete(ratios, i))) for i in range(len(own))] if len(own) > 1 else [np.nan] * len(own)
        wide = margin(ratios, np.array(left_out, np.float64), level)
        value = scale * _sum(full, blocks)
        shares = _shares(full, blocks)
        warnings = []
        if not len(own):
            warnings.append("the table has no whole network of a known space: the plain sum, which is no network's latency; give --space")
        elif not scale * sums.min() <= value <= scale * sums.max():
            warnings.append("faster or slower than every network that scales the sum: the interval is of those")
        if not as_layers and len(own):
            warnings.append("a sum of single operators, none of whose networks calibrates it: the interval is of the table's own networks")
        if shares[EXTRAPOLATED] > 0.005:
            warnings.append(f"{100 * shares[EXTRAPOLATED]:.0f} % of it is extrapolated from blocks of other sizes or kinds")
        if model.found.left_out:
            warnings.append("not priced: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(model.found.left_out.items())))
        rows.append(_row(model.name, value, wide, shares, warnings) | {"space": None, "priced_as": "blocks" if as_layers else "operators"})
    return facts


def _row(name: str, value_ms: float, wide: float, shares: Any, warnings: list[str]) -> dict[str, Any]:
    known = bool(np.isfinite(wide))
    return {
        "name": name,
        "value_ms": float(value_ms),
        "low_ms": float(value_ms / wide) if known else None,
        "high_ms": float(value_ms * wide) if known else None,
        "measured": round(float(shares[MEASURED]), 4),
        "interpolated": round(float(shares[INTERPOLATED]), 4),
        "extrapolated": round(float(shares[EXTRAPOLATED]), 4),
        "warnings": warnings if known else [*warnings, "no interval: too few whole networks were measured"],
    }


def _index(table: LatencyTable, space: str, architectures: Sequence[Architecture], precision: str | None, batch: int | None) -> BlockIndex | None:
    """The space of the architectures, or of the table's networks; None where none is named. Raises InputError."""
    if not space and architectures:
        names = sorted({each.space for each in architectures})
        if len(names) > 1:
            raise InputError(f"the architectures are of {', '.join(names[:5])}: predict one space at a time")
        space = names[0]
    if space:
        return BlockIndex(registry.create("spaces", space))
    for name in dict.fromkeys(each.architecture.space for each in table.networks):
        if name in registry.names("spaces"):
            index = BlockIndex(registry.create("spaces", name))
            deployed = variant_for(table, index, precision, batch).index(index).fingerprint
            if any(each.fingerprint == deployed for each in table.networks):
                return index
    return None


def _is_text(path: Path) -> bool:
    """Whether a file is to be read as JSON: as its name says, or else by how it begins. What is none of both is an ONNX model."""
    if path.suffix in (".json", ".jsonl", ".onnx"):
        return path.suffix != ".onnx"
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError:
        return True  # whose reader says what is wrong


def read_architectures(path: Path) -> list[tuple[str, Architecture]]:
    """(name, architecture) of a JSON file, or of each line of a JSON Lines file. Raises DamagedFile."""
    text = read_text(path)
    lines = [line for line in text.splitlines() if line.strip()]
    if path.suffix != ".jsonl":
        return [(str(path), Architecture.load(path))]
    if not lines or len(lines) > MAX_ARCHITECTURES:
        raise DamagedFile(f"{path} has {len(lines):,} architectures, it may have 1 to {MAX_ARCHITECTURES:,}")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            data = parse_json(line)
        except (ValueError, RecursionError):
            raise DamagedFile(f"{path}, line {number}, is not readable JSON") from None
        if (
            not isinstance(data, dict)
            or data.get("format", _FORMAT) != _FORMAT
            or not isinstance(data.get("space"), str)
            or not isinstance(data.get("values"), dict)
        ):
            raise DamagedFile(f"{path}, line {number}, is no architecture: an object with 'space' and 'values'")
        found.append((f"{path}:{number}", Architecture(data["space"], data["values"])))
    return found


def _is_priced(table: LatencyTable, block: Block) -> bool:
    entry = table.entries.get(block_text(block))
    return entry is not None and not isinstance(entry, Failure)


def _operators(block: Block) -> list[Block]:
    """Each operator of a block as a block of its own, but for those that move nothing."""
    return [single(node.op) for node in block if not isinstance(node.op, Flatten)]


def _sum(table: LatencyTable, blocks: Sequence[Block]) -> float:
    return float(sum(table.price_ms(block) for block in blocks))


def _shares(table: LatencyTable, blocks: Sequence[Block]) -> Any:
    shares = np.zeros(3)
    for block in blocks:
        shares[share_of(table, block)] += table.price_ms(block)
    return shares / max(float(shares.sum()), 1e-300)
