"""`export` with another interface or precision, on a network that was trained alone: a real run, real files, run by the kit."""

import json

import numpy as np
import onnx
import pytest
from commands import SHORTENED, copied, here, python
from exports import run_python

import hwnas
from hwnas.interface import Interface
from hwnas.manifest import read_manifest
from hwnas.verbs.export import Conversion
from hwnas.verbs.verify_export import verify_export

pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A run with one network that learned something."""
    folder = tmp_path_factory.mktemp("lone")
    asked = ("--space", "ofa_mini(resolutions=(24,))", "--data", "cluttered_digits", "--architecture", "smallest", "--schedule", "small")
    done = python(SHORTENED, "train", "run", *asked, "--threads", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(lone, tmp_path):
    return copied(lone, tmp_path / "run")


def test_a_file_with_everything_inside_is_run_by_the_kit_and_proves_itself_again(run, tmp_path):
    face = Interface("image", softmax=True, free_batch=True, opset=20, input_name="photo", output_name="shares")
    result = hwnas.export(run, to=tmp_path / "out", interface=face)
    manifest = read_manifest(tmp_path / "out")
    assert manifest["input"] == {"name": "photo", "kind": "image", "shape": ["batch", "height", "width", 1], "dtype": "uint8"}
    assert manifest["output"]["kind"] == "probabilities" and manifest["opset"] == 20 and result["added"] == ["resizing and normalisation", "softmax"]
    assert all(check["passed"] and check["ratio"] < 1e-3 for check in result["parity"].values()) and set(result["parity"]) == {"real", "random"}
    known = {each.key for each in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert {"hwnas.labels", "hwnas.preprocessing", "hwnas.architecture"} <= known
    np.save(tmp_path / "digit.npy", np.zeros((48, 48), np.uint8))
    ended = run_python(tmp_path / "out", tmp_path / "digit.npy")
    assert ended.code == 0 and ended.out.splitlines()[-1] == "ok", ended
    assert verify_export(tmp_path / "out")["passed"]


def test_accuracy_of_the_file_is_measured_and_is_the_same_when_it_is_checked_again(run, tmp_path):
    result = hwnas.export(run, to=tmp_path / "out", kit="")
    stated = read_manifest(tmp_path / "out")["accuracy"]
    assert stated == result["accuracy"] and stated["origin"] == "measured" and stated["split"] == "test"
    again = verify_export(tmp_path / "out", data="cluttered_digits")["checks"]["accuracy"]
    assert again["accuracy_pct"] == pytest.approx(stated["accuracy_pct"], abs=0.3) and again["images"] == stated["images"]


@pytest.mark.parametrize(("precision", "calibration"), [("int8_u8s8", "entropy"), ("int8_fp16", "percentile"), ("fp16", "minmax")])
def test_another_precision_says_what_it_costs(run, tmp_path, precision, calibration):
    result = hwnas.export(run, to=tmp_path / "out", conversion=Conversion(precision, calibration, 64, seconds=0))
    manifest, found = read_manifest(tmp_path / "out"), result["conversion"]
    assert manifest["precision"]["name"] == precision and (found["from"], found["to"]) == ("fp32", precision) and manifest["latency"] is None
    if precision != "fp16":
        assert manifest["precision"] == {"name": precision, "calibration": calibration, "images": 64}
    assert found["accuracy_after_pct"] == manifest["accuracy"]["accuracy_pct"] and abs(found["accuracy_after_pct"] - found["accuracy_before_pct"]) < 15
    assert result["parity"]["real"]["passed"] and run_python(tmp_path / "out").code == 0


def test_latency_before_and_after_is_measured_and_a_slower_file_is_a_warning(run, tmp_path):
    result = hwnas.export(run, to=tmp_path / "out", conversion=Conversion("int8_u8s8", seconds=1.0))
    found = result["conversion"]
    if "ratio" not in found:
        pytest.skip(f"this machine is too busy to measure on: {found['latency']}")
    assert found["origin"] == "measured" and found["ratio"] == found["after_ms"] / found["before_ms"]
    assert any("takes" in warning for warning in result["warnings"]) == (found["ratio"] > 1)


def test_what_a_runtime_would_compute_in_another_precision_is_not_measured_and_says_so(run, tmp_path):
    code, out, err = here("export", run, "--to", tmp_path / "out", "--precision", "int8_s8s8", "--seconds", 1)
    assert code == 0 and "latency  " not in out
    assert "warning: the latency in int8_s8s8 was not measured:" in err and "would not be measured in its precision" in err


def test_the_model_card_says_what_was_measured_and_asks_what_nobody_told(run, tmp_path):
    hwnas.export(run, to=tmp_path / "out")
    card, manifest = (tmp_path / "out" / "MODEL_CARD.md").read_text(), read_manifest(tmp_path / "out")
    assert manifest["files"]["model.onnx"] in card and f"{manifest['accuracy']['accuracy_pct']:.2f} % top-1 (95 % interval" in card
    assert "There is no certificate of its latency." in card and "- [ ] Under which licence are the weights given away?" in card
    assert "cluttered_digits" in card and "Apache" not in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "video"), "one of tensor, pixels, image, not 'video'"),
        (("--opset", 13), "opset 13 cannot be written"),
        (("--precision", "int4"), "there is no precision 'int4'"),
        (("--precision", "int8_u8s8", "--calibration", "best"), "there is no calibration 'best'"),
        (("--kit", "ios"), "no kit named 'ios'"),
        (("--kit", "tensorrt", "--input", "image"), "the kit tensorrt cannot feed a file with --input image: what it runs on takes tensor or pixels"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing_behind(run, tmp_path, arguments, message):
    code, _, err = here("export", run, "--to", tmp_path / "out", *arguments)
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_command_says_as_json_what_it_did(run, tmp_path):
    code, out, err = here("export", run, "--to", tmp_path / "out", "--softmax", "--json")
    result = json.loads(out)
    assert code == 0 and result["added"] == ["softmax"] and not result["certified"] and result["warnings"] == [], err
