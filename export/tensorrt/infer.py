"""Runs the TensorRT engine that build_engine.py made: checks it against the manifest, classifies images, times it on the device.

    python infer.py                 check the files and the stored example, and time the network
    python infer.py photo.png       classify an image as well (.npy without Pillow)

Open only plans that you built yourself: a plan is a program for the GPU. Exits 1 if the network does not compute what it should, 2 if a file is refused.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import exported
import numpy as np
from agent_contract import Refused as AgentRefused
from cuda_driver import CudaDriver
from tensorrt_engine import library, new_logger

MAX_PLAN_BYTES = 4 << 30


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, default=Path(__file__).resolve().parent / "model.plan", help="what build_engine.py wrote")
    arguments = exported.parsed(parser)
    return exported.finished(lambda: work(arguments))


def work(arguments):
    try:
        engine = None

        def load(folder, manifest):
            nonlocal engine
            engine = Engine(arguments.plan, folder, manifest)
            return engine.run

        runs, arguments.runs = arguments.runs, 0  # timed here, on the device and without copies, as its latency was certified
        exported.check_and_time(arguments, load)
        if runs > 0:
            report(engine, exported.read_manifest(arguments.folder), runs, arguments.within_bound)
    except AgentRefused as error:
        raise exported.Refused(str(error)) from None


class Engine:
    """A plan on the first visible GPU; its input and output lie in device memory as large as the largest that was run."""

    def __init__(self, path, folder, manifest):
        plan, facts = read_plan(path, folder, manifest)
        self.trt, self.dialect = library(facts["runtime"])
        if facts["version"] != str(self.trt.__version__):
            raise exported.Refused(f"{path} was built by {facts['runtime']} {facts['version']}, here is {self.trt.__version__}; build it again")
        self.cuda, self.log, self.manifest = CudaDriver(), new_logger(self.trt), manifest
        runtime = self.trt.Runtime(self.log)
        self.engine = runtime.deserialize_cuda_engine(plan)
        self.context = self.engine.create_execution_context() if self.engine is not None else None
        if self.context is None:
            raise exported.Refused(f"{path} cannot be opened: {'; '.join(self.log.errors) or 'no reason given'}; build it on this device")
        self.memory = {}

    def run(self, x):
        entering, leaving = self.manifest["input"]["name"], self.manifest["output"]["name"]
        x = np.ascontiguousarray(x)
        if not self.context.set_input_shape(entering, x.shape):
            raise exported.Refused(f"the engine takes no input of shape {x.shape}: {'; '.join(self.log.errors) or 'build it for that size'}")
        output = np.empty((len(x), len(self.manifest["labels"])), np.float32)
        if tuple(self.context.get_tensor_shape(leaving)) != output.shape or self.engine.get_tensor_dtype(leaving) != self.trt.float32:
            raise exported.Refused(f"the engine does not give float32 {output.shape}, as the manifest says: build it again")
        for name, array in ((entering, x), (leaving, output)):
            if self.memory.get(name, (0, 0))[1] < array.nbytes:
                self.memory[name] = (self.cuda.allocate(array.nbytes), array.nbytes)
            self.context.set_tensor_address(name, self.memory[name][0])
        self.cuda.upload(self.memory[entering][0], x)
        if not self.enqueue():
            raise exported.Refused(f"the engine cannot be run: {'; '.join(self.log.errors) or 'no reason given'}")
        self.cuda.wait()
        self.cuda.download(output, self.memory[leaving][0])
        return output

    def enqueue(self):
        return self.context.execute_async_v3(self.cuda.stream.value)


def read_plan(path, folder, manifest):
    """The plan's bytes and what build_engine.py said of it; it must be of this very model."""
    about = path.with_suffix(".json")
    try:
        if path.stat().st_size > MAX_PLAN_BYTES or about.stat().st_size > exported.MAX_MANIFEST_BYTES:
            raise exported.Refused(f"{path} is too large for a plan")
        plan, facts = path.read_bytes(), json.loads(about.read_text(encoding="utf-8"))
        fits = facts["format"] == "hwnas.plan/1" and facts["runtime"] in ("tensorrt", "tensorrt_rtx") and isinstance(facts["version"], str)
        fits = fits and facts["plan_sha256"] == hashlib.sha256(plan).hexdigest()
    except OSError as error:
        raise exported.Refused(f"cannot read {error.filename}: {error.strerror}; build the engine first: python build_engine.py") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        fits = False
    if not fits:
        raise exported.Refused(f"{path} is not the plan that {about} was written for; build it again")
    if facts["model_sha256"] != manifest["files"][manifest["model"]]:
        raise exported.Refused(f"{path} was built of another model; build it again")
    return plan, facts


def report(engine, manifest, runs, within_bound):
    engine.cuda.timed_ns(engine.enqueue, 20)
    here = float(np.median(engine.cuda.timed_ns(engine.enqueue, runs))) / 1e6
    print(f"latency  {here:.3g} ms here (p50 of {runs} runs, on the device between CUDA events)")
    exported.compare_latency(manifest, here, within_bound)


if __name__ == "__main__":
    sys.exit(main())
