"""`export`: the certified network as a folder that an application team can ship and check without hwnas."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from hwnas.architecture import Architecture
from hwnas.backends.onnx import runner, to_onnx
from hwnas.backends.torch import torch as torch_backend
from hwnas.costs import macs, params
from hwnas.device import load_device
from hwnas.errors import DamagedFile, HwnasError, InputError, MeasurementFailed, RunHeld
from hwnas.exporter import INT8_RMS_LIMIT, PARITY_LIMITS, Exported, Parity, compare
from hwnas.exporters.onnx import write_model
from hwnas.files import read_json, write_json, write_whole
from hwnas.graph import Graph
from hwnas.interface import INPUTS, Interface, Preprocessing, facts_of, logits_to_compare, outputs_to_logits, with_interface
from hwnas.kit import about_kit, copy_kit
from hwnas.manifest import FORMAT, NAME, ExpectedLatency, manifest_of, write_manifest
from hwnas.model_card import NAME as CARD
from hwnas.model_card import model_card
from hwnas.profiling.agent import PLAN
from hwnas.profiling.protocol import TIMING, timing_of
from hwnas.profiling.window import measure_window
from hwnas.quantization import is_quantized, value_ranges
from hwnas.variant import Variant
from hwnas.verbs.common import Job, Progress, existing, silent, use_threads_of_training
from hwnas.verbs.deployed import CALIBRATION_IMAGES, classified, graph_of
from hwnas.verbs.target import runtime_of
from hwnas.weights import Array, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.images import Images

PARITY_INPUTS = 64
PARITY_IMAGES = 16  # of any size, one after the other
ACCURACY_IMAGES = 10_000  # of the test split: half a point of standard error at most
KIT = "onnxruntime_python"
SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Conversion:
    """Another precision than the one that was measured. precision: a name of PRECISIONS. calibration: of int8, on `images` training images.

    seconds: length of the window in which both files are measured beside each other; 0: neither is.
    """

    precision: str
    calibration: str = "minmax"
    images: int = CALIBRATION_IMAGES
    seconds: float = SECONDS


@dataclass(frozen=True, slots=True)
class _Converted:
    """What became of a conversion: facts for manifest, card and command line; latency of the new file, where it was measured."""

    facts: dict[str, Any]
    latency: ExpectedLatency | None
    warnings: list[str] = field(default_factory=list)


def export(
    run: Path,
    *,
    to: Path,
    kit: str = KIT,
    interface: Interface | None = None,
    conversion: Conversion | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Write the certified network of `run` into the new folder `to`: ONNX file, weights, certificate, manifest, model card, and a kit to run it.

    With a plain interface the file is the one that was measured, byte for byte; what another one adds stands around the same network. conversion: to
    another precision, with accuracy and latency before and after. The file's logits are compared with the PyTorch subnet's on random inputs
    and on validation images first, and it is evaluated on test images. A network that was trained alone has no certificate. The folder appears complete
    or not at all, and takes the place of an earlier export if nobody has put anything else there. Returns the stage's result. Raises HwnasError.
    """
    face = interface or Interface()
    with existing(run) as directory:
        job, target = Job(directory), Path(to).resolve()
        is_alone = directory.recorded_options("train") is not None and job.options("train").get("architecture") is not None
        certificate = None if is_alone else job.result("verify")["certificate"]
        if is_alone:
            job.result("train")
        elif certificate is None:
            raise InputError(f"{directory.folder} has no certified network to export; allow more with a new search, or see: hwnas report {directory.folder}")
        if kit and face.input not in about_kit(kit).get("inputs", INPUTS):
            raise InputError(f"the kit {kit} cannot feed a file with --input {face.input}: what it runs on takes {' or '.join(about_kit(kit)['inputs'])}")
        check_target(target)
        use_threads_of_training(job)
        staged = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
        try:
            result = _export(job, certificate, staged, kit, face, conversion, progress)
            _replace(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        result = {**result, "folder": str(target)}
        directory.finish("export", result)
        return result


def check_target(folder: Path) -> None:
    """Raises InputError where `folder` is a file, or holds anything that is not part of an earlier export: it would be lost."""
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"{folder} is a file; name a folder")
        return
    try:
        manifest = read_json(folder / NAME)
    except DamagedFile:
        manifest = None
    ours = manifest.get("files") if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None
    known = {NAME, *ours} if isinstance(ours, dict) else set()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_dir() and relative.as_posix() not in known and "__pycache__" not in relative.parts:
            raise InputError(f"{folder} holds {relative.as_posix()}, which no export wrote; name another folder, or move it away")


def _replace(staged: Path, target: Path) -> None:
    """Move a complete folder to where it belongs; what was there stays until then. Raises InputError."""
    before = staged.with_suffix(".old")
    try:
        if target.exists():
            target.replace(before)
        staged.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}; name another folder") from None
    shutil.rmtree(before, ignore_errors=True)


def _export(
    job: Job, certificate: Mapping[str, Any] | None, folder: Path, kit: str, face: Interface, conversion: Conversion | None, progress: Progress
) -> dict[str, Any]:
    from safetensors.numpy import save

    progress("export", 0, 4)
    space, images = job.index.space, job.images("validation")
    code = space.encode(certificate["architecture"])[0] if certificate is not None else space.largest()[0]
    weights = job.accuracy.network(code).weights()
    own = Variant() if certificate is None else job.variant
    graph = space.lower(code) if certificate is None else graph_of(job, code)
    if face.input == "image" and graph.input[0] > 1 and not face.free_batch:
        raise InputError(f"a file of batch {graph.input[0]} takes images of one size; export it with a free batch, or feed it pixels")
    if face.softmax and len(graph.output) != 2:
        raise InputError(f"a softmax goes behind logits (n, classes); this network gives {graph.output}")
    # The bytes that were measured: made again they could differ in the last bits, for batch-norm sums depend on the number of threads.
    core = job.run.store.blob(certificate["model_sha256"]) if certificate is not None else to_onnx(graph, weights).SerializeToString(deterministic=True)
    converted, variant = None, own
    if conversion is not None and conversion.precision != own.precision:
        if own.precision != "fp32":
            raise InputError(f"the run was searched in {own.precision}, and what is converted begins in fp32: search with a table in {conversion.precision}")
        variant = Variant(conversion.precision, own.batch)
        before, graph, core = (core, graph), *_in_precision(job, code, weights, variant, conversion)
        converted = _before_and_after(job, before, (core, graph), own, variant, conversion, certificate)
    preprocessing = Preprocessing(mean=images.mean, std=images.std, crop=images.crop)
    architecture = Architecture.of(space, code[None])
    write_whole(folder / "weights.safetensors", save({name: np.ascontiguousarray(array) for name, array in weights.items()}))
    write_whole(folder / "architecture.json", architecture.to_json())
    if certificate is not None:
        write_json(folder / "certificate.json", certificate)
    exported = write_model(_dressed(core, face, graph, preprocessing, images, architecture), folder / "model.onnx")
    progress("export", 1, 4)
    checks, example, expected = _parity(exported.path, core, face, graph, weights, images)
    progress("export", 2, 4)
    accuracy = _accuracy(job, core, graph)
    progress("export", 3, 4)
    if kit:
        copy_kit(kit, folder)
    latency = converted.latency if converted is not None else None if certificate is None else _latency(certificate, exported, face)
    precision: dict[str, Any] = {"name": variant.precision}
    if is_quantized(graph):
        precision |= (
            {"calibration": conversion.calibration, "images": conversion.images}
            if converted and conversion
            else {"calibration": "minmax", "images": CALIBRATION_IMAGES}
        )
    described: dict[str, Any] = {
        "exported": exported,
        "graph": graph,
        "architecture": architecture,
        "fingerprint": job.index.fingerprint,
        "built_from": str(job.options("train")["space"]),
        "preprocessing": preprocessing,
        "labels": images.classes,
        "example": example,
        "expected": expected,
        "parity": checks["real"],
        "latency": latency,
        "interface": face,
        "precision": precision,
        "accuracy": accuracy,
    }
    write_whole(folder / CARD, model_card(_card_facts(job, described, exported, certificate, converted)))
    manifest = write_manifest(folder, **described)
    progress("export", 4, 4)
    return {
        "parity": {name: _facts(check) for name, check in checks.items()},
        "model_sha256": exported.sha256,
        "certified": certificate is not None and exported.sha256 == certificate["model_sha256"],
        "added": face.added,
        "size_bytes": exported.size_bytes,
        "manifest": manifest.name,
        "kit": kit,
        "precision": precision,
        "accuracy": accuracy,
        "conversion": None if converted is None else converted.facts,
        "warnings": [] if converted is None else converted.warnings,
    }


def _dressed(core: bytes, face: Interface, graph: Graph, preprocessing: Preprocessing, images: Images, architecture: Architecture) -> bytes:
    """The file that is shipped: the network's own bytes where the interface is plain."""
    from onnx import load_model_from_string

    if face.is_plain:
        return core
    try:
        model = load_model_from_string(core)
    except Exception:  # as write_model: PyTorch's files are none
        raise InputError("what was certified is no ONNX model, and others are not exported: profile, search and verify with a runtime that runs them") from None
    facts = facts_of(preprocessing, images.classes, graph.input[2], space=architecture.space, architecture=dict(architecture.values))
    return bytes(with_interface(model, face, side=graph.input[2], preprocessing=preprocessing, facts=facts).SerializeToString(deterministic=True))


# -- another precision ------------------------------------------------------------------------------------------------------------


def _in_precision(job: Job, code: Array, weights: Weights, variant: Variant, conversion: Conversion) -> tuple[Graph, bytes]:
    """The network in another precision, int8 calibrated on training images: its graph and its file. Raises InputError."""
    graph = variant.space(job.index.space).lower(code)
    ranges = None
    if is_quantized(graph):
        if conversion.images < 1:
            raise InputError(f"calibration needs at least one image, got {conversion.images}")
        seen = job.images("train").sample(conversion.images).at(slice(None), graph.input[2]).numpy()
        ranges = value_ranges(graph, weights, seen, calibration=conversion.calibration)
    return graph, to_onnx(graph, weights, ranges=ranges).SerializeToString(deterministic=True)


def _before_and_after(
    job: Job,
    before: tuple[bytes, Graph],
    after: tuple[bytes, Graph],
    own: Variant,
    variant: Variant,
    conversion: Conversion,
    certificate: Mapping[str, Any] | None,
) -> _Converted:
    """Accuracy and, interleaved on the certificate's device, latency of both files."""
    facts: dict[str, Any] = {"from": own.precision, "to": variant.precision, "accuracy_before_pct": _accuracy(job, *before)["accuracy_pct"]}
    facts["accuracy_after_pct"] = _accuracy(job, *after)["accuracy_pct"]
    if conversion.seconds <= 0:
        return _Converted(facts | {"latency": "not measured"}, None)
    alone = {"device": "localhost", "runtime": "onnxruntime", "threads": 1, "regime": TIMING.regime}
    conditions: Mapping[str, Any] = certificate["conditions"] if certificate is not None else alone
    try:
        device = load_device(conditions["device"])
        window = measure_window(
            [before[0], after[0]],
            device,
            runtime=runtime_of(device, conditions["runtime"]),
            seconds=conversion.seconds,
            threads=conditions["threads"],
            graphs=[before[1], after[1]],
            timing=timing_of(conditions["regime"]),
            quantile=0.5 if certificate is None else job.budget.quantile,
        )
    except (MeasurementFailed, RunHeld, InputError) as error:
        return _Converted(facts | {"latency": f"not measured: {error}"}, None, [f"the latency in {variant.precision} was not measured: {error}"])
    first, second = window.rows
    ratio = second.estimate_ms / first.estimate_ms
    facts |= {
        "before_ms": first.estimate_ms,
        "after_ms": second.estimate_ms,
        "ratio": ratio,
        "statistic": window.statistic,
        "visits": second.visits,
        "origin": "measured",
    }
    warnings = []
    if ratio > 1:
        warnings.append(
            f"{variant.precision} takes {ratio:.2f} times as long as {own.precision} here: networks of h-swish and squeeze-and-excite often do on CPUs"
        )
    if second.doubt:
        warnings.append(f"the latency in {variant.precision} is in doubt: {second.doubt}")
    where = _where(asdict(window.conditions))
    bound = None if second.doubt else second.upper_bound_ms
    return _Converted(facts, None if bound is None else ExpectedLatency(second.estimate_ms, bound, window.statistic, where, claim="measured"), warnings)


def _accuracy(job: Job, core: bytes, graph: Graph) -> dict[str, Any]:
    """Of the file on test images, in ONNX Runtime on this machine."""
    import onnxruntime

    images = job.images("test").sample(ACCURACY_IMAGES)
    right = classified(core, graph.input, images)
    about = {"data": job.options("train")["data"], "split": "test", "images": len(images), "runtime": f"onnxruntime {onnxruntime.__version__}"}
    return {"accuracy_pct": 100 * float(right.mean()), **about, "origin": "measured"}


# -- parity -----------------------------------------------------------------------------------------------------------------------


def _parity(path: Path, core: bytes, face: Interface, graph: Graph, weights: Weights, images: Images) -> tuple[dict[str, Parity], Array, Array]:
    """What each kind of input came to, an example as the file is fed it, and the logits for it: the reference's, of int8 the file's own. Raises
    HwnasError where they differ."""
    batch, reference, run = graph.input[0], torch_backend(graph, weights), runner(path)
    quantized = is_quantized(graph)
    limit = INT8_RMS_LIMIT if quantized else max(PARITY_LIMITS[op.data_type] for op in graph.ops)
    n = min(max((PARITY_IMAGES if face.input == "image" else PARITY_INPUTS) // batch, 1), len(images) // batch) * batch
    if n == 0:
        raise InputError(f"the validation images are {len(images)}, fewer than a batch of {batch}: a file of that batch cannot be checked")
    kinds = {"real": list(_fed(images, [_pixels(images, i) for i in range(n)], graph, face, batch))}
    if not quantized:  # noise is outside of the ranges of real images
        kinds["random"] = _random(images, n, graph, face, batch)
    checks = {}
    for name, pairs in kinds.items():
        got = np.concatenate([outputs_to_logits(run(fed), face) for fed, _ in pairs])
        expected = np.concatenate([logits_to_compare(reference(x), face) for _, x in pairs])
        checks[name] = compare(got, expected, limit, by_rms=quantized)
    failed = [name for name, check in checks.items() if not check.passed]
    if failed:
        worst = checks[failed[0]]
        by = worst.ratio if worst.rms_difference is None else worst.rms_difference / worst.logits_std
        advice = "; choose another --calibration, or more --calibration-images" if quantized else ""
        raise HwnasError(f"the exported file differs from the trained network by {by:.3g} of the logits' standard deviation on {failed[0]} inputs{advice}")
    shown = [_pixels(images, 0)] * batch if face.input == "image" else [_pixels(images, i) for i in range(batch)]  # which are of one size
    fed, x = next(_fed(images, shown, graph, replace(face, free_batch=False), batch))
    if not quantized:
        return checks, fed, reference(x)
    own = runner(core)(x)  # what is computed in eight bits must be the same on the target, overflow included; what it costs is the accuracy
    return checks, fed, own


def _pixels(images: Images, row: int) -> Tensor:
    """An image as it is stored, uint8 (c, h, w)."""
    from hwnas.images import DecodedImages

    return images.pixels.decode(row) if isinstance(images.pixels, DecodedImages) else images.pixels[row]


def _fed(images: Images, pixels: list[Tensor], graph: Graph, face: Interface, batch: int) -> Iterator[tuple[Array, Array]]:
    """(what the file is fed, what the network is fed), a run each: where the batch is free one for all, and for each image of a size of its own."""
    import torch

    from hwnas.images import centre, resized

    side = graph.input[2]
    small = [resized(centre(each, images.crop)[None].float(), side) for each in pixels]
    if face.input == "pixels":
        small = [each.round().clamp(0, 255) for each in small]
    several = batch if not face.free_batch else 1 if face.input == "image" else len(pixels)
    for start in range(0, len(pixels), several):
        x = torch.cat([images.normalised(each) for each in small[start : start + several]])
        if face.input == "tensor":
            fed = x.numpy()
        elif face.input == "pixels":
            fed = torch.cat(small[start : start + several]).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        else:
            fed = torch.stack(pixels[start : start + several]).permute(0, 2, 3, 1).contiguous().numpy()
        yield np.ascontiguousarray(fed), np.ascontiguousarray(x.numpy())


def _random(images: Images, n: int, graph: Graph, face: Interface, batch: int) -> list[tuple[Array, Array]]:
    """Noise: standard normal, or any pixels, of images that are larger than the network's."""
    import torch

    rng, (channels, side) = np.random.default_rng(0), graph.input[1:3]
    if face.input == "tensor":
        noise: Array = rng.standard_normal((n, *graph.input[1:])).astype(np.float32)
        several = n if face.free_batch else batch
        return [(noise[i : i + several], noise[i : i + several]) for i in range(0, n, several)]
    large = [torch.from_numpy(rng.integers(0, 256, (channels, side + side // 2, 2 * side), np.uint8)) for _ in range(n)]
    return list(_fed(images, large, graph, face, batch))


# -- what is written about it -------------------------------------------------------------------------------------------------------


def _where(conditions: Mapping[str, Any]) -> str:
    regime = conditions["regime"].partition(":")[0]
    where = f"{conditions['device']}, {conditions['runtime']} {conditions['version']}"
    return f"{where}, {conditions['threads']} thread(s), {conditions['processor']}, {regime}"


def _latency(certificate: Mapping[str, Any], exported: Exported, face: Interface) -> ExpectedLatency:
    """Of the certificate; where the file has more than was measured, it says so."""
    same = exported.sha256 == certificate["model_sha256"]
    rest = " without " + " and ".join(face.added) if face.added else ""
    return ExpectedLatency(
        certificate["measured_ms"],
        certificate["upper_bound_ms"],
        certificate["statistic"],
        _where(certificate["conditions"]),
        certificate.get(PLAN),
        None if same else certificate["model_sha256"],
        None if same else f"the network in this file{rest}, for the batch that was measured",
    )


def _card_facts(
    job: Job, described: Mapping[str, Any], exported: Exported, certificate: Mapping[str, Any] | None, converted: _Converted | None
) -> dict[str, Any]:
    options, trained = job.options("train"), job.result("train")
    graph = described["graph"]
    block = [tuple(each.node for each in graph.nodes)]
    training = {"schedule": options["schedule"], "steps": trained["steps"], "batch": options["batch"], "seed": options["seed"]}
    training |= dict(options.get("recipe") or {})
    data = {
        "training images": f"{len(job.images('train')):,} of {options['data']}",
        "validation images, which the search chose by": f"{len(job.images('validation')):,}",
    }
    return {
        "manifest": manifest_of(**described),
        "model_bytes": exported.size_bytes,
        "model_sha256": exported.sha256,
        "params": float(params(block)[0]),
        "macs": float(macs(block)[0]) / graph.input[0],
        "training": training,
        "data": data,
        "certificate": certificate if converted is None else None,
        "conversion": None if converted is None else converted.facts,
    }


def _facts(check: Parity) -> dict[str, Any]:
    return asdict(check) | {"ratio": check.ratio, "passed": check.passed}
