"""A fitted predictor in a file: safetensors, with the rest as JSON in its metadata. Never a pickle: such files come from anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwnas.errors import DamagedFile
from hwnas.files import parse_json, write_whole

MAX_BYTES = 1 << 28


def save_predictor(path: Path, kind: str, facts: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a model of format `kind`, such as "hwnas.kernel_forest/1": whole or not at all."""
    from safetensors.numpy import save

    write_whole(path, save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {"format": kind, "facts": json.dumps(dict(facts))}))


def load_predictor(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Its facts and tensors, numbers all finite. Raises DamagedFile; what the tensors must be is the caller's to check."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedFile(f"{path} has {path.stat().st_size:,} bytes, over the limit of {MAX_BYTES:,} for a predictor")
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != kind:
                raise DamagedFile(f"{path} has the format {str(metadata.get('format'))[:60]!r}, here '{kind}' is wanted")
            tensors = {name: np.asarray(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, MemoryError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"{path} is not a readable predictor: {' '.join(str(error).split())}") from None
    try:
        facts = parse_json(metadata.get("facts", ""))
    except (ValueError, RecursionError):
        raise DamagedFile(f"{path} has no readable facts in its metadata") from None
    if not isinstance(facts, dict):
        raise DamagedFile(f"{path} has no facts in its metadata")
    if not all(array.dtype.kind in "iuf" and np.isfinite(array).all() for array in tensors.values()):
        raise DamagedFile(f"{path} holds numbers that are not finite")
    return facts, tensors
