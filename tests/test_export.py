"""hwnas/verbs/export.py: an export takes the place of an earlier export and of nothing else. The whole command: test_main_job.py."""

import pytest

from hwnas.errors import InputError
from hwnas.files import write_json
from hwnas.verbs.export import check_target


def exported(folder):
    """A folder as an export leaves it, by name."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "kit").mkdir()
    (folder / "kit" / "infer.py").write_text("print()")
    write_json(folder / "manifest.json", {"format": "hwnas.manifest/1", "files": {"model.onnx": "0", "kit/infer.py": "0"}})
    return folder


def test_a_new_an_empty_and_an_exported_folder_will_do(tmp_path):
    check_target(tmp_path / "new" / "one")
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")
    check_target(exported(tmp_path / "export"))
    (tmp_path / "export" / "kit" / "__pycache__").mkdir()
    (tmp_path / "export" / "kit" / "__pycache__" / "infer.pyc").write_bytes(b"")
    check_target(tmp_path / "export")


@pytest.mark.parametrize("name", ["notes.txt", "kit/mine.py", ".git"])
def test_files_of_somebody_else_are_never_deleted(tmp_path, name):
    (exported(tmp_path / "export") / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name}, which no export wrote"):
        check_target(tmp_path / "export")


def test_the_manifest_of_another_program_is_no_export(tmp_path):
    write_json(tmp_path / "manifest.json", {"name": "a web page"})
    with pytest.raises(InputError, match=r"manifest\.json, which no export wrote"):
        check_target(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(InputError, match="x is a file; name a folder"):
        check_target(tmp_path / "x")
