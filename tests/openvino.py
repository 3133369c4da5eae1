"""The agent of ONNX Runtime with OpenVINO's plug-in provider, the real one, wherever its package is installed.

The provider offers itself on processors of Intel alone, by the vendor's number, though OpenVINO computes on others of this architecture just as well.
So that it is tested there too, the agent of the tests has ONNX Runtime's record of the CPU say Intel. No agent that measures for anybody does so.
"""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

import pytest

from hwnas.data import shipped
from hwnas.profiling.transport import agent_source

AGENT = shipped("devices") / "agents" / "onnxruntime_agent.py"
OPTIONS = {"provider": "OpenVINOExecutionProvider"}

_SAY_INTEL = """
import ctypes

def say_intel():
    device = ort.get_ep_devices()[0].device
    numbers = ctypes.cast(ctypes.cast(id(device) + 2 * ctypes.sizeof(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p))[0], ctypes.POINTER(ctypes.c_uint32))
    if (numbers[0], numbers[1]) != (0, device.vendor_id):  # OrtHardwareDevice: its type, 0 is the CPU, and its vendor
        sys.exit("onnxruntime describes a processor otherwise than this test knows")
    numbers[1] = 0x8086

say_intel()
"""


def openvino_agent(folder: Path) -> Path:
    """The file of the agent, in `folder` where it had to be changed. Skips where the provider is not installed."""
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        pytest.skip("onnxruntime-ep-openvino is not installed: pip install 'hwnas[openvino]'")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("OpenVINO's provider is for processors of the x86-64 architecture")
    import onnxruntime

    if onnxruntime.get_ep_devices()[0].device.vendor_id == 0x8086:
        return AGENT
    path = folder / "openvino_agent.py"
    source, main, _ = agent_source(AGENT).decode().partition('if __name__ == "__main__":')
    assert main
    path.write_text(f"{source}{_SAY_INTEL}\nmain(OnnxRuntime())\n")
    return path
