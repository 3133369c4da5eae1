"""`verify DIR`: an exported folder proves again, on any machine, what its manifest says: hashes, parity, accuracy, and the certified latency."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import registry
from hwnas.architecture import Architecture
from hwnas.backends.onnx import runner
from hwnas.backends.torch import torch as torch_backend
from hwnas.device import load_device
from hwnas.errors import DamagedFile, HwnasError, InputError, UnknownName
from hwnas.exporter import PARITY_LIMITS, Parity, compare
from hwnas.files import read_json, sha256
from hwnas.graph import Graph
from hwnas.index import BlockIndex
from hwnas.interface import Interface, Preprocessing, logits_to_compare, outputs_to_logits
from hwnas.manifest import NAME, read_manifest
from hwnas.profiling.agent import PLAN
from hwnas.profiling.model_file import read_model
from hwnas.profiling.protocol import TIMING, timing_of
from hwnas.profiling.window import measure_window, verdict
from hwnas.space import SearchSpace
from hwnas.tensor_files import read_tensors
from hwnas.variant import PRECISIONS, Variant
from hwnas.verbs.common import Progress, check_seed, silent
from hwnas.verbs.records import CERTIFICATE, NUMBER, checked
from hwnas.verbs.target import runtime_of
from hwnas.verbs.verify import LEVEL
from hwnas.weights import Array, Weights, check

if TYPE_CHECKING:
    from hwnas.images import Images

RANDOM_INPUTS = 16
MAX_INPUT_ELEMENTS = 1 << 28
MIN_STD = 1e-12
_REMEDY = "export the network again"

#: What is read of a manifest, beside the files that `read_manifest` checks.
MANIFEST = {
    **dict.fromkeys(("model", "space", "fingerprint", "built_from?"), str),
    "input": {**dict.fromkeys(("name", "kind", "dtype"), str), "shape": [(int, str)]},
    "output": {**dict.fromkeys(("name", "kind", "dtype"), str), "shape": [(int, str)]},
    "preprocessing": {"mean": [NUMBER], "std": [NUMBER], "range": [NUMBER], "resolution": [int], "channels": int, "crop?": NUMBER},
    "labels": [str],
    "example": {"input": str, "logits": [[NUMBER]], "tolerance_std": NUMBER},
    "precision": {"name": str},
    "accuracy?": {"accuracy_pct": NUMBER},
    "architecture": {str: (int, float, str)},
}
_FORMAT = "hwnas.certificate/1"
_COMPARED = ("device", "processor", "runtime", "version", "threads", "regime", "options")
_LEAST_CONFIDENCE = 0.9


def is_export(folder: Path) -> bool:
    """Whether `verify` is asked about an exported folder, not about a run."""
    return (Path(folder) / NAME).is_file() and not (Path(folder) / "run.sqlite").exists()


def verify_export(
    folder: Path,
    *,
    data: str | None = None,
    split: str = "test",
    space: str | None = None,
    seconds: float | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Check an exported folder: every hash; the file against the stored logits, and against its own weights on random inputs.

    data: a data set on whose `split` the file is evaluated, too. space: how to have the search space, where hwnas has none of that name. seconds: of a
    window in which the file is measured on the certificate's device, or on `device`; 0: it is not; by default as long as for the certificate, a minute at
    least, where there is one. Nothing in the folder is run but the model,
    and nothing is written. Returns plain values; `passed` says whether all that was checked holds. Raises HwnasError where the folder is refused.
    """
    check_seed(seed)
    folder = Path(folder)
    manifest = checked(read_manifest(folder), MANIFEST, str(folder / NAME), _REMEDY)
    face, preprocessing = _face(manifest, folder)
    read_model(folder / manifest["model"], {face.input_name: _shape(manifest, folder)})  # refuses weights in other files before a runtime sees them
    run = runner(folder / manifest["model"])
    checks: dict[str, Any] = {"hashes": {"passed": True, "files": len(manifest["files"])}, "example": _example(folder, manifest, face, run)}
    network = _network(folder, manifest, space)
    checks["random"] = network if isinstance(network, dict) else _random(network, manifest, face, preprocessing, run, seed)
    if data is not None:
        checks["accuracy"] = _accuracy(run, manifest, face, preprocessing, data, split)
    seconds = _window_s(_certificate(folder, manifest)) if seconds is None else seconds
    if seconds > 0:
        checks["latency"] = _latency(folder, manifest, face, device, seconds, seed, progress)
    return {"folder": str(folder), "model": manifest["model"], "passed": all(each["passed"] is not False for each in checks.values()), "checks": checks}


def _face(manifest: Mapping[str, Any], folder: Path) -> tuple[Interface, Preprocessing]:
    """Raises DamagedFile where its parts do not fit each other."""
    entering, leaving, how = manifest["input"], manifest["output"], manifest["preprocessing"]
    path = folder / NAME
    try:
        face = Interface(
            input=entering["kind"],
            softmax={"logits": False, "probabilities": True}[leaving["kind"]],
            free_batch=isinstance(entering["shape"][0], str),
            input_name=entering["name"],
            output_name=leaving["name"],
        )
    except (InputError, KeyError, IndexError):
        raise DamagedFile(f"{path} describes no input or output that exports have; {_REMEDY}") from None
    channels, sides = how["channels"], how["resolution"]
    classes = leaving["shape"][-1] if leaving["shape"] else None
    std = np.array(how["std"], np.float64)
    fits = (
        len(entering["shape"]) == 4
        and len(sides) == 2
        and all(size > 0 for size in [*sides, channels])
        and float(sides[0]) * sides[1] * channels <= MAX_INPUT_ELEMENTS
        and len(how["mean"]) == len(how["std"]) == channels
        and np.isfinite(how["mean"]).all()
        and np.isfinite(std).all()
        and std.min() > MIN_STD
        and len(how["range"]) == 2
        and how["range"][0] < how["range"][1]
        and (how.get("crop") is None or 0 < how["crop"] <= 1)
        and isinstance(classes, int)
        and len(manifest["labels"]) == classes
        and all(len(row) == classes for row in manifest["example"]["logits"])
        and len(manifest["example"]["logits"]) > 0
        and 0 < manifest["example"]["tolerance_std"] < 1
        and manifest["example"]["input"] in manifest["files"]
        and manifest["precision"]["name"] in PRECISIONS
    )
    if not fits:
        raise DamagedFile(f"{path}: its shapes, preprocessing, labels, precision and example do not fit each other; {_REMEDY}")
    low, high = how["range"]
    return face, Preprocessing(tuple(map(float, how["mean"])), tuple(map(float, how["std"])), (float(low), float(high)), how.get("crop"))


def _shape(manifest: Mapping[str, Any], folder: Path) -> tuple[int, ...]:
    """Of the stored example, which says what free dimensions of the input may be."""
    return tuple(_stored(folder / manifest["example"]["input"]).shape)


def _stored(path: Path) -> Array:
    """An array of a file from outside. Raises DamagedFile."""
    try:
        array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped first: a header cannot claim more than the file holds
    except Exception:  # numpy parses the header as Python literals, and many things can be wrong with those
        raise DamagedFile(f"{path} is no readable .npy array; {_REMEDY}") from None
    if array.dtype not in (np.float32, np.uint8) or not 0 < array.size <= MAX_INPUT_ELEMENTS:
        raise DamagedFile(f"{path} holds {array.dtype} {array.shape}, which no network of ours is fed; {_REMEDY}")
    return array


def _example(folder: Path, manifest: Mapping[str, Any], face: Interface, run: Any) -> dict[str, Any]:
    stored, expected = _stored(folder / manifest["example"]["input"]), np.array(manifest["example"]["logits"], np.float32)
    if str(stored.dtype) != manifest["input"]["dtype"]:
        raise DamagedFile(f"the stored example of {folder} is {stored.dtype}, its manifest says {manifest['input']['dtype']}; {_REMEDY}")
    got = outputs_to_logits(run(stored), face)
    return _facts(compare(got, logits_to_compare(expected, face), manifest["example"]["tolerance_std"]))


def _network(folder: Path, manifest: Mapping[str, Any], given: str | None) -> tuple[Graph, Weights] | dict[str, Any]:
    """The network that the folder's weights and architecture are, in its precision; or why it cannot be had.

    A space that a manifest names is never a file: that would run code from the folder's author.
    """
    text = given or manifest.get("built_from") or manifest["space"]
    name, _ = registry.split_call(text) if len(text) <= 500 else ("", {})
    if given is None and name not in registry.names("spaces"):
        return {"passed": None, "reason": f"hwnas has no search space '{name[:60]}'; name it with --space"}
    for needed in ("architecture.json", "weights.safetensors"):
        if needed not in manifest["files"]:
            return {"passed": None, "reason": f"the folder has no {needed}"}
    try:
        found: SearchSpace = registry.create("spaces", text)
    except UnknownName as error:
        raise InputError(str(error)) from None
    architecture = Architecture.load(folder / "architecture.json")
    batch = manifest["input"]["shape"][0]
    if BlockIndex(found).fingerprint != manifest["fingerprint"]:
        return {"passed": None, "reason": f"{text} is not the search space that the network was made in; name it with --space"}
    code = architecture.code(found)
    variant = Variant(manifest["precision"]["name"], len(manifest["example"]["logits"]) if isinstance(batch, str) else batch)
    graph = variant.space(found).lower(code)
    weights = {key: tensor.float().numpy() for key, tensor in read_tensors(folder / "weights.safetensors").items()}
    check(graph, weights)
    return graph, weights


def _random(network: tuple[Graph, Weights], manifest: Mapping[str, Any], face: Interface, how: Preprocessing, run: Any, seed: int) -> dict[str, Any]:
    """The file and the network of the folder's weights on random inputs; int8 is calibrated for real images, and noise is none."""
    graph, weights = network
    if any(op.data_type.startswith("int8") for op in graph.ops):
        return {"passed": None, "reason": "int8 is calibrated for images, and noise is none: give some with --data"}
    channels, height, width = graph.input[1:]
    if [height, width] != manifest["preprocessing"]["resolution"] or channels != manifest["preprocessing"]["channels"]:
        raise DamagedFile(f"the architecture takes {channels} x {height} x {width}, the manifest prepares images of another size; {_REMEDY}")
    rng, batch = np.random.default_rng(seed), graph.input[0]
    got, expected = [], []
    reference = torch_backend(graph, weights)
    for _ in range(max(1, RANDOM_INPUTS // batch)):
        if face.input == "tensor":
            fed: Array = rng.standard_normal(graph.input).astype(np.float32)
            x = fed
        else:
            fed = rng.integers(0, 256, (batch, height, width, channels), np.uint8)
            x = _prepared(fed, how)
        got.append(outputs_to_logits(run(fed), face))
        expected.append(logits_to_compare(reference(x), face))
    limit = max(PARITY_LIMITS[op.data_type] for op in graph.ops)
    if face.input == "image" and how.crop is not None:
        return {"passed": None, "reason": "images that the file crops are compared by its example alone"}
    return _facts(compare(np.concatenate(got), np.concatenate(expected), limit))


def _prepared(pixels: Array, how: Preprocessing) -> Array:
    """uint8 (n, h, w, c) of the network's size -> what it is fed, float32 (n, c, h, w)."""
    low, high = how.range
    mean, std = (np.array(each)[:, None, None] for each in (how.mean, how.std))
    x: Array = np.ascontiguousarray(((pixels.transpose(0, 3, 1, 2) / 255 * (high - low) + low - mean) / std).astype(np.float32))
    return x


def _accuracy(run: Any, manifest: Mapping[str, Any], face: Interface, how: Preprocessing, data: str, split: str) -> dict[str, Any]:
    """Top-1 of the file on a split, with what the manifest says of it."""
    from hwnas.images import load_images

    if split not in ("train", "validation", "test"):
        raise InputError(f"there is no split '{split}'; it is train, validation or test")
    images: Images = load_images(data, split)  # type: ignore[arg-type]
    if list(images.classes) != manifest["labels"]:
        raise InputError(f"{data} has other classes than the network: {', '.join(images.classes[:5])}, not {', '.join(manifest['labels'][:5])}")
    right: list[bool] = []
    batch = 1 if face.free_batch else len(manifest["example"]["logits"])
    for start in range(0, len(images), batch):
        rows = list(range(start, min(start + batch, len(images))))
        fed = [_fed(images, row, manifest, face, how) for row in rows]
        outputs = run(np.concatenate([*fed, *([fed[-1]] * (batch - len(fed)))]))
        right += list(outputs[: len(rows)].argmax(axis=1) == images.labels[rows].numpy())
    return {"passed": None, "accuracy_pct": 100 * float(np.mean(right)), "images": len(right), "data": data, "split": split, "stated": manifest.get("accuracy")}


def _fed(images: Images, row: int, manifest: Mapping[str, Any], face: Interface, how: Preprocessing) -> Array:
    """An image as the file is fed it, prepared as the manifest says."""
    import torch

    from hwnas.images import DecodedImages, centre, resized

    pixels = images.pixels.decode(row) if isinstance(images.pixels, DecodedImages) else images.pixels[row]
    if face.input == "image":
        return np.ascontiguousarray(pixels.permute(1, 2, 0)[None].numpy())
    small = resized(centre(pixels, how.crop)[None].float(), manifest["preprocessing"]["resolution"][0])
    if face.input == "pixels":
        return np.ascontiguousarray(small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    low, high = how.range
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (how.mean, how.std))
    return np.ascontiguousarray(((small / 255 * (high - low) + low - mean) / std).float().numpy())


def _latency(folder: Path, manifest: Mapping[str, Any], face: Interface, device: str | None, seconds: float, seed: int, progress: Progress) -> dict[str, Any]:
    """Of the file, against the budget of its certificate where there is one.

    `differs`: conditions that are others than the certificate's, name -> both; what is measured then is a fact about these, and neither confirms nor
    contradicts it.
    """
    certificate = _certificate(folder, manifest)
    if certificate is not None:
        stated = certificate["conditions"]
    elif device is not None:
        stated = {"device": device, "runtime": "onnxruntime", "threads": 1, "regime": TIMING.regime}
    else:
        raise InputError(f"{folder} has no certificate that says where to measure; name a device with --device")
    try:
        target = load_device(device or stated["device"])
    except UnknownName:
        if device is not None:
            raise
        raise InputError(f"the certificate is of the device '{stated['device']}', which is neither shipped nor one of yours; name one with --device") from None
    model = read_model(folder / manifest["model"], {face.input_name: _shape(manifest, folder)})
    window = measure_window(
        [model.data],
        target,
        runtime=runtime_of(target, stated["runtime"]),
        quantile=0.5 if certificate is None else float(certificate["statistic"][1:]) / 100,
        level=LEVEL if certificate is None else 1 - certificate["confidence"],
        seconds=seconds,
        threads=stated["threads"],
        seed=seed,
        timing=timing_of(stated["regime"]),
        progress=progress,
    )
    (row,) = window.rows
    facts = {"measured_ms": row.estimate_ms, "upper_bound_ms": row.upper_bound_ms, "statistic": window.statistic, "visits": row.visits, "origin": "measured"}
    facts |= {"conditions": f"{window.conditions}, {window.conditions.processor}", "doubt": row.doubt}
    if certificate is None:
        return {"passed": None, **facts}
    now = asdict(window.conditions)
    differs = {name: [stated.get(name), now[name]] for name in _COMPARED if stated.get(name) != now[name]}
    if certificate["model_sha256"] != (found := sha256(folder / manifest["model"])):
        differs["model_sha256"] = [certificate["model_sha256"], found]
    if (plan := certificate.get(PLAN)) is not None and plan != window.facts[0].get(PLAN):
        differs[PLAN] = [plan, window.facts[0].get(PLAN)]
    judged = verdict(row, certificate["budget_ms"])
    ends = {"within": True, "over": False, "inconclusive": None}
    return {
        "passed": None if differs else ends[judged],
        "verdict": judged,
        "differs": differs,
        "not_measured": [str(each.get("where")) for each in certificate.get("elsewhere", []) if isinstance(each, dict)],
        **{key: certificate[key] for key in ("budget_ms", "confidence")},
        "certified_ms": certificate["measured_ms"],
        "certified": str(certificate.get("date", "at an unknown date"))[:40],
        "to_certified": row.estimate_ms / certificate["measured_ms"],
        **facts,
    }


def _certificate(folder: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """That of the folder. Raises DamagedFile where it is none."""
    if "certificate.json" not in manifest["files"]:
        return None
    path = folder / "certificate.json"
    certificate: Mapping[str, Any] = checked(read_json(path), CERTIFICATE, str(path), _REMEDY)
    if certificate.get("format", _FORMAT) != _FORMAT:
        raise DamagedFile(f"{path} has the format {str(certificate['format'])[:40]!r}, this hwnas reads {_FORMAT}")
    found = re.fullmatch(r"p([0-9]{1,2}(?:\.[0-9]+)?)", certificate["statistic"])
    if found is None or not 0 < float(found[1]) < 100:
        raise DamagedFile(f"{path} has the statistic '{certificate['statistic'][:20]}', which is no quantile; {_REMEDY}")
    if not _LEAST_CONFIDENCE <= certificate["confidence"] < 1 or certificate["budget_ms"] <= 0 or certificate["measured_ms"] <= 0:
        raise DamagedFile(f"{path} names a confidence, a budget or a latency that no certificate has; {_REMEDY}")
    return certificate


def _window_s(certificate: Mapping[str, Any] | None) -> float:
    """How long to measure by default: as long as for the certificate, a minute at least and an hour at most, and not at all without one."""
    if certificate is None:
        return 0.0
    stated = certificate.get("window_seconds")
    is_number = isinstance(stated, int | float) and not isinstance(stated, bool) and np.isfinite(stated)
    return min(max(60.0, float(stated)), 3_600.0) if is_number else 60.0  # type: ignore[arg-type]


def _facts(check: Parity) -> dict[str, Any]:
    return {"passed": check.passed, "ratio": check.ratio, "limit": check.limit, "inputs": check.inputs}


def require(found: Mapping[str, Any]) -> None:
    """Raises HwnasError, naming the first check that does not hold."""
    for name, each in found["checks"].items():
        if each["passed"] is False:
            how = (
                f"is off by {each['ratio']:.3g} of the logits' standard deviation" if "ratio" in each else f"took {each['measured_ms']:.4g} ms, over its budget"
            )
            raise HwnasError(f"{found['folder']}: the model {how} ({name}); do not use this build of the network")
