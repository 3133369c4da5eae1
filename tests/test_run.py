import tomllib
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import DamagedFile, InputError, RunHeld
from hwnas.run import RunDirectory


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_stages_record_options_events_and_results_in_one_store(folder):
    with RunDirectory(folder) as run:
        run.options("train", {"space": "ofa_mini", "epochs": 3})
        run.append("train", "epoch", {"loss": 0.5})
        run.append("search", "epoch", {"loss": 9})
        run.append("train", "epoch", {"loss": 0.25})
        assert run.result("train") is None
        run.finish("train", {"loss": 0.25, "files": {}})
    with RunDirectory(folder, write=False) as run:
        assert run.recorded_options("train") == {"space": "ofa_mini", "epochs": 3}
        assert run.recorded_options("search") is None
        assert [event.body["loss"] for event in run.events("train", "epoch")] == [0.5, 0.25]
        assert run.result("train") == {"loss": 0.25, "files": {}}


def test_the_same_options_continue_a_stage_however_they_are_spelled(folder):
    with RunDirectory(folder) as run:
        run.options("search", {"latency": "<= 3ms", "shape": (1, 2), "data": Path("a/b"), "seed": np.int64(3), "top": None})
    with RunDirectory(folder) as run:
        run.options("search", {"latency": "<= 3ms", "shape": [1, 2], "data": "a/b", "seed": 3, "top": None})
        assert len(run.events("search", "options")) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"latency": "<= 4ms", "seed": 2}, "was begun with search latency = <= 3ms, and now it is <= 4ms; name another folder"),
        ({"latency": "<= 3ms", "seed": 2}, "was begun with search seed = 1, and now it is 2"),
        ({"latency": "<= 3ms"}, "was begun with search seed = 1, and now it is nothing"),
        ({"latency": "<= 3ms", "seed": 1, "top": 3}, "was begun with search top = nothing, and now it is 3"),
    ],
)
def test_other_options_are_refused_by_the_first_difference(folder, options, sentence):
    with RunDirectory(folder) as run:
        run.options("search", {"latency": "<= 3ms", "seed": 1})
        with pytest.raises(InputError, match=sentence):
            run.options("search", options)
        assert run.recorded_options("search") == {"latency": "<= 3ms", "seed": 1}


def test_run_toml_shows_the_options_of_every_stage_to_people(folder):
    with RunDirectory(folder) as run:
        run.options("train", {"space": "ofa_mini", "teacher": None, "phases": [{"epochs": 1, "name": None}]})
        run.options("search", {"seed": 1})
    assert tomllib.loads((folder / "run.toml").read_text()) == {
        "format": "hwnas.run/1",
        "train": {"space": "ofa_mini", "phases": [{"epochs": 1}]},
        "search": {"seed": 1},
    }


def test_two_writers_of_one_run_are_not_possible(folder):
    with RunDirectory(folder), pytest.raises(RunHeld, match="is being written by process"):
        RunDirectory(folder)
    RunDirectory(folder).close()


def test_a_folder_with_other_files_is_no_run_and_stays_as_it_is(folder):
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds files that are no run; name a new or empty folder"):
        RunDirectory(folder)
    assert [path.name for path in folder.iterdir()] == ["photo.jpg"]


def test_a_file_in_the_place_of_the_folder_is_refused(folder):
    folder.touch()
    with pytest.raises(InputError, match="is a file; name a folder"):
        RunDirectory(folder)


def test_a_run_that_is_not_there_is_not_made_by_reading_it(folder):
    with pytest.raises(InputError, match=r"is no run: it has no run\.sqlite"):
        RunDirectory(folder, write=False)
    assert not folder.exists()


@pytest.mark.parametrize("loss", ["deleted", "emptied"])
def test_a_run_whose_store_is_lost_is_not_begun_again_over_what_remains(folder, loss):
    with RunDirectory(folder) as run:
        run.options("train", {"seed": 1})
    store = folder / "run.sqlite"
    store.unlink()
    if loss == "emptied":
        store.touch()
    with pytest.raises(DamagedFile, match=r"restore it, or name another folder"):
        RunDirectory(folder)
    with pytest.raises(InputError):
        RunDirectory(folder)  # the lock of the refused attempt is free again, and the answer is the same


def save(folder):
    (folder / "weights").mkdir()
    (folder / "weights" / "a.bin").write_bytes(b"a" * 1000)
    (folder / "optimiser.bin").write_bytes(b"b")


def test_files_come_back_as_they_were_kept(folder):
    seen = {}

    def load(place):
        seen.update({path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()})

    with RunDirectory(folder) as run:
        files = run.keep_files(save)
        assert sorted(files) == ["optimiser.bin", "weights/a.bin"]
        run.load_files(files, load)
    assert seen == {"optimiser.bin": b"b", "weights/a.bin": b"a" * 1000}


def test_a_checkpoint_replaces_the_one_before_and_spares_what_other_events_name(folder):
    def saves(**contents):
        def save(place):
            for name, content in contents.items():
                (place / name).write_text(content)

        return save

    with RunDirectory(folder) as run:
        run.finish("other", {"files": run.keep_files(saves(shared="teacher"))})
        run.checkpoint("train", "checkpoint", saves(weights="1", same="s", teacher="teacher"), {"step": 1})
        run.checkpoint("train", "checkpoint", saves(weights="2", same="s"), {"step": 2})
        event = run.events("train", "checkpoint")[-1].body
        assert event["step"] == 2 and sorted(event["files"]) == ["same", "weights"]
        kept = sorted(run.store.blob(path.name).decode() for path in run.store.blobs.iterdir())
    assert kept == ["2", "s", "teacher"]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/hwnas-escaped", "a/../../escaped", "c:\\escaped", "a\\..\\..\\escaped"])
def test_a_kept_file_cannot_be_written_outside_its_folder(folder, name):
    with RunDirectory(folder) as run:
        digest = run.store.add_blob(b"x")
        with pytest.raises(DamagedFile, match="outside its folder"):
            run.load_files({name: digest}, lambda place: None)


def test_a_damaged_kept_file_is_not_loaded(folder):
    with RunDirectory(folder) as run:
        files = run.keep_files(save)
        (run.store.blobs / files["optimiser.bin"]).write_bytes(b"c")
        with pytest.raises(DamagedFile, match="does not match its name"):
            run.load_files(files, lambda place: pytest.fail("must not be reached"))
