"""Every file that hwnas reads, made hostile: it is loaded as it should be or refused in one sentence, and nothing on disk changes.

At scale: benchmarks/fuzz.py.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import FORMATS, Bench, content, reseal_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwnas import cli
from hwnas.architecture import Architecture
from hwnas.device import load_device
from hwnas.errors import DamagedFile, HwnasError, InputError, UnknownName
from hwnas.files import read_json, read_text, read_toml, stays_inside
from hwnas.manifest import read_manifest
from hwnas.run import RunDirectory

BY_NAME = {each.name: each for each in FORMATS}
LINES = ("device", "OFA table", "ProxylessNAS table", "lines of architectures", "published benchmarks", "stored field")  # cut between lines they are whole
FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OUTSIDE = ("../x", "/x", "a/../../x", "a\\..\\x", "C:x", "a\0b", "\ud800", "\x1b[2J", "", ".", "..", "~\n")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("hostile"))


def expect_good(ending):
    assert ending in ("loaded", "refused"), ending


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_we_wrote_ourselves_loads(bench, form):
    bench.place(form)
    assert bench.outcome(form) == "loaded"
    if form.reseal is not None:
        for name in form.files:
            form.reseal(bench.folder, name)
        assert bench.outcome(form) == "loaded"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@FEW
@given(seed=st.integers(0, 2**32))
def test_a_mutant_is_loaded_or_refused(bench, form, seed):
    bench.mutate(form, seed)
    expect_good(bench.outcome(form))


@pytest.mark.parametrize("form", [each for each in FORMATS if not each.name.endswith("ONNX model")], ids=lambda form: form.name)
@FEW
@given(data=st.data())
def test_a_file_that_is_cut_short_is_refused(bench, form, data):
    """Whatever length is left. (Of run.toml, which is for people, nothing is read; of an ONNX file the runtime decides.)"""
    bench.place(form)
    path = bench.folder / data.draw(st.sampled_from([name for name in form.files if name != "run.toml"]))
    raw = path.read_bytes()
    whole = len(raw.rstrip())  # without its last line break a TOML file says the same
    path.write_bytes(raw[: data.draw(st.integers(0, whole - 1))])
    expect_good(ending := bench.outcome(form))
    assert ending == "refused" or (form.name in LINES and ending == "loaded")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_any_bytes_and_no_bytes_are_refused(bench, form):
    for name in (each for each in form.files if each != "run.toml"):
        for raw in (random.Random(name).randbytes(5_000), bytes(4_096), b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000):
            bench.place(form)
            (bench.folder / name).write_bytes(raw)
            assert bench.outcome(form) == "refused", name
        bench.place(form)
        (bench.folder / name).unlink()
        (bench.folder / name).mkdir()
        assert bench.outcome(form) == "refused", name


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_its_folder_is_refused(bench, name):
    assert not stays_inside(name)
    export, run = BY_NAME["export"], BY_NAME["run"]
    bench.place(export)
    manifest = read_json(bench.folder / "manifest.json")
    manifest["files"][name] = "0" * 64
    (bench.folder / "manifest.json").write_text(json.dumps(manifest))
    assert bench.outcome(export) == "refused"
    bench.place(run)
    with RunDirectory(bench.folder) as directory:
        before, digest = content(bench.root), next(iter(directory.result("train")["files"].values()))
        with pytest.raises(DamagedFile, match="outside its folder"):
            directory.load_files({name: digest}, lambda folder: pytest.fail("it was loaded"))
        assert content(bench.root) == before


def test_names_inside_a_folder_are_taken():
    assert all(map(stays_inside, ("model.onnx", "kit/infer.py", "a..b/..c", "Größe.txt")))


@pytest.mark.skipif(not hasattr(os, "symlink") or sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_out_of_an_exported_folder_is_refused(bench):
    bench.place(BY_NAME["export"])
    outside = bench.root / "place" / "secret"
    shutil.move(bench.folder / "model.onnx", outside)
    (bench.folder / "model.onnx").symlink_to(outside)
    with pytest.raises(DamagedFile, match="lies outside the folder"):
        read_manifest(bench.folder)
    outside.unlink()


@pytest.mark.parametrize("location", ["../outside", "/etc/hostname", "a/../../outside", "*/_ORT_MEM_ADDR_/*"])
def test_a_model_that_wants_weights_from_elsewhere_is_refused(bench, location):
    import onnx

    form = BY_NAME["ONNX model"]
    bench.place(form)
    model = onnx.load(bench.folder / "model.onnx")
    tensor = model.graph.initializer[0]
    (bench.folder.parent / "outside").write_bytes(tensor.raw_data)
    for key, value in {"location": location, "offset": "0", "length": str(len(tensor.raw_data))}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    (bench.folder / "model.onnx").write_bytes(model.SerializeToString())
    assert bench.outcome(form) == "refused"
    (bench.folder.parent / "outside").unlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_no_file(tmp_path):
    """Reading one would wait for ever."""
    os.mkfifo(tmp_path / "board.toml")
    with pytest.raises(DamagedFile, match=r"board\.toml: it is not a file"):
        load_device(tmp_path / "board.toml")


def test_a_text_file_of_gigabytes_is_refused_unread(tmp_path):
    with (tmp_path / "architecture.json").open("wb") as file:
        file.truncate(8 << 30)  # sparse
    with pytest.raises(DamagedFile, match=r"8,589,934,592 bytes, over the limit"):
        Architecture.load(tmp_path / "architecture.json")
    (tmp_path / "architecture.json").unlink()


@pytest.mark.parametrize("number", ["1e308", "1e-308", "5e-324", "-0.0", "NaN", "inf", "9" * 5_000, "1_0", "0x10"])
def test_a_price_that_no_device_has_is_refused_whatever_the_hashes_say(bench, number):
    form = BY_NAME["latency table"]
    bench.place(form)
    path = bench.folder / "entries.csv"
    lines = path.read_text().splitlines()
    lines[3] = f"{number},{lines[3].partition(',')[2]}"
    path.write_text("\n".join(lines) + "\n")
    reseal_table(bench.folder, "entries.csv")
    ending = bench.outcome(form)
    assert ending == ("loaded" if number == "1_0" else "refused")  # Python reads 1_0 as 10


@pytest.mark.parametrize("text", ["threads = " + "9" * 5_000, "a = " + "[" * 100_000, "a = {" * 10_000, "a." * 20_000 + "b = 1", "\0"])
def test_toml_that_breaks_its_parser_is_refused(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(DamagedFile):
        read_toml(tmp_path / "a.toml")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "9" * 5_000, "[" * 100_000, '"\\ud800', "{'a': 1}", "\ufeff{}"])
def test_json_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DamagedFile):
        read_json(tmp_path / "a.json")


def test_text_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a").write_bytes("ä".encode("latin-1"))
    with pytest.raises(DamagedFile, match="not UTF-8"):
        read_text(tmp_path / "a")


def test_a_database_of_another_program_is_left_as_it_was(tmp_path):
    with sqlite3.connect(tmp_path / "run.sqlite") as database:
        database.execute("CREATE TABLE mail (text)")
    database.close()
    before = content(tmp_path)
    for write in (False, True):
        with pytest.raises(DamagedFile, match="database of another program"):
            RunDirectory(tmp_path, write=write)
    assert content(tmp_path) == before


@given(st.text(), st.text())
@settings(max_examples=200)
def test_a_message_is_one_printable_sentence_whatever_it_quotes(first, second):
    for error in (InputError(f"{first} is wrong: {second}"), UnknownName("space", first, [second])):
        assert str(error).isprintable() and len(str(error)) <= 1_200


def test_the_ends_of_a_long_message_are_kept():
    message = str(HwnasError("x is wrong: " + "y" * 10_000 + "; do this"))
    assert message.startswith("x is wrong: yyy") and " ... " in message and message.endswith("yyy; do this") and len(message) == 1_200


@pytest.mark.parametrize(
    ("form", "file", "arguments"),
    [
        ("device", "bench.toml", ("profile", "{}/bench.toml", "--space", "ofa_mini", "--to", "{}/table")),
        ("run", "run.sqlite", ("report", "{}")),
        ("run", "run.sqlite", ("verify", "{}")),
    ],
)
def test_a_command_refuses_a_damaged_file_with_exit_code_2(bench, monkeypatch, capsys, form, file, arguments):
    bench.place(BY_NAME[form])
    path: Path = bench.folder / file
    path.write_bytes(path.read_bytes()[:-40] + b"\x1b[31m" * 8)
    before = content(bench.root)
    monkeypatch.setattr(sys, "argv", ["hwnas", *(each.format(bench.folder) for each in arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code == 2 and captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert "\x1b" not in captured.err and content(bench.root) == before


def test_the_fuzzing_benchmark_tells_its_rate_and_repeats_a_single_file():
    benchmark = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"

    def run(*arguments):
        done = subprocess.run([sys.executable, str(benchmark), "--json", *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    report = run("--files", "40", "--seed", "3", "--jobs", "2", "--format", "architecture")
    counts = report["formats"]["architecture"]
    assert report["files"] == 40 == counts["loaded"] + counts["refused"] and not report["first_defects"] and report["per_second"] > 0
    assert run("--only", "17", "--seed", "3", "--format", "architecture")["files"] == 1
