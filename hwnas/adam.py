"""Adam (Kingma and Ba, 2015, algorithm 1) on arrays, for the few parameters of controllers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwnas.space import FloatArray


class Adam:
    """Changes `parameters` in place. Its moments and the number of its steps are in `memory`, which a searcher may keep in its state.

    parameters: name -> array of any shape. memory: a dictionary, empty or of an Adam before.
    """

    def __init__(self, parameters: dict[str, FloatArray], memory: dict[str, Any] | None = None, *, betas: tuple[float, float] = (0.9, 0.999)):
        self.parameters, self.betas = parameters, betas
        self.memory: dict[str, Any] = {} if memory is None else memory
        self.memory.setdefault("steps", 0)
        for moment in ("first", "second"):
            self.memory.setdefault(moment, {name: np.zeros_like(array) for name, array in parameters.items()})

    def ascend(self, gradients: Mapping[str, FloatArray], rate: float) -> None:
        """One step of size `rate` up these gradients, name -> array of the parameter's shape."""
        self.memory["steps"] += 1
        decay, square = self.betas
        first_weight, second_weight = 1 - decay ** self.memory["steps"], 1 - square ** self.memory["steps"]
        for name, gradient in gradients.items():
            first, second = self.memory["first"][name], self.memory["second"][name]
            first *= decay
            first += (1 - decay) * gradient
            second *= square
            second += (1 - square) * gradient * gradient
            size = np.sqrt(second)
            size *= second_weight**-0.5
            size += 1e-8
            np.divide(first, size, out=size)
            size *= rate / first_weight
            self.parameters[name] += size
