"""One budget for every algorithm: a metric, a limit with its unit, and the statistic that must keep it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from hwnas.errors import InputError

_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
#: Metric -> how its limit may be written: unit -> what one of it is in ms, MACs, parameters or bytes.
UNITS = {"latency": {"us": 1e-3, "ms": 1.0, "s": 1e3}, "macs": _COUNTS, "params": _COUNTS, "memory": _BYTES, "size": _BYTES}
_EXAMPLES = {
    "latency": "'<= 12ms p50' or '<= 55% p50' of the largest subnet",
    "macs": "'<= 300M'",
    "params": "'<= 4M'",
    "memory": "'<= 512kB'",
    "size": "'<= 4MB'",
}
_LARGEST = 1e18  # of a limit as it is written
_TEXT = re.compile(r"\s*<=\s*([0-9]*\.?[0-9]+)\s*(%|[A-Za-z]*)\s*(p[0-9]{1,2}(?:\.[0-9])?)?\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """`metric <= limit`, for latency of the given quantile. Limit in ms, MACs, parameters or bytes, or as `share` of the largest subnet's.

    `limit` is None until a share is resolved against a space. `where` says on which device, of several budgets on latency.
    """

    metric: str
    limit: float | None
    quantile: float = 0.5
    share: float | None = None
    where: str = ""

    @classmethod
    def parse(cls, metric: str, text: str) -> Budget:
        """`<= 12ms p50`, `<= 900us`, `<= 55% p50` (of the largest subnet), `<= 300M`, `<= 512kB`. Raises InputError."""
        match = _TEXT.fullmatch(text)
        units = UNITS.get(metric)
        if units is None:
            raise InputError(f"no budget on '{metric}'; budgets are on {', '.join(UNITS)}")
        example = _EXAMPLES[metric]
        if match is None or (match[3] and metric != "latency"):
            raise InputError(f"'{text}' is no budget on {metric}; write {example}")
        value, unit, statistic = float(match[1]), match[2].lower(), match[3]
        factors = {each.lower(): factor for each, factor in units.items()}
        quantile = float(statistic[1:]) / 100 if statistic else 0.5
        if value >= _LARGEST:
            raise InputError(f"'{text:.60}' is no budget on {metric}: the limit is out of range; write {example}")
        if value <= 0 or not 0 < quantile < 1:
            raise InputError(f"'{text}' is no budget on {metric}: the limit and the percentile must be positive; write {example}")
        if unit == "%":
            return cls(metric, None, quantile, value / 100)
        if unit not in factors:
            raise InputError(f"'{text}' has the unit '{match[2]}'; {metric} takes {', '.join(u or 'none' for u in units)} or %, as in {example}")
        return cls(metric, value * factors[unit], quantile)

    @property
    def statistic(self) -> str:
        """`p50` and the like."""
        return f"p{self.quantile * 100:g}"

    def resolved(self, largest: float) -> Budget:
        """The same budget with a share turned into a limit, given the largest subnet's value."""
        return self if self.share is None else replace(self, limit=self.share * largest)

    def __str__(self) -> str:
        name = f"{self.metric} on {self.where}" if self.where else self.metric
        if self.limit is None:
            return f"{name} <= {100 * (self.share or 0):g}% of the largest subnet"
        if self.metric == "latency":
            return f"{name} <= {self.limit:.4g} ms {self.statistic}"
        return f"{name} <= {self.limit / 1e3:.6g} kB" if UNITS.get(self.metric) is _BYTES else f"{name} <= {self.limit:.4g}"


def parse_also(text: str) -> tuple[str, str]:
    """(table, budget) of `TABLE <= 30ms p50`: a budget on latency on another device. Raises InputError."""
    table, sign, limit = text.rpartition("<=")
    if not sign or not table.strip():
        raise InputError(f"'{text:.120}' is no budget on another device; write 'TABLE <= 30ms p50', TABLE being the folder or name of its latency table")
    return table.strip(), f"<={limit}"
