"""The kits beside the one for Python (test_kit.py): each runs as a user runs it, does what that one does, and refuses what is hostile."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from exports import Ended, build_cpp, kit_file, need_browser, run_cpp, run_python, run_web, write_export
from hostile_files import content
from test_manifest import rewritten
from test_verify_export import HOSTILE, outside_weights, path_outside, truncated, truncated_and_hashed

from hwnas.data import shipped
from hwnas.errors import CheckFailed
from hwnas.files import read_toml
from hwnas.interface import Interface
from hwnas.kit import copy_kit, kits
from hwnas.tensorrt_parser import parser_is_there

FACES = {
    "tensor": Interface(),
    "cropped tensor": Interface(free_batch=True),
    "pixels": Interface("pixels", softmax=True, free_batch=True),
    "image": Interface("image", softmax=True),
}


def image(folder, name, shape=(48, 40)):
    """A picture of noise, in a format that the name says."""
    from PIL import Image

    pixels = np.random.default_rng(len(name)).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def lines_of(ended):
    """What two kits say alike: all but times and roundings."""
    assert ended.code == 0 and ended.err == "" and ended.out.splitlines()[-1] == "ok", ended
    assert ended.out.startswith("example  logits agree to ")
    return [line for line in ended.out.splitlines()[1:] if "ms here" not in line]


def refusal(ended):
    assert ended.code == 2 and "ok" not in ended.out.splitlines(), ended
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1 and "Traceback" not in ended.err
    return ended.err


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The kit for C++, compiled once: it takes any exported folder."""
    return build_cpp(write_export(tmp_path_factory.mktemp("cpp") / "shipped", kits=()))


@pytest.fixture(scope="module")
def browser():
    return need_browser()


def test_every_kit_says_what_it_needs_and_shares_only_what_ships():
    assert {"onnxruntime_python", "onnxruntime_cpp", "web", "tensorrt", "android"} <= set(kits())
    for name in kits():
        about = read_toml(shipped("export") / name / "kit.toml")
        assert about["requires"] and about["check"]
        for target, source in about.get("shared", {}).items():
            assert not (shipped("export") / name / target).exists(), f"{name}/{target} is there twice"
            assert (shipped("export").parent / source).is_file()


def test_a_kit_gets_the_files_that_it_shares(tmp_path):
    copies = copy_kit("onnxruntime_cpp", tmp_path)
    assert (tmp_path / "onnxruntime_cpp" / "json.hpp").read_bytes() == (shipped("devices") / "agents" / "cpp" / "json.hpp").read_bytes()
    assert {path.name for path in copies} == {"CMakeLists.txt", "README.md", "infer.cpp", "json.hpp", "kit.toml", "onnxruntime.cmake"}


def test_a_kit_shares_nothing_from_elsewhere(monkeypatch, tmp_path):
    from hwnas import kit

    shutil.copytree(kit_file("onnxruntime_cpp"), tmp_path / "export" / "onnxruntime_cpp")
    toml = tmp_path / "export" / "onnxruntime_cpp" / "kit.toml"
    monkeypatch.setattr(kit, "shipped", lambda folder: tmp_path / folder)
    for source in ("/etc/hostname", "export/../../secret", "hwnas/kit.py"):
        toml.write_text(f'description = "x."\nrequires = []\ncheck = []\n[shared]\n"a" = "{source}"\n')
        with pytest.raises(CheckFailed, match="there is no such file"):
            copy_kit("onnxruntime_cpp", tmp_path / "out")


# -- the Python kit on every interface ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_the_python_kit_runs_every_interface(tmp_path, face):
    folder = write_export(tmp_path / "shipped", FACES[face], crop=0.875 if face != "tensor" else None)
    (classes, certified, _) = lines_of(run_python(folder, image(tmp_path, "a.png")))
    assert classes.startswith("a.png  digit ") and classes.count("%") == 5 and "1.5 ms certified (p50, at most 1.6 ms) on a test" in certified


def test_the_python_kit_finds_the_same_classes_whoever_prepares_the_image(tmp_path):
    shares = []
    for face in ("tensor", "pixels", "image"):
        folder = write_export(tmp_path / face, Interface(face))
        (classes, *_) = lines_of(run_python(folder, image(tmp_path, "a.png")))
        shares.append({name: float(share) for name, share in re.findall(r"(digit \d) ([\d.]+) %", classes)})
    for other in shares[1:]:
        assert other == pytest.approx(shares[0], abs=0.6)  # rounded to whole pixel values


def test_a_longer_time_than_certified_is_an_error_where_that_is_asked(exported_folder):
    rewritten(exported_folder, lambda manifest: manifest["latency"].update(upper_bound_ms=1e-9))
    assert run_python(exported_folder).code == 0
    ended = run_python(exported_folder, "--within-bound")
    assert ended.code == 1 and "longer than the certified bound of 1e-09 ms" in ended.err
    rewritten(exported_folder, lambda manifest: manifest["latency"].update(claim="measured"))
    assert "1.5 ms measured (p50, at most" in run_python(exported_folder).out


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda each: each.__name__)
def test_the_python_kit_refuses_a_hostile_folder(exported_folder, spoil):
    spoil(exported_folder)
    before = content(exported_folder.parent)
    said = refusal(run_python(exported_folder))
    assert any(part in said for part in HOSTILE[spoil].split("|")) and content(exported_folder.parent) == before


# -- C++ ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_the_cpp_kit_says_what_the_python_kit_says(tmp_path, program, face):
    folder = write_export(tmp_path / "shipped", FACES[face], crop=0.875 if face != "tensor" else None)
    images = [image(tmp_path, "grey.pgm"), image(tmp_path, "colour.ppm", (37, 61, 3)), image(tmp_path, "colour.bmp", (33, 20, 3))]
    rewritten(folder, lambda manifest: manifest["latency"].update(claim="measured"))
    assert lines_of(run_cpp(program, folder, *images)) == lines_of(run_python(folder, *images))


def test_the_cpp_kit_tells_a_network_that_computes_something_else(exported_folder, program):
    rewritten(exported_folder, lambda manifest: manifest["example"]["logits"][0].__setitem__(0, 9.0))
    ended = run_cpp(program, exported_folder)
    assert ended.code == 1 and "the logits of the stored example are off by" in ended.err and "ok" not in ended.out.splitlines()


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda each: each.__name__)
def test_the_cpp_kit_refuses_a_hostile_folder(exported_folder, program, spoil):
    spoil(exported_folder)
    before = content(exported_folder.parent)
    said = refusal(run_cpp(program, exported_folder))
    assert any(part in said for part in HOSTILE[spoil].split("|")) and content(exported_folder.parent) == before


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"not an image", "no readable image"),
        (b"", "no readable image"),
        (b"P6", "no readable image"),
        (b"P5 4 4 255\n\0\0", "cut short"),
        (b"P5 99999 99999 255\n", "99999 x 99999 pixels"),
        (b"P5 999999999 999999999 255\n", "pixels; 1 to"),
        (b"P5 0 4 255\n", "0 x 4 pixels"),
        (b"P5 -4 4 255\n", "no readable image"),
        (b"P5 # no end", "no readable image"),
        (b"P5 4 4 65535\n" + bytes(64), "no image of eight bits"),
        (b"BM" + bytes(60), "no readable image"),
        (b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0\x04\0\0\0\x04\0\0\0\x01\0\x18\0" + bytes(24), "cut short"),
        (b"BM" + bytes(8) + b"\xff\xff\xff\xff\x28\0\0\0\x04\0\0\0\x00\0\0\x80\x01\0\x18\0" + bytes(90), "pixels"),
    ],
)
def test_the_cpp_kit_refuses_what_is_no_image(exported_folder, program, raw, message):
    (exported_folder.parent / "x.ppm").write_bytes(raw)
    assert message in refusal(run_cpp(program, exported_folder, exported_folder.parent / "x.ppm"))


@pytest.mark.parametrize("text", ["not json", "[" * 100_000, "[]", '{"format": "hwnas.manifest/1"}', '{"format": "hwnas.manifest/1", "files": []}', ""])
def test_the_cpp_kit_refuses_what_is_no_manifest(exported_folder, program, text):
    (exported_folder / "manifest.json").write_text(text)
    assert "manifest.json" in refusal(run_cpp(program, exported_folder))


@pytest.mark.parametrize("arguments", [("--runs", "many"), ("--top",), ("--gpu",), ("no_such_file.ppm",)])
def test_the_cpp_kit_refuses_wrong_options(exported_folder, program, arguments):
    refusal(Ended(*_raw(program, exported_folder, *arguments)))


def _raw(program, folder, *arguments):
    done = subprocess.run([str(program), "--folder", str(folder), *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


# -- browser ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["tensor", "image"])
def test_the_page_says_what_the_python_kit_says(tmp_path, browser, face):
    folder = write_export(tmp_path / "shipped", FACES[face], kits=("onnxruntime_python", "web"), crop=0.875 if face == "image" else None)
    picture = image(tmp_path, "a.png", (48, 40, 3))
    rewritten(folder, lambda manifest: manifest["latency"].update(claim="measured"))
    assert lines_of(run_web(browser, folder, picture)) == lines_of(run_python(folder, picture))


def test_the_page_refuses_hostile_folders_and_tells_wrong_networks(tmp_path, browser):
    for spoil in (truncated_and_hashed, path_outside, outside_weights):
        folder = write_export(tmp_path / spoil.__name__ / "shipped", kits=("web",))
        spoil(folder)
        before = content(folder.parent)
        said = refusal(run_web(browser, folder))
        assert any(part in said for part in HOSTILE[spoil].split("|")) or "secret" in said, said
        assert content(folder.parent) == before
    folder = write_export(tmp_path / "wrong", kits=("web",))
    rewritten(folder, lambda manifest: manifest["example"]["logits"][0].__setitem__(0, 9.0))
    ended = run_web(browser, folder)
    assert ended.code == 1 and "the logits of the stored example are off by" in ended.err
    (tmp_path / "x.png").write_bytes(b"not an image")
    folder = write_export(tmp_path / "right", kits=("web",))
    assert "x.png is no readable image" in refusal(run_web(browser, folder, tmp_path / "x.png"))


def test_the_server_gives_away_what_the_manifest_names_and_nothing_else(exported_folder):
    import threading
    import urllib.error
    import urllib.request
    from http.server import ThreadingHTTPServer
    from runpy import run_path

    serve = run_path(str(kit_file("web", "serve.py")), run_name="serve")
    (exported_folder.parent / "secret").write_text("x")
    (exported_folder / "link").symlink_to(exported_folder.parent / "secret")
    rewritten(exported_folder, lambda manifest: manifest["files"].update({"../secret": "0", "link": "0", "/etc/hostname": "0"}))
    names = serve["served"](exported_folder)
    assert "model.onnx" in names and not {"../secret", "link", "/etc/hostname"} & names
    server = ThreadingHTTPServer(("127.0.0.1", 0), serve["handler"](exported_folder, names, None))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        assert urllib.request.urlopen(f"{base}/manifest.json", timeout=30).status == 200
        for path in ("/../secret", "/%2e%2e/secret", "/link", "/", "/etc/hostname", "/image"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{base}{path}", timeout=30)
            assert refused.value.code == 404, path
    finally:
        server.shutdown()
        server.server_close()


# -- TensorRT: without a GPU ----------------------------------------------------------------------------------------------------------


def run_tensorrt(folder, program, *arguments):
    done = subprocess.run(
        [sys.executable, str(folder / "tensorrt" / program), *map(str, arguments)], capture_output=True, text=True, cwd=folder.parent, timeout=240
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def for_tensorrt(tmp_path):
    return write_export(tmp_path / "shipped", kits=("tensorrt",))


def test_without_tensorrt_its_kit_says_how_to_get_it(for_tensorrt):
    pytest.importorskip("numpy")
    if subprocess.run([sys.executable, "-c", "import tensorrt"], capture_output=True).returncode == 0:
        pytest.skip("TensorRT is installed here")
    assert "cannot import tensorrt" in refusal(run_tensorrt(for_tensorrt, "build_engine.py"))
    assert not (for_tensorrt / "tensorrt" / "model.plan").exists()


def test_without_a_plan_the_kit_for_tensorrt_says_how_to_build_one(for_tensorrt):
    assert "build the engine first: python build_engine.py" in refusal(run_tensorrt(for_tensorrt, "infer.py"))


def test_a_plan_of_another_model_or_that_was_changed_is_refused(for_tensorrt):
    plan = for_tensorrt / "tensorrt" / "model.plan"
    facts = {"format": "hwnas.plan/1", "runtime": "tensorrt_rtx", "version": "1", "model_sha256": "0", "plan_sha256": "0", "options": {}}
    plan.write_bytes(b"plan")
    plan.with_suffix(".json").write_text(json.dumps(facts))
    assert "is not the plan that" in refusal(run_tensorrt(for_tensorrt, "infer.py"))
    import hashlib

    plan.with_suffix(".json").write_text(json.dumps(facts | {"plan_sha256": hashlib.sha256(b"plan").hexdigest()}))
    assert "was built of another model; build it again" in refusal(run_tensorrt(for_tensorrt, "infer.py"))


@pytest.mark.parametrize("spoil", [truncated, path_outside, outside_weights], ids=lambda each: each.__name__)
def test_the_kit_for_tensorrt_refuses_a_hostile_folder(for_tensorrt, spoil):
    """What no hash tells is the parser's to refuse, and the example's, which needs a GPU."""
    spoil(for_tensorrt)
    before = content(for_tensorrt.parent)
    said = refusal(run_tensorrt(for_tensorrt, "build_engine.py"))
    assert any(part in said for part in HOSTILE[spoil].split("|")) and content(for_tensorrt.parent) == before


@pytest.mark.parametrize("face", ["tensor", "pixels", "free"])
def test_the_parser_of_tensorrt_reads_and_builds_what_the_kit_is_given(tmp_path, face):
    if not parser_is_there():
        pytest.skip("TensorRT for RTX is not installed: pip install 'hwnas[tensorrt-rtx]'")
    faces = {"tensor": Interface(), "pixels": Interface("pixels", softmax=True), "free": Interface(free_batch=True)}
    folder = write_export(tmp_path / "shipped", faces[face], kits=("tensorrt",))
    read = run_tensorrt(folder, "build_engine.py", "--runtime", "tensorrt_rtx", "--parse-only")
    assert read.code == 0 and "nothing was built or run" in read.out, read.err
    built = run_tensorrt(folder, "build_engine.py", "--runtime", "tensorrt_rtx", "--batch", 1, 4, 8)
    assert built.code == 0, built.err
    facts = json.loads((folder / "tensorrt" / "model.json").read_text())
    assert facts["runtime"] == "tensorrt_rtx" and (folder / "tensorrt" / "model.plan").stat().st_size > 1000
    assert "no NVIDIA GPU" in refusal(run_tensorrt(folder, "infer.py"))
