import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from hwnas.errors import DamagedFile, HwnasError, InputError, RunHeld
from hwnas.store import Event, Store, pack, unpack

#: Appends rows and prints the id of each once it is acknowledged, until it is killed.
WRITER = """
import sys
from pathlib import Path
from hwnas.store import Store
with Store(Path(sys.argv[1])) as store:
    while True:
        print(store.append("row", {"text": "x" * 500}), flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


def filled(path, rows=5):
    with Store(path) as store:
        for i in range(rows):
            store.append("row", {"i": i})
    return path


def test_events_come_back_in_order_with_their_numbers(path):
    with Store(path) as store:
        assert store.append("a", {"x": [1, 2.5, None, "é"]}) == 1
        assert store.append("b", 7) == 2
        assert store.append("a", []) == 3
    with Store(path) as store:
        assert store.events() == [Event(1, "a", {"x": [1, 2.5, None, "é"]}), Event(2, "b", 7), Event(3, "a", [])]
        assert store.events("a") == [Event(1, "a", {"x": [1, 2.5, None, "é"]}), Event(3, "a", [])]
        assert store.append("b", 8) == 4


def test_floats_come_back_to_the_last_bit(path):
    values = np.random.default_rng(1).normal(0, 1, 100) * 10.0 ** np.arange(-50, 50)
    with Store(path) as store:
        store.append("values", values)
        assert np.array_equal(np.array(store.events()[0].body), values)


def test_numpy_values_and_paths_are_written_as_json(path):
    with Store(path) as store:
        store.append("x", {"n": np.int16(3), "f": np.float32(0.5), "b": np.bool_(True), "a": np.arange(3), "p": PurePosixPath("a/b")})
        assert store.events()[0].body == {"n": 3, "f": 0.5, "b": True, "a": [0, 1, 2], "p": "a/b"}


@pytest.mark.parametrize("body", [float("nan"), [float("inf")], {"x": object()}, {1, 2}])
def test_a_body_that_is_no_json_is_refused_and_nothing_is_recorded(path, body):
    with Store(path) as store:
        with pytest.raises(InputError, match="event 'x' cannot be recorded"):
            store.append("x", body)
        assert store.append("x", 1) == 1


def test_rows_cannot_be_changed_or_deleted_by_sql(path):
    filled(path)
    with sqlite3.connect(path) as db:
        for statement in ("UPDATE event SET body = '1'", "DELETE FROM event"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                db.execute(statement)


def test_a_second_writer_is_told_who_holds_the_store_and_a_reader_is_not(path):
    with Store(path) as store:
        store.append("row", 1)
        with pytest.raises(RunHeld, match=f"is being written by process {os.getpid()} on .* since 20.*; wait until it ends"):
            Store(path)
        with Store(path, write=False) as reader:
            assert [event.body for event in reader.events()] == [1]
            store.append("row", 2)
            assert [event.body for event in reader.events()] == [1, 2]
            with pytest.raises(InputError, match="readonly"):
                reader.append("row", 3)
    Store(path).close()


def started_writer(path):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_closed_store_is_free_although_a_forked_process_lives(path):
    """Workers that load images are forked while the run is written, and outlive its closing."""
    store = Store(path)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        store.close()
        with Store(path) as again:
            assert again.append("row", 1) == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_killed_writer_loses_no_acknowledged_row_and_leaves_no_lock(path):
    acknowledged = 0
    for rows in (1, 7, 20):
        with started_writer(path) as writer:
            for line in writer.stdout:
                acknowledged = int(line)
                if rows == 7 and acknowledged % 7 == 2:
                    with pytest.raises(RunHeld, match=f"process {writer.pid} "):
                        Store(path)
                rows -= 1
                if rows <= 0:
                    break
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        with Store(path) as store:
            assert len(store.events()) >= acknowledged


def refused(path):
    """The sentence with which opening fails, None where it succeeds; a traceback fails the test."""
    try:
        with Store(path) as store:
            store.events()
            return None
    except HwnasError as error:
        assert "\n" not in str(error) and str(path.name) in str(error)
        return str(error)


def test_a_file_cut_short_is_named_as_damaged(path):
    whole = filled(path, 40).read_bytes()
    for cut in (1, 100, 512, 4095, 4096, 5000, len(whole) - 4096, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:-cut])
        assert refused(path) is not None, cut
    path.write_bytes(whole)
    assert refused(path) is None


def test_flipped_bits_are_found_or_harmless_and_never_change_an_event(path):
    whole = filled(path, 40).read_bytes()
    with Store(path) as store:
        events = store.events()
    rng = np.random.default_rng(7)
    found = 0
    for place in rng.choice(len(whole), 150, replace=False):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        sentence = refused(path)
        found += sentence is not None
        if sentence is None:
            with Store(path) as store:
                assert store.events() == events
    assert found > 20  # most of the rest falls into unused space of the pages


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"SQLite format 3\x00", b"x" * 5000])
def test_what_is_no_store_is_refused_for_reading(path, content):
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        Store(path, write=False)


def test_a_store_that_is_not_there_is_not_made_by_reading_it(path):
    with pytest.raises(DamagedFile, match=r"there is no run\.sqlite"):
        Store(path, write=False)
    assert not path.exists()


def test_a_writer_killed_before_its_first_row_leaves_an_empty_file_that_is_begun_again(path):
    path.touch()
    with Store(path) as store:
        assert store.append("row", 1) == 1


def test_the_database_of_another_program_is_refused_and_left_alone(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE event (id, kind, body, crc)")
    before = path.read_bytes()
    with pytest.raises(DamagedFile, match="of another program"):
        Store(path, write=False)
    assert path.read_bytes() == before


def test_another_format_is_refused_with_what_to_do(path):
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(DamagedFile, match="has format 9, this hwnas reads format 1"):
        Store(path)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DELETE FROM event WHERE id = 3", "event 3 is missing"),
        ("UPDATE event SET body = '{\"i\":9}' WHERE id = 2", "event 2 does not match its checksum"),
        ("UPDATE event SET id = 6 WHERE id = 5", "event 5 is missing"),
        ("DROP TABLE event", "no such table"),
    ],
)
def test_a_row_altered_by_hand_is_named(path, statement, sentence):
    filled(path)
    with sqlite3.connect(path) as db:
        db.executescript(f"DROP TRIGGER event_keeps; DROP TRIGGER event_stays; {statement};")
    with pytest.raises(DamagedFile, match=sentence):
        Store(path)


def test_json_nested_to_exhaust_the_stack_is_damage(path):
    import zlib

    filled(path, 0)
    text = "[" * 200_000
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO event VALUES (1, 'x', ?, ?)", (text, zlib.crc32(f"1\nx\n{text}".encode())))
    with pytest.raises(DamagedFile, match="event 1 is not readable JSON"):
        Store(path)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another folder"):
        Store(tmp_path / "file" / "run.sqlite")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from hwnas.errors import InputError
from hwnas.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Store(Path(sys.argv[1])) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    acknowledged = 0
    try:
        while True:
            acknowledged = store.append("row", {"text": "x" * 2_000})
    except InputError as error:
        print(acknowledged, error)
"""


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_space(path):
    pytest.importorskip("resource", reason="limits on file sizes are POSIX")
    output = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True).stdout
    acknowledged, sentence = output.split(" ", 1)
    assert int(acknowledged) > 10 and "free space, then run the same command again" in sentence
    with Store(path) as store:
        assert len(store.events()) == int(acknowledged)
        assert store.append("row", "more") == int(acknowledged) + 1


def test_blobs_are_kept_under_the_hash_of_their_content(path):
    with Store(path) as store:
        digest = store.add_blob(b"weights")
        assert digest == hashlib.sha256(b"weights").hexdigest() == store.add_blob(b"weights")
        assert store.blob(digest) == b"weights"
        assert [file.name for file in store.blobs.iterdir()] == [digest]
        store.drop_blobs([digest, digest])
        with pytest.raises(DamagedFile, match="cannot read"):
            store.blob(digest)


def test_an_altered_blob_and_a_name_that_leaves_the_folder_are_refused(path):
    with Store(path) as store:
        digest = store.add_blob(b"weights")
        (store.blobs / digest).write_bytes(b"Weights")
        with pytest.raises(DamagedFile, match="does not match its name"):
            store.blob(digest)
        for name in ("../run.sqlite", "/etc/passwd", "", digest.upper(), None):
            with pytest.raises(DamagedFile, match="no SHA-256"):
                store.blob(name)
            with pytest.raises(DamagedFile, match="no SHA-256"):
                store.drop_blobs([name])


def test_a_searchers_state_survives_packing_with_types_and_shapes():
    state = {
        "theta": np.random.default_rng(0).normal(0, 1, (3, 0, 2)),
        "values": {"nested": np.array([[True, False]])},
        "moments": [np.float32([np.nan, np.inf]), np.int16(4)],
        "epoch": 3,
        "rate": 0.1,
        "name": "a",
        "none": None,
    }
    back = unpack(json.loads(json.dumps(pack(state))))
    assert back["theta"].shape == (3, 0, 2) and back["theta"].dtype == np.float64
    assert back["values"]["nested"].tolist() == [[True, False]]
    assert np.array_equal(back["moments"][0], np.float32([np.nan, np.inf]), equal_nan=True) and back["moments"][0].dtype == np.float32
    assert back["moments"][1] == 4 and back["moments"][1].dtype == np.int16
    assert (back["epoch"], back["rate"], back["name"], back["none"]) == (3, 0.1, "a", None)
    back["moments"][0][0] = 1.0  # an array that can be written


@pytest.mark.parametrize("value", [{1: 2}, {1, 2}, np.array([object()]), Path("x")])
def test_a_state_that_cannot_be_kept_is_refused_when_it_is_saved(value):
    with pytest.raises(InputError, match="a searcher's state holds"):
        pack({"x": value})


def test_objects_are_not_unpacked():
    with pytest.raises(ValueError, match="not kept"):
        unpack({"dtype": "|O", "shape": [1], "base64": "AAAAAAAAAAA="})
