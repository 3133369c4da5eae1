"""hwnas/profiling/precision.py: what an agent must tell before a latency is that of a precision; and what the real one tells."""

from dataclasses import replace

import numpy as np
import pytest

from hwnas.blocks import mbconv, mobilenet_head
from hwnas.device import load_device
from hwnas.graph import Graph
from hwnas.profiling.agent import started_agent
from hwnas.profiling.precision import other_precision
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.variant import Variant
from hwnas.weights import random_weights

BLOCK = mbconv((1, 8, 6, 6), 8, 3, 2, act="hswish", se=True)  # five convolutions


@pytest.mark.parametrize(
    ("precision", "facts", "reason"),
    [
        ("fp32", {}, None),
        ("fp32", {"provider": "CPU"}, None),
        ("fp32", {"computed_in_float32": 5}, None),
        ("fp32", {"computed_in_bfloat16": 5}, "of 5 convolutions or matrix products in float32 it computes 5 in bfloat16"),
        ("fp16", {}, "the runtime does not tell in which precision it computes"),
        ("fp16", {"computed_in_float16": "yes"}, "the runtime does not tell in which precision it computes"),
        ("fp16", {"computed_in_float16": 5}, None),
        ("fp16", {"computed_in_float16": 4, "computed_in_float32": 1}, "of 5 convolutions or matrix products in float16 it computes 1 in float32"),
        ("bf16", {"computed_in_float16": 5}, "of 5 convolutions or matrix products in bfloat16 it computes 5 in float16"),
        ("int8_u8s8", {"computed_in_uint8": 4, "computed_in_int8": 1}, None),
        ("int8_s8s8", {"computed_in_uint8": 3}, "of 5 convolutions or matrix products in int8 it computes 2 in another type"),
    ],
)
def test_a_precision_counts_where_all_convolutions_are_computed_in_it(precision, facts, reason):
    assert other_precision(Graph.of_block(Variant(precision).block(BLOCK)), facts) == reason


def test_a_block_of_two_precisions_is_measured_where_both_are_kept():
    first, *rest = BLOCK
    graph = Graph.of_block((*Variant("int8_u8s8").block((first,)), *rest))
    assert other_precision(graph, {"computed_in_uint8": 1, "computed_in_float32": 4}) is None
    assert other_precision(graph, {"computed_in_float32": 5}) is not None


@pytest.mark.parametrize("which", ["Python", "C++"])
def test_the_agent_tells_in_which_type_its_kernels_read(which, request):
    device, found = load_device("localhost"), {}
    if which == "C++":
        device = replace(device, agent=str(request.getfixturevalue("native_agent")))
    with started_agent(device, onnxruntime(), threads=1, seed=0) as agent:
        for precision in ("fp32", "int8_u8s8", "int8_s8s8"):
            for name, block in (("block", BLOCK), ("head", mobilenet_head((1, 8, 4, 4), 16, 16, 4))):
                graph = Graph.of_block(Variant(precision).block(block))
                found[precision, name] = agent.load(precision + name, onnxruntime().build(graph, random_weights(graph, np.random.default_rng(0))))
    found = {key: {name: n for name, n in facts.items() if name.startswith("computed_in_")} for key, facts in found.items()}
    assert found["fp32", "block"] == {}  # nothing has to be told
    assert found["int8_u8s8", "block"] == {"computed_in_uint8": 5} and found["int8_u8s8", "head"] == {"computed_in_uint8": 3}
    assert set(found["int8_s8s8", "block"]) == {"computed_in_float32"}
