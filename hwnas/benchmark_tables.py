"""The tables of published benchmarks as gzipped CSV files: where they are, and their columns. None is shipped; `hwnas data fetch` brings them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwnas.data import kept_folder
from hwnas.errors import DamagedFile, InputError
from hwnas.files import MAX_TEXT_BYTES
from hwnas.space import FloatArray

VARIABLE = "HWNAS_DATA"


def fetched_folder() -> Path:
    """Where `hwnas data fetch` puts tables."""
    return kept_folder() / "benchmarks"


def find_table(file: str, remedy: str) -> Path:
    """The table of that name in $HWNAS_DATA, else among those fetched. Raises InputError that ends with the remedy."""
    named = os.environ.get(VARIABLE)
    folders: list[Path] = [Path(named)] if named else []
    for folder in [*folders, fetched_folder()]:
        if (folder / file).is_file():
            return folder / file
    where = f"{VARIABLE} is {named}, which does not have it" if named else f"{VARIABLE} is not set"
    raise InputError(f"there is no {file}: {where}, and it was not fetched; {remedy}")


class Columns:
    """The rows of such a table by column. Raises DamagedFile where it is not one with all columns that are named."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path = path
        try:
            with gzip.open(path, "rb") as file:
                raw = file.read(MAX_TEXT_BYTES + 1)
            if len(raw) > MAX_TEXT_BYTES:
                raise DamagedFile(f"{path} has more than {MAX_TEXT_BYTES:,} bytes; it is no table of a benchmark")
            rows = list(csv.reader(io.StringIO(raw.decode()), strict=True))
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            raise DamagedFile(f"cannot read {path} as a gzipped CSV file: {error}") from None
        head, *self.rows = rows or [[]]
        if missing := [name for name in columns if name not in head]:
            raise DamagedFile(f"{path} has no column '{missing[0]}'")
        if not self.rows or any(len(row) != len(head) for row in self.rows):
            raise DamagedFile(f"{path} has rows of another length than its header, or none")
        self.head = head

    def texts(self, name: str) -> list[str]:
        """(rows,). Raises DamagedFile where there is no such column."""
        if name not in self.head:
            raise DamagedFile(f"{self.path} has no column '{name}'")
        place = self.head.index(name)
        return [row[place] for row in self.rows]

    def numbers(self, name: str, *, missing: bool = False) -> FloatArray:
        """(rows,); with `missing` an empty text is NaN. Raises DamagedFile where another one is no finite number."""
        texts = self.texts(name)
        try:
            values = np.array([np.nan if missing and not text else float(text) for text in texts])
        except ValueError:
            values = np.full(len(texts), np.nan)
        if not all(np.isfinite(value) or (missing and not text) for value, text in zip(values, texts, strict=True)):
            raise DamagedFile(f"{self.path} has something else than numbers in its column '{name}'")
        return values

    def digest(self, *names: str) -> str:
        """12 hexadecimal digits of SHA-256 of these columns, rounded to six digits: which data a result is of, whoever converted it."""
        columns = [[f"{float(text):.6g}" if _is_number(text) else text for text in self.texts(name)] for name in names]
        return hashlib.sha256(repr(columns).encode()).hexdigest()[:12]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
