"""`hwnas weights`: files of weights that are kept by their SHA-256."""

from __future__ import annotations

from typing import Annotated

import typer

weights_app = typer.Typer(no_args_is_help=True, help="Files of weights that are kept by their SHA-256, with their source.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@weights_app.command("add")
def weights_add(
    source: Annotated[str, typer.Argument(help="Path of a file of safetensors or PyTorch, or its https URL.")],
    name: Annotated[str | None, typer.Option(help="What it is called from now on; the file's name by default.")] = None,
    sha256: Annotated[str | None, typer.Option(help="What its content must have; needed with a URL.")] = None,
    as_json: Json = False,
) -> None:
    """Keep a copy of a file of weights; tensors are read, code never."""
    from hwnas.cli import show
    from hwnas.verbs.weights import add_weights

    with show.progress_bar() as progress:
        kept = add_weights(source, name=name, sha256=sha256, progress=progress)
    if as_json:
        show.as_json(kept)
        return
    typer.echo(f"{kept['name']}: {kept['tensors']} tensors, {kept['bytes'] / 1e6:.1f} MB, SHA-256 {kept['sha256']}")
    typer.echo(f"next: hwnas train RUN --init {kept['name']} --space SPACE --data DATA")


@weights_app.command("list")
def weights_list(as_json: Json = False) -> None:
    """What is kept, and where it came from."""
    from hwnas.cli import show
    from hwnas.verbs.weights import list_weights

    kept = list_weights()
    if not kept and not as_json:
        typer.echo("no weights are kept; keep some with: hwnas weights add FILE")
        return
    if as_json:
        show.as_json(kept)
        return
    rows = [[each["name"], f"{each['bytes'] / 1e6:.1f} MB", str(each["tensors"]), each["sha256"][:12], each["date"], each["source"]] for each in kept]
    show.table("", {"name": "left", "size": "right", "tensors": "right", "SHA-256": "left", "added": "left", "source": "left"}, rows)


@weights_app.command("check")
def weights_check(as_json: Json = False) -> None:
    """Compare every kept file with its SHA-256; exit code 1 where one has changed."""
    from hwnas.cli import show
    from hwnas.verbs.weights import check_weights

    found = check_weights()
    if not found and not as_json:
        typer.echo("no weights are kept; keep some with: hwnas weights add FILE")
        return
    if as_json:
        show.as_json(found)
    else:
        rows = [[each["name"], f"{each['fault']}; add them again from {each['source']}" if each["fault"] else "as they were kept"] for each in found]
        show.table("", {"weights": "left", "state": "left"}, rows)
    if wrong := [each["name"] for each in found if each["fault"]]:
        typer.echo(f"error: {len(wrong)} of {len(found)} kept files are damaged: {', '.join(wrong)}", err=True)
        raise typer.Exit(1)
