"""What an evaluation raised in another process, carried as text: not every exception survives being pickled."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from hwnas.errors import HwnasError, InputError


@dataclass(frozen=True, slots=True)
class Failure:
    """exit_code: of an error of ours, which is one sentence; None of any other, with its traceback."""

    text: str
    exit_code: int | None


def failure(error: Exception) -> Failure:
    if isinstance(error, HwnasError):
        return Failure(str(error), error.exit_code)
    return Failure("".join(traceback.format_exception(error)), None)


def raised(failed: Failure) -> Exception:
    """What to raise here."""
    if failed.exit_code is None:
        return RuntimeError(f"an evaluation failed in a worker:\n{failed.text}")
    return InputError(failed.text) if failed.exit_code == InputError.exit_code else HwnasError(failed.text)
