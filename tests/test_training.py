"""Schedules, weight steps, checkpoints, and the data they use."""

import numpy as np
import pytest
import torch

from hwnas.backends.torch import static
from hwnas.errors import DamagedFile, UnknownName
from hwnas.images import Images, load_images
from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.supernet.supernet import Supernet
from hwnas.training.evaluate import SupernetAccuracy, correct
from hwnas.training.schedule import OFA, SMALL, Phase, schedule
from hwnas.training.trainer import SupernetTrainer, TrainingFailed, batch_rows, rate_at, steps_per_epoch, train_alone


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(16, 24), classes=2))


@pytest.fixture(scope="module")
def bars():
    """Two classes that a network can tell apart: a bright bar on the left or on the right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 2
    pixels = torch.randint(0, 60, (96, 1, 24, 24), generator=generator)
    pixels[labels == 0, :, :, :8] += 150
    pixels[labels == 1, :, :, 16:] += 150
    return Images("bars", pixels.to(torch.uint8), labels, torch.arange(96), ("left", "right"), (0.3,), (0.2,))


def test_phases_free_the_largest_values_first():
    space = ofa_mobilenet_v3(resolutions=(128, 160, 192))
    codes = np.concatenate([OFA[2].sample(space, np.random.default_rng(i)) for i in range(200)])  # "depth 1"
    values = [space.decode(code) for code in codes]
    assert {v["stage1.block0.expand"] for v in values} == {6}
    assert {v["stage1.block0.kernel"] for v in values} == {3, 5, 7}
    assert {v["stage3.depth"] for v in values} == {3, 4}
    assert {v["resolution"] for v in values} == {128, 160, 192}


def test_all_subnets_of_a_step_share_the_resolution_and_a_sandwich_has_both_ends():
    space = ofa_mini()
    phase = Phase("all", 1, 0.1, {"kernel": 9, "depth": 9, "expand": 2}, subnets=2, sandwich=True)
    seen = set()
    for seed in range(30):
        codes = phase.sample(space, np.random.default_rng(seed))
        assert codes.shape == (4, len(space.choices)) and len(set(codes[:, 0])) == 1
        assert (codes[0, 1:] == space.largest()[0, 1:]).all() and (codes[-1, 1:] == phase.lowest(space)[1:]).all()
        seen.add(int(codes[0, 0]))
    assert seen == {0, 1, 2}
    assert space.decode(codes[-1])["stage1.block0.expand"] == 3  # the two largest of 2, 3, 4


def test_the_last_phase_of_every_schedule_reaches_the_whole_space():
    for phases in (OFA, SMALL):
        assert (phases[-1].lowest(ofa_mobilenet_v3()) == 0).all()
    with pytest.raises(UnknownName, match="did you mean 'small'"):
        schedule("smal")


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(bars):
    epochs = [torch.cat([batch_rows(bars, 32, 7, 3 * epoch + i) for i in range(3)]) for epoch in range(2)]
    assert steps_per_epoch(bars, 32) == 3
    assert all(sorted(epoch.tolist()) == list(range(96)) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_the_rate_rises_and_then_falls_to_zero():
    rates = [rate_at(1.0, i / 100) for i in range(100)]
    assert rates[0] < 0.1 and max(rates) > 0.95 and rates[-1] < 1e-3
    assert rates.index(max(rates)) <= 3


def test_a_checkpoint_continues_with_the_same_weights(index, bars, tmp_path):
    def run(trainer, steps):
        for _ in range(steps):
            codes = SMALL[-1].sample(index.space, np.random.default_rng([0, trainer.steps]))
            trainer.step(codes, 0.01, sandwich=trainer.steps % 2 == 0)

    whole = SupernetTrainer(Supernet(index), bars, batch=16)
    whole.adopt_teacher()
    run(whole, 6)
    first = SupernetTrainer(Supernet(index), bars, batch=16)
    first.adopt_teacher()
    run(first, 3)
    first.save(tmp_path)
    second = SupernetTrainer(Supernet(index, seed=5), bars, batch=16)
    second.load(tmp_path)
    run(second, 3)
    assert second.steps == 6
    assert all(torch.equal(whole.supernet.tensors[name], second.supernet.tensors[name]) for name in whole.supernet.tensors)


def test_a_damaged_checkpoint_is_refused(index, bars, tmp_path):
    trainer = SupernetTrainer(Supernet(index), bars)
    trainer.save(tmp_path)
    path = tmp_path / "trainer.safetensors"
    whole = path.read_bytes()
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedFile):
            trainer.load(tmp_path)


def test_a_loss_that_is_not_finite_is_one_sentence(index, bars):
    trainer = SupernetTrainer(Supernet(index), bars, batch=16)
    with torch.no_grad():
        trainer.supernet.tensors["head/classifier.bias"].fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="lower one"):
        trainer.step(index.space.largest(), 0.01, sandwich=False)


def test_the_supernet_and_a_lone_network_learn_what_can_be_learnt(index, bars):
    trainer = SupernetTrainer(Supernet(index), bars, batch=32)
    for step in range(30):
        trainer.step(SMALL[-1].sample(index.space, np.random.default_rng(step)), 0.01, sandwich=True)
    accuracy = SupernetAccuracy(trainer.supernet, bars, bars, calibration=96)
    assert (accuracy(np.concatenate([index.space.smallest(), index.space.largest()])) > 90).all()
    graph = index.space.lower(index.space.smallest())
    weights = train_alone(graph, bars, steps=30, rate=0.01, batch=32)
    assert correct(static(graph, weights), bars).mean() > 0.9


def test_cluttered_digits_share_no_source_between_splits_and_never_change():
    pytest.importorskip("sklearn", reason="the data set comes with scikit-learn, extra 'demo'")
    splits = {split: load_images("cluttered_digits", split) for split in ("train", "validation", "test")}
    sources = {split: set(images.sources.tolist()) for split, images in splits.items()}
    assert not sources["train"] & sources["validation"] and not (sources["train"] | sources["validation"]) & sources["test"]
    assert [len(images) for images in splits.values()] == [12_000, 2_000, 4_000]
    test = splits["test"]
    assert test.pixels.shape == (4_000, 1, 48, 48) and test.pixels.dtype == torch.uint8
    assert set(test.labels.tolist()) == set(range(10))
    assert torch.equal(test.pixels, load_images("cluttered_digits", "test").pixels)


def test_images_become_normalised_inputs_of_the_wanted_size(bars):
    x = bars.inputs(bars.pixels, 16)
    assert x.shape == (96, 1, 16, 16) and x.dtype == torch.float32
    same = bars.inputs(bars.pixels, 24)
    torch.testing.assert_close(same, (bars.pixels.float() / 255 - 0.3) / 0.2)
