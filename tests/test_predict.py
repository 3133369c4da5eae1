"""hwnas/verbs/predict.py, hwnas/table_latency.py and hwnas/onnx_blocks.py: networks priced by a table, with intervals and what they rest on."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from commands import here
from simulated_tables import simulated_table

from hwnas import registry
from hwnas.architecture import Architecture
from hwnas.backends.onnx import to_onnx
from hwnas.errors import DamagedFile, InputError, MissingLatency
from hwnas.graph import IDENTITY, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import Predicted
from hwnas.onnx_blocks import read_blocks
from hwnas.table_latency import TableLatency
from hwnas.variant import Variant
from hwnas.verbs.predict import predict
from hwnas.weights import random_weights

SPACE = "ofa_mini(resolutions=(24,))"


@pytest.fixture(scope="module")
def index():
    return BlockIndex(registry.create("spaces", SPACE))


@pytest.fixture(scope="module")
def table(index):
    """Each network takes 0.8 of the sum of its blocks, and 10 us, with an error of 2 %."""
    rng = np.random.default_rng(0)
    return simulated_table(index, lambda total, layers, activations: (0.01 + 0.8 * total) * rng.normal(1, 0.02), networks=24)


@pytest.fixture
def folder(table, tmp_path):
    table.save(tmp_path / "table")
    return tmp_path / "table"


@pytest.fixture(scope="module")
def codes(index):
    return index.space.sample(np.random.default_rng(5), 3)


@pytest.fixture
def files(index, codes, tmp_path):
    """One architecture, all of them as lines, and the second as an ONNX model."""
    architectures = [Architecture.of(index.space, code) for code in codes]
    (tmp_path / "one.json").write_text(architectures[0].to_json())
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(json.loads(each.to_json())) + "\n" for each in architectures))
    graph = index.space.lower(codes[1])
    (tmp_path / "second.onnx").write_bytes(to_onnx(graph, random_weights(graph, np.random.default_rng(0))).SerializeToString())
    return tmp_path


def test_one_file_or_many_lines_are_priced_alike_with_an_interval(index, table, folder, files, codes):
    found = predict([files / "one.json", files / "all.jsonl"], table=folder, space=SPACE)
    first, *lines = found["networks"]
    assert [each["name"].rpartition("/")[2] for each in found["networks"]] == ["one.json", "all.jsonl:1", "all.jsonl:2", "all.jsonl:3"]
    assert first["value_ms"] == lines[0]["value_ms"] == pytest.approx(TableLatency(table, index).metric(codes[:1])[0], rel=1e-4)
    assert (found["origin"], found["calibrated_on"], found["predicted_blocks"]) == ("simulated", 24, 0)
    for each in found["networks"]:
        assert each["value_ms"] / each["low_ms"] == pytest.approx(each["high_ms"] / each["value_ms"])
        assert 1.02 < each["high_ms"] / each["value_ms"] < 1.08  # errors are normal of 2 %
        assert (each["measured"], each["interpolated"], each["extrapolated"]) == (1, 0, 0)


def test_the_interval_is_that_of_networks_left_out(index, table):
    """One network takes twice as long; predicted with itself it would be closer."""
    off = replace(table.networks[3], p50_ms=2 * table.networks[3].p50_ms)
    networks = (*table.networks[:3], off, *table.networks[4:])
    latency = TableLatency(replace(table, networks=networks), index, level=0.95)
    assert latency.margin > 1.9
    assert TableLatency(table, index, level=0.95).margin < 1.1


def test_what_was_not_measured_is_told_and_warned_of(index, table, codes):
    """One block of the network is interpolated and one extrapolated; each share is its part of the price."""
    used = [index.blocks[i] for i in index.ids(codes[:1])[0] if index.blocks[i]]
    texts = [block_text(block) for block in used]
    rows = dict(table.entries)
    for text, outside in ((texts[0], False), (texts[1], True)):
        rows[text] = Predicted(rows[text].price_ms, 0.1, 30, outside)
    latency = TableLatency(replace(table, entries=rows), index)
    shares = latency.predict(codes[:1]).shares[0]
    prices = latency.metric.layers(codes[:1])[0]
    for column, text in ((1, texts[0]), (2, texts[1])):
        here = np.array([block_text(index.blocks[i]) == text for i in index.ids(codes[:1])[0]])
        assert shares[column] == pytest.approx(prices[here].sum() / prices.sum())
    assert shares.sum() == pytest.approx(1)


def test_a_network_larger_than_all_measured_ones_is_outside(index, table):
    middling = sorted(table.networks, key=lambda each: each.p50_ms)[4:20]
    latency = TableLatency(replace(table, networks=tuple(middling)), index)
    ends = np.concatenate([index.space.smallest(), index.space.largest(), middling[8].architecture.code(index.space)])
    assert latency.predict(ends).is_outside.tolist() == [True, True, False]


def test_without_nine_networks_there_is_no_interval_and_a_warning(index, table, files, tmp_path):
    replace(table, networks=table.networks[:8]).save(tmp_path / "few")
    (row,) = predict([files / "one.json"], table=tmp_path / "few", space=SPACE)["networks"]
    assert row["low_ms"] is None and row["high_ms"] is None
    assert "no interval: too few whole networks were measured" in row["warnings"]


def test_missing_blocks_are_an_error_or_predicted(index, table, files, tmp_path, codes):
    used = {block_text(index.blocks[i]) for i in index.ids(codes[:1])[0] if index.blocks[i]}
    gone = sorted(used)[2:4]
    replace(table, entries={text: entry for text, entry in table.entries.items() if text not in gone}).save(tmp_path / "part")
    with pytest.raises(MissingLatency, match="or predict them: --by gaussian_process"):
        predict([files / "one.json"], table=tmp_path / "part", space=SPACE)
    whole = predict([files / "one.json"], table=_saved(table, tmp_path / "whole"), space=SPACE)["networks"][0]["value_ms"]
    for by in ("gaussian_process", "kernel_forest", "macs"):
        found = predict([files / "one.json"], table=tmp_path / "part", space=SPACE, by=by)
        (row,) = found["networks"]
        assert found["predicted_blocks"] == 2 and 0 < row["interpolated"] + row["extrapolated"] < 1
        assert row["value_ms"] == pytest.approx(whole, rel=0.5 if by == "macs" else 0.1)
    with pytest.raises(InputError, match="no predictor of blocks named 'oracle'"):
        predict([files / "one.json"], table=tmp_path / "part", space=SPACE, by="oracle")


def _saved(table, folder):
    table.save(folder)
    return folder


def test_the_file_of_a_network_has_the_blocks_that_it_was_made_of(index, codes, files):
    found = read_blocks(files / "second.onnx")
    made = [block_text(index.blocks[i]) for i in index.ids(codes[1:2])[0] if index.blocks[i] != IDENTITY]
    assert [block_text(block) for block in found.layers] == made
    assert not found.left_out
    assert len(found.operators) == sum(text.count(" = ") - text.count("= flatten") for text in made)


def test_an_onnx_model_whose_names_tell_its_blocks_is_priced_by_them(table, folder, files):
    (row,) = predict([files / "second.onnx"], table=folder, space=SPACE)["networks"]
    (line,) = predict([files / "all.jsonl"], table=folder, space=SPACE)["networks"][1:2]
    assert row["priced_as"] == "blocks"
    assert row["value_ms"] == pytest.approx(line["value_ms"], rel=0.15)
    assert row["low_ms"] < row["value_ms"] < row["high_ms"]


def test_another_onnx_model_is_priced_by_its_operators(folder, files):
    """The same network under names that tell nothing."""
    model = onnx.load(files / "second.onnx")
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    onnx.save(model, files / "foreign.onnx")
    named, foreign = predict([files / "second.onnx", files / "foreign.onnx"], table=folder, space=SPACE)["networks"]
    assert (named["priced_as"], foreign["priced_as"]) == ("blocks", "operators")
    assert foreign["value_ms"] == pytest.approx(named["value_ms"], rel=0.3)
    assert any("a sum of single operators" in warning for warning in foreign["warnings"]) and not named["warnings"]


def test_rows_that_were_predicted_keep_their_predictor(index, table, files, tmp_path, codes):
    """One row of the model is ten times its price, predicted by somebody else: so is it priced, whatever predicts operators here."""
    text = block_text(index.blocks[index.ids(codes[1:2])[0][1]])
    odd = Predicted(10 * table.entries[text].price_ms, 0.1, 30, False)
    replace(table, entries={**table.entries, text: odd}).save(tmp_path / "odd")
    (row,) = predict([files / "second.onnx"], table=tmp_path / "odd", space=SPACE)["networks"]
    assert row["interpolated"] > 0.5, "predicted anew it would be a fifth"


def test_a_model_finds_its_space_in_a_table_of_another_precision(files, tmp_path):
    index = Variant("fp16").index(BlockIndex(registry.create("spaces", "ofa_mini")))
    simulated_table(index, lambda total, layers, activations: total, networks=12).save(tmp_path / "half")
    found = predict([files / "second.onnx"], table=tmp_path / "half")
    assert found["onnx"]["scaled_on"] == 12


def test_options_that_would_change_nothing_are_refused(folder, files):
    with pytest.raises(InputError, match="is an ONNX model"):
        predict([files / "second.onnx"], table=folder, space=SPACE, like=[folder, folder])
    with pytest.raises(InputError, match="leave out --by"):
        predict([files / "one.json"], table=folder, space=SPACE, like=[folder, folder], by="macs")


def test_what_has_no_price_in_an_onnx_model_is_counted(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("MaxPool", ["m"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReduceMean", ["p"], ["y"], axes=[2, 3], keepdims=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [1, 3, 8, 8])], [value("y", TensorProto.FLOAT, [1, 4, 1, 1])], [weight])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    found = read_blocks(tmp_path / "m.onnx")
    assert [block_text(block) for block in found.operators] == [
        "conv2d = conv2d.float32 1x3x8x8 out=4 k=3 bias=0 act=swish (in0)",
        "global_pool = global_pool.float32 1x4x4x4 (in0)",
    ]
    assert dict(found.left_out) == {"MaxPool": 1} and not found.layers


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 1, is not readable JSON"),
        ("[]", "line 1, is no architecture"),
        ('{"space": 3, "values": {}}', "line 1, is no architecture"),
        ("", "0 architectures"),
    ],
)
def test_lines_that_are_no_architectures_are_refused(line, sentence, folder, tmp_path):
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    with pytest.raises(DamagedFile, match=sentence):
        predict([tmp_path / "bad.jsonl"], table=folder, space=SPACE)


def test_ten_networks_and_the_tables_of_other_devices_price_a_new_device(index, files, codes, tmp_path):
    """The new device is between two known ones; its own table has no block at all."""
    formulas = {
        "phone": lambda total, layers, act: total + 0.1,
        "board": lambda total, layers, act: 0.3 * total + 3e-6 * act,
        "gpu": lambda total, layers, act: 0.1 * total + 0.02 * layers,
    }
    for name, formula in formulas.items():
        made = simulated_table(index, formula, networks=24)
        replace(made, conditions=replace(made.conditions, device=name)).save(tmp_path / name)
    few = simulated_table(index, lambda total, layers, act: 0.7 * total + 2e-6 * act, networks=12, seed=7)
    replace(few, entries={}).save(tmp_path / "new")
    found = predict([files / "all.jsonl"], table=tmp_path / "new", space=SPACE, like=[tmp_path / name for name in formulas])
    rows = found["networks"]
    assert found["origin"] == "simulated"
    from simulated_tables import prices_ms

    from hwnas.costs import activations

    ids = index.ids(codes)
    truth = 0.7 * prices_ms(index.blocks)[ids].sum(axis=1) + 2e-6 * activations(index.blocks)[ids].sum(axis=1)
    assert [row["value_ms"] for row in rows] == pytest.approx(truth, rel=0.03)
    assert all(row["measured"] == 0 and row["low_ms"] < row["value_ms"] for row in rows)
    with pytest.raises(InputError, match="two or more kinds of hardware, got 1"):
        predict([files / "all.jsonl"], table=tmp_path / "new", space=SPACE, like=[tmp_path / "phone"])


def test_the_command_shows_intervals_and_warnings(folder, files, monkeypatch):
    monkeypatch.chdir(files)
    code, out, err = here("predict", "one.json", "second.onnx", "--table", folder, "--space", SPACE)
    assert code == 0, err
    assert "90 % interval" in out and "one.json" in out and " ... " in out and "100 %" in out
    code, out, _ = here("predict", files / "one.json", "--table", folder, "--space", SPACE, "--json")
    assert code == 0 and json.loads(out)["networks"][0]["measured"] == 1
    code, _, err = here("predict", files / "one.json", "--table", folder, "--space", SPACE, "--level", "1.5")
    assert code == 2 and "--level is 1.5, it must be between 0 and 1" in err
