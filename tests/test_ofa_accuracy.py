"""hwnas/predictors/ofa_accuracy.py: the published predictors of Once-for-All, in both of their formats, under their own inputs."""

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from hwnas import registry
from hwnas.errors import DamagedFile, InputError
from hwnas.index import BlockIndex
from hwnas.predictors.accuracy_mlp import accuracy_mlp
from hwnas.predictors.ofa_accuracy import ofa_accuracy

HIDDEN = 12


def package_file(path, inputs):
    """As `ofa.nas.accuracy_predictor.AccuracyPredictor` saves itself: layers inside layers, the last without a bias, and `base_acc`."""
    net = nn.Module()
    hidden = [nn.Sequential(nn.Linear(inputs if i == 0 else HIDDEN, HIDDEN), nn.ReLU()) for i in range(3)]
    net.layers = nn.Sequential(*hidden, nn.Linear(HIDDEN, 1, bias=False))
    net.base_acc = nn.Parameter(torch.full((1,), 0.75), requires_grad=False)
    torch.save({"state_dict": net.state_dict()}, path)
    return lambda x: float(net.layers(x)[0] + net.base_acc[0])


def tutorial_file(path, inputs, **how):
    """As the tutorial's: one plain sequence."""
    linear = [nn.Linear(inputs, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)]
    net = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2], nn.ReLU(), linear[3])
    torch.save(net.state_dict(), path, **how)
    return lambda x: float(net(x)[0])


def blocks_of(values):
    """(kernel or None, expand ratio or None) of each of the blocks of an architecture, None where it is skipped."""
    found = []
    for name in values:
        if name.endswith(".kernel"):
            stage, block = (int("".join(filter(str.isdigit, part))) for part in name.split(".")[:2])
            runs = block < values.get(f"stage{stage}.depth", 1)
            found.append((values[name], values[name.replace("kernel", "expand")]) if runs else (None, None))
    return found


def one_hot(value, values):
    return [float(value == each) for each in values]


def encoded(values, resolutions, *, first, expands=(3, 4, 6)):
    """The inputs of the official encoders, written out: kernels and expand ratios of all blocks, the resolution before or behind them."""
    sides = one_hot(values["resolution"], resolutions)
    kernels = [x for kernel, _ in blocks_of(values) for x in one_hot(kernel, (3, 5, 7))]
    ratios = [x for _, expand in blocks_of(values) for x in one_hot(expand, expands)]
    return torch.tensor([*sides, *kernels, *ratios] if first else [*kernels, *ratios, *sides])


@pytest.fixture(scope="module")
def index():
    return BlockIndex(registry.create("spaces", "ofa_mobilenet_v3(resolutions=(128, 160, 192, 224))"))


def compared(index, metric, net, **encoding):
    """Predictions in % and those of the network on the official inputs."""
    codes = np.concatenate([index.space.smallest(), index.space.largest(), index.space.sample(np.random.default_rng(0), 40)])
    with torch.no_grad():
        return metric(np.asfortranarray(codes)), [100 * net(encoded(index.space.decode(code), **encoding)) for code in codes]


def test_the_packages_file_with_the_resolutions_of_the_space(index, tmp_path):
    net = package_file(tmp_path / "acc.pth", 4 + 120)
    ours, theirs = compared(index, ofa_accuracy(index, file=str(tmp_path / "acc.pth")), net, resolutions=(128, 160, 192, 224), first=True)
    assert ours == pytest.approx(theirs, abs=1e-4) and np.std(theirs) > 0.1


def test_the_packages_file_of_more_resolutions_than_the_space_has(index, tmp_path):
    known = (128, 144, 160, 176, 192, 224, 240, 256)
    net = package_file(tmp_path / "acc.pth", 8 + 120)
    with pytest.raises(InputError, match="takes 128 inputs, ofa_mobilenet_v3 with 4 resolution"):
        ofa_accuracy(index, file=str(tmp_path / "acc.pth"))
    ours, theirs = compared(index, ofa_accuracy(index, file=str(tmp_path / "acc.pth"), resolutions=known), net, resolutions=known, first=True)
    assert ours == pytest.approx(theirs, abs=1e-4)
    with pytest.raises(InputError, match="knows no resolution 128 of ofa_mobilenet_v3"):
        ofa_accuracy(index, file=str(tmp_path / "acc.pth"), resolutions=(1, 2, 3, 4, 5, 6, 7, 8))


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "as PyTorch wrote until 1.5"])
def test_the_tutorials_file(index, tmp_path, how):
    net = tutorial_file(tmp_path / "acc_predictor.pth", 128, **how)
    ours, theirs = compared(index, ofa_accuracy(index, file=str(tmp_path / "acc_predictor.pth")), net, resolutions=range(112, 225, 16), first=False)
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_space_of_one_resolution_and_one_with_a_block_that_always_runs(tmp_path):
    one = BlockIndex(registry.create("spaces", "ofa_mobilenet_v3(resolutions=(192,))"))
    net = tutorial_file(tmp_path / "acc_predictor.pth", 128)
    ours, theirs = compared(one, ofa_accuracy(one, file=str(tmp_path / "acc_predictor.pth")), net, resolutions=range(112, 225, 16), first=False)
    assert ours == pytest.approx(theirs, abs=1e-4)
    proxyless = BlockIndex(registry.create("spaces", "ofa_proxylessnas(resolutions=(160, 224))"))
    net = package_file(tmp_path / "proxyless.pth", 2 + 21 * 6)
    ours, theirs = compared(proxyless, ofa_accuracy(proxyless, file=str(tmp_path / "proxyless.pth")), net, resolutions=(160, 224), first=True)
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_it_is_searched_by_name_and_saved_as_a_file_of_ours(index, tmp_path):
    tutorial_file(tmp_path / "acc_predictor.pth", 128)
    metric = registry.create("predictors", f"ofa_accuracy(file='{tmp_path}/acc_predictor.pth')", index)
    metric.save(tmp_path / "ours.safetensors")
    codes = index.space.sample(np.random.default_rng(0), 5)
    assert accuracy_mlp(index, file=str(tmp_path / "ours.safetensors"))(codes).tolist() == metric(codes).tolist()


class Touching:
    """What a pickle could do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(tensors):
    return lambda folder: torch.save(tensors, folder / "acc.pth")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: (folder / "acc.pth").write_bytes(pickle.dumps(Touching(folder / "touched"))), "cannot be read as tensors alone"),
        (lambda folder: torch.save({"0.weight": Touching(folder / "touched")}, folder / "acc.pth"), "cannot be read as tensors alone"),
        (lambda folder: (folder / "acc.pth").write_bytes(b"PK\x03\x04"), "cannot be read as tensors alone"),
        (lambda folder: None, "cannot read .*: No such file"),
        (saved([torch.zeros(1)]), "must be a dictionary of tensors"),
        (saved({"conv.weight": torch.zeros(3)}), "it holds a tensor 'conv.weight'"),
        (saved({"0.weight": torch.zeros(3, 128)}), "it must have from 2 to 16 layers"),
        (saved({"0.weight": torch.zeros(1).expand(10**6, 10**6), "2.weight": torch.zeros(1, 3)}), "no weights of a perceptron"),
        (saved({"0.weight": torch.zeros(3, 128).to_sparse(), "2.weight": torch.zeros(1, 3)}), "no weights of a perceptron"),
        (saved({"0.weight": torch.zeros(3, 128), "2.weight": torch.zeros(1, 4)}), r"layer 1 of the predictor has shapes \(4, 1\)"),
        (saved({"0.weight": torch.zeros(3, 128), "0.bias": torch.zeros(5), "2.weight": torch.zeros(1, 3)}), r"layer 0 of the predictor has shapes"),
        (saved({"0.weight": torch.full((3, 128), torch.nan), "2.weight": torch.zeros(1, 3)}), "numbers that are not finite"),
    ],
)
def test_what_is_no_such_file_is_refused_and_nothing_in_it_runs(index, tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(DamagedFile, match=words):
        ofa_accuracy(index, file=str(tmp_path / "acc.pth"))
    assert not (tmp_path / "touched").exists()


def test_a_space_without_such_blocks_is_refused(tmp_path):
    tutorial_file(tmp_path / "acc.pth", 128)
    with pytest.raises(InputError, match="nas_bench_macro has none"):
        ofa_accuracy(BlockIndex(registry.create("spaces", "nas_bench_macro")), file=str(tmp_path / "acc.pth"))
