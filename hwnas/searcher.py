"""What a searcher is: a generator function that yields requests and receives answers.

    def my_searcher(problem, *, rng, population=50):
        told = yield Ask(problem.sample_feasible(rng, population))
        ...

`yield` is ask-and-tell in one word; the algorithm's state is its local variables. The driver (driver.py) owns evaluation, caching,
recording, the number of evaluations and the stop. Keyword-only parameters with defaults are the options. All randomness comes
from `rng`: a run is resumed by sending the recorded answers into a fresh generator of the same seed.

A searcher that trains shared weights takes a keyword `state` as well, a dictionary of small arrays and numbers that starts empty:
the driver saves it with the trainer at every `Train`, and restarts the generator from there. Whatever must survive lives in it,
and when a `Train` is yielded, `state` must be such that a generator started from it yields that same `Train` first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError, UnknownName
from hwnas.problem import Problem, Scores
from hwnas.space import Codes, FloatArray

#: One array per layer with one number per cell of it (the combinations its choices can take).
Gates: TypeAlias = Sequence[FloatArray]
#: What `Train` draws for one step: codes of the subnets to train, or a mixture of every layer's cells.
Sampler: TypeAlias = Callable[[np.random.Generator], Codes | Gates]
Paths: TypeAlias = Literal["two", "all", "mixture"]
Option: TypeAlias = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Ask:
    """Score these codes (n, choices). The answer is `Told`.

    fidelity: share in (0, 1] of a full evaluation (epochs, data). pending: the answer comes as soon as all but the last so many asked
    candidates are scored; 0 waits for all, `workers - 1` and more keep workers busy. Codes may be empty while some are unscored.
    """

    codes: Codes
    fidelity: float = 1.0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """Candidates scored since the last answer, in the order they were asked for; not necessarily those of the last `Ask` alone."""

    codes: Codes
    scores: Scores
    numbers: npt.NDArray[np.int64]
    """For each row, which asked candidate it is, counted from 0 over the whole search."""


@dataclass(frozen=True, slots=True)
class Train:
    """Take `steps` weight steps of the shared weights, each on what `sampler(rng)` draws. The answer is the mean loss, a float.

    rate: share of the trainer's own learning rate, in (0, 1], for rates that fall while a search goes on. No candidate may be unscored.
    """

    sampler: Sampler
    steps: int
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Gradient:
    """One forward and backward of the shared weights on a validation batch, weights untouched. The answer is `(loss, gates)`:
    the loss and its derivative by every gate, NaN where it was not asked for.

    paths: `mixture` runs the sum of each layer's cells, weighted by their gates. `all` and `two` run one path: gates are binary, in each layer
    the cell whose gate is 1 runs, and the derivative is by each gate that is not NaN. That is all cells, or of each choice two values (ProxylessNAS).
    """

    gates: Gates
    paths: Paths = "all"


@dataclass(frozen=True, slots=True)
class Validate:
    """How accurate subnets are with the shared weights, on the next validation images: cheap and noisy, the signal of a controller.

    The answer is their accuracy in %, (n,): of all on the same images, whose own statistics normalise them. Nothing is recorded, and it is
    no evaluation; `Ask` is.
    """

    codes: Codes


@dataclass(frozen=True, slots=True)
class Trace:
    """A point of the search's course, for its report: numbers by name, with the unit, such as {"entropy, nats": 9.1}. The answer is None.

    The driver adds how much was evaluated and the best objective so far. Numbers that are not finite are left out.
    """

    values: Mapping[str, float]


Request: TypeAlias = Ask | Train | Gradient | Validate | Trace
#: Receives Told after Ask, a float after Train, (float, Gates) after Gradient, accuracies (n,) after Validate, None after Trace.
Search: TypeAlias = Generator[Request, Any, None]


class Searcher(Protocol):
    """A generator function `(problem, *, rng, ...)`. Its keyword-only parameters besides `rng` and `state` are its options."""

    @property
    def __name__(self) -> str: ...

    def __call__(self, problem: Problem, *args: Any, **options: Any) -> Search: ...


class Trainer(Protocol):
    """Shared weights that the driver owns: weights, optimiser, data order and randomness."""

    def train(self, sampler: Sampler, steps: int, rate: float) -> float:
        """The mean loss over `steps` weight steps, see `Train`; `sampler` is called once a step with the trainer's own generator."""
        ...

    def gradient(self, gates: Gates, paths: Paths) -> tuple[float, Gates]:
        """Loss on the next validation batch and its derivative by every gate, see `Gradient`."""
        ...

    def validate(self, codes: Codes) -> FloatArray:
        """Accuracies in %, (n,), on the next validation images, see `Validate`."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that the next steps depend on into this empty folder."""
        ...

    def load(self, folder: Path) -> None:
        """Become what was saved there: the same steps follow as would have followed then."""
        ...


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """An option of a searcher: its type, its default, and the allowed values where they are a closed set."""

    name: str
    type: type[int] | type[float] | type[bool] | type[str]
    default: Option
    values: tuple[Option, ...] = ()

    def parse(self, text: str) -> Option:
        """The value that `text` writes. Raises InputError."""
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[self.type]
        try:
            value = {"true": True, "false": False}[text.lower()] if self.type is bool else self.type(text)
        except (KeyError, ValueError):
            raise InputError(f"{self.name} is '{text}', it must be {wanted}") from None
        if isinstance(value, float) and not np.isfinite(value):
            raise InputError(f"{self.name} is '{text}', it must be finite")
        if self.values and value not in self.values:
            raise InputError(f"{self.name} is '{text}', it must be one of {', '.join(map(str, self.values))}")
        return value


def options_of(searcher: Callable[..., Any]) -> dict[str, OptionSpec]:
    """A searcher's options, read from its signature: keyword-only parameters with a default, by name in order.

    Raises InputError where the signature is not a searcher's.
    """
    name = getattr(searcher, "__name__", str(searcher))
    if not inspect.isgeneratorfunction(searcher):
        raise InputError(f"{name} is not a searcher: it must be a generator function `def {name}(problem, *, rng, ...)` that yields Ask")
    hints = get_type_hints(searcher)
    specs: dict[str, OptionSpec] = {}
    parameters = inspect.signature(searcher).parameters.values()
    for parameter in parameters:
        if parameter.name in ("rng", "state") or parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        hint = hints.get(parameter.name, type(parameter.default))
        values = get_args(hint) if get_origin(hint) is Literal else ()
        kind = type(values[0]) if values else hint
        if kind not in (int, float, bool, str) or parameter.default is parameter.empty:
            raise InputError(f"option {parameter.name} of {name} needs a type (int, float, bool, str or Literal) and a default of it")
        specs[parameter.name] = OptionSpec(parameter.name, kind, parameter.default, values)
    if [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] != ["problem"] or not any(p.name == "rng" for p in parameters):
        raise InputError(f"{name} is not a searcher: its signature must be `def {name}(problem, *, rng, ...)`")
    return specs


def parse_options(searcher: Callable[..., Any], texts: Sequence[str]) -> dict[str, Option]:
    """`["population=50"]` -> {"population": 50}: only what is given, typed by the signature. Raises InputError, UnknownName."""
    return parse_given(options_of(searcher), f"option of {searcher.__name__}", texts)


def parse_given(specs: Mapping[str, OptionSpec], what: str, texts: Sequence[str]) -> dict[str, Option]:
    """`["name=value"]` -> {name: value}, as `specs` have it. Raises InputError, UnknownName."""
    parsed = dict[str, Option]()
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise InputError(f"'{text}' is not of the form option=value")
        if name not in specs:
            raise UnknownName(what, name, specs)
        if name in parsed:
            raise InputError(f"{name} is given twice")
        parsed[name] = specs[name].parse(value)
    return parsed


def trains(searcher: Callable[..., Any]) -> bool:
    """Whether the searcher keeps a `state` and needs a Trainer."""
    return "state" in inspect.signature(searcher).parameters
