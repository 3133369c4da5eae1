"""hwnas/profiling/web_runtime.py: the pinned files, from a folder, from the cache, through npm."""

import os
import stat
import sys

import pytest

from hwnas.data import cache_folder
from hwnas.errors import DamagedFile, InputError
from hwnas.profiling.web_runtime import FILES, PACKAGE, VERSION, checked, web_runtime


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def genuine(empty_cache):
    """The real files, through npm."""
    try:
        return web_runtime()
    except InputError as error:
        pytest.skip(f"onnxruntime-web cannot be had here: {error}")


def test_what_npm_brings_is_kept_and_taken_from_there_or_from_a_folder(genuine, empty_cache, tmp_path, monkeypatch):
    assert set(genuine) == set(FILES) and genuine["ort-wasm-simd-threaded.wasm"].startswith(b"\0asm")
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no npm any more
    assert web_runtime() == genuine
    dist = tmp_path / "unpacked" / "dist"
    dist.mkdir(parents=True)
    for name, raw in genuine.items():
        (dist / name).write_bytes(raw)
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "another"))
    assert web_runtime(dist) == genuine and web_runtime() == genuine
    assert web_runtime(dist.parent) == genuine
    kept = cache_folder() / f"{PACKAGE}-{VERSION}"
    (kept / "ort.wasm.min.mjs").write_bytes(b"changed")
    with pytest.raises(DamagedFile, match=r"ort\.wasm\.min\.mjs of .* is not that of onnxruntime-web .*: remove that folder"):
        web_runtime()
    (dist / "ort-wasm-simd-threaded.mjs").write_bytes(b"changed")
    with pytest.raises(DamagedFile, match=r"ort-wasm-simd-threaded\.mjs of .*unpacked.* is not that of onnxruntime-web"):
        web_runtime(dist)


def test_a_folder_without_the_files_is_refused(empty_cache, tmp_path):
    with pytest.raises(InputError, match=r"has no ort\.wasm\.min\.mjs: name the folder of onnxruntime-web"):
        web_runtime(tmp_path)


def test_another_file_is_refused_by_its_hash():
    with pytest.raises(DamagedFile, match=r"SHA-256 ba7816bf8f01\.\.\., not 219e6a1fc8a9\.\.\.\): have the page"):
        checked("ort.wasm.min.mjs", b"abc", "here", "have the page")


def test_without_npm_the_sentence_says_what_to_do(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm, which is not installed: install Node.js, or give the files .* --runtime-files FOLDER"):
        web_runtime()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for npm")
@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo 'no such version' >&2; exit 1", InputError, r"could not fetch onnxruntime-web .* \(no such version\)"),
        ("exit 0", InputError, r"could not fetch .* \(exit code 0\)"),
        ("echo junk > onnxruntime-web.tgz", DamagedFile, "is not as expected"),
    ],
)
def test_what_goes_wrong_with_npm_is_one_sentence(empty_cache, tmp_path, monkeypatch, script, error, words):
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error, match=words):
        web_runtime()
    assert not empty_cache.exists()


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HWNAS_CACHE")
    assert cache_folder().name == "hwnas" and os.fspath(cache_folder()) != str(tmp_path)
