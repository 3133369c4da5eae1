"""`verify DIR`: an exported folder checked again by anybody who has it: its files, what it computes, its accuracy, and the latency it is certified for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.backends.onnx import runner
from hwnas.device import Device, load_device
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.exporter import compare
from hwnas.files import read_json, sha256
from hwnas.manifest import NAME, read_manifest
from hwnas.profiling.protocol import timing_of
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.window import measure_window, verdict
from hwnas.verbs.common import Progress
from hwnas.verbs.records import CERTIFICATE, checked

FORMAT = "hwnas.certificate/1"
_EXAMPLE = {"input": {"shape": [int]}, "example": {"input": str, "logits": [[(int, float)]], "tolerance_std": (int, float)}}
_COMPARED = ("device", "processor", "runtime", "version", "threads", "regime", "options")
_LEAST_CONFIDENCE = 0.9
_LARGEST_SIDE = 4_096


def is_export(folder: Path) -> bool:
    """Whether it is a folder that `export` wrote, and no run."""
    return (Path(folder) / NAME).is_file() and not (Path(folder) / "run.sqlite").exists()


def verify_folder(folder: Path, *, seconds: float, device: str | None, data: str | None, seed: int, progress: Progress) -> dict[str, Any]:
    """Hashes, the logits of the example, the latency against the certified budget, and with `data` the validation accuracy, each compared with what the
    folder says. Nothing is written.

    `differs`: conditions that are others than the certificate's, name -> both; what is measured then is a fact about these, and neither confirms nor
    contradicts it. `holds`: whether all of it is as certified. Raises HwnasError.
    """
    manifest = checked(read_manifest(folder), _EXAMPLE, str(Path(folder) / NAME), "export it again")
    path, model = Path(folder) / "certificate.json", Path(folder) / manifest["model"]
    if "certificate.json" not in manifest["files"]:
        raise InputError(f"{folder} has no certificate: its network was trained alone, and nothing was promised")
    certificate = checked(read_json(path), CERTIFICATE, str(path), "export it again")
    if certificate.get("format", FORMAT) != FORMAT:
        raise DamagedFile(f"{path} has the format {str(certificate['format'])[:40]!r}, this hwnas reads {FORMAT}")
    if certificate["model_sha256"] != sha256(model):
        raise DamagedFile(f"{path} is the certificate of another file than {model.name}: export it again")
    quantile, confidence = _quantile(certificate["statistic"], path), float(certificate["confidence"])
    if not _LEAST_CONFIDENCE <= confidence < 1 or certificate["budget_ms"] <= 0 or certificate["measured_ms"] <= 0:
        raise DamagedFile(f"{path} names a confidence, a budget or a latency that no certificate has: export it again")
    stated = certificate["conditions"]
    target = _target(device or stated["device"], device is not None)
    runtime = _runtime(target, stated["runtime"])
    logits = _logits(Path(folder), manifest, model)
    window = measure_window(
        [model],
        target,
        runtime=runtime,
        quantile=quantile,
        level=1 - confidence,
        seconds=max(seconds, _number(certificate.get("window_seconds"))),
        threads=stated["threads"],
        seed=seed,
        timing=timing_of(stated["regime"]),
        progress=progress,
    )
    row, conditions = window.rows[0], asdict(window.conditions)
    differs = {name: [stated.get(name), conditions[name]] for name in _COMPARED if stated.get(name) != conditions[name]}
    plan = certificate.get("plan_sha256")
    if plan is not None and plan != window.facts[0].get("plan_sha256"):
        differs["plan_sha256"] = [plan, window.facts[0].get("plan_sha256")]
    same = verdict(row, certificate["budget_ms"])
    accuracy = None if data is None else _accuracy(certificate, manifest, model, data)
    return {
        "folder": str(folder),
        "certified": {key: certificate[key] for key in ("measured_ms", "upper_bound_ms", "budget_ms", "statistic", "confidence", "date") if key in certificate},
        "measured_ms": row.estimate_ms,
        "upper_bound_ms": row.upper_bound_ms,
        "ratio": row.estimate_ms / certificate["measured_ms"],
        "visits": row.visits,
        "dropped_share": round(row.dropped_share, 4),
        "doubt": row.doubt,
        "verdict": same,
        "origin": "measured",
        "conditions": conditions,
        "differs": differs,
        "not_repeated": [str(each.get("where")) for each in certificate.get("elsewhere", []) if isinstance(each, dict)],
        "logits": logits,
        "accuracy": accuracy,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "holds": same == "within" and not differs and logits["passed"] and (accuracy is None or accuracy["same"] is not False),
    }


def in_words(found: Mapping[str, Any]) -> list[str]:
    """The findings as sentences, the judgement last."""
    certified, bound = found["certified"], found["upper_bound_ms"]
    lines = [
        f"files are as exported; the example's logits {'are' if found['logits']['passed'] else 'are NOT'} those of the manifest"
        + (f" ({found['logits']['reason']})" if found["logits"]["reason"] else ""),
        f"certified {certified.get('date', 'at an unknown date')}: {certified['measured_ms']:.4g} ms {certified['statistic']}, upper bound "
        f"{certified['upper_bound_ms']:.4g} ms, budget {certified['budget_ms']:.4g} ms",
        f"measured now: {found['measured_ms']:.4g} ms ({found['ratio']:.3f} times that), upper bound {'unknown' if bound is None else f'{bound:.4g} ms'}: "
        f"{found['verdict']}" + (f" ({found['doubt']})" if found["doubt"] else ""),
    ]
    if (accuracy := found["accuracy"]) is not None:
        before = "unknown" if accuracy["certified_pct"] is None else f"{accuracy['certified_pct']:.2f} %"
        lines.append(f"validation accuracy on {accuracy['data']}: {accuracy['measured_pct']:.2f} %, certified {before}")
    lines += [f"not measured again: the budget on {where}" for where in found["not_repeated"]]
    lines += [f"other than certified: {name}, {before} then, {now} now" for name, (before, now) in found["differs"].items()]
    if found["differs"]:
        lines.append("these are other conditions than the certificate's: it is neither confirmed nor contradicted")
    else:
        lines.append("the certificate holds" if found["holds"] else "the certificate is NOT confirmed")
    return lines


def _target(name: str, given: bool) -> Device:
    try:
        return load_device(name)
    except UnknownName:
        if given:
            raise
        raise InputError(f"the certificate is of the device '{name}', which is neither shipped nor one of yours; name one with --device") from None


def _runtime(device: Device, name: str) -> str:
    """What the device's file calls that runtime; one that takes ONNX files."""
    for each in device.runtimes:
        made: Runtime = registry.create("profiling.runtimes", each)
        if made.name == name and made.loads == "onnx":
            return each
    raise InputError(f"the file was certified with the runtime '{name}', and {device.name} has {', '.join(device.runtimes)}; name another with --device")


def _quantile(statistic: str, path: Path) -> float:
    found = re.fullmatch(r"p([0-9]{1,2}(?:\.[0-9]+)?)", statistic)
    if found is None or not 0 < float(found[1]) < 100:
        raise DamagedFile(f"{path} names the statistic '{statistic[:40]}', which is no percentile: export it again")
    return float(found[1]) / 100


def _number(value: object) -> float:
    """Seconds of the certificate's window, at most an hour: the file may be anybody's."""
    return min(float(value), 3_600.0) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0


def _logits(folder: Path, manifest: Mapping[str, Any], model: Path) -> dict[str, Any]:
    """Whether the file computes what the manifest says; `reason` where this machine cannot run it."""
    example = manifest["example"]
    if example["input"] not in manifest["files"]:
        raise DamagedFile(f"{folder / NAME} names an example that is none of its files: export it again")
    try:
        images = np.load(folder / example["input"], allow_pickle=False)
        found = compare(runner(model)(images), np.array(example["logits"], np.float64), float(example["tolerance_std"]))
    except (ValueError, OSError, EOFError, MemoryError) as error:  # InputError is a ValueError
        return {"passed": False, "ratio": None, "reason": str(error)}
    return {"passed": bool(found.passed), "ratio": found.ratio, "reason": ""}


def _accuracy(certificate: Mapping[str, Any], manifest: Mapping[str, Any], model: Path, data: str) -> dict[str, Any]:
    """Validation accuracy of the file on a data set, beside that of the certificate."""
    from hwnas.images import load_images
    from hwnas.verbs.deployed import classified

    facts = certificate.get("accuracy")
    stated = facts.get("validation_pct") if isinstance(facts, dict) and facts.get("data") == data else None
    before = float(stated) if isinstance(stated, int | float) else None
    images, shape = load_images(data, "validation"), tuple(manifest["input"]["shape"])
    if len(shape) != 4 or not all(1 <= each <= _LARGEST_SIDE for each in shape):
        raise DamagedFile(f"the manifest names the input shape {shape}, which no image model has: export it again")
    now = 100 * float(classified(model.read_bytes(), shape, images).mean())
    one = 100 / len(images)  # an image on the border may fall to the other side with another number of threads
    return {"data": data, "measured_pct": now, "certified_pct": before, "same": None if before is None else abs(now - before) <= 5 * one + 1e-9}
