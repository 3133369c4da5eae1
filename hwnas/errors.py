"""Every error hwnas raises on purpose.

HwnasError
├── InputError            something given is wrong: option, name, file, shape (exit code 2)
│   ├── UnknownName       no space, device, searcher ... of that name
│   ├── DamagedFile       a file is cut short, of another format, version or fingerprint
│   ├── MissingLatency    the table has no row for some block of the space
│   ├── RunHeld           another process is writing this run, or measures on this device
│   └── MissingExtra      an optional dependency is not installed
├── Infeasible            no architecture of the space meets the budget (exit code 1)
├── CheckFailed           a space, backend, searcher ... breaks its contract (exit code 1)
└── MeasurementFailed     the target did not deliver a usable measurement (exit code 1)
    ├── ConnectionLost    the way to the target broke
    └── WrongClock        the target's clock contradicts ours
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 1_200  # characters; a sentence of ours is shorter, and what it quotes may be anything


class HwnasError(Exception):
    """Base of all errors that are one sentence for the user and never a traceback.

    What a message quotes may come from a hostile file: control characters are escaped, and its middle is left out where it is long.
    """

    exit_code = 1

    def __init__(self, message: str):
        plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _shortened(message))
        super().__init__(_shortened(plain))


def _shortened(text: str) -> str:
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[: half - 5]} ... {text[-half:]}"


class InputError(HwnasError, ValueError):
    """An option, name, file or shape that was given is wrong."""

    exit_code = 2


class UnknownName(InputError):
    """A name that is not in its catalogue; the message offers near ones."""

    def __init__(self, what: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        super().__init__(f"no {what} named '{name}'{hint} Known: {', '.join(known) or 'none'}")


class DamagedFile(InputError):
    """A file that cannot be read as what it claims to be."""


class MissingLatency(InputError):
    """A latency table lacks rows that a space needs."""


class Infeasible(HwnasError):
    """No architecture of the space meets the budget."""


class CheckFailed(HwnasError):
    """Something registered breaks the contract of its kind; raised by `hwnas.testing`."""


class MeasurementFailed(HwnasError):
    """The target delivered an error, or nothing that may be called a latency."""


class ConnectionLost(MeasurementFailed):
    """The way to the target broke; that says nothing about what it was running."""


class WrongClock(MeasurementFailed):
    """The target's clock contradicts ours: nothing that it timed may be called a latency."""


class RunHeld(InputError):
    """Another process is writing the same run, or measures on the same device."""


class MissingExtra(InputError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, what: str, module: str, extra: str):
        super().__init__(f"{what} needs '{module}', which is not installed; install it with: pip install 'hwnas[{extra}]'")
