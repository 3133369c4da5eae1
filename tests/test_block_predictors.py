"""hwnas/predictors/{macs,kernel_forest,graph_network}.py: blocks that nobody measured, and the files that models are kept in."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hwnas import costs
from hwnas.errors import DamagedFile, InputError
from hwnas.graph import IDENTITY, Node
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, Predicted
from hwnas.ops import Conv2d
from hwnas.predictors.gaussian_process import GaussianProcess
from hwnas.predictors.graph_network import GraphNetwork, graph_network
from hwnas.predictors.kernel_forest import KernelForest, kernel_forest
from hwnas.predictors.macs import Macs, macs
from hwnas.spaces.ofa_mini import ofa_mini
from tests.simulated_tables import CONDITIONS, simulated_table

FITS = {"kernel_forest": KernelForest.fit, "graph_network": GraphNetwork.fit, "gaussian_process": GaussianProcess}
FILES = {"kernel_forest": KernelForest, "graph_network": GraphNetwork}


def conv(channels, out, side, kernel=1, depthwise=False):
    return (Node("conv", Conv2d((1, channels, side, side), out=out, kernel=kernel, groups=channels if depthwise else 1), ("in0",)),)


@pytest.fixture(scope="module")
def blocks():
    """Convolutions of many sizes, in random order."""
    found = [conv(c, out, side, k) for c in (16, 24, 40, 64, 96) for out in (16, 32, 80) for side in (7, 14, 28) for k in (1, 3)]
    found += [conv(c, c, side, k, True) for c in (16, 24, 40, 64, 96) for side in (7, 14, 28, 56) for k in (3, 5, 7)]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


@pytest.fixture(scope="module")
def prices_ms(blocks):
    """2 us each, a depthwise MAC as slow as ten others, and kernels of 3 and more changed to another algorithm above 14 pixels."""
    slow = np.array([10.0 if block[0].op.is_depthwise else 1.0 for block in blocks])
    change = np.array([1.4 if block[0].op.kernel > 1 and block[0].op.input[-1] > 14 else 1.0 for block in blocks])
    return 0.002 + slow * change * costs.macs(blocks) / 1e8


@pytest.fixture(scope="module")
def fitted(blocks, prices_ms):
    return {name: fit(blocks[:100], prices_ms[:100]) for name, fit in FITS.items()}


def error(model, blocks, prices_ms):
    return float(np.abs(model.prices(blocks[100:]) / prices_ms[100:] - 1).mean())


@pytest.mark.parametrize("name", FITS)
def test_each_beats_a_line_through_macs_by_far(name, fitted, blocks, prices_ms):
    assert error(fitted[name], blocks, prices_ms) < 0.15 * error(Macs(blocks[:100], prices_ms[:100]), blocks, prices_ms)


@pytest.mark.parametrize("name", FITS)
def test_a_skipped_layer_costs_nothing_and_blocks_do_not_depend_on_their_batch(name, fitted, blocks):
    some = [blocks[120], IDENTITY, blocks[121]]
    assert fitted[name].prices(some)[1] == 0
    assert fitted[name].prices(some)[[0, 2]] == pytest.approx(fitted[name].prices(blocks[120:122]), rel=1e-5)
    assert fitted[name].prices([]).shape == (0,)


@pytest.mark.parametrize("name", [*FITS, "macs"])
def test_what_is_larger_or_of_another_kind_is_outside(name, fitted, blocks, prices_ms):
    model = Macs(blocks, prices_ms) if name == "macs" else fitted[name]
    grouped = (Node("conv", Conv2d((1, 40, 14, 14), out=40, kernel=3, groups=2), ("in0",)),)
    assert model.is_outside([blocks[0], conv(512, 512, 28, 3), grouped, IDENTITY]).tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", FITS)
def test_the_same_blocks_give_the_same_model(name, fitted, blocks, prices_ms):
    again = FITS[name](blocks[:100], prices_ms[:100])
    assert again.prices(blocks).tolist() == fitted[name].prices(blocks).tolist()


@pytest.mark.parametrize("name", FILES)
def test_a_model_comes_back_from_its_file_as_it_was(name, fitted, blocks, tmp_path):
    fitted[name].save(tmp_path / "model.safetensors")
    loaded = FILES[name].load(tmp_path / "model.safetensors")
    unknown = conv(512, 512, 28, 3)
    assert loaded.prices([*blocks, unknown]).tolist() == fitted[name].prices([*blocks, unknown]).tolist()
    assert loaded.is_outside([unknown]).all() and loaded.origin == "predicted"


@pytest.mark.parametrize("name", FILES)
def test_the_file_of_another_model_is_refused(name, fitted, tmp_path):
    fitted[name].save(tmp_path / "model.safetensors")
    other = next(FILES[each] for each in FILES if each != name)
    with pytest.raises(DamagedFile, match=f"has the format 'hwnas.{name}/1'"):
        other.load(tmp_path / "model.safetensors")


def rewritten(path, change):
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def loop(tensors, metadata):
    tensors["forest.left"][0] = 0


def deep(tensors, metadata):
    n = 2 * 100 + 1  # one node after the other, each with a leaf beside it
    here = np.arange(n, dtype=np.int32)
    inner = (here % 2 == 0) & (here < n - 1)
    left, right = np.where(inner, here + 1, -1).astype(np.int32), np.where(inner, here + 2, -1).astype(np.int32)
    parts = {"roots": np.zeros(1, np.int32), "feature": np.where(inner, 0, -2).astype(np.int32), "left": left, "right": right}
    tensors |= {f"forest.{name}": each for name, each in (parts | {"threshold": np.zeros(n), "value": np.zeros(n)}).items()}


def many(tensors, metadata):
    tensors["forest.roots"] = np.zeros(10_001, np.int32)


def wild(tensors, metadata):
    tensors["forest.feature"][0] = 10_000


def wild_leaf(tensors, metadata):
    tensors["forest.feature"][tensors["forest.left"] < 0] = 2**31 - 2


def unnamed(tensors, metadata):
    metadata["facts"] = json.dumps({**json.loads(metadata["facts"]), "features": ["x", "x"]})


def infinite(tensors, metadata):
    tensors["work.scale"][0] = np.inf


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (loop, "do not lead to leaves"),
        (deep, "deeper trees than 64"),
        (many, "has 10,001 trees"),
        (wild, "do not lead to leaves"),
        (wild_leaf, "do not lead to leaves"),
        (unnamed, "no list of names"),
        (infinite, "not finite"),
    ],
)
def test_a_forest_that_would_walk_for_ever_or_anywhere_is_refused(change, sentence, fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted["kernel_forest"].save(path)
    rewritten(path, change)
    with pytest.raises(DamagedFile, match=sentence):
        KernelForest.load(path)


def test_a_network_of_another_shape_is_refused(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted["graph_network"].save(path)
    rewritten(path, lambda tensors, metadata: tensors.update({"network.output": tensors["network.output"][:, :3].copy()}))
    with pytest.raises(DamagedFile, match="output has the shape"):
        GraphNetwork.load(path)


def test_a_graph_network_tells_what_is_joined(fitted):
    """Two blocks of the same operators, in parallel and one after the other: sums over operators cannot differ, the graph does."""
    op = Conv2d((1, 16, 14, 14), out=16)
    chain = (Node("a", op, ("in0",)), Node("b", op, ("a",)))
    apart = (Node("a", op, ("in0",)), Node("b", op, ("in0",)))
    found = fitted["graph_network"].prices([chain, apart])
    assert found[0] != found[1]


@pytest.mark.parametrize("factory", [macs, kernel_forest, graph_network])
def test_predicted_rows_are_no_data_and_few_rows_no_model(factory):
    index = BlockIndex(ofa_mini(resolutions=(24,)))
    table = simulated_table(index, lambda table, layers, act: table)
    assert factory(table).origin == "simulated"
    kept = dict(list(table.entries.items())[:7])
    rest = {text: Predicted(1.0, 0.1, 9, False) for text in list(table.entries)[7:]}
    with pytest.raises(InputError, match="has 7 measured blocks, 10 are needed"):
        factory(LatencyTable(CONDITIONS, {**kept, **rest}, (), origin="simulated"))


def test_prices_that_are_none_are_refused(blocks):
    for fit in (Macs, KernelForest.fit, GraphNetwork.fit):
        with pytest.raises(InputError, match="must be positive numbers"):
            fit(blocks[:9], np.zeros(9))
