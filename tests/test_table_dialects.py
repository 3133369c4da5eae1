"""hwnas/table_dialects.py: what an entry of either dialect is of, and that nothing is lost on the way in and out."""

import math

import pytest
from lookup_yaml import BY_DIALECT, OFA, PROXYLESSNAS

from hwnas.blocks import conv_bn_act, mbconv
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.flat_yaml import read_flat_yaml
from hwnas.graph import Graph, Node, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import Failure, Imported, Measurement
from hwnas.ops import Conv2d
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.table_dialects import DIALECTS, block_of, dialect_named, key_of, read_dialect, write_dialect

OFA_DIALECT, PROXYLESS = DIALECTS["ofa"], DIALECTS["proxylessnas"]


def written(folder, text):
    path = folder / "lut.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", DIALECTS)
def test_import_then_export_reproduces_the_values(tmp_path, name):
    dialect, path = DIALECTS[name], written(tmp_path, BY_DIALECT[name])
    before = read_flat_yaml(path)
    rows, left_out = read_dialect(path, dialect)
    assert len(rows) == len(before) and not left_out
    text, not_written = write_dialect(rows, dialect)
    assert read_flat_yaml(written(tmp_path, text)) == before and not not_written


@pytest.mark.parametrize("name", DIALECTS)
def test_every_imported_block_is_a_network_of_its_own(tmp_path, name):
    for key in read_flat_yaml(written(tmp_path, BY_DIALECT[name])):
        block = block_of(key, DIALECTS[name])
        assert Graph.of_block(block).output == block[-1].op.output
        assert key_of(block, DIALECTS[name]) == key


def test_expand_is_middle_channels_in_one_dialect_and_the_ratio_in_the_other():
    shape = (1, 24, 56, 56)
    ours = block_text(mbconv(shape, 24, 5, 3, act="relu6"))
    assert block_text(block_of("expanded_conv-input:56x56x24-output:56x56x24-expand:3-kernel:5-stride:1-idskip:1", PROXYLESS)) == ours
    ours = block_text(mbconv(shape, 24, 5, 3, act="hswish", se=True))
    assert block_text(block_of("expanded_conv-input:56x56x24-output:56x56x24-expand:72-kernel:5-stride:1-idskip:1-se:1-hs:1", OFA_DIALECT)) == ours


def test_the_spread_is_a_standard_deviation_whatever_the_file_says(tmp_path):
    """var 0.0225 ms^2 is std 0.15 ms."""
    rows, _ = read_dialect(written(tmp_path, PROXYLESSNAS), PROXYLESS)
    stem = block_text(conv_bn_act((1, 3, 224, 224), 32, 3, 2, "relu6"))
    assert rows[stem] == Imported(1.5, 0.15, 34)
    rows, _ = read_dialect(written(tmp_path, PROXYLESSNAS.replace("var: 0.0225", "std: 0.15")), PROXYLESS)
    assert rows[stem] == Imported(1.5, 0.15, 34)
    assert "  var: 0.0225\n" in write_dialect({stem: rows[stem]}, PROXYLESS)[0]


def test_the_layers_that_no_attribute_describes_are_those_of_the_networks(tmp_path):
    rows, _ = read_dialect(written(tmp_path, OFA), OFA_DIALECT)
    assert {
        "conv = conv2d.float32 1x3x224x224 out=24 k=3 s=2 act=hswish (in0)",
        "conv = conv2d.float32 1x192x7x7 out=1152 act=hswish (in0)",
        "pool = global_pool.float32 1x1152x7x7 (in0)",
        "conv = conv2d.float32 1x1152x1x1 out=1536 bias=0 act=hswish (in0)",
        "flatten = flatten.float32 1x1536x1x1 (in0); classifier = linear.float32 1x1536 out=1000 (flatten)",
    } < rows.keys()
    rows, _ = read_dialect(written(tmp_path, PROXYLESSNAS), PROXYLESS)
    head = "flatten = flatten.float32 1x1280x1x1 (pool); classifier = linear.float32 1x1280 out=1000 (flatten)"
    assert f"pool = global_pool.float32 1x1280x7x7 (in0); {head}" in rows


def test_the_blocks_of_the_official_space_have_the_keys_of_its_published_tables():
    """Two positions of nine cells in each of five stages are 90 keys; with five layers and the first block those are the 96 of a published file.

    The stem (a convolution and the first block) and the head are one block each here, which no key is of.
    """
    index = BlockIndex(ofa_mobilenet_v3(width=1.2, resolutions=(224,)))
    keys, without = set(), []
    for block in filter(None, index.blocks):
        try:
            key = key_of(block, OFA_DIALECT)
        except InputError:
            without.append(block)
            continue
        assert block_text(block_of(key, OFA_DIALECT)) == block_text(block)
        keys.add(key)
    assert len(keys) == 90 and len(without) == 2
    assert "expanded_conv-input:28x28x48-output:28x28x48-expand:288-kernel:7-stride:1-idskip:1-se:1-hs:0" in keys
    assert "expanded_conv-input:14x14x96-output:14x14x136-expand:288-kernel:3-stride:1-idskip:0-se:1-hs:1" in keys


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("Softmax-input:1x1x1000-output:1000", "'Softmax' is no type of layer in the dialect ofa"),
        ("Conv-input:224x224-output:112x112x24", "not of the form"),
        ("Conv-input:224x224x3-output:112x112x24 ", "not of the form"),
        ("Conv-input:0x224x3-output:0x112x24", "not of the form"),
        ("Conv-input:224x224x3-output:224x224x24", "such a layer is written 'Conv-input:224x224x3-output:112x112x24'"),
        ("Conv-input:224x224x3-output:24", "such a layer is written"),
        ("AvgPool2D-input:7x7x1152-output:1x1x1000", "such a layer is written 'AvgPool2D-input:7x7x1152-output:1x1x1152'"),
        ("Conv_1-input:7x7x192-output:7x7x1152-kernel:1", "Conv_1 says kernel after the output, in the dialect ofa it says nothing"),
        ("expanded_conv-input:56x56x32-output:56x56x32-expand:96-kernel:3-stride:1-idskip:1", "it says expand, kernel, stride, idskip, se, hs"),
        ("expanded_conv-input:56x56x32-output:56x56x32-expand:3-kernel:3-stride:1-idskip:1-se:0-hs:0", "3 middle channels are fewer than the 32"),
        ("expanded_conv-input:56x56x32-output:56x56x32-expand:96-kernel:4-stride:1-idskip:1-se:0-hs:0", "kernel must be odd"),
        ("expanded_conv-input:56x56x32-output:28x28x32-expand:96-kernel:3-stride:2-idskip:1-se:0-hs:0", "a shortcut needs stride 1"),
        ("expanded_conv-input:56x56x32-output:56x56x40-expand:96-kernel:3-stride:1-idskip:1-se:0-hs:0", "a shortcut needs stride 1 and as many"),
        ("expanded_conv-input:56x56x32-output:56x56x32-expand:96-kernel:3-stride:0-idskip:0-se:0-hs:0", "stride, out, groups positive"),
        ("expanded_conv-input:56x56x32-output:56x56x32-expand:96-kernel:3-stride:1-idskip:1-se:2-hs:0", "idskip, se and hs are 0 or 1"),
        ("expanded_conv-input:56x56x32-output:56x56x32-expand:096-kernel:3-stride:1-idskip:1-se:0-hs:0", "such a layer is written"),
        ("expanded_conv-input:56x56x32-output:56x56x32-kernel:3-expand:96-stride:1-idskip:1-se:0-hs:0", "says kernel, expand"),
        ("Conv-input:999999x999999x999999-output:500000x500000x999999", None),
    ],
)
def test_an_entry_without_counterpart_says_why(key, reason):
    if reason is None:
        assert key_of(block_of(key, OFA_DIALECT), OFA_DIALECT) == key
        return
    with pytest.raises(InputError, match=reason.replace("(", r"\(")):
        block_of(key, OFA_DIALECT)


def test_what_has_no_counterpart_is_listed_and_the_rest_is_kept(tmp_path):
    text = OFA + "Softmax-input:1x1x1000-output:1000:\n  count: 3\n  mean: 0.1\n  std: 0.01\n"
    rows, left_out = read_dialect(written(tmp_path, text), OFA_DIALECT)
    assert len(rows) == 8 and list(left_out) == ["Softmax-input:1x1x1000-output:1000"]


@pytest.mark.parametrize(("name", "other"), [("ofa", "proxylessnas"), ("proxylessnas", "ofa")])
def test_a_file_of_the_other_dialect_is_not_half_read(tmp_path, name, other):
    """Its first and last layers are spelled alike, and have other activations."""
    with pytest.raises(DamagedFile, match=rf"is not of the dialect {other}: 'expanded_conv-.* in the dialect {other} it says expand, kernel"):
        read_dialect(written(tmp_path, BY_DIALECT[name]), DIALECTS[other])


def test_a_file_without_any_entry_of_a_dialect_is_refused(tmp_path):
    with pytest.raises(DamagedFile, match=r"is not of the dialect ofa: 'a' is none of its entries, the key is not of the form .* known are ofa, proxylessnas"):
        read_dialect(written(tmp_path, "a: {count: 1, mean: 1.0, std: 0.1}\n"), OFA_DIALECT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  std: 0.0213\n", "", "count, mean, and one of std and var, got count, mean"),
        ("  std: 0.0213\n", "  std: 0.0213\n  var: 0.0004\n", "one of std and var, got count, mean, std, var"),
        ("  std: 0.0213\n", "  std: 0.0213\n  max: 2\n", "one of std and var, got count, mean, std, max"),
        ("  std: 0.0213\n", "  std: -0.0213\n", "from 0 to 1e12, got 0.98.* and -0.0213"),
        ("mean: 1.25", "mean: 0", "mean must be from 1e-9"),
        ("mean: 1.25", "mean: 1e300", "mean must be from 1e-9 to 1e12 ms"),
        ("count: 164", "count: 164.0", "count must be a whole number"),
        ("count: 164", "count: 0", "count must be a whole number from 1"),
    ],
)
def test_an_entry_with_other_numbers_is_refused_by_its_key(tmp_path, old, new, message):
    assert old in OFA
    with pytest.raises(DamagedFile, match=message) as caught:
        read_dialect(written(tmp_path, OFA.replace(old, new)), OFA_DIALECT)
    assert "lut.yaml" in str(caught.value) and "-input:" in str(caught.value)


def test_rows_that_cannot_be_written_are_listed_with_the_reason():
    block = block_of("Conv_1-input:7x7x192-output:7x7x1152", OFA_DIALECT)
    half = (Node("conv", Conv2d((1, 192, 7, 7), out=1152, act="hswish", dtype="float16"), ("in0",)),)
    old = conv_bn_act((1, 3, 32, 32), 8, 3, 2, "hswish")
    entries = {
        block_text(block): Measurement(0.5, 0.5, 0.5, 0.5, 2, 2, 20, 0.625, 0.125),
        block_text(half): Measurement(0.5, 0.5, 0.5, 0.5, 2, 2, 20, 0.625, 0.125),
        block_text(conv_bn_act((1, 3, 32, 32), 8, 3, 2, "relu")): Failure("out of memory"),
        block_text(old): Measurement(0.5, 0.5, 0.5, 0.5, 2, 2, 20),
    }
    text, left_out = write_dialect(entries, OFA_DIALECT)
    assert text == "Conv_1-input:7x7x192-output:7x7x1152:\n  count: 20\n  mean: 0.625\n  std: 0.125\n"
    assert sorted(left_out.values()) == [
        "it failed: out of memory",
        "its row has no mean: it was measured before tables had one",
        "the dialect ofa has no key for such a block",
    ]
    with pytest.raises(InputError, match=r"no row of this table can be written in the dialect proxylessnas; the first is conv = conv2d.float32 1x3x32x32"):
        write_dialect({block_text(old): entries[block_text(old)]}, PROXYLESS)
    with pytest.raises(InputError, match="the table is empty"):
        write_dialect({}, PROXYLESS)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
def test_blocks_that_look_alike_but_compute_something_else_have_no_key(dialect):
    shape = (1, 16, 8, 8)
    plain = mbconv(shape, 24, 3, 3, act="relu6")
    renamed = tuple(Node({"project": "out"}.get(node.name, node.name), node.op, node.inputs) for node in plain)
    for block in (
        (),
        renamed,
        mbconv(shape, 24, 3, 3, act="none"),
        mbconv((2, 16, 8, 8), 24, 3, 3, act="relu"),
        mbconv(shape, 24, 3, 1, act="relu"),
        plain[:1],
    ):
        with pytest.raises(InputError, match="has no key for such a block"):
            key_of(block, dialect)


def test_an_unknown_dialect_is_told_the_known_ones():
    with pytest.raises(UnknownName, match=r"did you mean 'ofa'\? Known: ofa, proxylessnas"):
        dialect_named("oFa")


@pytest.mark.parametrize("std", [0.0, 1e-5, 0.1, 0.0351, 1 / 3, math.pi])
def test_a_variance_comes_back_to_fifteen_digits(tmp_path, std):
    key = "Conv_1-input:7x7x320-output:7x7x1280"
    text, _ = write_dialect({block_text(block_of(key, PROXYLESS)): Imported(1.0, std, 3)}, PROXYLESS)
    rows, _ = read_dialect(written(tmp_path, text), PROXYLESS)
    assert next(iter(rows.values())).std_ms == pytest.approx(std, rel=1e-14)
