"""Builds TensorRT engines of ONNX models and times them: TensorRT 10.3 to 11, and TensorRT for RTX. Part of their agents.

Written against the documentation of the Python APIs of TensorRT 10.3, 10.16.1 and 11.4 and of TensorRT for RTX 1.7; every name used here is in
the bindings of all of them, but for what `Dialect` tells apart.
"""

import hashlib
import importlib
import json
import re
import sys

from agent_contract import MAX_TENSOR_ELEMENTS, Refused, describe_system, quoted, refuse_external_data
from cuda_driver import CudaDriver
from nvidia_state import board, conditions, gpu_state

try:
    import numpy as np
except ImportError as error:
    sys.exit(f"{error}; install what the agent needs with: {sys.executable} -m pip install numpy (JetPack: sudo apt install python3-numpy)")

#: Runtime -> names that it is imported by: the first one there is. The wheels of TensorRT for RTX have the second.
MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
INSTALL = {
    "tensorrt": "on JetPack: sudo apt install python3-libnvinfer, and no virtual environment that hides it; elsewhere: pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
HARDWARE = ("none", "ampere_plus", "same_compute_capability")
#: A core of DLA holds 16 loadables, and one engine may be several: only the anchor and what is timed are kept open there.
OPEN_ON_DLA = 2
MAX_PROBLEMS = 1000  # that a parser's are told of one model

#: TensorRT's type -> numpy's, of values that come or go; bfloat16 as its bits.
TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "uint16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
INPUT_TYPES = ("FLOAT", "HALF", "BF16", "INT8", "UINT8")
#: How engine inspectors call precisions, in the order in which they are told apart (`bfloat16` has a `float` in it).
PRECISIONS = (
    ("bf16", ("bf16", "bfloat16")),
    ("fp16", ("fp16", "half", "float16")),
    ("fp8", ("fp8",)),
    ("uint8", ("uint8",)),
    ("int8", ("int8",)),
    ("int32", ("int32",)),
    ("int64", ("int64",)),
    ("bool", ("bool",)),
    ("fp32", ("fp32", "float")),
)


# -- versions ----------------------------------------------------------------------------------------------------------------------


class Dialect:
    """What differs between TensorRT 10, TensorRT 11 and TensorRT for RTX. Raises Refused for versions that nobody looked at."""

    def __init__(self, runtime, version):
        numbers = [int(each) for each in re.findall(r"\d+", version)[:2]]
        self.rtx = runtime == "tensorrt_rtx"
        known = [1, 4] <= numbers < [2] if self.rtx else [10, 3] <= numbers < [12]
        if not known:
            raise Refused(f"{runtime} is version {version or 'unknown'}; this agent speaks {'1.4 to 1.x' if self.rtx else '10.3 to 11.x'}")
        # 10 types networks weakly unless told. 11 and RTX know strong typing only, and have the flag in name.
        self.typed_by_flag = not self.rtx and numbers < [11]
        # RTX chooses no tactics by timing: it compiles the kernels when an engine is opened.
        self.timing_cache = not self.rtx
        # RTX captures CUDA graphs itself, by its runtime configuration; elsewhere the stream is captured.
        self.own_graphs = self.rtx
        self.options = ("cuda_graph", "workspace_mib", *(() if self.rtx else ("dla_core", "gpu_fallback", "hardware", "optimization_level")))
        self.hardware = HARDWARE[: 3 if numbers >= [10, 16] else 2]  # the third is missing in 10.3, and there in 10.16


def library(runtime):
    """The module and its Dialect. Raises Refused where it cannot be imported, or is of another version."""
    reasons = []
    for name in MODULES[runtime]:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(" ".join(str(error).split()))
        else:
            return module, Dialect(runtime, str(getattr(module, "__version__", "")))
    raise Refused(f"{sys.executable} cannot import {runtime}: {reasons[0][:300]}; {INSTALL[runtime]}")


def checked_options(asked, dialect):
    """All options, of which `asked` were given; None is TensorRT's own choice. Raises Refused."""
    for name in asked:
        if name not in dialect.options:
            raise Refused(f"unknown option {quoted(name)}; this runtime has {', '.join(dialect.options)}")
    options = {name: asked.get(name) for name in dialect.options}
    for name, low, high in (("workspace_mib", 1, 1 << 20), ("optimization_level", 0, 5), ("dla_core", 0, 15)):
        value = options.get(name)
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise Refused(f"{name} must be a whole number from {low} to {high}, got {quoted(value)}")
    for name in ("cuda_graph", "gpu_fallback"):
        if options.get(name) is not None and not isinstance(options[name], bool):
            raise Refused(f"{name} must be true or false, got {quoted(options[name])}")
    if options.get("hardware") not in (None, *dialect.hardware):
        raise Refused(f"hardware must be one of {', '.join(dialect.hardware)}, got {quoted(options['hardware'])}")
    if options.get("gpu_fallback") is not None and options["dla_core"] is None:
        raise Refused("gpu_fallback is what DLA does with layers that it cannot run: it needs dla_core")
    if options["cuda_graph"] and options.get("dla_core") is not None:
        raise Refused("cuda_graph and dla_core exclude each other: DLA is not launched by CUDA graphs here")
    return options


# -- building ----------------------------------------------------------------------------------------------------------------------


def new_logger(trt):
    """A logger that keeps the errors since `errors` was last emptied, and prints nothing."""

    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.errors = []

        def log(self, severity, text):
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors = [*self.errors, " ".join(text.split())[:300]][-5:]

    return Log()


def parsed(trt, dialect, builder, log, model):
    """(network, its parser, problems): the network is of use where there are none. It needs the parser, who owns its weights, as long as it lives.

    A problem is {"operator", "node", "reason"}, operator and node of ONNX being empty where it is not one operator's.
    """
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if dialect.typed_by_flag else 0
    network = builder.create_network(flags)
    network.name = "hwnas"  # it is part of the plan, and by default counts the networks of the process: equal plans would differ
    parser = trt.OnnxParser(network, log)
    if parser.parse(model) and network.num_outputs:  # what is no ONNX at all may be parsed to nothing
        return network, parser, []
    problems = []
    for each in (parser.get_error(i) for i in range(min(parser.num_errors, MAX_PROBLEMS))):
        operator = each.node_operator()
        reason = " ".join(each.desc().split())[:300] if not operator or parser.supports_operator(operator) else "it does not know this operator"
        problems.append({"operator": operator, "node": each.node_name()[:100], "reason": reason})
    return network, parser, problems or [{"operator": "", "node": "", "reason": "; ".join(log.errors) or "there is no network in it"}]


def problem_text(problem):
    """One sentence of the parser, naming the operator."""
    return f"{problem['operator']} '{problem['node']}': {problem['reason']}" if problem["operator"] else problem["reason"]


def built(builder, network, config, log):
    """The plan: a serialized engine. Raises Refused with TensorRT's reasons."""
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if not all(size > 0 for size in tuple(tensor.shape)):
            raise Refused(f"input {tensor.name} has the shape {list(tensor.shape)}; only fixed shapes are timed")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refused(f"no engine can be built: {'; '.join(log.errors) or 'no reason given'}")
    return bytes(plan)


def layer_precisions(text):
    """An engine inspector's JSON -> {"layers": how many, "layers_fp16": of them, ...}: by the type of a layer's first output.

    TensorRT 10 writes type and format as one text, `Format/Datatype`; 11 writes them apart. Without details layers are names alone.
    """
    layers = json.loads(text).get("Layers", [])
    counts = {"layers": len(layers)}
    for layer in layers:
        tensors = (layer.get("Outputs") or layer.get("Inputs") or [{}]) if isinstance(layer, dict) else [{}]
        name = "layers_" + precision(tensors[0] if isinstance(tensors[0], dict) else {})
        counts[name] = counts.get(name, 0) + 1
    return counts


def precision(tensor):
    """What an inspector says of a tensor -> `fp16`, ..., or `unknown`."""
    texts = [str(tensor.get(key, "")).lower() for key in ("DataType", "Datatype", "Format/Datatype", "Format")]
    text = next((each for each in texts if each), "")
    return next((name for name, words in PRECISIONS if any(word in text for word in words)), "unknown")


# -- values ------------------------------------------------------------------------------------------------------------------------


def random_values(kind, shape, rng):
    """Contiguous values of TensorRT's type `kind`: of normal distribution, for integers times 32. Raises Refused for other types."""
    if kind not in INPUT_TYPES:
        raise Refused(f"an input of type {kind} is not timed; known are {', '.join(INPUT_TYPES)}")
    values = rng.standard_normal(shape).astype(np.float32)
    if kind == "BF16":
        return np.ascontiguousarray(values.view(np.uint32) >> 16).astype(np.uint16)
    if kind in ("INT8", "UINT8"):
        bounds = np.iinfo(TYPES[kind])
        return np.clip(np.rint(values * 32), bounds.min, bounds.max).astype(TYPES[kind])
    return values.astype(TYPES[kind])


def all_finite(kind, values):
    """Whether values that came back, of TensorRT's type `kind`, are finite; integers are."""
    if kind == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return kind not in ("FLOAT", "HALF", "BF16") or bool(np.isfinite(values).all())


class Tensor:
    """An input or output in device memory, for as long as its item lives."""

    def __init__(self, cuda, engine, name, is_input):
        self.name, self.is_input = name, is_input
        self.kind = engine.get_tensor_dtype(name).name
        self.shape = tuple(engine.get_tensor_shape(name))
        if self.kind not in TYPES or not all(size > 0 for size in self.shape) or np.prod([float(size) for size in self.shape]) > MAX_TENSOR_ELEMENTS:
            raise Refused(f"{name} is {self.kind} {list(self.shape)}; only fixed shapes of up to {MAX_TENSOR_ELEMENTS} elements are timed")
        self.array = np.zeros(self.shape, TYPES[self.kind])
        self.address = cuda.allocate(self.array.nbytes)


# -- timing ------------------------------------------------------------------------------------------------------------------------


class Item:
    """An engine, its execution context, its input and outputs in fixed device memory."""

    def __init__(self, session, model, seed):
        self.session = session
        self.plan, self.facts = session.build(model)
        self.engine = self.context = self.graph = None
        self.tensors = []
        try:
            self.open()
            rng = np.random.default_rng(seed)
            for each in self.tensors:
                if each.is_input:
                    session.cuda.upload(each.address, random_values(each.kind, each.shape, rng))
            self.warm_up(1)
            for each in self.tensors:
                if not each.is_input:
                    session.cuda.download(each.array, each.address)
                    if not all_finite(each.kind, each.array):
                        raise Refused(f"output {each.name} is not finite")
            inspector = self.engine.create_engine_inspector()
            self.facts.update(layer_precisions(inspector.get_engine_information(session.trt.LayerInformationFormat.JSON)))
        except Exception:
            self.close()
            self.free()
            raise

    def open(self):
        """Anew: deserialized from the plan, in a context of its own."""
        self.close()
        session, trt = self.session, self.session.trt
        session.make_room(self)
        self.engine = session.runtime.deserialize_cuda_engine(self.plan)
        if self.engine is None:
            raise Refused(f"the engine cannot be opened: {'; '.join(session.log.errors) or 'no reason given'}")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        if not self.tensors:
            self.tensors = [Tensor(session.cuda, self.engine, name, self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT) for name in names]
        self.context = self.new_context()
        if session.captures_graphs:
            self.enqueue_once()  # what is set up by the first run of a context must not be part of the graph
            session.cuda.wait()
            self.graph = session.cuda.graph_of(self.enqueue_once)

    def new_context(self):
        """Raises Refused where the device has no memory for it."""
        context = self.session.new_context(self.engine)
        if context is None:
            raise Refused(f"the engine gets no execution context: {'; '.join(self.session.log.errors) or 'no reason given'}")
        for each in self.tensors:
            if not context.set_tensor_address(each.name, each.address):
                raise Refused(f"{each.name} cannot be bound: {'; '.join(self.session.log.errors) or 'no reason given'}")
        return context

    def close(self):
        """Its engine leaves the device; the plan stays."""
        if self.graph is not None:
            self.session.cuda.call("cuGraphExecDestroy", self.graph)
        self.graph = self.context = self.engine = None  # in this order: a context needs its engine
        if self in self.session.opened:
            self.session.opened.remove(self)

    def free(self):
        for each in self.tensors:
            self.session.cuda.call("cuMemFree_v2", each.address)
        self.tensors = []

    def enqueue(self):
        """Whether one run is on its way."""
        if self.graph is not None:
            cuda = self.session.cuda
            return cuda.library.cuGraphLaunch(self.graph, cuda.stream) == 0
        return self.context.execute_async_v3(self.session.handle)

    def enqueue_once(self):
        if not self.context.execute_async_v3(self.session.handle):
            raise Refused(f"the engine cannot be run: {'; '.join(self.session.log.errors) or 'no reason given'}")

    def ready(self):
        """Opened again where another one took its place."""
        if self.context is None:
            self.open()
        elif self.session.open_at_once:
            self.session.opened.remove(self)
            self.session.opened.append(self)

    def warm_up(self, runs):
        self.ready()
        for _ in range(runs):
            if not self.enqueue():
                raise RuntimeError(f"a run failed: {'; '.join(self.session.log.errors) or 'no reason given'}")
        self.session.cuda.wait()

    def timed(self, runs):
        """Nanoseconds on the device of each run: between events before and after it, each run waited for."""
        self.ready()
        return self.session.cuda.timed_ns(self.enqueue, runs)

    def layers(self, runs):
        """(layer, mean nanoseconds) by IProfiler, in a context of its own.

        It makes layers wait for each other, so these are shares of a run, and their sum is no latency.
        """
        self.ready()
        profiler = self.session.new_profiler()
        context = self.new_context()
        context.profiler = profiler
        for i in range(1 + runs):
            if i == 1:
                profiler.ms.clear()  # the first run set things up
            if not context.execute_async_v3(self.session.handle):
                raise RuntimeError(f"a run failed: {'; '.join(self.session.log.errors) or 'no reason given'}")
            self.session.cuda.wait()
        return [(name, round(total / runs * 1e6)) for name, total in profiler.ms.items()]


def new_profiler(trt):
    """Sums up what each layer took."""

    class Profiler(trt.IProfiler):
        def __init__(self):
            trt.IProfiler.__init__(self)
            self.ms = {}

        def report_layer_time(self, layer_name, ms):
            self.ms[layer_name] = self.ms.get(layer_name, 0.0) + ms

    return Profiler()


class TensorRt:
    """A session: one builder, one configuration and one timing cache for all its engines, one stream on the first GPU.

    One engine per model: an engine is executed as a whole, so that models that share one could only be told apart by a profiler, which
    changes what they take. What building many engines has in common is in the timing cache: each kind of layer is tried out once.
    """

    def __init__(self, runtime):
        self.name, self.version, self.system = runtime, "", {}
        self.opened, self.open_at_once = [], None

    def start(self, threads, options):
        if threads != 1:
            raise Refused(f"{self.name} runs on one stream that one thread of the host feeds: threads must be 1, got {threads}")
        self.cuda = CudaDriver()
        self.handle = self.cuda.stream.value
        self.set_up_builder(*library(self.name), options)
        self.runtime = self.trt.Runtime(self.log)
        dla = self.chosen.get("dla_core")
        if dla is not None:
            self.runtime.DLA_core = dla
            self.open_at_once = OPEN_ON_DLA
        self.captures_graphs = bool(self.chosen["cuda_graph"]) and not self.dialect.own_graphs
        self.pci_bus = self.cuda.text("cuDeviceGetPCIBusId")
        gpu = self.cuda.describe()
        name = board()
        processor = f"{name} ({gpu['gpu']})" if name else gpu["gpu"]
        self.system = {**gpu, "processor": processor, "host_processor": describe_system()["processor"], "numpy": np.__version__}
        return {**self.in_force(), **conditions()}

    def set_up_builder(self, trt, dialect, options):
        """All that comes before a GPU is needed. Raises Refused."""
        self.trt, self.dialect, self.version = trt, dialect, str(trt.__version__)
        self.chosen = checked_options(options, dialect)
        self.log = new_logger(trt)
        self.builder = trt.Builder(self.log)
        self.config = self.configured()

    def configured(self):
        """The builder's configuration. Raises Refused where the device has no such thing as was asked for."""
        trt, chosen = self.trt, self.chosen
        config = self.builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
        if chosen["workspace_mib"] is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, chosen["workspace_mib"] << 20)
        if chosen.get("optimization_level") is not None:
            config.builder_optimization_level = chosen["optimization_level"]
        if chosen.get("hardware") is not None:
            level = getattr(trt.HardwareCompatibilityLevel, chosen["hardware"].upper())
            config.hardware_compatibility_level = level
            if config.hardware_compatibility_level != level:  # it is not an error to TensorRT
                raise Refused(f"hardware {chosen['hardware']} was not taken by this builder: leave it out")
        if chosen.get("dla_core") is not None:
            if chosen["dla_core"] >= self.builder.num_DLA_cores:
                raise Refused(f"dla_core {chosen['dla_core']} is not there: this device and version have {self.builder.num_DLA_cores} cores of DLA")
            config.default_device_type = trt.DeviceType.DLA
            config.DLA_core = chosen["dla_core"]
            if chosen["gpu_fallback"] is not False:
                config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        if self.dialect.timing_cache:
            self.cache = config.create_timing_cache(b"")
            if not config.set_timing_cache(self.cache, False):
                raise Refused(f"the timing cache was refused: {'; '.join(self.log.errors) or 'no reason given'}")
        return config

    def in_force(self):
        """All that the numbers depend on, as it is, whether asked for or not."""
        trt, config = self.trt, self.config
        options = {name: value for name, value in self.chosen.items() if value is not None}
        options["workspace_mib"] = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) >> 20
        options["cuda_graph"] = bool(options.get("cuda_graph"))
        options["tf32"] = bool(config.get_flag(trt.BuilderFlag.TF32))  # float32 convolutions may round their inputs to it
        if not self.dialect.rtx:
            options["optimization_level"] = config.builder_optimization_level
            options["hardware"] = config.hardware_compatibility_level.name.lower()
        if "dla_core" in options:
            options["gpu_fallback"] = bool(config.get_flag(trt.BuilderFlag.GPU_FALLBACK))
        return {**options, "typing": "strong", "clock": "CUDA events"}

    def load(self, model, seed):
        refuse_external_data(model)
        return Item(self, model, seed)

    def build(self, model):
        """(plan, facts of it). Raises Refused with the parser's or the builder's reasons."""
        self.log.errors = []
        network, parser, problems = parsed(self.trt, self.dialect, self.builder, self.log, model)
        if problems:
            raise Refused(f"the parser of {self.name} {self.version} refuses the model: {problem_text(problems[0])}")
        facts = {}
        if self.chosen.get("dla_core") is not None:
            layers = [network.get_layer(i) for i in range(network.num_layers)]
            facts = {"network_layers": len(layers), "network_layers_for_dla": sum(self.config.can_run_on_DLA(layer) for layer in layers)}
        plan = built(self.builder, network, self.config, self.log)
        del network, parser  # in this order
        return plan, {"plan_sha256": hashlib.sha256(plan).hexdigest(), "plan_bytes": len(plan), **facts}

    def new_context(self, engine):
        if not self.dialect.own_graphs:
            context = engine.create_execution_context()
        else:
            settings = engine.create_runtime_config()
            strategy = self.trt.CudaGraphStrategy
            settings.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if self.chosen["cuda_graph"] else strategy.DISABLED
            context = engine.create_execution_context(settings)
        if context is not None:
            context.nvtx_verbosity = self.trt.ProfilingVerbosity.NONE  # details of layers would make each launch slower
        return context

    def new_profiler(self):
        return new_profiler(self.trt)

    def make_room(self, item):
        """For one more open item: the one that was used longest ago is closed where there may be no more."""
        while self.open_at_once and len(self.opened) >= self.open_at_once:
            self.opened[0].close()
        self.opened.append(item)

    def state(self):
        return gpu_state(self.pci_bus)
