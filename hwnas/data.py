"""Where the shipped material is: the three top-level folders of a checkout, or their copies inside an installed wheel. And the user's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDERS = ("devices", "latency_tables", "export")


def shipped(folder: str) -> Path:
    """The folder `devices`, `latency_tables` or `export` of the wheel, else of the checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "_data" / folder
    return packaged if packaged.is_dir() else here.parent / folder


def own_devices() -> Path:
    """The folder of the user's own devices: $HWNAS_DEVICES, else `hwnas/devices` where this system keeps settings. It need not exist."""
    if named := os.environ.get("HWNAS_DEVICES"):
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:  # a user without one; HWNAS_DEVICES is left to them
        home = Path(os.devnull)
    default = {"win32": home / "AppData" / "Roaming", "darwin": home / "Library" / "Application Support"}.get(sys.platform, home / ".config")
    base = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME", "")
    return (Path(base) if base and Path(base).is_absolute() else default) / "hwnas" / "devices"
