"""`verify` of an exported folder: what it proves again, what it refuses, and that it runs and writes nothing of what it finds."""

import json

import numpy as np
import onnx
import pytest
from commands import copied, here
from exports import write_export
from hostile_files import content
from safetensors.numpy import load, save
from test_manifest import rewritten

from hwnas.cli.show import export_lines
from hwnas.errors import DamagedFile, InputError
from hwnas.files import sha256
from hwnas.interface import Interface
from hwnas.verbs.verify_export import require, verify_export

FACES = {
    "plain": Interface(),
    "pixels and softmax": Interface("pixels", softmax=True),
    "images of any size, free batch": Interface("image", free_batch=True, input_name="photo", output_name="shares"),
}


@pytest.mark.parametrize("face", FACES)
def test_an_export_proves_itself_by_its_example_and_on_random_inputs(tmp_path, face):
    found = verify_export(write_export(tmp_path / "shipped", FACES[face], kits=()))
    assert found["passed"] and found["checks"]["hashes"]["files"] == 4
    for name in ("example", "random"):
        assert found["checks"][name]["passed"] and 0 <= found["checks"][name]["ratio"] < 1e-3, name


def test_the_command_says_what_it_checked_and_writes_nothing(exported_folder):
    before = content(exported_folder.parent)
    code, out, err = here("verify", exported_folder)
    assert (code, err) == (0, "") and content(exported_folder.parent) == before
    assert [line.split("  ")[0] for line in out.splitlines()] == ["hashes", "stored example", "random inputs", "ok"]
    code, out, _ = here("verify", exported_folder, "--json")
    assert code == 0 and json.loads(out)["passed"]


def test_a_model_that_computes_something_else_is_a_failure_and_names_the_check(exported_folder):
    rewritten(exported_folder, lambda manifest: manifest["example"]["logits"][0].__setitem__(0, 9.0))
    code, out, err = here("verify", exported_folder)
    assert code == 1 and out.splitlines()[-1] == "failed" and "(example); do not use this build of the network" in err and err.count("\n") == 1


def test_weights_of_another_network_are_noticed(exported_folder):
    weights = load((exported_folder / "weights.safetensors").read_bytes())
    weights["head/classifier.bias"] = weights["head/classifier.bias"] + 1
    (exported_folder / "weights.safetensors").write_bytes(save(weights))
    rewritten(exported_folder, lambda manifest: manifest["files"].update({"weights.safetensors": sha256(exported_folder / "weights.safetensors")}))
    found = verify_export(exported_folder)
    assert found["checks"]["example"]["passed"] and found["checks"]["random"]["passed"] is False
    with pytest.raises(Exception, match="random"):
        require(found)


def test_a_space_that_a_manifest_names_is_never_a_file_that_is_run(exported_folder):
    evil = exported_folder / "evil.py"
    evil.write_text(f"open({str(exported_folder.parent / 'ran')!r}, 'w')\ndef evil(): pass\n")
    rewritten(exported_folder, lambda manifest: manifest.update(built_from=f"{evil}:evil", files={**manifest["files"], "evil.py": sha256(evil)}))
    found = verify_export(exported_folder)
    assert found["passed"] and "hwnas has no search space" in found["checks"]["random"]["reason"]
    assert not (exported_folder.parent / "ran").exists()


def test_a_space_of_the_users_own_is_named_by_the_user(exported_folder):
    rewritten(exported_folder, lambda manifest: manifest.update(built_from="somebody_elses"))
    assert verify_export(exported_folder)["checks"]["random"]["passed"] is None
    assert verify_export(exported_folder, space="ofa_mini")["checks"]["random"]["passed"]
    assert "is not the search space that the network was made in" in verify_export(exported_folder, space="ofa_mini(batch=2)")["checks"]["random"]["reason"]


def test_accuracy_is_that_of_the_file_on_the_users_images(exported_folder):
    pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")
    with pytest.raises(InputError, match="cluttered_digits has other classes than the network: 0, 1, 2, 3, 4, not digit 0"):
        verify_export(exported_folder, data="cluttered_digits")
    rewritten(exported_folder, lambda manifest: manifest.update(labels=list("0123456789")))
    found = verify_export(exported_folder, data="cluttered_digits")["checks"]["accuracy"]
    assert 0 <= found["accuracy_pct"] <= 100 and found["images"] > 100 and found["split"] == "test"


def test_without_a_certificate_somebody_has_to_say_where_to_measure(exported_folder):
    with pytest.raises(InputError, match="has no certificate that says where to measure; name a device with --device"):
        verify_export(exported_folder, seconds=1.0)


def test_options_of_exports_are_refused_for_runs(tmp_path):
    code, _, err = here("verify", tmp_path, "--data", "cluttered_digits")
    assert code == 2 and "--data and --space are for exported folders" in err


# -- what comes from somebody else ------------------------------------------------------------------------------------------------


def outside_weights(folder):
    """The model keeps a tensor in a file outside of the folder, and all hashes fit."""
    model = onnx.load(folder / "model.onnx")
    tensor = model.graph.initializer[0]
    (folder.parent / "outside").write_bytes(tensor.raw_data)
    for key, value in {"location": "../outside", "offset": "0", "length": str(len(tensor.raw_data))}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    rewritten(folder, lambda manifest: manifest["files"].update({"model.onnx": sha256(folder / "model.onnx")}))


def truncated(folder):
    raw = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(raw[: len(raw) // 2])


def truncated_and_hashed(folder):
    truncated(folder)
    rewritten(folder, lambda manifest: manifest["files"].update({"model.onnx": sha256(folder / "model.onnx")}))


def path_outside(folder):
    (folder.parent / "secret").write_text("x")
    rewritten(folder, lambda manifest: manifest["files"].update({"../secret": sha256(folder.parent / "secret")}))


def no_array(folder):
    (folder / "example_input.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
    rewritten(folder, lambda manifest: manifest["files"].update({"example_input.npy": sha256(folder / "example_input.npy")}))


#: What makes a folder hostile -> what is said of it, by whoever refuses it.
HOSTILE = {
    truncated: "model.onnx",
    truncated_and_hashed: "model.onnx|cannot load|no ONNX model",
    path_outside: "outside the folder|not inside",
    outside_weights: "keeps weights in another file",
    no_array: "example_input.npy",
}


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda each: each.__name__)
def test_a_hostile_folder_is_refused_in_one_sentence_and_nothing_is_written(exported_folder, spoil):
    spoil(exported_folder)
    before = content(exported_folder.parent)
    code, out, err = here("verify", exported_folder)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert any(part in err for part in HOSTILE[spoil].split("|")), err
    assert content(exported_folder.parent) == before


@pytest.mark.parametrize(
    "change",
    [
        {"model": []},
        {"input": None},
        {"input": {"name": "input", "kind": "tensor", "shape": [], "dtype": "float32"}},
        {"input": {"name": "input", "kind": "video", "shape": [1, 1, 32, 32], "dtype": "float32"}},
        {"output": {"name": "output", "kind": "logits", "shape": ["a"], "dtype": "float32"}},
        {"preprocessing": {"mean": [0.1], "std": [0.0], "range": [0, 1], "resolution": [32, 32], "channels": 1}},
        {"preprocessing": {"mean": [0.1], "std": [1.0], "range": [0, 1], "resolution": [10**9, 32], "channels": 1}},
        {"labels": ["one"]},
        {"precision": {"name": "fp3"}},
        {"example": {"input": "../x.npy", "logits": [[0.0] * 10], "tolerance_std": 0.001}},
        {"accuracy": {"accuracy_pct": "high"}},
    ],
)
def test_fields_that_do_not_fit_are_refused(exported_folder, change):
    rewritten(exported_folder, lambda manifest: manifest.update(change))
    with pytest.raises(DamagedFile):
        verify_export(exported_folder)


def test_a_stored_example_of_another_type_is_refused(exported_folder):
    np.save(exported_folder / "example_input.npy", np.zeros((1, 1, 32, 32), np.uint8))
    rewritten(exported_folder, lambda manifest: manifest["files"].update({"example_input.npy": sha256(exported_folder / "example_input.npy")}))
    with pytest.raises(DamagedFile, match=r"the stored example .* is uint8, its manifest says float32"):
        verify_export(exported_folder)


# -- the latency that is certified --------------------------------------------------------------------------------------------------


@pytest.fixture
def certified(demo, tmp_path):
    return copied(demo.folder / "export", tmp_path / "export")


def recertified(folder, change):
    """The certificate changed by somebody who keeps the manifest's hashes right."""
    path = folder / "certificate.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path.name] = sha256(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_certified_folder_is_measured_again_and_compared(certified):
    before = {path: path.read_bytes() for path in certified.rglob("*") if path.is_file()}
    found = verify_export(certified, seconds=2)["checks"]["latency"]
    stated = json.loads((certified / "certificate.json").read_text())
    assert found["certified_ms"] == stated["measured_ms"] and found["to_certified"] == found["measured_ms"] / stated["measured_ms"]
    assert not found["differs"] and found["confidence"] == stated["confidence"]
    assert found["passed"] is {"within": True, "over": False, "inconclusive": None}[found["verdict"]]
    assert {path: path.read_bytes() for path in certified.rglob("*") if path.is_file()} == before
    code, out, _ = here("verify", certified, "--seconds", 2)
    assert (code, out.splitlines()[-1]) in ((0, "ok"), (1, "failed")) and "certified" in out
    code, _, err = here("verify", certified, "--use", 97)
    assert code == 2 and "are for runs" in err


def test_a_certificate_of_other_conditions_is_neither_confirmed_nor_contradicted(certified):
    """As of an older version, on an older runtime: what it does not state is not compared."""

    def older(certificate):
        kept = {key: value for key, value in certificate.items() if key not in ("accuracy", "published", "costs", "budget_used", "date")}
        return kept | {"conditions": {**kept["conditions"], "version": "1.0.0"}}

    recertified(certified, older)
    found = verify_export(certified, seconds=1)
    assert list(found["checks"]["latency"]["differs"]) == ["version"] and found["checks"]["latency"]["passed"] is None
    assert "neither confirmed nor contradicted" in "\n".join(export_lines(found))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"statistic": "p200"}, DamagedFile, "has the statistic 'p200', which is no quantile"),
        ({"confidence": 0.0}, DamagedFile, "that no certificate has"),
        ({"format": "hwnas.certificate/9"}, DamagedFile, "has the format 'hwnas.certificate/9'"),
        ({"budget_ms": -1.0}, DamagedFile, "that no certificate has"),
        ({"conditions": {"device": "nowhere"}}, InputError, "name one with --device"),
        ({"conditions": {"runtime": "other"}}, InputError, "measured with the runtime 'other'"),
    ],
)
def test_a_certificate_that_somebody_changed_is_one_sentence(certified, change, kind, words):
    def changed(certificate):
        return {**certificate, **{key: {**certificate[key], **value} if isinstance(value, dict) else value for key, value in change.items()}}

    recertified(certified, changed)
    with pytest.raises(kind, match=words):
        verify_export(certified, seconds=0.2)
