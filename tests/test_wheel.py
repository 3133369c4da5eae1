"""What people install: source distribution, wheel made from it, and what is found in it far away from the checkout."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("devices", "latency_tables", "export")
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")


def run(*command, cwd):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(source distribution, wheel built from it), made in a copy so that nothing is left in the checkout."""
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools >= 77 in this environment; it is no dependency of hwnas")
    pytest.importorskip("pip", reason="building needs pip")
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("hwnas", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, ignore=IGNORED)
    (copy / "latency_tables" / "under_construction.sqlite").write_bytes(b"x")  # never shipped
    run("-c", f"from setuptools.build_meta import build_sdist; build_sdist({str(out)!r})", cwd=copy)
    source = next(out.glob("*.tar.gz"))
    with tarfile.open(source) as archive:
        archive.extractall(out / "unpacked", filter="data")
    unpacked = next((out / "unpacked").iterdir())
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, unpacked, cwd=out)
    return source, next(out.glob("*.whl"))


def shipped_files():
    """`folder/path` of everything that must travel."""
    paths = (path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts) and ".sqlite" not in path.name}


def test_the_wheel_holds_the_package_and_the_three_folders(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hwnas").rglob("*.py")}
    expected = modules | {f"hwnas/_data/{name}" for name in shipped_files()}
    assert expected <= names
    assert {"hwnas/py.typed", "hwnas/search_field.csv"} <= names
    beside = {f"hwnas/{name}" for name in ("py.typed", "report.css", "report.html.jinja", "report.js", "search_field.csv")}
    assert names - expected - {name for name in names if ".dist-info/" in name} == beside


def test_the_source_distribution_can_be_built_again(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "export/README.md"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".sqlite"))]


def test_an_installed_wheel_finds_devices_tables_and_kits(built, tmp_path):
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", target, built[1], cwd=elsewhere)
    code = f"""
import json, sys
sys.path.insert(0, {str(target)!r})
import hwnas
from hwnas.data import FOLDERS, shipped
from hwnas.kit import copy_kit, kits
from pathlib import Path
copy_kit("onnxruntime_python", Path("out"))
files = {{folder: sorted(p.relative_to(shipped(folder)).as_posix() for p in shipped(folder).rglob("*") if p.is_file()) for folder in FOLDERS}}
print(json.dumps([hwnas.__file__, {{folder: str(shipped(folder)) for folder in FOLDERS}}, files, sorted(kits())]))
"""
    package, folders, files, kits = json.loads(run("-I", "-c", code, cwd=elsewhere))
    assert Path(package).is_relative_to(target)
    assert all(Path(folder).is_relative_to(target) for folder in folders.values())
    assert {f"{folder}/{name}" for folder in FOLDERS for name in files[folder]} == shipped_files()
    assert "onnxruntime_python" in kits
    assert (elsewhere / "out" / "onnxruntime_python" / "infer.py").is_file()


def test_a_checkout_finds_the_same_folders():
    from hwnas.data import shipped

    assert {folder: shipped(folder) for folder in FOLDERS} == {folder: ROOT / folder for folder in FOLDERS}
