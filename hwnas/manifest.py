"""`manifest.json`: what a program on the target must know about an exported folder, and the hash of every file in it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import __version__
from hwnas.architecture import Architecture
from hwnas.errors import DamagedFile, InputError
from hwnas.exporter import Exported, Parity
from hwnas.files import read_json, sha256, stays_inside, write_json, write_whole
from hwnas.graph import Graph
from hwnas.weights import Array

FORMAT = "hwnas.manifest/1"
NAME = "manifest.json"
EXAMPLE = "example_input.npy"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the network's input: pixels scaled to `range`, resized to the input's side by bilinear interpolation
    with antialiasing, then (x - mean) / std; mean and std have one number per channel. `crop`: only the central square is resized, whose
    side is that share of the shorter side, rounded; None: the whole image."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, float] = (0.0, 1.0)
    crop: float | None = None


@dataclass(frozen=True, slots=True)
class ExpectedLatency:
    """What the certificate says the network takes, and where: `conditions` names device, runtime and threads.

    plan_sha256: of what the device had built of the file, where it builds something; what it builds another time may take another time.
    """

    measured_ms: float
    upper_bound_ms: float
    statistic: str
    conditions: str
    plan_sha256: str | None = None


def write_manifest(
    folder: Path,
    *,
    exported: Exported,
    graph: Graph,
    architecture: Architecture,
    fingerprint: str,
    preprocessing: Preprocessing,
    labels: Sequence[str],
    example: Array,
    expected: Array,
    parity: Parity,
    latency: ExpectedLatency | None = None,
) -> Path:
    """Writes `example_input.npy` and, last, `manifest.json` with the hash of every file that is in `folder` by then; its path.

    example: one input of the graph's shape; expected: the reference's logits for it (not the exported file's).
    Raises InputError where the parts do not fit each other.
    """
    channels, height, width = graph.input[1:]
    if example.shape != graph.input or expected.shape != graph.output:
        raise InputError(f"the example needs shapes {graph.input} and {graph.output}, got {example.shape} and {expected.shape}")
    if not (len(preprocessing.mean) == len(preprocessing.std) == channels) or min(preprocessing.std) <= 0:
        raise InputError(f"preprocessing needs a mean and a positive std for each of {channels} channels, got {preprocessing.mean} and {preprocessing.std}")
    if len(labels) != graph.output[-1]:
        raise InputError(f"the network has {graph.output[-1]} classes but {len(labels)} labels")
    if not exported.path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"the model {exported.path} is not inside {folder}")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(example, np.float32), allow_pickle=False)
    write_whole(folder / EXAMPLE, buffer.getvalue())
    write_json(
        folder / NAME,
        {
            "format": FORMAT,
            "model": exported.path.resolve().relative_to(folder.resolve()).as_posix(),
            "opset": exported.opset,
            "ir_version": exported.ir_version,
            "input": {"name": "input", "shape": list(graph.input), "dtype": "float32"},
            "output": {"name": "output", "shape": list(graph.output), "dtype": "float32"},
            "preprocessing": asdict(preprocessing) | {"resolution": [height, width], "channels": channels, "resize": "bilinear, antialiased"},
            "labels": list(labels),
            "example": {"input": EXAMPLE, "logits": expected.astype(np.float64).tolist(), "tolerance_std": parity.limit},
            "parity": {"max_abs_difference": parity.max_abs_difference, "logits_std": parity.logits_std, "inputs": parity.inputs},
            "latency": _latency(latency),
            "space": architecture.space,
            "architecture": dict(architecture.values),
            "fingerprint": fingerprint,
            "versions": {"hwnas": __version__} | _versions("onnx", "onnxruntime", "torch", "numpy"),
            "files": {each: sha256(folder / each) for each in _files(folder)},
        },
    )
    return folder / NAME


def _latency(latency: ExpectedLatency | None) -> dict[str, Any] | None:
    return None if latency is None else {key: value for key, value in asdict(latency).items() if value is not None} | {"origin": "measured"}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder whose files are all there, inside it, and unchanged. Raises DamagedFile."""
    path = folder / NAME
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedFile(f"{path} is no manifest of this version (format '{FORMAT}')")
    files = manifest.get("files")
    if not isinstance(files, dict) or manifest.get("model") not in files:
        raise DamagedFile(f"{path} lacks the hashes of its files, the model's among them")
    for name, digest in files.items():
        if not stays_inside(name) or not (folder / name).resolve().is_relative_to(folder.resolve()):  # a link may lead out
            raise DamagedFile(f"{path} names the file '{name}', which lies outside the folder")
        if sha256(folder / name) != digest:
            raise DamagedFile(f"{folder / name} is not the file that {path} was written for (its SHA-256 differs); export it again")
    return manifest


def _files(folder: Path) -> list[str]:
    """Everything a folder holds but its manifest, hidden files and caches; sorted, with forward slashes."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in paths if str(p) != NAME and not any(part.startswith((".", "__pycache__")) for part in p.parts))


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
