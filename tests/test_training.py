"""Schedules, weight steps, checkpoints, and the data they use."""

import numpy as np
import pytest
import torch

from hwnas.backends.torch import static
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.images import Images, load_images
from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.supernet.supernet import Supernet
from hwnas.training.augment import AUGMENTATIONS
from hwnas.training.batches import Batches
from hwnas.training.evaluate import SupernetAccuracy, correct
from hwnas.training.recipe import RECIPES, Recipe
from hwnas.training.schedule import OFA, SMALL, Phase, Plan, alone, schedule
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


def test_images_are_kept_for_all_resolutions_together_as_far_as_they_fit_and_accuracies_are_the_same(index, bars, monkeypatch):
    codes = np.concatenate([index.space.smallest(), index.space.largest()])
    assert codes[0, index.space.column["resolution"]] != codes[1, index.space.column["resolution"]]
    found = []
    for kept, expected in ((1 << 30, 2), (4 * len(bars) * bars.channels * 24**2 + 4, 1), (0, 0)):
        monkeypatch.setattr("hwnas.training.evaluate.KEPT_BYTES", kept)
        accuracy = SupernetAccuracy(Supernet(index, seed=0), bars, bars, calibration=96)
        found.append(accuracy(codes[::-1]).tolist())  # the larger resolution first
        assert sum(inputs is not None for _, inputs in accuracy._inputs.values()) == expected
    assert found[0] == found[1] == found[2]


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


# -- recipes ------------------------------------------------------------------------------------------------------------------------


def one_step(index, bars, code, **recipe):
    """A trainer after one step on one subnet, the weights before, and the loss."""
    trainer = SupernetTrainer(Supernet(index), bars, batch=16, recipe=Recipe(**recipe))
    before = {name: tensor.detach().clone() for name, tensor in trainer.supernet.tensors.items()}
    return trainer, before, trainer.step(code, 0.01, sandwich=False)


def test_smoothed_labels_give_every_class_a_share_of_the_loss(index, bars):
    code = index.space.largest()
    trainer, _, loss = one_step(index, bars, code, label_smoothing=0.2)
    network = Supernet(index).subnet(code[0]).train()
    rows = batch_rows(bars, 16, 0, 0)
    logarithms = torch.log_softmax(network(bars.at(rows, index.resolutions(code)[0])), 1)
    right = logarithms[torch.arange(16), bars.labels[rows]]
    assert loss == pytest.approx(float((-0.8 * right - 0.2 * logarithms.mean(1)).mean().detach()), rel=1e-5)
    assert trainer.steps == 1


def test_the_average_of_the_weights_is_what_is_kept(index, bars):
    code = index.space.largest()
    trainer, first, _ = one_step(index, bars, code, ema=0.5)
    name = "head/classifier.weight"
    second = trainer.supernet.tensors[name].detach().clone()
    expected = 0.1 * first[name] + 0.9 * second  # after the first step a tenth of the first weights: (1 + 0) / (10 + 0)
    torch.testing.assert_close(trainer.result()[name], expected)
    trainer.step(code, 0.01, sandwich=False)
    third = trainer.supernet.tensors[name].detach()
    torch.testing.assert_close(trainer.result()[name], expected + (1 - 2 / 11) * (third - expected))


def test_sgd_of_the_published_recipe_shrinks_no_biases_and_batch_norms(index, bars):
    trainer = SupernetTrainer(Supernet(index), bars, recipe=RECIPES["ofa"])
    decayed, plain = trainer.optimizer.param_groups
    assert decayed["nesterov"] and decayed["weight_decay"] == 3e-5 and plain["weight_decay"] == 0
    names = {id(tensor): name for name, tensor in trainer.supernet.tensors.items()}
    assert all(names[id(each)].endswith((".norm.weight", ".bias")) for each in plain["params"])
    left = [names[id(each)] for each in decayed["params"]]
    assert all(name.endswith((".weight", "to3")) and not name.endswith(".norm.weight") for name in left)
    assert len(left) + len(plain["params"]) == len(trainer.supernet.trained)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_the_same_and_keeps_its_weights_in_float32(index, bars, precision):
    losses = {}
    for each in ("fp32", precision):
        trainer = SupernetTrainer(Supernet(index), bars, batch=32, recipe=Recipe(precision=each))
        losses[each] = [trainer.step(index.space.largest(), 0.01, sandwich=False) for _ in range(8)]
        assert all(tensor.dtype == torch.float32 for tensor in trainer.supernet.tensors.values())
    assert losses[precision][0] == pytest.approx(losses["fp32"][0], rel=0.02) and losses[precision] != losses["fp32"]
    assert losses[precision][-1] < losses[precision][0] / 2


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_lowered(index, bars, tmp_path):
    trainer = SupernetTrainer(Supernet(index), bars, batch=16, recipe=Recipe(precision="fp16"))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    name = "head/classifier.weight"
    before = trainer.supernet.tensors[name].detach().clone()
    trainer.step(index.space.largest(), 0.01, sandwich=False)
    assert torch.equal(trainer.supernet.tensors[name], before) and trainer.scaler.get_scale() == 2.0**39
    trainer.save(tmp_path)
    other = SupernetTrainer(Supernet(index), bars, batch=16, recipe=Recipe(precision="fp16"))
    other.load(tmp_path)
    assert other.scaler.get_scale() == 2.0**39


def test_without_distillation_every_subnet_learns_from_labels(index, bars):
    codes = SMALL[-1].sample(index.space, np.random.default_rng(0))
    alike = np.repeat(codes[:1], 2, axis=0)  # the same network twice: what the second learns from is all that may differ
    losses = [SupernetTrainer(Supernet(index), bars, batch=16, recipe=Recipe(distillation=d)).step(alike, 0.01, sandwich=True) for d in (0.0, 1.0)]
    alone = SupernetTrainer(Supernet(index), bars, batch=16).step(codes[:1], 0.01, sandwich=False)
    assert losses[0] == pytest.approx(alone, rel=1e-5) and losses[1] != pytest.approx(alone, rel=1e-3)


def test_parts_of_a_step_add_up_to_the_mean_of_their_gradients(index, bars):
    code = index.space.largest()
    whole = SupernetTrainer(Supernet(index), bars, batch=8, shards=3)
    whole.batches.rows(0, 0)
    rows = [whole.batches.rows(0, shard) for shard in range(3)]
    assert torch.equal(torch.cat(rows), batch_rows(bars, 24, 0, 0)) and [len(each) for each in rows] == [8, 8, 8]
    losses = []
    for each in rows:
        network = Supernet(index).subnet(code[0]).train()
        losses.append(float(torch.nn.functional.cross_entropy(network(bars.at(each, index.resolutions(code)[0])), bars.labels[each])))
    assert whole.step(code, 0.01, sandwich=False) == pytest.approx(np.mean(losses), rel=1e-5)


# -- batches ------------------------------------------------------------------------------------------------------------------------


def test_images_are_changed_alike_by_any_number_of_workers_and_anew_each_epoch(bars):
    def first(workers, steps, **more):
        batches = Batches(bars, batch=32, augment="shift_flip", workers=workers, resolution_of=lambda step: 16 if step < 6 else None, **more)
        return [batches(step, 0, 16) for step in steps]

    direct, loaded, later = first(0, range(6)), first(2, range(6)), first(1, [4, 5, 2])
    for (x, labels), (y, same) in zip(direct, loaded, strict=True):
        assert torch.equal(x, y) and torch.equal(labels, same) and x.shape == (32, 1, 16, 16)
    assert torch.equal(later[0][0], direct[4][0]) and torch.equal(later[2][0], direct[2][0])  # from any step on, and back
    plain = {int(row): bars.at(row[None], 16) for row in torch.arange(96)}
    rows = [batch_rows(bars, 32, 0, step) for step in range(6)]
    changed = [{int(row): x for step in epoch for row, x in zip(rows[step], direct[step][0], strict=True)} for epoch in ((0, 1, 2), (3, 4, 5))]
    assert sum(torch.equal(changed[0][row], changed[1][row]) for row in plain) < 10
    assert sum(torch.equal(changed[0][row], plain[row][0]) for row in plain) < 10


def test_one_resolution_more_than_was_announced_is_made_at_once(bars):
    batches = Batches(bars, batch=32, augment="shift", workers=1, resolution_of=lambda step: 16)
    assert batches(0, 0, 24)[0].shape[-1] == 24 and batches(0, 0, 16)[0].shape[-1] == 16


def test_an_augmentation_of_ones_own_must_keep_the_shape(bars, tmp_path):
    (tmp_path / "mine.py").write_text("from torchvision.transforms import v2\n\ndef mine(resolution):\n    return v2.Resize((resolution, resolution))\n")
    assert Batches(bars, batch=4, augment=f"{tmp_path}/mine.py:mine", workers=0)(0, 0, 16)[0].shape == (4, 1, 16, 16)
    (tmp_path / "wrong.py").write_text("def wrong(resolution):\n    return lambda pixels: pixels\n")
    for workers in (0, 1):
        batches = Batches(bars, batch=4, augment=f"{tmp_path}/wrong.py:wrong", workers=workers, resolution_of=lambda step: 16)
        with pytest.raises(InputError, match=r"must return uint8 pixels of shape \(1, 16, 16\), it returned torch.uint8 \(1, 24, 24\)"):
            batches(0, 0, 16)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_takes_images_of_any_size(name, channels):
    for h, w in ((20, 33), (64, 48)):
        x = AUGMENTATIONS[name](24)(torch.randint(0, 256, (channels, h, w), dtype=torch.uint8))
        assert x.shape == (channels, 24, 24) and x.dtype == torch.uint8


# -- plans --------------------------------------------------------------------------------------------------------------------------


def test_a_plan_knows_every_step_from_its_number():
    space = ofa_mini()
    plan = Plan(space, SMALL, 10, length=0.5)
    assert plan.lengths == [5, 2, 32] and plan.steps == 39
    assert [plan.phase(step) for step in (0, 4, 5, 6, 7, 38)] == [0, 0, 1, 1, 2, 2]
    assert [step for step in range(39) if plan.begins(step)] == [5, 7]
    assert plan.progress(5) == 0 and plan.progress(6) == 0.5 and plan.progress(38) == 31 / 32
    for step in (0, 6, 20):
        assert {space.decode(code)["resolution"] for code in plan.codes(step)} == {plan.resolution(step)}
        assert (plan.codes(step) == plan.codes(step)).all()
    assert plan.resolution(39) is None


def test_a_network_alone_has_the_epochs_of_all_phases():
    (phase,) = alone(SMALL)
    assert phase.epochs == 8 and phase.rate == 8e-3 and not phase.sandwich


def test_channels_are_sorted_with_what_the_optimiser_knows_of_them(index, bars):
    """The largest network computes what it did, and its next steps are the same but for the names of channels."""
    pytest.importorskip("hwnas.supernet.sorting", reason="this version has no channel sorting")
    code = index.space.largest()

    def trained(sort):
        trainer = SupernetTrainer(Supernet(index), bars, batch=32, recipe=Recipe(optimizer="sgd", ema=0.9))
        losses = []
        for step in range(4):
            if step == 2 and sort:
                trainer.sort_channels(code[0])
            losses.append(trainer.step(code, 0.01, sandwich=False))
        return losses, trainer

    (plain, first), (sorted_, second) = trained(False), trained(True)
    assert plain == pytest.approx(sorted_, rel=1e-4)
    moved = "stage1.block0/project.weight"
    assert not torch.equal(first.supernet.tensors[moved], second.supernet.tensors[moved])
    torch.testing.assert_close(first.result()[moved].abs().sum(), second.result()[moved].abs().sum())
