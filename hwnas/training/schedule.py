"""Progressive shrinking as data: what each phase may sample, for how long, at which rate (Cai et al., 2020, section 3.3)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from hwnas.errors import UnknownName
from hwnas.space import Codes, SearchSpace


@dataclass(frozen=True, slots=True)
class Phase:
    """`freedom`: role of a choice (the last part of its name) -> how many of its largest values may be sampled.

    Roles that are not named have the freedom of `*`, without which they stay at their largest value; `resolution` is free unless named.
    Each step trains `subnets` random architectures at one resolution, and with `sandwich` (Yu et al., 2020) also the largest and
    the smallest that the phase allows.
    """

    name: str
    epochs: float
    rate: float
    freedom: Mapping[str, int] = field(default_factory=dict)
    subnets: int = 1
    sandwich: bool = False
    sort: bool = False
    """Before the phase the channels are sorted by importance, within the widths that were trained in the phase before."""

    def lowest(self, space: SearchSpace) -> Codes:
        """Smallest code of each choice that the phase allows, (choices,)."""
        low = []
        for choice in space.choices:
            role, n = choice.name.rpartition(".")[2], len(choice.values)
            low.append(n - min(self.freedom.get(role, n if role == "resolution" else self.freedom.get("*", 1)), n))
        return np.array(low, np.int16)

    def sample(self, space: SearchSpace, rng: np.random.Generator) -> Codes:
        """The codes of one step, column-major, at one common resolution; with a sandwich the largest first and the smallest last."""
        low, high = self.lowest(space), space.largest()[0]
        codes = rng.integers(low, high + 1, (self.subnets, len(low))).astype(np.int16)
        resolution = space.column.get("resolution")
        drawn = codes[0].copy()
        if self.sandwich:
            codes = np.concatenate([high[None], codes, low[None]])
        if resolution is not None:
            codes[:, resolution] = drawn[resolution]
        return np.asfortranarray(codes)


_ALL = 1_000  # every value

#: The published schedule (official code; table in the reference): epochs with warm-up, rate for batches of 64, SGD, ImageNet.
OFA = (
    Phase("largest", 180, 2.6e-2),
    Phase("kernel", 125, 3e-2, {"kernel": _ALL}),
    Phase("depth 1", 25, 2.5e-3, {"kernel": _ALL, "depth": 2}, subnets=2),
    Phase("depth 2", 125, 7.5e-3, {"kernel": _ALL, "depth": 3}, subnets=2),
    Phase("expand 1", 25, 2.5e-3, {"kernel": _ALL, "depth": _ALL, "expand": 2}, subnets=4, sort=True),
    Phase("expand 2", 125, 7.5e-3, {"kernel": _ALL, "depth": _ALL, "expand": 3, "*": _ALL}, subnets=4, sort=True),
)

#: The same order of shrinking for data and networks that a CPU trains in minutes, with the sandwich rule. Rates are AdamW's.
SMALL = (
    Phase("largest", 1, 8e-3),
    Phase("kernel and depth", 0.5, 8e-3, {"kernel": _ALL, "depth": _ALL}, sandwich=True),
    Phase("expand", 6.5, 8e-3, {"*": _ALL}, sandwich=True),
)

#: For a supernet that starts from weights that were trained on other images: the whole space at once, at a low rate.
FINE_TUNE = (Phase("fine-tune", 6, 2e-3, {"*": _ALL}, sandwich=True),)

#: One random subnet a step, choices uniform, from labels alone: single-path one-shot (Guo et al., 2020), and the warm-up of ProxylessNAS (Cai et al., 2019).
#: On small data better than `small` at equal work, by 7.9 points of a subnet's accuracy on average (`benchmarks/training.py`).
SINGLE_PATH = (Phase("single path", 20, 8e-3, {"*": _ALL}),)

#: `as_is`: no training at all, for weights that are there and whose classes are those of the images.
SCHEDULES: dict[str, tuple[Phase, ...]] = {"ofa": OFA, "small": SMALL, "fine_tune": FINE_TUNE, "single_path": SINGLE_PATH, "as_is": ()}


def schedule(name: str) -> tuple[Phase, ...]:
    """A schedule by name. Raises UnknownName."""
    if name not in SCHEDULES:
        raise UnknownName("training schedule", name, SCHEDULES)
    return SCHEDULES[name]


def alone(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The schedule of a single network: as many epochs in one phase, at the rate that the last phase begins with."""
    return (Phase("alone", sum(phase.epochs for phase in phases), phases[-1].rate),) if phases else ()


class Plan:
    """What every step of a training does, from its number alone: so a training goes on anywhere, and in every process alike."""

    def __init__(self, space: SearchSpace, phases: Sequence[Phase], per_epoch: int, *, length: float = 1.0, seed: int = 0):
        self.space, self.phases, self.seed = space, tuple(phases), seed
        self.lengths = [max(1, round(phase.epochs * length * per_epoch)) for phase in phases]
        self.ends = list(accumulate(self.lengths))
        self._only = space.lower(space.largest()).input[2]  # the resolution where it is no choice

    @property
    def steps(self) -> int:
        return self.ends[-1] if self.ends else 0

    def phase(self, step: int) -> int:
        """Number of the phase that a step belongs to."""
        return min(bisect_right(self.ends, step), len(self.phases) - 1)

    def progress(self, step: int) -> float:
        """Share of its phase that lies before a step."""
        i = self.phase(step)
        return (step - (self.ends[i] - self.lengths[i])) / self.lengths[i]

    def begins(self, step: int) -> bool:
        """Whether a step is the first of a later phase."""
        return step in self.ends[:-1]

    def codes(self, step: int) -> Codes:
        """The subnets of a step."""
        return self.phases[self.phase(step)].sample(self.space, np.random.default_rng([self.seed, 3, step]))

    def resolution(self, step: int) -> int | None:
        """The resolution that the subnets of a step share, None where there is no such step."""
        column = self.space.column.get("resolution")
        if not 0 <= step < self.steps:
            return None
        if column is None:
            return self._only
        return int(self.space.choices[column].values[self.codes(step)[0, column]])
