"""Data sets: folders of images as people have them, torchvision's by name, digits; and what is wrong with some of them."""

import gzip
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_files import mutated
from PIL import Image

from hwnas.datasets.folder import decoded, folder
from hwnas.errors import InputError, UnknownName
from hwnas.images import contents, load_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HWNAS_KEPT", str(tmp_path_factory.mktemp("kept")))


def paint(path: Path, value=128, size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 7)).save(path)


@pytest.fixture
def photos(tmp_path):
    """Two classes of 10 and 20 images, one of them in a folder within."""
    root = tmp_path / "photos"
    for name, n in (("cat", 10), ("dog", 20)):
        for i in range(n):
            paint(root / name / ("sub" if i == 3 else "") / f"{i}.png", 10 * i)
    (root / "cat" / "notes.txt").write_text("no image")
    (root / ".DS_Store").write_text("")
    return root


def names(images):
    return set(images.pixels.names)


def test_a_folder_without_parts_is_split_by_the_hash_of_names_a_tenth_of_each_class_held_out_twice(photos):
    splits = {split: load_images(str(photos), split) for split in ("train", "validation", "test")}
    assert [len(images) for images in splits.values()] == [24, 3, 3]
    assert len(set.union(*map(names, splits.values()))) == 30  # disjoint
    assert [images.labels.bincount().tolist() for images in splits.values()] == [[8, 16], [1, 2], [1, 2]]
    assert splits["test"].classes == ("cat", "dog") and splits["test"].channels == 3
    paint(photos / "dog" / "new.png")
    after = load_images(str(photos), "test")
    assert len(names(after) - names(splits["test"])) <= 1  # more images move none but where they come in between


def test_with_train_and_val_the_validation_images_are_held_out_of_train(tmp_path):
    for part, n in (("train", 10), ("val", 4)):
        for name in ("a", "b"):
            for i in range(n):
                paint(tmp_path / part / name / f"{i}.jpg")
    assert {split: len(folder(split, path=str(tmp_path))) for split in ("train", "validation", "test")} == {"train": 18, "validation": 2, "test": 8}
    assert all(name.startswith("train/") for name in names(folder("validation", path=str(tmp_path))))
    for name in ("a", "b"):
        paint(tmp_path / "test" / name / "x.png")
    assert {split: len(folder(split, path=str(tmp_path))) for split in ("train", "validation", "test")} == {"train": 20, "validation": 8, "test": 2}
    paint(tmp_path / "test" / "c" / "x.png")
    with pytest.raises(InputError, match="class 'c' that"):
        folder("test", path=str(tmp_path))


def test_images_are_evaluated_as_the_resized_central_square(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            paint(tmp_path / name / f"{i}.png")
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, 13:27] = 255  # the central square of 0.875 x 16 = 14 pixels is white
    Image.fromarray(wide).save(tmp_path / "a" / "0.png")
    every = [folder(split, path=str(tmp_path), channels=1) for split in ("train", "validation", "test")]
    images = next(each for each in every if "a/0.png" in names(each))
    row = images.pixels.names.index("a/0.png")
    x = images.at(torch.tensor([row]), 24)
    assert x.shape == (1, 1, 24, 24)
    torch.testing.assert_close(x, torch.full_like(x, (1 - 0.449) / 0.226))
    assert torch.equal(images.at(slice(row, row + 1), 24), x)


def test_a_sample_of_images_sorted_by_class_has_all_classes_and_is_the_same_every_time(photos):
    images = folder("train", path=str(photos))
    few = images.sample(len(images) // 2)
    assert len(few) == len(few.pixels) == len(images) // 2 and set(few.labels.tolist()) == set(images.labels.tolist())
    rows = [images.pixels.names.index(name) for name in few.pixels.names]
    assert torch.equal(few.labels, images.labels[rows]) and torch.equal(few.at(slice(None), 16), images.at(torch.tensor(rows), 16))
    assert images.sample(len(images) // 2).pixels.names == few.pixels.names and images.sample(1000) is images


def test_images_that_cannot_be_decoded_are_left_out_and_listed_and_remembered(photos):
    whole = (photos / "dog" / "5.png").read_bytes()
    (photos / "dog" / "5.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cat" / "x.jpg").write_bytes(b"\xff\xd8 no jpeg")
    found = {split: folder(split, path=str(photos)) for split in ("train", "validation", "test")}
    assert sum(map(len, found.values())) == 29
    skipped = dict(found["train"].skipped)
    assert set(skipped) == {"dog/5.png", "cat/x.jpg"} and all(skipped.values())
    assert all(dict(folder(split, path=str(photos)).skipped) == skipped for split in found)
    (photos / "dog" / "5.png").write_bytes(whole)  # mended: its size tells
    assert sum(len(folder(split, path=str(photos))) for split in found) == 30


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "ppm"])
def test_any_damage_to_an_image_makes_another_image_or_a_reason(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    whole, rng, left_out = path.read_bytes(), random.Random(suffix), 0
    for _ in range(60):
        path.write_bytes(mutated(whole, rng, b"something else"))
        found = decoded(path, 3)
        left_out += isinstance(found, str)
        assert found if isinstance(found, str) else found.dtype == torch.uint8 and found.shape[0] == 3
    assert left_out > 5


def test_an_image_that_claims_too_many_pixels_is_not_decoded(photos):
    Image.new("1", (10_000, 9_000)).save(photos / "cat" / "bomb.png")  # 90 million pixels in a few kilobytes
    assert "more than 50,000,000" in dict(folder("train", path=str(photos)).skipped)["cat/bomb.png"]


def test_a_file_that_is_of_another_format_than_it_says_is_no_image(photos):
    """Pillow would start Ghostscript for this one."""
    (photos / "cat" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert dict(folder("train", path=str(photos)).skipped) == {"cat/x.png": "it is no image of a known format"}


def test_an_image_that_vanishes_is_one_sentence(photos):
    images = folder("train", path=str(photos))
    (photos / images.pixels.names[0]).unlink()
    with pytest.raises(InputError, match="any more"):
        images.at(slice(0, 2), 16)


def test_an_empty_class_is_named(photos):
    (photos / "emu").mkdir()
    with pytest.raises(InputError, match=r"class 'emu' in .* has no images"):
        load_images(str(photos), "train")


def test_a_class_without_a_readable_image_is_named(photos):
    for i in range(4):
        (photos / "emu").mkdir(exist_ok=True)
        (photos / "emu" / f"{i}.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no image of the class 'emu'"):
        load_images(str(photos), "train")


def test_one_class_is_too_few_and_so_are_two_images(photos):
    shutil.rmtree(photos / "dog")
    with pytest.raises(InputError, match=r"1 folder.* at least two classes"):
        load_images(str(photos), "train")
    for i in range(2):
        paint(photos / "dog" / f"{i}.png")
    with pytest.raises(InputError, match=r"class 'dog' .* has 2 image.* at least 3"):
        load_images(str(photos), "train")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
def test_links_that_leave_the_folder_are_refused_and_others_followed(photos, tmp_path):
    paint(tmp_path / "secret.png")
    paint(tmp_path / "elsewhere" / "1.png")
    (photos / "cat" / "inside.png").symlink_to(photos / "dog" / "1.png")
    assert sum(len(folder(split, path=str(photos))) for split in ("train", "validation", "test")) == 31
    (photos / "cat" / "outside.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match=r"outside.png is a link that leaves"):
        load_images(str(photos), "train")
    (photos / "cat" / "outside.png").unlink()
    (photos / "emu").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"emu is a link that leaves"):
        load_images(str(photos), "train")
    (photos / "emu").unlink()
    (photos / "val").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"val is a link that leaves"):
        load_images(str(photos), "train")
    (photos / "val").unlink()
    (photos / "dog" / "loop").symlink_to(photos / "dog")
    with pytest.raises(InputError, match="link to a folder around it"):
        load_images(str(photos), "train")


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path, photos):
    with pytest.raises(InputError, match="is no folder"):
        folder("train", path=str(tmp_path / "missing"))
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    (photos / "dog").chmod(0)
    try:
        with pytest.raises(InputError, match="cannot read the folder"):
            folder("train", path=str(photos))
    finally:
        (photos / "dog").chmod(0o700)


def test_other_images_have_another_hash(photos):
    before = contents(load_images(str(photos), "train"))
    assert before == contents(load_images(str(photos), "train"))
    (photos / load_images(str(photos), "train").pixels.names[0]).unlink()
    assert contents(load_images(str(photos), "train")) != before


# -- torchvision --------------------------------------------------------------------------------------------------------------------


def write_mnist(root: Path, n: int):
    """MNIST's files in its own format, with made-up images."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", n), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.zeros((count, 28, 28), np.uint8) + labels[:, None, None]
        (raw / f"{part}-images-idx3-ubyte").write_bytes(np.array([2051, count, 28, 28], ">i4").tobytes() + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([2049, count], ">i4").tobytes() + labels.tobytes())


def test_a_data_set_of_torchvision_is_read_from_a_folder_and_a_tenth_held_out(tmp_path):
    write_mnist(tmp_path, 200)
    found = {split: load_images(f"MNIST(folder='{tmp_path}')", split) for split in ("train", "validation", "test")}
    assert [len(images) for images in found.values()] == [180, 20, 20]
    assert found["validation"].labels.bincount().tolist() == [2] * 10
    assert not set(found["train"].sources.tolist()) & set(found["validation"].sources.tolist())
    assert found["test"].pixels.shape == (20, 1, 28, 28) and found["test"].pixels[13].unique().tolist() == [3]
    assert found["test"].at(slice(2), 32).shape == (2, 1, 32, 32)


def test_a_data_set_of_images_in_files_is_streamed(tmp_path):
    root = tmp_path / "imagenette2"
    wnids = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777", "n03888257"]
    for part, n in (("train", 5), ("val", 2)):
        for wnid in wnids:
            for i in range(n):
                paint(root / part / wnid / f"{wnid}_{i}.JPEG")
    found = {split: load_images(f"Imagenette(folder='{tmp_path}')", split) for split in ("train", "validation", "test")}
    assert [len(images) for images in found.values()] == [40, 10, 20]
    assert found["train"].classes[0] == "tench" and found["train"].at(slice(3), 16).shape == (3, 3, 16, 16)


def test_nothing_is_downloaded_unless_asked_for(tmp_path):
    with pytest.raises(InputError, match="--download"):
        load_images("CIFAR10", "train")
    with pytest.raises(InputError, match=r"CIFAR10 cannot be read from .*--download"):
        load_images(f"CIFAR10(folder='{tmp_path}')", "train")
    assert not list(tmp_path.iterdir())
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with gzip.open(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(b"cut short")
    with pytest.raises(InputError, match="MNIST cannot be read"):
        load_images(f"MNIST(folder='{tmp_path}')", "train")


def test_unknown_names_and_arguments_are_one_sentence():
    with pytest.raises(UnknownName, match="did you mean 'CIFAR10'"):
        load_images("CIFAR11", "train")
    with pytest.raises(InputError, match="CIFAR10"):
        load_images("CIFAR10(colour=3)", "train")
    with pytest.raises(InputError, match="paht"):
        load_images("folder(paht='x')", "train")


def test_plain_digits_are_the_digits_of_the_cluttered_ones():
    pytest.importorskip("sklearn", reason="the data set comes with scikit-learn, extra 'demo'")
    plain = {split: load_images("digits", split) for split in ("train", "validation", "test")}
    assert [len(images) for images in plain.values()] == [1_097, 250, 450]
    assert plain["test"].pixels.shape == (450, 1, 8, 8) and int(plain["test"].pixels.max()) == 255
    cluttered = load_images("cluttered_digits", "test")
    assert set(cluttered.sources.tolist()) == set(plain["test"].sources.tolist())
