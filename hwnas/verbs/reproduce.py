"""How to get a run again: the commands that make such a one, its seeds, and the hashes of what it used and made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.profiling.protocol import REGIMES
from hwnas.variant import Variant
from hwnas.verbs.common import COSTS, Job
from hwnas.verbs.target import runtime_of

_OF_A_SEARCH = ("searcher", "evaluations", "seed")


def commands(job: Job) -> tuple[str, ...]:
    """Commands that make such a run: the options that its stages and its table recorded, folders by their names."""
    train, search, verify, table = job.options("train"), job.options("search"), job.result("verify")["options"], job.table.protocol
    run, folder = job.run.folder.resolve().name, job.table_name
    variant = {name: value for name, value, usual in zip(("precision", "batch"), astuple(job.variant), astuple(Variant()), strict=True) if value != usual}
    regime = next((name for name, each in REGIMES.items() if each.regime == job.table.conditions.regime), "warm")
    where = {"runtime": _runtime(job), **({} if regime == "warm" else {"regime": regime})}
    profiled = {"space": train["space"], "to": folder, **where, **variant, **{key: table[key] for key in ("visits", "networks", "seed") if key in table}}
    trained = {key: train[key] for key in ("space", "data", "schedule", "sharing", "length", "batch", "shards", "init", "seed") if train.get(key) is not None}
    recipe = [f"--set={name}={value}" for name, value in (train.get("recipe") or {}).items()]
    budgets = ["latency", *(name for name in COSTS if search.get(name) is not None)]
    chosen = [name for name in ("precision", "batch") if search.get(name) is not None]
    also = [f"{name} {each['latency']}" for name, each in zip(job.other_names, search.get("also") or (), strict=True)]
    searched = {"table": folder, **{key: search[key] for key in (*budgets, *chosen, "searcher", "evaluations", "seed")}, "also": also}
    given = [f"--set={name}={value}" for name, value in search["options"].items()] + ([] if search["baselines"] else ["--no-baselines"])
    predictor = job.result("search").get("predictor")
    build = [["accuracy", "build", run, *_flags({"samples": predictor["samples"], "seed": job.options("accuracy")["seed"]})]] if predictor else []
    given += _flags({key: search[key] for key in ("reward", "latency_source", "latency_device", "latency_seconds") if search.get(key) is not None})
    given += ["--accuracy-predictor", search["accuracy_predictor"]] if predictor else []
    lines = (
        ["profile", job.table.conditions.device, *_flags({**profiled, "threads": job.table.conditions.threads})],
        ["train", run, *_flags(trained), *recipe],
        *build,
        ["solve", search["solved"]["run"], "--to", run, *_flags({key: value for key, value in searched.items() if key not in _OF_A_SEARCH})]
        if search.get("solved")
        else ["search", run, *_flags(searched), *given],
        ["verify", run, *_flags(verify)],
        ["export", run, "--to", "export"],
    )
    return tuple(shlex.join(["hwnas", *line]) for line in lines)


def seeds(job: Job) -> dict[str, int]:
    """Stage -> its seed."""
    options = {"train": job.options("train"), "search": job.options("search"), "verify": job.result("verify")["options"]}
    table = job.table.protocol.get("seed")
    return ({"profile": table} if type(table) is int else {}) | {stage: each["seed"] for stage, each in options.items()}


def hashes(job: Job, model_sha256: str | None) -> dict[str, str]:
    """What was used and made -> its hash; model_sha256: of the chosen file."""
    train = job.options("train")
    found = {
        "training images": train.get("images"),
        "space (fingerprint)": train["fingerprint"],
        "latency table": job.options("search")["table"],
        "weights of the supernet": job.weights.get("supernet.safetensors"),
        "chosen file": model_sha256,
    }
    return {name: value for name, value in found.items() if value}


def _flags(options: Mapping[str, Any]) -> list[str]:
    """An option of several values is given for each, one that is on or off by its name."""
    pairs = [(name, each) for name, value in options.items() for each in (value if isinstance(value, list) else [value])]
    named = [(f"--{name.replace('_', '-')}", value) for name, value in pairs if value is not False]
    return [part for name, value in named for part in ([name] if value is True else [name, f"{value:g}" if isinstance(value, float) else str(value)])]


def _runtime(job: Job) -> str:
    """What the device's file calls the runtime of the table, or its own name where the device is not at hand."""
    try:
        return runtime_of(load_device(job.table.conditions.device), job.table.conditions.runtime)
    except HwnasError:
        return job.table.conditions.runtime
