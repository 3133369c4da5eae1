"""A simulated device on which latency is no sum over blocks: it really waits as long as a network takes, by a rule that the tests know.

A convolution of kernel 1, 3 or 5 takes 20, 40 or 60 us, and each change of the kernel from one convolution to the next 70 us more, as where a
runtime changes its layout. In the folder CHAINED_AGENT the file `refused` holds kernels of networks that it refuses, a file `dies` kills it once, and
it notes what is loaded in `loaded`.
"""

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

import lying_agent
import onnx

FOLDER = Path(os.environ["CHAINED_AGENT"]) if "CHAINED_AGENT" in os.environ else Path(__file__).parent
KERNEL_US, CHANGE_US = {1: 20, 3: 40, 5: 60}, 70

KERNELS = {}


def latency_us(kernels):
    """Of a network of convolutions with these kernels, one after the other."""
    return sum(KERNEL_US[kernel] for kernel in kernels) + CHANGE_US * sum(a != b for a, b in pairwise(kernels))


def truth_ns(item):
    return 50_000 if item == "anchor" else 1_000 * latency_us(KERNELS[item])


def kernels_of(model):
    convolutions = [node for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"]
    return [int(next(each.ints[0] for each in node.attribute if each.name == "kernel_shape")) for node in convolutions]


def answer(request):
    if request["op"] == "load":
        kernels = kernels_of(sys.stdin.buffer.read(request["bytes"]))
        KERNELS[request["item"]] = kernels
        text = "".join(map(str, kernels))
        if (FOLDER / "refused").exists() and text in (FOLDER / "refused").read_text().split():
            return {"ok": False, "error": f"no kernel for {text}"}
        with (FOLDER / "loaded").open("a") as file:
            file.write(text + "\n")
        return {"item": request["item"], "facts": {}}
    if request["op"] == "run" and len(request["order"]) > 2 and (FOLDER / "dies").exists():
        (FOLDER / "dies").unlink()
        os._exit(9)
    return lying_agent.answer(request)


def main():
    lying_agent.truth_ns = truth_ns
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps({"ok": True, **answer(json.loads(line))}) + "\n")
        sys.stdout.flush()
