"""A predictor of accuracy that knows what it has seen by heart, and nothing else: -1."""

import numpy as np


def by_heart(index, codes, values):
    known = dict(zip(index.keys(codes), values.tolist(), strict=True))

    def metric(asked):
        return np.array([known.get(key, -1.0) for key in index.keys(asked)])

    return metric
