"""What a run recorded is read by shape: a forged or outdated record is refused by the place that does not fit."""

import re
import zlib

import pytest

from hwnas.errors import DamagedFile
from hwnas.run import RunDirectory
from hwnas.verbs.common import Job
from hwnas.verbs.records import OPTIONS, RESULTS, checked

SHAPE = {"n": int, "share": (int, float), "names": [str], "by_name": {str: float}, "inner?": {"flag": bool}, "hex": re.compile("[0-9a-f]*")}
GOOD = {"n": 3, "share": 0.5, "names": ["a"], "by_name": {"x": 1.0}, "inner": {"flag": True}, "hex": "0f", "more": None}


@pytest.mark.parametrize("value", [GOOD, {**GOOD, "inner": None}, {**GOOD, "share": 1, "names": []}, {key: GOOD[key] for key in GOOD if key != "inner"}])
def test_what_has_its_shape_is_given_back(value):
    assert checked(value, SHAPE, "here") is value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": True}, "n is True"),
        ({"n": "3"}, "n is '3'"),
        ({"n": 10**301}, "n is out of range"),
        ({"share": float("inf")}, "share is out of range"),
        ({"share": float("nan")}, "share is out of range"),
        ({"names": "ab"}, "names is no list"),
        ({"names": ["a", 1]}, r"names\[1\] is 1"),
        ({"by_name": []}, "by_name is no mapping"),
        ({"by_name": {"x": 1}}, "by_name.x is 1"),
        ({"inner": {}}, "inner.flag is missing"),
        ({"hex": "0g"}, "hex is '0g'"),
    ],
)
def test_the_first_place_that_does_not_fit_is_named(change, words):
    with pytest.raises(DamagedFile, match=f"here was recorded by another version of hwnas or altered: {words}; make a new run"):
        checked({**GOOD, **change}, SHAPE, "here")


def forged(folder, kind, text):
    """A run with one event of that text and the checksum that fits it."""
    with RunDirectory(folder) as run:
        run.store._db.execute("INSERT INTO event VALUES (1, ?, ?, ?)", (kind, text, zlib.crc32(f"1\n{kind}\n{text}".encode())))
    return RunDirectory(folder, write=False)


@pytest.mark.parametrize("stage", RESULTS)
@pytest.mark.parametrize("text", ["null", "[]", "{}", '"x"', "3", '{"files": [], "points": {}, "measured": 0, "images": "1"}'])
def test_a_forged_record_is_refused(tmp_path, stage, text):
    with forged(tmp_path / "run", f"{stage}/result", text) as run:
        job = Job(run)
        if text == "null":
            assert job.recorded(stage) is None
        else:
            with pytest.raises(DamagedFile, match=f"{stage} of .* was recorded by another version"):
                job.result(stage)


@pytest.mark.parametrize("stage", OPTIONS)
def test_forged_options_are_refused(tmp_path, stage):
    words = f"{stage} of .* (is missing|was recorded by another version)"
    with forged(tmp_path / "run", f"{stage}/options", '{"seed": "x"}') as run, pytest.raises(DamagedFile, match=words):
        Job(run).options(stage)


@pytest.mark.parametrize("text", ["NaN", '{"loss": Infinity}', "9" * 5_000, "[" * 100_000, "{"])
def test_an_event_that_is_no_json_is_refused_whatever_its_checksum(tmp_path, text):
    with pytest.raises(DamagedFile, match="event 1 is not readable JSON"):
        forged(tmp_path / "run", "train/result", text)
