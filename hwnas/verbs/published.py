"""The best published network within a run's budget, to be measured beside its candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwnas import zoo
from hwnas.errors import DamagedFile, HwnasError
from hwnas.report_data import PublishedBaseline
from hwnas.report_words import plain
from hwnas.variant import Variant
from hwnas.verbs.common import Job
from hwnas.verbs.zoo import baseline


@dataclass(frozen=True, slots=True)
class Entrant:
    """A published network as a file with random weights, and what was published of it. `same_data`: whether its accuracy is of the run's data."""

    raw: bytes
    facts: Mapping[str, Any] = field(hash=False)


def published_entrant(job: Job, limit_ms: float) -> Entrant | None:
    """The network of highest published accuracy whose latency, measured earlier under the conditions of the run's table, is within the limit.

    None where `bench --zoo` measured none such, where it is not at hand any more, and for other precisions and batches than it measures.
    """
    found = _baseline(job, limit_ms)
    if found is None or found.best is None or job.variant != Variant():
        return None
    try:
        raw = zoo.onnx_file(found.best.name)
    except (HwnasError, ImportError):
        return None
    about = found.best
    facts = {
        **{key: getattr(about, key) for key in ("name", "source", "accuracy_pct", "input_size", "macs", "params")},
        "accuracy_of": "ImageNet, as published",
        "same_data": job.is_trained and job.options("train")["data"].partition("(")[0] == "ImageNet",
        "measured_before_ms": about.measured_ms,
        "of_networks": found.measured,
        "model_sha256": hashlib.sha256(raw).hexdigest(),
    }
    return Entrant(raw, facts)


def nothing_published(job: Job) -> str:
    """Why no published network stands beside the candidates, and what measures them where nobody did."""
    found = _baseline(job, job.budget_ms)
    if found is None:
        return "published networks are compared with on measured tables only"
    if not found.measured:
        return f"no published network was measured under these conditions; measure them with: {plain(found.command)}"
    if found.best is None and found.fastest is not None:
        return f"none of {found.measured} published networks is within the budget: the fastest, {found.fastest.name}, takes {found.fastest.measured_ms:.4g} ms"
    if found.best is None:
        return f"none of {found.measured} published networks has a {job.budget.statistic} under these conditions; measure it with: {plain(found.command)}"
    return f"{found.best.name}, the best of {found.measured} published networks within the budget, could not be measured beside this one"


def _baseline(job: Job, limit_ms: float) -> PublishedBaseline | None:
    try:
        return baseline(job.table.conditions, job.budget.statistic, limit_ms) if job.table.origin == "measured" else None
    except DamagedFile:
        return None
