"""How the command line shows things: a bar for what takes time, a table for what came out, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hwnas.verbs.common import Progress


def as_json(result: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(result, indent=1, allow_nan=False) + "\n")


def table(title: str, columns: Mapping[str, str], rows: list[list[str]]) -> None:
    """An aligned table on stdout; columns: heading -> `left` or `right`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in columns.items():
        made.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    for row in rows:
        made.add_row(*map(Text, row))  # never read as markup
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False)  # cells are text: 'hwnas[demo]' is no style
    if title:  # not the table's own title, which would be broken to the table's width
        console.print(Text(title, "italic"))
    console.print(made)


def device_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """(what, found) of a device's check."""
    system, before = found["system"], found["before"]

    def percent(value: float | None) -> str:
        return "every visit was disturbed" if value is None else f"{value:.2f} %"

    ghz = [f"{before[key] / 1e6:.2f} GHz {words}" for key, words in (("frequency_cur_khz", "now"), ("frequency_max_khz", "at most")) if key in before]
    states = [f"{each['relative_latency']:.2f} times the best for {100 * each['share']:.0f} % of the time" for each in found["speed_states"]]
    on = [str(found["options"][key]) for key in ("provider", "provider_device", "device") if key in found["options"]]
    units = (("gpu_clock_mhz", "MHz", 1), ("gpu_max_clock_mhz", "MHz at most", 1), ("gpu_power_milliwatt", "W", 1e3), ("gpu_load_pct", "% busy", 1))
    gpu = [f"{before[key] / scale:.0f} {unit}" for key, unit, scale in units if key in before]
    warmest = max(found["temperatures_c"].items(), key=lambda item: item[1], default=None)
    return [
        ["reached by", f"{found['transport']} {found['address']}".strip()],
        ["processor", f"{system.get('processor', 'unknown')}, {before.get('usable_cores', '?')} of {system.get('cores', '?')} cores usable"],
        ["cores", ", ".join([f"on {system.get('affinity', 'any')}{' as asked' * ('cores' in found['options'])}", *filter(None, [system.get("clusters")])])],
        ["clock rate", ", ".join([f"governor {system.get('governor', 'unknown')}", *ghz])],
        ["system", f"{system.get('os', 'unknown')} {system.get('arch', '')}" + (f", Python {system['python']}" if "python" in system else "")],
        ["runtime", ", ".join([f"{found['runtime']} {found['version']}", *on, f"{found['threads']} thread(s)"])],
        *([["GPU", ", ".join(gpu)]] if gpu else []),
        ["clock", f"steps of {before.get('clock_step_ns', '?')} ns"],
        ["memory", f"{before['memory_available_bytes'] / 1e9:.1f} GB available" if "memory_available_bytes" in before else "not shown by this system"],
        ["load", f"{before['load_1min_pct'] / 100:.2f} cores in the last minute" if "load_1min_pct" in before else "not shown by this system"],
        ["temperature", f"{warmest[1]:.0f} degrees Celsius ({warmest[0]})" if warmest else "not shown by this system"],
        ["anchor", f"{found['anchor_best_us']:.1f} microseconds at best, {found['visits']} visits"],
        ["noise floor", f"{percent(found['noise_pct'])} between bursts, {percent(found['run_noise_pct'])} between runs"],
        ["speed states", "; ".join(states)],
        ["disturbed", f"{100 * found['disturbed_share']:.1f} % of the visits"],
    ]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress callback that draws a bar with rate and remaining time on stderr; without a terminal, a line per stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Bar(TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            key = stage.partition(",")[0]
            if key not in tasks:
                tasks[key] = bar.add_task(stage, total=total)
            bar.update(tasks[key], completed=done, total=total, description=stage)

        yield show


class _Lines:
    """A line when a stage begins and one when it ends: for logs."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        key = stage.partition(",")[0]
        if key not in self._started or (not self._started[key] and done < total):  # begun, or begun again
            self._started[key] = time.monotonic()
            print(f"{key}: {done}/{total}", file=sys.stderr, flush=True)
        elif done >= total and self._started[key] > 0:
            print(f"{stage}: {done}/{total} in {time.monotonic() - self._started[key]:.0f} s", file=sys.stderr, flush=True)
            self._started[key] = 0.0
