"""The stored field: what the registered searchers found on the tabular benchmarks, seed by seed, so that a new searcher can be seen beside them at once.

`search_field.csv` has a row for each search. It holds no figures of the benchmarks, but which architecture was the best after how many evaluations, as
`evaluations:number`, where the number counts all codes of the space in order. `benchmarks/search_field.py` writes it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from hwnas.errors import DamagedFile
from hwnas.files import csv_text, read_text, write_whole
from hwnas.space import SearchSpace
from hwnas.tabular_benchmark import Trace

FILE = Path(__file__).with_name("search_field.csv")


@dataclass(frozen=True, slots=True)
class FieldRow:
    """A search: the searcher with the options that are not its defaults, the version of hwnas, the digest of the data (TabularBenchmark.data)."""

    benchmark: str
    searcher: str
    seed: int
    evaluations: int
    hwnas: str
    data: str
    best: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.benchmark, self.searcher, self.seed

    def trace(self, space: SearchSpace) -> Trace:
        """Raises DamagedFile."""
        try:
            pairs = np.array([text.split(":") for text in self.best.split()], np.int64).reshape(-1, 2)
            if (np.diff(pairs[:, 0]) <= 0).any() or (pairs[:, 0] < 1).any():
                raise ValueError
            codes = np.stack(np.unravel_index(pairs[:, 1], tuple(space.cardinalities)), axis=1)
            return Trace(self.evaluations, pairs[:, 0], space.check(codes.reshape(-1, len(space.choices))))
        except (ValueError, OverflowError):
            raise DamagedFile(f"the stored field has a search on {self.benchmark} that is none of its space: '{self.best[:60]}'") from None


def best_of(trace: Trace, space: SearchSpace) -> str:
    """A trace as FieldRow.best."""
    numbers = np.ravel_multi_index(tuple(trace.codes.T.astype(np.int64)), tuple(space.cardinalities))
    return " ".join(f"{at}:{number}" for at, number in zip(trace.at.tolist(), numbers.tolist(), strict=True))


def read_field(path: Path = FILE) -> list[FieldRow]:
    """The stored searches; none where there is no file. Raises DamagedFile."""
    if not path.exists():
        return []
    try:
        head, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
    except csv.Error as error:
        raise DamagedFile(f"{path} is no stored field: {error}") from None
    if head != [each.name for each in fields(FieldRow)]:
        raise DamagedFile(f"{path} is no stored field: its columns are others")
    try:
        return [FieldRow(name, searcher, int(seed), int(n), version, data, best) for name, searcher, seed, n, version, data, best in rows]
    except ValueError:
        raise DamagedFile(f"{path} is no stored field: a row of it is none") from None


def write_field(rows: Iterable[FieldRow], path: Path = FILE) -> None:
    """Sorted, each search once, the later of two with one key. Raises InputError where it cannot be written."""
    kept = sorted({row.key: row for row in rows}.items())
    write_whole(path, csv_text([[each.name for each in fields(FieldRow)], *(astuple(row) for _, row in kept)]))
