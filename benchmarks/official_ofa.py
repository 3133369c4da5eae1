"""Our supernets against Once-for-All's official code, on the same seeded random weights.

    git clone https://github.com/mit-han-lab/once-for-all
    python benchmarks/official_ofa.py once-for-all            (about 4 minutes on one core)

The official classes make the weights; they are saved under the three namings that its files have had, and loaded by our importer. Then the same
20 random subnets run on both sides: logits, after channel sorting with and without protected widths, after re-calibration of batch norm, and
gradients of a training step. Nothing of the official code is part of hwnas.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.spaces.ofa_proxylessnas import ofa_proxylessnas
from hwnas.spaces.ofa_resnet50 import ofa_resnet50
from hwnas.supernet.checkpoints import canonical, load_checkpoint, published_names
from hwnas.supernet.recalibrate import recalibrated
from hwnas.supernet.sorting import sort_channels
from hwnas.supernet.supernet import Supernet

RESOLUTION = 128
CHOICES = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
#: Name -> class of the official code and its arguments, and our space.
FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[..., Any]]] = {
    "MobileNetV3 w1.0": ("OFAMobileNetV3", {"width_mult": 1.0, **CHOICES}, partial(ofa_mobilenet_v3, width=1.0)),
    "MobileNetV3 w1.2": ("OFAMobileNetV3", {"width_mult": 1.2, **CHOICES}, partial(ofa_mobilenet_v3, width=1.2)),
    "Proxyless w1.3": ("OFAProxylessNASNets", {"width_mult": 1.3, **CHOICES}, partial(ofa_proxylessnas, width=1.3)),
    "ResNet50": ("OFAResNets", {"depth_list": [0, 1, 2], "expand_ratio_list": [0.2, 0.25, 0.35], "width_mult_list": [0.65, 0.8, 1.0]}, ofa_resnet50),
}
#: The node whose importance orders the channels of a layer, and the one in front of it that makes them.
ELASTIC = {"depthwise": "project", "conv2": "conv3", "conv1": "conv2"}
TARGET = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path, help="a checkout of mit-han-lab/once-for-all")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="one of them, several times for several; all by default")
    parser.add_argument("--subnets", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.official / "ofa").is_dir():
        print(f"skipped: {arguments.official} is no checkout of https://github.com/mit-han-lab/once-for-all")
        return 0
    sys.path.insert(0, str(arguments.official))
    if not arguments.json:
        print(f"largest differences over {arguments.subnets} random subnets, {RESOLUTION} pixels, logits in standard deviations")
    rows = []
    for family in arguments.family or FAMILIES:
        for row in compare(family, arguments.subnets, arguments.seed):
            rows.append({"family": family, **row})
            if not arguments.json:
                target = "" if row["target"] is None else f"  (<= {row['target']:g})"
                print(f"{family:<17} {row['what']:<70} {row['difference']:>8.1e}{target}", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    return 1 if any(row["target"] is not None and row["difference"] > row["target"] for row in rows) else 0


def compare(family: str, subnets: int, seed: int) -> Iterator[dict[str, Any]]:
    import ofa.imagenet_classification.elastic_nn.networks as official_networks

    name, arguments, space = FAMILIES[family]
    torch.manual_seed(seed)
    official = getattr(official_networks, name)(dropout_rate=0, **arguments)
    randomise(official, seed)
    index = BlockIndex(space(resolutions=(RESOLUTION,)))
    supernet = Supernet(index, seed=seed + 1)
    codes = index.space.sample(np.random.default_rng(seed), subnets)
    x = torch.randn(8, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(seed))

    state = {key: value.clone() for key, value in official.state_dict().items()}
    loaded = {}
    for naming, rename in NAMINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.pth"
            torch.save({"state_dict": {rename(key): value for key, value in state.items()}}, path, _use_new_zipfile_serialization=naming != "of 2019")
            tensors, unmatched = load_checkpoint(path, index)
        loaded[naming] = tensors
        yield _row(f"keys and tensors without counterpart, naming {naming}", float(sum(map(len, unmatched))), 0)
    first = loaded.pop("elastic")
    unequal = sum(not torch.equal(first[key], other[key]) for other in loaded.values() for key in first)
    yield _row("tensors that differ between the namings", float(unequal), 0)
    supernet.initialise(first)

    yield _row("logits", *_logits(official, supernet, codes, x))
    yield _row("gradients of a training step on 4 subnets (of the largest)", *_gradients(official, supernet, codes[:4], x))
    yield _row("logits after re-calibration on 3 batches", *_recalibrated(official, supernet, codes, x))
    official.load_state_dict(state)

    official.re_organize_middle_weights(0)
    sort_channels(supernet)
    yield _row("layers whose channels are sorted differently", *_sorting(official, supernet))
    yield _row("logits after channel sorting", *_logits(official, supernet, codes, x))
    change = torch.Generator().manual_seed(seed + 2)  # as training would
    shapes = {name: tuple(tensor.shape) for name, tensor in supernet.tensors.items()}
    names = published_names(index.space.checkpoint_names, shapes)
    theirs = {canonical(key): value for key, value in official.state_dict().items()}
    with torch.no_grad():
        for name, tensor in supernet.tensors.items():  # channels of all but equal importance may stand in another order
            tensor.copy_(theirs[names[name]])
    for name in (each for each in supernet.trained if each.endswith(("project.weight", "se.expand.weight", "conv3.weight", "conv2.weight"))):
        factors = 0.5 + torch.rand((*shapes[name][:2], 1, 1), generator=change)
        for tensor in (supernet.tensors[name].detach(), theirs[names[name]]):
            tensor.mul_(factors)
    wide = codes.copy(order="F")
    for choice, column in index.space.column.items():
        if choice.endswith(".width"):
            wide[:, column] = 2
        if choice.endswith(".expand"):
            wide[:, column] = np.maximum(wide[:, column], 1)  # the larger ratios, the trained ones before the second sorting
    mine, other = [_ours(supernet, code, x) for code in wide], [_official(official, index, code, x) for code in wide]
    official.re_organize_middle_weights(1)
    sort_channels(supernet, trained=second_ratio(index))
    yield _row("layers whose channels are then sorted differently, the second ratio protected", *_sorting(official, supernet))
    yield _row("change of networks of protected widths by that sorting", _worst(mine, [_ours(supernet, code, x) for code in wide]), TARGET)
    after = [_official(official, index, code, x) for code in wide]
    yield _row("  the same of the official code, which leaves squeeze-and-excite open", _worst(other, after), None)


def second_ratio(index: BlockIndex) -> Any:
    """The code of the largest network with the second of the three expand ratios."""
    code = index.space.largest()[0].copy()
    code[[column for choice, column in index.space.column.items() if choice.endswith(".expand")]] = 1
    return code


def randomise(network: torch.nn.Module, seed: int) -> None:
    """Weights such as a trained network could have: statistics, batch norms and transforms that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            noise = torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else None
            if noise is None:
                continue
            if key.endswith("running_var") or (".bn" in key and key.endswith("weight")):
                tensor.copy_(0.5 + noise)
            elif key.endswith("_matrix"):
                tensor.add_(0.1 * (noise - 0.5))
            elif key.endswith(("bias", "running_mean")):
                tensor.copy_(0.2 * (noise - 0.5))


def _static(key: str) -> str:
    """As a plain network names it."""
    return key.replace(".bn.bn.", ".bn.").replace(".conv.conv.weight", ".conv.weight").replace(".linear.linear.", ".linear.")


def _of_2019(key: str) -> str:
    return re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", key)


NAMINGS: dict[str, Callable[[str], str]] = {"elastic": str, "static": _static, "of 2019": _of_2019}


def configure(official: Any, index: BlockIndex, code: Any) -> None:
    """Make the official supernet run one of our architectures."""
    values = index.space.decode(code)
    if isinstance(values.get("stem.residual"), str):
        widths = [values[name] for name in ("stem.middle", "stem.width", *(f"stage{s}.width" for s in range(1, 5)))]
        depths = [2 if values["stem.residual"] == "keep" else 0, *(values[f"stage{s}.depth"] - least for s, least in enumerate((2, 2, 4, 2), start=1))]
        ratios = [value for name, value in values.items() if name.endswith(".expand")]
        official.set_active_subnet(d=depths, e=ratios, w=[[0.65, 0.8, 1.0].index(width) for width in widths])
        return
    blocks = sorted({name.rpartition(".")[0] for name in values if name.endswith(".kernel")})
    depths = [values.get(f"stage{s}.depth", 1) for s in range(1, 1 + len(official.block_group_info))]
    official.set_active_subnet(ks=[values[f"{b}.kernel"] for b in blocks], e=[values[f"{b}.expand"] for b in blocks], d=depths)


def _official(official: Any, index: BlockIndex, code: Any, x: torch.Tensor) -> torch.Tensor:
    configure(official, index, code)
    with torch.no_grad():
        y: torch.Tensor = official.eval()(x)
        return y


def _ours(supernet: Supernet, code: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y: torch.Tensor = supernet.subnet(code).eval()(x)
        return y


def _worst(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    return max(float((b - a).abs().max() / a.std()) for a, b in zip(expected, found, strict=True))


def _logits(official: Any, supernet: Supernet, codes: Any, x: torch.Tensor) -> tuple[float, float]:
    return _worst([_official(official, supernet.index, code, x) for code in codes], [_ours(supernet, code, x) for code in codes]), TARGET


def _recalibrated(official: Any, supernet: Supernet, codes: Any, x: torch.Tensor) -> tuple[float, float]:
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(n, 3, RESOLUTION, RESOLUTION, generator=generator) for n in (16, 16, 8)]
    expected, found = [], []
    for code in codes:
        configure(official, supernet.index, code)
        static = official.get_active_subnet(preserve_weight=True)
        set_running_statistics(static, [(batch, None) for batch in batches])
        with torch.no_grad():
            expected.append(static.eval()(x))
            found.append(recalibrated(supernet.subnet(code), batches)(x))
    return _worst(expected, found), TARGET


def _gradients(official: Any, supernet: Supernet, codes: Any, x: torch.Tensor) -> tuple[float, float]:
    """Largest difference of a tensor's gradients and running statistics, as a share of the largest of that tensor; in float64.

    The gradient of a shift that another batch norm takes away again is rounding noise: below 1e-9 of the largest of all it counts as zero.
    """
    official, own, x, y = copy.deepcopy(official).double().train(), Supernet(supernet.index), x.double(), torch.arange(len(x)) * 7
    own.tensors = {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in supernet.tensors.items()}
    for code in codes:
        configure(official, own.index, code)
        F.cross_entropy(official(x), y).backward()
        F.cross_entropy(own.subnet(code).train()(x), y).backward()
    own.merge()
    names = published_names(own.index.space.checkpoint_names, {name: tuple(tensor.shape) for name, tensor in own.tensors.items()})
    theirs = {canonical(key): value for key, value in (*official.state_dict().items(), *((k, p.grad) for k, p in official.named_parameters()))}
    mine = {name: tensor.grad if tensor.requires_grad else tensor for name, tensor in own.tensors.items()}
    pairs = [(mine[name], theirs[names[name]]) for name in mine]
    assert all((a is None) == (b is None) for a, b in pairs), "not the same tensors have gradients"
    negligible = 1e-9 * max(float(b.abs().max()) for name, (_, b) in zip(mine, pairs, strict=True) if b is not None and name in own.trained)
    both = [(a, b, max(float(a.abs().max()), float(b.abs().max()))) for a, b in pairs if a is not None and b is not None]
    return max(float((a - b).abs().max()) / largest for a, b, largest in both if largest > negligible), TARGET


def _sorting(official: Any, supernet: Supernet) -> tuple[float, float]:
    """Number of layers whose channels are not sorted alike: kernels within and beyond the middle width, and the importances within it.

    Channels of equal importance have no order, and beyond the middle width the official offsets round it.
    """
    theirs = {canonical(key): value for key, value in official.state_dict().items()}
    space = supernet.index.space
    names = published_names(space.checkpoint_names, {name: tuple(tensor.shape) for name, tensor in supernet.tensors.items()})
    wrong = 0
    blocks = [[supernet.index.blocks[i] for i in supernet.index.ids(code[None])[0]] for code in (space.largest()[0], second_ratio(supernet.index))]
    for layer, widest, narrower in zip(space.layers, *blocks, strict=True):
        for makes, reads in ELASTIC.items():
            width, inner = (next((node.op.output[1] for node in block if node.name == makes), 0) for block in (widest, narrower))
            kernels, project = f"{layer.name}/{makes}.weight", f"{layer.name}/{reads}.weight"
            if width == inner or project not in names:
                continue
            sides = []
            for kernel, weight in ((supernet.tensors[kernels].detach(), supernet.tensors[project].detach()), (theirs[names[kernels]], theirs[names[project]])):
                rows, importance = kernel.flatten(1).sort(1).values, weight.abs().sum(dim=(0, 2, 3))
                sides.append((rows[:inner].sort(0).values, rows[inner:].sort(0).values, importance[:inner]))
            # What orders the channels in front of sorted ones is a sum in another order, and may differ in its last bits.
            wrong += not all(torch.allclose(mine, other, rtol=1e-5, atol=0) for mine, other in zip(*sides, strict=True))
    return float(wrong), 0


def _row(what: str, difference: float, target: float | None) -> dict[str, Any]:
    return {"what": what, "difference": difference, "target": target}


if __name__ == "__main__":
    sys.exit(main())
