"""Our int8 files in OpenVINO, beside those of ONNX Runtime's toolkit and of OpenVINO's own (NNCF), of the same networks.

    pip install openvino nncf
    python benchmarks/int8_openvino.py [--network mobilenet_v2:mobilenet_v2_1.0_224 ...] [--seconds 20] [--json]

All are compiled by OpenVINO for the CPU, one thread, and run in one process, interleaved: rounds of one visit of each in random order, a visit being a burst
of runs of which one, drawn at random after two warm-ups, counts. The target is 1.02 x the file of ONNX Runtime's toolkit. fp32 is computed in fp32, as
OpenVINO would take bfloat16 where the processor has it. Weights are random: latency does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from int8 import NETWORKS, TARGET, files, graphs

from hwnas.weights import Array, random_weights

WARM_UPS = 2
RUNS = 5
OPTIONS = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}


def compiled(model: Any, image: Array) -> Callable[[], Any]:
    """A run of a model in OpenVINO."""
    import openvino

    request = openvino.Core().compile_model(model, "CPU", OPTIONS).create_infer_request()
    return lambda: request.infer([image], share_inputs=True)


def models_of(network: str) -> tuple[dict[str, Any], Array]:
    """Name -> OpenVINO's model of each file, and an image."""
    import nncf
    import openvino

    plain, int8 = graphs(*network.split(":"))
    images = np.random.default_rng(0).standard_normal((4, *plain.input[1:])).astype(np.float32)
    made = files(plain, int8, random_weights(plain, np.random.default_rng(0)), images, "minmax")
    core = openvino.Core()
    read = {kind: core.read_model(raw) for kind, raw in made.items()}
    data = nncf.Dataset([each[None] for each in images])
    target, preset = nncf.TargetDevice.CPU, nncf.QuantizationPreset.MIXED  # asymmetric activations, as both others have
    read["nncf"] = nncf.quantize(core.read_model(made["fp32"]), data, preset=preset, target_device=target, subset_size=len(images))
    return read, images[:1]


def visited(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, Array]:
    """Name -> latency of each visit in ms."""
    rng, found = np.random.default_rng(0), {name: list[float]() for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name in rng.permutation(list(runs)):
            run, counts = runs[name], rng.integers(RUNS)
            for _ in range(WARM_UPS):
                run()
            for i in range(RUNS):
                began = time.perf_counter_ns()
                run()
                if i == counts:
                    found[name].append((time.perf_counter_ns() - began) / 1e6)
    return {name: np.array(values) for name, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), help="SPACE:REFERENCE, SPACE:smallest or SPACE:largest")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the window of each network")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        import nncf
        import openvino
    except ImportError as error:
        print(f"error: {error}; pip install openvino nncf", file=sys.stderr)
        return 2
    rows = []
    for network in arguments.network:
        models, image = models_of(network)
        visits = visited({name: compiled(model, image) for name, model in models.items()}, arguments.seconds)
        quantiles = {
            name: dict(zip(("p10_ms", "p50_ms", "p90_ms"), np.quantile(values, (0.1, 0.5, 0.9)).tolist(), strict=True)) for name, values in visits.items()
        }
        p50 = {name: each["p50_ms"] for name, each in quantiles.items()}
        ratios = {f"of_{name}": p50["ours"] / p50[name] for name in ("fp32", "toolkit", "nncf")}
        rows.append({"network": network, "side": image.shape[-1], "visits": len(visits["ours"]), **quantiles, **ratios})
        print(f"{network}: {ratios['of_toolkit']:.3f} of the toolkit's", file=sys.stderr)
    device = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    conditions = f"OpenVINO {openvino.__version__}, NNCF {nncf.__version__}, 1 thread, {device}"
    if arguments.json:
        print(json.dumps({"conditions": conditions, "rows": rows}, indent=1))
    else:
        print(f"  {conditions}; p50 in ms, measured interleaved")
        print(
            f"  {'network':<36} {'side':>4} {'fp32':>8} {'ours':>8} {'toolkit':>8} {'nncf':>8} {'of toolkit':>10} {'of nncf':>8} {'of fp32':>8} {'visits':>6}"
        )
        for row in rows:
            times = " ".join(f"{row[kind]['p50_ms']:>8.3f}" for kind in ("fp32", "ours", "toolkit", "nncf"))
            told = f"{row['of_toolkit']:>10.3f} {row['of_nncf']:>8.3f} {row['of_fp32']:>8.3f} {row['visits']:>6}"
            print(f"  {row['network']:<36} {row['side']:>4} {times} {told}")
        print(f"  target: at most {TARGET} of the toolkit's file")
    return 0 if all(row["of_toolkit"] <= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
