"""Weights that are kept: by hash, from files and https, never as code."""

import hashlib
import json
import pickle

import pytest
import torch
from commands import here
from safetensors.torch import save, save_file

from hwnas import kept_weights
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.kept_weights import keep, kept
from hwnas.tensor_files import read_tensors

TENSORS = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.ones(3)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HWNAS_KEPT", str(tmp_path / "kept"))
    return tmp_path / "kept" / "weights"


@pytest.fixture
def file(tmp_path):
    save_file(TENSORS, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def content(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_kept_by_its_hash_with_its_source_and_outlives_it(file, folder):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    entry = keep(str(file))
    assert (entry.name, entry.sha256, entry.source, entry.tensors, entry.bytes) == ("net.safetensors", digest, str(file), 2, file.stat().st_size)
    file.unlink()
    assert content(folder) == [digest, f"{digest}.toml"] and kept() == [entry]
    found = read_tensors(kept_weights.find("net.safetensors").path)
    assert torch.equal(found["conv.weight"], TENSORS["conv.weight"])


def test_adding_the_same_again_changes_nothing_and_another_file_needs_another_name(file, folder):
    first = keep(str(file), name="net")
    assert keep(str(file), name="net") == first
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="other weights are kept under the name 'net'"):
        keep(str(file), name="net")
    assert len(content(folder)) == 2
    assert [each.name for each in (keep(str(file), name="a"), *kept())] == ["a", "a", "net"]


def test_checkpoints_of_pytorch_are_read_as_tensors_alone(tmp_path, folder):
    torch.save({"state_dict": TENSORS, "epoch": 3, "best": "x"}, tmp_path / "net.pth")
    assert keep(str(tmp_path / "net.pth")).tensors == 2
    assert set(read_tensors(tmp_path / "net.pth")) == {"conv.weight", "conv.bias"}


class Hostile:
    ran = False

    def __reduce__(self):
        return setattr, (Hostile, "ran", True)


def test_what_would_run_code_is_refused_and_not_run(tmp_path, folder):
    torch.save({"weight": torch.ones(2), "evil": Hostile()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Hostile()))
    for name in ("zip.pth", "plain.pkl"):
        with pytest.raises(DamagedFile, match=r"cannot be read as tensors alone|holds no weights"):
            keep(str(tmp_path / name))
    assert not Hostile.ran and content(folder) == []


@pytest.mark.parametrize("raw", [b"", b"x", b"\x80\x02.", b"PK\x03\x04 cut short", save(TENSORS)[:-3], save(TENSORS)[:20], b"\xff" * 8 + b"{}"])
def test_what_holds_no_tensors_is_refused(tmp_path, folder, raw):
    (tmp_path / "x.bin").write_bytes(raw)
    with pytest.raises(DamagedFile):
        keep(str(tmp_path / "x.bin"))
    assert content(folder) == []


def test_a_hash_that_is_expected_must_be_met(file, folder):
    with pytest.raises(DamagedFile, match="not the file that was meant"):
        keep(str(file), digest="0" * 64)
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        keep(str(file), digest="abc")
    with pytest.raises(InputError, match="there is no file"):
        keep(str(file.parent / "other"))
    with pytest.raises(InputError, match="cannot be the name"):
        keep(str(file), name="../net")
    assert content(folder) == []


def test_what_was_changed_or_lost_is_told(file, folder, tmp_path):
    entry = keep(str(file), name="net")
    code, out, _ = here("weights", "check")
    assert code == 0 and "as they were kept" in out
    entry.path.write_bytes(entry.path.read_bytes()[:-1] + b"x")
    code, out, error = here("weights", "check", "--json")
    assert code == 1 and json.loads(out)[0]["fault"].startswith("were changed") and "1 of 1 kept files are damaged: net" in error
    with pytest.raises(DamagedFile, match=f"were changed.*add them again from {file}"):
        kept_weights.find("net")
    entry.path.unlink()
    assert kept_weights.fault_of(entry) == "are gone"
    assert kept_weights.fault_of(keep(str(file), name="net")) == "", "adding them again mends it, as the sentence says"
    with pytest.raises(UnknownName, match="did you mean 'net'"):
        kept_weights.find("nett")


def test_an_entry_that_was_forged_is_refused(file, folder):
    entry = keep(str(file), name="net")
    described = folder / f"{entry.sha256}.toml"
    described.write_text(described.read_text().replace(entry.sha256, "../../outside"))
    with pytest.raises(DamagedFile, match="does not describe kept weights"):
        kept()


def test_the_commands_add_and_list(file):
    code, out, error = here("weights", "add", file, "--name", "net")
    assert code == 0 and "net: 2 tensors" in out and "--init net" in out, error
    code, out, _ = here("weights", "list", "--json")
    assert code == 0 and [each["name"] for each in json.loads(out)] == ["net"]


def test_only_https_with_a_hash_is_fetched():
    for url in ("http://localhost/x.pth", "file:///etc/passwd", "ftp://localhost/x"):
        with pytest.raises(InputError, match="https only"):
            keep(url, digest="0" * 64)
    with pytest.raises(InputError, match="--sha256"):
        keep("https://localhost/x.pth")


def test_a_url_gives_what_its_hash_says_or_nothing_is_kept(server, folder):
    url, served = server
    save_file(TENSORS, served / "net.safetensors")
    digest = hashlib.sha256((served / "net.safetensors").read_bytes()).hexdigest()
    seen = []
    entry = keep(f"{url}/net.safetensors", digest=digest, received=lambda done, total: seen.append((done, total)))
    assert entry.source == f"{url}/net.safetensors" and entry.name == "net.safetensors" and seen[-1] == (entry.bytes, entry.bytes)
    before = content(folder)
    for path, words in (("net.safetensors", "not the file that was meant"), ("missing", "404"), ("away", "not https"), ("short", "broke off|cannot fetch")):
        with pytest.raises(InputError, match=words):
            keep(f"{url}/{path}", name="other", digest="0" * 64)
    assert content(folder) == before


def test_a_server_that_nobody_vouches_for_is_refused(server, monkeypatch):
    url, _ = server
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InputError, match=r"cannot fetch .*certificate"):
        keep(f"{url}/net.safetensors", digest="0" * 64)
