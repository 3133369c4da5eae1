"""Two latency tables side by side: which conditions differ, how far common rows do, and their union where that is sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.latency_table import Entry, Failure, Imported, LatencyTable, Measurement, NetworkMeasurement
from hwnas.space import FloatArray

#: Facts of the protocol that say how much was measured, not how: they may differ between tables that are merged.
_HOW_MUCH = {"space", "visits", "networks", "seed", "anchor_wait_s", "most_dropped", "round_spacing_s"}

MOST_SHIFT = 0.05  # median difference of common rows: beyond it the device ran at another speed, and a sum would mix two devices
_ANCHOR_TOLERANCE = 0.10  # where the protocol says nothing else


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the second table is from the first, over what both have: relative differences (second - first) / first.

    `median` is signed, `median_absolute` and `p90_absolute` are not; `worst` is a block's text, or a network's values.
    """

    n: int
    median: float
    median_absolute: float
    p90_absolute: float
    worst: Any
    worst_first_ms: float
    worst_second_ms: float
    worst_relative: float


@dataclass(frozen=True, slots=True)
class Difference:
    """`conditions`: what differs, name -> both values. `common` and `networks` are None where the tables share no row."""

    conditions: Mapping[str, tuple[Any, Any]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    common: Spread | None
    networks: Spread | None


def other_conditions(first: LatencyTable, second: LatencyTable) -> dict[str, tuple[Any, Any]]:
    """What differs in how the two were measured, most telling first: name -> both values, None where one does not say.

    Origin, conditions, options, the protocol but for how much was measured, and the agent: other code times other things.
    """
    facts = [_how(table) for table in (first, second)]
    names = dict.fromkeys([*facts[0], *facts[1]])
    return {name: (facts[0].get(name), facts[1].get(name)) for name in names if facts[0].get(name) != facts[1].get(name)}


def _how(table: LatencyTable) -> dict[str, Any]:
    conditions = asdict(table.conditions)
    options = conditions.pop("options")
    protocol = {f"protocol.{key}": value for key, value in table.protocol.items() if key not in _HOW_MUCH}
    agent = {"agent_sha256": table.provenance["agent_sha256"]} if "agent_sha256" in table.provenance else {}
    return {"origin": table.origin, **conditions, **{f"options.{key}": value for key, value in options.items()}, **protocol, **agent}


def difference(first: LatencyTable, second: LatencyTable) -> Difference:
    """What one has that the other lacks, and how far apart they are. Blocks that failed count as lacking."""
    ours, theirs = _priced(first), _priced(second)
    both = {text: (ours[text].price_ms, theirs[text].price_ms) for text in sorted(ours.keys() & theirs.keys())}
    here, there = ({_network_key(each): each for each in table.networks} for table in (first, second))
    networks = [(dict(here[key].architecture.values), (here[key].p50_ms, there[key].p50_ms)) for key in sorted(here.keys() & there.keys())]
    return Difference(
        other_conditions(first, second),
        tuple(sorted(ours.keys() - theirs.keys())),
        tuple(sorted(theirs.keys() - ours.keys())),
        _spread(list(both.items())),
        _spread(networks),
    )


def merged(first: LatencyTable, second: LatencyTable) -> tuple[LatencyTable, dict[str, Any]]:
    """(a table of all rows of both, how they were united). Raises InputError where they are not of one device in one state, or emulated.

    Of a row that both have, the one with more accepted visits is kept (more runs, where imported), the first table's where they are
    equal; of a network the one with more visits. Quality figures are of neither table alone and are left out; the provenance is to be
    added by who knows the files.
    """
    for table in (first, second):
        table.refuse_emulated("they are not merged with others")
    found = difference(first, second)
    if found.conditions:
        raise InputError(f"tables of different conditions are not merged: {first_of(found.conditions)}")
    _refuse_other_speed(first, second)
    if found.common is not None and abs(found.common.median) > MOST_SHIFT:
        raise InputError(
            f"the {found.common.n} blocks that both tables hold take {100 * found.common.median:+.1f} % in the second (median, at most {100 * MOST_SHIFT:g} % "
            f"either way): the device was not in one state; compare them with: hwnas table diff, and measure one of them again"
        )
    entries: dict[str, Entry] = dict(first.entries)
    replaced = 0
    for text, entry in second.entries.items():
        if text not in entries or _weight(entry) > _weight(entries[text]):
            replaced += text in entries
            entries[text] = entry
    networks = {_network_key(each): each for each in first.networks}
    for each in second.networks:
        key = _network_key(each)
        if key not in networks or each.visits > networks[key].visits:
            networks[key] = each
    how = {
        "blocks": len(entries),
        "networks": len(networks),
        "common_blocks": found.common.n if found.common else 0,
        "taken_from_second": replaced,
        "common": asdict(found.common) if found.common else None,
        "common_networks": asdict(found.networks) if found.networks else None,
    }
    protocol = {key: value for key, value in first.protocol.items() if second.protocol.get(key) == value}
    anchor = min((first, second), key=lambda table: _best_us(table) or np.inf).anchor
    union = replace(first, entries=entries, networks=tuple(networks.values()), protocol=protocol, provenance={}, anchor=anchor, quality={})
    return union, how


def first_of(conditions: Mapping[str, tuple[Any, Any]]) -> str:
    """The first of the conditions that differ, in words."""
    name, (here, there) = next(iter(conditions.items()))
    return f"{name} is {_said(here)} in the first and {_said(there)} in the second"


def _refuse_other_speed(first: LatencyTable, second: LatencyTable) -> None:
    """Raises InputError where the anchors of both say that the device was not at one speed, as far as both have the same."""
    here, there = _best_us(first), _best_us(second)
    if here is None or there is None or first.anchor.get("block") != second.anchor.get("block"):
        return
    said = first.protocol.get("anchor_tolerance")
    tolerance = said if isinstance(said, float) else _ANCHOR_TOLERANCE
    if max(here, there) > (1 + tolerance) * min(here, there):
        raise InputError(
            f"the anchor took {here:.4g} us at best in the first table and {there:.4g} us in the second, over {100 * tolerance:g} % apart: "
            "the device was not at one speed; measure one of them again"
        )


def _best_us(table: LatencyTable) -> float | None:
    best = table.anchor.get("best_us")
    return float(best) if isinstance(best, int | float) and best > 0 else None


def _priced(table: LatencyTable) -> dict[str, Measurement | Imported]:
    return {text: entry for text, entry in table.entries.items() if not isinstance(entry, Failure)}


def _weight(entry: Entry) -> int:
    """What a row rests on; -1 for a failure, which any measurement replaces."""
    return -1 if isinstance(entry, Failure) else entry.runs if isinstance(entry, Imported) else entry.accepted


def _network_key(network: NetworkMeasurement) -> tuple[str, str]:
    return network.fingerprint, repr(sorted(network.architecture.values.items()))


def _spread(rows: list[tuple[Any, tuple[float, float]]]) -> Spread | None:
    if not rows:
        return None
    times: FloatArray = np.array([both for _, both in rows], np.float64)  # (n, 2)
    relative = times[:, 1] / times[:, 0] - 1
    worst = int(np.argmax(np.abs(np.log(times[:, 1] / times[:, 0]))))  # half as long is as far off as twice as long
    return Spread(
        n=len(rows),
        median=float(np.median(relative)),
        median_absolute=float(np.median(np.abs(relative))),
        p90_absolute=float(np.quantile(np.abs(relative), 0.9)),
        worst=rows[worst][0],
        worst_first_ms=float(times[worst, 0]),
        worst_second_ms=float(times[worst, 1]),
        worst_relative=float(relative[worst]),
    )


def _said(value: Any) -> str:
    return "not said" if value is None else f"'{str(value)[:100]}'"
