"""Perceptrons of one shape trained side by side: a product of batches of matrices costs little more than one of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hwnas.predictors.accuracy_mlp import Array
from hwnas.space import FloatArray

if TYPE_CHECKING:
    import torch

_BATCH, _RATE, _DECAY = 64, 1e-3, 1.0
_LEAST_STEPS, _LEAST_EPOCHS = 600, 20


def trained(x: Array, values: FloatArray, rows: npt.NDArray[np.intp], hidden: Sequence[int], seed: int) -> list[list[tuple[Array, Array]]]:
    """For each member its layers as (weight (inputs, outputs), bias (outputs,)), ReLU between them, from x (n, d) to values (n,).

    rows: (members, m), what each is trained on, the same row perhaps several times. AdamW on squared errors, half a cosine.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    members, m = rows.shape
    mean, scale = float(values.mean()), float(values.std()) or 1.0
    inputs, target = torch.from_numpy(x), torch.from_numpy(((values - mean) / scale).astype(np.float32))
    sizes = [x.shape[1], *hidden, 1]
    weights = [_uniform((members, n, out), n, generator) for n, out in pairwise(sizes)]
    biases = [_uniform((members, 1, out), n, generator) for n, out in pairwise(sizes)]
    own = torch.from_numpy(rows)
    epochs = max(_LEAST_EPOCHS, round(_LEAST_STEPS / -(-m // _BATCH)))
    optimizer = torch.optim.AdamW([*weights, *biases], lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-m // _BATCH))
    for _ in range(epochs):
        order = torch.stack([one[torch.randperm(m, generator=generator)] for one in own])
        for batch in order.split(_BATCH, dim=1):
            y = inputs[batch]  # (members, batch, d)
            for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                y = torch.baddbmm(bias, y if i == 0 else y.relu(), weight)
            optimizer.zero_grad()
            (y[..., 0] - target[batch]).square().mean(dim=1).sum().backward()
            optimizer.step()
            schedule.step()
    layers = [(weight.detach().numpy(), bias.detach().numpy()[:, 0]) for weight, bias in zip(weights, biases, strict=True)]
    layers[-1] = layers[-1][0] * np.float32(scale), layers[-1][1] * np.float32(scale) + np.float32(mean)
    return [[(weight[i].copy(), bias[i].copy()) for weight, bias in layers] for i in range(members)]


def _uniform(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> torch.Tensor:
    """As PyTorch begins a linear layer. He's larger numbers have half as much again of the error on 500 subnets: one-hot inputs are few at a time."""
    import torch

    drawn: torch.Tensor = (2 * torch.rand(*shape, generator=generator) - 1) * float(inputs) ** -0.5
    return drawn.requires_grad_()
