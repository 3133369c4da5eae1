"""hwnas/blocks.py: the blocks of the literature, with sizes from the official code."""

import pytest

from hwnas.blocks import chain, conv_bn_act, make_divisible, mbconv, mobilenet_head, squeeze_excite
from hwnas.costs import macs, params
from hwnas.graph import Graph


def names(block):
    return [node.name for node in block]


@pytest.mark.parametrize(("value", "expected"), [(1, 8), (11.9, 16), (12, 16), (16, 16), (18, 24), (19.2, 24), (17.6, 16), (83, 80), (960 * 1.2, 1152)])
def test_channels_are_multiples_of_eight_that_lose_at_most_a_tenth(value, expected):
    # 11.9 -> 8 would lose a third, so one more step; 18 -> 16 loses 11 %; 17.6 -> 16 loses 9.1 %
    assert make_divisible(value) == expected


@pytest.mark.parametrize(("channels", "reduced"), [(72, 24), (96, 24), (144, 40), (240, 64), (960, 240)])
def test_squeeze_and_excite_narrows_as_the_official_networks_do(channels, reduced):
    block = squeeze_excite((1, channels, 7, 7), "x")
    assert names(block) == ["se.pool", "se.reduce", "se.expand", "se.scale"]
    assert block[1].op.out == reduced and block[1].op.act == "relu"
    assert block[2].op.out == channels and block[2].op.act == "hsigmoid"
    assert block[3].inputs == ("x", "se.expand")
    assert all(node.norm is None for node in block)


def test_an_inverted_residual_expands_filters_and_projects():
    block = mbconv((1, 24, 28, 28), out=24, kernel=5, expand=4)
    assert names(block) == ["expand", "depthwise", "project", "add"]
    assert [node.op.out for node in block[:3]] == [96, 96, 24]
    # 1x1: 24*96; 5x5 depthwise: 96*25; 1x1: 96*24, at 28*28 positions
    assert macs([block])[0] == 28 * 28 * (24 * 96 + 96 * 25 + 96 * 24)
    # two batch norm values per channel, no other bias
    assert params([block])[0] == 24 * 96 + 96 * 25 + 96 * 24 + 2 * (96 + 96 + 24)


def test_the_shortcut_needs_equal_width_and_stride_one():
    assert "add" not in names(mbconv((1, 24, 28, 28), out=40, kernel=3, expand=3))
    assert "add" not in names(mbconv((1, 24, 28, 28), out=24, kernel=3, expand=3, stride=2))


def test_a_strided_block_rounds_odd_sides_up():
    assert Graph.of_block(mbconv((1, 24, 37, 37), out=40, kernel=3, expand=3, stride=2, se=True)).output == (1, 40, 19, 19)


def test_the_activation_follows_every_convolution_but_the_projection():
    block = mbconv((1, 24, 28, 28), out=24, kernel=3, expand=3, act="hswish")
    assert [node.op.act for node in block[:3]] == ["hswish", "hswish", "none"]


def test_the_first_block_of_published_networks_has_no_expansion():
    assert names(mbconv((1, 16, 112, 112), 16, 3, 1, expand_always=False)) == ["depthwise", "project", "add"]
    assert names(mbconv((1, 16, 112, 112), 16, 3, 1)) == ["expand", "depthwise", "project", "add"]


def test_the_head_has_one_batch_norm_and_one_biased_classifier():
    block = mobilenet_head((1, 160, 7, 7), 960, 1280, 1000)
    assert [node.name for node in block if node.norm is not None] == ["expand"]
    assert block[2].op.weights == {"weight": (1280, 960, 1, 1)}
    assert params([block])[0] == 160 * 960 + 2 * 960 + 960 * 1280 + 1280 * 1000 + 1000
    assert macs([block])[0] == 49 * 160 * 960 + 960 * 1280 + 1280 * 1000


def test_a_chain_prefixes_names_and_connects_the_parts():
    first = conv_bn_act((1, 3, 32, 32), 16, stride=2)
    whole = chain(first, mbconv((1, 16, 16, 16), 16, 3, 1))
    assert names(whole) == ["0.conv", "1.expand", "1.depthwise", "1.project", "1.add"]
    assert whole[1].inputs == ("0.conv",) and whole[4].inputs == ("1.project", "0.conv")
    assert Graph.of_block(whole).output == (1, 16, 16, 16)


def test_equal_arguments_give_the_same_object():
    assert mbconv((1, 24, 28, 28), 24, 3, 3) is mbconv((1, 24, 28, 28), 24, 3, 3)
