"""Times ONNX models with ONNX Runtime on the machine it runs on. Needs numpy and onnxruntime; its contract: agent_contract.py."""

import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from agent_contract import MAX_TENSOR_ELEMENTS, Refused, main, refuse_external_data

try:
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    sys.exit(f"{error}; install what the agent needs with: {sys.executable} -m pip install numpy onnxruntime")

TYPES = {f"tensor({name})": dtype for name, dtype in (("float", "float32"), ("float16", "float16"), ("uint8", "uint8"), ("int8", "int8"))}


def random_array(rng, dtype, shape):
    """Standard normal, or all integers of eight bits alike."""
    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape, dtype)


def kernels(options, model, feeds):
    """{"computed_in_TYPE": how many convolutions and matrix products} as ONNX Runtime ran them; the type is that of what they read.

    It runs what it has no kernel for in float32, between casts, and says so nowhere but in a profile. Takes a session of its own.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-agent-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = {}
    for each in events:
        about = each.get("args", {})
        if each.get("name", "").endswith("_kernel_time") and any(part in about.get("op_name", "") for part in ("Conv", "Gemm", "MatMul")):
            for kind in about["input_type_shape"][0]:
                name = "computed_in_" + ("float32" if kind == "float" else kind)
                found[name] = found.get(name, 0) + 1
    return found


class Item:
    """A model in a live session, its input and outputs bound to fixed memory."""

    def __init__(self, model, options, seed):
        refuse_external_data(model)
        self.model, self.options, self.facts = model, options(), {}
        self.session = self.new_session()
        rng = np.random.default_rng(seed)
        feeds = {}
        for each in self.session.get_inputs():
            if each.type not in TYPES or not all(isinstance(size, int) and size > 0 for size in each.shape):
                raise Refused(f"input {each.name} is {each.type} {each.shape}; only float32, float16 and int8 of fixed shape are timed")
            if np.prod([float(size) for size in each.shape]) > MAX_TENSOR_ELEMENTS:
                raise Refused(f"input {each.name} has more than {MAX_TENSOR_ELEMENTS} elements")
            feeds[each.name] = random_array(rng, TYPES[each.type], each.shape)
        names = [each.name for each in self.session.get_outputs()]
        self.inputs = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        self.outputs = {}
        for name, array in zip(names, self.session.run(names, feeds)):
            if not np.isfinite(array).all():
                raise Refused(f"output {name} is not finite")
            self.outputs[name] = ort.OrtValue.ortvalue_from_numpy(array)
        if b"QuantizeLinear" in model or b"Cast" in model or any(array.dtype != np.float32 for array in feeds.values()):  # not all is float32
            with suppress(OSError):  # nowhere to write a profile to: then nothing is known of the kernels
                self.facts = kernels(options(), model, feeds)
        self.bind()

    def new_session(self):
        return ort.InferenceSession(self.model, self.options, providers=["CPUExecutionProvider"])

    def bind(self):
        self.binding = self.session.io_binding()
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        for name, value in self.outputs.items():
            self.binding.bind_ortvalue_output(name, value)

    def open(self):
        self.session = self.binding = None
        self.session = self.new_session()
        self.bind()

    def warm_up(self, runs):
        for _ in range(runs):
            self.session.run_with_iobinding(self.binding)

    def timed(self, runs):
        """Nanoseconds of each run."""
        run, binding, clock = self.session.run_with_iobinding, self.binding, time.perf_counter_ns
        ns = [0] * runs
        for i in range(runs):
            start = clock()
            run(binding)
            ns[i] = clock() - start
        return ns


class OnnxRuntime:
    name, version, system = "onnxruntime", ort.__version__, {"numpy": np.__version__}

    def start(self, threads, options):
        if options:
            raise Refused(f"unknown option {next(iter(options))!r}")
        self.threads = threads
        in_force = {"provider": "CPUExecutionProvider", "intra_op_threads": threads, "inter_op_threads": 1, "optimization": "all"}
        return {**in_force, "denormals": "zero", "io_binding": True}

    def session_options(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        # Denormals slow a convolution down two hundred times. Process-wide; the first session of a process decides.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        return options

    def load(self, model, seed):
        return Item(model, self.session_options, seed)

    def state(self):
        return {}


if __name__ == "__main__":
    main(OnnxRuntime())
