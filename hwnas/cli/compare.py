"""`hwnas compare`: searches side by side, at equal cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.interruptible import interruptible


@interruptible("nothing was written")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two or more runs with the same space, data, table and budgets.")],
    evaluations: Annotated[int | None, typer.Option(help="Cost to compare at; what the shortest search has spent by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0, max=2**32 - 1)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare searches at equal cost beside random search; name a winner only where one is better beyond the noise."""
    from hwnas.cli import show
    from hwnas.report_words import plain
    from hwnas.verbs.compare import IMAGES
    from hwnas.verbs.compare import compare as act

    with show.progress_bar() as progress:
        found = act(runs, evaluations=evaluations, seed=seed, progress=progress)
    if as_json:
        show.as_json(found)
        return
    accuracy = f"validation accuracy ({found['accuracy_origin']})"
    columns = {"method": "left", "seeds": "right", accuracy: "right", f"{found['statistic']} ms ({found['latency_origin']})": "right", "front": "right"}
    rows = []
    for each in found["methods"]:
        spread = "" if each["sd_points"] is None else f" ± {each['sd_points']:.2f}"
        covered = "-" if each["hypervolume"] is None else f"{100 * each['hypervolume']:.1f} %"
        rows.append([plain(each["method"]), str(len(each["seeds"])), f"{each['accuracy_pct']:.2f}{spread} %", f"{each['latency_ms']:.4g}", covered])
    show.table(f"best within {found['budget_ms']:.4g} ms {found['statistic']} after {found['evaluations']} evaluations each", columns, rows)
    for pair in found["pairs"]:
        typer.echo(plain(_sentence(pair)))
    if found["supernets"] > 1:
        typer.echo(f"the runs have {found['supernets']} different supernets, whose luck is part of every difference")
    if found["winner"] is None:
        few = any(pair["by"] == IMAGES for pair in found["pairs"] if pair["first"] == found["best"])
        reason = "one run of each tells of two networks, not of the methods" if few else "at least one difference is inside the noise"
        typer.echo(f"no winner: {plain(found['best'])} has the best mean, and {reason}")
    else:
        beyond = f"beyond the noise ({100 * found['error']:g} % error for all comparisons together)"
        typer.echo(f"winner: {plain(found['winner'])}, better than every other {beyond}")


def _sentence(pair: Mapping[str, Any]) -> str:
    text = f"{pair['first']} - {pair['second']}: {pair['difference_points']:+.2f} points"
    if pair["low_points"] is None:
        return f"{text}; one run of each, and no images: what noise it has is unknown"
    text += f" ({pair['low_points']:+.2f} ... {pair['high_points']:+.2f})"
    if pair["by"] == "seeds":
        return f"{text}, {pair['wins']} won and {pair['losses']} lost of {pair['seeds']} seeds, p {pair['p']:.2g}"
    if pair["by"] == "runs":
        return f"{text}, by runs without common seeds"
    return f"{text}, by {pair['images']:,} validation images" if "images" in pair else f"{text}, the same network"
