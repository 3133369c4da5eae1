"""hwnas/weights.py: names, folding by hand, and random weights that keep activations in range."""

import numpy as np
import pytest

from hwnas.backends.numpy import at_unit_scale, numpy
from hwnas.errors import InputError
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d, Linear
from hwnas.spaces.efficientnet import efficientnet
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.weights import check, fold, random_weights, shapes

NORMED = Graph.of_block((Node("conv", Conv2d((1, 1, 2, 2), out=2), ("in0",), 0.5),))


def arrays(**values):
    return {name.replace("__", "/").replace("_", "."): np.array(value, np.float32) for name, value in values.items()}


def test_tensors_are_named_by_layer_node_and_role():
    graph = Graph([("a", (Node("conv", Conv2d((1, 3, 4, 4), out=2), ("in0",), 1e-5),), None), ("b", (Node("c", Conv2d((1, 2, 4, 4), out=1), ("in0",)),), None)])
    assert shapes(graph) == {
        "a/conv.weight": (2, 3, 1, 1),
        "a/conv.norm.weight": (2,),
        "a/conv.norm.bias": (2,),
        "a/conv.norm.mean": (2,),
        "a/conv.norm.var": (2,),
        "b/c.weight": (1, 2, 1, 1),
        "b/c.bias": (1,),
    }


def test_folding_by_hand():
    weights = arrays(
        block__conv_weight=np.array([3, 5]).reshape(2, 1, 1, 1),
        block__conv_norm_weight=[2, -1],
        block__conv_norm_bias=[10, 20],
        block__conv_norm_mean=[4, 8],
        block__conv_norm_var=[0.5, 3.5],
    )
    # scale = gamma / sqrt(var + 0.5) = 2 / 1 and -1 / 2; weight * scale; beta - mean * scale
    folded = fold(NORMED, weights)
    assert folded["block/conv.weight"].ravel().tolist() == [6, -2.5]
    assert folded["block/conv.bias"].tolist() == [10 - 8, 20 + 4]
    assert set(folded) == {"block/conv.weight", "block/conv.bias"}


def test_folding_leaves_operators_without_batch_norm_alone():
    graph = Graph.of_block((Node("linear", Linear((1, 2), out=2), ("in0",)),))
    weights = random_weights(graph, np.random.default_rng(0))
    folded = fold(graph, weights)
    assert set(folded) == set(weights) and all((folded[name] == weights[name]).all() for name in weights)


def test_missing_and_misshapen_weights_are_named():
    weights = random_weights(NORMED, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"the weights lack 'block/conv.norm.var'"):
        fold(NORMED, {name: array for name, array in weights.items() if not name.endswith("var")})
    with pytest.raises(InputError, match=r"'block/conv.weight' of shape \(2, 1, 3, 3\), the network needs \(2, 1, 1, 1\)"):
        check(NORMED, weights | {"block/conv.weight": np.zeros((2, 1, 3, 3), np.float32)})


@pytest.mark.parametrize("space", [ofa_mobilenet_v3(resolutions=(128,)), ofa_mini()], ids=["ofa_mobilenet_v3", "ofa_mini"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_keep_activations_between_denormals_and_saturation(space, seed):
    rng = np.random.default_rng(seed)
    for code in (space.smallest(), space.sample(rng)):
        graph = space.lower(code)
        weights = random_weights(graph, rng)
        assert all(array.dtype == np.float32 for array in weights.values())
        logits = numpy(graph, weights)(rng.normal(0, 1, graph.input).astype(np.float32))
        assert 1e-3 < logits.std() < 1e2


def test_random_batch_norm_statistics_are_not_trivial():
    weights = random_weights(NORMED, np.random.default_rng(0))
    for role, trivial in (("weight", 1), ("bias", 0), ("mean", 0), ("var", 1)):
        assert (weights[f"block/conv.norm.{role}"] != trivial).all()


def test_random_weights_follow_their_seed():
    first, second, other = (random_weights(NORMED, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert all((first[name] == second[name]).all() for name in first)
    assert not (first["block/conv.weight"] == other["block/conv.weight"]).all()


def normed_scales(graph, weights, images):
    """Root mean square of what each batch norm writes."""
    seen = {}
    numpy(graph, weights, lambda name, value: seen.setdefault(name, float(np.sqrt((value**2).mean()))))(images)
    return np.array([seen[f"{each.name}.linear"] for each in graph.nodes if each.node.norm is not None])


def test_statistics_of_the_activations_keep_a_network_of_55_blocks_at_unit_scale():
    space = efficientnet(resolutions=(64,))
    graph = space.lower(space.encode({"resolution": 64, "width": 1.0, "depth": 3.1}))
    assert len({each.layer for each in graph.nodes}) == 1 + 55 + 1
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        weights, images = random_weights(graph, rng), rng.normal(0, 1, graph.input).astype(np.float32)
        scaled = at_unit_scale(graph, weights, images)
        # each norm's scale is uniform in 0.5 to 1.5, its relative variance too: about 1 but for what few channels make of them
        scales = normed_scales(graph, scaled, images)
        assert scales.min() > 0.7 and scales.max() < 1.8
        before = normed_scales(graph, weights, images)
        assert before.max() / before.min() > 2 * scales.max() / scales.min()
        assert {name for name in weights if (weights[name] != scaled[name]).any()} <= {name for name in weights if name.endswith(("norm.mean", "norm.var"))}


def test_a_norm_that_nothing_arrives_at_keeps_its_statistics():
    weights = random_weights(NORMED, np.random.default_rng(0))
    scaled = at_unit_scale(NORMED, weights, np.zeros(NORMED.input, np.float32))
    assert all((weights[name] == scaled[name]).all() for name in weights)
