"""`check-tensorrt`: whether TensorRT's parser can read a model, or the ends of a search space. A parser check, and named as such: nothing runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.errors import DamagedFile
from hwnas.space import SearchSpace
from hwnas.tensorrt_parser import check_parser
from hwnas.verbs.common import Progress, silent
from hwnas.weights import random_weights

MAX_MODEL_BYTES = 1 << 30


def check_tensorrt(what: str, *, build: bool = True, progress: Progress = silent) -> Mapping[str, Any]:
    """Read an ONNX file (`*.onnx`), or the smallest and the largest subnet of a space, with the parser of TensorRT for RTX: plain values.

    `models`: for each its `name`, whether it `passed`, `layers`, `unsupported` operators by name, `problems` with their reasons, and with
    `build` the `plan_bytes` of an engine or the `build_error`. No GPU is needed and nothing is run. Raises MissingExtra, UnknownName,
    DamagedFile, InputError, CheckFailed.
    """
    models = dict(_file(what) if what.endswith(".onnx") else _ends(what))
    rows, version = [], ""
    for number, (name, model) in enumerate(models.items()):
        progress("check", number, len(models))
        found = check_parser(model, build=build)
        version = found.version
        facts = asdict(found)
        del facts["version"]
        rows.append({"name": name, "passed": found.passed, "unsupported": list(found.unsupported), **facts})
    progress("check", len(models), len(models))
    return {"kind": "parser check", "parser": f"tensorrt_rtx {version}", "passed": all(each["passed"] for each in rows), "models": rows}


def _file(name: str) -> Iterator[tuple[str, bytes]]:
    path = Path(name)
    try:
        if not path.is_file() or path.stat().st_size > MAX_MODEL_BYTES:
            raise DamagedFile(f"{path} is no file of at most {MAX_MODEL_BYTES >> 30} GiB")
        yield name, path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from None


def _ends(name: str) -> Iterator[tuple[str, bytes]]:
    from hwnas.backends.onnx import to_onnx

    space: SearchSpace = registry.create("spaces", name)
    for end, code in (("smallest", space.smallest()), ("largest", space.largest())):
        graph = space.lower(code[0])
        yield f"{end} subnet of {space.name}", to_onnx(graph, random_weights(graph, np.random.default_rng(0))).SerializeToString()
