"""`hwnas specialize`: one supernet, many devices and budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.interruptible import interruptible


@interruptible("nothing was recorded; the same command begins anew")
def specialize(
    run: Annotated[Path, typer.Argument(help="Folder of a run with a trained supernet and accuracies of its subnets ('hwnas accuracy build').")],
    table: Annotated[list[str], typer.Option(help="Latency table, a folder or the name of a shipped one; once for each target.")] = ...,  # type: ignore[assignment]
    latency: Annotated[list[str], typer.Option(help="Budget of each table in turn, '<= 12ms p50', or one for all.")] = ...,  # type: ignore[assignment]
    predictor: Annotated[str, typer.Option(help="Of accuracy; best is the best by cross-validation.")] = "best",
    measured: Annotated[int, typer.Option(help="Subnets that the supernet measures for each target.")] = 3,
    to: Annotated[Path | None, typer.Option(help="Folder for an architecture file of each target.")] = None,
    seed: Annotated[int, typer.Option(help="Of the searches.", min=0, max=2**32 - 1)] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch; all cores by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """The best subnet for each of several tables and budgets, and what it would take on the other devices."""
    from hwnas.cli import show
    from hwnas.report_words import plain
    from hwnas.verbs.specialize import specialize as act

    with show.progress_bar() as progress:
        found = act(run, tables=table, latencies=latency, predictor=predictor, measured=measured, to=to, seed=seed, threads=threads, progress=progress)
    if as_json:
        show.as_json(found)
        return
    targets = found["targets"]
    columns = {"target": "left", "table": "left", "budget ms": "right", "accuracy (measured)": "right", f"ms ({targets[0]['latency_origin']})": "right"}
    columns |= {"MACs": "right", **{f"by {i}": "right" for i in range(1, len(targets) + 1)}}
    rows = []
    for i, each in enumerate(targets, start=1):
        budget = f"{each['budget_ms']:.4g} {each['statistic']}"
        elsewhere = [f"{ms:.4g}{'' if ms <= other['budget_ms'] else ' !'}" for ms, other in zip(each["elsewhere_ms"], targets, strict=True)]
        found_here = [f"{each['accuracy_pct']:.1f} %", f"{each['latency_ms']:.4g}", f"{each['macs'] / 1e6:.4g} M"]
        rows.append([str(i), plain(each["table"]), budget, *found_here, *elsewhere])
    show.table(f"best subnet of each target by {plain(found['predictor'])}, fitted to {found['samples']} measured subnets", columns, rows)
    typer.echo("'by N' is what the subnet of a row takes by the table of target N, ! where that is over the budget there; nothing is certified yet")
    if to is not None:
        typer.echo(f"architectures in {to}")
