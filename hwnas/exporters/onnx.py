"""ONNX files, through the emitters that also make every micro-benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from hwnas.backends.onnx import to_onnx
from hwnas.errors import InputError
from hwnas.exporter import Exported
from hwnas.files import write_whole
from hwnas.graph import Graph
from hwnas.weights import Weights

MAX_BYTES = (1 << 31) - 1  # of a protocol buffer; larger models need external data


def onnx(graph: Graph, weights: Weights, path: Path, *, metadata: Mapping[str, str] | None = None) -> Exported:
    """Writes one self-contained ONNX file that passed `onnx.checker`, whole or not at all. Raises InputError."""
    model = to_onnx(graph, weights, metadata=metadata)
    if model.ByteSize() > MAX_BYTES:
        raise InputError(f"the network takes {model.ByteSize():,} bytes; a single ONNX file holds at most {MAX_BYTES:,}")
    return write_model(model.SerializeToString(deterministic=True), path)


def write_model(data: bytes, path: Path) -> Exported:
    """Writes the bytes of an ONNX model as they are, after they passed `onnx.checker`. Raises InputError where they are none, as what PyTorch runs."""
    from onnx import checker, load_model_from_string

    try:
        model = load_model_from_string(data)
    except Exception:  # protobuf's DecodeError, which onnx does not name
        raise InputError("what was certified is no ONNX model, and others are not exported: profile, search and verify with a runtime that runs them") from None
    checker.check_model(model, full_check=True)
    write_whole(path, data)
    return Exported(path, hashlib.sha256(data).hexdigest(), len(data), model.opset_import[0].version, model.ir_version, len(model.graph.node))
