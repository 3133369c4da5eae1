"""A split of an image classification data set, in memory or decoded from disk when it is needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from hwnas import registry
from hwnas.errors import InputError, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

Split: TypeAlias = Literal["train", "validation", "test"]

MAX_PIXELS = 50_000_000  # of one image; a small file may claim any size

#: Classification data sets of torchvision -> the names of its own splits for training, for choosing and for reporting. A missing
#: one for choosing is cut from the first. `True` and `False` are values of the argument `train`, the others of `split`.
TORCHVISION: dict[str, tuple[str | bool, str | None, str | bool]] = {
    "CIFAR10": (True, None, False),
    "CIFAR100": (True, None, False),
    "Country211": ("train", "valid", "test"),
    "DTD": ("train", "val", "test"),
    "FGVCAircraft": ("train", "val", "test"),
    "FashionMNIST": (True, None, False),
    "Flowers102": ("train", "val", "test"),
    "Food101": ("train", None, "test"),
    "GTSRB": ("train", None, "test"),
    "ImageNet": ("train", None, "val"),
    "Imagenette": ("train", None, "val"),
    "KMNIST": (True, None, False),
    "MNIST": (True, None, False),
    "OxfordIIITPet": ("trainval", None, "test"),
    "STL10": ("train", None, "test"),
    "SVHN": ("train", None, "test"),
    "StanfordCars": ("train", None, "test"),
}


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """`n` images that are not kept in memory: `decode(row)` gives uint8 (channels, height, width), each of a size of its own."""

    n: int
    channels: int
    decode: Callable[[int], Tensor]
    names: Sequence[str] = ()
    """Of the files, where it is known."""

    def __len__(self) -> int:
        return self.n

    def picked(self, rows: Sequence[int]) -> DecodedImages:
        """Those of these rows alone."""
        names = [self.names[row] for row in rows] if self.names else ()
        return replace(self, n=len(rows), decode=lambda row: self.decode(rows[row]), names=names)


@dataclass(frozen=True, eq=False)
class Images:
    """`pixels` uint8 (n, channels, side, side), or images on disk; `labels` int64 (n,); `sources` int64 (n,): images of one source are
    not independent.

    `mean` and `std` normalise pixels / 255, one number per channel. `crop` is the share of the shorter side that the central square
    keeps, None where the whole image is resized. `augmentation` is what training does to images unless told otherwise. `skipped`:
    (file, reason) of each image that was left out because it cannot be read.
    """

    name: str
    pixels: Tensor | DecodedImages
    labels: Tensor
    sources: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float | None = None
    augmentation: str = "none"
    skipped: Sequence[tuple[str, str]] = field(default=())

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, n: int) -> Images:
        """At most so many of them, the same ones every time, drawn at random: many data sets are sorted by class."""
        import numpy as np
        import torch

        if n >= len(self):
            return self
        rows = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(self))[:n]))
        pixels = self.pixels.picked(rows.tolist()) if isinstance(self.pixels, DecodedImages) else self.pixels[rows]
        return replace(self, pixels=pixels, labels=self.labels[rows], sources=self.sources[rows])

    @property
    def channels(self) -> int:
        return self.pixels.channels if isinstance(self.pixels, DecodedImages) else self.pixels.shape[1]

    def inputs(self, pixels: Tensor, resolution: int) -> Tensor:
        """Pixels uint8 -> normalised float32 at `resolution` (bilinear with antialiasing): what every network of hwnas is fed."""
        return self.normalised(resized(pixels.float(), resolution))

    def normalised(self, x: Tensor) -> Tensor:
        """Pixels 0 to 255 (n, channels, h, w) -> float32 normalised by mean and std."""
        x = x.float()
        mean = x.new_tensor(self.mean).view(1, -1, 1, 1) * 255
        std = x.new_tensor(self.std).view(1, -1, 1, 1) * 255
        return (x - mean) / std

    def at(self, rows: Tensor | slice, resolution: int) -> Tensor:
        """The images `rows` as networks are fed when they are evaluated and deployed, float32 (rows, channels, resolution, resolution)."""
        import torch

        if not isinstance(self.pixels, DecodedImages):
            return self.inputs(self.pixels[rows], resolution)
        numbers = range(*rows.indices(len(self))) if isinstance(rows, slice) else rows.tolist()
        decoded = _pool().map(self.pixels.decode, numbers)
        return self.normalised(torch.cat([resized(centre(image, self.crop)[None].float(), resolution) for image in decoded]))


def contents(images: Images) -> str:
    """SHA-256 of which images a data set on disk has, in order, and their labels: all stages of a run must see the same."""
    names = images.pixels.names if isinstance(images.pixels, DecodedImages) else ()
    facts = [list(images.classes), images.labels.tolist(), list(names)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def centre(image: Tensor, share: float | None) -> Tensor:
    """The central square whose side is that share of the shorter side, of (channels, h, w); None: the whole image."""
    if share is None:
        return image
    h, w = image.shape[-2:]
    side = max(1, round(share * min(h, w)))
    top, left = (h - side) // 2, (w - side) // 2
    return image[..., top : top + side, left : left + side]


def resized(x: Tensor, resolution: int) -> Tensor:
    """Float images (n, channels, h, w) at `resolution`: bilinear with antialiasing, as deployment kits do it."""
    import torch.nn.functional as F

    if x.shape[-2:] == (resolution, resolution):
        return x
    return F.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False)


@cache
def _pool() -> ThreadPoolExecutor:
    """Decoders release Python's lock, so threads decode side by side."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")


def resolved(text: str) -> str:
    """The text of a data set as a run records it: a folder by its absolute path, anything else as it is."""
    return str(Path(text).resolve()) if text not in registry.names("datasets") and Path(text).is_dir() else text


def load_images(text: str, split: Split, *, download: bool = False) -> Images:
    """A split of a data set: `name` or `name(key=value)` of the catalogue or of torchvision, or a folder with a folder for each class.

    download: whether torchvision may fetch what is not there. Raises UnknownName, MissingExtra, InputError.
    """
    known = registry.names("datasets")
    if text not in known and Path(text).is_dir():
        from hwnas.datasets.folder import folder

        return folder(split, path=text)
    name, arguments = registry.split_call(text)
    if name in TORCHVISION:
        from hwnas.datasets.torchvision import torchvision

        return _called(text, lambda: torchvision(split, name=name, download=download, **arguments))
    if name not in known and not name.endswith(".py") and ".py:" not in name and "/" in name:
        raise InputError(f"there is no folder {name}; name a folder with a folder of images for each class, or a data set")
    if name not in known and ".py:" not in name and not name.endswith(".py"):
        raise UnknownName("data set", name, [*known, *TORCHVISION])
    images: Images = registry.create("datasets", text, split)
    return images


def _called(text: str, make: Callable[[], Images]) -> Images:
    try:
        return make()
    except TypeError as error:
        raise InputError(f"{text}: {error}") from None
