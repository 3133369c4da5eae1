"""Which images a step trains on, and the tensors they become: the same for any number of processes and of workers that load."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hwnas.errors import HwnasError, InputError
from hwnas.images import DecodedImages, Images, centre, resized
from hwnas.training.augment import Transform, augmentation

#: Row, resolution, and the seed of what is random about it.
Sample = tuple[int, int, int]


def steps_per_epoch(images: Images, batch: int) -> int:
    return max(1, len(images) // batch)


def batch_rows(images: Images, batch: int, seed: int, step: int) -> Tensor:
    """Rows of the step's batch: each epoch a new order that depends on (seed, epoch) only, so that training resumes anywhere."""
    epoch, i = divmod(step, steps_per_epoch(images, batch))
    return _order(len(images), seed, epoch)[i * batch : (i + 1) * batch]


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, 1, epoch]).permutation(n))


class Batches:
    """The images of each step in `shards` parts of up to `batch`. What is random about an image depends on (seed, step, position) alone.

    `resolution_of` tells the resolution of a later step, so that workers load ahead; `mine` are the shards this process will ask for.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch: int,
        shards: int = 1,
        seed: int = 0,
        augment: str = "none",
        workers: int | None = None,
        mine: range | None = None,
        resolution_of: Callable[[int], int | None] | None = None,
    ):
        self.images, self.batch, self.shards, self.seed = images, batch, shards, seed
        self.transform = augmentation(augment)
        self.mine, self.resolution_of = mine or range(shards), resolution_of
        self.direct = self.transform is None and not isinstance(images.pixels, DecodedImages)
        self.workers = 0 if self.direct else default_workers() if workers is None else workers
        self._samples = _Samples(images, self.transform)
        self._ahead: tuple[tuple[int, int], Iterator[Tensor | str]] | None = None  # what the workers bring next

    def rows(self, step: int, shard: int) -> Tensor:
        """Rows of one part of a step's images."""
        rows = batch_rows(self.images, self.batch * self.shards, self.seed, step)
        return rows if self.shards == 1 else rows.tensor_split(self.shards)[shard]

    def __call__(self, step: int, shard: int, resolution: int) -> tuple[Tensor, Tensor]:
        """Inputs (n, channels, resolution, resolution), normalised, and labels (n,). Raises InputError."""
        rows = self.rows(step, shard)
        if self.direct:
            return self.images.at(rows, resolution), self.images.labels[rows]
        if self.workers == 0 or self.resolution_of is None or self.resolution_of(step) != resolution:
            x = _collated([self._samples[each] for each in self._sample(step, shard, resolution)])
        else:
            if self._ahead is None or self._ahead[0] != (step, shard):
                self._ahead = (step, shard), iter(self._loader(step, shard))
            x = next(self._ahead[1])
            later = [each for each in self.mine if each > shard]
            self._ahead = ((step, later[0]) if later else (step + 1, self.mine[0])), self._ahead[1]
        if isinstance(x, str):
            raise InputError(x)
        return self.images.normalised(x), self.images.labels[rows]

    def _sample(self, step: int, shard: int, resolution: int) -> list[Sample]:
        rows = self.rows(step, shard).tolist()
        seeds = np.random.default_rng([self.seed, 4, step, shard]).integers(0, 2**63, len(rows)).tolist()
        return [(row, resolution, seed) for row, seed in zip(rows, seeds, strict=True)]

    def _loader(self, step: int, shard: int) -> DataLoader[Tensor | str]:
        return DataLoader(self._samples, batch_sampler=_Order(self, step, shard), num_workers=self.workers, collate_fn=_collated)


def default_workers() -> int:
    """Processes that load images beside the one that trains."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, usable - 1))


class _Order:
    """The batches from a shard of a step on, for as long as their resolutions are known."""

    def __init__(self, batches: Batches, step: int, shard: int):
        self.batches, self.step, self.shard = batches, step, shard

    def __iter__(self) -> Iterator[list[Sample]]:
        step, first = self.step, self.shard
        assert self.batches.resolution_of is not None
        while (resolution := self.batches.resolution_of(step)) is not None:
            for shard in self.batches.mine:
                if shard >= first:
                    yield self.batches._sample(step, shard, resolution)
            step, first = step + 1, 0


class _Samples(Dataset[Tensor | str]):
    """(row, resolution, seed) -> pixels (channels, resolution, resolution), or why there are none: a sentence survives the way from a worker."""

    def __init__(self, images: Images, transform: Callable[[int], Transform] | None):
        self.images, self.transform = images, transform
        self._at = cache(transform) if transform is not None else None

    def __getstate__(self) -> dict[str, object]:
        return {"images": self.images, "transform": self.transform, "_at": None}

    def __getitem__(self, sample: Sample) -> Tensor | str:
        row, resolution, seed = sample
        images = self.images
        try:
            if self.transform is None:
                return _plain(images, row, resolution)
            pixels = images.pixels.decode(row) if isinstance(images.pixels, DecodedImages) else images.pixels[row]
            made = self._transform(resolution)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                x = made(pixels)
            if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.shape != (pixels.shape[0], resolution, resolution):
                got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                return f"the augmentation must return uint8 pixels of shape {(pixels.shape[0], resolution, resolution)}, it returned {got}"
            return x
        except HwnasError as error:
            return str(error)

    def _transform(self, resolution: int) -> Transform:
        if self._at is None:
            assert self.transform is not None
            self._at = cache(self.transform)
        return self._at(resolution)


def _plain(images: Images, row: int, resolution: int) -> Tensor:
    """An image as it is evaluated, before it is normalised; without threads, which a worker process does not have."""
    assert isinstance(images.pixels, DecodedImages)
    return resized(centre(images.pixels.decode(row), images.crop)[None].float(), resolution)[0]


def _collated(samples: list[Tensor | str]) -> Tensor | str:
    """A batch, or the first sentence."""
    tensors = [each for each in samples if isinstance(each, Tensor)]
    return torch.stack(tensors) if len(tensors) == len(samples) else next(each for each in samples if isinstance(each, str))
