"""Latencies under a busy neighbour: what `hwnas profile` says, beside what common ways of timing say, of the same blocks at the same time.

    python benchmarks/disturbed.py [--space ofa_mini] [--visits 16] [--json]

The blocks of a space are timed on a quiet machine first. Then programs that do nothing but compute disturb the machine: one pinned to each
core, as many unpinned, or as many that pause and go on every two seconds. Errors are relative to the quiet value of the same way of timing,
so each is its own reference. Beside hwnas: `torch.utils.benchmark` (median of blocked_autorange), and means over repetitions that last
0.2 s (as Google Benchmark does) or 1,000 runs (as onnxruntime_perf_test does), all of ONNX Runtime sessions in this process.
Rows of hwnas without an undisturbed visit are marked (`accepted` 0) and counted apart: no error is claimed of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.graph import Graph, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, Measurement
from hwnas.profiling.session import profile
from hwnas.weights import random_weights

PEER_BLOCKS = 12
BUSY = "import time\nwhile True: pass"
ON_AND_OFF = "import time\nwhile True:\n    end = time.monotonic() + 2\n    while time.monotonic() < end: pass\n    time.sleep(2)"


@contextmanager
def neighbours(code: str, pinned: bool) -> Iterator[None]:
    """As many programs as cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if pinned and not hasattr(os, "sched_setaffinity"):
        sys.exit("this system pins no programs to cores")
    programs = []
    try:
        for core in cores:
            start = f"import os; os.sched_setaffinity(0, {{{core}}})\n" if pinned else ""
            programs.append(subprocess.Popen([sys.executable, "-c", start + code]))
        time.sleep(1)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def peers(index: BlockIndex) -> dict[str, dict[str, float]]:
    """Way of timing -> block -> ms."""
    import onnxruntime as ort
    from torch.utils.benchmark import Timer

    runtime = registry.create("profiling.runtimes", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    blocks = sorted({block_text(block): block for block in index.blocks if block}.items())
    found: dict[str, dict[str, float]] = {"torch.utils.benchmark": {}, "mean over 0.2 s": {}, "mean of 1,000 runs": {}}
    for text, block in blocks[:: max(1, len(blocks) // PEER_BLOCKS)]:
        graph = Graph.of_block(block)
        session = ort.InferenceSession(runtime.build(graph, random_weights(graph, np.random.default_rng(0))), options, providers=["CPUExecutionProvider"])
        feeds = {each.name: np.random.default_rng(0).standard_normal(each.shape).astype(np.float32) for each in session.get_inputs()}
        run: Callable[[], Any] = lambda session=session, feeds=feeds: session.run(None, feeds)  # noqa: E731
        for _ in range(3):
            run()
        found["torch.utils.benchmark"][text] = 1e3 * Timer("run()", globals={"run": run}).blocked_autorange(min_run_time=0.2).median
        n, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < 0.2:
            run()
            n += 1
        found["mean over 0.2 s"][text] = 1e3 * elapsed / n
        begin = time.perf_counter()
        for _ in range(1_000):
            run()
        found["mean of 1,000 runs"][text] = time.perf_counter() - begin
    return found


def table_of(index: BlockIndex, visits: int) -> tuple[LatencyTable, float]:
    """The table, and seconds of measuring."""
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = profile(
            index,
            load_device("localhost"),
            Path(folder),
            visits=visits,
            networks=0,
            progress=lambda stage, done, total: stages.setdefault(stage, time.monotonic()),
        )
        return table, time.monotonic() - stages["measure"]


def errors(disturbed: dict[str, float], quiet: dict[str, float]) -> dict[str, float]:
    error = np.array([disturbed[text] / quiet[text] - 1 for text in disturbed if text in quiet])
    return {"blocks": len(error), "median": float(np.median(error)), "largest": float(np.abs(error).max())} if len(error) else {"blocks": 0}


def measure(index: BlockIndex, visits: int) -> dict[str, Any]:
    quiet, quiet_s = table_of(index, visits)
    again, _ = table_of(index, visits)
    prices = {text: entry.price_ms for text, entry in quiet.entries.items() if isinstance(entry, Measurement)}
    quiet_peers, again_peers = peers(index), peers(index)
    report: dict[str, Any] = {"processor": quiet.conditions.processor, "conditions": str(quiet.conditions), "quiet_s": quiet_s, "situations": {}}

    def compared(table: LatencyTable, seconds: float, beside: dict[str, dict[str, float]]) -> dict[str, Any]:
        rows = {text: entry for text, entry in table.entries.items() if isinstance(entry, Measurement)}
        accepted = {text: entry.price_ms for text, entry in rows.items() if entry.accepted}
        marked = {text: entry.price_ms for text, entry in rows.items() if not entry.accepted}
        ways = {name: errors(values, quiet_peers[name]) for name, values in beside.items()}
        return {
            "hwnas_accepted": errors(accepted, prices),
            "hwnas_marked": errors(marked, prices),
            "seconds_to_quiet": seconds / quiet_s,
            "steadiness": {key: value for key, value in table.anchor["visits"].items() if key != "most_uneven"},
            **ways,
        }

    report["situations"]["quiet again"] = compared(again, quiet_s, again_peers)
    for name, code, pinned in (("busy, pinned", BUSY, True), ("busy, unpinned", BUSY, False), ("on and off", ON_AND_OFF, False)):
        with neighbours(code, pinned):
            table, seconds = table_of(index, visits)
            beside = peers(index)
        report["situations"][name] = compared(table, seconds, beside)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="ofa_mini")
    parser.add_argument("--visits", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        report = measure(BlockIndex(registry.create("spaces", given.space)), given.visits)
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{given.space} on {report['processor']} ({report['conditions']}); errors are relative to the same way of timing on the quiet machine")
    for situation, found in report["situations"].items():
        print(f"\n{situation}: {found['seconds_to_quiet']:.2f} times the quiet time; {found['steadiness']}")
        for name, each in found.items():
            if isinstance(each, dict) and "blocks" in each:
                what = f"median {each['median']:+.1%}, largest {each['largest']:.1%}" if each["blocks"] else "none"
                print(f"  {name:<24} {each['blocks']:>4} blocks: {what}")


if __name__ == "__main__":
    main()
