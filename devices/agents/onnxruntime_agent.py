"""Times ONNX models with ONNX Runtime on the machine it runs on. Needs numpy and onnxruntime; its contract: agent_contract.py."""

import sys
import time

from agent_contract import MAX_TENSOR_ELEMENTS, Refused, main, refuse_external_data

try:
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    sys.exit(f"{error}; install what the agent needs with: {sys.executable} -m pip install numpy onnxruntime")


class Item:
    """A model in a live session, its input and outputs bound to fixed memory."""

    facts = {}  # noqa: RUF012

    def __init__(self, model, options, seed):
        refuse_external_data(model)
        self.model, self.options = model, options
        self.session = self.new_session()
        rng = np.random.default_rng(seed)
        feeds = {}
        for each in self.session.get_inputs():
            if each.type != "tensor(float)" or not all(isinstance(size, int) and size > 0 for size in each.shape):
                raise Refused(f"input {each.name} is {each.type} {each.shape}; only float32 of fixed shape is timed")
            if np.prod([float(size) for size in each.shape]) > MAX_TENSOR_ELEMENTS:
                raise Refused(f"input {each.name} has more than {MAX_TENSOR_ELEMENTS} elements")
            feeds[each.name] = rng.standard_normal(each.shape).astype(np.float32)
        names = [each.name for each in self.session.get_outputs()]
        self.inputs = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        self.outputs = {}
        for name, array in zip(names, self.session.run(names, feeds)):
            if not np.isfinite(array).all():
                raise Refused(f"output {name} is not finite")
            self.outputs[name] = ort.OrtValue.ortvalue_from_numpy(array)
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
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1
        self.options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self.options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.options.log_severity_level = 4
        # Denormals slow a convolution down two hundred times. Process-wide; the first session of a process decides.
        self.options.add_session_config_entry("session.set_denormal_as_zero", "1")
        in_force = {"provider": "CPUExecutionProvider", "intra_op_threads": threads, "inter_op_threads": 1, "optimization": "all"}
        return {**in_force, "denormals": "zero", "io_binding": True}

    def load(self, model, seed):
        return Item(model, self.options, seed)

    def state(self):
        return {}


if __name__ == "__main__":
    main(OnnxRuntime())
