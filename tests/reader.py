"""A reader of the documents: puts something in the place of every word in capitals, and has what the demo (`conftest.py`) made.

A document needs nothing from here if its commands use these words and names.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from commands import copied, here
from documents import ROOT

#: Words that stand for a text.
TEXTS = {
    "DATA": "cluttered_digits",
    "DEVICE": "localhost",
    "DEVICE/RUNTIME-VERSION-THREADS": next(path.relative_to(ROOT / "latency_tables").as_posix() for path in ROOT.glob("latency_tables/browser/*")),
    "DIALECT": "ofa",
    "KIT": "onnxruntime_python",
    "SPACE": "ofa_mini",
}
#: Words that stand for a file or folder, made anew for each command, and what it is; to be searched, RUN is one that was not searched yet.
PATHS = {
    "FILE": "yaml",
    "FOLDER": "export",
    "MODEL": "model",
    "PHOTOS": "photos",
    "RUN": "run",
    "TABLE": "table",
    "TABLE_A": "table",
    "TABLE_B": "table",
    "WEIGHTS": "weights",
}
#: Files and folders that documents name, and what they are; one that a command writes needs no entry.
NAMES = {
    "224_lookup_table.yaml": "yaml",
    "examples/plugin": "plugin",
    "image.png": "photo",
    "onnxruntime_python": "kit",
    "photo.png": "photo",
    "runs/digits": "demo",
}


class Reader:
    """Follows one document in an empty folder. fixture: how a fixture of the tests is had; importable: makes modules of a folder so."""

    def __init__(self, folder: Path, fixture: Callable[[str], Any], importable: Callable[[Path], None]) -> None:
        self.folder, self._fixture, self._importable, self._made = folder, fixture, importable, 0

    def words(self, command: str) -> list[str]:
        """A command as the reader types it, what it needs being there."""
        words = shlex.split(command)
        return [self._word(word.removeprefix("[").removesuffix("]").removesuffix("..."), words[:i], words) for i, word in enumerate(words)]

    def provide(self, text: str) -> None:
        """Makes what is at a path that a document names, if that is nothing the document makes itself."""
        for name, what in NAMES.items():
            if (text == name or text.startswith(f"{name}/")) and not (self.folder / name).exists():
                self._make(what, self.folder / name)

    def _word(self, word: str, before: list[str], words: list[str]) -> str:
        head, slash, rest = word.partition("/")
        if before[-1:] == ["--to"] and head.isupper():
            return str(self._new())  # written by the command
        if word in TEXTS:
            return TEXTS[word]
        if head in PATHS:
            path = self._new()
            self._make(self._run(words) if head == "RUN" else PATHS[head], path)
            return f"{path}{slash}{rest}"
        if before[-1:] != ["--to"]:
            self.provide(word)
        return word

    def _run(self, words: list[str]) -> str:
        """What a command needs of a run."""
        if "--accuracy-predictor" in words or words[1:3] == ["accuracy", "report"] or words[1] == "specialize":
            return "built"
        return "trained" if words[1] in ("accuracy", "search") else PATHS["RUN"]

    def _new(self) -> Path:
        self._made += 1
        return self.folder / f"made_{self._made}"

    def _make(self, what: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if what == "plugin":
            self._importable(self._fixture("plugin"))
        elif what == "photo":
            from PIL import Image

            Image.fromarray(np.full((60, 80), 200, np.uint8)).save(path)
        elif what == "yaml":  # a table in somebody else's dialect
            exported = here("table", "export", self._fixture("demo").folder / "table", "--dialect", "ofa", "--to", path)
            assert exported[0] == 0, exported
        elif what == "kit":  # of an exported folder: the rest of the folder beside it
            shutil.copytree(self._fixture("demo").folder / "export", path.parent, dirs_exist_ok=True)
        elif what == "model":
            shutil.copy(self._fixture("demo").folder / "export" / "model.onnx", path)
        elif what in ("built", "trained"):
            copied(self._fixture(what), path)
        elif what == "photos":  # two classes
            from PIL import Image

            for name, value in (("dark", 40), ("light", 200)):
                for i in range(12):
                    (path / name).mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (40, 32 + i), (value, value + i, value)).save(path / name / f"{i}.png")
        elif what == "weights":
            from safetensors.numpy import save_file

            save_file({"weight": np.ones((2, 3), np.float32)}, path)
        else:
            copied(self._fixture("demo").folder / {"demo": ""}.get(what, what), path)
