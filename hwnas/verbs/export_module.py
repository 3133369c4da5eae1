"""`export_module`: any trained network of the user's as one ONNX file, through PyTorch's exporter, compared with the module before it is kept."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import registry
from hwnas.backends.onnx import OPSET, runner
from hwnas.errors import HwnasError, InputError, MissingExtra
from hwnas.exporter import PARITY_LIMIT, compare
from hwnas.exporters.onnx import MAX_BYTES, write_model
from hwnas.interface import INPUT_NAME, OPSETS, OUTPUT_NAME, Interface, Preprocessing, facts_of, logits_to_compare, outputs_to_logits, with_interface
from hwnas.profiling.model_file import parse_shapes
from hwnas.weights import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

RANDOM_INPUTS = 8


def export_module(
    module: nn.Module | str,
    example: Tensor | Array | str,
    path: Path,
    *,
    interface: Interface | None = None,
    opset: int = OPSET,
    preprocessing: Preprocessing | None = None,
    labels: tuple[str, ...] | None = None,
    dynamo: bool = False,
) -> Mapping[str, Any]:
    """Write a module of one input and one output as one ONNX file, batch norm folded, and prove that the file computes what the module computes.

    module: or `path.py:function` that returns one. example: an input (n, ...) float32, or its shape as `1x3x224x224`. interface: preprocessing (then
    `preprocessing` is needed), softmax, a free batch, names. dynamo: PyTorch's newer exporter, which takes seconds and needs onnxscript. The module is
    exported in evaluation mode, and left as it was. Nothing is written where the file differs by more than 1e-3 of the outputs' standard deviation, on the
    example and on random inputs, with a free batch also of other sizes. Returns facts of the file and its parity. Raises HwnasError.
    """
    import torch

    face = interface or Interface()
    if face.opset is not None:
        opset = face.opset
    least = 18 if dynamo or face.input == "image" else OPSETS[0]
    if not least <= opset <= OPSETS[1]:
        raise InputError(f"opset {opset} cannot be written here; there are {least} to {OPSETS[1]}")
    network = _module(module)
    x = _example(example)
    if face.input != "tensor" and x.ndim != 4:
        raise InputError(f"preprocessing goes before a network that takes images (n, channels, height, width); the example has the shape {tuple(x.shape)}")
    if dynamo and find_spec("onnxscript") is None:
        raise MissingExtra("PyTorch's newer exporter", "onnxscript", "dynamo")
    with _evaluating(network), torch.no_grad():
        expected = _output(network, x)
        raw = _exported(network, x, opset, face.free_batch, dynamo)
        data = _dressed(raw, face, opset, int(x.shape[-1]), preprocessing, labels)
        parity = _parity(data, network, x, expected, face, preprocessing)
    if not parity.passed:
        raise HwnasError(f"the exported file differs from the module by {parity.ratio:.3g} of its outputs' standard deviation: nothing was written")
    exported = write_model(data, Path(path))
    return {**asdict(exported), "path": str(path), "parity": asdict(parity) | {"ratio": parity.ratio, "passed": parity.passed}, "dynamo": dynamo}


def _module(module: nn.Module | str) -> nn.Module:
    from torch import nn

    if isinstance(module, str):
        if ".py" not in module:
            raise InputError(f"'{module}' names no module; write path.py:function, a function that returns a torch.nn.Module")
        module = registry.create("spaces", module)  # how a function of a file is found is the same for all catalogues
    if not isinstance(module, nn.Module):
        raise InputError(f"what is exported is a torch.nn.Module, not {type(module).__name__}")
    return module


def _example(example: Tensor | Array | str) -> Tensor:
    import torch

    if isinstance(example, str):
        (shape,) = parse_shapes([f"input={example}"]).values()
        if np.prod([float(size) for size in shape]) > 1 << 28:
            raise InputError(f"an example of {example} is larger than 1 GiB")
        return torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    x = torch.as_tensor(example)
    if x.dtype != torch.float32 or x.ndim < 2:
        raise InputError(f"the example must be float32 with a batch in front, it is {x.dtype} {tuple(x.shape)}")
    return x.detach().cpu()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards each of its parts is in the mode it was in."""
    modes = [(each, each.training) for each in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def _output(network: nn.Module, x: Tensor) -> Array:
    import torch

    try:
        y = network(x)
    except Exception as error:  # the module is the user's
        raise InputError(f"the module does not run on an input of shape {tuple(x.shape)}: {type(error).__name__}: {error}") from None
    if not isinstance(y, torch.Tensor) or y.dtype != torch.float32 or not torch.isfinite(y).all():
        what = (
            f"{y.dtype} with values that are not finite" if isinstance(y, torch.Tensor) and y.dtype == torch.float32 else getattr(y, "dtype", type(y).__name__)
        )
        raise InputError(f"the module must give one float32 tensor of finite values, it gives {what}")
    found: Array = y.detach().cpu().numpy()
    return found


def _exported(network: nn.Module, x: Tensor, opset: int, free_batch: bool, dynamo: bool) -> bytes:
    """What PyTorch's exporter makes of it."""
    import torch

    names: dict[str, Any] = {"input_names": [INPUT_NAME], "output_names": [OUTPUT_NAME], "opset_version": opset}
    fast, file = torch.backends.mha.get_fastpath_enabled(), io.BytesIO()
    # Both warn of each other; the older one prints the whole graph where it fails, the newer one its progress.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)  # a fused attention that has no form in ONNX
        try:
            if dynamo:
                shapes = ({0: torch.export.Dim.DYNAMIC},) if free_batch else None
                program = torch.onnx.export(network, (x,), dynamo=True, external_data=False, dynamic_shapes=shapes, verbose=False, **names)
                return bytes(program.model_proto.SerializeToString(deterministic=True))  # type: ignore[union-attr]
            axes = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}} if free_batch else None
            torch.onnx.export(network, (x,), file, dynamo=False, dynamic_axes=axes, **names)  # type: ignore[arg-type]
        except Exception as error:  # whatever the exporter, or the module under it, makes of it
            raise InputError(f"PyTorch cannot export the module: {' '.join(str(error).split())[:300]}") from None
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
    return file.getvalue()


def _dressed(raw: bytes, face: Interface, opset: int, side: int, preprocessing: Preprocessing | None, labels: tuple[str, ...] | None) -> bytes:
    """Without what depends on where it was exported, such as lines of source, and with the interface."""
    from dataclasses import replace

    from onnx import load_model_from_string

    if len(raw) > MAX_BYTES:
        raise InputError(f"the network takes {len(raw):,} bytes; a single ONNX file holds at most {MAX_BYTES:,}")
    model = load_model_from_string(raw)
    model.ClearField("doc_string")
    for each in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, *model.functions):
        each.ClearField("doc_string")
        each.ClearField("metadata_props")
    known = None if preprocessing is None and labels is None else facts_of(preprocessing, labels, side)
    made = with_interface(model, replace(face, opset=None), side=side, preprocessing=preprocessing, facts=known)
    return bytes(made.SerializeToString(deterministic=True))


def _parity(data: bytes, network: nn.Module, x: Tensor, expected: Array, face: Interface, preprocessing: Preprocessing | None) -> Any:
    """On the example and random inputs; what is fed pixels is compared on random pixels of the network's size."""
    import torch

    run, rng = runner(data), np.random.default_rng(0)
    got, wanted = [], []
    batch = len(x)
    sizes = [batch, RANDOM_INPUTS, 1] if face.free_batch else [batch] * max(1, RANDOM_INPUTS // batch)
    if face.input == "tensor":
        pairs = [(x.numpy(), expected)]
        for size in sizes:
            noise = rng.standard_normal((size, *x.shape[1:])).astype(np.float32)
            pairs.append((noise, _output(network, torch.from_numpy(noise))))
    else:
        assert preprocessing is not None  # with_interface refuses before
        pairs = []
        for size in sizes:
            pixels = rng.integers(0, 256, (size, *x.shape[2:], x.shape[1]), np.uint8)
            low, high = preprocessing.range
            real = pixels.transpose(0, 3, 1, 2) / 255 * (high - low) + low
            if preprocessing.crop is not None and face.input == "image":
                raise InputError("a crop cannot be checked here: export the module without it, and cut images before")
            mean, std = (np.array(each)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
            pairs.append((pixels, _output(network, torch.from_numpy(((real - mean) / std).astype(np.float32)))))
    for fed, reference in pairs:
        got.append(outputs_to_logits(run(np.ascontiguousarray(fed)), face))
        wanted.append(logits_to_compare(reference, face))
    return compare(np.concatenate(got), np.concatenate(wanted), PARITY_LIMIT)
