"""Commands of hwnas as tests run them: in this process, which has imported everything already, or in one of their own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import hwnas
from hwnas import cli

SHORTENED = Path(__file__).resolve().parent / "shortened.py"


def here(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and error of `hwnas ...` in this process."""
    out, error = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["hwnas", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(error):
        try:
            cli.main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
    return code if isinstance(code, int) else 0, out.getvalue(), error.getvalue()


def environment(*folders: Path) -> Mapping[str, str]:
    """That of a process which imports hwnas from where these tests do, and what is in the folders.

    PyTorch gets one thread there as here: on a busy machine two threads wait for each other most of the time.
    """
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (*folders, Path(hwnas.__file__).parents[1])))}


def python(*arguments: object, cwd: Path, folders: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`python ...` in a process of its own."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, env=environment(*folders), capture_output=True, text=True, timeout=600)


def copied(source: Path, target: Path) -> Path:
    """A copy of a run, or of a folder with some in it, that may be written."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock", "__pycache__"))
    return target
