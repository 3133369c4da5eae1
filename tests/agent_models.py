"""Small models for agents of any transport, what a profile recorded, and what an agent says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.profiling.agent import Burst, started_agent
from hwnas.profiling.record import FILE, Record
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.store import Store
from hwnas.weights import random_weights


def conv_model(out=4, runtime=onnxruntime):
    graph = Graph.of_block((Node("conv", Conv2d((1, 3, 8, 8), out=out, kernel=3), ("in0",)),))
    return runtime().build(graph, random_weights(graph, np.random.default_rng(0)))


def recorded(folder: Path):
    with Store(folder / FILE, write=False) as store:
        return Record(store)


def greeted(device):
    """What the agent over there says of itself, after one visit."""
    with started_agent(device, onnxruntime(), threads=1, seed=0) as agent:
        agent.load("a", conv_model())
        (visit,) = agent.visit(["a"], {"a": Burst(1, 3)})
        assert len(visit.ns) == 3
        return agent.identity
