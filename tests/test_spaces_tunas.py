"""hwnas/spaces/: the spaces of TuNAS, whose widths chain all blocks, against its source and against torchvision."""

import pytest
import torchvision

from hwnas.costs import macs
from hwnas.index import BlockIndex, Count
from hwnas.predictor import Additive
from hwnas.spaces.mobilenet_v3_like import mobilenet_v3_like
from hwnas.spaces.proxylessnas import proxylessnas
from hwnas.spaces.proxylessnas_enlarged import proxylessnas_enlarged
from hwnas.verbs.space import show_space
from tests.test_spaces import assert_same_network, costs, lowered

# widths of tunas' scale_filters: 16 x 0.5 = 8, x 0.625 = 10 -> 8, x 0.75 = 12 -> 16, x 1.25 = 20 -> 24, ...
WIDTHS = {
    16: (8, 16, 24, 32),
    32: (16, 24, 32, 40, 48, 64),
    64: (32, 40, 48, 64, 80, 96, 128),
    128: (64, 80, 96, 128, 160, 192, 256),
    256: (128, 160, 192, 256, 320, 384, 512),
    512: (256, 320, 384, 512, 640, 768, 1024),
    1024: (512, 640, 768, 1024, 1280, 1536, 2048),
}


def test_proxylessnas_enlarged_has_the_choices_of_tunas():
    space = proxylessnas_enlarged()
    widths = [choice.values for choice in space.choices if choice.name.endswith("filters")]
    assert widths == [WIDTHS[base] for base in (16, 16, 16, 32, 64, 128, 256, 512, 1024)]
    # tunas' own count, "around 10^28": nine widths, the first kernel, 6 fixed blocks and 15 that may be left out
    of_widths = 4**3 * 6 * 7**5
    assert space.size == of_widths * 3 * (3 * 2) ** 6 * (2 * 3 * 2) ** 15 == pytest.approx(1.4e28, rel=0.02)
    assert BlockIndex(space).encodings() == Count(of_widths * 3 * 6**6 * 7**15, exact=True)


def test_mobilenet_v3_like_has_the_choices_of_tunas():
    space = mobilenet_v3_like()
    widths = [choice.values for choice in space.choices if choice.name.endswith(("filters", "head.expand", "features"))]
    assert widths == [WIDTHS[base] for base in (16, 16, 32, 64, 128, 256, 512, 1024)]
    of_widths = 4**2 * 6 * 7**5
    assert space.size == of_widths * 2 * (2 * 3) * (3 * 6 * 2) ** 5 * (2 * 3 * 6 * 2) ** 15 == pytest.approx(8.5e42, rel=0.01)  # "around 10^43"
    assert BlockIndex(space).encodings() == Count(of_widths * 2 * 4 * 36**5 * 37**15, exact=True)


def test_mnasnet_b1_in_proxylessnas_enlarged_is_torchvisions():
    space = proxylessnas_enlarged(resolutions=(96, 224))
    assert_same_network(lowered(space, "mnasnet_b1", 96), torchvision.models.mnasnet1_0())
    assert costs(space, "mnasnet_b1")[1] == sum(each.numel() for each in torchvision.models.mnasnet1_0().parameters())


def test_networks_of_the_literature_cost_in_proxylessnas_enlarged_what_they_cost_elsewhere():
    space = proxylessnas_enlarged()
    assert costs(space, "proxyless_mobile") == costs(proxylessnas(), "proxyless_mobile")
    assert costs(space, "mobilenet_v2")[1] == sum(each.numel() for each in torchvision.models.mobilenet_v2().parameters())
    for shown in show_space("proxylessnas_enlarged")["references"]:
        assert abs(shown["macs_difference_pct"]) < 0.5 and abs(shown["params_difference_pct"]) < 1.1, shown["name"]


def test_a_block_of_mobilenet_v3_like_has_its_gate_and_its_shortcut_where_it_should():
    space = mobilenet_v3_like(resolutions=(32,))
    nodes = [each for each in space.lower(space.largest()).nodes if each.layer in ("stage3.block0", "stage3.block1")]
    named = {each.name: each.op for each in nodes}
    assert "stage3.block0/add" not in named and "stage3.block1/add" in named
    width, middle = 128, 6 * 128
    assert named["stage3.block1/expand"].out == named["stage3.block1/se.expand"].out == middle and named["stage3.block1/project"].out == width
    assert named["stage3.block1/se.reduce"].out == middle // 4  # tunas: make_divisible(middle / 4, 8)
    assert (named["stage3.block1/se.expand"].act, named["stage3.block1/depthwise"].act) == ("sigmoid", "hswish")
    without = space.decode(space.largest()) | {"stage3.block1.presence": "skip", "stage3.block2.se": 0}
    layers = {(each.layer, each.node.name) for each in space.lower(space.encode(without)).nodes}
    assert not any(layer == "stage3.block1" for layer, _ in layers) and ("stage3.block2", "se.pool") not in layers


def test_the_least_macs_of_a_chain_of_widths_are_those_of_its_smallest_network():
    index = BlockIndex(mobilenet_v3_like(resolutions=(64,)))
    work = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    least, greatest = work.bounds()
    assert least.value == work(index.space.smallest())[0] and greatest.value == work(index.space.largest())[0]
