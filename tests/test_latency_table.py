"""hwnas/latency_table.py: what is written comes back; what was touched since is refused in one sentence."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from hwnas.architecture import Architecture
from hwnas.errors import DamagedFile, MissingLatency
from hwnas.graph import IDENTITY, Node, block_text
from hwnas.latency_table import Conditions, Failure, Imported, LatencyTable, Measurement, NetworkMeasurement, Predicted, seal
from hwnas.ops import Conv2d

FILES = ("table.toml", "entries.csv", "networks.csv")
CONV = (Node("conv", Conv2d((1, 3, 8, 8), out=4, kernel=3, act="relu"), ("in0",)),)
WIDE = (Node("conv", Conv2d((1, 3, 8, 8), out=8, kernel=3), ("in0",)),)
BROKEN = (Node("conv", Conv2d((1, 3, 8, 8), out=16, dtype="float16"), ("in0",)),)

TABLE = LatencyTable(
    Conditions("phone", "A76", "onnxruntime", "1.30.0", 2, "warm", {"denormals": "zero", "io_binding": True}),
    {
        block_text(WIDE): Measurement(0.25, 0.25, 0.5, 1.5, 8, 7, 64),
        block_text(CONV): Measurement(0.125, 0.125, 0.125, 0.25, 8, 8, 400, 0.1875, 0.0625),
        block_text(BROKEN): Failure("no float16, here"),
    },
    (
        NetworkMeasurement(Architecture("mini", {"resolution": 48, "act": "relu"}), "ab" * 32, 1.0, 1.5, 2.0, 15, 1),
        NetworkMeasurement(Architecture("mini", {"resolution": 32, "act": "relu"}), "ab" * 32, 0.5, 0.75, 1.0, 16, 0),
    ),
    protocol={"visits": 8, "seed": 0},
    provenance={"by": "hwnas 0.1.0"},
    anchor={"best_us": 54.25, "states": [{"relative_latency": 1.0, "share": 1.0}]},
    quality={"calibrated": {"mape": 0.0125}},
)


@pytest.fixture
def folder(tmp_path):
    TABLE.save(tmp_path)
    return tmp_path


def reseal(folder, name, text):
    """Replace a file as a forger would: with all hashes made to fit."""
    table = (folder / "table.toml").read_text().partition("\n")[2]
    if name == "table.toml":
        table = text
    else:
        old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        table = table.replace(old, hashlib.sha256(text.encode()).hexdigest())
        (folder / name).write_text(text)
    (folder / "table.toml").write_text(f'sha256 = "{hashlib.sha256(table.encode()).hexdigest()}"\n{table}')


def test_conditions_are_named_with_the_cores_that_were_asked_for():
    conditions = Conditions("phone", "A76", "onnxruntime", "1.30.0", 2, "warm", {"cores": "4-7"})
    assert str(conditions) == "phone/onnxruntime-1.30.0-2threads-cores4-7"


def test_a_saved_table_comes_back_equal(folder):
    loaded = LatencyTable.load(folder)
    assert replace(loaded, networks=()) == replace(TABLE, networks=())
    assert dict(loaded.entries) == dict(TABLE.entries)
    assert set(map(repr, loaded.networks)) == set(map(repr, TABLE.networks))
    assert (loaded.protocol, loaded.provenance, loaded.anchor, loaded.quality) == (TABLE.protocol, TABLE.provenance, TABLE.anchor, TABLE.quality)
    assert loaded.conditions.options == TABLE.conditions.options


def test_equal_tables_give_equal_bytes_whatever_the_order_of_their_rows(folder, tmp_path):
    shuffled = replace(TABLE, entries=dict(reversed(list(TABLE.entries.items()))), networks=TABLE.networks[::-1])
    shuffled.save(tmp_path / "again")
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in FILES)


def test_rows_are_sorted_by_block_with_units_in_the_header_and_the_block_last(folder):
    header, *rows = (folder / "entries.csv").read_text().splitlines()
    assert header == "price_ms,mean_ms,std_ms,p10_ms,p50_ms,p90_ms,visits,accepted,runs,predicted,error,block"
    assert rows == [
        ',,,,,,,,,,"no float16, here",conv = conv2d.float16 1x3x8x8 out=16 (in0)',
        "0.125,0.1875,0.0625,0.125,0.125,0.25,8,8,400,,,conv = conv2d.float32 1x3x8x8 out=4 k=3 act=relu (in0)",
        "0.25,,,0.25,0.5,1.5,8,7,64,,,conv = conv2d.float32 1x3x8x8 out=8 k=3 (in0)",
    ]


def test_a_skipped_layer_costs_nothing_and_a_block_its_price():
    assert (TABLE.price_ms(IDENTITY), TABLE.price_ms(CONV), TABLE.price_ms(WIDE)) == (0.0, 0.125, 0.25)


def test_a_failed_block_has_no_price_and_says_why():
    with pytest.raises(MissingLatency, match="no float16, here"):
        TABLE.price_ms(BROKEN)


def test_missing_lists_each_block_without_a_price_once():
    other = (Node("conv", Conv2d((1, 3, 8, 8), out=32), ("in0",)),)
    assert TABLE.missing([IDENTITY, CONV, other, BROKEN, other]) == [block_text(other), block_text(BROKEN)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_refused(folder, name):
    whole = (folder / name).read_bytes()
    for size in range(len(whole)):
        (folder / name).write_bytes(whole[:size])
        with pytest.raises(DamagedFile):
            LatencyTable.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_refused(folder, name):
    whole, rng = (folder / name).read_bytes(), np.random.default_rng(0)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(damaged)
        with pytest.raises(DamagedFile):
            LatencyTable.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DamagedFile, match=name):
        LatencyTable.load(folder)


CONV_ROW = "0.125,0.1875,0.0625,0.125,0.125,0.25,8,8,400,,,conv = conv2d.float32 1x3x8x8 out=4 k=3 act=relu (in0)\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.125,0.1875,", "nan,0.1875,", "price_ms must be a positive number of milliseconds, 1e-9 to 1e12, got 'nan'"),
        ("0.125,0.1875,", "-0.125,0.1875,", "price_ms must be a positive number of milliseconds, 1e-9 to 1e12, got '-0.125'"),
        ("0.125,0.1875,", "0,0.1875,", "price_ms must be a positive number of milliseconds, 1e-9 to 1e12, got '0'"),
        ("0.125,0.125,0.25", "0.125,0.125,inf", "p90_ms must be a positive number of milliseconds, 1e-9 to 1e12, got 'inf'"),
        ("0.125,0.125,0.25", "0.5,0.125,0.25", "p10 <= p50 <= p90 must hold"),
        ("0.1875,0.0625", "0.1875,", "std_ms must be a number of milliseconds, 0 to 1e12, got ''"),
        ("0.1875,0.0625", ",0.0625", "mean_ms must be a positive number"),
        ("0.1875,0.0625", "0.1875,-0.5", "std_ms must be a number of milliseconds"),
        ("0.1875,0.0625", "0.1875,nan", "std_ms must be a number of milliseconds"),
        ("0.125,0.125,0.25,8,8,400", ",,,,,400", "the price of an imported row is its mean"),
        (CONV_ROW[:6] + "0.1875,0.0625,0.125,0.125,0.25,8,8,", "0.1875,0.1875,0.0625,,,,,,", "a row without visits is imported, and this table is measured"),
        ("8,8,400", "8,9,400", "accepted <= visits <= runs must hold"),
        ("8,8,400", "8,8,-4", "runs must be a whole number"),
        ("8,8,400", "8,8,4e2", "runs must be a whole number"),
        ("8,8,400", "0,0,400", "visits must be a whole number of at least 1"),
        (CONV_ROW, CONV_ROW * 2, "has a row already"),
        (CONV_ROW, "0.125\n", "has 1 values, must have 12"),
        (CONV_ROW, CONV_ROW.replace("out=4", "out=-4"), "is no operator"),
        (CONV_ROW, CONV_ROW.replace("conv =", "conv  ="), "is no node"),
        (CONV_ROW, CONV_ROW.replace("(in0)", "( in0)"), "not written as hwnas writes it"),
        ("400,,,conv", "400,,but failed,conv", "numbers or an error, not both"),
        ("400,,,conv", "400,interpolated from 9 blocks,,conv", "a predicted row has a price, a std_ms"),
        (CONV_ROW[:51], "0.125,,0.0625,,,,,,,guessed from 9 blocks,,conv", "a predicted row has a price, a std_ms .* got 'guessed from 9 blocks'"),
        (CONV_ROW[:51], "0.125,,0.0625,,,,,,,interpolated from 0 blocks,,conv", "a predicted row has a price"),
        (CONV_ROW[:51], "nan,,0.0625,,,,,,,interpolated from 9 blocks,,conv", "price_ms must be a positive number"),
        (CONV_ROW[:51], "0.125,,-1,,,,,,,interpolated from 9 blocks,,conv", "std_ms must be a number of milliseconds"),
        ("price_ms,", "price_us,", "the columns must be price_ms"),
        ("price_ms,mean", 'price_ms,"mean', "not readable CSV|the columns must be"),
    ],
)
def test_forged_entries_are_refused_with_file_and_line(folder, old, new, message):
    text = (folder / "entries.csv").read_text()
    assert old in text
    reseal(folder, "entries.csv", text.replace(old, new))
    with pytest.raises(DamagedFile, match=message) as caught:
        LatencyTable.load(folder)
    assert "entries.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5,0.75,1,16", "0.5,nan,1,16", "p50_ms must be a positive number"),
        ("ab" * 32, "ab" * 31, "fingerprint of its space"),
        ('"{""resolution"":32,""act"":""relu""}"', "[" * 50_000, "maximum recursion|Expecting|nested"),
        ('""resolution"":32', '""resolution"":NaN', "NaN is not allowed"),
        ('""resolution"":32', '""resolution"":1e999', "must map choices to values"),
        ('"{""resolution"":32,""act"":""relu""}"', "32", "must map choices to values"),
        ('"{""resolution"":32,""act"":""relu""}"', '"{""resolution"":[32]}"', "must map choices to values"),
        ('"{""resolution"":32,', '"{""resolution"":48,', "has two rows"),
    ],
)
def test_forged_networks_are_refused_with_their_file(folder, old, new, message):
    text = (folder / "networks.csv").read_text()
    assert old in text
    reseal(folder, "networks.csv", text.replace(old, new))
    with pytest.raises(DamagedFile, match=message) as caught:
        LatencyTable.load(folder)
    assert "networks.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hwnas.latency_table/3", "hwnas.latency_table/4", "this version reads 'hwnas.latency_table/3', 'hwnas.latency_table/2', 'hwnas.latency_table/1'"),
        ("hwnas.latency_table/3", "hwnas.latency_table/2", "the columns must be price_ms,mean_ms,.*,runs,error,block, got"),
        ("hwnas.latency_table/3", "hwnas.latency_table/1", "the columns must be price_ms,p10_ms"),
        ('origin = "measured"', 'origin = "guessed"', "origin must be one of measured, emulated, simulated, imported"),
        ("threads = 2", "threads = 0", r"\[conditions\] must say"),
        ("threads = 2", 'threads = "2"', r"\[conditions\] must say"),
        ('device = "phone"', "device = 3", r"\[conditions\] must say"),
        ('denormals = "zero"', "denormals = [1]", r"\[conditions\] must say"),
        ("mape = 0.0125", "mape = nan", "quality.calibrated.mape must be text, a number, true, false"),
        ("mape = 0.0125", "mape = 2026-11-25", "quality.calibrated.mape must be text, a number, true, false"),
        ("mape = 0.0125", "mape = " + "9" * 400, "quality.calibrated.mape must be text, a number, true, false"),
        ("mape = 0.0125", "mape = " + "[" * 40 + "]" * 40, "is nested more than 16 deep"),
        ("[protocol]", "[protocols]", r"lacks the section \[protocol\]"),
        ("[files]", "[filed]", r"lacks the section \[files\]"),
        ("visits = 8", "visits = ", "not readable TOML"),
        ("visits = 8", "visits = " + "[" * 5000, "not readable TOML"),
    ],
)
def test_a_forged_table_file_is_refused(folder, old, new, message):
    text = (folder / "table.toml").read_text().partition("\n")[2]
    assert old in text
    reseal(folder, "table.toml", text.replace(old, new))
    with pytest.raises(DamagedFile, match=message):
        LatencyTable.load(folder)


def test_a_network_keeps_the_order_and_the_types_of_its_values(folder):
    values = [json.dumps(dict(each.architecture.values)) for each in LatencyTable.load(folder).networks]
    assert sorted(values) == ['{"resolution": 32, "act": "relu"}', '{"resolution": 48, "act": "relu"}']


def test_a_table_of_the_first_format_still_loads(folder):
    """As hwnas wrote it before rows had a mean: nine columns."""
    header = "price_ms,p10_ms,p50_ms,p90_ms,visits,accepted,runs,error,block\n"
    reseal(folder, "entries.csv", header + CONV_ROW.replace("0.1875,0.0625,", "").replace(",,,", ",,"))
    reseal(folder, "table.toml", (folder / "table.toml").read_text().partition("\n")[2].replace("latency_table/3", "latency_table/1"))
    loaded = LatencyTable.load(folder)
    assert dict(loaded.entries) == {block_text(CONV): Measurement(0.125, 0.125, 0.125, 0.25, 8, 8, 400)}
    loaded.save(folder)
    assert LatencyTable.load(folder) == loaded and 'format = "hwnas.latency_table/3"' in (folder / "table.toml").read_text()


def test_a_table_of_the_second_format_still_loads(folder):
    """As hwnas wrote it before rows could be predicted: one column less."""
    text = (folder / "entries.csv").read_text().replace("predicted,", "").replace(",,conv", ",conv").replace(',,,,,,,,,,"no', ',,,,,,,,,"no')
    reseal(folder, "entries.csv", text)
    reseal(folder, "table.toml", (folder / "table.toml").read_text().partition("\n")[2].replace("latency_table/3", "latency_table/2"))
    assert dict(LatencyTable.load(folder).entries) == dict(TABLE.entries)


def test_a_predicted_row_comes_back_as_such_and_has_a_price(tmp_path):
    rows = {block_text(WIDE): Predicted(0.25, 0.0125, 40, False), block_text(BROKEN): Predicted(0.5, 0.0, 40, True)}
    table = replace(TABLE, entries={**TABLE.entries, **rows})
    table.save(tmp_path)
    assert "0.25,,0.0125,,,,,,,interpolated from 40 blocks,,conv = " in (tmp_path / "entries.csv").read_text()
    loaded = LatencyTable.load(tmp_path)
    assert dict(loaded.entries) == dict(table.entries)
    assert loaded.price_ms(WIDE) == 0.25 and not loaded.missing([WIDE, CONV]) and loaded.predicted([CONV, WIDE, WIDE]) == [block_text(WIDE)]


def test_an_imported_row_keeps_every_digit_and_has_no_percentiles(tmp_path):
    table = replace(TABLE, origin="imported", entries={block_text(CONV): Imported(0.12345678901234567, 1e-05, 38)}, networks=())
    table.save(tmp_path)
    assert (tmp_path / "entries.csv").read_text().splitlines()[1].startswith("0.12345678901234566,0.12345678901234566,1e-05,,,,,,38,,,conv")
    loaded = LatencyTable.load(tmp_path)
    assert dict(loaded.entries) == dict(table.entries) and loaded.price_ms(CONV) == 0.12345678901234567 and not loaded.missing([CONV])


def test_the_seal_names_a_table_by_all_of_its_three_files(folder, tmp_path):
    first = seal(folder)
    assert len(first) == 64
    replace(TABLE, networks=TABLE.networks[:1]).save(tmp_path / "other")
    assert seal(tmp_path / "other") != first
    (folder / "table.toml").write_text("sha256 = 1\n")
    with pytest.raises(DamagedFile, match="no hash in its first line"):
        seal(folder)
