"""Exported folders for tests: the smallest network of ofa_mini with random weights, as `hwnas export` lays them out; and the kits run on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import native_agents
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from hwnas.architecture import Architecture
from hwnas.backends.onnx import to_onnx
from hwnas.backends.torch import torch as torch_backend
from hwnas.data import shipped
from hwnas.errors import InputError
from hwnas.exporter import compare
from hwnas.exporters.onnx import write_model
from hwnas.files import write_whole
from hwnas.images import centre, resized
from hwnas.index import BlockIndex
from hwnas.interface import Interface, facts_of, with_interface
from hwnas.kit import copy_kit
from hwnas.manifest import ExpectedLatency, Preprocessing, write_manifest
from hwnas.profiling.web_runtime import web_runtime
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.weights import random_weights

PREPROCESSING = Preprocessing((0.13,), (0.24,))
LABELS = tuple(f"digit {i}" for i in range(10))


def write_export(folder: Path, interface: Interface | None = None, kits: Sequence[str] = ("onnxruntime_python",), crop: float | None = None) -> Path:
    """Its weights are random of a fixed seed; what it should compute comes from PyTorch."""
    face, how = interface or Interface(), Preprocessing(PREPROCESSING.mean, PREPROCESSING.std, crop=crop)
    space, rng = ofa_mini(), np.random.default_rng(5)
    architecture = Architecture.of(space, space.smallest())
    graph = space.lower(space.smallest())
    weights = random_weights(graph, rng)
    core = to_onnx(graph, weights)
    dressed = core if face.is_plain else with_interface(core, face, side=graph.input[2], preprocessing=how, facts=facts_of(how, LABELS, graph.input[2]))
    exported = write_model(dressed.SerializeToString(deterministic=True), folder / "model.onnx")
    write_whole(folder / "architecture.json", architecture.to_json())
    write_whole(folder / "weights.safetensors", save(weights))
    for kit in kits:
        copy_kit(kit, folder)
    pixels = rng.integers(0, 256, (1, *graph.input[2:], 1), np.uint8)
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    small = resized(centre(planes[0], crop)[None].float(), graph.input[2]) if face.input == "image" else planes
    x = ((small.numpy() / 255 - 0.13) / 0.24).astype(np.float32)
    expected = torch_backend(graph, weights)(x)
    write_manifest(
        folder,
        exported=exported,
        graph=graph,
        architecture=architecture,
        fingerprint=BlockIndex(space).fingerprint,
        built_from="ofa_mini",
        preprocessing=how,
        labels=LABELS,
        example=x if face.input == "tensor" else pixels,
        expected=expected,
        parity=compare(expected, expected),
        latency=ExpectedLatency(1.5, 1.6, "p50", "a test"),
        interface=face,
    )
    return folder


@dataclass(frozen=True)
class Ended:
    """How a kit's program ended."""

    code: int
    out: str
    err: str


def run_python(folder: Path, *arguments: object) -> Ended:
    """The kit for Python, which must not find hwnas."""
    return _run([sys.executable, "-I", folder / "onnxruntime_python" / "infer.py", "--runs", 3, *arguments], folder)


def build_cpp(folder: Path) -> Path:
    """The kit for C++, compiled from what a folder with it holds: its program. Skips where the headers or a compiler are missing."""
    include = native_agents.headers()
    native_agents.need("cmake", "c++")
    copy_kit("onnxruntime_cpp", folder)
    options = [f"-DONNXRUNTIME_INCLUDE_DIR={include}", f"-DONNXRUNTIME_LIB_DIR={native_agents.library()}"]
    for command in (["cmake", "-S", folder / "onnxruntime_cpp", "-B", folder / "build", *options], ["cmake", "--build", folder / "build"]):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "warning" not in done.stdout + done.stderr, done.stdout + done.stderr
    return folder / "build" / "infer"


def run_cpp(program: Path, folder: Path, *arguments: object) -> Ended:
    return _run([program, "--folder", folder, "--runs", 3, *arguments], folder)


def need_browser() -> str:
    """A browser of Chromium's family. Skips where there is none, or no ONNX Runtime Web."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    try:
        web_runtime()
    except InputError as error:
        pytest.skip(f"onnxruntime-web cannot be had here: {error}")
    return found


def run_web(browser: str, folder: Path, *arguments: object) -> Ended:
    """The page in a real browser without a window, through the kit's own server."""
    command = [sys.executable, "-I", folder / "web" / "serve.py", "--once", "--browser", browser, "--browser-option=--no-sandbox", *arguments]
    return _run(command, folder)


def _run(command: Sequence[object], folder: Path) -> Ended:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder.parent, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return Ended(done.returncode, done.stdout, done.stderr)


def kit_file(*parts: str) -> Path:
    return shipped("export").joinpath(*parts)
