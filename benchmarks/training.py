"""What a supernet's subnets are worth: beside the same networks trained alone, and after naive uniform sampling.

    python benchmarks/training.py --out runs/training             (51 minutes on one core of a busy machine; pieces that are done are kept)
    python benchmarks/training.py --out runs/training --minutes 4 (stops after the piece that passes four minutes)

Space ofa_mini, cluttered digits, one thread, the schedule `small`. Sixteen subnets: the smallest, the largest, and 14 drawn at random.
`alone`: each trained from scratch for as many steps as the supernet, on the same images in the same order, with labels. `uniform`: a
supernet of which each step trains one random subnet of the whole space with labels, without phases, sandwich or distillation, until its
networks have computed as many multiply-accumulates in training as those of progressive shrinking. Accuracies are on the test images, with
batch norms re-calibrated. Intervals: of rank correlations a 95 % percentile bootstrap over subnets, of differences Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import BlockIndex, registry
from hwnas.costs import macs
from hwnas.images import load_images
from hwnas.predictor import Additive
from hwnas.training.schedule import Plan, schedule

SPACE, DATA, RATE = "ofa_mini", "cluttered_digits", 8e-3
SUBNETS, SEEDS, BATCH = 16, 3, 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/training"), help="where supernets and results are kept")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no piece after so long")
    parser.add_argument("--length", type=float, default=1.0, help="multiplies the epochs of the schedule")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    index = BlockIndex(registry.create("spaces", SPACE))
    codes = np.concatenate([index.space.smallest(), index.space.largest(), index.space.sample(np.random.default_rng(20), SUBNETS - 2)])
    results: dict[str, Any] = {}
    left = 0
    for name, make in pieces(index, codes, arguments.out, arguments.length):
        path = arguments.out / f"{name}.json"
        if not path.exists():
            if time.monotonic() - started > 60 * arguments.minutes:
                left += 1
                continue
            began = time.monotonic()
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**made, "seconds": time.monotonic() - began}))
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        results[name] = json.loads(path.read_text())
    rows = summarise(results)
    if left:
        rows["pieces left"] = str(left)
    print(json.dumps(rows, indent=1) if arguments.json else "\n".join(f"{name:<72} {value}" for name, value in rows.items()))
    return 0


def pieces(index: BlockIndex, codes: Any, out: Path, length: float) -> list[tuple[str, Any]]:
    """(name, what makes its result), those first that the table needs first."""
    listed: list[tuple[str, Any]] = [("shrinking0", lambda: shrinking(index, codes, out, 0, length)), ("uniform0", lambda: uniform(index, codes, 0, length))]
    listed += [(f"alone{i}", lambda i=i: alone(index, codes[i], length)) for i in range(len(codes))]
    for seed in range(1, SEEDS):
        listed += [(f"shrinking{seed}", lambda seed=seed: shrinking(index, codes, out, seed, length))]
        listed += [(f"uniform{seed}", lambda seed=seed: uniform(index, codes, seed, length))]
    return listed


def shrinking(index: BlockIndex, codes: Any, out: Path, seed: int, length: float) -> dict[str, Any]:
    """Progressive shrinking through the public `train`."""
    from hwnas.run import RunDirectory
    from hwnas.verbs.common import Job
    from hwnas.verbs.train import train

    result = train(out / f"seed{seed}", space=SPACE, data=DATA, schedule="small", length=length, batch=BATCH, seed=seed, threads=1)
    with RunDirectory(out / f"seed{seed}", write=False) as directory:
        return {"accuracy_pct": inherited(Job(directory).supernet, codes, seed), "steps": result["steps"], "macs": work(index, seed, length)}


def work(index: BlockIndex, seed: int, length: float) -> float:
    """Multiply-accumulates per image of all networks that progressive shrinking trains, over its steps."""
    plan = Plan(index.space, schedule("small"), len(load_images(DATA, "train")) // BATCH, length=length, seed=seed)
    price = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    return float(price(np.concatenate([plan.codes(step) for step in range(plan.steps)])).sum())


def uniform(index: BlockIndex, codes: Any, seed: int, length: float) -> dict[str, Any]:
    """One random subnet each step, labels alone, for equal work."""
    from hwnas.supernet.supernet import Supernet
    from hwnas.training.trainer import SupernetTrainer, rate_at

    target, rng = work(index, seed, length), np.random.default_rng([seed, 30])
    price = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    drawn = index.space.sample(rng, 20_000)
    steps = int(np.searchsorted(np.cumsum(price(drawn)), target)) + 1
    trainer = SupernetTrainer(Supernet(index, seed=seed), load_images(DATA, "train"), batch=BATCH, seed=seed)
    for step in range(steps):
        trainer.step(drawn[step : step + 1], rate_at(RATE, step / steps), sandwich=False)
    return {"accuracy_pct": inherited(trainer.supernet, codes, seed), "steps": steps, "macs": float(price(drawn[:steps]).sum())}


def inherited(supernet: Any, codes: Any, seed: int) -> list[float]:
    """Test accuracy in % of subnets with inherited weights."""
    from hwnas.training.evaluate import SupernetAccuracy

    return [float(each) for each in SupernetAccuracy(supernet, load_images(DATA, "train"), load_images(DATA, "test"), seed=seed)(codes)]


def alone(index: BlockIndex, code: Any, length: float) -> dict[str, Any]:
    """Test accuracy in % of one network trained alone, its statistics re-calibrated like those of the subnets."""
    from hwnas.backends.torch import static
    from hwnas.supernet.recalibrate import recalibrated
    from hwnas.training.evaluate import correct
    from hwnas.training.trainer import calibration_batches, train_alone

    images, graph = load_images(DATA, "train"), index.space.lower(code)
    steps = Plan(index.space, schedule("small"), len(images) // BATCH, length=length).steps
    network = static(graph, train_alone(graph, images, steps=steps, rate=RATE, batch=BATCH))
    network = recalibrated(network, calibration_batches(images, graph.input[2]))
    return {"accuracy_pct": 100 * float(correct(network, load_images(DATA, "test")).mean()), "steps": steps}


def summarise(results: dict[str, Any]) -> dict[str, str]:
    rows: dict[str, str] = {}
    lone = [results[f"alone{i}"]["accuracy_pct"] for i in range(SUBNETS) if f"alone{i}" in results]
    n = len(lone)
    for seed in range(SEEDS):
        for name in ("shrinking", "uniform"):
            if found := results.get(f"{name}{seed}"):
                each = np.array(found["accuracy_pct"])
                rows[f"{name}, seed {seed}: steps, GMACs, smallest / mean / largest of {len(each)} subnets"] = (
                    f"{found['steps']}, {found['macs'] / 1e9:.2f}, {each[0]:.1f} / {each.mean():.1f} / {each[1]:.1f} %"
                )
                if n >= 5:
                    rows[f"{name}, seed {seed}: Kendall, Spearman against {n} trained alone"] = (
                        f"{ranks(each[:n], lone, 'kendall')}, {ranks(each[:n], lone, 'spearman')}"
                    )
                    rows[f"{name}, seed {seed}: inherited - alone, mean over {n} subnets"] = (
                        f"{np.mean(each[:n] - lone):+.2f} points, worst {np.min(each[:n] - lone):+.2f}"
                    )
    if n:
        rows[f"alone: smallest / mean / largest of {n}"] = f"{lone[0]:.1f} / {np.mean(lone):.1f} / {lone[min(1, n - 1)]:.1f} %"
    both = [seed for seed in range(SEEDS) if {f"shrinking{seed}", f"uniform{seed}"} <= set(results)]
    if len(both) > 1:
        gains = np.array([np.subtract(results[f"shrinking{seed}"]["accuracy_pct"], results[f"uniform{seed}"]["accuracy_pct"]) for seed in both])
        ends = {"smallest": gains[:, 0], "mean": gains.mean(axis=1), "largest": gains[:, 1]}
        for name, gain in ends.items():
            rows[f"shrinking - uniform, {name}, {len(both)} seeds"] = interval(gain)
    return rows


def ranks(first: Any, second: Any, which: str, resamples: int = 2000) -> str:
    """A rank correlation with its bootstrap interval over subnets."""
    from scipy.stats import kendalltau, spearmanr

    measure = {"kendall": kendalltau, "spearman": spearmanr}[which]
    first, second, rng = np.asarray(first), np.asarray(second), np.random.default_rng(0)
    rows = rng.integers(0, len(first), (resamples, len(first)))
    values = np.array([measure(first[each], second[each]).statistic for each in rows])
    low, high = np.nanquantile(values, [0.025, 0.975])
    return f"{measure(first, second).statistic:.2f} [{low:.2f}, {high:.2f}]"


def interval(values: Any) -> str:
    """A mean with its 95 % interval of Student's t."""
    from scipy.stats import t

    reach = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):+.2f} points [{np.mean(values) - reach:+.2f}, {np.mean(values) + reach:+.2f}]"


if __name__ == "__main__":
    sys.exit(main())
