"""A run: the folder that records every stage of one job, so that the same command again continues it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hwnas.errors import DamagedFile, InputError
from hwnas.files import stays_inside, write_toml, write_whole
from hwnas.store import Event, Store, plain_json


class RunDirectory:
    """A folder with one store for all stages of a run (train, search, verify, ...) and `run.toml`, their options for people.

    A context manager. Opening for writing creates it. Raises RunHeld where another process writes it, InputError where the folder
    holds something else, DamagedFile where the store is not as it was written.
    """

    def __init__(self, folder: Path, *, write: bool = True):
        self.folder = Path(folder)
        store, described = self.folder / "run.sqlite", self.folder / "run.toml"
        if not write and not store.is_file():
            raise InputError(f"{self.folder} is no run: it has no {store.name}")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; name a folder for the run")
        if write and not store.exists() and self.folder.is_dir():
            if described.exists():
                raise DamagedFile(f"{self.folder} has lost its {store.name}; restore it, or name another folder")
            if any(path.name != "run.lock" for path in self.folder.iterdir()):
                raise InputError(f"{self.folder} holds files that are no run; name a new or empty folder")
        self.store = Store(store, write=write)
        if described.exists() and not self.store.events():
            self.close()
            raise DamagedFile(f"{store} is empty, although {described.name} describes a run; restore it, or name another folder")

    def options(self, stage: str, options: Mapping[str, Any]) -> None:
        """Record what a stage was called with; the second time, refuse other options. Raises InputError naming the first difference."""
        self.settle(stage, "options", options)
        recorded = {event.kind.removesuffix("/options"): event.body for event in self.store.events() if event.kind.endswith("/options")}
        write_toml(self.folder / "run.toml", {"format": "hwnas.run/1", **_without_none(recorded)})

    def recorded_options(self, stage: str) -> dict[str, Any] | None:
        """The options of a stage, None where it was not begun."""
        return self._last(stage, "options")

    def settle(self, stage: str, kind: str, values: Mapping[str, Any]) -> None:
        """Record values that may never change, or compare them with those recorded. Raises InputError naming the first difference."""
        given: dict[str, Any] = json.loads(json.dumps(values, default=plain_json))
        recorded = self._last(stage, kind)
        if recorded is None:
            self.append(stage, kind, given)
            return
        for key in {**recorded, **given}:
            before, now = (values.get(key, "nothing") for values in (recorded, given))
            if before != now:
                raise InputError(f"{self.folder} was begun with {stage} {key} = {before}, and now it is {now}; name another folder, or use what is recorded")

    def append(self, stage: str, kind: str, body: Any) -> int:
        """Record an event of a stage; its id, once it is on the disk. Raises InputError where the disk is full."""
        return self.store.append(f"{stage}/{kind}", body)

    def events(self, stage: str, kind: str) -> list[Event]:
        """All events of that kind, in order."""
        return self.store.events(f"{stage}/{kind}")

    def finish(self, stage: str, result: Mapping[str, Any]) -> None:
        """Record what a stage came to; the last record counts."""
        self.append(stage, "result", dict(result))

    def result(self, stage: str) -> dict[str, Any] | None:
        """What `finish` recorded last, None where the stage has not come to its end."""
        return self._last(stage, "result")

    def keep_files(self, save: Callable[[Path], None]) -> dict[str, str]:
        """Keep every file that `save(folder)` writes into an empty folder as a blob: relative name -> SHA-256.

        Raises InputError where the disk is full.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            try:
                save(folder)
            except OSError as error:
                raise InputError(f"cannot save into {folder}: {error.strerror or error}; free space, then run the same command again") from None
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            return {path.relative_to(folder).as_posix(): self.store.add_blob(path.read_bytes()) for path in files}

    def checkpoint(self, stage: str, kind: str, save: Callable[[Path], None], body: Mapping[str, Any]) -> None:
        """Record an event with the files of `save` (its key `files`), then drop those of earlier events of that kind that no event needs."""
        superseded = self.events(stage, kind)
        files = self.keep_files(save)
        self.append(stage, kind, {**body, "files": files})
        needed = {digest for event in self.store.events() if event.kind != f"{stage}/{kind}" for digest in _files(event)}
        for event in superseded:
            self.store.drop_blobs(set(_files(event)) - set(files.values()) - needed)

    def load_files(self, files: Mapping[str, str], load: Callable[[Path], None]) -> None:
        """Call `load(folder)` on a folder with the files that `keep_files` kept. Raises DamagedFile."""
        if not isinstance(files, Mapping):
            raise DamagedFile(f"{self.store.path} names no files where it must")
        with tempfile.TemporaryDirectory() as temporary:
            for name, digest in files.items():
                if not stays_inside(name):
                    raise DamagedFile(f"{self.store.path} names a file '{name}' outside its folder")
                write_whole(Path(temporary, name), self.store.blob(digest))
            load(Path(temporary))

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _last(self, stage: str, kind: str) -> dict[str, Any] | None:
        events = self.events(stage, kind)
        body = events[-1].body if events else None
        if body is not None and not isinstance(body, dict):
            raise DamagedFile(f"{stage} of {self.folder} was recorded by another version of hwnas or altered: it is no mapping; make a new run")
        return body


def _files(event: Event) -> list[str]:
    """The blobs that an event names under `files`."""
    files = event.body.get("files") if isinstance(event.body, dict) else None
    return [each for each in files.values() if isinstance(each, str)] if isinstance(files, dict) else []


def _without_none(value: Any) -> Any:
    """TOML has no null."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_none(each) for each in value if each is not None]
    return value
