"""Published networks: their names, what was published about them, and the files they are measured as.

Latency does not depend on what weights are trained to, so these are random, of a fixed seed, and nothing is downloaded; accuracy,
MACs and parameters are what torchvision states of the trained weights. timm's networks are `timm/NAME`; it states no accuracies.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from hwnas.errors import MeasurementFailed, MissingExtra, UnknownName

DATASET = "ImageNet-1K"
TIMM = "timm/"
MAX_PARAMS = (1 << 28) - (1 << 20)  # of float32 in a model of 1 GiB, the most an agent takes
_OPSET = 17


@dataclass(frozen=True, slots=True)
class Published:
    """A network and what was published about it, as the library that has it states it; None where it states nothing.

    weights: whose accuracy that is. input_size: pixels of each side. macs, params: of one image, and of the whole network.
    """

    name: str
    source: str
    weights: str | None
    accuracy_pct: float | None
    input_size: int
    macs: float | None
    params: float | None


def names() -> list[str]:
    """Of torchvision's image classifiers, those of least MACs first."""
    from torchvision import models

    return sorted(models.list_models(module=models), key=lambda name: (published(name).macs or 0.0, name))


@cache
def published(name: str) -> Published:
    """What is known about a network. Raises UnknownName, and MissingExtra for one of timm where that is not installed."""
    from torchvision import models

    if name.startswith(TIMM):
        return _of_timm(name)
    if name not in (known := models.list_models(module=models)):
        raise UnknownName("published network", name, known)
    weights = models.get_model_weights(name).DEFAULT
    meta = weights.meta
    accuracy = meta.get("_metrics", {}).get(DATASET, {}).get("acc@1")
    gmacs = meta.get("_ops")
    size = weights.transforms().crop_size
    return Published(
        name=name,
        source=f"torchvision {version('torchvision')}",
        weights=str(weights).rpartition(".")[2],
        accuracy_pct=None if accuracy is None else float(accuracy),
        input_size=int(size[0] if isinstance(size, Sequence) else size),
        macs=None if gmacs is None else 1e9 * float(gmacs),
        params=meta.get("num_params"),
    )


def versions() -> dict[str, str]:
    """Of whatever decides what the files are."""
    found = {}
    for name in ("torch", "torchvision", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def onnx_file(name: str, *, batch: int = 1) -> bytes:
    """The network as an ONNX model with random weights, always the same for the same versions; batch norm folded.

    Raises MeasurementFailed with the reason where it cannot be exported or is too large to be sent to a device.
    """
    import torch

    about = published(name)
    if (about.params or 0) > MAX_PARAMS:
        raise MeasurementFailed(f"{about.params / 1e6:.0f} M parameters do not fit into a model of 1 GiB")  # type: ignore[operator]
    fast, file = torch.backends.mha.get_fastpath_enabled(), io.BytesIO()
    # The exporter by tracing: the newer one needs onnxscript. It warns that it is the older one, and that traced shapes are constants, as they
    # shall be; where it fails, it prints the whole graph.
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        torch.backends.mha.set_fastpath_enabled(False)  # a fused attention that has no form in ONNX
        try:
            example = torch.zeros(batch, 3, about.input_size, about.input_size)
            network = _network(name).eval()
            names = (["input"], ["output"])
            torch.onnx.export(network, (example,), file, dynamo=False, opset_version=_OPSET, input_names=names[0], output_names=names[1])  # type: ignore[arg-type]
        except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
            raise MeasurementFailed(f"it cannot be exported: {' '.join(str(error).split())[:300]}") from None
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
    return file.getvalue()


def _network(name: str) -> Any:
    """With random weights."""
    if name.startswith(TIMM):
        import timm

        return timm.create_model(name.removeprefix(TIMM), pretrained=False)
    from torchvision import models

    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}  # else they warn, and take a minute for another distribution
    return models.get_model(name, weights=None, **extra)


def _of_timm(name: str) -> Published:
    if find_spec("timm") is None:
        raise MissingExtra(f"the network '{name}'", "timm", "timm")
    import timm

    own = name.removeprefix(TIMM)
    if own not in timm.list_models():
        raise UnknownName("network of timm", own, timm.list_models())
    network: Any = timm.create_model(own, pretrained=False)
    size = network.default_cfg.get("input_size", (3, 224, 224))[-1]
    return Published(name, f"timm {version('timm')}", None, None, int(size), None, float(sum(each.numel() for each in network.parameters())))
