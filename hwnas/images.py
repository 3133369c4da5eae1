"""A split of an image classification data set, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from hwnas import registry

if TYPE_CHECKING:
    from torch import Tensor

Split: TypeAlias = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Images:
    """`pixels` uint8 (n, channels, side, side); `labels` int64 (n,); `sources` int64 (n,): images of one source are not independent.

    `mean` and `std` normalise pixels / 255, one number per channel.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    sources: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, pixels: Tensor, resolution: int) -> Tensor:
        """Pixels uint8 -> normalised float32 at `resolution` (bilinear with antialiasing): what every network of hwnas is fed."""
        import torch.nn.functional as F

        x = pixels.float()
        if x.shape[-1] != resolution:
            x = F.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False)
        mean = x.new_tensor(self.mean).view(1, -1, 1, 1) * 255
        std = x.new_tensor(self.std).view(1, -1, 1, 1) * 255
        return (x - mean) / std


def load_images(name: str, split: Split) -> Images:
    """A split of a data set by name. Raises UnknownName, MissingExtra, InputError."""
    images: Images = registry.load("datasets", name)(split)
    return images
