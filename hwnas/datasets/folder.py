"""Your own images: a folder with a folder for each class, or with `train`, `val` and `test` that have those.

The folder may come from anybody: nothing in it may point out of it, and every image is decoded once before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.data import cache_folder
from hwnas.errors import DamagedFile, InputError
from hwnas.files import read_json, write_whole
from hwnas.images import MAX_PIXELS, DecodedImages, Images, Split

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
#: What a file may be, whatever its name says: other readers of Pillow run other programs, or bring their own.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: Names that the parts of a data set have.
PARTS: Mapping[Split, tuple[str, ...]] = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
HELD_OUT = 0.1  # of each class, for each part that has no folder of its own
CROP = 0.875  # 224 of 256 pixels, as ImageNet's networks are evaluated
#: ImageNet's, of RGB and of grey images.
NORMALISATION = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}
_FORMAT = "hwnas.checked_images/1"


def folder(split: Split, *, path: str, channels: int = 3) -> Images:
    """The images of a folder, streamed from disk; those that cannot be decoded are left out and listed in `skipped`.

    Without folders `train`, `val` and `test` a tenth of each class is held out for validation and a tenth for the test, by the hash of
    file names. With `train` and `val` alone, `val` is the test and the validation images are held out of `train`, as Once-for-All does
    with ImageNet. Raises InputError where the folder cannot be read, a class has no images, or there are fewer than two classes.
    """
    import torch

    if channels not in NORMALISATION:
        raise InputError(f"images have 1 channel (grey) or 3 (RGB), not {channels}")
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root} is no folder; name one that has a folder of images for each class")
    found, skipped = _split(root, split)
    labels = [label for label, files in enumerate(found.values()) for _ in files]
    files = [file for group in found.values() for file in group]
    mean, std = NORMALISATION[channels]
    return Images(
        root.resolve().name,
        DecodedImages(len(files), channels, partial(_listed, root, tuple(files), channels), tuple(files)),
        torch.tensor(labels, dtype=torch.int64),
        torch.arange(len(files)),
        tuple(found),
        mean,
        std,
        crop=CROP,
        augmentation="crop_flip",
        skipped=sorted(skipped.items()),
    )


def _split(root: Path, split: Split) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Class -> files of the split, relative to the root; and what was left out, with the reason."""
    there = {each.name: each for each in _entries(root) if each.is_dir()}
    part = {key: next((there[name] for name in names if name in there), None) for key, names in PARTS.items()}
    for each in filter(None, part.values()):
        _inside(root, each)
    train, final = part["train"], part["test"] or part["validation"]
    if train is None:
        if final is not None:
            raise InputError(f"{root} has folders for validation or test images and none named 'train'")
        train = root
    held: tuple[Split, ...] = ("validation", "test") if final is None else ("validation",) if final is part["validation"] or part["validation"] is None else ()
    own = train if split == "train" or split in held else part[split] or final
    assert own is not None
    found, skipped = _readable(root, own, _classes(root, own))
    if own is not train:
        every = _classes(root, train)
        if extra := sorted(set(found) - set(every)):
            raise InputError(f"{own} has a class '{extra[0]}' that {train} does not have")
        return {name: found.get(name, []) for name in every}, skipped
    return {name: _held_out(root, name, files, split, held) for name, files in found.items()}, skipped


def _readable(root: Path, folder: Path, found: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The classes without the files that cannot be decoded, and those with the reason. Raises InputError where none of a class is left."""
    bad = _unreadable(root, [file for files in found.values() for file in files])
    for name, files in found.items():
        if all(file in bad for file in files):
            raise InputError(f"no image of the class '{name}' in {folder} can be read, the first because {bad[files[0]]}; replace them")
    return {name: [file for file in files if file not in bad] for name, files in found.items()}, bad


def _held_out(root: Path, name: str, files: list[str], split: Split, held: tuple[Split, ...]) -> list[str]:
    """The files of one class that belong to a split: those held out are the first by the hash of their names."""
    if len(files) <= len(held):
        raise InputError(f"the class '{name}' in {root} has {len(files)} image(s), at least {len(held) + 1} are needed; add some, or remove its folder")
    ordered = sorted(files, key=lambda file: hashlib.sha256(file.encode(errors="surrogateescape")).digest())
    n = max(1, round(HELD_OUT * len(files)))
    n = min(n, (len(files) - 1) // max(len(held), 1))
    parts = {each: ordered[i * n : (i + 1) * n] for i, each in enumerate(held)}
    return sorted(parts.get(split, ordered[len(held) * n :]))


def _classes(root: Path, folder: Path) -> dict[str, list[str]]:
    """Name of each class -> its files, relative to the root, sorted; folders within a class belong to it. Raises InputError."""
    found = {each.name: sorted(_files(root, each)) for each in _entries(folder) if each.is_dir() and _inside(root, each)}
    if len(found) < 2:
        raise InputError(f"{folder} has {len(found)} folder(s) of images, at least two classes are needed: one folder for each")
    for name, files in found.items():
        if not files:
            raise InputError(f"the class '{name}' in {folder} has no images ({', '.join(sorted(SUFFIXES))}); add some, or remove its folder")
    return found


def _files(root: Path, folder: Path, depth: int = 0) -> Iterator[str]:
    if depth > 16:
        raise InputError(f"{folder} is nested too deeply for a folder of images")
    for each in _entries(folder):
        if each.suffix.lower() in SUFFIXES or each.is_symlink() or each.is_dir():
            _inside(root, each)
        if each.is_dir():
            yield from _files(root, each, depth + 1)
        elif each.suffix.lower() in SUFFIXES and each.is_file():
            yield each.relative_to(root).as_posix()


def _entries(folder: Path) -> list[Path]:
    """What is in a folder but hidden files, sorted. Raises InputError."""
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from None


def _inside(root: Path, path: Path) -> bool:
    """True. Raises InputError where a link leads out of the folder, or to nothing."""
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise InputError(f"{path} is a link to nothing; remove it") from None
        if path.parent.resolve().is_relative_to(target):
            raise InputError(f"{path} is a link to a folder around it; remove it")
        if not target.is_relative_to(root.resolve()):
            raise InputError(f"{path} is a link that leaves {root}; copy what it points to, or name a folder that holds both")
    return True


# -- decoding ---------------------------------------------------------------------------------------------------------------------


def _listed(root: Path, files: tuple[str, ...], channels: int, row: int) -> Tensor:
    image = decoded(root / files[row], channels)
    if isinstance(image, str):  # it could be read when it was checked
        raise InputError(f"cannot read {root / files[row]} any more: {image}; restore it, or begin a new run without it")
    return image


def decoded(path: Path, channels: int) -> Tensor | str:
    """The image as uint8 (channels, h, w), or why it is none."""
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    _prepare()
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return f"it has {opened.width} x {opened.height} pixels, more than {MAX_PIXELS:,}"
            array = np.array(opened.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError:
        return "it is no image of a known format"
    except Image.DecompressionBombError:
        return f"it has more than {MAX_PIXELS:,} pixels"
    except Exception as error:  # decoders of damaged files raise anything
        return " ".join(str(error).replace(repr(str(path)), "it").replace(str(path), "it").split())[:200] or type(error).__name__
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)


@cache
def _prepare() -> None:
    """Pillow loads its readers, and is not to warn of large images, for which the limit here is lower, nor of what it mends."""
    from PIL import Image

    Image.init()
    warnings.filterwarnings("ignore", module="PIL")


def _unreadable(root: Path, files: list[str]) -> dict[str, str]:
    """File -> why it cannot be decoded. Each is decoded once and remembered in the user's cache, until its size or time changes."""
    key = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    memory = cache_folder() / "images" / f"{key}.json"
    known = _remembered(memory)
    now: dict[str, list[Any]] = {}
    for file in files:
        try:
            facts = (root / file).stat()
        except OSError as error:
            raise InputError(f"cannot read {root / file}: {error.strerror or error}") from None
        now[file] = [facts.st_size, facts.st_mtime_ns]
    fresh = [file for file in files if known.get(file, [])[:2] != now[file]]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for file, reason in zip(fresh, pool.map(lambda file: _reason(root / file), fresh), strict=True):
            known[file] = [*now[file], reason]
    if fresh:
        with suppress(InputError):  # a cache that cannot be written is only slower
            write_whole(memory, json.dumps({"format": _FORMAT, "files": known}))
    return {file: known[file][2] for file in files if known[file][2]}


def _reason(path: Path) -> str:
    found = decoded(path, 1)
    return found if isinstance(found, str) else ""


def _remembered(memory: Path) -> dict[str, list[Any]]:
    if not memory.is_file():
        return {}
    try:
        data = read_json(memory)
        files = data["files"] if data["format"] == _FORMAT else {}
        return {str(name): [int(size), int(time), str(reason)] for name, (size, time, reason) in files.items()}
    except (DamagedFile, KeyError, TypeError, ValueError):
        return {}
