"""The command line: nouns list, verbs act. Results on stdout, progress and notes on stderr, `--json` everywhere."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed or infeasible, 2 input refused, 130 interrupted but resumable."""
    import typer

    from hwnas.cli import commands
    from hwnas.errors import HwnasError

    try:
        commands.app(standalone_mode=True)
    except HwnasError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
