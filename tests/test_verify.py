"""hwnas/verbs/verify.py: which candidates are measured, and what is said where none fits. The whole command: test_main_job.py."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from commands import copied, here

import hwnas
from hwnas.data import shipped
from hwnas.device import load_device
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.latency_table import Conditions
from hwnas.manifest import read_manifest
from hwnas.profiling.protocol import TIMING
from hwnas.run import RunDirectory
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.tensorrt_parser import parser_is_there
from hwnas.verbs.common import Job
from hwnas.verbs.resolve import latest_table
from hwnas.verbs.target import runtime_of
from hwnas.verbs.verify import LEVEL, closest, equal, matched, pick
from tests.simulated_tables import simulated_table


def point(accuracy_pct, latency_ms):
    return {"accuracy_pct": accuracy_pct, "latency_ms": latency_ms}


def test_candidates_are_spread_over_the_margin():
    # limits 10, 9 and 8 ms: the best within each, none twice
    points = [point(95, 10.5), point(93, 9.9), point(92, 9.8), point(90, 8.9), point(88, 7.0), point(80, 3.0)]
    assert pick(points, 3, 10.0, 0.1) == [points[1], points[3], points[4]]


def test_more_than_three_candidates_stand_closer_instead_of_reaching_farther_down():
    # a margin of 10 % and five: 10, 9.5, 9, 8.5 and 8 ms; never closer than 1.5 %
    points = [point(100 * ms, ms) for ms in (each / 100 for each in range(700, 1_001))]
    assert [each["latency_ms"] for each in pick(points, 5, 10.0, 0.1)] == pytest.approx([10.0, 9.5, 9.0, 8.5, 8.0], abs=0.02)
    assert [each["latency_ms"] for each in pick(points, 4, 10.0, 0.015)] == pytest.approx([10.0, 9.85, 9.7, 9.55], abs=0.02)


def test_a_point_is_picked_once_and_the_next_takes_its_turn():
    points = [point(93, 5.0), point(92, 4.0)]
    assert pick(points, 3, 10.0, 0.1) == points


def test_among_equally_accurate_points_the_faster_is_picked():
    points = [point(90, 9.0), point(90, 6.0)]
    assert pick(points, 1, 10.0, 0.1) == [points[1]]


def test_where_all_exceed_the_limit_the_fastest_is_the_last_resort():
    points = [point(95, 12.0), point(90, 11.0)]
    assert pick(points, 3, 10.0, 0.1) == [points[1]] and pick([], 3, 10.0, 0.1) == []


def test_the_equal_of_a_baseline_is_its_most_accurate_network_that_is_no_slower():
    found = {"baselines": {"random": {"points": [point(94, 8.0), point(91, 6.0), point(90, 5.0)]}}}
    assert equal(found, "random", 6.0) == point(91, 6.0)
    assert equal(found, "random", 4.9) is None and equal(found, "uniform", 9.0) is None and equal({}, "random", 9.0) is None


def test_the_chosen_network_is_compared_with_the_best_of_a_baseline_that_is_within_the_budget():
    def row(role, ms, accuracy_pct, verdict="inconclusive", number=1):
        return {"role": role, "measured_ms": ms, "accuracy_pct": accuracy_pct, "verdict": verdict, "round": number}

    chosen = row("candidate", 6.0, 90.0, "within")
    slow, equal_ms, other = row("random", 7.0, 95.0), row("random", 6.1, 89.0), row("uniform", 1.0, 99.0)
    assert matched([chosen, slow, other, equal_ms], "random", chosen) == 3
    assert matched([chosen, slow, row("random", 6.5, 80.0)], "random", chosen) == 2  # the fastest, where none is equal or within
    earlier = row("random", 9.0, 92.0, "within", 0)
    assert matched([chosen, equal_ms, earlier, row("random", 9.0, 99.0, "over", 0)], "random", chosen) == 2
    assert matched([chosen, other], "random", chosen) is None


def measured(role, measured_ms, upper_bound_ms, doubt="", verdict="inconclusive"):
    return {"role": role, "measured_ms": measured_ms, "upper_bound_ms": upper_bound_ms, "doubt": doubt, "verdict": verdict}


def test_the_closest_candidate_is_the_one_of_the_least_bound_and_its_doubt_is_told():
    rows = [measured("candidate", 10.1, 10.4), measured("candidate", 10.3, 10.35, "too few visits"), measured("largest", 1.0, 1.0)]
    said = closest({"budget_ms": 10.0, "measured": rows})
    assert said == "none of 2 measured candidates is certified within 10 ms: the closest took 10.3 ms, upper bound 10.35 ms (too few visits)"
    too_large = measured("candidate", 9.0, 9.1, verdict="over on size")
    assert closest({"budget_ms": 10.0, "measured": [too_large]}).endswith("the closest took 9 ms, upper bound 9.1 ms (over on size)")
    assert "upper bound unknown" in closest({"budget_ms": 10.0, "measured": [measured("candidate", 9.0, None)]})
    assert closest({"budget_ms": 10.0, "measured": []}) == "the search found no candidate"


def test_candidates_are_measured_with_the_runtime_of_the_table():
    assert runtime_of(load_device("localhost"), "torch") == "torch" and runtime_of(load_device("localhost"), "onnxruntime") == "onnxruntime"
    with pytest.raises(InputError, match="the table was measured with the runtime 'torch', and browser has onnxruntime_web"):
        runtime_of(load_device("browser"), "torch")


#: ONNX Runtime's agent, which also builds each model as TensorRT's does: with its code, by the wheel of TensorRT for RTX. Only running a plan needs a GPU.
BUILDING_AGENT = """
import sys
sys.path.insert(0, {folder!r})
import agent_contract, onnxruntime_agent, tensorrt_engine

builder = tensorrt_engine.TensorRt("tensorrt_rtx")
builder.set_up_builder(*tensorrt_engine.library("tensorrt_rtx"), dict())

class Building(onnxruntime_agent.OnnxRuntime):
    def load(self, model, seed):
        item = super().load(model, seed)
        item.facts.update(builder.build(model)[1])
        return item

agent_contract.main(Building())
"""

BOARD = 'description = "it builds what it runs"\nprocessor = "cpu"\ntransport = "local"\nruntimes = ["onnxruntime"]\nagent = "{folder}"\n'
FORMULA = Conditions("board", "a formula", "onnxruntime", "1", 1, TIMING.regime)


@pytest.mark.skipif(not parser_is_there(), reason="TensorRT for RTX is not installed: pip install 'hwnas[tensorrt-rtx]'")
def test_certificate_and_manifest_name_the_plan_that_was_measured(trained, tmp_path):
    agents, run, program = shipped("devices") / "agents", copied(trained, tmp_path / "run"), tmp_path / "agent" / "hwnas_onnxruntime_agent"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{BUILDING_AGENT.format(folder=str(agents))}")
    program.chmod(0o755)
    (tmp_path / "board.toml").write_text(BOARD.format(folder=program.parent))
    replace(simulated_table(BlockIndex(ofa_mini(resolutions=(24,))), lambda table, layers, act: table), conditions=FORMULA).save(tmp_path / "table")
    options = ("population=4", "tournament=2")
    hwnas.search(run, table=tmp_path / "table", latency="<= 900ms", evaluations=6, options=options, baselines=False, threads=1)
    for _ in range(3):
        if certificate := hwnas.verify(run, top=1, seconds=1, device=str(tmp_path / "board.toml"))["certificate"]:
            break
    else:
        pytest.skip("this machine is too busy to measure on")
    hwnas.export(run, to=tmp_path / "export")

    script = f"import sys; sys.path.insert(0, {str(agents)!r}); import tensorrt_engine as own; made = own.TensorRt('tensorrt_rtx'); " + (
        "made.set_up_builder(*own.library('tensorrt_rtx'), {}); print(made.build(open(sys.argv[1], 'rb').read())[1]['plan_sha256'])"
    )
    again = subprocess.run([sys.executable, "-c", script, tmp_path / "export" / "model.onnx"], capture_output=True, text=True, timeout=120)
    digest = again.stdout.strip()
    assert len(digest) == 64, again.stderr
    assert certificate["plan_sha256"] == digest and "built again it may be another plan" in certificate["scope"]
    assert json.loads((tmp_path / "export" / "certificate.json").read_text())["plan_sha256"] == digest
    assert read_manifest(tmp_path / "export")["latency"]["plan_sha256"] == digest


def test_a_runtime_that_builds_nothing_has_no_plan_to_name(demo):
    certificate = json.loads((demo.folder / "run" / "certificate.json").read_text())
    assert "plan_sha256" not in certificate and "plan" not in certificate["scope"]
    assert "plan_sha256" not in read_manifest(demo.folder / "export")["latency"]


# -- several devices, learning, and architectures without weights -------------------------------------------------------------------------

INDEX = BlockIndex(ofa_mini(resolutions=(24,)))


def formula_table(folder, device, scale=1.0):
    """Prices of a formula, for a device of this machine's CPU."""
    made = simulated_table(INDEX, lambda total, layers, activations: scale * (0.01 + total))
    replace(made, conditions=replace(FORMULA, device=device)).save(folder)
    return folder


@pytest.fixture
def board(tmp_path):
    """A second device: this machine under another name."""
    path = tmp_path / "board.toml"
    path.write_text('description = "this machine again"\nprocessor = "cpu"\ntransport = "local"\nruntimes = ["onnxruntime"]\n')
    return path


@pytest.fixture(scope="module")
def searched(trained, tmp_path_factory):
    """A run that was searched under a budget on size as well; others are solved from it, which evaluates nothing."""
    folder = tmp_path_factory.mktemp("searched")
    run, table = copied(trained, folder / "run"), formula_table(folder / "a", "localhost")
    asked = {"evaluations": 8, "options": ("population=4", "tournament=2"), "baselines": False, "threads": 1}
    hwnas.search(run, table=table, latency="<= 900ms", size="<= 100%", **asked)
    return run


def until_measured(run, verdict, **asked):
    """A busy machine may spoil a window of a second."""
    for _ in range(3):
        found = hwnas.verify(run, top=1, seconds=1, **asked)
        if found["certificate"] and found["certificate"]["verdict"] == verdict:
            return found
    pytest.skip("this machine is too busy to measure on")


def test_a_budget_on_a_device_that_is_not_measured_is_predicted_only(searched, board, tmp_path):
    also, run = [f"{formula_table(tmp_path / 'b', 'board')} <= 800ms p90"], tmp_path / "run"
    hwnas.solve(searched, to=run, latency="<= 900ms", also=also)
    found = until_measured(run, "partly")
    ((there,), scope) = found["certificate"]["elsewhere"], found["certificate"]["scope"]
    assert (there["origin"], there["verdict"], there["budget_ms"], there["statistic"]) == ("predicted", "predicted", 800.0, "p90")
    assert "measured_ms" not in there and "nothing is certified for board/onnxruntime-1-1thread: that budget is predicted only" in scope
    code, _, error = here("verify", run, "--top", 1, "--seconds", 1)
    assert code == 1 and "error: not certified on board/onnxruntime-1-1thread" in error and "it was not named with --also" in error

    both = until_measured(run, "within", also=[str(board)])["certificate"]
    ((there,), scope) = both["elsewhere"], both["scope"]
    assert there["origin"] == "measured" and there["verdict"] == "within" and there["upper_bound_ms"] <= 800 and there["conditions"]["device"] == "board"
    assert "nothing is certified" not in scope
    levels = [1 - each["confidence"] for each in (both, there)]
    assert sum(levels) < 0.01  # of the whole command


def test_options_that_do_not_fit_the_run_are_one_sentence(searched, board, tmp_path):
    run = copied(searched, tmp_path / "run")
    with pytest.raises(InputError, match="there are: none: its search had no --also"):
        hwnas.verify(run, also=[str(board)])
    with pytest.raises(InputError, match="has trained weights: leave out --random-weights"):
        hwnas.verify(run, random_weights=True)
    for use in (-1.0, 100.0):
        with pytest.raises(InputError, match=f"--use is {use:g}"):
            hwnas.verify(run, use=use)


def test_where_none_fits_the_calibration_learns_and_the_evaluations_are_solved_again(searched, tmp_path):
    """The table says a hundredth of what networks take: nothing can fit, and nothing slower than before is tried."""
    table, run = formula_table(tmp_path / "a", "localhost", scale=0.01), tmp_path / "run"
    hwnas.solve(searched, to=run, latency="<= 70% p50", table=table)
    found = hwnas.verify(run, top=2, seconds=1)
    candidates = [each for each in found["measured"] if each["role"] == "candidate"]
    assert found["certificate"] is None and {each["round"] for each in candidates} == {0, 1, 2}
    assert max(each["macs"] for each in candidates if each["round"] == 2) <= max(each["macs"] for each in candidates if each["round"] == 0)
    assert all(each["accuracy_origin"] == "measured" for each in candidates if "accuracy_origin" in each)
    assert len({tuple(each["code"]) for each in candidates}) == len(candidates)
    with RunDirectory(run, write=False) as directory:
        job = Job(directory)
        learned = latest_table(job)
        assert all(each in learned.networks or each.p50_ms < 0.1 for each in job.table.networks)
        measured = {json.dumps(each["values"]): each["measured_ms"] for each in found["measured"] if not each["doubt"]}
        kept = {json.dumps(dict(each.architecture.values)): each.p50_ms for each in learned.networks}
        assert measured.items() <= kept.items()
        assert len(learned.provenance.get("verified", [])) == len({each["round"] for each in found["measured"] if not each["doubt"]})
        assert [event.body["level"] for event in directory.events("verify", "window")] == [LEVEL / 2, LEVEL / 4, LEVEL / 8]


@pytest.fixture
def by_size(tmp_path):
    """A predictor of accuracy: parameters."""
    (tmp_path / "mine.py").write_text(
        "from hwnas.costs import params\nfrom hwnas.predictor import Additive\n\n\n"
        "def size(index):\n    return Additive(index, params(index.blocks) / 1e3, name='size', unit='%')\n"
    )
    return {"space": "ofa_mini(resolutions=(24,))", "accuracy": f"{tmp_path / 'mine.py'}:size"}


def test_latencies_of_architectures_without_weights_are_certified_as_such(by_size, tmp_path):
    asked = {"table": formula_table(tmp_path / "a", "localhost"), **by_size}
    hwnas.search(tmp_path / "run", latency="<= 900ms", evaluations=50, options=["population=10"], baselines=False, **asked)
    with pytest.raises(InputError, match="have no weights; begin a run with hwnas train, or certify latencies alone with --random-weights"):
        hwnas.verify(tmp_path / "run")
    certificate = until_measured(tmp_path / "run", "within", random_weights=True)["certificate"]
    assert certificate["accuracy"]["origin"] == "predicted" and "whose weights are random" in certificate["scope"]
    with pytest.raises(InputError, match="was searched by a predictor of accuracy: name another folder for the training"):
        hwnas.train(tmp_path / "run", space="ofa_mini(resolutions=(24,))", data="digits", length=0.01, threads=1)
    with pytest.raises(InputError, match="has no train yet"):
        hwnas.export(tmp_path / "run", to=tmp_path / "export")


def test_a_trained_run_is_not_searched_by_a_predictor(searched, by_size, tmp_path):
    run, table = copied(searched, tmp_path / "run"), formula_table(tmp_path / "a", "localhost")
    with pytest.raises(InputError, match="holds a supernet, whose accuracies are measured: name another folder"):
        hwnas.search(run, table=table, latency="<= 900ms", **by_size)


def test_what_another_device_took_teaches_the_table_nothing(searched, board, tmp_path):
    run = copied(searched, tmp_path / "run")
    found = hwnas.verify(run, top=1, seconds=1, device=str(board))
    assert found["measured"]
    with RunDirectory(run, write=False) as directory:
        assert not directory.events("verify", "table") and latest_table(Job(directory)) is not None


def test_the_size_in_a_certificate_is_that_of_the_file(searched, tmp_path):
    found = until_measured(copied(searched, tmp_path / "run"), "within")
    (cost,) = found["certificate"]["costs"]
    assert cost["metric"] == "size" and cost["origin"] == "measured" and cost["value"] <= cost["limit"]
    (chosen,) = [each for each in found["measured"] if each.get("chosen")]
    assert cost["value"] == chosen["file_bytes"] == pytest.approx(chosen["size_bytes"], rel=0.04)
