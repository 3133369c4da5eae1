"""What training does to images: torchvision's transforms (v2), by name or your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from hwnas import registry
from hwnas.errors import UnknownName

#: uint8 (channels, h, w) -> uint8 (channels, resolution, resolution), drawing from PyTorch's random numbers.
Transform: TypeAlias = Callable[[Tensor], Tensor]

_INTERPOLATION = {"antialias": True}  # bilinear, as images are resized everywhere else


def shift(resolution: int) -> Transform:
    """Resized, then moved by up to an eighth of the side: for digits and signs, which have a right side."""
    from torchvision.transforms import v2

    made: Transform = v2.Compose([v2.Resize((resolution, resolution), **_INTERPOLATION), v2.RandomCrop(resolution, padding=max(1, resolution // 8))])
    return made


def shift_flip(resolution: int) -> Transform:
    """`shift` and a mirror image half of the time: the usual augmentation of CIFAR (He et al., 2016)."""
    from torchvision.transforms import v2

    made: Transform = v2.Compose([shift(resolution), v2.RandomHorizontalFlip()])
    return made


def crop_flip(resolution: int) -> Transform:
    """A random part of 8 to 100 % of the image, mirrored half of the time, its brightness and saturation changed: Once-for-All's, for ImageNet."""
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(brightness=32 / 255, saturation=0.5)
    made: Transform = v2.Compose([v2.RandomResizedCrop(resolution, scale=(0.08, 1.0), **_INTERPOLATION), v2.RandomHorizontalFlip(), jitter])
    return made


def crop_flip_randaugment(resolution: int) -> Transform:
    """`crop_flip` and two random operations on each image (Cubuk et al., RandAugment, 2020)."""
    from torchvision.transforms import v2

    made: Transform = v2.Compose([crop_flip(resolution), v2.RandAugment()])
    return made


AUGMENTATIONS: dict[str, Callable[[int], Transform]] = {each.__name__: each for each in (shift, shift_flip, crop_flip, crop_flip_randaugment)}


def augmentation(name: str) -> Callable[[int], Transform] | None:
    """Resolution -> transform, of that name or of `path.py:name`; None for `none`. Raises UnknownName, InputError."""
    if name == "none":
        return None
    if ".py:" in name:
        return registry.load("datasets", name)
    if name not in AUGMENTATIONS:
        raise UnknownName("augmentation", name, ["none", *AUGMENTATIONS])
    return AUGMENTATIONS[name]
