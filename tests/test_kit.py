"""hwnas/kit.py and export/: the Python kit is run as a user runs it, on folders that are right, wrong and hostile."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from test_manifest import rewritten

from hwnas.data import shipped
from hwnas.errors import UnknownName
from hwnas.files import sha256
from hwnas.kit import copy_kit, kits


def run(folder, *arguments):
    """(exit code, standard output, standard error) of the kit's program, which must not find hwnas."""
    command = [sys.executable, "-I", str(folder / "onnxruntime_python" / "infer.py"), "--runs", "3", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, timeout=60)
    return done.returncode, done.stdout, done.stderr


def refused(folder, *arguments):
    """The one sentence with which the kit refuses a folder."""
    code, out, err = run(folder, *arguments)
    assert code == 2 and "ok" not in out.splitlines()
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and "Traceback" not in err
    return err


def infer_module():
    spec = importlib.util.spec_from_file_location("infer", shipped("export") / "onnxruntime_python" / "infer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(kits()))
def test_every_kit_describes_itself_and_has_a_readme(name):
    assert kits()[name].endswith(".")
    assert (shipped("export") / name / "README.md").is_file()


def test_an_unknown_kit_is_named_with_its_neighbours(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'onnxruntime_python'"):
        copy_kit("onnxruntime_pyton", tmp_path)


def test_a_copied_kit_is_the_shipped_one(tmp_path):
    for path in copy_kit("onnxruntime_python", tmp_path):
        assert path.read_bytes() == (shipped("export") / path.relative_to(tmp_path)).read_bytes()


def test_the_kit_checks_the_example_times_the_network_and_says_ok(exported_folder):
    code, out, err = run(exported_folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("example  logits agree to ") and lines[-1] == "ok"
    assert "1.5 ms certified (p50, at most 1.6 ms) on a test" in out


def test_the_kit_classifies_images_and_raw_pixels_alike(exported_folder):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (48, 40), np.uint8)
    np.save(exported_folder.parent / "x.npy", pixels)
    Image.fromarray(pixels).save(exported_folder.parent / "x.png")
    code, out, _ = run(exported_folder, "x.png", "x.npy", "--top", "2")
    assert code == 0
    image, array = out.splitlines()[1:3]
    assert image.removeprefix("x.png") == array.removeprefix("x.npy")
    assert image.count("digit") == 2


def test_the_kit_prepares_an_image_as_training_does():
    torch = pytest.importorskip("torch")
    infer, rng = infer_module(), np.random.default_rng(2)
    for source, target in (((48, 48), (32, 32)), ((48, 31), (40, 40)), ((8, 8), (20, 20)), ((9, 9), (9, 9))):
        image = rng.random((2, *source))
        expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None], size=target, mode="bilinear", antialias=True, align_corners=False)
        np.testing.assert_allclose(infer.resized(image, *target), expected[0].numpy(), atol=1e-12)


def test_the_kit_feeds_what_the_manifest_says(exported_folder):
    infer = infer_module()
    manifest = infer.read_manifest(exported_folder)
    pixels = np.full((32, 32), 51, np.uint8)  # 51 / 255 = 0.2
    np.save(exported_folder.parent / "x.npy", pixels)
    seen = []
    infer.classify(exported_folder.parent / "x.npy", manifest, lambda x: seen.append(x) or np.arange(10.0)[None], 1)
    np.testing.assert_allclose(seen[0], np.full((1, 1, 32, 32), (0.2 - 0.13) / 0.24), rtol=1e-6)


def test_the_kit_takes_the_central_square_where_the_manifest_says_so(exported_folder):
    infer = infer_module()
    rewritten(exported_folder, lambda manifest: manifest["preprocessing"].update(crop=0.5))
    manifest = infer.read_manifest(exported_folder)
    pixels = np.zeros((64, 90), np.uint8)
    pixels[16:48, 29:61] = 51  # half of 64 pixels, in the middle
    np.save(exported_folder.parent / "x.npy", pixels)
    seen = []
    infer.classify(exported_folder.parent / "x.npy", manifest, lambda x: seen.append(x) or np.arange(10.0)[None], 1)
    np.testing.assert_allclose(seen[0], np.full((1, 1, 32, 32), (0.2 - 0.13) / 0.24), rtol=1e-6)
    for wrong in (0, -1, 1.5, "half", True):
        rewritten(exported_folder, lambda manifest, wrong=wrong: manifest["preprocessing"].update(crop=wrong))
        assert "preprocessing" in refused(exported_folder)


def test_the_kit_cuts_the_square_that_training_cuts():
    torch, infer, rng = pytest.importorskip("torch"), infer_module(), np.random.default_rng(0)
    from hwnas.images import centre

    for h, w, share in ((7, 12, 0.875), (33, 21, 0.5), (1, 5, 0.1), (30, 30, 1.0), (10, 3, None)):
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        np.testing.assert_array_equal(infer.centre(image, share), centre(torch.from_numpy(image).permute(2, 0, 1), share).permute(1, 2, 0).numpy())


def test_wrong_logits_are_a_failure_not_a_refusal(exported_folder):
    rewritten(exported_folder, lambda manifest: manifest["example"]["logits"][0].__setitem__(0, 9.0))
    code, out, err = run(exported_folder)
    assert code == 1 and "ok" not in out.splitlines()
    assert "the logits of the stored example are off by" in err and len(err.splitlines()) == 1


def test_a_truncated_model_is_refused(exported_folder):
    model = exported_folder / "model.onnx"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    assert "cut short or was changed" in refused(exported_folder)
    rewritten(exported_folder, lambda manifest: manifest["files"].update({"model.onnx": sha256(model)}))
    assert "cannot load" in refused(exported_folder)


def test_a_model_that_is_not_the_manifests_is_refused(exported_folder):
    def other_input(manifest):
        manifest["input"]["name"] = "photo"

    rewritten(exported_folder, other_input)
    assert "the manifest says 'photo' [1, 1, 32, 32]" in refused(exported_folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..\\outside", "link"])
def test_paths_that_leave_the_folder_are_refused(exported_folder, name):
    (exported_folder.parent / "outside").write_text("x")
    (exported_folder / "link").symlink_to(exported_folder.parent / "outside")
    rewritten(exported_folder, lambda manifest: manifest["files"].update({name: sha256(exported_folder.parent / "outside")}))
    assert "which is not inside" in refused(exported_folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not json", "is not readable JSON"),
        ("[" * 200_000, "is not readable JSON"),
        ("[]", "is no manifest"),
        ('{"format": "hwnas.manifest/1"}', "lacks fields"),
        (" " * (17 << 20), "too large for a manifest"),
    ],
)
def test_files_that_are_no_manifest_are_refused(exported_folder, text, reason):
    (exported_folder / "manifest.json").write_text(text)
    assert reason in refused(exported_folder)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("input", "shape"), [1, 1, 10**6, 10**6]),
        (("input", "shape"), [1, 0, 32, 32]),
        (("input", "shape"), "1132"),
        (("preprocessing", "std"), [0.0]),
        (("preprocessing", "mean"), [0.1, 0.1]),
        (("preprocessing", "range"), [1, 0]),
        (("labels",), ["only one"]),
        (("files",), ["model.onnx"]),
        (("model",), "elsewhere.onnx"),
        (("example", "logits"), [[float("nan")] * 10]),
        (("example", "tolerance_std"), 1e9),
    ],
)
def test_fields_that_do_not_fit_are_refused(exported_folder, keys, value):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    rewritten(exported_folder, change)
    infer = infer_module()
    with pytest.raises(infer.Refused, match="lacks fields"):
        infer.read_manifest(exported_folder)


def test_a_pickle_in_the_examples_place_is_refused_and_not_run(exported_folder):
    example = exported_folder / "example_input.npy"
    np.save(example, np.array([{"a": 1}], object), allow_pickle=True)
    rewritten(exported_folder, lambda manifest: manifest["files"].update({"example_input.npy": sha256(example)}))
    assert "no readable .npy array" in refused(exported_folder)


@pytest.mark.parametrize("header", ["{'descr': '|u1', 'fortran_order': False, 'shape': (9999999, 9999999), }", "{'descr': (((", "x" * 60])
def test_an_array_whose_header_lies_or_is_garbage_is_refused(exported_folder, header):
    path = exported_folder.parent / "lie.npy"
    padded = header.ljust(117).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + bytes(16))
    assert "no readable .npy array" in refused(exported_folder, path)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\xff" * 40])
def test_images_that_cannot_be_read_are_refused(exported_folder, data):
    path = exported_folder.parent / "x.png"
    path.write_bytes(data)
    assert "is no readable image" in refused(exported_folder, path)


def test_the_manifest_is_plain_json(exported_folder):
    def no_constant(name):
        raise AssertionError(name)

    json.loads((exported_folder / "manifest.json").read_text(), parse_constant=no_constant)
