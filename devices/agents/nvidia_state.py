"""Power mode, clocks and temperatures of NVIDIA devices: from sysfs on Jetson boards, by nvidia-smi elsewhere. Part of agents for NVIDIA GPUs.

Nothing is changed, and nothing needs root. Jetson boards have no nvidia-smi that tells clocks; their power mode is in two files of nvpmodel.
"""

import re
import subprocess
from pathlib import Path

from agent_contract import number_in, read_first_line

SMI_SECONDS = 10
#: nvidia-smi's field -> (name, factor) of a whole number.
SMI_FIELDS = {
    "clocks.sm": ("gpu_frequency_cur_khz", 1000),
    "clocks.max.sm": ("gpu_frequency_max_khz", 1000),
    "clocks.mem": ("gpu_memory_frequency_khz", 1000),
    "temperature.gpu": ("temperature_gpu_millicelsius", 1000),
    "power.limit": ("gpu_power_limit_mw", 1000),
    "power.draw": ("gpu_power_mw", 1000),
}


def power_mode(root="/"):
    """`MAXN (0)` as nvpmodel keeps it; empty where there is none."""
    found = re.match(r"pmode:0*(\d+)", read_first_line(Path(root, "var/lib/nvpmodel/status")))
    if not found:
        return ""
    try:
        config = Path(root, "etc/nvpmodel.conf").read_text(encoding="utf-8", errors="replace")[: 1 << 20]
    except OSError:
        config = ""
    names = dict(re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\w{1,32})\s*>", config, re.MULTILINE))
    return f"{names.get(found[1], 'mode')} ({found[1]})"


def board(root="/"):
    """The name of the board, such as `NVIDIA Jetson AGX Orin Developer Kit`; empty where the system has none."""
    return read_first_line(Path(root, "proc/device-tree/model")).strip("\0\n ")[:100]


def board_clocks(root="/"):
    """Frequencies of the GPU in sysfs: now, and the bounds it may move in; jetson_clocks makes the bounds one."""
    folders = [each for each in Path(root, "sys/class/devfreq").glob("*") if re.search(r"\.(gpu|g[a-z]\d\db)$", each.name)]  # 17000000.gpu, ....ga10b
    files = {"cur": "cur_freq", "min": "min_freq", "max": "max_freq"}
    for folder in sorted(folders):
        hertz = {name: number_in(folder / file) for name, file in files.items()}
        if hertz["cur"]:
            return {f"gpu_frequency_{name}_khz": value // 1000 for name, value in hertz.items() if value is not None}
    return {}


def smi_state(pci_bus):
    """The same of a GPU in a PCI slot, by nvidia-smi; nothing where that program does not tell."""
    command = ["nvidia-smi", f"--id={pci_bus}", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return parsed_smi(done.stdout.decode("utf-8", "replace"))


def parsed_smi(text):
    """The line that nvidia-smi answers; `[N/A]` is left out."""
    values = [value.strip() for value in (text.splitlines() or [""])[0].split(",")]
    known = zip(SMI_FIELDS.values(), values)
    return {name: round(float(value) * factor) for (name, factor), value in known if re.fullmatch(r"\d+(\.\d+)?", value)}


def gpu_state(pci_bus, root="/"):
    """Whole numbers of the state of the GPU, as far as the system tells them."""
    return board_clocks(root) or smi_state(pci_bus)


def conditions(root="/"):
    """What of it must stay the same for numbers to be of one table: power mode, and the bounds of the GPU's clock, where the system tells."""
    clocks = board_clocks(root)
    least, most = clocks.get("gpu_frequency_min_khz"), clocks.get("gpu_frequency_max_khz")
    span = "" if least is None or most is None else f"fixed at {most // 1000} MHz" if least == most else f"{least // 1000} to {most // 1000} MHz"
    return {name: value for name, value in (("power_mode", power_mode(root)), ("gpu_clock", span)) if value}
