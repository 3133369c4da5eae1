"""The one shape of YAML that latency tables of the literature have: a mapping of mappings of numbers.

Written for that shape and nothing else: no tags, anchors, aliases, lists or further nesting, so there is nothing to construct, expand or
recurse into. Block style (a number per line) and flow style (`key: {a: 1, b: 2}`, also over several lines) are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from hwnas.errors import DamagedFile
from hwnas.files import read_text

MAX_BYTES = 16 << 20
MAX_ENTRIES = 100_000

Numbers: TypeAlias = dict[str, int | float]

_LONGEST_LINE = 1_000
_KEY = r"[A-Za-z0-9_][A-Za-z0-9_.:/+()=-]*"
_ENTRY = re.compile(rf"(?:({_KEY})|'({_KEY})'|\"({_KEY})\"):(?: +(.*))?")
_NAME = r"([A-Za-z_][A-Za-z0-9_]{0,40})"
_NUMBER = r"([+-]?(?:0|[1-9][0-9]{0,40})(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,4})?)"  # `010` is octal, `1_0` ten and `1:30` ninety, to some parsers
_ITEM = re.compile(rf"{_NAME}: +{_NUMBER}")
_COMMENT = re.compile(r"(?:^| )#.*")


def read_flat_yaml(path: Path) -> dict[str, Numbers]:
    """Key -> name -> number, in the order of the file. Raises DamagedFile with the line that is anything else."""
    text = read_text(path, MAX_BYTES)
    if not text.endswith("\n"):
        raise DamagedFile(f"{path} does not end with a line break: it was cut short")  # a number cut short is still a number
    table: dict[str, Numbers] = {}
    lines = _lines(text, path)
    pending: tuple[str, str] | None = next(lines, None)
    if pending is not None and pending[1] == "---":
        pending = next(lines, None)
    while pending is not None:
        where, line = pending
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise _refused(where, line, "'key:'")
        key = found[1] or found[2] or found[3]
        if key in table:
            raise DamagedFile(f"{where}: '{key[:120]}' has an entry already")
        if len(table) == MAX_ENTRIES:
            raise DamagedFile(f"{path} has more than {MAX_ENTRIES:,} entries")
        table[key], pending = _flow(found[4], where, lines) if found[4] else _block(where, lines)
    if not table:
        raise DamagedFile(f"{path} holds no entries")
    return table


def flat_yaml(table: Mapping[str, Mapping[str, int | float]]) -> str:
    """The same in block style, as PyYAML reads it back; keys sorted."""
    entries = (f"{key}:\n" + "".join(f"  {name}: {_written(value)}\n" for name, value in table[key].items()) for key in sorted(table))
    return "".join(entries)


def _written(value: int | float) -> str:
    mantissa, e, exponent = repr(value).partition("e")
    return repr(value) if not e or "." in mantissa else f"{mantissa}.0e{exponent}"  # YAML 1.1 reads 1e-05 as text


def _lines(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """(where, line) without comments, trailing spaces and empty lines."""
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}:{number}"
        if len(line) > _LONGEST_LINE:
            raise DamagedFile(f"{where} has {len(line):,} characters: no line of a latency table has more than {_LONGEST_LINE:,}")
        line = _COMMENT.sub("", line).rstrip(" ")
        if line:
            yield where, line


def _block(where: str, lines: Iterator[tuple[str, str]]) -> tuple[Numbers, tuple[str, str] | None]:
    """The indented `name: number` lines that follow, and the first line after them."""
    numbers: Numbers = {}
    indent = ""
    for here, line in lines:
        if not line.startswith(" "):
            return _filled(numbers, where), (here, line)
        item = line.lstrip(" ")
        indent = indent or line[: len(line) - len(item)]
        if line != indent + item:
            raise DamagedFile(f"{here} is not indented as the line before it: of YAML only mappings of mappings of numbers are read")
        _add(numbers, item, here)
    return _filled(numbers, where), None


def _flow(text: str, where: str, lines: Iterator[tuple[str, str]]) -> tuple[Numbers, tuple[str, str] | None]:
    """The numbers in braces, which may go on in indented lines, and the first line after them."""
    if not text.startswith("{"):
        raise _refused(where, text, "a mapping of numbers")
    while not text.endswith("}"):
        here, line = next(lines, (where, ""))
        if not line.startswith(" ") or len(text) > _LONGEST_LINE:
            raise _refused(here, text, "'{name: number, ...}'")
        text = f"{text} {line.lstrip(' ')}"
    numbers: Numbers = {}
    for item in text[1:-1].split(","):
        _add(numbers, item.strip(" "), where)
    return numbers, next(lines, None)


def _add(numbers: Numbers, item: str, where: str) -> None:
    found = _ITEM.fullmatch(item)
    if found is None:
        raise _refused(where, item, "'name: number'")
    name, text = found[1], found[2]
    value = int(text) if re.fullmatch("[+-]?[0-9]+", text) else float(text)
    if name in numbers:
        raise DamagedFile(f"{where}: '{name}' is given twice")
    if not math.isfinite(value):
        raise DamagedFile(f"{where}: {text} is out of range")
    numbers[name] = value


def _filled(numbers: Numbers, where: str) -> Numbers:
    if not numbers:
        raise DamagedFile(f"{where}: this entry has no numbers; of YAML only mappings of mappings of numbers are read")
    return numbers


def _refused(where: str, text: str, expected: str) -> DamagedFile:
    return DamagedFile(
        f"{where}: expected {expected}, got '{text[:80]}': of YAML only mappings of mappings of numbers are read, and never tags, anchors or aliases"
    )
