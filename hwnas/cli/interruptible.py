"""Commands that Ctrl-C ends with a sentence and exit code 130."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer


def interruptible(said: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Ctrl-C ends the command with `interrupted; ` and what is said, and exit code 130."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                command(*args, **kwargs)
            except KeyboardInterrupt:
                typer.echo(f"\ninterrupted; {said}", err=True)
                raise typer.Exit(130) from None

        return run

    return decorate


resumable = interruptible("all that was recorded is kept: the same command again continues")
