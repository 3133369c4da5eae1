"""One supernet, two targets: what each method finds for this CPU and for a browser on it, certified there, and what swapping the networks costs.

    OMP_NUM_THREADS=1 python benchmarks/two_targets.py FOLDER [--step STEP ...] [--minutes 5] [--json]

Steps: `profile` measures the latency tables of ofa_mini on ONNX Runtime and on ONNX Runtime Web; `train` trains one supernet of it on cluttered digits
and measures accuracies of its subnets, which a predictor is fitted to; `search` has every method search a copy of that run under the same share of each
target's largest latency; `verify` certifies what it found on its target and exports it; `swap` measures all exported files interleaved on each target.
FOLDER keeps everything: the same command goes on where it stopped, and begins nothing new after --minutes. `profile`, `verify` and `swap` want a machine
without other work. The page of `hwnas device serve` is used where one is open, else headless Chromium.

`once_for_all` and `mnasnet` evaluate subnets of the supernet as it was trained; `proxylessnas` and `tunas` go on training it, each from the same weights. So
accuracies are compared between the two targets of a method, not between methods. Where a target's certificate does not come, its row says so, and the same
command tries again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas import registry
from hwnas.errors import HwnasError, InputError
from hwnas.files import read_json, write_json
from hwnas.index import BlockIndex
from hwnas.profiling.transports.browser import is_served

SPACE, DATA, LATENCY = "ofa_mini", "cluttered_digits", "<= 55% p50"
TARGETS = {"native": "localhost", "browser": "browser"}
#: Method -> what its search is told.
METHODS: dict[str, dict[str, Any]] = {
    "once_for_all": {"accuracy_predictor": "best", "evaluations": 20},
    "proxylessnas": {"evaluations": 20, "options": ("rounds=100",)},
    "mnasnet": {"evaluations": 100},
    "tunas": {"evaluations": 20},
}
STEPS = ("profile", "train", "search", "verify", "swap")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")


@contextmanager
def page() -> Iterator[None]:
    """A page of `hwnas device serve` in a browser. Raises InputError."""
    if is_served():
        yield
        return
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise InputError("Chromium is not installed; run 'hwnas device serve' in another terminal, open its page in a browser, and try again")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        server = subprocess.Popen([sys.executable, "-m", "hwnas", "device", "serve"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        browser = None
        try:
            url = next((line.strip() for line in server.stdout or () if line.startswith("http://")), None)
            if url is None:
                raise InputError("'hwnas device serve' served no page; run it by itself to see why")
            flags = [*FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else [])]
            browser = subprocess.Popen([chromium, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            yield
        finally:
            for process in filter(None, (browser, server)):
                process.terminate()
                process.wait(60)


@contextmanager
def reachable(target: str) -> Iterator[None]:
    if target == "browser":
        with page():
            yield
    else:
        yield


class Pieces:
    """What there is to do in `folder`, and whether it is done."""

    def __init__(self, folder: Path, seconds: float, length: float):
        self.folder, self.seconds, self.length = folder, seconds, length
        self.certified = folder / "certified.json"

    def left(self, step: str) -> list[tuple[str, ...]]:
        """What of the step is not done and can be begun."""
        pairs = [(method, target) for method in METHODS for target in TARGETS]
        if step == "profile":
            return [(target,) for target in TARGETS if not self._is_profiled(target)]
        if step == "train":
            return [] if self._is_trained() else [("supernet",)]
        if step == "search":
            ready = self._is_trained()
            return [(m, t) for m, t in pairs if ready and self._is_profiled(t) and not (self.run(m, t) / "front.csv").is_file()]
        if step == "verify":
            return [(m, t) for m, t in pairs if (self.run(m, t) / "front.csv").is_file() and f"{m}-{t}" not in self.found()]
        return [(target,) for target in TARGETS if self.found() and self._swapped(target) != sorted(self.found())]

    def do(self, step: str, *what: str) -> None:
        getattr(self, step)(*what)

    def profile(self, target: str) -> None:
        with reachable(target):
            hwnas.profile(TARGETS[target], space=SPACE, to=self.folder / target, networks=24)

    def train(self, what: str) -> None:
        hwnas.train(self.folder / what, space=SPACE, data=DATA, length=self.length, threads=1)
        hwnas.build_accuracy(self.folder / what, samples=150, threads=1)

    def search(self, method: str, target: str) -> None:
        run = self.run(method, target)
        if not run.is_dir():
            copy = run.with_suffix(".copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.folder / "supernet", copy)
            copy.rename(run)
        hwnas.search(run, table=self.folder / target, latency=LATENCY, searcher=method, baselines=False, threads=1, **METHODS[method])

    def verify(self, method: str, target: str) -> None:
        run, files = self.run(method, target), self.folder / "export" / f"{method}-{target}"
        with reachable(target):
            certificate = hwnas.verify(run, top=2, seconds=self.seconds)["certificate"]
        if certificate is None:
            print(f"{method}: not certified for the {target} target", file=sys.stderr)
            return
        accuracy = hwnas.export(run, to=files, kit="")["accuracy"]
        kept = ("budget_ms", "measured_ms", "upper_bound_ms", "confidence", "visits", "independent_visits", "architecture", "conditions")
        found = {key: certificate[key] for key in kept} | {"test_pct": accuracy["accuracy_pct"], "images": accuracy["images"]}
        write_json(self.certified, self.found() | {f"{method}-{target}": found})

    def swap(self, target: str) -> None:
        names = sorted(self.found())
        with reachable(target):
            measured = hwnas.bench([self.folder / "export" / name / "model.onnx" for name in names], device=TARGETS[target], seconds=self.seconds)
        write_json(self.folder / f"swapped_{target}.json", {"names": names, **measured})

    def run(self, method: str, target: str) -> Path:
        return self.folder / f"{method}-{target}"

    def found(self) -> dict[str, Any]:
        return dict(read_json(self.certified)) if self.certified.is_file() else {}

    def _is_profiled(self, target: str) -> bool:
        return (self.folder / target / "table.toml").is_file()

    def _is_trained(self) -> bool:
        return (self.folder / "supernet" / "accuracies.csv").is_file()

    def _swapped(self, target: str) -> list[str]:
        file = self.folder / f"swapped_{target}.json"
        return list(read_json(file)["names"]) if file.is_file() else []

    def report(self) -> dict[str, Any]:
        """A row for each method and target: its certificate, and its file's p50 on both targets, in one window each."""
        found = self.found()
        windows: dict[str, Mapping[str, Any]] = {target: read_json(self.folder / f"swapped_{target}.json") for target in TARGETS if self._swapped(target)}
        latency = {
            target: dict(zip(each["names"], (model["latency_ms"].get("p50") for model in each["models"]), strict=True)) for target, each in windows.items()
        }
        budgets = {target: next((found[f"{m}-{target}"]["budget_ms"] for m in METHODS if f"{m}-{target}" in found), None) for target in TARGETS}
        rows = []
        for method in METHODS:
            for target in TARGETS:
                one, other = found.get(f"{method}-{target}"), [found[f"{method}-{t}"] for t in TARGETS if t != target and f"{method}-{t}" in found]
                row: dict[str, Any] = {"method": method, "target": target, "certificate": one}
                if one is not None:
                    row["p50_ms"] = {t: latency[t][f"{method}-{target}"] for t in latency if f"{method}-{target}" in latency[t]}
                    row["differs_in"] = [differing(one["architecture"], each["architecture"]) for each in other]
                rows.append(row)
        return {
            "budgets_ms": budgets,
            "conditions": {target: each["conditions"] for target, each in windows.items()},
            "windows_s": {target: each["seconds"] for target, each in windows.items()},
            "rows": rows,
        }


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The choices in which two architectures differ, those of blocks that both skip left out."""
    index = BlockIndex(registry.create("spaces", SPACE))

    def matters(name: str, of: Mapping[str, Any], value: Any) -> bool:
        before, after = index.keys(np.concatenate([index.space.encode(of), index.space.encode({**of, name: value})]))
        return before != after

    return [name for name in one if one[name] != other[name] and (matters(name, one, other[name]) or matters(name, other, one[name]))]


def printed(report: Mapping[str, Any]) -> str:
    budgets = report["budgets_ms"]
    lines = [f"budget, {LATENCY.removeprefix('<= ')} of the largest subnet: " + ", ".join(f"{t} {ms:.4g} ms" for t, ms in budgets.items() if ms)]
    lines += [f"{target}: {each['device']}, {each['processor']}, {each['runtime']} {each['version']}" for target, each in report["conditions"].items()]
    lines += ["", f"| method | chosen for | certified there, ms | {' | '.join(f'p50 {t}, ms' for t in TARGETS)} | test accuracy |"]
    lines.append(f"|---|---|---|{'---|' * len(TARGETS)}---|")
    for row in report["rows"]:
        one = row["certificate"]
        if one is None:
            lines.append(f"| {row['method']} | {row['target']} | not certified |{' |' * len(TARGETS)} |")
            continue
        cells = [f"{one['measured_ms']:.4g}, at most {one['upper_bound_ms']:.4g} at {100 * one['confidence']:.2f} %"]
        for target in TARGETS:
            each = row["p50_ms"].get(target)
            text = "-" if each is None else f"{each['value']:.4g} [{_end(each['low'])}, {_end(each['high'])}]"
            over = each is not None and budgets[target] and each["value"] > budgets[target]
            cells.append(text + (f" **{100 * (each['value'] / budgets[target] - 1):.0f} % over**" if over else ""))
        lines.append(f"| {row['method']} | {row['target']} | {' | '.join(cells)} | {one['test_pct']:.1f} % |")
    apart = [f"{row['method']} {len(names)}" for row in report["rows"][:: len(TARGETS)] if row["certificate"] for names in row["differs_in"]]
    lines += ["", f"choices in which the networks of a method differ between the targets: {', '.join(apart)}"] if apart else []
    return "\n".join(lines)


def _end(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", action="append", choices=STEPS, help="all by default")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each window")
    parser.add_argument("--length", type=float, default=1.0, help="multiplies the epochs of the training")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    begin, pieces = time.monotonic(), Pieces(given.folder, given.seconds, given.length)
    try:
        for step in given.step or STEPS:
            for what in pieces.left(step):
                if time.monotonic() - begin < 60 * given.minutes:
                    started = time.monotonic()
                    pieces.do(step, *what)
                    print(f"{step} {' '.join(what)}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    except HwnasError as error:
        sys.exit(str(error))
    report = pieces.report()
    print(json.dumps(report, indent=1) if given.json else printed(report))
    if waiting := [" ".join((step, *what)) for step in STEPS for what in pieces.left(step)]:
        print(f"left: {', '.join(waiting)}", file=sys.stderr)


if __name__ == "__main__":
    main()
