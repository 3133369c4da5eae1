"""`export`: the certified network as a folder that an application team can ship and check without hwnas."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from hwnas.architecture import Architecture
from hwnas.backends.torch import torch as torch_backend
from hwnas.errors import DamagedFile, HwnasError, InputError
from hwnas.exporter import Parity, parity
from hwnas.exporters.onnx import onnx, write_model
from hwnas.files import read_json, write_json, write_whole
from hwnas.kit import copy_kit
from hwnas.manifest import FORMAT, NAME, ExpectedLatency, Preprocessing, write_manifest
from hwnas.profiling.agent import PLAN
from hwnas.quantization import is_quantized
from hwnas.verbs.common import Job, Progress, existing, silent
from hwnas.verbs.deployed import graph_of
from hwnas.weights import Array

PARITY_INPUTS = 64
KIT = "onnxruntime_python"


def export(run: Path, *, to: Path, kit: str = KIT, progress: Progress = silent) -> Mapping[str, Any]:
    """Write the certified network of `run` into the new folder `to`: ONNX file, weights, certificate, manifest, and a kit to run it.

    The file is the one that was measured, byte for byte. Its logits are compared with the PyTorch subnet's on random inputs and on
    validation images first. A network that was trained alone has no certificate, and its manifest no latency. The folder appears
    complete or not at all, and takes the place of an earlier export if nobody has put anything else there. Returns the stage's result. Raises HwnasError.
    """
    with existing(run) as directory:
        job, target = Job(directory), Path(to).resolve()
        is_alone = directory.recorded_options("train") is not None and job.options("train").get("architecture") is not None
        certificate = None if is_alone else job.result("verify")["certificate"]
        if is_alone:
            job.result("train")
        elif certificate is None:
            raise InputError(f"{directory.folder} has no certified network to export; allow more with a new search, or see: hwnas report {directory.folder}")
        check_target(target)
        staged = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
        try:
            result = _export(job, certificate, staged, kit, progress)
            _replace(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        result = {**result, "folder": str(target)}
        directory.finish("export", result)
        return result


def check_target(folder: Path) -> None:
    """Raises InputError where `folder` is a file, or holds anything that is not part of an earlier export: it would be lost."""
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"{folder} is a file; name a folder")
        return
    try:
        manifest = read_json(folder / NAME)
    except DamagedFile:
        manifest = None
    ours = manifest.get("files") if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None
    known = {NAME, *ours} if isinstance(ours, dict) else set()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_dir() and relative.as_posix() not in known and "__pycache__" not in relative.parts:
            raise InputError(f"{folder} holds {relative.as_posix()}, which no export wrote; name another folder, or move it away")


def _replace(staged: Path, target: Path) -> None:
    """Move a complete folder to where it belongs; what was there stays until then. Raises InputError."""
    before = staged.with_suffix(".old")
    try:
        if target.exists():
            target.replace(before)
        staged.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}; name another folder") from None
    shutil.rmtree(before, ignore_errors=True)


def _export(job: Job, certificate: Mapping[str, Any] | None, folder: Path, kit: str, progress: Progress) -> dict[str, Any]:
    from safetensors.numpy import save

    progress("export", 0, 3)
    space, images = job.index.space, job.images("validation")
    code = space.encode(certificate["architecture"])[0] if certificate is not None else space.largest()[0]
    network = job.accuracy.network(code)
    weights, graph = network.weights(), space.lower(code) if certificate is None else graph_of(job, code)
    write_whole(folder / "weights.safetensors", save({name: np.ascontiguousarray(array) for name, array in weights.items()}))
    architecture = Architecture.of(space, code[None])
    write_whole(folder / "architecture.json", architecture.to_json())
    if certificate is None:
        exported = onnx(graph, weights, folder / "model.onnx")
    else:
        write_json(folder / "certificate.json", certificate)
        # The bytes that were measured: made again they could differ in the last bits, for batch-norm sums depend on the number of threads.
        exported = write_model(job.run.store.blob(certificate["model_sha256"]), folder / "model.onnx")
    progress("export", 1, 3)
    batch = graph.input[0]
    n = min(max(PARITY_INPUTS // batch, 1), len(images) // batch) * batch
    if n == 0:
        raise InputError(f"the validation images are {len(images)}, fewer than a batch of {batch}: a file of that batch cannot be checked")
    real = images.at(slice(n), graph.input[2]).numpy()
    noise: Array = np.random.default_rng(0).standard_normal(real.shape).astype(np.float32)
    inputs = {"real": real} if is_quantized(graph) else {"real": real, "random": noise}  # noise is outside of the ranges of real images
    checks = {name: parity(graph, weights, exported.path, x, reference=torch_backend(graph, weights)) for name, x in inputs.items()}
    failed = [name for name, check in checks.items() if not check.passed]
    if failed:
        worst = checks[failed[0]]
        raise HwnasError(f"the exported file differs from the trained network by {worst.ratio:.3g} of the logits' standard deviation on {failed[0]} inputs")
    progress("export", 2, 3)
    if kit:
        copy_kit(kit, folder)
    manifest = write_manifest(
        folder,
        exported=exported,
        graph=graph,
        architecture=architecture,
        fingerprint=job.index.fingerprint,
        preprocessing=Preprocessing(mean=images.mean, std=images.std, crop=images.crop),
        labels=images.classes,
        example=real[:batch],
        expected=torch_backend(graph, weights)(real[:batch]),
        parity=checks["real"],
        latency=None if certificate is None else _latency(certificate),
    )
    progress("export", 3, 3)
    return {
        "parity": {name: _facts(check) for name, check in checks.items()},
        "model_sha256": exported.sha256,
        "size_bytes": exported.size_bytes,
        "manifest": manifest.name,
        "kit": kit,
    }


def _latency(certificate: Mapping[str, Any]) -> ExpectedLatency:
    conditions = certificate["conditions"]
    where = f"{conditions['device']}, {conditions['runtime']} {conditions['version']}, {conditions['threads']} thread(s), {conditions['processor']}"
    return ExpectedLatency(certificate["measured_ms"], certificate["upper_bound_ms"], certificate["statistic"], where, certificate.get(PLAN))


def _facts(check: Parity) -> dict[str, Any]:
    return asdict(check) | {"ratio": check.ratio, "passed": check.passed}
