"""hwnas/files.py and hwnas/architecture.py: whole files or none, and nothing that is damaged is believed."""

import json
import os

import numpy as np
import pytest

from hwnas import files
from hwnas.architecture import Architecture
from hwnas.errors import DamagedFile, InputError
from hwnas.files import read_json, read_text, read_toml, sha256, write_json, write_toml, write_whole
from hwnas.spaces.ofa_mini import ofa_mini


def test_a_written_file_is_whole_in_new_folders_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_whole(path, "first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_whole(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write .*file/b/c\.txt: Not a directory"):
        write_whole(tmp_path / "file" / "b" / "c.txt", "x")


def test_json_and_toml_return_as_written(tmp_path):
    data = {"a": 1, "b": [1.5, "x"], "c": {"d": True}}
    write_json(tmp_path / "x.json", data)
    write_toml(tmp_path / "x.toml", data)
    assert read_json(tmp_path / "x.json") == read_toml(tmp_path / "x.toml") == data


def test_nan_is_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    (tmp_path / "x.json").write_text('{"a": NaN}')
    with pytest.raises(DamagedFile, match="NaN is not allowed"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(("read", "text"), [(read_json, "{"), (read_json, "[" * 100_000), (read_toml, "a = "), (read_toml, "a = " + "[" * 100_000)])
def test_what_cannot_be_parsed_is_damaged(tmp_path, read, text):
    (tmp_path / "x").write_text(text)
    with pytest.raises(DamagedFile, match="is not readable"):
        read(tmp_path / "x")


def test_what_cannot_be_read_is_damaged(tmp_path, monkeypatch):
    with pytest.raises(DamagedFile, match=r"cannot read .*missing: No such file"):
        read_text(tmp_path / "missing")
    with pytest.raises(DamagedFile, match="cannot read"):
        sha256(tmp_path)
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(DamagedFile, match="is not UTF-8 text"):
        read_text(tmp_path / "x")
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 1)
    with pytest.raises(DamagedFile, match="has 2 bytes, over the limit of 1"):
        read_text(tmp_path / "x")


def test_the_digest_is_sha_256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_an_architecture_survives_its_file(tmp_path):
    space = ofa_mini()
    code = space.sample(np.random.default_rng(0))
    write_whole(tmp_path / "a.json", Architecture.of(space, code).to_json())
    loaded = Architecture.load(tmp_path / "a.json")
    assert loaded == Architecture.of(space, code) and (loaded.code(space) == code).all()


def test_an_architecture_of_another_space_is_refused():
    with pytest.raises(DamagedFile, match="this architecture is of elsewhere, not of ofa_mini"):
        Architecture("elsewhere", {}).code(ofa_mini())


FORMAT = {"format": "hwnas.architecture/1"}


@pytest.mark.parametrize("data", [[], {}, {"format": "hwnas.architecture/2"}, FORMAT | {"space": 1, "values": {}}, FORMAT | {"space": "s"}])
def test_a_file_that_is_no_architecture_is_refused(tmp_path, data):
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(DamagedFile):
        Architecture.load(tmp_path / "a.json")
