"""hwnas/profiling/check.py: this machine, and reports written by hand."""

import signal
import subprocess
import sys

import pytest

from hwnas.device import load_device
from hwnas.errors import InputError, MeasurementFailed
from hwnas.profiling.agent import Identity
from hwnas.profiling.check import assess, check_device, temperatures
from hwnas.profiling.protocol import Visit

QUIET = {"governor": "performance", "cores": 4}
STATE = {"clock_step_ns": 50, "usable_cores": 4, "load_1min_pct": 3, "throttled": 0}
LOCALHOST = load_device("localhost")


def visit(ns, anchor=100, involuntary=0):
    return Visit("anchor", tuple(ns), anchor, anchor, 0, sum(ns), sum(ns), involuntary, 0, 0)


def found(visits=None, system=None, before=None, after=None, threads=1, options=None):
    identity = Identity("onnxruntime", "1", options or {}, QUIET | (system or {}), "ab" * 32)
    state = STATE | (before or {})
    return assess(identity, state, state | (after or {}), visits or [visit([1000, 1010])] * 10, threads=threads, seconds=1.0)


def test_this_machine_can_be_checked():
    seen = []
    check = check_device(LOCALHOST, threads=1, seconds=0.2, progress=lambda *each: seen.append(each))
    assert check.identity.runtime == "onnxruntime" and check.visits >= 50 and check.anchor_best_us > 0
    assert 0 <= check.disturbed_share <= 1 and sum(state.share for state in check.states) == pytest.approx(1, abs=1e-3)
    assert seen and seen[-1][1] == seen[-1][2]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 3601])
def test_a_check_takes_a_while_and_not_for_ever(seconds):
    with pytest.raises(InputError, match="a check takes from 0 to 3,600 seconds"):
        check_device(LOCALHOST, threads=1, seconds=seconds)


def test_a_runtime_must_be_one_of_the_devices():
    with pytest.raises(InputError, match="localhost has no runtime 'tensorflow'; its file names onnxruntime, torch"):
        check_device(LOCALHOST, threads=1, seconds=1, runtime="tensorflow")


def test_an_agent_that_cannot_tell_is_a_sentence(monkeypatch, tmp_path):
    from hwnas.data import shipped
    from hwnas.profiling.runtimes.onnxruntime import OnnxRuntime
    from hwnas.profiling.transport import agent_source

    source = agent_source(shipped("devices") / "agents" / "onnxruntime_agent.py").decode()
    agent = tmp_path / "old_agent.py"
    agent.write_text(source.replace('op == "look"', 'op == "something later"'))
    monkeypatch.setattr(OnnxRuntime, "agent", str(agent))
    with pytest.raises(MeasurementFailed, match="the agent of localhost cannot tell its state: unknown request 'look'"):
        check_device(LOCALHOST, threads=1, seconds=0.2)


def test_the_noise_floor_is_the_middle_of_what_was_undisturbed_and_at_full_speed():
    """Bests 1000, 1010, ..., 1090 ns: p10 1000, p50 1040, p90 1080. A disturbed and a slow visit do not count."""
    visits = [visit([1000 + 10 * i, 2000]) for i in range(10)] + [visit([9000], involuntary=1), visit([5000], anchor=150)]
    check = found(visits)
    assert check.noise_pct == pytest.approx(100 * 80 / 1040, abs=1e-3)
    assert check.disturbed_share == pytest.approx(1 / 12, abs=1e-4) and check.anchor_best_us == 1.0
    assert [(state.relative_latency, round(state.share, 3)) for state in check.states] == [(1.0, 0.917), (1.5, 0.083)]


def test_without_an_undisturbed_visit_there_is_no_noise_floor():
    check = found([visit([1000], involuntary=1)] * 3)
    assert check.noise_pct is None and check.run_noise_pct is None and check.disturbed_share == 1


def test_temperatures_are_told_by_sensor():
    state = {"temperature_0_cpu-thermal_millicelsius": 51_500, "temperature_1_x86_pkg_temp_millicelsius": 60_000, "throttled": 3}
    assert temperatures(state) == {"0_cpu-thermal": 51.5, "1_x86_pkg_temp": 60.0}


def test_a_quiet_device_needs_nothing():
    assert found().advice == ()
    assert found(system={"governor": "unknown"}).advice == ()  # not shown is no fault
    assert found(options={"gpu_clock": "fixed at 1300 MHz"}).advice == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"system": {"governor": "ondemand"}}, "the governor is 'ondemand'"),
        ({"before": {"frequency_limit_khz": 1_500_000, "frequency_max_khz": 2_400_000}}, "limited to 1.50 of 2.40 GHz"),
        ({"options": {"gpu_clock": "306 to 1300 MHz"}}, "the GPU's clock moves, 306 to 1300 MHz"),
        ({"before": {"on_mains": False}}, "plug it in"),
        ({"threads": 8}, "8 threads share 4 usable core"),
        ({"before": {"load_1min_pct": 120}}, "kept 1.2 cores busy"),
        ({"after": {"temperature_0_cpu_millicelsius": 85_000}}, "at 85 degrees Celsius (0_cpu)"),
        ({"after": {"throttled": 2}}, "slowed down by its temperature"),
        ({"before": {"clock_step_ns": 15_625_000}}, "steps of 15,625,000 ns"),
        ({"visits": [visit([1000], involuntary=i % 2) for i in range(10)]}, "another process ran during 50 % of the visits, verify allows 20 %"),
        ({"visits": [visit([1000], anchor=100 + 40 * (i % 2)) for i in range(10)]}, "for 50 % of the time it was 1.40 times slower"),
        ({"visits": [visit([1000 + 20 * i]) for i in range(10)]}, "bursts of one model differ by 14.8 %"),
    ],
)
def test_what_could_be_better_is_one_sentence(changes, words):
    (sentence,) = found(**changes).advice
    assert words in sentence


def test_ctrl_c_ends_a_check_and_says_that_nothing_is_kept():
    command = [sys.executable, "-m", "hwnas", "device", "check", "localhost", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read(1)  # of the progress: it measures now
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[1]
    assert process.returncode == 130 and said.endswith("interrupted; nothing was kept: a check records nothing\n") and "Traceback" not in said
