"""devices/agents/cuda_driver.py, against the prototypes of NVIDIA's header: a stand-in for the driver, compiled from it, is called in its place."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hwnas.data import shipped

USE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from agent_contract import Refused
from cuda_driver import CudaDriver
try:
    cuda = CudaDriver()
except Refused as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
sent = np.arange(1000, dtype=np.float32)
back = np.zeros_like(sent)
address = cuda.allocate(sent.nbytes)
cuda.upload(address, sent)
cuda.download(back, address)
calls = []
graph = cuda.graph_of(lambda: calls.append("captured"))
launched = cuda.library.cuGraphLaunch(graph, cuda.stream)
cuda.call("cuGraphExecDestroy", graph)
cuda.call("cuMemFree_v2", address)
cuda.wait()
ns = cuda.timed_ns(lambda: calls.append("run") or True, 3)
failures = []
for fail in (lambda: cuda.allocate(1 << 41), lambda: cuda.timed_ns(lambda: False, 1), lambda: cuda.call("cuInit", 1)):
    try:
        fail()
    except RuntimeError as error:
        failures.append(str(error))
said = {"same": bool((sent == back).all()), "launched": launched, "calls": calls, "ns": ns, "failures": failures}
print(json.dumps({**cuda.describe(), "slot": cuda.text("cuDeviceGetPCIBusId"), **said}))
"""


def header_folder():
    """Where `cuda.h` is, which PyTorch's wheels bring, or a toolkit; None where there is none."""
    spec = find_spec("nvidia")
    wheels = [path for folder in (spec.submodule_search_locations if spec else []) or [] for path in sorted(Path(folder).glob("*/include"))]
    return next((folder for folder in [*wheels, Path("/usr/local/cuda/include")] if (folder / "cuda.h").is_file()), None)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """What a program said that used the driver's stand-in."""
    compiler, headers = shutil.which("cc") or shutil.which("gcc"), header_folder()
    if not sys.platform.startswith("linux") or compiler is None or headers is None:
        pytest.skip("there is no C compiler, or no header of CUDA's driver (cuda.h), or this is not Linux")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("driver_on_host.c")
    made = [compiler, "-shared", "-fPIC", "-Werror=incompatible-pointer-types", f"-I{headers}", "-o", str(folder / "libcuda.so.1"), str(source)]
    subprocess.run(made, check=True, capture_output=True, text=True)

    def use(**environment):
        command = [sys.executable, "-c", USE, str(shipped("devices") / "agents")]
        done = subprocess.run(command, env={"LD_LIBRARY_PATH": str(folder), **environment}, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return use


def test_values_pass_the_drivers_prototypes_unharmed(driver):
    said = driver()
    assert (said["gpu"], said["compute_capability"], said["cuda_driver"], said["slot"]) == ("Orin", "8.7", "12.6", "0000:01:00.0")
    assert said["same"] and said["launched"] == 0 and said["calls"] == ["captured", "run", "run", "run"]


def test_what_passes_between_two_events_is_nanoseconds(driver):
    assert driver()["ns"] == [500_000] * 3  # the stand-in's clock goes on by half a millisecond from event to event


def test_failures_are_told_in_the_drivers_words(driver):
    assert driver()["failures"] == ["cuMemAlloc_v2 failed with code 2: out of memory", "a run failed on the device", "cuInit failed with code 1: invalid"]


def test_a_driver_without_a_gpu_is_no_gpu(driver):
    assert "its driver shows none" in driver(NO_DEVICE="1")["refused"]
