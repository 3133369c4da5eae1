"""Where the latency goes, as a flame-like bar: parts in a row that together are the whole, and below each of them its own parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from hwnas.report_data import Operator, Report
from hwnas.report_words import plain

#: Kinds that have a colour of their own; others share the last one.
COLOURS = 8


@dataclass(frozen=True, slots=True)
class Part:
    """One leaf: its names from the coarsest to the finest, its share, its kind, and what is said of it."""

    path: tuple[str, ...]
    share: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle: where it begins and how wide it is in per cent of the whole, and in which row; `colour` from 0 to COLOURS - 1."""

    name: str
    text: str
    begin_pct: float
    width_pct: float
    row: int
    colour: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What is of one kind: how many leaves, and their share of the whole."""

    name: str
    count: int
    share: float
    colour: int


@dataclass(frozen=True, slots=True)
class Flame:
    """`rows` of cells, the leaves in the last one, and the kinds of the leaves, that of the greatest share first."""

    cells: tuple[Cell, ...]
    rows: int
    kinds: tuple[Kind, ...]


def layers_flame(report: Report) -> Flame | None:
    """Stages and layers of the chosen subnet by predicted latency; None where there are none. Colours are the stages'."""
    parts = []
    for each in report.layers:
        name, stage = plain(each.name), plain(each.name).partition(".")[0]
        parts.append(Part((stage, name), each.share, stage, name))
    return flame(parts)


def operators_flame(operators: Sequence[Operator]) -> Flame | None:
    """Layers and operators of the chosen file by their shares of a profiled run; colours are the operators' kinds."""
    parts = []
    for each in operators:
        layer, name, kind = plain(each.layer), plain(each.name), plain(each.kind)
        parts.append(Part((layer, name.removeprefix(f"{layer}/")), each.share, kind, f"{name}: {kind}"))
    return flame(parts)


def flame(parts: Iterable[Part]) -> Flame | None:
    """Parts in their order, neighbours under one name drawn as one above them; None where nothing has a share."""
    kept = [each for each in parts if math.isfinite(each.share) and each.share > 0]
    total = sum(each.share for each in kept)
    if not total > 0:
        return None
    kinds = _kinds(kept, total)
    colours = {each.name: each.colour for each in kinds}
    begins = [0.0]
    for each in kept:
        begins.append(begins[-1] + 100 * each.share / total)
    cells: list[Cell] = []
    rows = len(kept[0].path)
    for row in range(rows):
        for _, group in groupby(range(len(kept)), key=lambda i, row=row: kept[i].path[: row + 1]):  # type: ignore[misc]
            members = list(group)
            first, last = members[0], members[-1]
            width = begins[last + 1] - begins[first]
            name = kept[first].path[row]
            is_leaf = row == rows - 1 and first == last
            cells.append(Cell(name, kept[first].text if is_leaf else name, round(begins[first], 3), round(width, 3), row, _colour(kept, members, colours)))
    return Flame(tuple(cells), rows, kinds)


def _kinds(parts: Sequence[Part], total: float) -> tuple[Kind, ...]:
    names = dict.fromkeys(each.kind for each in parts)
    sums = {name: (sum(each.kind == name for each in parts), sum(each.share for each in parts if each.kind == name) / total) for name in names}
    ordered = sorted(sums.items(), key=lambda item: -item[1][1])
    return tuple(Kind(name, count, share, min(i, COLOURS - 1)) for i, (name, (count, share)) in enumerate(ordered))


def _colour(parts: Sequence[Part], members: Sequence[int], colours: dict[str, int]) -> int:
    """Of a leaf its kind's; of what is above leaves that of the kind which has most of it."""
    sums: dict[str, float] = {}
    for i in members:
        sums[parts[i].kind] = sums.get(parts[i].kind, 0.0) + parts[i].share
    return colours[max(sums, key=lambda name: sums[name])]
