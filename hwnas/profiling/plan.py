"""What is to be measured for a space: its distinct blocks, and the whole networks that calibrate their sum."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwnas.costs import macs
from hwnas.errors import InputError
from hwnas.graph import ABSENT, Block, block_text
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.profiling.protocol import TIMING, Timing
from hwnas.space import Codes

_POOL = 4_096


@dataclass(frozen=True, eq=False)
class Plan:
    """`blocks` distinct by their text, none of them a skipped layer; `networks` are codes (n, choices), each another subnet."""

    index: BlockIndex
    blocks: tuple[Block, ...]
    networks: Codes = field(repr=False)
    visits: int
    timing: Timing = TIMING


def make_plan(index: BlockIndex, *, visits: int, networks: int, seed: int, timing: Timing = TIMING) -> Plan:
    """The same plan for the same arguments. Raises InputError."""
    if not 1 <= visits <= 1000 or not 0 <= networks <= 10_000:
        raise InputError(f"visits must be from 1 to 1,000 and networks from 0 to 10,000, got {visits} and {networks}")
    blocks = {block_text(block): block for block in index.blocks if block and block is not ABSENT}
    return Plan(index, tuple(blocks[text] for text in sorted(blocks)), calibration_networks(index, networks, np.random.default_rng([seed, 0])), visits, timing)


def calibration_networks(index: BlockIndex, n: int, rng: np.random.Generator) -> Codes:
    """At most n codes of different subnets: the smallest, the largest, uniform ones at the extremes of the choices that most layers
    read (the resolution), and random ones spread evenly over the logarithm of the MACs."""
    space = index.space
    readers = np.bincount([column for columns in index.columns for column in set(columns)], minlength=len(space.choices))
    shared = np.flatnonzero(readers > len(space.layers) / 2)
    last = space.cardinalities - 1
    corners = [space.smallest(), space.largest()]
    for level in (0.0, 1.0, 0.5):
        for end in (0.0, 1.0):
            code = np.rint(level * last)
            code[shared] = end * last[shared]
            corners.append(code[None].astype(np.int16))
    chosen = index.distinct(np.concatenate(corners))[:n]
    share = rng.random((_POOL, 1))  # each row leans to small or large values: uniform rows are all of middling size
    pool = rng.binomial(last, np.broadcast_to(share, (_POOL, len(last)))).astype(np.int16)
    pool[:, shared] = rng.integers(0, last[shared] + 1, (_POOL, len(shared)))
    pool = index.distinct(np.concatenate([chosen, pool]))[len(chosen) :]
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    sizes = np.log(np.maximum(cost(np.asfortranarray(pool)), 1.0))
    ends = np.log(np.maximum(cost(np.concatenate([space.smallest(), space.largest()])), 1.0))
    free = np.ones(len(pool), bool)
    for target in np.linspace(ends[0], ends[1], max(0, n - len(chosen)) + 2)[1:-1]:
        if free.any():
            row = int(np.argmin(np.where(free, np.abs(sizes - target), np.inf)))
            free[row] = False
            chosen = np.concatenate([chosen, pool[row : row + 1]])
    return np.asfortranarray(chosen, np.int16)
