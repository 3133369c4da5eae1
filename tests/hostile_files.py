"""Files from outside that are not what they claim to be: how they are made, loaded, and judged.

Every file that hwnas reads is described once, as a `Format`; `mutated` makes something else of its bytes; `outcome` loads the result
and says what happened. Used by tests/test_hostile.py, and by benchmarks/fuzz.py at scale.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import re
import shutil
import struct
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from lookup_yaml import BY_DIALECT
from published_benchmarks import accel_tar, nasbench101_tfrecord
from simulated_tables import simulated_table

from hwnas import benchmark_originals, registry
from hwnas.architecture import Architecture
from hwnas.benchmark_tables import Columns
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.exporter import Parity
from hwnas.features import OneHot
from hwnas.files import sha256, write_toml
from hwnas.index import BlockIndex
from hwnas.kept_weights import read_entry
from hwnas.latency_table import ENTRIES, NETWORKS, TABLE, Conditions, LatencyTable
from hwnas.manifest import Preprocessing, read_manifest, write_manifest
from hwnas.measured_blocks import measured_rows
from hwnas.onnx_blocks import read_blocks
from hwnas.predictors.accuracy_mlp import AccuracyMlp, accuracy_mlp
from hwnas.predictors.calibrated import calibrated
from hwnas.predictors.graph_network import GraphNetwork
from hwnas.predictors.kernel_forest import KernelForest
from hwnas.predictors.ofa_accuracy import ofa_accuracy
from hwnas.report_words import quality_rows
from hwnas.run import RunDirectory
from hwnas.search_field import FieldRow, read_field, write_field
from hwnas.spaces.accel_nasbench import accel_nasbench as accel_space
from hwnas.table_dialects import DIALECTS, read_dialect, write_dialect
from hwnas.table_fill import filled
from hwnas.table_merge import merged
from hwnas.tabular_benchmarks.accel_nasbench import _codes as accel_codes
from hwnas.tensor_files import read_tensors
from hwnas.verbs.common import existing
from hwnas.verbs.predict import read_architectures
from hwnas.verbs.table import check_table, diff_tables, show_table
from hwnas.verbs.zoo import best_within, front
from hwnas.verbs.zoo import load_table as read_zoo

SPACE = "ofa_mini(resolutions=(24,))"
LONGEST = 2_000  # characters of a sentence that is still one

#: Files that hold no data: locks, and SQLite's own while a store is open.
TRANSIENT = (".lock", "-wal", "-shm")


@dataclass(frozen=True)
class Format:
    """Something that hwnas reads from a folder: `make` fills an empty one, `files` are those that may be hostile, `load` reads it.

    `reseal` makes hashes fit a mutated file again, as whoever forges a file would; what it cannot parse it leaves.
    """

    name: str
    files: tuple[str, ...]
    make: Callable[[Path], None]
    load: Callable[[Path], object]
    reseal: Callable[[Path, str], None] | None = None


@cache
def index() -> BlockIndex:
    return BlockIndex(registry.create("spaces", SPACE))


# -- formats ------------------------------------------------------------------------------------------------------------------------


def make_table(folder: Path) -> None:
    simulated_table(index(), lambda total, layers, activations: 0.01 + 0.8 * total, networks=12).save(folder)


def load_table(folder: Path) -> None:
    """All that is done with a table: shown, checked, compared, united with itself, priced with."""
    shown(show_table(folder))
    shown(diff_tables(folder, folder))
    table = LatencyTable.load(folder)
    merged(table, table)
    shown(check_table(folder, space=SPACE))
    calibrated(table, index()).bounds()


def make_filled(folder: Path) -> None:
    whole = simulated_table(index(), lambda total, layers, activations: 0.01 + 0.8 * total, networks=12)
    half = dict(sorted(whole.entries.items())[::2])
    filled(replace(whole, entries=half), index().blocks).save(folder)


def load_filled(folder: Path) -> None:
    load_table(folder)
    shown(filled(LatencyTable.load(folder), index().blocks).quality)


def shown(facts: object) -> None:
    json.dumps(facts, allow_nan=False)
    if isinstance(facts, Mapping) and "quality" in facts:
        quality_rows(facts["quality"] or {})


def make_imported(folder: Path) -> None:
    make_yaml(folder, "ofa")
    rows, _ = read_dialect(folder / "lut.yaml", DIALECTS["ofa"])
    (folder / "lut.yaml").unlink()
    provenance = {"source": "somebody", "licence": "MIT", "left_out": [{"key": "a", "reason": "b"}]}
    LatencyTable(Conditions("phone", "not stated", "tflite", "2", 1, "not stated"), rows, origin="imported", provenance=provenance).save(folder)


def load_imported(folder: Path) -> None:
    shown(show_table(folder))
    shown(diff_tables(folder, folder))
    write_dialect(LatencyTable.load(folder).entries, DIALECTS["ofa"])


def make_yaml(folder: Path, dialect: str) -> None:
    (folder / "lut.yaml").write_text(BY_DIALECT[dialect])


def load_yaml(folder: Path, dialect: str) -> None:
    rows, left_out = read_dialect(folder / "lut.yaml", DIALECTS[dialect])
    shown(left_out)
    write_dialect(rows, DIALECTS[dialect])


def reseal_table(folder: Path, name: str) -> None:
    raw = (folder / TABLE).read_bytes()
    for each in (ENTRIES, NETWORKS):
        digest = hashlib.sha256((folder / each).read_bytes()).hexdigest().encode()
        raw = re.sub(rb'("%s" = )"[0-9a-f]*"' % each.encode(), rb'\1"%s"' % digest, raw)
    body = raw.partition(b"\n")[2]
    (folder / TABLE).write_bytes(b'sha256 = "%s"\n' % hashlib.sha256(body).hexdigest().encode() + body)


def make_run(folder: Path) -> None:
    with RunDirectory(folder) as run:
        run.options("train", {"space": SPACE, "data": "cluttered_digits", "length": 0.5, "seed": 0})
        for step in range(3):
            run.checkpoint("train", "checkpoint", lambda kept: (kept / "a.bin").write_bytes(b"weights"), {"step": step})
        run.finish("train", {"files": run.keep_files(lambda kept: (kept / "b.bin").write_bytes(b"more")), "steps": 3, "loss": [0.5, 0.25]})


def load_run(folder: Path) -> None:
    with RunDirectory(folder, write=False) as run:
        run.result("train")
    with existing(folder) as run:
        run.recorded_options("train")
        result = run.result("train")
        if result is not None:
            run.load_files(result["files"], lambda kept: None)


def make_architecture(folder: Path) -> None:
    (folder / "architecture.json").write_text(Architecture.of(index().space, index().space.largest()).to_json())


def load_architecture(folder: Path) -> None:
    Architecture.load(folder / "architecture.json").code(index().space)


def make_device(folder: Path) -> None:
    (folder / "bench.toml").write_text('description = "a board"\nprocessor = "cpu"\ntransport = "local"\nruntimes = ["onnxruntime"]\nthreads = 4\n')


def make_checkpoint(folder: Path) -> None:
    from safetensors.torch import save

    from hwnas.supernet.supernet import Supernet

    (folder / "supernet.safetensors").write_bytes(save(Supernet(index()).state()))


@cache
def supernet():
    from hwnas.supernet.supernet import Supernet

    return Supernet(index())


def load_checkpoint(folder: Path) -> None:
    from hwnas.training.trainer import load_tensors

    supernet().load(load_tensors(folder / "supernet.safetensors"))


def make_foreign_checkpoint(folder: Path, *, older: bool) -> None:
    import torch

    from hwnas.supernet.supernet import Supernet

    torch.save({"state_dict": Supernet(index()).state(), "epoch": 3}, folder / "net.pth", _use_new_zipfile_serialization=not older)


def load_foreign_checkpoint(folder: Path) -> None:
    from hwnas.supernet.checkpoints import load_checkpoint
    from hwnas.supernet.supernet import Supernet

    Supernet(index()).initialise(load_checkpoint(folder / "net.pth", index()).tensors)


def make_model(folder: Path) -> None:
    from hwnas.weights import random_weights

    graph = index().space.lower(index().space.smallest())
    registry.load("exporters", "onnx")(graph, random_weights(graph, np.random.default_rng(0)), folder / "model.onnx")


def load_model(folder: Path) -> None:
    from hwnas.backends.onnx import runner

    runner(folder / "model.onnx")(np.zeros((1, 1, 24, 24), np.float32))


def make_export(folder: Path) -> None:
    from hwnas.weights import random_weights

    graph = index().space.lower(index().space.smallest())
    exported = registry.load("exporters", "onnx")(graph, random_weights(graph, np.random.default_rng(0)), folder / "model.onnx")
    make_architecture(folder)
    (folder / "certificate.json").write_text(json.dumps({"format": "hwnas.certificate/1", "verdict": "within", "measured_ms": 1.5}))
    write_manifest(
        folder,
        exported=exported,
        graph=graph,
        architecture=Architecture.load(folder / "architecture.json"),
        fingerprint=index().fingerprint,
        preprocessing=Preprocessing((0.5,), (0.25,)),
        labels=[str(digit) for digit in range(10)],
        example=np.zeros(graph.input, np.float32),
        expected=np.zeros(graph.output, np.float32),
        parity=Parity(0.0, 1.0, 1),
    )


def reseal_export(folder: Path, name: str) -> None:
    if name != "manifest.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = sha256(folder / name)
        (folder / "manifest.json").write_text(json.dumps(manifest))


def make_accuracy(folder: Path) -> None:
    rng = np.random.default_rng(0)
    width = OneHot(index()).width
    layers = [(rng.normal(0, 1, (n, m)).astype(np.float32), np.zeros(m, np.float32)) for n, m in ((width, 8), (8, 1))]
    AccuracyMlp(index(), layers).save(folder / "accuracy.safetensors")


def load_accuracy(folder: Path) -> None:
    accuracy_mlp(index(), file=str(folder / "accuracy.safetensors"))(index().space.largest())


def make_ofa_accuracy(folder: Path) -> None:
    import torch

    inputs = 1 + sum(len(choice.values) for choice in index().space.choices if choice.name.endswith((".kernel", ".expand")))
    shapes = {"layers.0.0.weight": (8, inputs), "layers.0.0.bias": (8,), "layers.1.weight": (1, 8), "base_acc": (1,)}
    torch.save({name: torch.linspace(0, 1, int(np.prod(shape))).reshape(shape) for name, shape in shapes.items()}, folder / "acc.pth")


def load_ofa_accuracy(folder: Path) -> None:
    ofa_accuracy(index(), file=str(folder / "acc.pth"))(index().space.largest())


def make_block_model(folder: Path, kind: type[KernelForest] | type[GraphNetwork]) -> None:
    kind.fit(*measured_rows(simulated_table(index(), lambda total, layers, activations: total, networks=8))).save(folder / "model.safetensors")


def load_block_model(folder: Path, kind: type[KernelForest] | type[GraphNetwork]) -> None:
    loaded = kind.load(folder / "model.safetensors")
    assert np.isfinite(loaded.prices(index().blocks)).all()
    loaded.is_outside(index().blocks)


def make_lines(folder: Path) -> None:
    codes = index().space.sample(np.random.default_rng(0), 3)
    (folder / "many.jsonl").write_text("".join(json.dumps(json.loads(Architecture.of(index().space, code).to_json())) + "\n" for code in codes))


def load_lines(folder: Path) -> None:
    for _, architecture in read_architectures(folder / "many.jsonl"):
        architecture.code(index().space)


def load_foreign(folder: Path) -> None:
    from hwnas.profiling.model_file import read_model

    read_model(folder / "model.onnx")


def make_zoo(folder: Path) -> None:
    conditions = {"device": "localhost", "processor": "p", "runtime": "r", "version": "1", "threads": 1, "regime": "warm", "options": {"a": True}}
    row = {"name": "net", "source": "torchvision 0", "weights": "W", "accuracy_pct": 70.5, "input_size": 224, "macs": 1e6, "params": 2e6}
    row |= {"versions": {"torch": "2"}}
    row |= {"latency_ms": {"p50": {"value": 1.5, "low": 1.4, "high": None}}, "error": None, "over_ms": None, "model_sha256": "ab" * 32}
    top = {"format": "hwnas.zoo/1", "origin": "measured", "date": "2026-11-25T00:00:00Z", "hwnas": "0.1.0", "confidence": 0.95, "system": {}}
    (folder / "zoo.json").write_text(json.dumps({**top, "conditions": conditions, "rows": [row]}))


def load_zoo(folder: Path) -> None:
    rows = read_zoo(folder / "zoo.json")["rows"]
    best_within(rows, "p50", 2.0)
    front(rows, "p50")


def make_pytorch(folder: Path) -> None:
    import torch

    torch.save({"state_dict": {"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3)}, "epoch": 3}, folder / "net.pth")


def load_pytorch(folder: Path) -> None:
    read_tensors(folder / "net.pth")


def make_kept(folder: Path) -> None:
    facts = {"format": "hwnas.weights/1", "name": "net", "source": "https://example.org/net", "date": "2026-11-25T00:00:00Z", "bytes": 12, "tensors": 3}
    write_toml(folder / f"{KEPT}.toml", {**facts, "sha256": KEPT})


KEPT = "ab" * 32


def make_originals(folder: Path) -> None:
    accel_tar(folder / "results.tar.gz", 2)
    nasbench101_tfrecord(folder / "cells.tfrecord", [("a" * 32, 1000.5, 0.9, 0.89), ("b" * 32, 2000.0, 0.945, 0.94)])


def load_originals(folder: Path) -> None:
    list(benchmark_originals.accel_nasbench(folder / "results.tar.gz"))
    list(benchmark_originals.nasbench101(folder / "cells.tfrecord"))


def make_benchmark(folder: Path) -> None:
    text = io.StringIO()
    accel_tar(folder / "results.tar.gz", 4)
    csv.writer(text).writerows(benchmark_originals.accel_nasbench(folder / "results.tar.gz"))
    (folder / "results.tar.gz").unlink()
    (folder / "accel_nasbench.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def load_benchmark(folder: Path) -> None:
    table = Columns(folder / "accel_nasbench.csv.gz", ("expand", "train_s"))
    table.numbers("train_s")
    table.digest("expand", "val_top1")
    accel_codes(table, accel_space())


def make_field(folder: Path) -> None:
    write_field([FieldRow("nasbench201", "random_search", seed, 100, "0.1.0", "ab" * 6, "1:20 7:600") for seed in range(3)], folder / "field.csv")


def load_field(folder: Path) -> None:
    for row in read_field(folder / "field.csv"):
        row.trace(registry.create("spaces", "nas_bench_macro"))


FORMATS = (
    Format("latency table", (TABLE, ENTRIES, NETWORKS), make_table, load_table, reseal_table),
    Format("filled table", (TABLE, ENTRIES), make_filled, load_filled, reseal_table),
    Format("imported table", (TABLE, ENTRIES), make_imported, load_imported, reseal_table),
    Format("OFA table", ("lut.yaml",), partial(make_yaml, dialect="ofa"), partial(load_yaml, dialect="ofa")),
    Format("ProxylessNAS table", ("lut.yaml",), partial(make_yaml, dialect="proxylessnas"), partial(load_yaml, dialect="proxylessnas")),
    Format("run", ("run.sqlite", "run.sqlite", "run.toml"), make_run, load_run),
    Format("architecture", ("architecture.json",), make_architecture, load_architecture),
    Format("device", ("bench.toml",), make_device, lambda folder: load_device(folder / "bench.toml")),
    Format("weights", ("supernet.safetensors",), make_checkpoint, load_checkpoint),
    Format("accuracy predictor of OFA", ("acc.pth",), make_ofa_accuracy, load_ofa_accuracy),
    Format("PyTorch weights", ("net.pth",), make_pytorch, load_pytorch),
    Format("kept weights", (f"{KEPT}.toml",), make_kept, lambda folder: read_entry(folder / f"{KEPT}.toml")),
    Format("checkpoint of PyTorch", ("net.pth",), partial(make_foreign_checkpoint, older=False), load_foreign_checkpoint),
    Format("older checkpoint of PyTorch", ("net.pth",), partial(make_foreign_checkpoint, older=True), load_foreign_checkpoint),
    Format("accuracy predictor", ("accuracy.safetensors",), make_accuracy, load_accuracy),
    Format("kernel forest", ("model.safetensors",), partial(make_block_model, kind=KernelForest), partial(load_block_model, kind=KernelForest)),
    Format("graph network", ("model.safetensors",), partial(make_block_model, kind=GraphNetwork), partial(load_block_model, kind=GraphNetwork)),
    Format("lines of architectures", ("many.jsonl",), make_lines, load_lines),
    Format("operators of an ONNX model", ("model.onnx",), make_model, lambda folder: read_blocks(folder / "model.onnx") and None),
    Format("ONNX model", ("model.onnx",), make_model, load_model),
    Format("foreign ONNX model", ("model.onnx",), make_model, load_foreign),
    Format("table of published networks", ("zoo.json",), make_zoo, load_zoo),
    Format("published benchmarks", ("results.tar.gz", "cells.tfrecord"), make_originals, load_originals),
    Format("benchmark table", ("accel_nasbench.csv.gz",), make_benchmark, load_benchmark),
    Format("stored field", ("field.csv",), make_field, load_field),
    Format("export", ("manifest.json", "certificate.json", "architecture.json", "model.onnx"), make_export, read_manifest, reseal_export),
)


# -- mutations ----------------------------------------------------------------------------------------------------------------------

NUMBERS = (b"NaN", b"nan", b"inf", b"-inf", b"Infinity", b"1e999", b"-1", b"0", b"-0.0", b"1e-320", b"9" * 25, b"9" * 5_000, b"0x7fffffffffffffff", b"true")
TEXTS = (
    *(b"../../outside", b"/etc/passwd", b"..\\\\outside", b"C:/outside", b"a/../../../outside", b"~/.profile", b"file:///etc/passwd"),
    *(b"\\u0000", b"\\ud800", b"\\u001b[2J", b"a\\nb", b"\xff\xfe", b"x" * 20_000, b"__import__('os')", "ｎａｎ".encode(), b""),
)
NESTED = (b"[", b'{"a":', b"(", b'[{"a":', b"{a=", b"[[")


def mutated(raw: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """One to three things done to a file's bytes. other: a file of another kind, that may take its place or be mixed in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        raw = rng.choice(_MUTATIONS)(raw, rng, other)
    return raw


def _cut(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def _flip(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8)) if raw else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.randbytes(rng.choice((1, 2, 16, 300))) + raw[at:]


def _remove(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + raw[at + rng.choice((1, 2, 16, 300)) :]


def _repeat(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + raw[at : at + rng.choice((1, 16, 300))] * rng.choice((2, 3, 50)) + raw[at:]


def _number(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    return _replaced(raw, rb"-?\d+(\.\d+)?", rng.choice(NUMBERS), rng)


def _text(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    return _replaced(raw, rb'"[^"\n]*"', b'"' + rng.choice(TEXTS) + b'"', rng)


def _value(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    """Another type in a text's or number's place."""
    return _replaced(raw, rb'"[^"\n]*"|-?\d+(\.\d+)?', rng.choice((b"null", b"[]", b"{}", b"true", b'"1"', b"1", b"[[1]]")), rng)


def _nest(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice(NESTED) * rng.choice((50, 2_000, 100_000)) + raw[at:]


def _length(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    """A length, count or offset of a binary format that is far too large."""
    if len(raw) < 8:
        return raw
    at = rng.choice((0, rng.randrange(len(raw) - 7)))
    return raw[:at] + struct.pack("<Q", rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))) + raw[at + 8 :]


def _swap(raw: bytes, rng: random.Random, other: bytes) -> bytes:
    return rng.choice((other, b"", bytes(len(raw)), raw + other, other[: len(other) // 2] + raw[len(raw) // 2 :]))


_MUTATIONS = (_cut, _flip, _flip, _insert, _remove, _repeat, _number, _number, _text, _text, _value, _nest, _length, _swap)


def _replaced(raw: bytes, pattern: bytes, new: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(pattern, raw[:200_000]))
    if not found:
        return raw
    match = rng.choice(found)
    return raw[: match.start()] + new + raw[match.end() :]


# -- judgement ----------------------------------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder; links and folders count, locks do not."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(TRANSIENT)
    }


class Bench:
    """A folder above which nothing may change, with a valid copy of every format to take mutants from."""

    def __init__(self, folder: Path):
        self.folder = folder / "place" / "of" / "work"  # paths that leave it stay in `folder`
        self.root = folder
        self.originals: dict[str, dict[str, bytes]] = {}
        for each in FORMATS:
            made = folder / "originals" / each.name
            made.mkdir(parents=True)
            each.make(made)
            self.originals[each.name] = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
        self.others = [raw for files in self.originals.values() for raw in files.values()]

    def place(self, form: Format) -> None:
        """A fresh valid copy in the folder of work."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, raw in self.originals[form.name].items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith(TRANSIENT):
                (self.folder / name).write_bytes(raw)

    def mutate(self, form: Format, seed: object) -> str:
        """A mutant in the folder of work; the name of the file that is one. Equal seeds give equal mutants."""
        rng = random.Random(f"{form.name} {seed}")
        self.place(form)
        name = rng.choice(form.files)
        path = self.folder / name
        path.write_bytes(mutated(self.originals[form.name][name], rng, rng.choice(self.others)))
        if form.reseal is not None and rng.random() < 0.7:
            form.reseal(self.folder, name)
        return name

    def outcome(self, form: Format) -> str:
        """`loaded` or `refused`; anything else is a defect and says which."""
        before = content(self.root / "place")
        try:
            form.load(self.folder)
            ending = "loaded"
        except HwnasError as error:
            sentence = str(error)
            ending = "refused"
            if not sentence or len(sentence) > LONGEST or not sentence.isprintable():
                ending = f"no printable sentence of at most {LONGEST} characters: {sentence[:200]!r}"
        except BaseException:
            ending = traceback.format_exc()
        after = content(self.root / "place")
        if after != before and ending in ("loaded", "refused"):
            ending = f"{ending}, but changed on disk: {sorted(set(after.items()) ^ set(before.items()))[0][0]}"
        return ending
