"""What predictors of blocks are fitted to and judged by: a table's measured rows, and how far they reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwnas.block_features import matrix, sizes
from hwnas.errors import DamagedFile, InputError
from hwnas.graph import Block, parse_block
from hwnas.latency_table import Imported, LatencyTable, Measurement
from hwnas.predictor import Origin, Predictor
from hwnas.space import FloatArray

LEAST_FITTED = 8
LEAST_BLOCKS = 10  # of a table: without a fifth of them a model can still be fitted

_FOLDS = 5


def measured_rows(table: LatencyTable) -> tuple[list[Block], FloatArray]:
    """Blocks that were measured, or imported, and their prices in ms, (n,); predicted rows are no data. Raises InputError where they are too few."""
    rows = {text: entry.price_ms for text, entry in sorted(table.entries.items()) if isinstance(entry, Measurement | Imported)}
    if len(rows) < LEAST_BLOCKS:
        raise InputError(f"the table of {table.conditions} has {len(rows)} measured blocks, {LEAST_BLOCKS} are needed to predict others")
    return [parse_block(text) for text in rows], np.array(list(rows.values()))


def predicted_origin(table: LatencyTable) -> Origin:
    """The origin of what is predicted from a table."""
    return table.origin if table.origin in ("emulated", "simulated") else "predicted"


def enough(blocks: Sequence[Block], prices_ms: FloatArray) -> FloatArray:
    """The prices as an array. Raises InputError where they are too few, or no prices."""
    prices_ms = np.asarray(prices_ms, np.float64)
    if len(blocks) < LEAST_FITTED or len(blocks) != len(prices_ms):
        raise InputError(f"{len(blocks)} blocks were measured, {LEAST_FITTED} are needed to predict others")
    if not (np.isfinite(prices_ms) & (prices_ms > 0)).all():
        raise InputError("prices of measured blocks must be positive numbers")
    return prices_ms


@dataclass(frozen=True, slots=True)
class Support:
    """The least and greatest of each of a block's sizes among the measured ones."""

    names: tuple[str, ...]
    least: FloatArray
    greatest: FloatArray

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> Support:
        every = [sizes(block) for block in blocks]
        names = sorted({name for each in every for name in each})
        values = matrix(every, names)
        return cls(tuple(names), values.min(axis=0), values.max(axis=0))

    def is_outside(self, blocks: Sequence[Block]) -> npt.NDArray[np.bool_]:
        """(m,), true where a block is larger, smaller or of another kind than all measured ones; a skipped layer is not."""
        features = [sizes(block) if block else {} for block in blocks]
        values = matrix(features, self.names)
        unknown = np.array([any(each.keys() - set(self.names)) for each in features], np.bool_)
        beyond = ((values < self.least - 1e-9) | (values > self.greatest + 1e-9)).any(axis=1)
        return np.asarray((unknown | beyond) & np.array([bool(block) for block in blocks], np.bool_))

    def tensors(self) -> dict[str, Any]:
        return {"support.least": self.least, "support.greatest": self.greatest}

    def check(self) -> None:
        """Raises DamagedFile where numbers from a file bound nothing."""
        if self.least.shape != (len(self.names),) or self.greatest.shape != self.least.shape:
            raise DamagedFile("the predictor's least and greatest sizes of blocks do not fit their names")


def left_out(fit: Callable[[Sequence[Block], FloatArray], Predictor], blocks: Sequence[Block], prices_ms: FloatArray) -> FloatArray:
    """Each block's price as predicted by a fit without it and a fifth of the others, (n,). Raises InputError where LEAST_BLOCKS are not there."""
    order = np.random.default_rng(0).permutation(len(blocks))
    predicted = np.empty(len(order))
    for fold in (order[i::_FOLDS] for i in range(_FOLDS)):
        kept = np.setdiff1d(order, fold)
        predicted[fold] = fit([blocks[i] for i in kept], prices_ms[kept]).prices([blocks[i] for i in fold])
    return predicted


def names_in(facts: dict[str, Any], key: str) -> tuple[str, ...]:
    """A list of names among a file's facts. Raises DamagedFile."""
    names = facts.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise DamagedFile(f"the predictor's '{key}' is no list of names")
    return tuple(names)
