"""hwnas/spaces/mnasnet.py: against its authors' figures, torchvision and timm, and a space whose blocks hang together by their widths."""

import numpy as np
import pytest
import torchvision

from hwnas.costs import macs
from hwnas.exact import pareto_front
from hwnas.index import BlockIndex, Count
from hwnas.predictor import Additive
from hwnas.spaces.mnasnet import BLOCKS, mnasnet
from hwnas.verbs.space import show_space
from tests.test_spaces import assert_same_network, lowered


def test_mnasnet_b1_is_torchvisions():
    space = mnasnet()
    assert_same_network(space.lower(space.encode(space.references["mnasnet_b1_224"])), torchvision.models.mnasnet1_0())


@pytest.mark.parametrize(("reference", "name"), [("a1", "semnasnet_100"), ("small", "mnasnet_small"), ("b1", "mnasnet_100")])
def test_mnasnet_is_timms(reference, name):
    timm = pytest.importorskip("timm", reason="timm comes with the extra 'timm'")
    assert_same_network(lowered(mnasnet(resolutions=(96, 224)), f"mnasnet_{reference}_224", 96), timm.create_model(name))


def test_mnasnet_a1_has_the_published_macs_at_every_resolution():
    # the README's text says 312 M and its table, by the resolution, 315.2 M and on: within 4 % of the table, and of each other the same
    shown = show_space("mnasnet(resolutions=(96, 128, 160, 192, 224))")["references"]
    a1 = {each["name"]: each for each in shown if "a1" in each["name"]}
    assert len(a1) == 5 and all(abs(each["macs_difference_pct"]) < 4 for each in a1.values())
    assert {round(each["params"] / 1e6, 1) for each in a1.values()} == {3.9}


def test_an_mnasnet_layer_of_each_operation_skips_where_it_is_asked_to():
    space = mnasnet(resolutions=(32,))
    for operation in ("conv", "sepconv", "mb3", "mb6"):
        for skip in ("none", "identity"):
            values = space.decode(space.largest()) | {f"block{b}.{what}": value for b in range(1, 8) for what, value in (("op", operation), ("skip", skip))}
            added = {each.layer for each in space.lower(space.encode(values)).nodes if each.node.name == "add"}
            repeated = {layer.name for layer in space.layers if "layer" in layer.name and not layer.name.endswith("layer0")}
            assert added == (repeated if skip == "identity" else set())


def test_mnasnet_is_counted_and_bounded_exactly_though_every_block_reads_the_width_before_it():
    index = BlockIndex(mnasnet(resolutions=(96,)))
    # stem; of each block operation, kernel, squeeze-and-excite, skip, filters and layers, all of which are read by a layer that runs
    expected = 2
    for _, filters, depths in BLOCKS:
        expected *= 4 * 2 * 2 * 2 * len(filters) * len(depths)
    assert index.encodings() == Count(expected, exact=True)
    prices = macs(index.blocks)
    work = Additive(index, prices, name="macs", unit="MACs")
    worth = Additive(index, np.sqrt(prices) * np.exp(0.3 * np.random.default_rng(0).standard_normal(len(prices))), name="worth", unit="")
    front = pareto_front(worth, work)
    least, greatest = work.bounds()[0].value, worth.bounds()[1].value
    assert front.costs[0] == least and front.values[-1] == greatest
    codes = index.space.sample(np.random.default_rng(0), 20_000)
    values, costs = worth(codes), work(codes)
    assert least <= costs.min() and greatest >= values.max()
    for row in np.linspace(0, len(front) - 1, 20).astype(int):
        assert values[costs <= front.costs[row]].max(initial=0) <= front.values[row]
