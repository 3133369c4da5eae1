"""The demo over several seeds: is the supernet as good as networks trained alone, and does the search beat its baselines?

    python benchmarks/demo.py --seeds 10 --jobs 2 --out runs/benchmark        (about 4 minutes a seed and job; resumable)

Per seed: the demo's train, search and verify; then the smallest, the largest, the chosen and the best uniformly scaled network,
each trained alone from scratch for the demo's total number of steps. Training and searches run `--jobs` at a time with one thread
each; all measuring of latency is done afterwards, with nothing else running. Accuracies are on the test images; intervals are
bootstraps over source digits and, for means over seeds, over seeds as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SPACE, DATA, LATENCY, RATE = "ofa_mini", "cluttered_digits", "<= 55% p50", 8e-3
ALONE = ("smallest", "largest", "chosen", "uniform")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--length", type=float, default=1.0, help="multiplies the epochs")
    parser.add_argument("--seconds", type=float, default=60.0, help="measuring window")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.one is not None:
        train_and_search(arguments.out, arguments.one, arguments.length)
        return 0
    from hwnas.verbs.profile import profile

    profile("localhost", space=SPACE, to=arguments.out / "table", progress=_line)
    _in_parallel(arguments)
    results = [measure(arguments.out, seed, arguments.seconds) for seed in range(arguments.seeds)]
    summary = summarise(results)
    if arguments.json:
        print(json.dumps(summary, indent=1))
    else:
        for key, value in summary.items():
            print(f"{key:<62} {value}")
    return 0


def _line(stage: str, done: int, total: int) -> None:
    if done == total:
        print(f"{stage} {done}/{total}", file=sys.stderr, flush=True)


def _in_parallel(arguments: argparse.Namespace) -> None:
    """Every seed in a process of its own, `--jobs` at a time."""
    waiting, running = list(range(arguments.seeds)), []
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            command = [sys.executable, __file__, "--one", str(waiting.pop(0)), "--out", str(arguments.out), "--length", str(arguments.length)]
            running.append(subprocess.Popen(command))
        process = running.pop(0)
        if process.wait() != 0:
            for other in running:
                other.kill()
            raise SystemExit(f"{process.args} failed")


def train_and_search(out: Path, seed: int, length: float) -> None:
    """Everything of one seed that needs no quiet machine. Results of the lone networks go to `alone.json`."""
    from hwnas.backends.torch import static
    from hwnas.run import RunDirectory
    from hwnas.training.evaluate import correct
    from hwnas.training.trainer import train_alone
    from hwnas.verbs.common import Job
    from hwnas.verbs.search import search
    from hwnas.verbs.train import train

    run, alone = out / f"seed{seed}", out / f"alone{seed}.json"
    train(run, space=SPACE, data=DATA, length=length, seed=seed, threads=1, progress=_line)
    search(run, table=out / "table", latency=LATENCY, seed=seed, threads=1, progress=_line)
    if alone.exists():
        return
    with RunDirectory(run, write=False) as directory:
        job = Job(directory)
        space, steps, found = job.index.space, job.result("train")["steps"], job.result("search")
        codes = {
            "smallest": space.smallest()[0],
            "largest": space.largest()[0],
            "chosen": np.array(found["points"][0]["code"], np.int16),
            "uniform": np.array(found["baselines"]["uniform"]["points"][0]["code"], np.int16),
        }
        images, test = job.images("train"), job.images("test")
        rows: dict[str, Any] = {"sources": test.sources.tolist(), "steps": steps}
        for name, code in codes.items():
            graph = space.lower(code)
            weights = train_alone(graph, images, steps=steps, rate=RATE, seed=seed)
            rows[f"{name} alone"] = _packed(correct(static(graph, weights), test))
            rows[f"{name} inherited"] = _packed(correct(job.accuracy.network(code), test))
            print(f"seed {seed}: {name} alone done", file=sys.stderr, flush=True)
    alone.write_text(json.dumps(rows))


def _packed(hits: Any) -> str:
    return np.packbits(hits).tobytes().hex()


def measure(out: Path, seed: int, seconds: float) -> dict[str, Any]:
    """Verify and report one seed's run; hits on the test images of every network."""
    from hwnas.run import RunDirectory
    from hwnas.verbs.report import report
    from hwnas.verbs.search import BASELINES
    from hwnas.verbs.verify import matched, verify

    run = out / f"seed{seed}"
    verified = verify(run, seconds=seconds, seed=seed, progress=_line)
    report(run, progress=_line)
    with RunDirectory(run, write=False) as directory:
        tested = directory.result("report")
        times = {stage: directory.result(stage)["seconds"] for stage in ("train", "search")}
    assert tested is not None
    n = tested["images"]
    rows = {**json.loads((out / f"alone{seed}.json").read_text())}
    sources = np.array(rows.pop("sources"))
    steps = rows.pop("steps")
    hits = {name: _unpacked(each, n) for name, each in rows.items()}
    networks = verified["measured"]
    chosen = next((i for i, each in enumerate(networks) if each.get("chosen")), None)
    compared = {} if chosen is None else {"chosen": chosen} | {name: matched(networks, name, networks[chosen]) for name in (*BASELINES, "largest")}
    measured = {name: networks[i] for name, i in compared.items() if i is not None}
    hits |= {f"{name} file": _unpacked(tested["correct"][i], n) for name, i in compared.items() if i is not None}
    return {"seed": seed, "hits": hits, "sources": sources, "measured": measured, "certificate": verified["certificate"], "seconds": times, "steps": steps}


def _unpacked(text: str, n: int) -> Any:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(float)


def difference(results: list[dict[str, Any]], first: str, second: str, *, resamples: int = 2000) -> str:
    """Mean over seeds of first - second in points, with a 95 % bootstrap over seeds and source digits, and the sign test."""
    from scipy.stats import binomtest

    able = [each for each in results if first in each["hits"] and second in each["hits"]]
    per_seed = np.array([100 * (each["hits"][first] - each["hits"][second]).mean() for each in able])
    _, group = np.unique(able[0]["sources"], return_inverse=True)
    counts = np.bincount(group)
    sums = np.array([np.bincount(group, each["hits"][first] - each["hits"][second]) for each in able])  # (seeds, sources)
    rng = np.random.default_rng(0)
    means = []
    for _ in range(resamples):
        seeds, sources = rng.integers(0, len(able), len(able)), rng.integers(0, len(counts), len(counts))
        means.append(100 * sums[np.ix_(seeds, sources)].sum() / (len(able) * counts[sources].sum()))
    low, high = np.quantile(means, [0.025, 0.975])
    wins, losses = int((per_seed > 0).sum()), int((per_seed < 0).sum())
    better, worse = (binomtest(wins, wins + losses, alternative=side).pvalue if wins + losses else 1.0 for side in ("greater", "less"))
    signs = f"{wins} of {len(able)} seeds better, {losses} worse, sign test p(better) = {better:.3f}, p(worse) = {worse:.3f}"
    return f"{per_seed.mean():+.2f} points [{low:+.2f}, {high:+.2f}], {signs}"


def summarise(results: list[dict[str, Any]]) -> dict[str, str]:
    certified = [each for each in results if each["certificate"]]
    ratio = [each["measured"]["uniform"]["measured_ms"] / each["measured"]["chosen"]["measured_ms"] for each in certified]
    other = [each["measured"]["random"]["measured_ms"] / each["measured"]["chosen"]["measured_ms"] for each in certified]
    error = [each["certificate"]["predicted_ms"] / each["certificate"]["measured_ms"] - 1 for each in certified]
    use = [each["certificate"]["measured_ms"] / each["certificate"]["budget_ms"] for each in certified]
    bound = [each["certificate"]["upper_bound_ms"] / each["certificate"]["measured_ms"] - 1 for each in certified]
    share = [each["certificate"]["budget_ms"] / each["certificate"]["space_max_ms"] for each in certified]
    accuracy = lambda name: f"{np.mean([100 * each['hits'][name].mean() for each in results if name in each['hits']]):.2f} %"  # noqa: E731
    return {
        "seeds, steps of training": f"{len(results)}, {results[0]['steps']}",
        "minutes, one thread, two jobs at a time: train / search": " / ".join(
            f"{np.mean([each['seconds'][stage] for each in results]) / 60:.1f}" for stage in ("train", "search")
        ),
        "test accuracy: smallest alone / inherited": f"{accuracy('smallest alone')} / {accuracy('smallest inherited')}",
        "test accuracy: largest alone / inherited": f"{accuracy('largest alone')} / {accuracy('largest inherited')}",
        "smallest: inherited - alone (target >= -3)": difference(results, "smallest inherited", "smallest alone"),
        "largest: inherited - alone (target >= -3)": difference(results, "largest inherited", "largest alone"),
        "largest alone - smallest alone (target >= 5)": difference(results, "largest alone", "smallest alone"),
        "certified within the budget": f"{len(certified)} of {len(results)}",
        "budget / measured largest subnet (target < 0.6)": f"{np.mean(share):.3f}, at most {np.max(share):.3f}",
        "predicted / measured - 1 of the chosen": f"{100 * np.mean(error):+.2f} % on average, at most {100 * np.max(np.abs(error)):.2f} %",
        "measured / budget; upper bound / measured - 1": f"{np.mean(use):.3f}; {100 * np.mean(bound):+.2f} %",
        "test accuracy: chosen / random / uniform": f"{accuracy('chosen file')} / {accuracy('random file')} / {accuracy('uniform file')}",
        "measured latency: uniform / chosen, random / chosen": f"{np.mean(ratio):.3f}, {np.mean(other):.3f}",
        "chosen - uniform, inherited (target >= 1)": difference(certified, "chosen file", "uniform file"),
        "chosen - random at equal cost, inherited (target not worse)": difference(certified, "chosen file", "random file"),
        "most accurate candidate - uniform, both trained alone": difference(results, "chosen alone", "uniform alone"),
        **{f"seed {each['seed']}: budget, predicted, measured [upper bound] ms": _latencies(each["certificate"]) for each in certified},
    }


def _latencies(certificate: dict[str, Any]) -> str:
    measured = f"{certificate['measured_ms']:.5f} [{certificate['upper_bound_ms']:.5f} at {100 * certificate['confidence']:.2f} %]"
    return f"{certificate['budget_ms']:.5f}, {certificate['predicted_ms']:.5f}, {measured} {certificate['statistic']}"


if __name__ == "__main__":
    sys.exit(main())
