"""The exact expectation of an additive metric when choices are drawn independently, and its gradient, for differentiable search.

ProxylessNAS (Cai et al., 2019) and FBNet (Wu et al., 2019) weigh the latency of each layer's candidates by their probabilities. Here
a layer may read several choices: its table of prices is contracted with the probabilities of all of them. Nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

import numpy as np

from hwnas.errors import InputError
from hwnas.predictor import Additive
from hwnas.space import FloatArray


def expected(metric: Additive, probabilities: Sequence[FloatArray]) -> tuple[float, list[FloatArray]]:
    """(expectation, gradients) of the metric, in its unit, where each choice takes its values with these probabilities, independently.

    probabilities: for each choice of the space, in order, (its values,). gradients: the derivative by each of them, of the same
    shapes, at this point of the polynomial that the expectation is; by the chain rule it gives that by the logits of a softmax.
    Probabilities need not sum to 1: the polynomial is defined beyond. Raises InputError where shapes are wrong or a number is not finite.
    """
    index = metric.index
    given = _checked(metric, probabilities)
    value, gradients = metric.constant, [np.zeros(len(each)) for each in given]
    for reads, cells in zip(index.columns, metric.cells, strict=True):
        prices = cells.reshape([len(given[choice]) for choice in reads])
        choices = list(dict.fromkeys(reads))
        letter = dict(zip(choices, ascii_letters, strict=False))  # a choice that is read twice contributes its diagonal
        axes = "".join(letter[choice] for choice in reads)
        if not choices:
            value += float(prices)
        for choice in choices:
            others = [other for other in choices if other != choice]
            subscripts = f"{','.join([axes, *(letter[other] for other in others)])}->{letter[choice]}"
            gradient = np.einsum(subscripts, prices, *(given[other] for other in others))
            gradients[choice] += gradient
            if choice == choices[0]:
                value += float(gradient @ given[choice])
    return value, gradients


def _checked(metric: Additive, probabilities: Sequence[FloatArray]) -> list[FloatArray]:
    choices = metric.index.space.choices
    if len(probabilities) != len(choices):
        raise InputError(f"{metric.index.space.name} has {len(choices)} choices, got probabilities of {len(probabilities)}")
    given = [np.asarray(each, np.float64) for each in probabilities]
    for choice, each in zip(choices, given, strict=True):
        if each.shape != (len(choice.values),) or not np.isfinite(each).all():
            raise InputError(f"{choice.name} needs {len(choice.values)} finite probabilities, one for each of its values, got {each.tolist()}")
    return given
