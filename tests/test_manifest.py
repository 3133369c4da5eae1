"""hwnas/manifest.py: an exported folder says what it holds, and nothing in it can be swapped unseen."""

import json

import numpy as np
import pytest

from hwnas.errors import DamagedFile, InputError
from hwnas.manifest import Preprocessing, read_manifest, write_manifest


def rewritten(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_manifest_lists_every_file_but_itself(exported_folder):
    manifest = read_manifest(exported_folder)
    files = [
        "architecture.json",
        "example_input.npy",
        "model.onnx",
        *(f"onnxruntime_python/{name}" for name in ("README.md", "infer.py", "kit.toml")),
        "weights.safetensors",
    ]
    assert sorted(manifest["files"]) == files


def test_a_manifest_says_how_to_feed_the_network(exported_folder):
    manifest = read_manifest(exported_folder)
    assert manifest["input"] == {"name": "input", "kind": "tensor", "shape": [1, 1, 32, 32], "dtype": "float32"}
    assert manifest["output"] == {"name": "output", "kind": "logits", "shape": [1, 10], "dtype": "float32"}
    preprocessing = {"mean": [0.13], "std": [0.24], "range": [0.0, 1.0], "resolution": [32, 32], "channels": 1, "resize": "bilinear, antialiased", "crop": None}
    assert manifest["preprocessing"] == preprocessing
    assert manifest["labels"][3] == "digit 3"
    assert np.load(exported_folder / manifest["example"]["input"]).shape == (1, 1, 32, 32)
    assert np.array(manifest["example"]["logits"]).shape == (1, 10)


def test_a_manifest_says_what_was_shipped_and_with_which_versions(exported_folder):
    manifest = read_manifest(exported_folder)
    assert manifest["space"] == "ofa_mini" and manifest["architecture"]["stage1.depth"] == 1
    assert len(manifest["fingerprint"]) == 64
    assert {"hwnas", "onnx", "onnxruntime"} <= set(manifest["versions"])
    assert manifest["latency"] == {"measured_ms": 1.5, "upper_bound_ms": 1.6, "statistic": "p50", "conditions": "a test", "origin": "measured"}


def test_a_changed_missing_or_cut_file_is_refused(exported_folder):
    model = exported_folder / "model.onnx"
    data = model.read_bytes()
    model.write_bytes(data[:-1])
    with pytest.raises(DamagedFile, match=r"model.onnx is not the file that .* was written for"):
        read_manifest(exported_folder)
    model.unlink()
    with pytest.raises(DamagedFile, match=r"cannot read .*model.onnx"):
        read_manifest(exported_folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_a_path_that_leaves_the_folder_is_refused(exported_folder, name):
    (exported_folder.parent / "outside").write_text("x")
    rewritten(exported_folder, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(DamagedFile, match="lies outside the folder"):
        read_manifest(exported_folder)


def test_a_link_that_leaves_the_folder_is_refused(exported_folder):
    (exported_folder.parent / "outside").write_text("x")
    (exported_folder / "link").symlink_to(exported_folder.parent / "outside")
    rewritten(exported_folder, lambda manifest: manifest["files"].update({"link": "0" * 64}))
    with pytest.raises(DamagedFile, match="lies outside the folder"):
        read_manifest(exported_folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "hwnas.manifest/2"}', '{"format": "hwnas.manifest/1", "files": {}}', "[" * 100_000])
def test_a_file_that_is_no_manifest_is_refused(exported_folder, text):
    (exported_folder / "manifest.json").write_text(text)
    with pytest.raises(DamagedFile):
        read_manifest(exported_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"]}, "10 classes but 1 labels"),
        ({"example": np.zeros((1, 1, 8, 8), np.float32)}, "the example needs shapes"),
        ({"preprocessing": Preprocessing((0.1, 0.2), (1.0, 1.0))}, "each of 1 channels"),
        ({"preprocessing": Preprocessing((0.1,), (0.0,))}, "positive std"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, change, message):
    from hwnas.architecture import Architecture
    from hwnas.exporter import Exported, Parity
    from hwnas.spaces.ofa_mini import ofa_mini

    space = ofa_mini()
    graph = space.lower(space.smallest())
    parts = {
        "exported": Exported(tmp_path / "model.onnx", "0" * 64, 1, 17, 8, 1),
        "graph": graph,
        "architecture": Architecture.of(space, space.smallest()),
        "fingerprint": "0" * 64,
        "preprocessing": Preprocessing((0.1,), (0.2,)),
        "labels": list("0123456789"),
        "example": np.zeros(graph.input, np.float32),
        "expected": np.zeros(graph.output, np.float32),
        "parity": Parity(0.0, 1.0, 1),
    }
    with pytest.raises(InputError, match=message):
        write_manifest(tmp_path, **(parts | change))
    assert not list(tmp_path.iterdir())
