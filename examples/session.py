"""The main job from Python, cell by cell as in a notebook: profile, train, search, verify, export, report.

    python examples/session.py [FOLDER] [--space SPACE] [--length L]        (some minutes; the same command again continues)

An editor that knows `# %%` runs it cell by cell. Each function is the command of the same name, with the same options, and returns
what the command prints with `--json`.
"""

# %% Where everything goes, and what is searched
import argparse
from pathlib import Path

import hwnas

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/session"))
parser.add_argument("--space", default="ofa_mini")
parser.add_argument("--latency", default="<= 55% p50", help="budget")
parser.add_argument("--length", type=float, default=1.0, help="multiplies the epochs of the training")
parser.add_argument("--evaluations", type=int, default=150, help="subnets to evaluate")
parser.add_argument("--visits", type=int, default=16, help="of each block, for the table")
parser.add_argument("--networks", type=int, default=24, help="whole networks that calibrate the table")
parser.add_argument("--seconds", type=float, default=60.0, help="measuring window of verify")
settings = parser.parse_args()
run, table = settings.folder / "run", settings.folder / "table"

# %% The space: choices, layers, and every distinct block that can occur
facts = hwnas.show_space(settings.space)
print(f"{facts['name']}: {facts['subnets']:.3g} subnets of {facts['distinct_blocks']} distinct blocks, up to {facts['macs']['max'] / 1e6:.3g} M MACs")

# %% Measure each block once on this machine, and some whole networks that calibrate the sum
prices = hwnas.profile("localhost", space=settings.space, to=table, visits=settings.visits, networks=settings.networks)
print(f"{len(prices.entries)} blocks {prices.origin} on {prices.conditions}")

# %% One supernet holds the weights of all subnets
trained = hwnas.train(run, space=settings.space, data="cluttered_digits", length=settings.length, threads=1)
print("validation accuracy:", ", ".join(f"{name} {value:.1f} %" for name, value in trained["validation_accuracy_pct"].items()))

# %% The most accurate subnets whose predicted latency keeps the budget; the front for a plot
found = hwnas.search(run, table=table, latency=settings.latency, evaluations=settings.evaluations, threads=1)
front = [(point["latency_ms"], point["accuracy_pct"]) for point in found["points"] if point["on_front"]]
print(f"{len(front)} subnets on the front, latency {found['latency_origin']}; the best: {max(a for _, a in front):.1f} %")

# %% Files, not predictions, keep a budget: measure the best candidates, certify one
verified = hwnas.verify(run, top=2, seconds=settings.seconds)
certificate = verified["certificate"]
for network in verified["measured"]:
    print(f"{network['role']:<10} predicted {network['latency_ms']:.3g} ms, measured {network['measured_ms']:.3g} ms: {network['verdict']}")

# %% What to ship, and one page about it; without a certificate there is nothing to ship
if certificate is not None:
    exported = hwnas.export(run, to=settings.folder / "export")
    print(f"{exported['folder']}: {exported['size_bytes'] / 1e3:.0f} kB, {certificate['statistic']} at most {certificate['upper_bound_ms']:.3g} ms")
report = hwnas.report(run)
for each in report.comparisons:
    low, high = each.difference_points.low, each.difference_points.high
    print(f"against {each.baseline}: {each.difference_points.value:+.1f} points of test accuracy ({low:+.1f} ... {high:+.1f})")
print(f"the page: {run / 'report.html'}")
