"""hwnas/spaces/: each family against what its authors published and against the same networks in torchvision and timm."""

import pytest

from hwnas import registry
from hwnas.costs import macs, params
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.spaces.ofa_proxylessnas import ofa_proxylessnas
from hwnas.spaces.proxylessnas import proxylessnas
from hwnas.verbs.space import show_space


def ends(space, cost, resolution=224):
    """Least and greatest cost of a space's networks at a resolution."""
    index = BlockIndex(space)
    hold = {"resolution": space.choices[space.column["resolution"]].values.index(resolution)}
    return tuple(bound.value for bound in Additive(index, cost(index.blocks), name="cost", unit="").bounds(hold))


def costs(space, name):
    """MACs and parameters of a reference, from its lowered network."""
    block = tuple(each.node for each in space.lower(space.encode(space.references[name])).nodes)
    return macs([block])[0], params([block])[0]


def test_a_reference_is_shown_beside_what_was_published():
    (shown,) = show_space("proxylessnas")["references"]
    assert shown["name"] == "proxyless_mobile" and shown["architecture"]["stage1.block2"] == "zero"
    assert (shown["macs"], shown["params"]) == costs(proxylessnas(), "proxyless_mobile")
    assert (shown["macs_published"], shown["params_published"]) == (320e6, 4_080_512)
    assert shown["macs_difference_pct"] == pytest.approx(100 * (shown["macs"] / 320e6 - 1)) and "README" in shown["source"]


# -- Once-for-All -----------------------------------------------------------------------------------------------------------------


def test_the_ends_of_ofa_proxylessnas_are_those_of_the_official_code():
    # 265 M to 1005 M MACs; the supernet's 7,956,882 parameters hold two kernel transforms in each of 21 blocks, 25^2 + 9^2
    space = ofa_proxylessnas()
    low, high = ends(space, macs)
    assert (low, high) == (pytest.approx(265e6, abs=1e6), pytest.approx(1005e6, abs=1e6))
    assert ends(space, params)[1] == 7_956_882 - 21 * (25**2 + 9**2)


def test_the_sixth_stage_of_ofa_proxylessnas_has_one_block_and_no_depth():
    space = ofa_proxylessnas()
    assert [choice.name for choice in space.choices if choice.name.startswith("stage6")] == ["stage6.block0.kernel", "stage6.block0.expand"]
    assert BlockIndex(space).encodings().n == 9 * 7371**5


# -- ProxylessNAS -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [("mobile", 4_080_512), ("mobile_14", 6_857_568), ("cpu", 4_361_648), ("gpu", 7_119_848)],  # as pytorchcv checks its copies of the released networks
)
def test_released_proxyless_networks_have_their_parameters_to_the_last_one(widths, parameters):
    assert costs(proxylessnas(widths), f"proxyless_{widths}")[1] == parameters


@pytest.mark.parametrize(("widths", "published"), [("mobile", 320), ("mobile_14", 581)])
def test_released_proxyless_networks_have_the_published_macs(widths, published):
    assert round(costs(proxylessnas(widths), f"proxyless_{widths}")[0] / 1e6) == published


def test_proxylessnas_skips_where_the_shape_stays_and_nowhere_else():
    space = proxylessnas()
    fixed = [choice.name for choice in space.choices[1:] if "zero" not in choice.values]
    assert fixed == [f"stage{s}.block0" for s in range(1, 7)] and len(space.choices) == 22
    assert BlockIndex(space).encodings().n == 6**6 * 7**15


def test_proxylessnas_refuses_widths_it_does_not_know():
    with pytest.raises(InputError, match="widths must be one of search, mobile, mobile_14, cpu, gpu, got 'tpu'"):
        proxylessnas("tpu")


def test_the_released_networks_are_of_224_pixels():
    assert not proxylessnas(resolutions=(96, 128)).references and not proxylessnas("search").references
    assert list(registry.create("spaces", "proxylessnas(resolutions=(192, 224))").references) == ["proxyless_mobile"]
