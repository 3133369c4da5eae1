"""`data fetch`, `data list`: tables of published benchmarks, brought from their published addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwnas.benchmark_sources import SOURCES, facts_of, fetch, source_of
from hwnas.verbs.common import Progress, silent


def fetch_data(name: str, *, mirror: str | None = None, file: Path | None = None, sha256: str | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Fetch a benchmark's published file, check its SHA-256, and keep it as a table that the benchmarks read; what is known of it, as `list_data` tells.

    mirror: an https address to fetch it from instead. file: a copy on this machine instead. sha256: the hash that it must have, where none is published.
    Raises UnknownName, InputError, DamagedFile.
    """
    source = source_of(name)
    fetch(source, mirror=mirror, file=file, digest=sha256, received=lambda done, total: progress("fetch", done, max(total, done)))
    return facts_of(source)


def list_data() -> list[dict[str, Any]]:
    """What can be fetched, with licence, address and hash, and what is here. Raises DamagedFile."""
    return [facts_of(source) for source in SOURCES.values()]
