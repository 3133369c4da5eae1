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
    """Where the user's own devices are: $HWNAS_DEVICES, else `hwnas/devices` where this system keeps settings. It need not exist."""
    return _of_user("HWNAS_DEVICES", windows="APPDATA", mac="Application Support", xdg="XDG_CONFIG_HOME", home=".config", inside="devices")


def cache_folder() -> Path:
    """Where downloads, and what was measured for reports, are kept: $HWNAS_CACHE, else where this system keeps such things. It need not exist."""
    return _of_user("HWNAS_CACHE", windows="LOCALAPPDATA", mac="Caches", xdg="XDG_CACHE_HOME", home=".cache")


def kept_folder() -> Path:
    """Where the weights and data sets that the user added are kept: $HWNAS_KEPT, else where this system keeps data of programs. It need not exist."""
    return _of_user("HWNAS_KEPT", windows="LOCALAPPDATA", mac="Application Support", xdg="XDG_DATA_HOME", home=".local/share", inside="kept")


def _of_user(own: str, *, windows: str, mac: str, xdg: str, home: str, inside: str = "") -> Path:
    """The folder that the environment variable `own` names, else `hwnas`, or a folder inside it, in this system's folder of the user for such things."""
    if named := os.environ.get(own):
        return Path(named)
    try:
        user = Path.home()
    except RuntimeError:  # one without a home; the variable is left to them
        user = Path(os.devnull)
    if sys.platform == "darwin":
        base = user / "Library" / mac
    else:
        given, usual = (windows, user / "AppData" / ("Roaming" if windows == "APPDATA" else "Local")) if sys.platform == "win32" else (xdg, user / home)
        named = os.environ.get(given, "")
        base = Path(named) if named and Path(named).is_absolute() else usual  # the XDG specification: a relative path is none
    return base / "hwnas" / inside
