"""hwnas/benchmark_sources.py and benchmark_originals.py: fetched from a real HTTPS server, by hash, as data and never as code."""

import csv
import gzip
import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import here
from published_benchmarks import accel_result, accel_tar, crc32c, macro_json, nasbench101_tfrecord, nasbench201_cells, nasbench201_frame

from hwnas import registry
from hwnas.benchmark_originals import accel_nasbench, nas_bench_macro, nasbench101, nasbench201
from hwnas.benchmark_sources import SOURCES, fetch, fetched
from hwnas.errors import DamagedFile, InputError, UnknownName

TRAININGS = [("a" * 32, 1000.5, 0.9, 0.89), ("b" * 32, 2000.0, 0.945, 0.9401), ("a" * 32, 1001.0, 0.91, 0.9)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HWNAS_KEPT", str(tmp_path / "kept"))
    monkeypatch.delenv("HWNAS_DATA", raising=False)
    monkeypatch.delenv("HWNAS_BENCHMARK_MIRROR", raising=False)
    return tmp_path / "kept" / "benchmarks"


def rows(path):
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


def content(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_source_has_an_address_over_https_and_a_hash_or_says_that_none_is_known(capsys):
    assert set(SOURCES) == {"nasbench201", "nasbench101", "nas_bench_macro", "accel_nasbench"}
    code, out, _ = here("data", "list")
    assert code == 0
    for source in SOURCES.values():
        assert source.url.startswith("https://") and f"licence: {source.licence}" in out and source.url in out
        assert (f"SHA-256 {source.sha256}" in out) if source.sha256 else ("nobody here has seen the file" in out)
    assert [each["name"] for each in json.loads(here("data", "list", "--json")[1]) if each["sha256"] is None] == ["nasbench101"]


def test_what_is_published_becomes_our_table(server, folder):
    url, served = server
    published = macro_json(served / "nas-bench-macro_cifar10.json")
    source = replace(SOURCES["nas_bench_macro"], sha256=sha256(served / "nas-bench-macro_cifar10.json"))
    seen = []
    found = fetch(source, mirror=f"{url}/", received=lambda done, total: seen.append((done, total)))
    assert found.checked == "published" and found.source == f"{url}/nas-bench-macro_cifar10.json" and found.rows == 3**8 and seen[-1][0] == found.bytes
    assert content(folder) == ["nas_bench_macro.toml", "nas_bench_macro_cifar10.csv.gz"]
    for row in rows(found.path)[::500]:
        assert float(row["acc1"]) == pytest.approx(published[row["arch"]]["test_acc"][1], rel=1e-5) and row["params"] == str(published[row["arch"]]["params"])
    benchmark = registry.create("tabular_benchmarks", "nas_bench_macro")
    code = np.array([[0, 1, 2, 0, 1, 2, 0, 1]], np.int16)
    assert benchmark.problem.objectives[0].metric(code)[0] == pytest.approx(published["01201201"]["test_acc"][0], rel=1e-5)


def test_another_content_than_the_known_one_is_refused_and_nothing_is_kept(server, folder, monkeypatch):
    url, served = server
    macro_json(served / "nas-bench-macro_cifar10.json")
    monkeypatch.setenv("HWNAS_BENCHMARK_MIRROR", url)
    code, _, error = here("data", "fetch", "nas_bench_macro")
    assert code == 2 and "is not the file that was meant" in error and "nothing was kept" in error and "Traceback" not in error
    code, _, error = here("data", "fetch", "nas_bench_macro", "--sha256", "0" * 64)
    assert code == 2 and "is known to be 686dee8363cc" in error
    assert content(folder) == [] and fetched("nas_bench_macro") is None


def test_a_file_that_nobody_vouches_for_is_recorded_at_first_and_compared_from_then_on(server, folder):
    url, served = server
    file = served / "nasbench_only108.tfrecord"
    nasbench101_tfrecord(file, TRAININGS)
    code, out, error = here("data", "fetch", "nasbench101", "--mirror", url)
    assert code == 0, error
    assert "licence: Apache-2.0" in out and f"SHA-256 {sha256(file)}, recorded at this first use" in out and "nobody vouches for it" in out
    first, second = rows(folder / "nasbench101.csv.gz")
    assert first["hash"] == "a" * 32 and first["val_pct"] == "90 91" and first["train_s"] == "1000.5 1001"
    assert second["test_pct"] == "94.01" and second["params"] == "8555530" and second["epochs"] == "108" and second["operations"].startswith("input,conv3x3")
    nasbench101_tfrecord(file, TRAININGS[:2])
    code, _, error = here("data", "fetch", "nasbench101", "--mirror", url)
    assert code == 2 and "which it had when it was first fetched" in error and len(rows(folder / "nasbench101.csv.gz")[0]["val_pct"].split()) == 2
    code, out, _ = here("data", "fetch", "nasbench101", "--mirror", url, "--sha256", sha256(file), "--json")
    assert code == 0 and json.loads(out)["here"]["checked"] == "given"
    assert "hash as you gave it" in here("data", "list")[1]


def test_addresses_that_fail_end_in_a_sentence(server, folder):
    url, _ = server
    for mirror, words in ((url, "404"), ("http://localhost:1", "https only"), ("ftp://localhost", "https only"), ("https://localhost:1", "cannot fetch")):
        with pytest.raises(InputError, match=words):
            fetch(SOURCES["nasbench101"], mirror=mirror)
    with pytest.raises(UnknownName, match="did you mean 'nasbench201'"):
        registry.create("tabular_benchmarks", "nasbench20")
    code, _, error = here("data", "fetch", "nasbench")
    assert code == 2 and "no benchmark to fetch named 'nasbench'" in error
    assert content(folder) == []


def test_a_copy_on_this_machine_is_as_good(tmp_path, folder):
    values = nasbench201_frame(tmp_path / "mine.pd")
    source = replace(SOURCES["nasbench201"], sha256=sha256(tmp_path / "mine.pd"))
    assert fetch(source, file=tmp_path / "mine.pd").source == str(tmp_path / "mine.pd")
    benchmark = registry.create("tabular_benchmarks", "nasbench201(images='cifar100')")
    cells = nasbench201_cells()
    row = cells.index("|none~0|+|skip_connect~0|avg_pool_3x3~1|+|nor_conv_1x1~0|nor_conv_3x3~1|none~2|")
    edges = {"edge01": "none", "edge02": "skip_connect", "edge12": "avg_pool_3x3", "edge03": "nor_conv_1x1", "edge13": "nor_conv_3x3", "edge23": "none"}
    code, signal = benchmark.problem.space.encode(edges), benchmark.problem.objectives[0].metric
    assert (benchmark.reported(code)[0], signal(code)[0]) == (pytest.approx(values[2, row], rel=1e-5), pytest.approx(values[3, row], rel=1e-5))
    with pytest.raises(InputError, match="there is no file"):
        fetch(source, file=tmp_path / "gone.pd")


class Touching:
    """What a pickle could do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_read_and_never_run(tmp_path):
    nasbench201_frame(tmp_path / "hostile.pd", more=Touching(tmp_path / "touched"))
    assert len(list(nasbench201(tmp_path / "hostile.pd"))) == 1 + 5**6 and not (tmp_path / "touched").exists()
    for raw in (b"", b"\x80\x05", pickle.dumps({"cells": nasbench201_cells()}), pickle.dumps([1, 2, 3]), b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f"):
        (tmp_path / "other.pd").write_bytes(raw)
        with pytest.raises(DamagedFile, match="data frame"):
            list(nasbench201(tmp_path / "other.pd"))


def test_an_archive_is_read_and_never_unpacked(tmp_path):
    accel_tar(tmp_path / "a.tar.gz", others={"../../outside": b"x", "anb_dataset_jsons/../../result_9.json": b"x", "/etc/result_1.json": b"x"})
    head, *found = list(accel_nasbench(tmp_path / "a.tar.gz"))
    assert len(found) == 4 and found[1][head.index("layers")] == "2 2 2 2 2 2 2" and found[1][head.index("se")] == "1 1 1 1 1 1 1"
    assert found[2][head.index("val_top1")] == f"{accel_result(2)['metrics']['val_top1']:.6g}" and found[0][head.index("train_s")] == "2660.43"
    for raw in (b"[" * 50_000, b"x" * 70_000, b"{}"):
        accel_tar(tmp_path / "b.tar.gz", others={"anb_dataset_jsons/result_7.json": raw})
        with pytest.raises(DamagedFile):
            list(accel_nasbench(tmp_path / "b.tar.gz"))
    (tmp_path / "c.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:-400])
    with pytest.raises(DamagedFile):
        list(accel_nasbench(tmp_path / "c.tar.gz"))


def test_checksums_of_records_are_checked(tmp_path):
    assert crc32c(b"123456789") == 0xE3069283  # the published check value
    path = tmp_path / "a.tfrecord"
    nasbench101_tfrecord(path, TRAININGS)
    raw = path.read_bytes()
    assert len(list(nasbench101(path))) == 3
    for changed in (raw[:-1], raw[:20], raw[:5], raw[:100] + bytes([raw[100] ^ 1]) + raw[101:], b"\xff" * 64, b""):
        path.write_bytes(changed)
        with pytest.raises(DamagedFile):
            list(nasbench101(path))


def test_other_json_is_no_benchmark(tmp_path):
    path = tmp_path / "a.json"
    published = macro_json(path)
    some = next(iter(published))
    for changed in ({}, [], {some: published[some]}, {**published, some: {**published[some], "test_acc": [1, 2]}}, {**published, some: None}):
        path.write_text(json.dumps(changed))
        with pytest.raises(DamagedFile):
            list(nas_bench_macro(path))


def test_a_record_that_was_forged_is_refused(tmp_path, folder):
    macro_json(tmp_path / "a.json")
    fetch(replace(SOURCES["nas_bench_macro"], sha256=None), file=tmp_path / "a.json")
    assert fetched("nas_bench_macro").checked == "first use"
    (folder / "nas_bench_macro.toml").write_text('format = "hwnas.benchmark/1"\nname = "../outside"\n')
    with pytest.raises(DamagedFile, match="does not describe a fetched benchmark"):
        fetched("nas_bench_macro")
