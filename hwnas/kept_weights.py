"""Files of weights that the user keeps: by their SHA-256, with where they came from. Every published link of this field has died at least once.

`weights/<sha256>` in the user's folder is a file, `weights/<sha256>.toml` says its name and source. Files are data: tensors are read, never code.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from hwnas.data import kept_folder
from hwnas.download import DIGEST, Received, check_digest, copied, download
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.files import read_toml, sha256, write_toml
from hwnas.tensor_files import MAX_BYTES, read_tensors

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FORMAT = "hwnas.weights/1"


@dataclass(frozen=True, slots=True)
class KeptFile:
    """`source`: the path or URL that it was added from; `date`: when (UTC); `tensors`: how many it holds."""

    name: str
    source: str
    date: str
    bytes: int
    tensors: int
    sha256: str

    @property
    def path(self) -> Path:
        return _folder() / self.sha256


def keep(source: str, *, name: str | None = None, digest: str | None = None, received: Received = lambda done, total: None) -> KeptFile:
    """Keep a copy of a local file, or of what an https URL gives; a URL needs the `digest` (SHA-256) that its content must have.

    Adding what is kept already under that name changes nothing. Raises InputError, DamagedFile where the file is another one or holds
    anything but tensors.
    """
    remote = "://" in source
    check_digest(digest)
    if remote and urlsplit(source).scheme != "https":
        raise InputError(f"weights are fetched over https only, not from {source}; fetch the file yourself and add it from its path")
    if remote and digest is None:
        raise InputError(f"give the SHA-256 that {source} must have with --sha256: what a link gives may change")
    given = (unquote(urlsplit(source).path) if remote else source).replace("\\", "/").rpartition("/")[2]
    name = name or given
    if not _NAME.fullmatch(name):
        raise InputError(f"'{name}' cannot be the name of kept weights: letters, digits, '.', '_' and '-'; give another with --name")
    temporary = _folder() / f".{uuid4().hex}.part"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        found = (
            download(source, temporary, received, most=MAX_BYTES)
            if remote
            else copied(Path(source), temporary, most=MAX_BYTES, advice="name a file of weights, or an https URL with --sha256")
        )
        if digest is not None and found != digest:
            raise DamagedFile(f"{source} is not the file that was meant: its SHA-256 is {found[:12]}..., not {digest[:12]}...; nothing was kept")
        for each in kept():
            if each.name == name and each.sha256 != found:
                raise InputError(f"other weights are kept under the name '{name}' (SHA-256 {each.sha256[:12]}...); give another with --name")
            if each.sha256 == found and each.name != name:
                raise InputError(f"{source} is kept already, under the name '{each.name}'")
            if each.name == name:
                temporary.replace(each.path)  # which may be gone, or changed
                return each
        tensors = len(read_tensors(temporary, where=source))
        place = source if remote else str(Path(source).resolve())
        entry = KeptFile(name, place, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), temporary.stat().st_size, tensors, found)
        temporary.replace(_folder() / found)
        write_toml(_folder() / f"{found}.toml", {"format": _FORMAT, **asdict(entry)})
        return entry
    except OSError as error:
        raise InputError(f"cannot keep {source}: {error.strerror or error}; free space, or name another folder with HWNAS_KEPT") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def kept() -> list[KeptFile]:
    """What is kept, by name. Raises DamagedFile where an entry is not as it was written."""
    return sorted((read_entry(path) for path in _folder().glob("*.toml")), key=lambda each: each.name)


def read_entry(path: Path) -> KeptFile:
    """What a file `<sha256>.toml` says. Raises DamagedFile."""
    facts = read_toml(path)
    kinds: dict[str, type] = {"name": str, "source": str, "date": str, "bytes": int, "tensors": int, "sha256": str}
    is_ours = facts.get("format") == _FORMAT and all(type(facts.get(key)) is kind for key, kind in kinds.items())
    if not is_ours or facts["sha256"] != path.stem or not DIGEST.fullmatch(path.stem) or not _NAME.fullmatch(facts["name"]):
        raise DamagedFile(f"{path} does not describe kept weights; remove it, and add the file again")
    return KeptFile(**{key: facts[key] for key in kinds})


def find(name: str) -> KeptFile:
    """The kept file of that name, its content checked. Raises UnknownName, DamagedFile."""
    entries = {each.name: each for each in kept()}
    if name not in entries:
        raise UnknownName("kept weights", name, entries)
    if fault := fault_of(entries[name]):
        raise DamagedFile(f"the kept weights '{name}' {fault}; add them again from {entries[name].source}")
    return entries[name]


def fault_of(entry: KeptFile) -> str:
    """What is wrong with a kept file, in words; empty where nothing is."""
    if not entry.path.is_file():
        return "are gone"
    return "" if sha256(entry.path) == entry.sha256 else "were changed: their SHA-256 is another"


def _folder() -> Path:
    return kept_folder() / "weights"
