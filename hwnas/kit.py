"""Deployment kits: the folders of `export/`, each the smallest program that runs an exported network somewhere."""

from __future__ import annotations

from pathlib import Path

from hwnas.data import shipped
from hwnas.errors import UnknownName
from hwnas.files import read_toml, write_whole


def kits() -> dict[str, str]:
    """Name -> one-line description of every kit, from its `kit.toml`."""
    return {path.parent.name: str(read_toml(path)["description"]) for path in sorted(shipped("export").glob("*/kit.toml"))}


def copy_kit(name: str, folder: Path) -> list[Path]:
    """Copies a kit into `folder/name`, file by file, over what is there; the copies. Raises UnknownName, InputError."""
    if name not in kits():
        raise UnknownName("kit", name, kits())
    source = shipped("export") / name
    copies = []
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and "__pycache__" not in relative.parts and not relative.name.startswith("."):
            write_whole(folder / name / relative, path.read_bytes())
            copies.append(folder / name / relative)
    return copies
