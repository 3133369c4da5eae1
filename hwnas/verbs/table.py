"""`table`: what latency tables hold, how well they predict, and tables made from tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwnas import __version__, registry
from hwnas.data import shipped
from hwnas.errors import HwnasError, InputError
from hwnas.files import sha256, write_whole
from hwnas.graph import block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import ENTRIES, NETWORKS, TABLE, Conditions, Failure, Imported, LatencyTable, Measurement, Predicted, seal
from hwnas.predictors.calibrated import assess, variant_for
from hwnas.profiling.record import FILE as UNFINISHED
from hwnas.table_dialects import dialect_named, read_dialect, write_dialect
from hwnas.table_fill import QUALITY, filled, networks_of
from hwnas.table_merge import difference, first_of, merged
from hwnas.verbs.common import table_folder

NOT_STATED = "not stated"
_DEPTH = 3  # folders below a given one in which tables are looked for: DEVICE/RUNTIME-VERSION-THREADS, and one more


def list_tables(folders: Sequence[Path] = ()) -> list[Mapping[str, Any]]:
    """Facts in short of every shipped table, and of those in the given folders and at most three levels below; a damaged one says why.

    Raises InputError where a given folder holds no table.
    """
    found = [(path.relative_to(shipped("latency_tables")).as_posix(), path) for path in _tables_below(shipped("latency_tables"))]
    for folder in map(Path, folders):
        here = _tables_below(folder)
        if not here:
            raise InputError(f"there is no latency table in {folder} or below it; one is made by: hwnas profile DEVICE --space SPACE --to {folder}")
        found += [(str(path), path) for path in here]
    return [_in_short(name, path) for name, path in found]


def show_table(table: Path | str, *, top: int = 5) -> Mapping[str, Any]:
    """What a table says about itself: conditions, protocol, provenance, anchor, quality; counts; `top` slowest and fastest blocks; failures.

    table: a folder, or the name of a shipped one. Raises InputError, DamagedFile.
    """
    if top < 0:
        raise InputError(f"--top is {top}, it must be at least 0")
    folder = table_folder(table)
    loaded = LatencyTable.load(folder)
    priced = sorted(((text, entry) for text, entry in loaded.entries.items() if not isinstance(entry, Failure)), key=lambda row: (-row[1].price_ms, row[0]))
    measured = [entry for _, entry in priced if isinstance(entry, Measurement)]
    return {
        "table": str(table),
        "sha256": seal(folder),
        "origin": loaded.origin,
        "conditions": asdict(loaded.conditions),
        "variants": [asdict(each) for each in loaded.variants()],
        "blocks": len(priced),
        "predicted": len(loaded.predicted()),
        "extrapolated": _extrapolated(loaded),
        "failed": [{"block": text, "error": entry.error} for text, entry in sorted(loaded.entries.items()) if isinstance(entry, Failure)],
        "accepted_share": sum(each.accepted for each in measured) / sum(each.visits for each in measured) if measured else None,
        "never_at_full_speed": sum(not each.accepted for each in measured),
        "networks": dict(Counter(each.architecture.space for each in loaded.networks)),
        "slowest": [_row(*row) for row in priced[:top]],
        "fastest": [_row(*row) for row in priced[::-1][:top]],
        **{name: dict(getattr(loaded, name)) for name in ("protocol", "provenance", "anchor", "quality")},
    }


def check_table(table: Path | str, *, space: str, statistic: str = "p50", precision: str | None = None, batch: int | None = None) -> Mapping[str, Any]:
    """Whether a table is whole and worth its while for a space: which blocks lack a price, and how well its own networks are predicted.

    Each network is predicted without itself, by the calibrated table, by its plain sum, and by a line through MACs. `problems` are
    sentences, none where all blocks have a price, 8 networks or more were measured, and the table beats the line.
    statistic: `p50` or `p90`. precision, batch: which ones, where the table has prices for several. Raises InputError, DamagedFile.
    """
    quantiles = {"p50": 0.5, "p90": 0.9}
    if statistic not in quantiles:
        raise InputError(f"--statistic is {statistic!r}, it must be p50 or p90: those are what a table can be calibrated to")
    folder = table_folder(table)
    loaded, index = LatencyTable.load(folder), BlockIndex(registry.create("spaces", space))
    variant = variant_for(loaded, index, precision, batch)
    deployed = variant.index(index)
    needed = sorted({block_text(block) for block in deployed.blocks if block})
    missing = loaded.missing(deployed.blocks)
    entries = [loaded.entries[text] for text in needed if text in loaded.entries]
    problems: list[str] = []
    quality: Mapping[str, Any] | None = None
    if missing:
        problems.append(str(loaded.missing_latency(missing, len(needed), space)))
    else:
        try:
            quality = assess(loaded, index, quantiles[statistic], variant)
        except InputError as error:
            problems.append(str(error))
    if quality and quality["calibrated"]["mape"] >= quality["macs_line"]["mape"]:
        problems.append(
            f"the table predicts no better than a line through MACs (mean error {100 * quality['calibrated']['mape']:.1f} % "
            f"and {100 * quality['macs_line']['mape']:.1f} %): measure it again on a quieter machine"
        )
    return {
        "table": str(table),
        "folder": str(folder),
        "space": space,
        "precision": variant.precision,
        "batch": variant.batch,
        "origin": loaded.origin,
        "conditions": str(loaded.conditions),
        "needed": len(needed),
        "predicted": len(loaded.predicted(deployed.blocks)),
        "missing": missing,
        "failed": sum(isinstance(entry, Failure) for entry in entries),
        "never_at_full_speed": sum(isinstance(entry, Measurement) and not entry.accepted for entry in entries),
        "of_other_spaces": len(loaded.entries) - len(entries),
        "networks": sum(each.fingerprint == deployed.fingerprint for each in loaded.networks),
        "statistic": statistic,
        "quality": quality,
        "problems": problems,
    }


def import_table(
    file: Path,
    *,
    dialect: str,
    to: Path,
    source: str,
    licence: str,
    device: str,
    runtime: str,
    threads: int,
    processor: str = NOT_STATED,
    version: str = NOT_STATED,
    regime: str = NOT_STATED,
) -> Mapping[str, Any]:
    """Make a table of origin "imported" of a YAML table of `ofa` or `proxylessnas`; how it was measured is taken on the caller's word.

    source: who says so: paper, repository, person. What has no counterpart among our blocks is in `left_out`, and in the table's
    provenance. Raises InputError, DamagedFile.
    """
    stated = {"source": source, "licence": licence, "device": device, "runtime": runtime, "processor": processor, "version": version, "regime": regime}
    for name, value in stated.items():
        if not value.strip() or not value.isprintable() or len(value) > 500:
            raise InputError(f"--{name} must be a printable text of at most 500 characters, got {value[:80]!r}")
    if threads < 1:
        raise InputError(f"--threads is {threads}, it must be at least 1")
    file, to = Path(file), _new_folder(Path(to))
    spoken = dialect_named(dialect)
    rows, left_out = read_dialect(file, spoken)
    LatencyTable(
        Conditions(device, processor, runtime, version, threads, regime),
        rows,
        origin="imported",
        protocol={"price": "mean of the source's runs"},
        provenance={
            **_made_now(),
            "source": source,
            "licence": licence,
            "dialect": spoken.name,
            "file": file.name,
            "file_sha256": sha256(file),
            "left_out": [{"key": key, "reason": reason} for key, reason in left_out.items()],
        },
    ).save(to)
    return {"table": str(to), "dialect": spoken.name, "origin": "imported", "blocks": len(rows), "left_out": left_out}


def export_table(table: Path | str, *, dialect: str, to: Path) -> Mapping[str, Any]:
    """Write a table as a YAML file in the dialect of `ofa` or `proxylessnas`: mean, spread and count of all runs.

    Rows that the dialect has no key for are in `left_out`. Raises InputError, DamagedFile.
    """
    to, spoken = Path(to), dialect_named(dialect)
    if to.exists():
        raise InputError(f"{to} exists already: name another file")
    loaded = LatencyTable.load(table_folder(table))
    loaded.refuse_emulated("they are not written where nothing would say so")
    text, left_out = write_dialect(loaded.entries, spoken)
    write_whole(to, text)
    return {"file": str(to), "dialect": spoken.name, "origin": loaded.origin, "blocks": len(loaded.entries) - len(left_out), "left_out": left_out}


def merge_tables(first: Path | str, second: Path | str, *, to: Path) -> Mapping[str, Any]:
    """Make one table of two that were measured under the same conditions; how common rows were chosen is in the result and the provenance.

    Raises InputError naming the first condition that differs, or where the device was not in one state; DamagedFile.
    """
    to, folders = _new_folder(Path(to)), [table_folder(first), table_folder(second)]
    tables = [LatencyTable.load(folder) for folder in folders]
    union, how = merged(*tables)
    sources: list[Mapping[str, Any]] = []
    for table, folder in zip(tables, folders, strict=True):
        nested = table.provenance.get("sources", [])
        own = {key: value for key, value in table.provenance.items() if key != "sources"}
        sources += [{"sha256": seal(folder), **own}, *(nested if isinstance(nested, list) else [])]
    counts = {f"merge_{key}": value for key, value in how.items() if isinstance(value, int)}
    if how["common"]:
        counts |= {f"merge_{key}": round(how["common"][key], 6) for key in ("median", "median_absolute", "p90_absolute", "worst_relative")}
    LatencyTable(
        union.conditions, union.entries, union.networks, union.origin, union.protocol, {**_made_now(), **counts, "sources": sources}, union.anchor
    ).save(to)
    return {"table": str(to), "origin": union.origin, "conditions": str(union.conditions), **how}


def fill_table(
    table: Path | str,
    *,
    space: str,
    to: Path,
    measured_for: str = "",
    precision: str | None = None,
    batch: int | None = None,
    by: str = "gaussian_process",
) -> Mapping[str, Any]:
    """Make a table that prices every block of a space, those that nobody measured by prediction from the measured ones, marked row by row.

    measured_for: the space that the table was profiled for, where that is another; its networks that are networks of `space` with the
    same blocks then calibrate the sum for `space`, too. precision, batch: which ones, where the table has prices for several. by: the predictor
    (`hwnas.table_fill.PREDICTORS`). Raises InputError, DamagedFile.
    """
    to, folder = _new_folder(Path(to)), table_folder(table)
    loaded, written = LatencyTable.load(folder), BlockIndex(registry.create("spaces", space))
    variant = variant_for(loaded, written, precision, batch)
    index = variant.index(written)
    networks: tuple[Any, ...] = ()
    if measured_for:
        networks = networks_of(loaded, variant.index(BlockIndex(registry.create("spaces", measured_for))), index)
        if not networks:
            raise InputError(f"the table holds no network of {measured_for} that is one of {space}")
        known = {(each.fingerprint, each.architecture) for each in loaded.networks}
        networks = tuple(each for each in networks if (each.fingerprint, each.architecture) not in known)
    made = filled(replace(loaded, networks=(*loaded.networks, *networks)), index.blocks, by)
    provenance = {**made.provenance, "filled_by": f"hwnas {__version__}", "filled_from_sha256": seal(folder)}
    replace(made, provenance=provenance).save(to)
    return {
        "table": str(to),
        "origin": made.origin,
        "conditions": str(made.conditions),
        "blocks": sum(not isinstance(entry, Failure) for entry in made.entries.values()),
        "predicted": len(made.predicted()),
        "extrapolated": _extrapolated(made),
        "missing": made.missing(index.blocks),
        "networks": sum(each.fingerprint == index.fingerprint for each in made.networks),
        "quality": made.quality.get(QUALITY),
    }


def diff_tables(first: Path | str, second: Path | str, *, across_conditions: bool = False) -> Mapping[str, Any]:
    """Blocks that only one table has, how far common blocks and networks are apart, and what differs in how they were measured.

    Raises InputError where the conditions differ, unless `across_conditions`: then the differences are those of two devices.
    """
    found = difference(LatencyTable.load(table_folder(first)), LatencyTable.load(table_folder(second)))
    if found.conditions and not across_conditions:
        more = f", and {len(found.conditions) - 1} more" if len(found.conditions) > 1 else ""
        raise InputError(f"these tables are of different conditions: {first_of(found.conditions)}{more}; to see them side by side: --across-conditions")
    return {"first": str(first), "second": str(second), "same_conditions": not found.conditions, **asdict(found)}


# -- helpers --------------------------------------------------------------------------------------------------------------------------


def _tables_below(folder: Path) -> list[Path]:
    if (folder / TABLE).is_file():
        return [folder]
    return sorted({path.parent for depth in range(1, _DEPTH + 1) for path in folder.glob("*/" * depth + TABLE)})


def _in_short(name: str, folder: Path) -> Mapping[str, Any]:
    try:
        table = LatencyTable.load(folder)
    except HwnasError as error:
        return {"table": name, "error": str(error)}
    return {
        "table": name,
        "origin": table.origin,
        "conditions": str(table.conditions),
        "processor": table.conditions.processor,
        "variants": [asdict(each) for each in table.variants()],
        "blocks": sum(not isinstance(entry, Failure) for entry in table.entries.values()),
        "predicted": len(table.predicted()),
        "failed": sum(isinstance(entry, Failure) for entry in table.entries.values()),
        "networks": dict(Counter(each.architecture.space for each in table.networks)),
        "date": str(table.provenance.get("date", "")),
    }


def _extrapolated(table: LatencyTable) -> int:
    return sum(isinstance(entry, Predicted) and entry.is_extrapolated for entry in table.entries.values())


def _row(text: str, entry: Measurement | Imported | Predicted) -> Mapping[str, Any]:
    known = {key: value for key, value in asdict(entry).items() if value is not None}
    return {"block": text, "is_predicted": isinstance(entry, Predicted), "price_ms": entry.price_ms, **known}


def _new_folder(to: Path) -> Path:
    """Raises InputError where a table is in it, or is being made in it."""
    taken = [name for name in (TABLE, ENTRIES, NETWORKS, UNFINISHED) if (to / name).exists()]
    if taken:
        raise InputError(f"{to} holds {taken[0]} already: name another folder")
    return to


def _made_now() -> dict[str, str]:
    return {"by": f"hwnas {__version__}", "date": f"{datetime.now(UTC):%Y-%m-%d}"}
