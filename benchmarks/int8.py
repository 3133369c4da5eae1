"""Our int8 files against those of ONNX Runtime's own toolkit, of the same networks, on the same runtime; accuracy of a trained network in both.

    python benchmarks/int8.py [--network mobilenet_v2:mobilenet_v2_1.0_224 resnet:resnet50 ...] [--seconds 40] [--device localhost] [--runtime NAME] [--json]
    python benchmarks/int8.py --run runs/int8 [--length 1.0]         accuracy: trains `ofa_mini` on cluttered_digits, or takes what is there
    python benchmarks/int8.py --run runs/int8 --subnets 100          how often random subnets of it agree with themselves in fp32

Latency: for each network fp32, ours, and `quantize_static` (QDQ, per channel, uint8 activations, int8 weights, after `quant_pre_process`; min-max on the
same images) are measured interleaved in one window. The target is 1.02 x the toolkit's file. Weights are random: latency does not depend on them.
Accuracy: top-1 of each file on the test images, and how often it agrees with fp32, by calibration; ours and the toolkit's on the same 128 training images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas import registry
from hwnas.backends.onnx import runner, to_onnx
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.graph import Graph
from hwnas.profiling.window import measure_window
from hwnas.quantization import CALIBRATIONS, value_ranges
from hwnas.run import RunDirectory
from hwnas.variant import Variant
from hwnas.verbs.common import Job
from hwnas.weights import Array, Weights, random_weights

NETWORKS = ("mobilenet_v2:mobilenet_v2_1.0_224", "mobilenet_v3:mobilenet_v3_large_1.0", "resnet:resnet50", "ofa_mobilenet_v3:smallest", "ofa_resnet50:smallest")
TARGET = 1.02
LEAST_AGREEMENT_PCT = 97
CALIBRATION_IMAGES = 128


class Images:
    """What ONNX Runtime's calibrators read."""

    def __init__(self, name: str, images: Array):
        self.name, self.images = name, images
        self.rewind()

    def rewind(self) -> None:
        self.rest: Iterator[Array] = iter(self.images)

    def get_next(self) -> dict[str, Array] | None:
        one = next(self.rest, None)
        return None if one is None else {self.name: one[None]}


def toolkit(fp32: bytes, images: Array, calibration: str) -> bytes:
    """The file that ONNX Runtime's toolkit makes of a float32 one."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    method = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}[calibration]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), redirect_stdout(sys.stderr):  # it prints its progress
        warnings.simplefilter("ignore")
        before, prepared, after = (Path(folder) / f"{name}.onnx" for name in ("before", "prepared", "after"))
        before.write_bytes(fp32)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            after,
            Images("input", images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )
        return after.read_bytes()


def graphs(space_name: str, which: str) -> tuple[Graph, Graph]:
    """(float32, int8) of a reference network of a space, or its smallest or largest subnet."""
    space = registry.create("spaces", space_name)
    code = {"smallest": space.smallest, "largest": space.largest}[which]() if which in ("smallest", "largest") else space.encode(space.references[which])
    return space.lower(code), Variant("int8_u8s8").space(space).lower(code)


def files(plain: Graph, int8: Graph, weights: Weights, images: Array, calibration: str) -> dict[str, bytes]:
    fp32 = to_onnx(plain, weights).SerializeToString()
    ours = to_onnx(int8, weights, ranges=value_ranges(int8, weights, images, calibration=calibration)).SerializeToString()
    return {"fp32": fp32, "ours": ours, "toolkit": toolkit(fp32, images, calibration)}


def latency(networks: list[str], device: str, runtime: str, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for name in networks:
        plain, int8 = graphs(*name.split(":"))
        images = np.random.default_rng(0).standard_normal((4, *plain.input[1:])).astype(np.float32)
        made = files(plain, int8, random_weights(plain, np.random.default_rng(0)), images, "minmax")
        window = measure_window(list(made.values()), load_device(device), runtime=runtime, seconds=seconds)
        row: dict[str, Any] = {"network": name, "side": plain.input[-1], "conditions": str(window.conditions), "processor": window.conditions.processor}
        for kind, found in zip(made, window.rows, strict=True):
            row[kind] = {
                "p50_ms": found.estimate_ms,
                "p10_ms": found.p10_ms,
                "p90_ms": found.p90_ms,
                "visits": found.visits,
                "dropped": found.dropped,
                "bytes": len(made[kind]),
            }
        row["of_toolkit"] = row["ours"]["p50_ms"] / row["toolkit"]["p50_ms"]
        row["of_fp32"] = row["ours"]["p50_ms"] / row["fp32"]["p50_ms"]
        rows.append(row)
        print(f"{name}: {row['of_toolkit']:.3f} of the toolkit's", file=sys.stderr)
    return rows


def train(run: Path, length: float) -> None:
    if not (run / "run.sqlite").exists():
        hwnas.train(run, space="ofa_mini", data="cluttered_digits", length=length, threads=1)


def agreement(run: Path, subnets: int, seed: int = 0) -> list[dict[str, Any]]:
    """Of random subnets of a trained run: top-1 of the files on the test images, in %, and how often those in int8 agree with fp32."""
    with RunDirectory(run) as directory:
        job = Job(directory)
        space, test, rows = job.index.space, job.images("test"), []
        labels = test.labels.numpy()
        for number in range(subnets):
            code = space.sample(np.random.default_rng([seed, number]))
            weights, plain, int8 = job.accuracy.network(code[0]).weights(), space.lower(code), Variant("int8_u8s8").space(space).lower(code)
            seen = job.images("train").sample(CALIBRATION_IMAGES).at(slice(None), plain.input[2]).numpy()
            x, answers = test.at(slice(None), plain.input[2]).numpy(), {}
            for kind, model in files(plain, int8, weights, seen, "minmax").items():
                run_it = runner(model)
                answers[kind] = np.concatenate([run_it(each[None]) for each in x])
            row: dict[str, Any] = {"number": number, "images": len(labels)}
            for kind, logits in answers.items():
                found, real = logits.argmax(axis=1), answers["fp32"]
                agrees, error = 100 * float((found == real.argmax(axis=1)).mean()), float(np.sqrt(np.square(logits - real).mean()) / real.std())
                row[kind] = {"accuracy_pct": 100 * float((found == labels).mean()), "agrees_pct": agrees, "rms_of_std": error}
            rows.append(row)
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{subnets}", end="", file=sys.stderr)
        return rows


def accuracy(run: Path) -> list[dict[str, Any]]:
    """Of the largest subnet of a trained run."""
    with RunDirectory(run) as directory:
        job = Job(directory)
        space, code = job.index.space, job.index.space.largest()[0]
        weights, plain, int8 = job.accuracy.network(code).weights(), space.lower(code), Variant("int8_u8s8").space(space).lower(code)
        side, test = plain.input[2], job.images("test")
        x, labels = test.at(slice(None), side).numpy(), test.labels.numpy()
        seen = job.images("train").sample(CALIBRATION_IMAGES).at(slice(None), side).numpy()
        rows = []
        for calibration in CALIBRATIONS:
            answers = {}
            for kind, model in files(plain, int8, weights, seen, calibration).items():
                run_it = runner(model)
                answers[kind] = np.concatenate([run_it(each[None]) for each in x]).argmax(axis=1)
            row: dict[str, Any] = {"calibration": calibration, "images": len(labels)}
            for kind, found in answers.items():
                row[kind] = {"accuracy_pct": 100 * float((found == labels).mean()), "agrees_pct": 100 * float((found == answers["fp32"]).mean())}
            rows.append(row)
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), help="SPACE:REFERENCE, SPACE:smallest or SPACE:largest")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the window of each network")
    parser.add_argument("--device", default="localhost")
    parser.add_argument("--runtime", default="")
    parser.add_argument("--run", type=Path, help="accuracy of this run in the place of latency")
    parser.add_argument("--subnets", type=int, default=0, help="random subnets of the run that are compared with themselves in fp32")
    parser.add_argument("--length", type=float, default=1.0, help="of the training, where there is no run yet")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        if arguments.run:
            train(arguments.run, arguments.length)
            rows = agreement(arguments.run, arguments.subnets) if arguments.subnets else accuracy(arguments.run)
        else:
            rows = latency(arguments.network, arguments.device, arguments.runtime, arguments.seconds)
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(rows, indent=1))
    elif arguments.run and arguments.subnets:
        print(f"  {len(rows)} random subnets, {rows[0]['images']} test images each; top-1 of int8 agrees with fp32:")
        for kind in ("ours", "toolkit"):
            agrees, error = (np.array([row[kind][key] for row in rows]) for key in ("agrees_pct", "rms_of_std"))
            cost = np.array([row["fp32"]["accuracy_pct"] - row[kind]["accuracy_pct"] for row in rows])
            enough = f"{int((agrees >= LEAST_AGREEMENT_PCT).sum())} of {len(rows)} at {LEAST_AGREEMENT_PCT} % or more"
            print(f"  {kind}: median {np.median(agrees):.2f} %, least {agrees.min():.2f} %; {enough}")
            print(
                f"    accuracy lost: median {np.median(cost):.2f} points, most {cost.max():.2f}; rms error of logits {np.median(error):.4f} of their deviation"
            )
    elif arguments.run:
        print(f"  {'calibration':<12} {'images':>6}" + "".join(f" {kind + ' %':>11} {'agrees %':>9}" for kind in ("fp32", "ours", "toolkit")))
        for row in rows:
            values = "".join(f" {row[kind]['accuracy_pct']:>11.2f} {row[kind]['agrees_pct']:>9.2f}" for kind in ("fp32", "ours", "toolkit"))
            print(f"  {row['calibration']:<12} {row['images']:>6}{values}")
    else:
        print(f"  {rows[0]['conditions']}, {rows[0]['processor']}; p50 in ms, measured interleaved")
        print(f"  {'network':<32} {'side':>4} {'fp32':>8} {'ours':>8} {'toolkit':>8} {'of toolkit':>10} {'of fp32':>8} {'visits':>6}")
        for row in rows:
            times = " ".join(f"{row[kind]['p50_ms']:>8.3f}" for kind in ("fp32", "ours", "toolkit"))
            print(f"  {row['network']:<32} {row['side']:>4} {times} {row['of_toolkit']:>10.3f} {row['of_fp32']:>8.3f} {row['ours']['visits']:>6}")
        print(f"  target: at most {TARGET} of the toolkit's file")
    return 0 if arguments.run or all(row["of_toolkit"] <= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
