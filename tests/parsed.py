"""Commands of hwnas held against the parser of the command line itself, without being run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import typer

from hwnas.cli.commands import app


def _leaves(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    else:
        for word, each in below.items():
            yield from _leaves(each, (*path, word))


#: Words -> command, of everything the command line can do.
COMMANDS = dict(_leaves(typer.main.get_command(app)))


def path_of(words: Sequence[str]) -> tuple[str, ...] | None:
    """The command that words begin with, None where there is none."""
    return next((path for path in COMMANDS if tuple(words[: len(path)]) == path), None)


def options(path: tuple[str, ...]) -> set[str]:
    """Those of a command."""
    return {"--help"} | {text for each in COMMANDS[path].params for text in (*each.opts, *each.secondary_opts) if text.startswith("-")}


def is_name(words: Sequence[str]) -> bool:
    """Is this no more than the name of a command that needs arguments, or of several commands?"""
    if any(path[: len(words)] == tuple(words) != path for path in COMMANDS):
        return True
    return tuple(words) in COMMANDS and _refusal(words)[0] == "MissingParameter"


def check(words: Sequence[str]) -> None:
    """Raises AssertionError where the command line refuses the words after `hwnas`."""
    assert path_of(words), f"`hwnas {shlex.join(words)}`: there is no such command"
    kind, sentence = _refusal(words)
    assert not kind, f"`hwnas {shlex.join(words)}`: {sentence}"


def _refusal(words: Sequence[str]) -> tuple[str, str]:
    path = path_of(words)
    assert path is not None
    try:
        COMMANDS[path].make_context(" ".join(path), list(words[len(path) :]))
    except Exception as error:  # typer brings its own click
        return type(error).__name__, str(error)
    return "", ""
