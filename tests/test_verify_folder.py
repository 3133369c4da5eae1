"""hwnas/verbs/verify_folder.py: an exported folder measured and compared again, and folders that somebody changed."""

import json

import pytest
from commands import copied, here

import hwnas
from hwnas.errors import DamagedFile, InputError
from hwnas.files import sha256
from hwnas.verbs.verify_folder import in_words


@pytest.fixture
def folder(demo, tmp_path):
    return copied(demo.folder / "export", tmp_path / "export")


def rewritten(folder, name, change):
    """A file of the folder changed by somebody who keeps the manifest's hashes right."""
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    if name != "manifest.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = sha256(path)
        (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_exported_folder_is_measured_again_and_compared(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = hwnas.verify(folder, seconds=1, data="cluttered_digits")
    certified = json.loads((folder / "certificate.json").read_text())
    assert found["certified"]["measured_ms"] == certified["measured_ms"] and found["ratio"] == found["measured_ms"] / certified["measured_ms"]
    assert found["logits"]["passed"] and not found["differs"] and found["conditions"] == certified["conditions"]
    assert found["accuracy"]["same"] is True and found["accuracy"]["certified_pct"] == certified["accuracy"]["validation_pct"]
    assert found["holds"] == (found["verdict"] == "within") or found["doubt"]
    assert in_words(found)[-1] in ("the certificate holds", "the certificate is NOT confirmed")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_command_exits_with_its_judgement(folder):
    code, out, error = here("verify", folder, "--seconds", 1)
    assert (code, out.splitlines()[-1]) in ((0, "the certificate holds"), (1, "the certificate is NOT confirmed")), error
    code, out, _ = here("verify", folder, "--seconds", 1, "--json")
    assert code in (0, 1) and json.loads(out)["holds"] == (code == 0)


def test_a_certificate_of_other_conditions_is_neither_confirmed_nor_contradicted(folder):
    """As of an older version, on an older runtime: what it does not state is not compared."""

    def older(certificate):
        kept = {key: value for key, value in certificate.items() if key not in ("accuracy", "published", "costs", "budget_used", "date")}
        return kept | {"conditions": {**kept["conditions"], "version": "1.0.0"}}

    rewritten(folder, "certificate.json", older)
    found = hwnas.verify(folder, seconds=1, data="cluttered_digits")
    assert list(found["differs"]) == ["version"] and found["differs"]["version"][0] == "1.0.0"
    assert not found["holds"] and found["accuracy"]["same"] is None and "date" not in found["certified"]
    assert "neither confirmed nor contradicted" in in_words(found)[-1]


@pytest.mark.parametrize(
    ("name", "change", "kind", "words"),
    [
        ("certificate.json", lambda each: {**each, "model_sha256": "0" * 64}, DamagedFile, "is the certificate of another file than model.onnx"),
        ("certificate.json", lambda each: {**each, "statistic": "p200"}, DamagedFile, "names the statistic 'p200', which is no percentile"),
        ("certificate.json", lambda each: {**each, "confidence": 0.0}, DamagedFile, "that no certificate has"),
        ("certificate.json", lambda each: {**each, "format": "hwnas.certificate/9"}, DamagedFile, "has the format 'hwnas.certificate/9'"),
        ("certificate.json", lambda each: {"format": each["format"]}, DamagedFile, "is missing"),
        ("certificate.json", lambda each: {**each, "conditions": {**each["conditions"], "device": "nowhere"}}, InputError, "name one with --device"),
        ("certificate.json", lambda each: {**each, "conditions": {**each["conditions"], "runtime": "other"}}, InputError, "certified with the runtime 'other'"),
        (
            "manifest.json",
            lambda each: {**each, "example": {**each["example"], "input": "../x.npy"}},
            DamagedFile,
            "names an example that is none of its files",
        ),
    ],
)
def test_a_folder_that_somebody_changed_is_one_sentence(folder, name, change, kind, words):
    rewritten(folder, name, change)
    with pytest.raises(kind) as error:
        hwnas.verify(folder, seconds=0.2)
    assert words in str(error.value)


def test_a_model_of_other_bytes_is_noticed(folder):
    raw = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(DamagedFile, match="is not the file"):
        hwnas.verify(folder)


def test_logits_of_another_network_are_noticed(folder):
    rewritten(
        folder,
        "manifest.json",
        lambda each: {**each, "example": {**each["example"], "logits": [[2 * x + 1 for x in row] for row in each["example"]["logits"]]}},
    )
    found = hwnas.verify(folder, seconds=0.2)
    assert not found["logits"]["passed"] and not found["holds"] and "are NOT those of the manifest" in in_words(found)[0]


def test_options_of_runs_are_refused_for_folders(folder):
    code, _, error = here("verify", folder, "--use", 97)
    assert code == 2 and "--also and --use are for runs" in error
