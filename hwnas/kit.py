"""Deployment kits: the folders of `export/`, each the smallest program that runs an exported network somewhere.

A kit's `kit.toml` may name files of other folders that ship with hwnas, which are copied beside its own: so nothing is there twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hwnas.data import FOLDERS, shipped
from hwnas.errors import CheckFailed, UnknownName
from hwnas.files import read_toml, stays_inside, write_whole


def kits() -> dict[str, str]:
    """Name -> one-line description of every kit, from its `kit.toml`."""
    return {path.parent.name: str(read_toml(path)["description"]) for path in sorted(shipped("export").glob("*/kit.toml"))}


def about_kit(name: str) -> dict[str, Any]:
    """What a kit's `kit.toml` says. Raises UnknownName."""
    if name not in (known := kits()):
        raise UnknownName("kit", name, known)
    return read_toml(shipped("export") / name / "kit.toml")


def copy_kit(name: str, folder: Path) -> list[Path]:
    """Copies a kit into `folder/name`, file by file, over what is there; the copies.

    A kit that runs in a browser gets the browser's runtime, through npm where it is not at hand. Raises UnknownName, InputError.
    """
    about = about_kit(name)
    found = dict(_own(shipped("export") / name))
    found |= {target: _shared(str(source)) for target, source in about.get("shared", {}).items()}
    if about.get("browser_runtime"):
        from hwnas.profiling.web_runtime import web_runtime

        found |= web_runtime()
    for target, raw in found.items():
        write_whole(folder / name / target, raw)
    return [folder / name / target for target in found]


def _own(source: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and not any(part in ("__pycache__", "build") or part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path.read_bytes()


def _shared(source: str) -> bytes:
    """A file of another shipped folder, such as `devices/agents/cpp/json.hpp`. Raises CheckFailed: kits are ours."""
    top, _, rest = source.partition("/")
    if top not in FOLDERS or not stays_inside(rest) or not (shipped(top) / rest).is_file():
        raise CheckFailed(f"a kit shares '{source}', and there is no such file among {', '.join(FOLDERS)}")
    return (shipped(top) / rest).read_bytes()
