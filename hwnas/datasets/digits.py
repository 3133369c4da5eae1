"""Scikit-learn's 1,797 handwritten digits as they are: 8 x 8 grey images (Alpaydin and Kaynak, 1998). Nothing is downloaded."""

from __future__ import annotations

from hwnas.datasets.cluttered_digits import SEED, SOURCES
from hwnas.errors import MissingExtra
from hwnas.images import Images, Split

MEAN, STD = 0.305, 0.376


def digits(split: Split) -> Images:
    """1,097 / 250 / 450 images, the same digits in each split as in `cluttered_digits`. Raises MissingExtra."""
    import numpy as np
    import torch

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("the data set digits", "scikit-learn", "demo") from None
    found = load_digits()
    order = np.random.default_rng(SEED).permutation(len(found.target))[slice(*SOURCES[split])]
    pixels = torch.from_numpy(np.rint(found.images[order] * (255 / 16)).astype(np.uint8))[:, None]  # (m, 1, 8, 8)
    labels = torch.from_numpy(found.target[order]).long()
    return Images("digits", pixels, labels, torch.from_numpy(order), tuple("0123456789"), (MEAN,), (STD,))
