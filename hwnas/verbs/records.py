"""What the stages of a run record, as far as later stages read it.

A run's checksums tell damage, not forgery or age: its folder may come from somebody else, or from another version. So whatever is
read back is compared with its shape first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hwnas.errors import DamagedFile

NUMBER = (int, float)
LARGEST = 1e300  # of a number; integers beyond overflow where they meet floats

_POINT = {
    "code": [int],
    "values": {str: (int, float, str)},
    **dict.fromkeys(("accuracy_pct", "latency_ms", "macs", "params"), NUMBER),
    **dict.fromkeys(("memory_bytes?", "size_bytes?"), NUMBER),
    "also_ms?": [NUMBER],
    **dict.fromkeys(("latency_predicted_ms?", "latency_p10_ms?", "latency_p90_ms?"), NUMBER),
    "latency_origin?": str,
    "accuracy_origin?": str,
    "on_front": bool,
}
_MEASURED = {
    **{key: shape for key, shape in _POINT.items() if key != "on_front"},
    "role": str,
    "accuracy_in?": str,
    "round": int,
    "model_sha256": str,
    **dict.fromkeys(("measured_ms", "p10_ms", "p90_ms", "visits"), NUMBER),
    "upper_bound_ms": (int, float, type(None)),
    "plan_sha256?": str,
    "doubt": str,
    "verdict": str,
    "file_bytes?": NUMBER,
    "accuracy_fp32_pct?": NUMBER,
    "elsewhere?": [
        {
            **dict.fromkeys(("where", "statistic", "origin", "verdict", "reason?"), str),
            **dict.fromkeys(("budget_ms", "predicted_ms", "measured_ms?", "upper_bound_ms?"), NUMBER),
        }
    ],
}
#: A published network, or one of the literature, in the window of a certificate.
_BESIDE = {
    **dict.fromkeys(("measured_ms", "accuracy_pct", "upper_bound_ms?", "macs?", "params?"), NUMBER),
    **dict.fromkeys(("name?", "role?", "source?", "accuracy_of?", "accuracy?", "verdict"), str),
}
_CONDITIONS = {**dict.fromkeys(("device", "processor", "runtime", "version", "regime"), str), "threads": int, "options": {str: (int, float, str, bool)}}
CERTIFICATE = {
    "conditions": _CONDITIONS,
    "architecture": {str: (int, float, str)},
    **dict.fromkeys(("measured_ms", "upper_bound_ms", "budget_ms", "confidence"), NUMBER),
    **dict.fromkeys(("statistic", "verdict", "model_sha256", "origin", "plan_sha256?"), str),
    "published?": {"said?": str, "network?": _BESIDE, "of_the_space?": _BESIDE},
}

#: A point of a search's course.
_TRACED = {"number": int, "evaluations": NUMBER, "best?": NUMBER, "values": {str: NUMBER}}

_ENDS = {"largest": NUMBER, "smallest": NUMBER}
_CURVE = [{"phase": str, "step": int, "loss": NUMBER, "rate?": NUMBER, "images_per_s?": NUMBER, "validation_accuracy_pct?": _ENDS}]
_INIT = (type(None), {"taken": int, "new_head": bool, "missing": [str], "unknown": [str]})
_VERIFY = {"top": int, "seconds": NUMBER, "device": str, "seed": int, "use?": NUMBER, "also?": [str], "random_weights?": bool}

#: Stage -> shape of its options.
OPTIONS: Mapping[str, Any] = {
    "train": {
        **dict.fromkeys(("space", "data", "schedule", "fingerprint", "init?", "images?", "sharing?"), str),
        **dict.fromkeys(("batch", "seed", "shards?"), int),
        "length": NUMBER,
        "architecture?": [int],
        "recipe?": {str: (int, float, str, bool)},
    },
    "search": {
        **dict.fromkeys(("table", "latency", "macs?", "params?", "memory?", "size?", "precision?"), str),
        **dict.fromkeys(("searcher", "accuracy?", "accuracy_predictor?", "reward?", "latency_source?", "latency_device?"), str),
        "latency_seconds?": NUMBER,
        **dict.fromkeys(("batch?", "evaluations", "seed"), int),
        "baselines": bool,
        "also?": [{"table": str, "latency": str}],
        "solved?": {"run": str, "events": int},
        "options": {str: (int, float, str, bool)},
    },
    "accuracy": {"seed": int},
    "verify": _VERIFY,
}
#: What `search` records of its latency table and of those of other devices, and `train` of a checkpoint.
TABLE = {"name": str, "files": {str: str}}
ALSO = {"tables": [TABLE]}
CHECKPOINT = {"files": {str: str}, "seconds": NUMBER, "curve": _CURVE, "losses?": [NUMBER], "init?": _INIT}
#: What a search by a predictor means to measure.
PROPOSED = {"predictor": str, "samples": int, "codes": [[int]], "predicted_pct": [NUMBER]}
#: What `solve` takes over from the run that it was given.
KNOWN = {"codes": [[int]], "accuracy_pct": [NUMBER]}
#: What the driver records of an evaluated candidate: the value of each expensive metric, null where it failed.
EVALUATED = {"code": [int], "values": [(*NUMBER, type(None))]}
#: What `report` records of the operators of a file.
PROFILED = {"model_sha256": str, "conditions": str, "runs": int, "operators": [{"name": str, "share": NUMBER}], "reason": str}
#: Stage -> shape of its result.
RESULTS: Mapping[str, Any] = {
    "train": {
        "files": {str: str},
        "threads?": int,
        "steps": int,
        "seconds": NUMBER,
        "validation_accuracy_pct": {"largest": NUMBER, "smallest": NUMBER},
        "curve?": _CURVE,
        "init?": _INIT,
        "skipped?": [[str]],
    },
    "search": {
        **dict.fromkeys(("budget_ms", "space_min_ms", "space_max_ms", "evaluations", "seconds"), NUMBER),
        "statistic": str,
        "latency_origin": str,
        "budgets?": [{"metric": str, "unit": str, **dict.fromkeys(("limit", "min", "max"), NUMBER)}],
        "points": [_POINT],
        "accuracy_origin?": str,
        "surrogate?": {**dict.fromkeys(("samples", "error_points", "spearman", "optimum_pct", "best_found_pct", "gap_points"), NUMBER), "proof": str},
        "predictor?": {"name": str, **dict.fromkeys(("samples", "measured", "error_points"), NUMBER)},
        "baselines?": {str: {"evaluations": NUMBER, "points": [_POINT]}},
        "trace?": [_TRACED],
        "files?": {str: str},
        "weight_steps?": int,
        "networks_measured?": {"measured": int, "failed": int, "where": str},
    },
    "verify": {"budget_ms": NUMBER, "options": _VERIFY, "measured": [_MEASURED], "certificate": (type(None), CERTIFICATE)},
    "export": {
        "model_sha256": str,
        "precision?": {"name": str},
        "size_bytes?": NUMBER,
        "accuracy?": {"accuracy_pct": NUMBER, "images": int, "data": str, "split": str},
        "conversion?": {"from": str, "to": str, **dict.fromkeys(("before_ms?", "after_ms?"), NUMBER), "visits?": int, "latency?": str},
    },
    "report": {"images": int, "codes?": [[int]], "correct": [re.compile("(?:[0-9a-f]{2})*")], "sources": [int]},
}


#: The file that `bench --zoo` writes and `report` reads.
BENCH_ZOO = {
    **dict.fromkeys(("format", "origin", "date", "hwnas"), str),
    "confidence": NUMBER,
    "conditions": _CONDITIONS,
    "system": {str: (int, float, str, bool)},
    "rows": [
        {
            **dict.fromkeys(("name", "source"), str),
            **dict.fromkeys(("weights?", "error?", "model_sha256?", "doubt?", "date?"), str),
            **dict.fromkeys(("accuracy_pct?", "macs?", "params?", "over_ms?", "visits?"), NUMBER),
            "input_size": int,
            "versions": {str: str},
            "latency_ms": {str: {"value": NUMBER, "low?": NUMBER, "high?": NUMBER}},
        }
    ],
}


def checked(value: Any, shape: Any, where: str, remedy: str = "make a new run") -> Any:
    """The same value. Raises DamagedFile naming the first place that does not have its shape, and the remedy."""
    if (wrong := _mismatch(value, shape, "")) is not None:
        raise DamagedFile(f"{where} was recorded by another version of hwnas or altered: {wrong}; {remedy}")
    return value


def _mismatch(value: Any, shape: Any, at: str) -> str | None:
    """What is wrong, None where nothing is.

    shape: a type; a tuple of shapes, one of which fits; a pattern of texts; [shape of each element]; {str: shape of each value}; or
    {key: shape of its value}, where other keys may be there too and `key?` may be missing or null.
    """
    if isinstance(shape, tuple):
        wrongs = [_mismatch(value, each, at) for each in shape]
        return None if None in wrongs else wrongs[-1]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at or 'it'} is no list"
        return next((wrong for i, each in enumerate(value) if (wrong := _mismatch(each, shape[0], f"{at}[{i}]"))), None)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{at or 'it'} is no mapping"
        if str in shape:
            return next((wrong for key, each in value.items() if (wrong := _mismatch(each, shape[str], f"{at}.{key}"))), None)
        for name, inner in shape.items():
            key = name.removesuffix("?")
            if key != name and value.get(key) is None:
                continue
            if key not in value:
                return f"{at}.{key}".lstrip(".") + " is missing"
            if wrong := _mismatch(value[key], inner, f"{at}.{key}".lstrip(".")):
                return wrong
        return None
    if isinstance(shape, re.Pattern):
        return None if isinstance(value, str) and shape.fullmatch(value) else f"{at} is {value!r:.60}"
    if type(value) is not shape:
        return f"{at} is {value!r:.60}"
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        return f"{at} is out of range"
    return None
