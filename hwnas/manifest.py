"""`manifest.json`: what a program on the target must know about an exported folder, and the hash of every file in it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
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
from hwnas.interface import Interface, Preprocessing
from hwnas.weights import Array

__all__ = ["EXAMPLE", "FORMAT", "NAME", "ExpectedLatency", "Preprocessing", "manifest_of", "read_manifest", "write_manifest"]

FORMAT = "hwnas.manifest/1"
NAME = "manifest.json"
EXAMPLE = "example_input.npy"


@dataclass(frozen=True, slots=True)
class ExpectedLatency:
    """What the network takes by its certificate, and where: `conditions` names device, runtime, threads and regime.

    claim: `measured` where no budget was certified: of a file in another precision than the certified one, measured when it was exported.
    plan_sha256: of what the device had built of the file, where it builds something; what it builds another time may take another time.
    model_sha256, covers: of the file that was measured, and what of the shipped one it is, where they are not the same.
    """

    measured_ms: float
    upper_bound_ms: float
    statistic: str
    conditions: str
    plan_sha256: str | None = None
    model_sha256: str | None = None
    covers: str | None = None
    claim: str | None = None


def manifest_of(
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
    interface: Interface | None = None,
    precision: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
    built_from: str | None = None,
) -> dict[str, Any]:
    """A manifest but for the hashes of files, and for the model's place.

    example: one input as the file takes it; expected: the reference's logits for it (not the exported file's), also where the file gives
    probabilities. interface: of the file; plain by default. precision: `name`, and how it was come by. accuracy: of the file, measured.
    built_from: the space as the run names it, with its arguments. Raises InputError where the parts do not fit each other.
    """
    face = interface or Interface()
    channels, height, width = graph.input[1:]
    fed = {"tensor": graph.input[1:], "pixels": (height, width, channels), "image": (*example.shape[1:3], channels)}[face.input]
    if example.shape != (graph.input[0], *fed) or expected.shape != graph.output:
        raise InputError(f"the example needs shapes {(graph.input[0], *fed)} and {graph.output}, got {example.shape} and {expected.shape}")
    if not (len(preprocessing.mean) == len(preprocessing.std) == channels) or min(preprocessing.std) <= 0:
        raise InputError(f"preprocessing needs a mean and a positive std for each of {channels} channels, got {preprocessing.mean} and {preprocessing.std}")
    if len(labels) != graph.output[-1]:
        raise InputError(f"the network has {graph.output[-1]} classes but {len(labels)} labels")
    return {
        "format": FORMAT,
        "model": exported.path.name,
        "opset": exported.opset,
        "ir_version": exported.ir_version,
        "input": _input(face, graph),
        "output": _output(face, graph),
        "preprocessing": asdict(preprocessing) | {"resolution": [height, width], "channels": channels, "resize": "bilinear, antialiased"},
        "labels": list(labels),
        "example": {"input": EXAMPLE, "logits": expected.astype(np.float64).tolist(), "tolerance_std": parity.limit},
        "parity": {"max_abs_difference": parity.max_abs_difference, "logits_std": parity.logits_std, "inputs": parity.inputs}
        | ({} if parity.rms_difference is None else {"rms_difference": parity.rms_difference}),
        "latency": _latency(latency),
        "precision": dict(precision or {"name": "fp32"}),
        "accuracy": None if accuracy is None else dict(accuracy),
        "space": architecture.space,
        "built_from": built_from,
        "architecture": dict(architecture.values),
        "fingerprint": fingerprint,
        "versions": {"hwnas": __version__} | _versions("onnx", "onnxruntime", "torch", "numpy"),
    }


def write_manifest(folder: Path, *, exported: Exported, example: Array, **parts: Any) -> Path:
    """Writes `example_input.npy` and, last, `manifest.json` with the hash of every file that is in `folder` by then; its path.

    The parts are those of `manifest_of`. Raises InputError, before anything is written, where they do not fit each other.
    """
    manifest = manifest_of(exported=exported, example=example, **parts)
    if not exported.path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"the model {exported.path} is not inside {folder}")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(example, manifest["input"]["dtype"]), allow_pickle=False)
    write_whole(folder / EXAMPLE, buffer.getvalue())
    model = exported.path.resolve().relative_to(folder.resolve()).as_posix()
    write_json(folder / NAME, {**manifest, "model": model, "files": {each: sha256(folder / each) for each in _files(folder)}})
    return folder / NAME


def _batch(face: Interface, graph: Graph) -> int | str:
    return "batch" if face.free_batch else graph.input[0]


def _input(face: Interface, graph: Graph) -> dict[str, Any]:
    batch, (channels, height, width) = _batch(face, graph), graph.input[1:]
    if face.input == "tensor":
        return {"name": face.input_name, "kind": "tensor", "shape": [batch, channels, height, width], "dtype": "float32"}
    sides: list[int | str] = [height, width] if face.input == "pixels" else ["height", "width"]
    return {"name": face.input_name, "kind": face.input, "shape": [batch, *sides, channels], "dtype": "uint8"}


def _output(face: Interface, graph: Graph) -> dict[str, Any]:
    kind = "probabilities" if face.softmax else "logits"
    return {"name": face.output_name, "kind": kind, "shape": [_batch(face, graph), *graph.output[1:]], "dtype": "float32"}


def _latency(latency: ExpectedLatency | None) -> dict[str, Any] | None:
    return None if latency is None else {key: value for key, value in asdict(latency).items() if value is not None} | {"origin": "measured"}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder whose files are all there, inside it, and unchanged. Raises DamagedFile."""
    path = folder / NAME
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedFile(f"{path} is no manifest of this version (format '{FORMAT}')")
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("model"), str) or manifest["model"] not in files:
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
