"""`doctor`: what works on this machine, and what brings the rest.

Every package is imported in a process of its own, which ends without tearing it down: one that crashes the interpreter is a row of
the table like any other.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hwnas.data import shipped
from hwnas.latency_table import TABLE, LatencyTable

State: TypeAlias = Literal["works", "note", "missing", "broken"]

IMPORT_SECONDS = 60.0
LOW_DISK_BYTES = 2 << 30  # the demo's run, table and export take about a tenth of it
COARSE_CLOCK_NS = 1_000  # small blocks run for some 10 microseconds


@dataclass(frozen=True, slots=True)
class Finding:
    """`found` says what is there; `advice` what to do about what is not, or what it is good for; `needed` by the main job."""

    what: str
    state: State
    found: str
    advice: str = ""
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Package:
    """Something to import. `facts`: Python that makes `found`, a list of texts, of the module `m`. `extra` of hwnas that brings it, "" for none."""

    distribution: str
    module: str
    facts: str = "found = []"
    extra: str = ""
    purpose: str = ""


PACKAGES = (
    Package(
        "torch",
        "torch",
        """
found = [f"CPU, {m.get_num_threads()} threads"]
found += [f"CUDA {i}: {m.cuda.get_device_name(i)}" for i in range(m.cuda.device_count())] or ["no CUDA device"]
found += ["MPS"] if m.backends.mps.is_available() else []
""",
    ),
    Package("onnxruntime", "onnxruntime", "found = m.get_available_providers()"),
    Package("onnx", "onnx", "found = [f'opset {m.defs.onnx_opset_version()}']"),
    Package("numpy", "numpy"),
    Package("scipy", "scipy"),
    Package("safetensors", "safetensors"),
    Package(
        "onnxruntime-ep-openvino",
        "onnxruntime_ep_openvino",
        """
import onnxruntime
onnxruntime.register_execution_provider_library(m.get_ep_name(), m.get_library_path())
offered = {each.device.type.name for each in onnxruntime.get_ep_devices() if each.ep_name == m.get_ep_name()}
found = [f"offers {', '.join(sorted(offered)) or 'none of these processors'}"]
""",
        extra="openvino",
        purpose="the device openvino",
    ),
    Package("scikit-learn", "sklearn", extra="demo", purpose="the images of the demo"),
    Package("tensorboard", "tensorboard", extra="tensorboard", purpose="hwnas train --tensorboard"),
    Package("optuna", "optuna", extra="optuna", purpose="the searchers nsga2, nsga3, tpe and gp"),
    Package("cmaes", "cmaes", extra="cmaes", purpose="the searchers cma_es and catcma"),
    Package("ray", "ray", extra="ray", purpose="--executor ray: evaluations and devices on many machines"),
    Package("timm", "timm", extra="timm", purpose="networks of timm in hwnas bench --zoo"),
    Package("tensorrt", "tensorrt", extra="tensorrt", purpose="the runtime tensorrt"),
    Package("tensorrt-rtx-cu13-bindings", "tensorrt_rtx_bindings", extra="tensorrt-rtx", purpose="the runtime tensorrt_rtx; without a GPU, parser checks"),
)


@dataclass(frozen=True, slots=True)
class TensorRtPath:
    """A way to TensorRT that hwnas has code for: its runtime, and how its version begins."""

    what: str
    runtime: str
    version: str


TENSORRT_PATHS = (
    TensorRtPath("TensorRT 10.3 (JetPack 6)", "tensorrt", "10.3."),
    TensorRtPath("TensorRT 10.16", "tensorrt", "10.16."),
    TensorRtPath("TensorRT 11", "tensorrt", "11."),
    TensorRtPath("TensorRT for RTX", "tensorrt_rtx", "1."),
)

#: The package's own prints go to stderr; leaving by `_exit` skips what some packages crash in at the end.
_IMPORT = """
import importlib, json, os, sys
answer = os.dup(1)
os.dup2(2, 1)
try:
    m = importlib.import_module({module!r})
    names = {{"m": m}}
    exec({facts!r}, names)
    said = {{"version": str(getattr(m, "__version__", "")), "found": [str(each) for each in names["found"]]}}
except BaseException as error:
    said = {{"error": f"{{type(error).__name__}}: {{error}}"}}
os.write(answer, json.dumps(said).encode())
os._exit(0)
"""


def doctor(folder: Path = Path()) -> tuple[Finding, ...]:
    """What works here: the machine as hwnas measures on it, free disk of `folder`, and each package; never raises, changes nothing."""
    machine = [("python", _python), ("processor", _processor), ("governor", _governor), ("CPU pressure", _pressure), ("clock", _clock)]
    rows = [_isolated(what, probe) for what, probe in machine]
    rows.append(_isolated("disk", lambda: _disk(Path(folder))))
    rows.append(_isolated("adb", _adb))
    with ThreadPoolExecutor(2) as pool:
        rows += pool.map(probe_package, PACKAGES)
    tables = shipped("latency_tables")
    return (*rows, *(_isolated(path.what, partial(tensorrt_path, path, tables)) for path in TENSORRT_PATHS))


def probe_package(package: Package) -> Finding:
    """Whether a package imports, and what it says of itself."""
    needed = not package.extra
    what, brings = package.distribution, f"pip install 'hwnas[{package.extra}]'" if package.extra else "pip install --force-reinstall hwnas"

    def finding(state: State, found: str, advice: str) -> Finding:
        return Finding(what, state, found, "; ".join(filter(None, (advice, package.purpose))), needed)

    try:
        if find_spec(package.module) is None:
            return finding("missing", "not installed", brings)
        answer = _imported(package)
    except (OSError, ImportError, ValueError, subprocess.SubprocessError) as error:
        return finding("broken", _short(str(error)), brings)
    if "error" in answer:
        return finding("broken", _short(str(answer["error"])), brings)
    facts = ", ".join(filter(None, [_version(package) or answer["version"], *answer["found"]]))
    return finding("works", facts, "")


def tensorrt_path(path: TensorRtPath, tables: Path) -> Finding:
    """Whether hwnas has run that way on hardware: whether a measured table of it, with its provenance, is in the folder of shipped ones."""
    for file in sorted(tables.rglob(TABLE)):
        table = LatencyTable.load(file.parent)
        known = table.conditions
        if table.origin == "measured" and table.provenance and known.runtime == path.runtime and known.version.startswith(path.version):
            return Finding(path.what, "works", f"has been run: {file.parent.relative_to(tables).as_posix()}, {table.provenance.get('date', 'undated')}")
    return Finding(path.what, "note", "not yet run on hardware", "docs/tensorrt.md says what was checked without a GPU")


def _imported(package: Package) -> dict[str, Any]:
    """What the process that imported the package said; `error` where it did not come to that."""
    code = _IMPORT.format(module=package.module, facts=package.facts)
    try:
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=IMPORT_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {"error": f"importing it did not end within {IMPORT_SECONDS:g} s"}
    if done.stdout:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    code_or_signal = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    return {"error": f"importing it ended the interpreter ({code_or_signal})"}


def _version(package: Package) -> str:
    try:
        return version(package.distribution)
    except PackageNotFoundError:  # installed by other means
        return ""


def _isolated(what: str, probe: Callable[[], Finding]) -> Finding:
    try:
        return probe()
    except Exception as error:  # whatever a system answers oddly is a row
        return Finding(what, "broken", _short(f"{type(error).__name__}: {error}"))


def _short(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason given"]
    return lines[-1][:200]


def _python() -> Finding:
    found = f"{platform.python_version()} {platform.python_implementation()}, {platform.system()} {platform.machine()}"
    return Finding("python", "works", found, needed=True)


def _processor() -> Finding:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown model")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("processor", "works", f"{model}, {usable} of {os.cpu_count()} logical cores usable")


def _governor() -> Finding:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if not path.is_file():
        return Finding("governor", "note", "not shown by this system", "speed states are told from the anchor workload alone")
    governor = path.read_text().strip()
    if governor == "performance":
        return Finding("governor", "works", governor)
    return Finding("governor", "note", governor, "'performance' makes measurements steadier: sudo cpupower frequency-set -g performance")


def _pressure() -> Finding:
    try:
        total = Path("/proc/pressure/cpu").read_text().partition("total=")[2].split()
    except OSError:
        total = []
    if total:
        return Finding("CPU pressure", "works", f"readable, {int(total[0]) / 1e6:.0f} s waited since boot")
    return Finding("CPU pressure", "note", "not readable", "visits that other programs disturbed are told by context switches and stolen time alone")


def _clock() -> Finding:
    readings = [time.perf_counter_ns() for _ in range(10_000)]
    step = min(after - before for before, after in itertools.pairwise(readings) if after > before)
    found = f"steps of {step} ns ({time.get_clock_info('perf_counter').implementation})"
    if step > COARSE_CLOCK_NS:
        return Finding("clock", "note", found, "too coarse for single runs of small blocks: their prices will scatter")
    return Finding("clock", "works", found)


def _disk(folder: Path) -> Finding:
    there = next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free in {there}"
    return Finding("disk", "works", found) if free >= LOW_DISK_BYTES else Finding("disk", "note", found, "free some space before training")


def _adb() -> Finding:
    """Its version alone: asking for devices would start its server."""
    program = shutil.which("adb")
    if program is None:
        return Finding("adb", "missing", "not installed", "install Android's platform-tools (package adb); to measure phones")
    done = subprocess.run([program, "version"], capture_output=True, text=True, timeout=IMPORT_SECONDS, stdin=subprocess.DEVNULL)
    lines = [line.strip() for line in done.stdout.splitlines() if "ersion" in line]
    if done.returncode != 0 or not lines:
        return Finding("adb", "broken", _short(done.stderr or done.stdout), "install Android's platform-tools (package adb); to measure phones")
    return Finding("adb", "works", ", ".join(lines)[:200])


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether all that the main job needs works."""
    return all(each.state == "works" for each in findings if each.needed)
