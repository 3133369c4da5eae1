"""The certificate: what was measured of the chosen network, of which file, under which conditions, and how far the statement reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from hwnas import __version__
from hwnas.profiling.agent import PLAN
from hwnas.profiling.window import Window
from hwnas.verbs.common import COSTS, Job
from hwnas.verbs.published import nothing_published

#: What a certificate repeats of the chosen model's measurement.
_STATED = (
    *("measured_ms", "upper_bound_ms", "confidence", "p10_ms", "p90_ms"),
    *("runs", "visits", "independent_visits", "telling_visits", "dropped_share", "model_sha256"),
)


def certificate_of(
    job: Job, chosen: Mapping[str, Any], together: Sequence[Mapping[str, Any]], window: Window, published: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The certificate of the `chosen` network. together: all that were measured in its window; published: the best published network there."""
    largest = next(each for each in together if each["role"] == "largest")
    limit_ms, reach = job.budget_ms, window.conditions.reach
    of_plan = ", built into the plan of that hash: built again it may be another plan, which is not certified" if PLAN in chosen else ""
    elsewhere = chosen.get("elsewhere", [])
    open_ = [each["where"] for each in elsewhere if each["origin"] == "predicted"]
    visits, telling = chosen["independent_visits"], chosen["telling_visits"]
    wandering = f"; its speed wandered meanwhile: of other times {visits} visits tell no more than {telling}" if telling < visits / 2 else ""
    untrained = "" if job.is_trained else ", whose weights are random: its latency, and no accuracy"
    not_there = f"; nothing is certified for {', '.join(open_)}: that budget is predicted only" if open_ else ""
    return {
        "format": "hwnas.certificate/1",
        "origin": "measured",
        "budget_ms": limit_ms,
        "statistic": window.statistic,
        **{key: chosen[key] for key in _STATED},
        "verdict": chosen["verdict"],
        **({PLAN: chosen[PLAN]} if PLAN in chosen else {}),
        **({"elsewhere": elsewhere} if elsewhere else {}),
        "costs": _costs(job, chosen),
        "accuracy": _accuracy_facts(job, chosen),
        "window_seconds": window.seconds,
        "predicted_ms": chosen.get("latency_predicted_ms", chosen["latency_ms"]),
        **({"searched_ms": chosen["latency_ms"]} if job.is_measured else {}),
        "budget_used": round(chosen["measured_ms"] / limit_ms, 4),
        "space_max_ms": largest["measured_ms"],
        "budget_binds": limit_ms < largest["measured_ms"],
        "published": _published(job, together, published),
        "speed_states": [asdict(state) for state in window.states],
        "conditions": asdict(window.conditions),
        "system": dict(window.system),
        "precision": job.variant.precision,
        "batch": job.variant.batch,
        "space": job.index.space.name,
        "fingerprint": job.index.fingerprint,
        "architecture": chosen["values"],
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "hwnas": __version__,
        "scope": f"this file{of_plan}{untrained}, on this unit of this device, in the state it was in, on this date"
        + (f"; {reach}" if reach else "")
        + wandering
        + not_there,
    }


def _published(job: Job, together: Sequence[Mapping[str, Any]], entrant: Mapping[str, Any] | None) -> dict[str, Any]:
    """What published networks do within this budget: that of the zoo, and those of the space's literature, with the weights of this run."""
    references = [each for each in together if each["role"].startswith("reference ")]
    inside = [each for each in references if each["verdict"] == "within"]
    kept = ("role", "measured_ms", "upper_bound_ms", "verdict", "accuracy_pct", "macs", "params")
    best = max(inside, key=lambda each: each["accuracy_pct"], default=None)
    return {
        "network": entrant,
        "of_the_space": None
        if best is None
        else {key: best[key] for key in kept} | {"accuracy": "validation, with the weights of this run" if job.is_trained else "predicted"},
        "said": _said(job, entrant, best, len(references)),
    }


def _said(job: Job, entrant: Mapping[str, Any] | None, reference: Mapping[str, Any] | None, references: int) -> str:
    """What published networks would have given, in a sentence or two; what is not known is said."""
    parts = []
    if entrant is None:
        parts.append(nothing_published(job))
    else:
        same = entrant["same_data"]
        accuracy = f"{entrant['accuracy_pct']:.2f} % top-1 as published on ImageNet" + ("" if same else "; on the data of this run its accuracy is unknown")
        parts.append(f"{entrant['name']} took {entrant['measured_ms']:.4g} ms in the same window ({entrant['verdict']}), {accuracy}")
    if reference is not None:
        name = reference["role"].removeprefix("reference ")
        accuracy = f"{reference['accuracy_pct']:.2f} % {'validation accuracy' if job.is_trained else 'accuracy as predicted'}"
        with_weights = ", with the weights of this run," if job.is_trained else ""
        parts.append(f"{name}{with_weights} took {reference['measured_ms']:.4g} ms at {accuracy}")
    elif references:
        parts.append("no architecture of the literature that this space holds is certified within it")
    return "; ".join(parts)


def _costs(job: Job, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Budgets on what needs no device, and what the network has of it: counted, the size weighed."""
    keys = {"macs": "macs", "params": "params", "memory": "memory_bytes", "size": "size_bytes"}
    made = []
    for i, (budget, _) in enumerate(job.budgets):
        if budget.metric in COSTS:
            weighed = budget.metric == "size" and "file_bytes" in chosen
            value = chosen["file_bytes"] if weighed else chosen.get(keys[budget.metric])
            made.append({"metric": budget.metric, "limit": job.constraints[i].limit, "value": value, "origin": "measured" if weighed else "counted"})
    return made


def _accuracy_facts(job: Job, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy of what was certified on the images that the search chose by: what can be measured again."""
    if not job.is_trained:
        return {"predicted_pct": chosen["accuracy_pct"], "origin": "predicted", "by": str(job.options("search")["accuracy"])}
    facts = {"validation_pct": chosen["accuracy_pct"], "data": job.options("train")["data"], "origin": "measured"}
    return (
        facts | {"in": chosen.get("accuracy_in", "fp32")} | ({"predicted_pct": chosen["accuracy_predicted_pct"]} if "accuracy_predicted_pct" in chosen else {})
    )
