"""Times ONNX models with ONNX Runtime on the machine it runs on. Needs numpy and onnxruntime; its contract: agent_contract.py.

Options: `provider`, an execution provider, by default that of the CPU; `device_type`, which of its processors where it is a plug-in
(cpu, gpu or npu; by default the first it offers); `fallback`, "refused" by default, so that a model of which the provider leaves a node
to the CPU's is a failure, or "allowed"; and whatever else of the provider is listed in PROVIDERS. A device's file may come from anybody.
So plug-ins are found as installed Python packages of that list, or where HWNAS_ORT_EP_LIBRARY in this program's environment names the
library of one, and no option is a path.
"""

import importlib
import importlib.util
import json
import os
import re
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Tuple

from agent_contract import MAX_TENSOR_ELEMENTS, Refused, main, refuse_external_data, resource

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported: a thread, files and connections of which the measured know nothing

try:
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    sys.exit(f"{error}; install what the agent needs with: {sys.executable} -m pip install numpy onnxruntime")

CPU = "CPUExecutionProvider"
LIBRARY = "HWNAS_ORT_EP_LIBRARY"
FALLBACK = ("refused", "allowed")
MAX_PROFILED = 1000
MAX_PROFILE_BYTES = 1 << 30
VALUE = re.compile(r"[A-Za-z0-9_.:+-]{1,64}")


class Provider(NamedTuple):
    """`options` are those that may be set; `defaults` are in force unless they are; `package` brings its library where it is a plug-in."""

    options: Tuple[str, ...] = ()
    defaults: Tuple[Tuple[str, str], ...] = ()
    package: str = ""
    memory: str = "cpu"  # where inputs and outputs are while it is timed


# Computing in a shorter type than the model's would be silent: TF32 and OpenVINO's bfloat16 are off unless asked for.
PROVIDERS = {
    CPU: Provider(),
    "OpenVINOExecutionProvider": Provider(
        ("INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT", "PERFORMANCE_HINT", "NUM_STREAMS", "ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING"),
        (("INFERENCE_PRECISION_HINT", "f32"), ("PERFORMANCE_HINT", "LATENCY"), ("NUM_STREAMS", "1")),
        "onnxruntime_ep_openvino",
    ),
    "CUDAExecutionProvider": Provider(
        ("device_id", "use_tf32", "prefer_nhwc", "enable_cuda_graph", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "gpu_mem_limit"),
        (("use_tf32", "0"),),
        memory="cuda",
    ),
    "TensorrtExecutionProvider": Provider(
        ("device_id", "trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable", "trt_builder_optimization_level", "trt_cuda_graph_enable"),
        memory="cuda",
    ),
    "NvTensorRTRTXExecutionProvider": Provider(("device_id", "enable_cuda_graph"), package="onnxruntime_ep_nv_tensorrt_rtx", memory="cuda"),
    "QNNExecutionProvider": Provider(("backend_type", "htp_performance_mode", "enable_htp_fp16_precision", "rpc_control_latency"), package="onnxruntime_qnn"),
    "WebGpuExecutionProvider": Provider(("preferredLayout", "enableGraphCapture"), package="onnxruntime_ep_webgpu"),
    "XnnpackExecutionProvider": Provider(),
    "CoreMLExecutionProvider": Provider(("ModelFormat", "MLComputeUnits", "RequireStaticInputShapes")),
    "DmlExecutionProvider": Provider(("device_id", "performance_preference")),
    "DnnlExecutionProvider": Provider(),
    "ACLExecutionProvider": Provider(("enable_fast_math",)),
    "MIGraphXExecutionProvider": Provider(("device_id", "migraphx_fp16_enable"), memory="cuda"),
}

#: ONNX Runtime's names of the types whose inputs are made, and numpy's; of those that numpy does not have (bfloat16, text) there are none.
TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool"}
TYPES.update({f"tensor({name})": name for bits in (8, 16, 32, 64) for name in (f"int{bits}", f"uint{bits}")})


def random_array(rng, dtype, shape):
    """Standard normal; all whole numbers of eight bits alike; 0 or 1 of more bits, which no table of embeddings is too short for."""
    if dtype.startswith("float"):
        return np.asarray(rng.standard_normal(shape), dtype)
    info = np.iinfo(dtype) if dtype in ("int8", "uint8") else None
    low, high = (info.min, info.max) if info else (0, 1)
    return np.asarray(rng.integers(low, high, shape, endpoint=True), dtype)


KERNEL = "_kernel_time"  # the end of a kernel's name in a profile


class Unprofiled(Refused):
    """A model that cannot be profiled, and can be timed all the same."""


@contextmanager
def limited_files():
    """What is written beyond so many bytes of a file is cut off: no model shall fill the disk by way of its profile."""
    if resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_PROFILE_BYTES if soft == resource.RLIM_INFINITY else min(soft, MAX_PROFILE_BYTES), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def profiled(runtime, model, feeds, runs):
    """The events of ONNX Runtime's profile of so many runs, in a session of its own; its times are whole microseconds.

    Raises Unprofiled where it is not whole: ONNX Runtime keeps a million events and drops the others, and a file ends at the limit of its size.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-agent-") as folder, limited_files():
        options = runtime.session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = runtime.session(model, options)
        for _ in range(runs):
            session.run(None, feeds)
        try:
            events = json.loads(Path(session.end_profiling()).read_bytes())
        except ValueError as error:
            raise Unprofiled(f"the profile that ONNX Runtime wrote cannot be read (no JSON: {error}): ask for fewer runs") from None
    written = sum(each.get("name") == "model_run" for each in events)
    if written != runs:
        raise Unprofiled(f"ONNX Runtime wrote down {written} of {runs} runs: ask for fewer")
    return events


def kernels(runtime, model, feeds):
    """{"computed_in_TYPE": how many convolutions and matrix products} as ONNX Runtime ran them; the type is that of what they read.

    It runs what it has no kernel for in float32, between casts, and says so nowhere but in a profile.
    """
    found = {}
    for each in profiled(runtime, model, feeds, 1):
        about = each.get("args", {})
        if each.get("name", "").endswith(KERNEL) and any(part in about.get("op_name", "") for part in ("Conv", "Gemm", "MatMul")):
            for kind in about["input_type_shape"][0]:
                name = "computed_in_" + ("float32" if kind == "float" else kind)
                found[name] = found.get(name, 0) + 1
    return found


def assignment(session, provider):
    """Facts on which nodes, counted before they are fused, run on the provider asked for, and in how many pieces it got them.

    A provider that compiles what it gets has one of them for each piece; of one that runs node by node the pieces are not told,
    unless it has them all.
    """
    try:
        parts = [(part.ep_name, len(part.get_nodes())) for part in session.get_provider_graph_assignment_info()]
    except Exception:  # an older ONNX Runtime; what it does not tell is left out
        return {}
    own, elsewhere = [n for name, n in parts if name == provider], sum(n for name, n in parts if name != provider)
    facts = {"provider": provider, "nodes": sum(own) + elsewhere, "nodes_elsewhere": elsewhere}
    if max(own, default=0) > 1:
        facts["partitions"] = len(own)
    elif not elsewhere or not own:
        facts["partitions"] = min(len(own), 1)
    return facts


class Stream:
    """The memory that one run at a time of a session reads and writes."""

    def __init__(self, session, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        self.bind(session)

    def bind(self, session):
        self.session, self.binding = session, session.io_binding()
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        for name, value in self.outputs.items():
            self.binding.bind_ortvalue_output(name, value)

    def warm_up(self, runs):
        for _ in range(runs):
            self.session.run_with_iobinding(self.binding)

    def timed(self, runs):
        """Nanoseconds of each run; it ends when the outputs are there, whatever computes them."""
        run, binding, clock = self.session.run_with_iobinding, self.binding, time.perf_counter_ns
        ns = [0] * runs
        for i in range(runs):
            start = clock()
            run(binding)
            ns[i] = clock() - start
        return ns


class Item:
    """A model in a live session, its input and outputs bound to fixed memory."""

    def __init__(self, model, runtime, seed):
        refuse_external_data(model)
        self.model, self.runtime, self.streams = model, runtime, []
        self.on_accelerator = runtime.on_accelerator
        self.session = self.new_session()
        self.facts = assignment(self.session, runtime.provider)
        rng = np.random.default_rng(seed)
        feeds = {}
        for each in self.session.get_inputs():
            if each.type not in TYPES or not all(isinstance(size, int) and size > 0 for size in each.shape):
                raise Refused(f"input {each.name} is {each.type} {each.shape}; only tensors of numbers of fixed shape are timed")
            if np.prod([float(size) for size in each.shape]) > MAX_TENSOR_ELEMENTS:
                raise Refused(f"input {each.name} has more than {MAX_TENSOR_ELEMENTS} elements")
            feeds[each.name] = random_array(rng, TYPES[each.type], each.shape)
        names = [each.name for each in self.session.get_outputs()]
        self.arrays = (feeds, dict(zip(names, self.session.run(names, feeds))))
        for name, array in self.arrays[1].items():
            if not isinstance(array, np.ndarray) or array.dtype == object:
                raise Refused(f"output {name} is no tensor of numbers")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Refused(f"output {name} is not finite")
        if b"QuantizeLinear" in model or b"Cast" in model or any(array.dtype != np.float32 for array in feeds.values()):  # not all is float32
            with suppress(OSError, Unprofiled):  # then nothing is known of the kernels
                self.facts.update(kernels(runtime, model, feeds))
        self.main = self.new_stream()

    def new_session(self):
        return self.runtime.session(self.model)

    def new_stream(self):
        # copies: on a CPU a value is backed by the array it is made from
        return Stream(self.session, *({name: self.runtime.value(array.copy()) for name, array in each.items()} for each in self.arrays))

    def stream(self, number):
        """One of several runs of the same session beside each other; weights are shared, inputs and outputs are copies."""
        while len(self.streams) <= number:
            self.streams.append(self.new_stream())
        return self.streams[number]

    def open(self):
        self.session = self.main.session = self.main.binding = None
        self.streams.clear()
        self.session = self.new_session()
        self.main.bind(self.session)

    def warm_up(self, runs):
        self.main.warm_up(runs)

    def timed(self, runs):
        return self.main.timed(runs)

    def layers(self, runs):
        """(operator, mean nanoseconds) in the order in which they run, as fused and converted; the first run sets things up and does not count."""
        if runs > MAX_PROFILED:
            raise Refused(f"ONNX Runtime writes down every run that it profiles: at most {MAX_PROFILED} are, got {runs}")
        events = profiled(self.runtime, self.model, self.arrays[0], 1 + runs)
        begin = min(each["ts"] + each["dur"] for each in events if each.get("name") == "model_run")
        found = {}
        for each in events:
            if each.get("name", "").endswith(KERNEL) and each["ts"] >= begin:
                name = f"{each['name'][: -len(KERNEL)]} ({each.get('args', {}).get('op_name', '?')})"
                found[name] = found.get(name, 0) + each["dur"]
        return [(name, round(total * 1000 / runs)) for name, total in found.items()]


class OnnxRuntime:
    name, version, system = "onnxruntime", ort.__version__, {"numpy": np.__version__}
    registered = ""  # the plug-in provider whose library is loaded, once for the life of this program

    def start(self, threads, options):
        asked = options
        options = {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in asked.items()}
        self.threads, self.devices = threads, []
        self.provider = options.pop("provider", CPU)
        self.fallback = options.pop("fallback", FALLBACK[0])
        kind = options.pop("device_type", "").upper()
        if self.fallback not in FALLBACK:
            raise Refused(f"fallback must be {' or '.join(FALLBACK)}, got {self.fallback[:60]!r}")
        known = PROVIDERS.get(self.provider, Provider())
        for name, value in options.items():
            if name not in known.options:
                listed = ", ".join(known.options) or "none"
                raise Refused(f"unknown option {name[:60]!r}; of {self.provider[:60]} there are: {listed}")
            if not VALUE.fullmatch(value):
                raise Refused(f"option {name} must be a plain word or number, got {value[:60]!r}")
        in_force = {**dict(known.defaults), **options}
        self.memory, self.device_id = known.memory, int(in_force["device_id"]) if in_force.get("device_id", "").isdigit() else 0
        said = {"provider": self.provider, "intra_op_threads": threads, "inter_op_threads": 1, "optimization": "all", "io_binding": True}
        if self.provider not in ort.get_available_providers():
            device = self.find_devices(known, kind)
            said["provider_version"] = str(device.ep_metadata.get("version", "unknown"))
            said["provider_device"] = f"{device.device.type.name} {device.device.vendor}".strip()
        elif kind:
            raise Refused(f"{self.provider} is part of ONNX Runtime and takes no device_type")
        self.on_accelerator = self.memory != "cpu" or any(each.device.type.name != "CPU" for each in self.devices)
        self.provider_options = in_force
        denormals = "zero" if self.provider == CPU else "as the provider does"
        if self.provider == "OpenVINOExecutionProvider":  # what is not in its JSON it ignores
            settings = {**in_force, "INFERENCE_NUM_THREADS": str(threads), "CPU_DENORMALS_OPTIMIZATION": "YES"}
            kind = self.devices[0].ep_metadata.get("ov_device", "CPU")
            if kind != "CPU":
                settings = {name: value for name, value in settings.items() if not name.startswith(("CPU_", "INFERENCE_NUM"))}
            else:
                denormals = "zero"
            self.provider_options = {"load_config": json.dumps({kind: settings})}
        if self.provider != CPU:
            said.update(in_force, fallback=self.fallback)
        return {**said, "denormals": denormals, **asked}

    def find_devices(self, known, kind):
        """The first device that a plug-in provider offers here. Raises Refused naming what there is."""
        library = os.environ.get(LIBRARY, "")
        package = known.package if known.package and importlib.util.find_spec(known.package) else ""
        if not library and not package:
            brings = f"; pip install {known.package.replace('_', '-')} brings it" if known.package else ""
            raise Refused(f"there is no provider {self.provider[:60]!r} here, but {', '.join(self.available())}{brings}")
        if not hasattr(ort, "register_execution_provider_library"):
            raise Refused(f"onnxruntime {ort.__version__} takes no plug-in providers; install 1.23 or newer")
        if self.registered != self.provider:
            path = library or importlib.import_module(package).get_library_path()
            try:
                ort.register_execution_provider_library(self.provider, path)
            except Exception as error:
                raise Refused(f"the library of {self.provider[:60]} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
            self.registered = self.provider
        offered = [each for each in ort.get_ep_devices() if each.ep_name == self.provider and each.device.metadata.get("is_virtual") != "1"]
        self.devices = [each for each in offered if kind in ("", each.device.type.name)][:1]
        if not self.devices:
            here = ", ".join(sorted({f"{each.device.type.name} of {each.device.vendor}" for each in ort.get_ep_devices()}))
            what = ", ".join(sorted({each.device.type.name for each in offered})) or "nothing"
            raise Refused(f"{self.provider[:60]} runs on {what} of this machine{f', on no {kind}' if kind and offered else ''} (there is: {here})")
        return self.devices[0]

    def available(self):
        """Names of the providers that can be asked for here."""
        plugins = [name for name, known in PROVIDERS.items() if known.package and importlib.util.find_spec(known.package)]
        return [*(name for name in ort.get_available_providers() if name != "AzureExecutionProvider"), *plugins]

    def session_options(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        # Denormals slow a convolution down two hundred times. Process-wide; the first session of a process decides.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.provider != CPU and self.fallback == "refused":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if self.devices:
            options.add_provider_for_devices(self.devices, self.provider_options)
        return options

    def session(self, model, options=None):
        """Raises Refused where ONNX Runtime would quietly take another provider."""
        providers = None if self.devices else [(self.provider, self.provider_options)]
        session = ort.InferenceSession(model, options or self.session_options(), providers=providers, enable_fallback=0)
        if session.get_providers()[0] != self.provider:
            raise Refused(f"ONNX Runtime would run it with {session.get_providers()[0]} in the place of {self.provider}")
        return session

    def value(self, array):
        return ort.OrtValue.ortvalue_from_numpy(array, self.memory, self.device_id)

    def load(self, model, seed):
        return Item(model, self, seed)

    def state(self):
        return {}


if __name__ == "__main__":
    main(OnnxRuntime())
