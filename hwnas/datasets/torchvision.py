"""Data sets of torchvision by name, from a local folder; nothing is downloaded unless that is asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.data import kept_folder
from hwnas.datasets.folder import CROP, NORMALISATION
from hwnas.errors import InputError, UnknownName
from hwnas.images import TORCHVISION, DecodedImages, Images, Split

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT = 0.1  # of each class, where a data set has no images to choose with
SEED = 20190826  # fixes which ones
#: Published means and standard deviations of pixels; those of others are ImageNet's.
STATISTICS = {
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "FashionMNIST": ((0.2860,), (0.3530,)),
    "KMNIST": ((0.1918,), (0.3483,)),
    "MNIST": ((0.1307,), (0.3081,)),
}
_GREY = ("FashionMNIST", "KMNIST", "MNIST")
_SHIFTED = ("CIFAR10", "CIFAR100", "STL10")  # small images, which cropping would leave too little of


def torchvision(split: Split, *, name: str, folder: str | None = None, download: bool = False) -> Images:
    """A split of the torchvision data set `name` in `folder`, by default in the user's folder of data sets.

    Where it has no validation images a tenth of each class of the training images is held out. Raises UnknownName, InputError where
    the data are not there or damaged.
    """
    import numpy as np
    import torch
    import torchvision.datasets as theirs

    if name not in TORCHVISION:
        raise UnknownName("data set of torchvision", name, TORCHVISION)
    root = kept_folder() / "datasets" if folder is None else Path(folder)
    own = dict(zip(("train", "validation", "test"), TORCHVISION[name], strict=True))
    held_out = own["validation"] is None and split != "test"
    part = own["train"] if held_out else own[split]
    arguments: dict[str, Any] = {"train": part} if isinstance(part, bool) else {"split": part}
    if name != "ImageNet":
        arguments["download"] = download
    if not download and not root.is_dir():
        raise InputError(f"there is no folder {root} with {name}; name one as {name}(folder='PATH'), or add --download")
    try:
        found = getattr(theirs, name)(root, **arguments)
    except Exception as error:  # of parsers, archives and the network
        reason = " ".join(str(error).split())[:200]
        advice = "try again" if download else "check the folder, or add --download"
        raise InputError(f"{name} cannot be read from {root}: {reason}; {advice}") from None
    labels = torch.tensor(np.asarray(_labels(found), np.int64))
    rows = torch.arange(len(labels))
    if held_out:
        chosen = _held_out(labels.numpy())
        rows = torch.from_numpy(np.flatnonzero(chosen if split == "validation" else ~chosen))
    grey = name in _GREY
    mean, std = STATISTICS.get(name, NORMALISATION[1 if grey else 3])
    data = getattr(found, "data", None)
    pixels: Tensor | DecodedImages
    if data is not None and len(data) == len(labels) and np.asarray(data[:1]).dtype == np.uint8:
        pixels = _stacked(np.asarray(data))[rows]
    else:
        pixels = DecodedImages(len(rows), len(mean), partial(_decoded, found, rows.tolist(), len(mean)))
    classes = tuple(str(each if isinstance(each, str) else each[0]) for each in getattr(found, "classes", ())) or tuple(map(str, range(int(labels.max()) + 1)))
    return Images(
        name,
        pixels,
        labels[rows],
        rows,
        classes,
        mean,
        std,
        crop=None if not isinstance(pixels, DecodedImages) else CROP,
        augmentation="shift_flip" if name in _SHIFTED else "crop_flip" if isinstance(pixels, DecodedImages) else "none",
    )


def _labels(found: Any) -> Any:
    """The label of every image without decoding any."""
    for name in ("targets", "labels", "_labels"):
        if getattr(found, name, None) is not None:
            return getattr(found, name)
    for name in ("_samples", "samples", "_image_files_and_labels"):
        if getattr(found, name, None) is not None:
            return [label for _, label in getattr(found, name)]
    return [label for _, label in found]


def _held_out(labels: Any) -> Any:
    """Which images are for validation, bool (n,): the same tenth of each class always."""
    import numpy as np

    rng, chosen = np.random.default_rng(SEED), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[rng.permutation(rows)[: max(1, round(HELD_OUT * len(rows)))]] = True
    return chosen


def _stacked(data: Any) -> Tensor:
    """Pixels as torchvision keeps them, (n, h, w), (n, h, w, 3) or (n, 3, h, w), as (n, channels, h, w)."""
    import torch

    pixels = torch.from_numpy(data)
    if pixels.dim() == 3:
        return pixels[:, None]
    return pixels if pixels.shape[1] == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _decoded(found: Any, rows: list[int], channels: int, row: int) -> Tensor:
    import numpy as np
    import torch

    try:
        image = found[rows[row]][0].convert("L" if channels == 1 else "RGB")
    except Exception as error:  # decoders of damaged files raise anything
        raise InputError(f"image {rows[row]} of {type(found).__name__} cannot be read: {' '.join(str(error).split())[:200]}; get the data set again") from None
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)
