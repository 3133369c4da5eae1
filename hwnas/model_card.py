"""`MODEL_CARD.md`: what whoever ships a network has to know about it. Figures say their unit and origin; what nobody told us is asked, not invented.

The headings are those of Mitchell et al., Model Cards for Model Reporting, 2019 (arXiv:1810.03993), as far as there is something to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

NAME = "MODEL_CARD.md"

#: What the folder cannot know. Whoever ships it answers.
QUESTIONS = {
    "Licence": (
        "Under which licence are the weights given away? (None is stated here: a licence is yours to choose.)",
        "Does the licence of the training images allow it?",
    ),
    "Intended use": (
        "What is the network for, and who uses it?",
        "What must it not be used for?",
    ),
    "Data and people": (
        "Where do the training images come from, and were the people on them asked?",
        "Are the test images like those it will see? For which groups or conditions was the accuracy looked at separately?",
    ),
    "Contact": ("Who answers for it?",),
}


def wilson_pct(share: float, n: int) -> tuple[float, float]:
    """95 % interval in % of a share of n images (Wilson, 1927)."""
    z = 1.959964
    middle, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 100 * (middle - half) / (1 + z * z / n), 100 * (middle + half) / (1 + z * z / n)


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown. facts: `manifest` (without hashes of files), `model_bytes`, `params`, `macs`, `training` and `data` as name -> text, `certificate` or None,
    `conversion` or None."""
    manifest = facts["manifest"]
    lines = [
        f"# {plain(manifest['space'])}: an image classifier of {len(manifest['labels'])} classes",
        "",
        "Written by `hwnas export`. *Measured* is what was measured by hwnas; everything below that is a question is yours to answer before this is shipped.",
        "",
        "## The network",
        "",
        *table(("what", "value"), _network(facts)),
        "",
        "## How good it is",
        "",
        *table(("what", "value", "origin"), [*_accuracy(manifest), *_latency(facts), *_conversion(facts)]),
        "",
        *_scope(facts),
        "",
        "## How it was made",
        "",
        *table(("what", "value"), [*facts["training"].items(), *facts["data"].items()]),
        "",
        "## What it is fed, and what it gives",
        "",
        *table(("what", "value"), _interface(manifest)),
    ]
    for heading, questions in QUESTIONS.items():
        lines += ["", f"## {heading}", "", *(f"- [ ] {question}" for question in questions)]
    return "\n".join(lines) + "\n"


def plain(value: object) -> str:
    """A text that is one cell of a table, whatever it holds."""
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(map(plain, row))} |" for row in rows)]


def _network(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    manifest = facts["manifest"]
    precision = manifest["precision"]
    calibrated = f", calibrated by {precision['calibration']} on {precision['images']} training images" if "calibration" in precision else ""
    return [
        ("search space", manifest["space"]),
        ("architecture", ", ".join(f"{name} {value}" for name, value in manifest["architecture"].items())),
        ("parameters", f"{facts['params']:,.0f} (batch norm counted)"),
        ("multiply-accumulates of one image", f"{facts['macs']:,.0f}"),
        ("precision", precision["name"] + calibrated),
        ("file", f"{manifest['model']}, {facts['model_bytes']:,} bytes, ONNX opset {manifest['opset']}, IR {manifest['ir_version']}"),
        ("SHA-256", facts["model_sha256"]),
    ]


def _accuracy(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = manifest["accuracy"]
    if found is None:
        return [("accuracy", "not measured", "-")]
    low, high = wilson_pct(found["accuracy_pct"] / 100, found["images"])
    value = f"{found['accuracy_pct']:.2f} % top-1 (95 % interval {low:.2f} to {high:.2f})"
    return [(f"accuracy on {found['images']:,} {found['split']} images of {found['data']}", value, f"measured, of the file, in {found['runtime']}")]


def _latency(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    manifest, certificate = facts["manifest"], facts["certificate"]
    parity = manifest["parity"]
    ratio = parity["max_abs_difference"] / parity["logits_std"]
    rows = [("largest difference from the trained network", f"{ratio:.1e} of the logits' standard deviation, over {parity['inputs']} images", "measured")]
    latency = manifest["latency"]
    if latency is None:
        return [*rows, ("latency", "not measured", "-")]
    of = f" of {latency['covers']}" if "covers" in latency else ""
    value = f"{latency['measured_ms']:.4g} ms {latency['statistic']}, at most {latency['upper_bound_ms']:.4g} ms"
    rows.append((f"latency{of}", f"{value}, on {latency['conditions']}", latency["origin"]))
    if certificate is not None:
        confidence = f"{100 * certificate['confidence']:.4g} % confidence, {certificate['visits']} visits"
        rows.append(
            (
                "budget",
                f"{certificate['budget_ms']:.4g} ms {certificate['statistic']}, at {confidence}",
                f"certified on {certificate.get('date', 'a date not stated')}",
            )
        )
    return rows


def _conversion(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = facts["conversion"]
    if found is None:
        return []
    rows = [(f"accuracy before, in {found['from']}", f"{found['accuracy_before_pct']:.2f} % top-1", "measured, of the file")]
    if "ratio" in found:
        rows.append(
            (
                f"latency of {found['to']} over {found['from']}",
                f"{found['ratio']:.3g} ({found['after_ms']:.4g} / {found['before_ms']:.4g} ms p50)",
                "measured, interleaved",
            )
        )
    return rows


def _scope(facts: Mapping[str, Any]) -> list[str]:
    certificate = facts["certificate"]
    scope = (
        f"The latency holds for {plain(certificate['scope'])}."
        if certificate is not None and "scope" in certificate
        else "There is no certificate of its latency."
    )
    return [f"{scope} The accuracy holds for images like those it was measured on; nothing was looked at about others."]


def _interface(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    def shape(value: Mapping[str, Any]) -> str:
        return f"`{value['name']}`: {value['dtype']} {' x '.join(map(str, value['shape']))}".replace("`", "")

    how = manifest["preprocessing"]
    prepared = f"pixels to {how['range']}, " + (f"the central {how['crop']:g} of the shorter side, " if how["crop"] is not None else "")
    prepared += f"resized to {how['resolution'][0]} x {how['resolution'][1]} ({how['resize']}), minus {how['mean']}, over {how['std']}"
    where = {"tensor": "by the application", "pixels": "resizing by the application, the rest in the file", "image": "in the file"}[manifest["input"]["kind"]]
    names = manifest["labels"]
    return [
        ("input", shape(manifest["input"])),
        ("preprocessing", f"{prepared}; done {where}"),
        ("output", f"{shape(manifest['output'])}, {manifest['output']['kind']}"),
        ("classes", ", ".join(names[:20]) + (f" ... ({len(names)})" if len(names) > 20 else "")),
    ]
