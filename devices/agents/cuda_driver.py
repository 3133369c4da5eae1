"""The few calls of CUDA's driver API that timing needs, by ctypes: memory, a stream, events, graphs. Part of agents for NVIDIA GPUs.

The driver API and not the runtime API: `libcuda.so.1` comes with the driver under one name, so it is there wherever a GPU can be used at
all, on JetPack too. `libcudart` is part of the toolkit and changes its name with it, and cuda-python is not part of JetPack. Streams of both
are the same thing; the context taken here is the one that TensorRT, which uses the runtime API, works in.
"""

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p

from agent_contract import Refused

SPIN = 1  # CU_CTX_SCHED_SPIN
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...

SIGNATURES = {
    "cuInit": (c_uint,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cuDevicePrimaryCtxSetFlags_v2": (c_int, c_uint),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
}


class CudaDriver:
    """The first visible GPU (CUDA_VISIBLE_DEVICES chooses), one stream, and two events around what is timed.

    Raises Refused where this machine has no GPU that can be used.
    """

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise Refused("this machine has no NVIDIA GPU that can be used: there is no library of its driver (libcuda.so.1)") from None
        for name, types in SIGNATURES.items():
            getattr(self.library, name).argtypes = types
        count = c_int()
        try:
            self.call("cuInit", 0)
            self.call("cuDeviceGetCount", ctypes.byref(count))
        except RuntimeError as error:
            raise Refused(f"this machine has no NVIDIA GPU that can be used: {error}") from None
        if count.value < 1:
            raise Refused("this machine has no NVIDIA GPU that can be used: its driver shows none (CUDA_VISIBLE_DEVICES may hide it)")
        self.device = self.made(c_int, "cuDeviceGet", 0).value
        # Waiting by spinning: a burst then takes as much CPU time as wall time, unless another process took the CPU meanwhile.
        self.call("cuDevicePrimaryCtxSetFlags_v2", self.device, SPIN)
        self.call("cuCtxSetCurrent", self.made(c_void_p, "cuDevicePrimaryCtxRetain", self.device))
        self.stream = self.made(c_void_p, "cuStreamCreate", NON_BLOCKING)
        self.begin, self.end = (self.made(c_void_p, "cuEventCreate", 0) for _ in range(2))

    def call(self, name, *arguments):
        """Raises RuntimeError with the driver's words."""
        code = getattr(self.library, name)(*arguments)
        if code:
            words = c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(words))
            raise RuntimeError(f"{name} failed with code {code}: {(words.value or b'unknown error').decode('utf-8', 'replace')}")

    def made(self, kind, name, *arguments):
        """What a call writes to its first argument."""
        value = kind()
        self.call(name, ctypes.byref(value), *arguments)
        return value

    def text(self, name):
        """What a call about the device writes to a buffer of characters."""
        buffer = ctypes.create_string_buffer(256)
        self.call(name, buffer, len(buffer), self.device)
        return buffer.value.decode("utf-8", "replace")

    def describe(self):
        """The GPU's name, its compute capability, the newest CUDA that the driver speaks."""
        major, minor = (self.made(c_int, "cuDeviceGetAttribute", which, self.device).value for which in (CAPABILITY_MAJOR, CAPABILITY_MINOR))
        version = self.made(c_int, "cuDriverGetVersion").value
        name = self.text("cuDeviceGetName")
        return {"gpu": name, "compute_capability": f"{major}.{minor}", "cuda_driver": f"{version // 1000}.{version % 1000 // 10}"}

    def allocate(self, size):
        """Address of that many bytes of device memory."""
        return self.made(c_uint64, "cuMemAlloc_v2", max(size, 1)).value

    def upload(self, address, array):
        """array: contiguous, of numpy."""
        self.call("cuMemcpyHtoD_v2", address, array.ctypes.data, array.nbytes)

    def download(self, array, address):
        self.call("cuMemcpyDtoH_v2", array.ctypes.data, address, array.nbytes)

    def wait(self):
        self.call("cuStreamSynchronize", self.stream)

    def graph_of(self, enqueue):
        """What `enqueue` puts on the stream, as one graph to be launched."""
        self.call("cuStreamBeginCapture_v2", self.stream, THREAD_LOCAL)
        try:
            enqueue()
        finally:
            graph = self.made_by_capture()
        try:
            return self.made(c_void_p, "cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)

    def made_by_capture(self):
        graph = c_void_p()
        self.call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        return graph

    def timed_ns(self, enqueue, runs):
        """Nanoseconds on the device between the events around each of `runs` calls of `enqueue`, which returns whether it worked."""
        record, wait, elapsed = self.library.cuEventRecord, self.library.cuEventSynchronize, self.library.cuEventElapsedTime
        stream, begin, end, ms = self.stream, self.begin, self.end, c_float()
        result = ctypes.byref(ms)
        ns = [0] * runs
        for i in range(runs):
            if record(begin, stream) or not enqueue() or record(end, stream) or wait(end) or elapsed(result, begin, end):
                raise RuntimeError("a run failed on the device")
            ns[i] = max(1, round(ms.value * 1e6))  # events step by up to half a microsecond
        return ns
