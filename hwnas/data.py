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


def cache_folder() -> Path:
    """Where downloads, and what was measured for reports, are kept: `$HWNAS_CACHE`, else the user's folder for such things."""
    if given := os.environ.get("HWNAS_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "hwnas"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hwnas"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwnas"


def kept_folder() -> Path:
    """Where the weights and data sets that the user added are kept: `$HWNAS_KEPT`, else the user's folder for data of programs."""
    if given := os.environ.get("HWNAS_KEPT"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "hwnas" / "kept"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "hwnas" / "kept"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "hwnas"
