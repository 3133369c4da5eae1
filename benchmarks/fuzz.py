"""Files from outside, mutated: every one is loaded as it should be or refused in one sentence, and nothing on disk changes.

    python benchmarks/fuzz.py [--files 100000] [--seed 0] [--jobs 1] [--format NAME] [--json]

Formats, mutations and judgement are those of tests/hostile_files.py. Mutants are loaded in processes of their own, with an address
space of 16 GB and 20 s for each where the system can limit them: a crash, a hang or a memory bomb is a defect like a traceback.
File i of a seed is always the same; `--only I` repeats one and prints its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

SECONDS = 20
ADDRESS_SPACE = 16 << 30
SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--format", help="of this format alone")
    parser.add_argument("--only", type=int, help="number of a single file")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        return work(arguments)
    report = fuzz(arguments)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        for name, counts in report["formats"].items():
            print(f"{name:<16} {counts['loaded']:>8} loaded {counts['refused']:>8} refused {counts['defects']:>6} defects")
        print(f"{report['files']} files in {report['seconds']:.0f} s, {report['per_second']:.0f} a second; target: 0 defects")
        for defect in report["first_defects"]:
            print(f"\nfile {defect['number']} ({defect['format']}, {defect['file']}):\n{defect['ending']}")
    return 1 if any(counts["defects"] for counts in report["formats"].values()) else 0


def fuzz(arguments: argparse.Namespace) -> dict[str, Any]:
    """Endings by format, the first defects, and the rate. Each job loads every jobs-th file; one that dies is begun again behind its file."""
    started, jobs = time.monotonic(), max(1, arguments.jobs)
    first, last = (0, arguments.files) if arguments.only is None else (arguments.only, arguments.only + 1)
    counts: dict[str, Counter[str]] = {}
    defects: list[dict[str, Any]] = []
    running = [(begin, _start(arguments, begin, last, jobs)) for begin in range(first, min(first + jobs, last))]
    while running:
        begin, process = running.pop(0)
        assert process.stdout is not None
        case: dict[str, Any] = {"number": begin, "format": "any", "file": "", "ending": None}
        for line in process.stdout:
            case = json.loads(line)
            if case["ending"] is not None:
                _count(counts, defects, case)
        code = process.wait()
        if code and case["format"] == "any":
            raise SystemExit("the worker did not start")
        if code:
            _count(counts, defects, {**case, "ending": f"the interpreter ended with code {code}"})
            if case["number"] + jobs < last:
                running.append((case["number"] + jobs, _start(arguments, case["number"] + jobs, last, jobs)))
    seconds, n = time.monotonic() - started, sum(sum(each.values()) for each in counts.values())
    formats = {name: {kind: counts[name][kind] for kind in ("loaded", "refused", "defects")} for name in sorted(counts)}
    return {"files": n, "seed": arguments.seed, "seconds": seconds, "per_second": n / seconds, "formats": formats, "first_defects": defects[:SHOWN]}


def _start(arguments: argparse.Namespace, begin: int, last: int, jobs: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", str(begin), "--files", str(last), "--seed", str(arguments.seed), "--jobs", str(jobs)]
    command += ["--format", arguments.format] if arguments.format else []
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a job is a thread
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **alone})


def _count(counts: dict[str, Counter[str]], defects: list[dict[str, Any]], case: dict[str, Any]) -> None:
    kind = case["ending"] if case["ending"] in ("loaded", "refused") else "defects"
    counts.setdefault(case["format"], Counter())[kind] += 1
    if kind == "defects":
        defects.append(case)


def work(arguments: argparse.Namespace) -> int:
    """Load files number `worker`, `worker + jobs`, ...; a line before each, and one after it."""
    from hostile_files import FORMATS, Bench

    formats = [each for each in FORMATS if arguments.format in (None, each.name)]
    if not formats:
        raise SystemExit(f"no format named '{arguments.format}'; known: {', '.join(each.name for each in FORMATS)}")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        _limit()
        for number in range(arguments.worker, arguments.files, arguments.jobs):
            form = formats[number % len(formats)]
            case = {"number": number, "format": form.name, "file": "", "ending": None}
            print(json.dumps(case), file=answers, flush=True)
            case["file"] = bench.mutate(form, f"{arguments.seed} {number}")
            _alarm(SECONDS)
            case["ending"] = bench.outcome(form)
            _alarm(0)
            print(json.dumps(case), file=answers, flush=True)
    return 0


def _limit() -> None:
    """Bound the address space, where the system can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def _alarm(seconds: int) -> None:
    """End this process after so many seconds; 0 for never."""
    import signal

    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if __name__ == "__main__":
    raise SystemExit(main())
