"""Cluttered digits: scikit-learn's handwritten digits after cluttered translated MNIST (Mnih et al., 2014, section 4.1).

Each image is a 48 x 48 canvas with one of the 1,797 digits at a random scale, rotation and position, and fragments of other
digits. The splits share no source digit. Everything follows from one seed; nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hwnas.errors import MissingExtra
from hwnas.images import Images, Split

if TYPE_CHECKING:
    import torch

SIDE = 48
SEED = 20140624  # fixes sources, splits and every rendered image
SIZES: dict[Split, int] = {"train": 12_000, "validation": 2_000, "test": 4_000}
SOURCES: dict[Split, tuple[int, int]] = {"train": (0, 1_097), "validation": (1_097, 1_347), "test": (1_347, 1_797)}
FRAGMENTS = 4
MEAN, STD = 0.13, 0.24


@cache
def cluttered_digits(split: Split) -> Images:
    """12,000 / 2,000 / 4,000 images from 1,097 / 250 / 450 source digits; `sources` is the digit's number. Raises MissingExtra."""
    import numpy as np
    import torch

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("the data set cluttered_digits", "scikit-learn", "demo") from None
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))[slice(*SOURCES[split])]
    glyphs = torch.from_numpy(digits.images[order] / 16).float()[:, None]  # (m, 1, 8, 8)
    labels = torch.from_numpy(digits.target[order]).long()
    generator = torch.Generator().manual_seed(SEED + list(SIZES).index(split))
    chosen = torch.arange(SIZES[split]) % len(order)  # every source equally often
    pixels = torch.cat([_render(glyphs, rows, generator) for rows in chosen.split(500)])
    return Images("cluttered_digits", pixels, labels[chosen], torch.from_numpy(order)[chosen], tuple("0123456789"), (MEAN,), (STD,))


def _render(glyphs: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Canvases with the digits `rows` in front of fragments of others, uint8 (n, 1, SIDE, SIDE)."""
    import torch

    n = len(rows)
    canvas = _place(glyphs[rows], generator, window=None)
    for _ in range(FRAGMENTS):
        others = torch.randint(len(glyphs), (n,), generator=generator)
        canvas = torch.maximum(canvas, _place(glyphs[others], generator, window=8))
    noise = torch.randn(canvas.shape, generator=generator) * 0.04
    return ((canvas + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _place(glyphs: torch.Tensor, generator: torch.Generator, window: int | None) -> torch.Tensor:
    """Each glyph at a random scale, rotation and position, inside the canvas; of fragments only a square window shows."""
    import torch
    import torch.nn.functional as F

    n = len(glyphs)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    side, angle = uniform(20, 36), uniform(-0.5, 0.5)  # pixels, radians (about 30 degrees)
    reach = (SIDE - side) / 2
    x, y = uniform(-1, 1) * reach, uniform(-1, 1) * reach  # centre, pixels from the canvas centre
    zoom = SIDE / side
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    x0, y0 = 2 * x / SIDE, 2 * y / SIDE
    theta = torch.stack([torch.stack([cos, -sin, -cos * x0 + sin * y0], 1), torch.stack([sin, cos, -sin * x0 - cos * y0], 1)], 1)
    grid = F.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
    placed = F.grid_sample(glyphs, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if window is None:
        return placed
    axis = torch.arange(SIDE) - (SIDE - 1) / 2
    dx, dy = x + uniform(-0.25, 0.25) * side, y + uniform(-0.25, 0.25) * side
    inside = ((axis - dy[:, None]).abs() <= window / 2)[:, :, None] & ((axis - dx[:, None]).abs() <= window / 2)[:, None, :]
    return placed * inside[:, None]
