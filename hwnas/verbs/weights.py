"""`weights add`, `check`, `list`: files of weights that are kept by their SHA-256, so that a dead link stops nobody twice."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hwnas import kept_weights
from hwnas.verbs.common import Progress, silent


def add_weights(source: str, *, name: str | None = None, sha256: str | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Keep a copy of the file at a path, or at an https URL whose content must have that SHA-256; what is known of it.

    `hwnas train --init NAME` begins with it. Raises InputError, DamagedFile.
    """
    kept = kept_weights.keep(source, name=name, digest=sha256, received=lambda done, total: progress("fetch", done, max(total, done)))
    return {**asdict(kept), "file": str(kept.path)}


def list_weights() -> list[dict[str, Any]]:
    """What is kept, by name. Raises DamagedFile."""
    return [{**asdict(each), "file": str(each.path)} for each in kept_weights.kept()]


def check_weights() -> list[dict[str, Any]]:
    """The same with `fault`, in words, of each file whose content is no longer what was kept; empty where it is."""
    return [{**asdict(each), "file": str(each.path), "fault": kept_weights.fault_of(each)} for each in kept_weights.kept()]
