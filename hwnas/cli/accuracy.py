"""`hwnas accuracy`: measured accuracies of subnets, and what predicts them."""

from __future__ import annotations

from collections.abc import Mapping
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
    workers: Annotated[int, typer.Option(help="Subnets that are measured at a time, each by so many --threads.")] = 1,
    executor: Annotated[str | None, typer.Option(help="Where: processes, or ray; this process by default, of several workers processes.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the validation accuracy of random subnets, each re-calibrated, and keep them in the run as they come."""
    from hwnas.cli import show
    from hwnas.verbs.accuracy import build_accuracy as act

    with show.progress_bar() as progress:
        found = act(run, samples=samples, seed=seed, threads=threads, workers=workers, executor=executor, progress=progress)
    if as_json:
        show.as_json(found)
        return
    ends = f"{found['least_pct']:.1f} ... {found['greatest_pct']:.1f} %" if found["subnets"] else "of none could be measured"
    typer.echo(f"{found['subnets']} subnets {found['origin']}: validation accuracy {ends}")
    typer.echo(f"all of them in {found['file']}\nnext: hwnas accuracy report {run}")


@accuracy_app.command("report")
def report(
    run: Run,
    predictor: Annotated[list[str] | None, typer.Option(help="Predictors to compare, a name each; all there are by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the folds.", min=0, max=2**32 - 1)] = 0,
    as_json: Json = False,
) -> None:
    """How well predictors of accuracy meet subnets they were not fitted to, beside MACs and parameters."""
    from hwnas.cli import show
    from hwnas.verbs.accuracy import report_accuracy as act

    with show.progress_bar() as progress:
        found = act(run, predictors=predictor or (), seed=seed, progress=progress)
    if as_json:
        show.as_json(found)
        return
    typer.echo(f"{found['subnets']} measured subnets, each predicted by a model of {found['folds'] - 1} of {found['folds']} parts, without its own")
    typer.echo(f"in brackets {100 * found['confidence']:.0f} % intervals, by bootstrap over subnets")
    columns = {"left-out subnets predicted by": "left", "Kendall": "right", "at one resolution": "right", "Spearman": "right", "mean error": "right"}
    columns |= {f"{100 * found['level']:.0f} % intervals hold": "right"}
    rows = [
        [
            each["predictor"] + (" (baseline)" if each["baseline"] else ""),
            *(_figure(each[key], "{:.3f}") for key in ("kendall", "kendall_within", "spearman")),
            _figure(each["mae"], "{:.3f}"),
            _figure(each["coverage"], "{:.0%}"),
        ]
        for each in found["predictors"]
    ]
    show.table("", columns, rows)
    for each in found["absent"]:
        typer.echo(each)
    if found["best"]:
        typer.echo(f"next: hwnas search {run} --table TABLE --latency '<= 60% p50' --accuracy-predictor {found['best']}")


def _figure(figure: Mapping[str, float] | None, text: str) -> str:
    """A figure with its interval."""
    if figure is None:
        return "-"
    return f"{text.format(figure['value'])} [{text.format(figure['low'])}, {text.format(figure['high'])}]"
