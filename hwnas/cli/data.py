"""`hwnas data`: tables of published benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.interruptible import interruptible

data_app = typer.Typer(no_args_is_help=True, help="Tables of published benchmarks, brought from where they were published.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
#: Fetched.checked -> what it proves.
CHECKED = {
    "published": "as known to hwnas",
    "given": "as you gave it",
    "first use": "recorded at this first use and compared from now on; nobody vouches for it",
}


@data_app.command("fetch")
@interruptible("nothing was kept")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a benchmark; 'hwnas data list' names them.")],
    mirror: Annotated[str | None, typer.Option(help="https address that has the file under its own name; HWNAS_BENCHMARK_MIRROR by default.")] = None,
    file: Annotated[Path | None, typer.Option(help="A copy of the published file on this machine, instead.")] = None,
    sha256: Annotated[str | None, typer.Option(help="What its content must have, where none is known.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a benchmark's published file, check its SHA-256, show its licence, and convert it to the table that hwnas reads."""
    from hwnas.cli import show
    from hwnas.verbs.data import fetch_data as act

    with show.progress_bar() as progress:
        found = act(name, mirror=mirror, file=file, sha256=sha256, progress=progress)
    if as_json:
        show.as_json(found)
        return
    here = found["here"]
    typer.echo(f"{found['title']}\nlicence: {found['licence']}")
    typer.echo(f"from {here['source']}, {here['bytes'] / 1e6:.1f} MB\nSHA-256 {here['sha256']}, {CHECKED[here['checked']]}")
    typer.echo(f"{here['rows']:,} rows in {here['file']}\nnext: hwnas bench-search random_search")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """What can be fetched, under which licence, how far its content is known, and what is here."""
    from hwnas.cli import show
    from hwnas.verbs.data import list_data as act

    found = act()
    if as_json:
        show.as_json(found)
        return
    for each in found:
        here = each["here"]
        typer.echo(f"{each['name']}: {each['title']}")
        typer.echo(f"  {each['url']}, {each['megabytes']:g} MB\n  licence: {each['licence']}")
        typer.echo(f"  SHA-256 {each['sha256'] or 'unknown: nobody here has seen the file; it is recorded when it is first fetched'}")
        typer.echo(f"  here: {here['file']}, {here['date']}, hash {CHECKED[here['checked']]}" if here else f"  not here; hwnas data fetch {each['name']}")
