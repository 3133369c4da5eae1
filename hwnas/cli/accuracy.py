"""`hwnas accuracy`: measured accuracies of subnets, and what predicts them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.interruptible import resumable

accuracy_app = typer.Typer(no_args_is_help=True, help="Accuracies of a supernet's subnets as data, and predictors of them.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Run = Annotated[Path, typer.Argument(help="Folder of a run with a trained supernet.")]


@accuracy_app.command("build")
@resumable
def build(
    run: Run,
    samples: Annotated[int, typer.Option(help="Distinct subnets, at resolutions of the space; more than before adds to them.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the samples.", min=0, max=2**32 - 1)] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch; all cores by default.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the validation accuracy of random subnets, each re-calibrated, and keep them in the run as they come."""
    from hwnas.cli import show
    from hwnas.verbs.accuracy import build_accuracy as act

    with show.progress_bar() as progress:
        found = act(run, samples=samples, seed=seed, threads=threads, progress=progress)
    if as_json:
        show.as_json(found)
        return
    typer.echo(f"{found['subnets']} subnets {found['origin']}: validation accuracy {found['least_pct']:.1f} ... {found['greatest_pct']:.1f} %")
    typer.echo(f"all of them in {found['file']}")
