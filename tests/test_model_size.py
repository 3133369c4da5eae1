"""hwnas/model_size.py: bytes of the exported file, predicted, against files."""

import numpy as np
import pytest

from hwnas import registry
from hwnas.backends.onnx import to_onnx
from hwnas.index import BlockIndex
from hwnas.model_size import model_size
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.variant import Variant
from hwnas.weights import random_weights


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8_u8s8", "int8_s8s8"])
def test_the_predicted_size_is_that_of_the_file(precision):
    """Of small networks, where what describes the tensors is a third of the file or more."""
    index = BlockIndex(ofa_mini(resolutions=(24,)))
    deployed = Variant(precision).index(index)
    size, rng = model_size(index, deployed), np.random.default_rng(3)
    codes = np.asfortranarray(np.concatenate([index.space.smallest(), index.space.largest(), index.space.sample(rng, 3)]))
    for code, predicted in zip(codes, size(codes), strict=True):
        graph = deployed.space.lower(code)
        actual = len(to_onnx(graph, random_weights(graph, rng)).SerializeToString(deterministic=True))
        assert predicted == pytest.approx(actual, rel=0.04), (precision, predicted, actual)


def test_of_a_network_of_millions_of_parameters_it_is_right_to_a_fifth_of_a_percent():
    index = BlockIndex(registry.create("spaces", "ofa_mobilenet_v3(resolutions=(160,))"))
    graph = index.space.lower(index.space.smallest()[0])
    actual = len(to_onnx(graph, random_weights(graph, np.random.default_rng(0))).SerializeToString(deterministic=True))
    assert model_size(index)(index.space.smallest())[0] == pytest.approx(actual, rel=0.002)
