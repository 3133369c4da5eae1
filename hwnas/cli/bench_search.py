"""`hwnas bench-search`: a searcher on the tabular benchmarks, beside others at equal evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.interruptible import interruptible

_POINTS = 7  # of an anytime curve that are shown


@interruptible("nothing was recorded")
def bench_search(
    searcher: Annotated[str, typer.Argument(help="Name of a searcher, or path.py:function.")],
    benchmark: Annotated[list[str] | None, typer.Option(help="Name, or name(key=value); all whose data is there by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Searches, with the seeds 0, 1, ...")] = 50,
    evaluations: Annotated[list[int] | None, typer.Option(help="Where to compare: 100, 150 and 300 by default.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="Option of the searcher, name=value.")] = None,
    curves: Annotated[Path | None, typer.Option(help="CSV file for the anytime curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run a searcher on benchmarks whose networks are all trained already, beside random search and the stored field."""
    from hwnas.cli import show
    from hwnas.verbs.bench_search import bench_search as act

    with show.progress_bar() as progress:
        found = act(
            searcher,
            benchmarks=benchmark or (),
            seeds=seeds,
            evaluations=evaluations or (100, 150, 300),
            options=options or (),
            curves=curves,
            progress=progress,
        )
    if as_json:
        show.as_json(found)
        return
    for each in found["benchmarks"]:
        typer.echo(f"{each['benchmark']}: {each['about']}")
        typer.echo(f"the best known has {each['best_pct']:.2f} %; in brackets the 95 % interval of the mean over seeds")
        last = found["evaluations"][-1]
        columns = {"searcher": "left", **{f"{n} evaluations": "right" for n in found["evaluations"]}}
        columns |= {f"against random at {last}": "right", "seeds": "right", "": "left"}
        show.table("", columns, [_row(row) for row in each["rows"]])
        points = _spread([point["evaluations"] for point in each["rows"][0]["curve"]])
        curve = {"best so far, mean %": "left", **{str(n): "right" for n in points}}
        show.table("", curve, [[row["searcher"], *(f"{p['mean_pct']:.2f}" for p in row["curve"] if p["evaluations"] in points)] for row in each["rows"]])
        for row in each["rows"]:
            if row["source"] == "now":
                typer.echo(cost_line(row))
        typer.echo("")
    for sentence in found["absent"]:
        typer.echo(sentence)
    if "curves" in found:
        typer.echo(f"anytime curves in {found['curves']}")


def _row(row: Mapping[str, Any]) -> list[str]:
    from hwnas.verbs.bench_search import standing

    last = row["at"][-1]
    figures = [f"{at['mean_pct']:.2f} [{at['low_pct']:.2f}, {at['high_pct']:.2f}]" for at in row["at"]]
    test = "-" if last["wins"] + last["losses"] == 0 else f"{last['wins']}-{last['losses']}, p {last['p']:.1e}"
    return [f"{row['searcher']} ({row['source']})", *figures, test, str(row["seeds"]), standing(row)]


def cost_line(row: Mapping[str, Any]) -> str:
    """What one search costs on average, and what of it is simulated."""
    cost = row["cost"]
    parts = [f"{cost['evaluations']:.0f} evaluations"]
    if cost["training_s_simulated"] is not None:
        parts.append(f"{cost['training_s_simulated'] / 3600:.1f} h of training (simulated, from recorded times)")
    if cost["device_s_simulated"] is not None:
        parts.append(f"{cost['device_s_simulated']:.0f} s on the device (simulated, {cost['device_runs_each']} runs of each)")
    return f"one search by {row['searcher']}: {', '.join(parts)}; {cost['search_s_measured']:.2g} s here (measured)"


def _spread(marks: Sequence[int]) -> list[int]:
    """Of the marks of a curve, those from 10 on, at most `_POINTS`, the last one among them."""
    kept = [mark for mark in marks if mark >= 10] or list(marks)
    step = -(-len(kept) // _POINTS)
    return sorted({*kept[::-1][::step]})
