"""Where the shipped material is: the three top-level folders of a checkout, or their copies inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("devices", "latency_tables", "export")


def shipped(folder: str) -> Path:
    """The folder `devices`, `latency_tables` or `export` of the wheel, else of the checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "_data" / folder
    return packaged if packaged.is_dir() else here.parent / folder
