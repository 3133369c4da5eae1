"""Agents in C++ for tests: built from the sources that ship, for this machine and, to be run by qemu-user, for arm64."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwnas.data import shipped

SOURCE = shipped("devices") / "agents" / "cpp"
NAME = "hwnas_onnxruntime_agent"
INCLUDE = "HWNAS_ONNXRUNTIME_INCLUDE"
#: Sanitizers of the compiler that the agents of these tests are built with, such as "address,undefined"; the first finding ends an agent.
SANITIZERS = os.environ.get("HWNAS_AGENT_SANITIZERS", "")
SANITIZED = ("-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DCMAKE_CXX_FLAGS=-fsanitize={SANITIZERS} -fno-sanitize-recover=all -fno-omit-frame-pointer")
SYSROOT = Path("/usr/aarch64-linux-gnu")
ARM64 = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
)

#: What a Cortex-A72 says of itself: without it ONNX Runtime reads, under qemu-user, that of the machine that emulates, and crashes.
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


def headers() -> Path:
    """The folder of ONNX Runtime's headers. Skips where there is none: no Python package has them."""
    folder = os.environ.get(INCLUDE, "")
    if not folder:
        pytest.skip(f"{INCLUDE} does not name the folder of onnxruntime_c_api.h, which the Python package of ONNX Runtime lacks")
    if not Path(folder, "onnxruntime_c_api.h").is_file():
        pytest.skip(f"{INCLUDE} names {folder}, and there is no onnxruntime_c_api.h in it")
    return Path(folder).resolve()


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def library() -> Path:
    """The folder of the shared library in the Python package."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    if sys.platform != "linux" or not list(folder.glob("libonnxruntime.so*")):
        pytest.skip("the agent in C++ is for Linux and Android, and links the shared library of the Linux wheels")
    return folder


def configured(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cmake", "-S", str(SOURCE), "-B", str(folder), *map(str, options)], capture_output=True, text=True, timeout=300)


def built(folder: Path, library: Path, *options: str) -> Path:
    """The folder with the agent, as a device's file names it."""
    done = configured(folder, f"-DONNXRUNTIME_INCLUDE_DIR={headers()}", f"-DONNXRUNTIME_LIB_DIR={library}", *options)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["cmake", "--build", str(folder)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr, done.stdout + done.stderr
    return folder / "agent"


def native(folder: Path, *options: str) -> Path:
    """The agent for this machine. Skips where it cannot be built."""
    headers()
    need("cmake", "c++")
    return built(folder, library(), *(SANITIZED if SANITIZERS else ()), *options)


def limited(folder: Path, limits: str, agent: Path) -> Path:
    """A folder whose agent is that of another one, with `limits` of the shell on its memory."""
    if "address" in SANITIZERS:
        pytest.skip("the address sanitizer reserves terabytes of addresses, which no limit on memory allows")
    return wrapped(folder, f"{limits}; exec {shlex.quote(str(agent / NAME))}")


def say_intel(folder: Path) -> Path:
    """A library to be preloaded, with which OpenVINO's provider offers itself on other processors too (`say_intel.cpp`)."""
    include, made = headers(), folder / "say_intel.so"
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-shared", "-fPIC", f"-I{include}", "-o", str(made), str(Path(__file__).with_name("say_intel.cpp"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    return made


def wrapped(folder: Path, command: str) -> Path:
    """A folder whose agent is a line of shell."""
    folder.mkdir(parents=True)
    script = folder / NAME
    script.write_text(f"#!/bin/sh\n{command}\n")
    script.chmod(0o755)
    return folder


@dataclass(frozen=True, slots=True)
class Arm64:
    """`agent` is a folder as a phone would have it pushed, `emulator` the command that runs such programs here."""

    agent: Path
    emulator: tuple[str, ...]

    def local(self, folder: Path) -> Path:
        """A folder whose agent can be started on this machine."""
        return wrapped(folder, f"exec {shlex.join([*self.emulator, str(self.agent / NAME)])}")


def arm64(folder: Path) -> Arm64:
    """The agent for arm64 with the library of the aarch64 wheel, and qemu. Skips where they cannot be had."""
    headers()
    need("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64-static")
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this machine is an arm64 itself: nothing would be emulated")
    agent = built(folder / "build", _arm64_library(folder), *ARM64)
    root = folder / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(CPUINFO)
    (root / "lib").symlink_to(SYSROOT / "lib")
    return Arm64(agent, ("qemu-aarch64-static", "-cpu", "cortex-a72", "-L", str(root)))


def _arm64_library(folder: Path) -> Path:
    import onnxruntime

    what = [f"onnxruntime=={onnxruntime.__version__}", "--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_aarch64", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "download", "--dest", str(folder), *what]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"the aarch64 wheel of ONNX Runtime cannot be had: {(done.stderr.strip().splitlines() or ['no reason given'])[-1][:200]}")
    (wheel,) = folder.glob("onnxruntime-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.startswith("onnxruntime/capi/libonnxruntime.so")]
        archive.extract(member, folder)
    return folder / "onnxruntime" / "capi"
