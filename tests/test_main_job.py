"""The main job through the command line, in small: real measurements, real training, real files."""

import csv
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from commands import copied, here
from shortened import SMALLER, shortened

from hwnas import cli
from hwnas.manifest import read_manifest
from hwnas.run import RunDirectory

pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")

SPACE = SMALLER["ofa_mini"]


def hwnas(*arguments):
    """Exit code, standard output and error of a command."""
    done = subprocess.run([sys.executable, "-m", "hwnas", *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def in_process(monkeypatch, capsys, *arguments):
    """The same without a new process, for commands that end early."""
    monkeypatch.setattr(sys, "argv", ["hwnas", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def folder(demo):
    """The folder of the demo, with what each command returns as JSON beside it, from the record of the finished run."""
    steps = [
        ("profile", "localhost", "--space", "ofa_mini", "--to", demo.folder / "table"),
        ("train", demo.folder / "run", "--space", "ofa_mini", "--data", "cluttered_digits"),
        ("search", demo.folder / "run", "--table", demo.folder / "table", "--latency", "<= 55% p50"),
        ("verify", demo.folder / "run"),
        ("export", demo.folder / "run", "--to", demo.folder / "export"),
        ("report", demo.folder / "run", "--to", demo.folder / "report.html"),
    ]
    for step in steps:
        code, out, error = here(*shortened([*map(str, step), "--json"]))
        assert code == 0, error
        (demo.folder / f"{step[0]}.json").write_text(out)
    return demo.folder


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_every_distinct_block_was_measured(folder):
    facts = read(folder, "profile.json")
    assert facts["origin"] == "measured" and 8 <= facts["networks"] <= 16 and facts["failed"] == 0
    assert facts["entries"] == len((folder / "table" / "entries.csv").read_text().splitlines()) - 1


def test_training_was_on_single_paths_to_its_end(folder):
    result = read(folder, "train.json")
    assert {point["phase"] for point in result["curve"]} == {"single path"}
    assert result["steps"] == result["curve"][-1]["step"]


def test_search_and_random_search_cost_the_same(folder):
    result = read(folder, "search.json")
    assert result["evaluations"] == result["baselines"]["random"]["evaluations"] == 20
    assert len(result["points"]) == 20 and result["latency_origin"] == "predicted"
    accuracies = [point["accuracy_pct"] for point in result["points"]]
    assert accuracies == sorted(accuracies, reverse=True)
    front = list(csv.DictReader((folder / "run" / "front.csv").open()))
    assert len(front) == sum(point["on_front"] for point in result["points"]) and "latency_ms_predicted" in front[0]


def test_uniform_scaling_varies_all_layers_together(folder):
    for point in read(folder, "search.json")["baselines"]["uniform"]["points"]:
        for role in ("kernel", "expand", "depth"):
            assert len({value for name, value in point["values"].items() if name.endswith(role)}) == 1


def test_the_certificate_says_what_was_measured(folder):
    certificate = read(folder / "export", "certificate.json")
    assert certificate == read(folder, "verify.json")["certificate"]
    assert certificate["verdict"] == "within" and certificate["origin"] == "measured" and certificate["statistic"] == "p50"
    assert certificate["measured_ms"] <= certificate["upper_bound_ms"] <= certificate["budget_ms"] == 900
    assert certificate["visits"] >= 9 and certificate["runs"] >= certificate["visits"] and certificate["confidence"] > 0.99
    assert certificate["space_max_ms"] > 0 and not certificate["budget_binds"]
    digest = hashlib.sha256((folder / "export" / "model.onnx").read_bytes()).hexdigest()
    assert digest == certificate["model_sha256"]


def test_baselines_are_measured_at_equal_predicted_latency(folder):
    measured = read(folder, "verify.json")["measured"]
    slowest = max(each["latency_ms"] for each in measured if each["role"] == "candidate")
    assert {each["role"] for each in measured} == {"candidate", "random", "uniform", "largest"}
    assert all(each["latency_ms"] <= slowest * (1 + 1e-9) for each in measured if each["role"] in ("random", "uniform"))


def test_the_exported_folder_proves_itself_without_hwnas(folder):
    export = folder / "export"
    manifest = read_manifest(export)
    assert manifest["labels"] == list("0123456789") and manifest["input"]["shape"] == [1, 1, 24, 24]
    assert all(check["passed"] for check in read(folder, "export.json")["parity"].values())
    kit = [sys.executable, "-I", str(export / "onnxruntime_python" / "infer.py"), "--runs", "3"]
    image = folder / "digit.npy"
    np.save(image, np.zeros((48, 48), np.uint8))
    done = subprocess.run([*kit, str(image)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip().endswith("ok"), done.stderr


def test_the_report_says_whether_the_search_won(folder):
    page = (folder / "report.html").read_text()
    shown = read(folder, "report.json")
    assert {each["baseline"] for each in shown["comparisons"]} == {"random", "uniform"}
    won = all(each["difference_points"]["low"] > 0 for each in shown["comparisons"])
    assert ("did not win" in page) == (not won)
    assert 'src="http' not in page and 'href="http' not in page
    assert abs(sum(layer["share"] for layer in shown["layers"]) - 1) < 1e-6
    assert shown["published"]["measured"] >= 0 and ("published networks" in page or "No published network was measured" in page)
    assert all(0 <= each["test_accuracy_pct"]["low"] <= each["test_accuracy_pct"]["high"] <= 100 for each in shown["measured"])


def test_the_report_shows_the_budget_on_memory_beside_the_one_on_latency(folder):
    shown = read(folder, "report.json")
    (budget,) = shown["budgets"]
    assert budget["metric"] == "memory" and 0 < budget["space_min"] <= budget["chosen"] <= budget["limit"] == pytest.approx(0.6 * budget["space_max"])
    assert ">peak memory</dt><dd>at most " in (folder / "report.html").read_text()
    assert any("--latency '<= 900ms p50' --memory '<= 60%'" in line for line in shown["commands"])
    points = read(folder, "search.json")["points"]
    assert all(point["memory_bytes"] <= budget["limit"] for point in points)


def test_a_report_after_another_verification_is_of_what_that_one_measured(folder, tmp_path):
    copied(folder / "run", tmp_path / "run")
    with RunDirectory(tmp_path / "run") as run:
        last = run.result("verify")
        run.finish("verify", {**last, "measured": last["measured"][::-1]})
    code, out, error = hwnas("report", tmp_path / "run", "--json")
    assert code == 0, error
    tested = [(each["role"], each["params"], each["test_accuracy_pct"]) for each in json.loads(out)["measured"]]
    assert tested == [(each["role"], each["params"], each["test_accuracy_pct"]) for each in read(folder, "report.json")["measured"]][::-1]


def test_the_same_command_again_returns_what_is_recorded(folder, demo):
    """`folder` gave every command again, which returned what the demo had printed and measured nothing anew."""
    trained, certificate = read(folder, "train.json"), read(folder, "verify.json")["certificate"]
    assert f"supernet trained for {trained['steps']} steps in {trained['seconds']:.0f} s" in demo.printed
    assert f"certified: {certificate['measured_ms']:.4g} ms p50 measured, upper bound {certificate['upper_bound_ms']:.4g} ms" in demo.printed


def test_other_options_than_recorded_are_refused(folder, monkeypatch, capsys):
    code, _, error = in_process(monkeypatch, capsys, "train", folder / "run", "--space", SPACE, "--data", "cluttered_digits", "--seed", 3)
    assert code == 2 and "name another folder" in error


def test_a_budget_below_the_space_is_answered_with_the_least_latency(folder, trained, monkeypatch, capsys, tmp_path):
    copied(folder / "run", tmp_path / "run")
    code, _, error = in_process(monkeypatch, capsys, "search", tmp_path / "run", "--table", folder / "table", "--latency", "<= 0.001ms", "--evaluations", 6)
    assert code == 2 and "latency" in error  # this run was begun with another budget
    fresh = copied(trained, tmp_path / "fresh")
    code, _, error = in_process(monkeypatch, capsys, "search", fresh, "--table", folder / "table", "--latency", "<= 0.001ms", "--evaluations", 6)
    assert "latency" not in (fresh / "run.toml").read_text()  # an impossible budget is not recorded: another one may follow
    assert code == 1 and "cannot be met" in error and "the smallest architecture" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("space", "show", "ofa_mobilnet_v3"), 2, "did you mean 'ofa_mobilenet_v3'"),
        (("space", "show", "ofa_mini(widht=2)"), 2, "widht"),
        (("space", "show", "ofa_mini(resolutions=())"), 2, "resolutions must be"),
        (("space", "show", "missing.py:space"), 2, "no such file"),
        (("profile", "pixel9", "--space", "ofa_mini", "--to", "x"), 2, "no device named 'pixel9'"),
        (("train", "x", "--space", "ofa_mini", "--data", "imagenet"), 2, "no data set named 'imagenet'"),
        (("train", "x", "--space", "ofa_mobilenet_v3", "--data", "cluttered_digits"), 2, "channels=1, classes=10"),
        (("train", "x", "--space", "ofa_mini", "--data", "cluttered_digits", "--schedule", "smal"), 2, "did you mean 'small'"),
        (("train", "x", "--space", "ofa_mini", "--data", "cluttered_digits", "--length", "-1"), 2, "--length"),
        (("search", "x", "--table", "t", "--latency", "<= 5ms"), 2, "begin one with: hwnas train"),
        (("search", "x", "--table", "t", "--latency", "<= 5ms", "--searcher", "nsga9"), 2, "no searcher named 'nsga9'"),
        (("search", "x", "--table", "t", "--latency", "<= 5ms", "--set", "populaton=3"), 2, "did you mean 'population'"),
        (("verify", "x"), 2, "hwnas train"),
        (("export", "x", "--to", "y"), 2, "hwnas"),
        (("report", "x"), 2, "hwnas"),
        (("serach",), 2, "serach"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, code, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    got, out, error = in_process(monkeypatch, capsys, *arguments)
    assert got == code and words in error and out == ""
    assert "Traceback" not in error and not list(tmp_path.iterdir())  # nothing was written
