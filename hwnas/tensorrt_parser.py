"""A parser check: can the parser of TensorRT for RTX read an ONNX model, and its builder make an engine of it? It needs no GPU.

TensorRT and TensorRT for RTX share the code of their ONNX parsers, so what one of them cannot read the other can hardly. It is a parser
check and no more: nothing is run, so it says nothing about latency, and nothing about outputs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hwnas.data import shipped
from hwnas.errors import CheckFailed, InputError, MissingExtra

SECONDS = 300.0
_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")  # the wheels of PyPI have the second


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a model cannot be read. `operator` and `node` of the ONNX graph are empty where it is not one operator's."""

    operator: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ParserCheck:
    """What came of a model. `layers` of the network that was read; `plan_bytes` of the engine that was built, None where none was tried or made."""

    version: str
    problems: tuple[Problem, ...]
    layers: int
    plan_bytes: int | None
    build_error: str

    @property
    def passed(self) -> bool:
        return not self.problems and not self.build_error

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Names of the operators that cannot be read, sorted."""
        return tuple(sorted({each.operator for each in self.problems if each.operator}))


def parser_is_there() -> bool:
    """Whether TensorRT for RTX is installed; whether it works is `hwnas doctor`'s to say."""
    return any(find_spec(name) is not None for name in _MODULES)


def check_parser(model: bytes, *, build: bool = True, seconds: float = SECONDS) -> ParserCheck:
    """Have a process of its own read the model, for a foreign one may end it; with `build` also make an engine for any GPU of its kind.

    Raises MissingExtra where TensorRT for RTX is not installed, InputError where the model is refused unread, CheckFailed where the process
    ended, hung or answered nonsense.
    """
    if not parser_is_there():
        raise MissingExtra("a parser check", _MODULES[1], "tensorrt-rtx")
    program = shipped("devices") / "agents" / "tensorrt_check.py"
    command = [sys.executable, str(program), *(["build"] if build else [])]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"the parser of TensorRT for RTX did not end within {seconds:g} s") from None
    if done.returncode != 0 or not done.stdout.endswith(b"\n"):
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise CheckFailed(f"the parser of TensorRT for RTX ended with {how}" + (f": {words[-1][:300]}" if words else ""))
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise InputError(f"the parser check was refused: {answer['error']}")
    problems = tuple(Problem(each["operator"], each["node"], each["reason"]) for each in answer["problems"])
    return ParserCheck(answer["version"], problems, answer["layers"], answer.get("plan_bytes"), answer.get("build_error", ""))
