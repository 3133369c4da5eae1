"""hwnas/testing.py: everything registered passes, and each rule catches what breaks it."""

import itertools

import numpy as np
import pytest

from hwnas import registry, testing
from hwnas.errors import CheckFailed, MissingExtra
from hwnas.graph import IDENTITY, Node
from hwnas.ops import Add, Conv2d, Flatten, GlobalPool, Linear
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.testing import check_backend, check_space

SHAPE = (1, 4, 5, 5)
C = Choice("c", (0, 1))


def conv(name="conv", norm=None, shape=SHAPE, out=4, source="in0", **attributes):
    return Node(name, Conv2d(shape, out=out, **attributes), (source,), norm)


def space(*builders, references=(), after=()):
    """A space of one binary choice and one layer per builder (value -> block)."""
    after = dict(after)
    layers = [Layer(f"l{i}", (C,), build, after.get(i)) for i, build in enumerate(builders)]
    return SearchSpace("s", (C,), layers, dict(references))


@pytest.mark.parametrize("name", registry.names("backends"))
def test_every_registered_backend_conforms(name):
    try:
        check_backend(name)
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", registry.names("spaces"))
def test_every_registered_space_conforms(name):
    space = registry.create("spaces", name)
    largest = space.decode(space.largest()) | ({"resolution": space.choices[space.column["resolution"]].values[0]} if "resolution" in space.column else {})
    if sum(op.macs for op in space.lower(space.encode(largest)).ops) > 1e9:  # minutes of the reference interpreter: fewer pixels, whose halves are odd as well
        space = registry.create("spaces", f"{name}(resolutions=(40,))")
    check_space(space, samples=15)


def test_a_conforming_space_passes():
    check_space(space(lambda v: (conv(kernel=1 + 2 * v),), lambda v: (conv(),) if v else IDENTITY, references={"first": {"c": 0}}))


def test_shapes_that_do_not_connect_are_named():
    with pytest.raises(CheckFailed, match=r"s: the largest architecture does not connect: l1/conv expects \(1, 4, 5, 5\) but receives \(1, 6, 5, 5\)"):
        check_space(space(lambda v: (conv(out=6 if v else 4),), lambda v: (conv(),)))


def test_a_builder_that_cannot_build_is_named():
    with pytest.raises(CheckFailed, match=r"s: layer l0 builds no block from \(c=0\): conv2d: kernel must be odd"):
        check_space(space(lambda v: (conv(kernel=2),)))


def test_a_layer_that_remembers_is_impure():
    calls = itertools.count()
    with pytest.raises(CheckFailed, match="layer l0 builds two different blocks from equal values"):
        check_space(space(lambda v: (conv(kernel=1 + 2 * (next(calls) % 3)),)))


def test_a_layer_that_nothing_reads_must_be_absent():
    builders = (lambda v: (conv(),), lambda v: (conv(),))
    with pytest.raises(CheckFailed, match=r"macs of the smallest architecture is 800 summed over its blocks but 400 in the lowered network"):
        check_space(space(*builders, after={1: ("input",)}))


def test_a_dead_node_inside_a_block_is_found():
    with pytest.raises(CheckFailed, match="macs of the smallest architecture"):
        check_space(space(lambda v: (conv("dead", kernel=3), conv())))


@pytest.mark.parametrize(
    "other",
    [
        lambda: conv(groups=4),  # depthwise beside dense
        lambda: conv(groups=2),
        lambda: conv(norm=1e-5),
        lambda: conv(bias=False),
    ],
)
def test_one_name_for_weights_of_two_kinds_is_refused(other):
    with pytest.raises(CheckFailed, match="two blocks of layer l0 use the node name 'conv' for weights that differ in more than sizes"):
        check_space(space(lambda v: (other() if v else conv(),)))


def test_one_name_for_weights_of_two_sizes_is_what_a_supernet_shares():
    check_space(space(lambda v: (conv("expand", out=8 + 8 * v), conv("project", shape=(1, 8 + 8 * v, 5, 5), source="expand"))))


def test_a_reference_that_is_no_point_of_the_space_is_refused():
    with pytest.raises(CheckFailed, match="c is 7, must be one of"):
        check_space(space(lambda v: (conv(),), references={"paper": {"c": 7}}))


def test_a_price_that_is_not_additive_is_found():
    def squared(blocks):
        return np.array([float(len(blocks)) for _ in blocks])

    with pytest.raises(CheckFailed, match="squared of the smallest architecture"):
        check_space(space(lambda v: (conv(kernel=1 + 2 * v),)), prices=(squared,))


def broken(monkeypatch, wrong):
    """Registers a backend that computes `wrong(output, images)` of the right output."""
    from hwnas.backends.numpy import numpy

    def backend(graph, weights):
        run = numpy(graph, weights)
        return lambda images: wrong(run(images), images)

    load = registry.load
    monkeypatch.setattr(testing.registry, "load", lambda catalogue, name: backend if name == "broken" else load(catalogue, name))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y, x: y * np.float32(1.001), "differs from the reference by"),
        (lambda y, x: y * np.float32(np.nan), "differs from the reference by nan"),
        (lambda y, x: y.astype(np.float64), "returns float64"),
        (lambda y, x: y[:1, :1], "returns float32"),
        (lambda y, x: np.copyto(x, 0) or y, "writes into its input"),
    ],
)
def test_a_backend_that_errs_is_caught(monkeypatch, wrong, message):
    broken(monkeypatch, wrong)
    with pytest.raises(CheckFailed, match=f"backend broken {message}"):
        check_backend("broken")


def test_a_backend_that_lacks_an_operator_is_caught(monkeypatch):
    from hwnas.backends import onnx

    monkeypatch.delitem(onnx.EMITTERS, Flatten)
    with pytest.raises(CheckFailed, match=r"op = flatten.float32 .*: backend onnx refuses it: block/op: the ONNX backend has no form of flatten"):
        check_backend("onnx")


def test_an_operator_kind_without_a_case_is_named(monkeypatch):
    monkeypatch.setitem(testing.KINDS, "attention", Linear)
    with pytest.raises(CheckFailed, match=r"operator kind attention has no case in hwnas\.testing"):
        check_backend("numpy")


def test_each_kind_of_operator_is_checked_by_cases_of_that_kind():
    for kind, cases in testing._CASES.items():
        assert all(kind in {node.op.kind for node in block} for block in cases())
    assert {node.op.act for block in testing._CASES["conv2d"]() for node in block} == {"none", "relu", "relu6", "hswish", "hsigmoid", "swish", "sigmoid"}


def test_joins_of_several_layers_pass_the_check():
    join = (Node("add", Add(SHAPE), ("in0", "in1")), Node("pool", GlobalPool(SHAPE), ("add",)))
    branches = {0: ("input",), 1: ("input",), 2: ("l0", "l1")}
    check_space(space(lambda v: (conv(kernel=1 + 2 * v),), lambda v: (conv(kernel=3),), lambda v: join, after=branches))
