"""Times networks with PyTorch on the machine it runs on. Needs torch and numpy; its contract: agent_contract.py.

A model is a safetensors file: arrays by name, and in its metadata under "graph" a JSON text that says which operators are applied to what.

  {"input": {"shape": [1, 3, 32, 32], "dtype": "float32"}, "output": "stem/conv",
   "nodes": [{"name": "stem/conv", "kind": "conv2d", "inputs": ["input"], "dtype": "float32", "act": "relu",
              "out": 16, "kernel": 3, "stride": 2, "groups": 1}, ...]}

Weights of a node are the arrays `NAME.weight` and `NAME.bias`, float32 in the file. Kinds: conv2d (padding kernel // 2), linear, global_pool,
max_pool, avg_pool (over the pixels inside the image), add, mul, flatten, channel_shuffle, activation, affine, zero. Each node computes in
its dtype: float32, float16 or bfloat16. Nothing that is sent is code: there is no pickle in it, and of its texts none gets into the module that is
made of it.

Options: `device` (cpu, cuda, cuda:1, ...), `channels_last`, `compile` (torch.compile), and on CUDA `cuda_graph`, `tf32`, `flush_l2`.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from math import prod

from agent_contract import MAX_TENSOR_ELEMENTS, Refused, main, quoted

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import fx, nn
except ImportError as error:
    sys.exit(f"{error}; install what the agent needs with: {sys.executable} -m pip install numpy torch")

MAX_HEADER_BYTES = 64 << 20
MAX_NODES = 100000
MAX_SIZE = 1 << 20
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OPTIONS = {"device": str, "channels_last": bool, "compile": bool, "cuda_graph": bool, "tf32": bool, "flush_l2": bool}
CUDA_ONLY = ("cuda_graph", "tf32", "flush_l2")
DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,2})?")
GPU_STATE = (
    ("gpu_clock_mhz", "clocks.sm"),
    ("gpu_memory_clock_mhz", "clocks.mem"),
    ("gpu_max_clock_mhz", "clocks.max.sm"),
    ("gpu_power_milliwatt", "power.draw"),
    ("temperature_gpu_millicelsius", "temperature.gpu"),
    ("gpu_memory_used_mib", "memory.used"),
    ("gpu_load_pct", "utilization.gpu"),
)
MILLI = ("gpu_power_milliwatt", "temperature_gpu_millicelsius")


# -- the file -> arrays and a description -----------------------------------------------------------------------------------------------


def parse(model):
    """({name: float32 array}, description) of a safetensors file. Raises Refused."""
    size = int.from_bytes(model[:8], "little") if len(model) > 8 else 0
    if not 2 <= size <= min(MAX_HEADER_BYTES, len(model) - 8):
        raise Refused("the model is no safetensors file")
    try:
        header = json.loads(model[8 : 8 + size].decode("utf-8"))
        description = json.loads(header.pop("__metadata__")["graph"])
        data, arrays = memoryview(model)[8 + size :], {}
        for name, about in header.items():
            shape, (begin, end) = [int(each) for each in about["shape"]], about["data_offsets"]
            if about["dtype"] != "F32" or min(shape, default=1) < 1 or not 0 <= begin <= end <= len(data) or end - begin != 4 * prod(shape):
                raise Refused(f"the array {quoted(name)} is not float32 of its shape")
            arrays[name] = np.frombuffer(data[begin:end], "<f4").reshape(shape)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused("the model is no safetensors file with a graph in its metadata") from None
    return arrays, description


def sizes(node, *names):
    found = [node.get(name) for name in names]
    if not all(type(each) is int and 0 < each <= MAX_SIZE for each in found):
        raise Refused(f"the operator {quoted(node.get('name'))} needs {', '.join(names)}: whole numbers from 1 to {MAX_SIZE}")
    return found


# -- the description -> a module ----------------------------------------------------------------------------------------------------------


class Builder:
    """Makes a module of a description, straight-line code without names from outside."""

    def __init__(self, arrays, description):
        self.arrays, self.root, self.graph = arrays, nn.Module(), fx.Graph()
        self.computed = {}  # dtype -> how many convolutions and matrix products
        about = description["input"]
        self.shape, self.dtype = [int(each) for each in about["shape"]], about["dtype"]
        if not 1 <= len(self.shape) <= 8 or not all(0 < each <= MAX_SIZE for each in self.shape) or prod(self.shape) > MAX_TENSOR_ELEMENTS:
            raise Refused(f"the input is {quoted(self.shape)}; it must have at most {MAX_TENSOR_ELEMENTS} elements")
        if self.dtype not in DTYPES:
            raise Refused(f"the input is {quoted(self.dtype)}, it must be one of {', '.join(DTYPES)}")
        nodes = description["nodes"]
        if not isinstance(nodes, list) or not 0 < len(nodes) <= MAX_NODES:
            raise Refused(f"a network has from 1 to {MAX_NODES} operators")
        self.values = {"input": (self.graph.placeholder("x"), self.dtype)}
        for node in nodes:
            self.add(node)
        self.graph.output(self.values[description["output"]][0])

    def module(self):
        return fx.GraphModule(self.root, self.graph).eval()

    def add(self, node):
        name, kind, dtype, act = node["name"], node["kind"], node["dtype"], node.get("act", "none")
        if kind not in KINDS or dtype not in DTYPES or act not in ACTIVATIONS:
            raise Refused(f"PyTorch is given no operator {quoted(kind)} in {quoted(dtype)} with activation {quoted(act)} here")
        if not isinstance(name, str) or name in self.values:
            raise Refused(f"an operator needs a name of its own, got {quoted(name)}")
        inputs = [self.cast(*self.values[each], dtype) for each in node["inputs"]]
        value = KINDS[kind](self, node, DTYPES[dtype], inputs)
        if act != "none":
            function, more = ACTIVATIONS[act]
            more = {} if kind == "activation" else more  # others read what it is given
            value = self.graph.call_function(function, (value,), more)
        self.values[name] = (value, dtype)

    def cast(self, value, dtype, wanted):
        return value if dtype == wanted else self.graph.call_method("to", (value, DTYPES[wanted]))

    def with_weights(self, node, layer, inputs):
        """The call of a module whose tensors are the node's arrays."""
        for name, tensor in layer.named_parameters():
            array = self.arrays.get(f"{node['name']}.{name}")
            if array is None or array.shape != tuple(tensor.shape):
                raise Refused(f"the array {quoted(node['name'] + '.' + name)} must have the shape {tuple(tensor.shape)}")
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(array.copy()))
        self.computed[node["dtype"]] = self.computed.get(node["dtype"], 0) + 1
        name = f"layer{len(self.values)}"
        self.root.add_module(name, layer)
        return self.graph.call_module(name, tuple(inputs))

    def conv2d(self, node, dtype, inputs):
        out, kernel, stride, groups = sizes(node, "out", "kernel", "stride", "groups")
        weight, bias = self.arrays.get(f"{node['name']}.weight"), f"{node['name']}.bias" in self.arrays
        if weight is None or weight.ndim != 4 or weight.size > MAX_TENSOR_ELEMENTS or weight.shape[:1] != (out,) or out % groups:
            raise Refused(f"the convolution {quoted(node['name'])} has no weights that fit it")
        layer = nn.utils.skip_init(nn.Conv2d, weight.shape[1] * groups, out, kernel, stride, kernel // 2, 1, groups, bias)
        return self.with_weights(node, layer.to(dtype), inputs)

    def linear(self, node, dtype, inputs):
        (out,) = sizes(node, "out")
        weight, bias = self.arrays.get(f"{node['name']}.weight"), f"{node['name']}.bias" in self.arrays
        if weight is None or weight.ndim != 2 or weight.size > MAX_TENSOR_ELEMENTS:
            raise Refused(f"the matrix product {quoted(node['name'])} has no weights that fit it")
        return self.with_weights(node, nn.utils.skip_init(nn.Linear, weight.shape[1], out, bias).to(dtype), inputs)

    def global_pool(self, node, dtype, inputs):
        return self.graph.call_function(F.adaptive_avg_pool2d, (*inputs, 1))

    def pool(self, node, dtype, inputs):
        kernel, stride = sizes(node, "kernel", "stride")
        padding, ceil = node.get("padding"), node.get("ceil")
        if type(padding) is not int or not 0 <= padding <= kernel // 2 or type(ceil) is not bool:
            raise Refused(f"the operator {quoted(node['name'])} needs padding: a whole number up to half of its kernel, and ceil: true or false")
        if node["kind"] == "max_pool":
            return self.graph.call_function(F.max_pool2d, (*inputs, kernel, stride, padding), {"ceil_mode": ceil})
        return self.graph.call_function(F.avg_pool2d, (*inputs, kernel, stride, padding, ceil, False))

    def channel_shuffle(self, node, dtype, inputs):
        return self.graph.call_function(F.channel_shuffle, (*inputs, *sizes(node, "groups")))

    def add_values(self, node, dtype, inputs):
        return self.graph.call_function(torch.add, tuple(inputs))

    def mul(self, node, dtype, inputs):
        return self.graph.call_function(torch.mul, tuple(inputs))

    def activation(self, node, dtype, inputs):
        return inputs[0]

    def affine(self, node, dtype, inputs):
        weight = self.arrays.get(f"{node['name']}.weight")
        if weight is None or weight.ndim != 1:
            raise Refused(f"the scale {quoted(node['name'])} has no weights that fit it")
        return self.with_weights(node, nn.BatchNorm2d(len(weight), eps=0.0).to(dtype), inputs)  # fresh statistics are mean 0 and variance 1

    def zero(self, node, dtype, inputs):
        return self.graph.call_function(torch.zeros_like, tuple(inputs))

    def flatten(self, node, dtype, inputs):
        return self.graph.call_function(torch.flatten, (*inputs, 1))


KINDS = {
    "conv2d": Builder.conv2d,
    "linear": Builder.linear,
    "global_pool": Builder.global_pool,
    "max_pool": Builder.pool,
    "avg_pool": Builder.pool,
    "add": Builder.add_values,
    "mul": Builder.mul,
    "flatten": Builder.flatten,
    "activation": Builder.activation,
    "affine": Builder.affine,
    "zero": Builder.zero,
    "channel_shuffle": Builder.channel_shuffle,
}
#: In place, as in the networks of torchvision: what they are given is the output of an operator, which nothing else reads.
ACTIVATIONS = {
    "none": None,
    "relu": (F.relu, {"inplace": True}),
    "relu6": (F.relu6, {"inplace": True}),
    "hswish": (F.hardswish, {"inplace": True}),
    "hsigmoid": (F.hardsigmoid, {"inplace": True}),
    "swish": (F.silu, {"inplace": True}),
    "sigmoid": (torch.sigmoid, {}),
}


# -- a module, timed ------------------------------------------------------------------------------------------------------------------------


class Item:
    """A network in evaluation mode with a fixed input."""

    def __init__(self, model, runtime, seed):
        self.model, self.runtime = model, runtime
        self.on_accelerator = runtime.device.type != "cpu"
        self.seed = seed
        try:
            self.open()
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # of a description that is not as above
            raise Refused(f"the model does not say what a network is: {type(error).__name__} {' '.join(str(error).split())[:200]}") from None

    def open(self):
        self.call = self.captured = None
        builder = Builder(*parse(self.model))
        for dtype in {builder.dtype, *builder.computed}:
            self.runtime.check_precision(dtype)
        self.facts = {f"computed_in_{dtype}": count for dtype, count in builder.computed.items()}
        array = np.random.default_rng(self.seed).standard_normal(builder.shape).astype(np.float32)
        self.input = self.runtime.placed(torch.from_numpy(array).to(DTYPES[builder.dtype]))
        self.call = self.runtime.prepared(builder.module())
        with torch.inference_mode():
            output = self.call(self.input)
            if not bool(torch.isfinite(output).all()):
                raise Refused("the output is not finite")
            if self.runtime.cuda_graph:
                self.capture()

    def capture(self):
        """Record the kernels of one run; what is timed then is their replay, without the host's work for each of them."""
        stream = torch.cuda.Stream(self.runtime.device)
        stream.wait_stream(torch.cuda.current_stream(self.runtime.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # allocations and choices of algorithms must not be recorded
                self.call(self.input)
        torch.cuda.current_stream(self.runtime.device).wait_stream(stream)
        self.captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.captured):
            self.output = self.call(self.input)  # its memory is the graph's as long as it is kept

    def run(self):
        if self.captured is not None:
            self.captured.replay()
        else:
            self.call(self.input)

    def warm_up(self, runs):
        with torch.inference_mode():
            for _ in range(runs):
                self.run()
            self.runtime.synchronize()

    def timed(self, runs):
        """Nanoseconds of each run, one request at a time."""
        with torch.inference_mode():
            return self.timed_by_events(runs) if self.on_accelerator else self.timed_by_clock(runs)

    def timed_by_clock(self, runs):
        call, value, clock = self.call, self.input, time.perf_counter_ns
        ns = [0] * runs
        for i in range(runs):
            start = clock()
            call(value)
            ns[i] = clock() - start
        return ns

    def timed_by_events(self, runs):
        """From before the first kernel is launched to the end of the last, by the GPU's clock. The GPU is idle when a run begins."""
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
        for start, end in pairs:
            self.runtime.flush_l2()
            self.runtime.synchronize()
            start.record()
            self.run()
            end.record()
        self.runtime.synchronize()
        return [round(1e6 * start.elapsed_time(end)) for start, end in pairs]


class Torch:
    name, version = "torch", torch.__version__
    device, cuda_graph = torch.device("cpu"), False

    @property
    def system(self):
        about = {"numpy": np.__version__}
        if self.device.type == "cuda":
            gpu = torch.cuda.get_device_properties(self.device)
            about.update(processor=gpu.name, gpu_architecture=f"sm_{gpu.major}{gpu.minor}", gpu_multiprocessors=gpu.multi_processor_count)
            about.update(gpu_memory_mib=gpu.total_memory >> 20, cuda=str(torch.version.cuda), cudnn=str(torch.backends.cudnn.version()))
            driver = nvidia_smi("driver_version", self.device)
            about.update({"nvidia_driver": driver[0]} if driver else {})
        return about

    def start(self, threads, options):
        for name, value in options.items():
            if name not in OPTIONS:
                raise Refused(f"unknown option {quoted(name)}; there are {', '.join(OPTIONS)}")
            if type(value) is not OPTIONS[name]:
                raise Refused(f"option {name} must be {'a text' if OPTIONS[name] is str else 'true or false'}, got {quoted(value)}")
        asked = {"device": "cpu", **dict.fromkeys(list(OPTIONS)[1:], False), **options}
        self.find_device(asked["device"])
        if self.device.type == "cpu" and any(asked[name] for name in CUDA_ONLY):
            raise Refused(f'{", ".join(name for name in CUDA_ONLY if asked[name])}: only with device = "cuda"')
        if asked["compile"] and asked["cuda_graph"]:
            raise Refused("choose compile or cuda_graph, not both")
        self.channels_last, self.compile, self.cuda_graph = asked["channels_last"], asked["compile"], asked["cuda_graph"]
        denormals = torch.set_flush_denormal(True)  # before there are other threads, which inherit it
        torch.set_num_threads(threads)
        if torch.get_num_interop_threads() != 1:
            torch.set_num_interop_threads(1)
        torch.set_float32_matmul_precision("high" if asked["tf32"] else "highest")
        torch.backends.cudnn.allow_tf32 = asked["tf32"]  # true by default, in silence
        torch.backends.cudnn.benchmark = True  # shapes are fixed: the best algorithm for each is looked for in the warm-up
        in_force = {"device": str(self.device), "channels_last": self.channels_last, "compile": self.compile, "intra_op_threads": threads}
        in_force.update(inter_op_threads=1, inference_mode=True, denormals="zero" if denormals else "kept")
        if self.device.type == "cpu":
            return {**in_force, "onednn": torch.backends.mkldnn.is_available(), "capability": str(torch.backends.cpu.get_cpu_capability())}
        self.scratch = None
        if asked["flush_l2"]:
            cache = torch.cuda.get_device_properties(self.device).L2_cache_size
            self.scratch = torch.empty(2 * cache, dtype=torch.int8, device=self.device)
        in_force.update({name: asked[name] for name in CUDA_ONLY}, timer="CUDA events", cudnn_benchmark=True)
        return in_force

    def find_device(self, name):
        if not DEVICE.fullmatch(name):
            raise Refused(f"device must be cpu, cuda or cuda:NUMBER, got {quoted(name)}")
        if name != "cpu":
            if not torch.cuda.is_available():
                how = "was built without CUDA" if torch.version.cuda is None else "finds no GPU"
                raise Refused(f"PyTorch {torch.__version__} {how} here; there is: cpu")
            count = torch.cuda.device_count()
            if int(name.partition(":")[2] or 0) >= count:
                raise Refused(f"there is no {name} here, but {', '.join(f'cuda:{i}' for i in range(count))}")
        self.device = torch.device(name if name != "cuda" else "cuda:0")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def check_precision(self, dtype):
        """Raises Refused where the processor has no kernels of that type and would compute in another."""
        if self.device.type == "cuda":
            able = dtype != "bfloat16" or torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            kernels = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
            able = dtype == "float32" or getattr(torch.ops.mkldnn, kernels[dtype])()
        if not able:
            raise Refused(f"{self.device} has no kernels for {dtype}: PyTorch would compute in another precision")

    def placed(self, tensor):
        tensor = tensor.to(self.device)
        return tensor.contiguous(memory_format=torch.channels_last) if self.channels_last and tensor.dim() == 4 else tensor

    def prepared(self, module):
        module = module.to(self.device)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        for each in module.parameters():
            each.requires_grad_(False)
        return torch.compile(module, fullgraph=True, dynamic=False) if self.compile else module

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def flush_l2(self):
        if self.scratch is not None:
            self.scratch.zero_()

    def load(self, model, seed):
        return Item(model, self, seed)

    def state(self):
        """Clocks, power and temperature of the GPU, as its driver tells them."""
        if self.device.type != "cuda":
            return {}
        found = nvidia_smi(",".join(field for _, field in GPU_STATE), self.device)
        numbers = {name: float(text) for (name, _), text in zip(GPU_STATE, found) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)}
        return {name: round(1e3 * value if name in MILLI else value) for name, value in numbers.items()}


def nvidia_smi(fields, device):
    """What the driver's program says of a GPU, a text for each field; none where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    which = f"GPU-{uuid}" if uuid else str(device.index or 0)
    try:
        command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", which]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [text.strip() for text in done.stdout.strip().split(",")]


if __name__ == "__main__":
    main(Torch())
