"""hwnas/ops/: shapes, weights and multiply-accumulates by hand; texts there and back."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.ops import KINDS, Activation, Add, Affine, AvgPool, ChannelShuffle, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul, Zero, parse_op
from hwnas.ops.op import ACTIVATIONS, DTYPES

sizes = st.integers(1, 64)
dtypes = st.sampled_from(DTYPES)
acts = st.sampled_from(ACTIVATIONS)
images = st.tuples(sizes, sizes, sizes, sizes)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from((1, 2, 3, 8)))
    n, c, h, w = draw(images)
    return Conv2d(
        (n, c * groups, h, w),
        out=groups * draw(sizes),
        kernel=draw(st.sampled_from((1, 3, 5, 7))),
        stride=draw(st.integers(1, 4)),
        groups=groups,
        bias=draw(st.booleans()),
        act=draw(acts),
        dtype=draw(dtypes),
    )


@st.composite
def pools(draw):
    kernel = draw(st.integers(1, 5))
    side = st.integers(kernel, 64)
    kind, shape = draw(st.sampled_from((MaxPool, AvgPool))), (draw(sizes), draw(sizes), draw(side), draw(side))
    return kind(shape, kernel, draw(st.integers(1, 4)), draw(st.integers(0, kernel // 2)), draw(st.booleans()), draw(dtypes))


@st.composite
def shuffles(draw):
    n, c, h, w = draw(images)
    groups = draw(st.integers(1, 4))
    return ChannelShuffle((n, c * groups, h, w), groups, draw(dtypes))


operators = st.one_of(
    pools(),
    shuffles(),
    convolutions(),
    st.builds(Linear, st.tuples(sizes, sizes), out=sizes, bias=st.booleans(), act=acts, dtype=dtypes),
    st.builds(GlobalPool, images, dtype=dtypes),
    st.builds(Add, st.one_of(images, st.tuples(sizes, sizes)), act=acts, dtype=dtypes),
    st.builds(Mul, st.one_of(images, st.tuples(sizes, sizes)), dtype=dtypes),
    st.builds(Flatten, images, dtype=dtypes),
    st.builds(Activation, st.one_of(images, st.tuples(sizes, sizes)), act=st.sampled_from(ACTIVATIONS[1:]), dtype=dtypes),
    st.builds(Affine, images, act=st.sampled_from(ACTIVATIONS), dtype=dtypes),
    st.builds(Zero, st.one_of(images, st.tuples(sizes, sizes)), dtype=dtypes),
)


@given(operators)
def test_every_operator_survives_its_text(op):
    assert parse_op(str(op)) == op


@given(operators, operators)
def test_operators_are_equal_exactly_when_their_texts_are(first, second):
    assert (first == second) == (str(first) == str(second))
    assert first != second or hash(first) == hash(second)


def test_the_vocabulary_is_the_classes_by_their_kind():
    assert {name: op.__name__ for name, op in KINDS.items()} == {
        "conv2d": "Conv2d", "linear": "Linear", "global_pool": "GlobalPool", "max_pool": "MaxPool", "avg_pool": "AvgPool",
        "add": "Add", "mul": "Mul", "flatten": "Flatten", "channel_shuffle": "ChannelShuffle",
        "activation": "Activation", "affine": "Affine", "zero": "Zero",
    }  # fmt: skip


def test_an_activation_by_itself_is_one_and_a_batch_norm_by_itself_has_two_numbers_a_channel():
    for refused in (lambda: Activation((1, 2), act="none"), lambda: Affine((1, 2)), lambda: Affine((1, 2, 3, 3), act="step")):
        with pytest.raises(ValueError, match=r"must be one of|takes \(n, c, h, w\)"):
            refused()
    op = Affine((2, 3, 5, 4), act="relu")
    assert op.weights == {"weight": (3,), "bias": (3,)} and op.output == op.input and op.macs == 0


def test_a_text_leaves_defaults_out():
    assert str(Conv2d((1, 3, 224, 224), out=16)) == "conv2d.float32 1x3x224x224 out=16"
    op = Conv2d((1, 96, 14, 14), out=96, kernel=5, stride=2, groups=96, bias=False, act="hswish", dtype="int8_u8s8")
    assert str(op) == "conv2d.int8_u8s8 1x96x14x14 out=96 k=5 s=2 g=96 bias=0 act=hswish"


def test_a_convolution_counts_one_product_per_weight_and_output_position():
    op = Conv2d((2, 3, 9, 7), out=8, kernel=3, stride=2)
    assert op.output == (2, 8, 5, 4)  # 9 / 2 and 7 / 2, rounded up
    assert op.weights == {"weight": (8, 3, 3, 3), "bias": (8,)}
    assert op.macs == 2 * 5 * 4 * 8 * 3 * 3 * 3


def test_a_depthwise_convolution_sees_one_channel_each():
    op = Conv2d((1, 16, 8, 8), out=16, kernel=5, groups=16, bias=False)
    assert op.is_depthwise
    assert op.weights == {"weight": (16, 1, 5, 5)}
    assert op.macs == 16 * 8 * 8 * 25
    assert not Conv2d((1, 16, 8, 8), out=32, groups=16).is_depthwise


def test_a_linear_layer_counts_its_matrix():
    op = Linear((3, 10), out=4)
    assert (op.output, op.weights, op.macs) == ((3, 4), {"weight": (4, 10), "bias": (4,)}, 3 * 10 * 4)
    assert Linear((3, 10), out=4, bias=False).weights == {"weight": (4, 10)}


def test_operators_without_weights_cost_no_products():
    for op, output in ((GlobalPool((2, 3, 4, 5)), (2, 3, 1, 1)), (Flatten((2, 3, 4, 5)), (2, 60)), (Add((2, 3)), (2, 3)), (Mul((1, 2, 3, 4)), (1, 2, 3, 4))):
        assert (op.output, op.weights, op.macs) == (output, {}, 0)


@pytest.mark.parametrize(
    ("op", "output", "pads"),
    [
        (MaxPool((1, 4, 7, 8), kernel=3, stride=2, padding=1), (4, 4), (1, 1, 1, 0)),  # (7 + 2 - 3) / 2 + 1; 8: 3.5 + 1, rounded down
        (MaxPool((1, 4, 7, 8), kernel=2, stride=2), (3, 4), (0, 0, 0, 0)),  # the seventh row is in no window
        (AvgPool((1, 4, 7, 8), kernel=2, stride=2, ceil=True), (4, 4), (0, 0, 1, 0)),  # it is, with nothing below it
        (AvgPool((1, 4, 7, 8), kernel=1, stride=3, ceil=True), (3, 3), (0, 0, 0, 0)),  # 8: rounded up 4, but the last window begins behind the image
    ],
)
def test_windows_are_counted_as_pytorch_counts_them(op, output, pads):
    assert (op.output, op.pads, op.macs, op.weights) == ((1, 4, *output), pads, 0, {})


def test_a_pools_text_says_what_differs_from_the_defaults():
    assert str(MaxPool((1, 64, 112, 112), kernel=3, stride=2, padding=1)) == "max_pool.float32 1x64x112x112 k=3 s=2 p=1"
    assert str(AvgPool((1, 64, 7, 7), kernel=2, stride=2, ceil=True)) == "avg_pool.float32 1x64x7x7 k=2 s=2 ceil=1"
    assert str(ChannelShuffle((1, 64, 7, 7), groups=2)) == "channel_shuffle.float32 1x64x7x7 g=2"
    assert str(Add((1, 8, 7, 7), act="relu")) == "add.float32 1x8x7x7 act=relu"


def test_a_gate_has_one_value_per_channel():
    assert Mul((2, 8, 5, 5)).inputs == ((2, 8, 5, 5), (2, 8, 1, 1))
    assert Mul((2, 8)).inputs == ((2, 8), (2, 8))
    assert Add((2, 8, 5, 5)).inputs == ((2, 8, 5, 5), (2, 8, 5, 5))


def test_an_operator_is_a_value():
    with pytest.raises(FrozenInstanceError):
        Linear((1, 2), out=3).out = 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2d((1, 3, 8, 8), out=8, kernel=2), "kernel must be odd"),
        (lambda: Conv2d((1, 3, 8, 8), out=8, groups=2), "groups=2 must divide input channels 3"),
        (lambda: Conv2d((3, 8, 8), out=8), r"takes \(n, c, h, w\)"),
        (lambda: Conv2d((1, 3, 8, 8), out=0), "positive"),
        (lambda: Conv2d((1, 3, 8, 8), out=8, act="gelu"), "act=gelu must be one of"),
        (lambda: Conv2d((1, 3, 8, 8), out=8, dtype="float8"), "dtype=float8"),
        (lambda: Conv2d((1, 3, 0, 8), out=8), "every axis of the input must be positive"),
        (lambda: Linear((1, 3, 4), out=8), r"takes \(n, features\)"),
        (lambda: GlobalPool((1, 3)), r"takes \(n, c, h, w\)"),
        (lambda: MaxPool((1, 3), kernel=2), r"max_pool takes \(n, c, h, w\)"),
        (lambda: AvgPool((1, 3, 8, 8), kernel=3, padding=2), "padding at most half the kernel; got k=3 s=1 p=2"),
        (lambda: MaxPool((1, 3, 2, 8), kernel=3), "a window of 3 does not fit"),
        (lambda: ChannelShuffle((1, 6, 8, 8), groups=4), "groups that divide c"),
        (lambda: Add((1, 6), act="gelu"), "add: act=gelu must be one of"),
    ],
)
def test_an_operator_that_cannot_exist_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "conv2d",
        "conv2d.float32",
        "conv3d.float32 1x3x8x8 out=4",
        "conv2d.float33 1x3x8x8 out=4",
        "conv2d.float32 1x3x8 out=4",
        "conv2d.float32 1x3xax8 out=4",
        "conv2d.float32 1x3x8x8",
        "conv2d.float32 1x3x8x8 out=4 size=2",
        "conv2d.float32 1x3x8x8 out=-4",
        "conv2d.float32 1x3x8x8 k=3 out=4",  # another order would be another key
        "conv2d.float32 1x3x8x8 out=4 k=1",  # a default is left out
        "conv2d.float32 1x3x8x8 out=4 out=4",
        "conv2d.float32 1x3x8x8 out=0_4",
        " conv2d.float32 1x3x8x8 out=4",
        "linear.float32 1x3 out=" + "9" * 5000,
    ],
)
def test_a_text_that_is_no_operator_is_refused(text):
    with pytest.raises(InputError):
        parse_op(text)
