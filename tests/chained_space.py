"""Three convolutions, each of kernel 1, 3 or 5, and an accuracy that rises with every kernel; see chained_agent.py for what they take."""

from functools import partial

from hwnas.blocks import conv_bn_act
from hwnas.predictor import Additive
from hwnas.space import Choice, Layer, SearchSpace

KERNELS = (1, 3, 5)


def chained():
    choices = [Choice(f"layer{i}.kernel", KERNELS) for i in range(3)]
    return SearchSpace("chained", choices, [Layer(c.name, (c,), partial(conv_bn_act, (1, 4, 6, 6), 4)) for c in choices])


def accuracy(index):
    """Simulated: 80 % and up to 6 points more."""
    return Additive(index, [[0.0, 0.9 + 0.1 * i, 2.0 + 0.1 * i] for i in range(3)], name="accuracy", unit="%", constant=80.0)
