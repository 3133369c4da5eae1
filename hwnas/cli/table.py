"""`hwnas table`: latency tables, looked at and made of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

table_app = typer.Typer(no_args_is_help=True, help="Latency tables: look at them, compare, merge, import and export them.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Table = Annotated[str, typer.Argument(help="Folder of a table, or the name of a shipped one.")]
Dialect = Annotated[str, typer.Option(help="Whose YAML: ofa (Once-for-All) or proxylessnas.")]

_SHOWN = 10  # of rows that are only listed; all of them are in the JSON


@table_app.command("list")
def list_(folders: Annotated[list[Path] | None, typer.Argument(help="Folders with tables of your own.")] = None, as_json: Json = False) -> None:
    """The tables that ship with hwnas, and those in the folders given."""
    from hwnas.cli import show
    from hwnas.report_words import plain
    from hwnas.verbs.table import list_tables as act

    found = act(folders or ())
    if as_json:
        show.as_json(found)
    elif not found:
        typer.echo("no tables are shipped; make your own: hwnas profile localhost --space SPACE --to DIR")
    else:
        columns = {"table": "left", "origin": "left", "processor": "left", "prices for": "left", "blocks": "right", "networks": "left", "date": "left"}
        show.table("", columns, [[plain(cell) for cell in _listed(each)] for each in found])
    damaged = [each for each in found if "error" in each]
    for each in damaged:
        typer.echo(f"error: {each['error']}", err=True)
    if damaged:
        raise typer.Exit(2)


def _listed(each: Mapping[str, Any]) -> list[Any]:
    if "error" in each:
        return [each["table"], "damaged", "", "", "", "", ""]
    blocks = f"{each['blocks']}, {each['predicted']} predicted" if each["predicted"] else each["blocks"]
    return [each["table"], each["origin"], each["processor"], _variants(each["variants"]), blocks, _networks(each["networks"]), each["date"]]


def _variants(found: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{each['precision']}, batch {each['batch']}" for each in found) or "nothing"


def _blocks(facts: Mapping[str, Any]) -> str:
    """How many blocks have a price, and how many of these are predicted."""
    words = f"{facts['blocks'] - facts['predicted']} blocks {facts['origin']}"
    if not facts["predicted"]:
        return words
    beyond = f" ({facts['extrapolated']} of them beyond what was measured)" if facts.get("extrapolated") else ""
    return f"{words}, {facts['predicted']} predicted{beyond}"


def _networks(by_space: Mapping[str, int]) -> str:
    return ", ".join(f"{n} of {space}" for space, n in by_space.items()) or "none"


@table_app.command("show")
def show_(table: Table, top: Annotated[int, typer.Option(help="Slowest and fastest blocks to list.", min=0)] = 5, as_json: Json = False) -> None:
    """What a table says about itself: conditions, protocol, provenance, anchor, quality, slowest and fastest blocks, failures."""
    from hwnas.cli import show
    from hwnas.report_words import flat, plain, short_block, significant
    from hwnas.verbs.table import show_table as act

    facts = act(table, top=top)
    if as_json:
        show.as_json(facts)
        return
    typer.echo(plain(f"{_blocks(facts)}, {len(facts['failed'])} failed; networks: {_networks(facts['networks'])}"))
    typer.echo(f"prices for {_variants(facts['variants'])}")
    if facts["accepted_share"] is not None:
        typer.echo(f"{100 * facts['accepted_share']:.1f} % of visits at full speed; {facts['never_at_full_speed']} blocks never")
    typer.echo(f"sha256 {facts['sha256']}")
    for name in ("conditions", "protocol", "provenance", "anchor"):
        typer.echo("")
        show.table(name, {"what": "left", "is": "left"}, [[plain(key), plain(value)] for key, value in flat(facts[name])])
    typer.echo("")
    _quality(facts["quality"], "quality, of networks left out one by one")
    for name in ("slowest", "fastest"):
        words = [("predicted: " if each["is_predicted"] else "") + short_block(each["block"]) for each in facts[name]]
        rows = [[f"{significant(each['price_ms'], 4)} ms", block] for each, block in zip(facts[name], words, strict=True)]
        typer.echo("")
        show.table(name, {"price": "right", "block": "left"}, rows)
    _list("failed", [f"{short_block(each['block'], 100)}: {each['error']}" for each in facts["failed"]])


@table_app.command("check")
def check(
    table: Table,
    space: Annotated[str, typer.Option(help="Search space the table is to price.")] = ...,  # type: ignore[assignment]
    statistic: Annotated[str, typer.Option(help="Latency that is predicted: p50 or p90.")] = "p50",
    precision: Annotated[str | None, typer.Option(help="Which, where the table has prices for several.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of one run: which, where the table has prices for several.")] = None,
    as_json: Json = False,
) -> None:
    """Is it complete for a space, and how well does it predict its own networks, each left out? Exit code 1 where it is of no use."""
    from hwnas.cli import show
    from hwnas.report_words import plain
    from hwnas.verbs.table import check_table as act

    facts = act(table, space=space, statistic=statistic, precision=precision, batch=batch)
    if as_json:
        show.as_json(facts)
    else:
        priced = f"{facts['needed'] - len(facts['missing']) - facts['predicted']} of {facts['needed']} blocks of {space} in {_variants([facts])}"
        predicted = f", {facts['predicted']} predicted" if facts["predicted"] else ""
        typer.echo(plain(f"{priced}, are {facts['origin']}{predicted} ({facts['conditions']})"))
        typer.echo(
            f"{facts['failed']} failed, {facts['never_at_full_speed']} never at full speed, {facts['of_other_spaces']} rows are of others; "
            f"{facts['networks']} whole networks"
        )
        _quality(facts["quality"] or {}, f"left-out networks, {statistic} predicted by")
    for problem in facts["problems"]:
        typer.echo(f"error: {problem}", err=True)
    if facts["problems"]:
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"next: hwnas search RUN --table {plain(facts['folder'])} --latency '<= 60% {statistic}'")


@table_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="YAML file of another project.")],
    dialect: Dialect = ...,  # type: ignore[assignment]
    to: Annotated[Path, typer.Option(help="Folder of the new table.")] = ...,  # type: ignore[assignment]
    source: Annotated[str, typer.Option(help="Who says so: paper, repository, person.")] = ...,  # type: ignore[assignment]
    licence: Annotated[str, typer.Option(help="Licence of the file.")] = ...,  # type: ignore[assignment]
    device: Annotated[str, typer.Option(help="Device it was measured on.")] = ...,  # type: ignore[assignment]
    runtime: Annotated[str, typer.Option(help="Runtime it was measured with.")] = ...,  # type: ignore[assignment]
    threads: Annotated[int, typer.Option(help="Threads of the runtime.", min=1)] = ...,  # type: ignore[assignment]
    processor: Annotated[str, typer.Option(help="Processor of the device.")] = "not stated",
    version: Annotated[str, typer.Option(help="Version of the runtime.")] = "not stated",
    regime: Annotated[str, typer.Option(help="Which runs were timed: first, warm, sustained.")] = "not stated",
    as_json: Json = False,
) -> None:
    """Make a table of somebody else's YAML file, with mean, spread and count of every row; on your word, and marked imported."""
    from hwnas.cli import show
    from hwnas.verbs.table import import_table as act

    words = {"source": source, "licence": licence, "device": device, "runtime": runtime, "processor": processor, "version": version, "regime": regime}
    made = act(file, dialect=dialect, to=to, threads=threads, **words)
    if as_json:
        show.as_json(made)
        return
    typer.echo(f"{made['blocks']} blocks imported, {len(made['left_out'])} entries have no counterpart")
    _list("no counterpart", [f"{key}: {reason}" for key, reason in made["left_out"].items()])
    typer.echo(f"next: hwnas table show {to}")


@table_app.command("export")
def export(
    table: Table,
    dialect: Dialect = ...,  # type: ignore[assignment]
    to: Annotated[Path, typer.Option(help="YAML file to write.")] = ...,  # type: ignore[assignment]
    as_json: Json = False,
) -> None:
    """Write a table as a YAML file that the code of Once-for-All or ProxylessNAS reads."""
    from hwnas.cli import show
    from hwnas.report_words import short_block
    from hwnas.verbs.table import export_table as act

    made = act(table, dialect=dialect, to=to)
    if as_json:
        show.as_json(made)
        return
    typer.echo(f"{made['blocks']} blocks written ({made['origin']}), {len(made['left_out'])} have no key in the dialect {made['dialect']}")
    _list("not written", [f"{short_block(text)}: {reason}" for text, reason in made["left_out"].items()])


@table_app.command("fill")
def fill(
    table: Table,
    space: Annotated[str, typer.Option(help="Search space all of whose blocks are to have a price.")] = ...,  # type: ignore[assignment]
    to: Annotated[Path, typer.Option(help="Folder of the new table.")] = ...,  # type: ignore[assignment]
    measured_for: Annotated[str, typer.Option(help="Space the table was profiled for, where that is another: its networks calibrate the new one.")] = "",
    precision: Annotated[str | None, typer.Option(help="Which, where the table has prices for several.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of one run: which, where the table has prices for several.")] = None,
    by: Annotated[str, typer.Option(help="Predictor: gaussian_process, kernel_forest, graph_network, or macs, the baseline.")] = "gaussian_process",
    as_json: Json = False,
) -> None:
    """Predict the blocks of a space that a table did not measure, such as those of other resolutions; each such row says that it is predicted."""
    from hwnas.cli import show
    from hwnas.report_words import plain
    from hwnas.verbs.table import fill_table as act

    made = act(table, space=space, to=to, measured_for=measured_for, precision=precision, batch=batch, by=by)
    if as_json:
        show.as_json(made)
        return
    typer.echo(plain(f"{_blocks(made)}; {made['networks']} networks of {space} ({made['conditions']})"))
    _quality({"predicted_blocks": made["quality"]} if made["quality"] else {}, "measured blocks left out and predicted")
    _list("without a price", made["missing"])
    typer.echo(f"next: hwnas table check {to} --space '{plain(space)}'")


@table_app.command("merge")
def merge(first: Table, second: Table, to: Annotated[Path, typer.Option(help="Folder of the new table.")] = ..., as_json: Json = False) -> None:  # type: ignore[assignment]
    """One table of two that were measured under the same conditions; others are refused."""
    from hwnas.cli import show
    from hwnas.report_words import plain
    from hwnas.verbs.table import merge_tables as act

    made = act(first, second, to=to)
    if as_json:
        show.as_json(made)
        return
    predicted = f" ({made['predicted']} of the blocks predicted)" if made["predicted"] else ""
    typer.echo(plain(f"{made['blocks']} blocks and {made['networks']} networks {made['origin']}{predicted} ({made['conditions']})"))
    typer.echo(f"{made['taken_from_second']} blocks that both tables hold are from the second, which rests on more visits; the others are from the first")
    for name, unit in (("common", "blocks"), ("common_networks", "networks")):
        _apart(made[name], unit)
    typer.echo(f"next: hwnas table check {to} --space SPACE")


@table_app.command("diff")
def diff(
    first: Table,
    second: Table,
    across_conditions: Annotated[bool, typer.Option("--across-conditions", help="Also where they were not measured alike.")] = False,
    as_json: Json = False,
) -> None:
    """How far two tables are apart, and what only one of them holds."""
    from hwnas.cli import show
    from hwnas.report_words import plain, short_block
    from hwnas.verbs.table import diff_tables as act

    found = act(first, second, across_conditions=across_conditions)
    if as_json:
        show.as_json(found)
        return
    if not found["same_conditions"]:
        typer.echo("DIFFERENT CONDITIONS: what follows sets two ways of measuring side by side, it is no change of one device")
        rows = [[plain(name), *("not said" if value is None else plain(value) for value in both)] for name, both in found["conditions"].items()]
        show.table("", {"condition": "left", "first": "left", "second": "left"}, rows)
    for name, title in (("common", "blocks"), ("networks", "networks")):
        _apart(found[name], title)
    if found["predicted_first"] or found["predicted_second"]:
        typer.echo(f"predicted blocks, which are not among these: {found['predicted_first']} in the first, {found['predicted_second']} in the second")
        _apart(found["predictions"], "blocks predicted in one and measured in the other,")
    for key, title in (("only_first", "only in the first"), ("only_second", "only in the second")):
        _list(title, list(map(short_block, found[key])))


def _quality(quality: Mapping[str, Any], title: str) -> None:
    from hwnas.cli import show
    from hwnas.report_words import quality_rows

    headings, rows = quality_rows(quality)
    if rows:
        show.table(title, {heading: "right" if i else "left" for i, heading in enumerate(headings)}, rows)


def _apart(spread: Mapping[str, Any] | None, what: str) -> None:
    from hwnas.report_words import cut, plain, short_block, significant

    if spread is None:
        typer.echo(f"no {what} in both tables")
        return
    median, either_way, p90 = (f"{100 * spread[key]:.2f} %" for key in ("median", "median_absolute", "p90_absolute"))
    typer.echo(f"{spread['n']} {what} in both: second against first {median} (median), {either_way} either way (median), {p90} (p90)")
    first, second = (significant(spread[key], 4) for key in ("worst_first_ms", "worst_second_ms"))
    worst = short_block(spread["worst"]) if isinstance(spread["worst"], str) else cut(plain(spread["worst"]), 160)
    typer.echo(f"  worst {100 * spread['worst_relative']:+.1f} %: {first} and {second} ms, {worst}")


def _list(title: str, items: Sequence[str]) -> None:
    from hwnas.report_words import plain

    if items:
        typer.echo(f"{title}: {len(items)}")
        typer.echo("\n".join(f"  {plain(item)[:300]}" for item in items[:_SHOWN]))
        if len(items) > _SHOWN:
            typer.echo(f"  and {len(items) - _SHOWN} more: --json lists all")
