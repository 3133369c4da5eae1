"""The kit for Android on this machine's JVM, for tests: its classes that name none of Android's, with ONNX Runtime behind them.

That is Java's own package of it where HWNAS_ONNXRUNTIME_JAVA names a folder that has it (`onnxruntime-*.jar`, or `classes` and `lib`); elsewhere
Python's, at the other end of two pipes. It computes the same, and no test here asserts a time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from exports import Ended
from native_agents import NAME

from hwnas.data import shipped

KIT = shipped("export") / "android"
SOURCES = KIT / "src" / "main" / "java" / "org" / "hwnas" / "kit"
HERE = Path(__file__).resolve().parent / "java"
RUNTIME = "HWNAS_ONNXRUNTIME_JAVA"
ANDROID = "HWNAS_ANDROID_JAR"
MAIN = "org.hwnas.kit.HostKit"


def sources(*, android: bool = False, onnxruntime: bool = False) -> list[Path]:
    """Java files of the kit; those that import Android's or ONNX Runtime's classes only where asked for."""
    texts = {path: path.read_text() for path in sorted(SOURCES.glob("*.java"))}
    return [path for path, text in texts.items() if (android or "import android." not in text) and (onnxruntime or "import ai.onnxruntime." not in text)]


def runtime() -> tuple[str, list[str]] | None:
    """(class path, options of the JVM) of ONNX Runtime for Java; None where it is not here."""
    folder = Path(os.environ.get(RUNTIME, ""))
    if not os.environ.get(RUNTIME) or not (jars := [*folder.glob("onnxruntime-*.jar"), *folder.glob("classes")]):
        return None
    native = [f"-Donnxruntime.native.path={folder / 'lib'}"] if (folder / "lib").is_dir() else []
    return os.pathsep.join(map(str, jars)), native


def compiled(folder: Path, files: list[Path], classes: str = "", release: int = 8) -> None:
    """javac, with every warning an error. Skips where there is none."""
    if shutil.which("javac") is None or shutil.which("java") is None:
        pytest.skip("javac is not installed (package default-jdk-headless)")
    lint = ["-Xlint:all,-options,-serial,-try,-processing", "-Werror"]
    words = ["javac", "--release", str(release), *lint, "-encoding", "UTF-8", "-cp", classes or str(folder), "-d", str(folder), *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class HostKit:
    """`command` starts it on the JVM; its first word says what it shall do."""

    command: tuple[str, ...]

    def run(self, *words: object, said: str | bytes = "") -> Ended:
        done = subprocess.run([*self.command, *map(str, words)], input=said if isinstance(said, bytes) else said.encode(), capture_output=True, timeout=240)
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def kit(self, folder: Path, *images: Path, within_bound: bool = False) -> Ended:
        return self.run("kit", folder, 5, 3, int(within_bound), *images)

    def agent_folder(self, folder: Path) -> Path:
        """A folder whose program is the agent over pipes, as a device's file names it."""
        folder.mkdir()
        (folder / NAME).write_text(f"#!/bin/sh\nexec {shlex.join([*self.command, 'agent'])}\n")
        (folder / NAME).chmod(0o755)
        return folder


def built(folder: Path, *options: str) -> HostKit:
    """Compiles it. Skips where there is no javac."""
    found = runtime()
    classes = folder / "classes"
    classes.mkdir(parents=True)
    path, native = found or ("", [])
    compiled(classes, sources(onnxruntime=bool(found)), os.pathsep.join(filter(None, [str(classes), path])))
    compiled(classes, sorted(HERE.glob("*.java")), str(classes), release=11)
    engine = ["-Dengine=OrtEngine", *native] if found else [f"-Dpython={sys.executable}", f"-Dpiped={HERE / 'piped_onnxruntime.py'}"]
    java = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", *options, *engine, "-cp", os.pathsep.join(filter(None, [str(classes), path])), MAIN]
    return HostKit(tuple(java))
