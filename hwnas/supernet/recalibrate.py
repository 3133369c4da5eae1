"""Batch-norm re-calibration: statistics of inherited weights are another subnet's, so each subnet's are measured anew."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from hwnas.backends.torch import Network


def recalibrated(network: Network, batches: Iterable[Tensor]) -> Network:
    """The same network, in evaluation mode, over running statistics of its own: averages over the batches.

    As OFA's `set_running_statistics`: each batch is normalised with its own statistics; the running mean is the
    sample-weighted mean of batch means and the running variance that of the *biased* batch variances. Weights stay shared.
    batches: normalised images (n, c, h, w).
    """
    area = {f"{each.name}.norm.var": prod(each.op.output[2:]) for each in network.graph.nodes if each.node.norm is not None}
    names = [name for name in network.tensors if name.endswith((".norm.mean", ".norm.var"))]
    batch_statistics = {name: torch.zeros_like(network.tensors[name]) for name in names}
    sums = {name: torch.zeros_like(network.tensors[name]) for name in names}
    probe = Network(network.graph, network.tensors | batch_statistics, network.sources).train()
    probe.momentum = 1.0  # the running statistics become the batch's own
    seen = 0
    with torch.no_grad():
        for batch in batches:
            probe(batch)
            for name in names:
                m = len(batch) * area.get(name, 1)
                biased = (m - 1) / m if name in area else 1.0  # torch keeps the unbiased variance
                sums[name].add_(batch_statistics[name], alpha=len(batch) * biased)
            seen += len(batch)
    return Network(network.graph, network.tensors | {name: total / seen for name, total in sums.items()}, network.sources).eval()
