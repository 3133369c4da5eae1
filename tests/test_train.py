"""The verb `train`: resumed anywhere, in several processes, from other weights, of one network alone; and what goes wrong."""

import csv
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from commands import environment, here
from PIL import Image

from hwnas.errors import InputError, UnknownName
from hwnas.files import read_json
from hwnas.run import RunDirectory
from hwnas.spaces.ofa_resnet50 import ofa_resnet50
from hwnas.supernet.supernet import Supernet
from hwnas.training.schedule import schedule
from hwnas.training.trainer import TrainingFailed, load_tensors
from hwnas.verbs import train as verb
from hwnas.verbs.common import Job
from hwnas.verbs.export import export
from hwnas.verbs.search import search
from hwnas.verbs.train import train

SPACE = "ofa_mini(resolutions=(16, 24), classes=2)"
COLOUR = "ofa_mini(resolutions=(16, 24), classes=3, channels=3)"

#: A data set as users write their own: a bright bar on the left or on the right.
BARS = """
import torch
from hwnas.images import Images

def bars(split):
    generator = torch.Generator().manual_seed(len(split))
    labels = torch.arange(48) % 2
    pixels = torch.randint(0, 60, (48, 1, 24, 24), generator=generator)
    pixels[labels == 0, :, :, :8] += 150
    pixels[labels == 1, :, :, 16:] += 150
    return Images("bars", pixels.to(torch.uint8), labels, torch.arange(48), ("left", "right"), (0.3,), (0.2,))
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HWNAS_KEPT", str(tmp_path_factory.mktemp("kept")))


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "bars.py"
    path.write_text(BARS)
    return f"{path}:bars"


@pytest.fixture(scope="module")
def trained(bars, tmp_path_factory):
    """A supernet that was trained for a few steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train(run, space=SPACE, data=bars, batch=16, length=0.5)
    return run


@pytest.fixture
def photos(tmp_path):
    """Three classes of colours, 6 images each, and one that is no image."""
    rng = np.random.default_rng(0)
    for name, colour in (("blue", 2), ("green", 1), ("red", 0)):
        for i in range(6):
            pixels = rng.integers(0, 60, (30, 24 + i, 3), np.uint8)
            pixels[..., colour] += 180
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "red" / "x.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def weights(run):
    with RunDirectory(run, write=False) as directory:
        found = []
        directory.load_files(directory.result("train")["files"], lambda folder: found.append(load_tensors(folder / "supernet.safetensors")))
    return found[0]


def assert_same(first, second, *, statistics=True, **tolerance):
    """Without statistics: not those of batch norm, which every process gathers for itself and nothing depends on."""
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name in first:
        if name.endswith((".norm.mean", ".norm.var")) and not statistics:
            continue
        if tolerance:
            torch.testing.assert_close(first[name], second[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert torch.equal(first[name], second[name]), name


class Stopped(Exception):
    pass


def stop_at(step):
    def progress(stage, done, total):
        if done == step:
            raise Stopped

    return progress


@pytest.mark.parametrize(
    ("seconds", "given"),
    [(0.0, ["ema=0.9", "optimizer=sgd", "rate=0.5", "augment=shift"]), (300.0, [])],
    ids=["a checkpoint each step, sgd", "a checkpoint each epoch, adamw"],
)
def test_a_training_that_was_ended_in_the_middle_of_a_phase_comes_to_the_same(bars, tmp_path, monkeypatch, seconds, given):
    monkeypatch.setattr(verb, "CHECKPOINT_SECONDS", seconds)
    options = {"space": SPACE, "data": bars, "batch": 16, "length": 0.5, "schedule": "small", "options": given, "workers": 0}
    whole = train(tmp_path / "whole", **options)
    assert whole["steps"] == 13  # 3 steps an epoch: 2 + 1 + 10
    for step in (1, 5, 12):
        with pytest.raises(Stopped):
            train(tmp_path / "run", **options, progress=stop_at(step))
    resumed = train(tmp_path / "run", **options)
    assert_same(tmp_path / "whole", tmp_path / "run")
    assert resumed["validation_accuracy_pct"] == whole["validation_accuracy_pct"]
    assert [(point["step"], pytest.approx(point["loss"])) for point in resumed["curve"]] == [(point["step"], point["loss"]) for point in whole["curve"]]


def test_the_published_schedule_resumes_with_its_teacher(bars, tmp_path):
    options = {"space": SPACE, "data": bars, "batch": 16, "length": 1e-4, "schedule": "ofa"}
    assert train(tmp_path / "whole", **options)["steps"] == 6  # one of each phase
    with pytest.raises(Stopped):
        train(tmp_path / "run", **options, progress=stop_at(4))
    train(tmp_path / "run", **options)
    assert_same(tmp_path / "whole", tmp_path / "run")
    phases = [row["phase"] for row in csv.DictReader((tmp_path / "run" / "curve.csv").open())]
    assert phases == ["largest", "kernel", "depth 1", "depth 2", "expand 1", "expand 2"]


def in_two_processes(*arguments):
    """(exit code, standard output, standard error) of each of two processes that are started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "-m", "hwnas", "train", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env={**environment(), **meeting, "RANK": str(rank)}, **pipes) for rank in (0, 1)]
    ended = [process.communicate(timeout=300) for process in both]
    return [(process.returncode, out, error) for process, (out, error) in zip(both, ended, strict=True)]


def test_two_processes_come_to_the_weights_of_one_with_both_their_batches(bars, tmp_path):
    """Over gloo, each with half of a step's images; one process takes both halves in turn."""
    common = ["--space", SPACE, "--data", bars, "--batch", "12", "--length", "0.5", "--schedule", "small", "--set", "optimizer=sgd", "--set", "clip=1"]
    both = in_two_processes(tmp_path / "two", *common, "--json")
    assert [code for code, _, _ in both] == [0, 0], both
    outputs = [out for _, out, _ in both]
    assert outputs[1] == ""  # the first one speaks for all
    code, out, error = here("train", tmp_path / "one", *common, "--shards", 2, "--json")
    assert code == 0, error
    assert json.loads(outputs[0])["steps"] == json.loads(out)["steps"]
    assert_same(tmp_path / "one", tmp_path / "two", statistics=False, rtol=1e-4, atol=1e-5)
    losses = [[point["loss"] for point in json.loads(each)["curve"]] for each in (outputs[0], out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "one", tmp_path / "two", statistics=False, rtol=0, atol=0)  # sums in another order: the comparison sees every bit


def test_where_one_process_is_refused_the_others_end_with_a_sentence(bars, trained, tmp_path):
    """The options are not those that the run was begun with, which only the first process sees."""
    both = in_two_processes(trained, "--space", SPACE, "--data", bars, "--batch", "12", "--length", "0.5")
    assert all(code != 0 and "Traceback" not in error for code, _, error in both), both
    assert "was begun with train batch = 16" in both[0][2] and "another process of this training has ended" in both[1][2]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
def test_too_little_memory_is_one_sentence_and_loses_nothing(bars, tmp_path):
    code = (
        "import resource, sys, torch\n"
        "from hwnas import cli\n"
        "from hwnas.training import trainer\n"
        "step = trainer.SupernetTrainer.step\n"
        "def limited(self, *arguments, **named):\n"
        "    if self.steps == 3:\n"
        "        used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), -1))\n"
        "    return step(self, *arguments, **named)\n"
        "trainer.SupernetTrainer.step = limited\n"
        "cli.main()\n"
    )
    # The images are 3 MB; with this threshold nothing that is freed stays mapped to be used again.
    found = {**environment(), "MALLOC_MMAP_THRESHOLD_": "65536"}
    arguments = ["train", str(tmp_path / "run"), "--space", "ofa_mini(resolutions=(128,), classes=2)", "--data", bars, "--batch", "48", "--length", "4"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=found, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "the memory of cpu is not enough for 48 images of 128 pixels at step 3: begin another run with --batch 24 --shards 2" in done.stderr
    with RunDirectory(tmp_path / "run", write=False) as directory:
        assert directory.events("train", "checkpoint")[-1].body["curve"][-1]["step"] == 3


def test_a_loss_that_is_not_finite_is_one_sentence_and_loses_nothing(bars, tmp_path):
    with pytest.raises(TrainingFailed, match=r"begin another run with --set rate=2.5e\+29"):
        train(tmp_path / "run", space=SPACE, data=bars, batch=16, options=["rate=1e30"])
    with RunDirectory(tmp_path / "run", write=False) as directory:
        assert directory.recorded_options("train")["recipe"] == {"rate": 1e30} and directory.result("train") is None


def test_images_of_a_folder_train_a_supernet_and_what_cannot_be_read_is_listed(photos, tmp_path):
    result = train(tmp_path / "run", space=COLOUR, data=str(photos), batch=6, length=0.3, workers=1, options=["validate=1"])
    assert [file for file, _ in result["skipped"]] == ["red/x.jpg"]
    assert (tmp_path / "run" / "skipped.csv").read_text().startswith("file,reason\nred/x.jpg,")
    rows = list(csv.DictReader((tmp_path / "run" / "curve.csv").open()))
    assert [int(row["step"]) for row in rows] == [point["step"] for point in result["curve"]]
    assert all(0 <= float(row["largest_accuracy_pct"]) <= 100 for row in rows if int(row["step"]) % 2 == 0)
    (photos / "red" / "0.png").unlink()
    with RunDirectory(tmp_path / "run", write=False) as directory, pytest.raises(InputError, match="are not those that"):
        Job(directory).images("train")


def test_other_classes_get_a_classifier_of_their_own_and_the_rest_is_kept(trained, photos, tmp_path):
    """From two classes of grey images to three of colour ones, without naming the space again."""
    result = train(tmp_path / "run", data=str(photos), init=trained, batch=6, length=0.2, options=["rate=1e-9"], workers=0, refit=3)
    assert len((tmp_path / "run" / "accuracies.csv").read_text().splitlines()) == 1 + 3  # what predictors of accuracy are fitted to anew
    assert result["init"]["new_head"] and not result["init"]["missing"] and not result["init"]["unknown"]
    before, after = weights(trained), weights(tmp_path / "run")
    assert after["head/classifier.weight"].shape == (3, before["head/classifier.weight"].shape[1])
    for name in before:
        if not name.startswith("head/classifier") and ".norm." not in name:
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)
    with RunDirectory(tmp_path / "run", write=False) as directory:
        options = directory.recorded_options("train")
        assert options["space"] == "ofa_mini(resolutions=(16, 24), classes=3)" and options["schedule"] == "fine_tune"
        assert Job(directory).images("test").channels == 1  # as the supernet takes them
    assert train(tmp_path / "run", data=str(photos), init=trained, batch=6, length=0.2, options=["rate=1e-9"], refit=3)["steps"] == result["steps"]


def test_weights_of_another_space_are_refused(trained, bars, tmp_path):
    with pytest.raises(InputError, match="another space"):
        train(tmp_path / "run", space="mobilenet_v2(resolutions=(32,), classes=2, channels=1)", data=bars, init=trained)
    with pytest.raises(InputError, match="neither a run, nor a file, nor the name of kept weights"):
        train(tmp_path / "other", space=SPACE, data=bars, init="nothing")
    with pytest.raises(InputError, match="--space is missing"):
        train(tmp_path / "third", data=bars)


def test_one_network_is_trained_alone_from_the_file_of_a_supernet(trained, bars, tmp_path):
    """Its slices, as from the run: no layer begins at random."""
    torch.save(weights(trained), tmp_path / "net.pth")
    for name, init in (("run", trained), ("file", tmp_path / "net.pth")):
        train(tmp_path / name, space=SPACE, data=bars, init=init, architecture="smallest", batch=16, length=0.1, options=["rate=1e-12"])
    from_run, from_file = weights(tmp_path / "run"), weights(tmp_path / "file")
    for name, tensor in from_run.items():
        torch.testing.assert_close(from_file[name], tensor, rtol=0, atol=0)


def test_a_file_of_another_width_is_refused(trained, bars, tmp_path):
    changed = weights(trained)
    name = next(each for each in changed if each.endswith("project.weight"))
    torch.save(changed | {name: changed[name][:-1]}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=f"of another space than ofa_mini: {name}"):
        train(tmp_path / "run", space=SPACE, data=bars, init=tmp_path / "net.pth", batch=16, length=0.1)


def test_what_a_file_holds_beside_the_supernet_is_told(trained, bars, tmp_path):
    torch.save({**weights(trained), "strange.weight": torch.zeros(3)}, tmp_path / "net.pth")
    result = train(tmp_path / "run", space=SPACE, data=bars, init=tmp_path / "net.pth", batch=16, length=0.1, refit=0)
    assert result["init"]["unknown"] == ["strange.weight"] and not result["init"]["missing"]


def test_one_network_is_trained_alone_from_the_weights_of_the_supernet_and_exported(trained, bars, tmp_path):
    code, out, error = here(
        "train", tmp_path / "run", "--data", bars, "--init", trained, "--architecture", "smallest", "--batch", 16, "--length", 0.2, "--set", "rate=1e-9"
    )
    assert code == 0 and "network trained for 4 steps" in out and "next: hwnas export" in out, error
    with RunDirectory(trained, write=False) as directory:
        job = Job(directory)
        extracted = job.supernet.extract(job.index.space.smallest()[0])
    for name, tensor in weights(tmp_path / "run").items():
        if ".norm." not in name:
            torch.testing.assert_close(tensor, torch.from_numpy(extracted[name]), rtol=0, atol=1e-5)
    exported = export(tmp_path / "run", to=tmp_path / "export")
    manifest = read_json(tmp_path / "export" / "manifest.json")
    assert manifest["latency"] is None and manifest["labels"] == ["left", "right"] and manifest["input"]["shape"] == [1, 1, 16, 16]
    assert all(check["passed"] for check in exported["parity"].values()) and not (tmp_path / "export" / "certificate.json").exists()
    done = subprocess.run([sys.executable, "-I", str(tmp_path / "export" / "onnxruntime_python" / "infer.py"), "--runs", "0"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stderr
    with pytest.raises(InputError, match="nothing to search"):
        search(tmp_path / "run", table=_table(tmp_path), latency="<= 5ms")


def _table(folder):
    from simulated_tables import simulated_table

    from hwnas import BlockIndex, registry

    simulated_table(BlockIndex(registry.create("spaces", SPACE)), lambda total, layers, activations: 0.01 + total, networks=12).save(folder / "table")
    return folder / "table"


def test_an_architecture_is_named_by_its_file(trained, bars, tmp_path):
    from hwnas.architecture import Architecture

    with RunDirectory(trained, write=False) as directory:
        space = Job(directory).index.space
    code = space.sample(np.random.default_rng(3))
    (tmp_path / "mine.json").write_text(Architecture.of(space, code).to_json())
    train(tmp_path / "run", space=SPACE, data=bars, architecture=str(tmp_path / "mine.json"), batch=16, length=0.2)
    with RunDirectory(tmp_path / "run", write=False) as directory:
        job = Job(directory)
        assert job.index.space.decode(job.index.space.largest()) == space.decode(code[0]) and len(job.supernet.extract(job.index.space.largest()[0])) > 10
    with pytest.raises(UnknownName, match="did you mean 'smallest'"):
        train(tmp_path / "other", space=SPACE, data=bars, architecture="smalest")


def test_a_supernet_of_one_architecture_is_that_network():
    from hwnas import BlockIndex, registry
    from hwnas.pinned import pinned

    space = registry.create("spaces", SPACE)
    code = space.sample(np.random.default_rng(1))
    alone = pinned(space, code)
    graph = alone.lower(alone.largest())
    assert graph == space.lower(code) or [each.op for each in graph.nodes] == [each.op for each in space.lower(code).nodes]
    assert alone.size == 1 and set(Supernet(BlockIndex(alone)).tensors) == {
        f"{each.name}.{leaf}" for each in graph.nodes for leaf in each.node.parameters | each.node.buffers
    }


def test_logs_for_tensorboard_hold_the_curve(bars, tmp_path):
    pytest.importorskip("tensorboard", reason="needs TensorBoard, extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tmp_path / "run", space=SPACE, data=bars, batch=16, length=0.2, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = [(each.step, pytest.approx(each.value, rel=1e-5)) for each in events.Scalars("train/loss")]
    assert logged == [(point["step"], point["loss"]) for point in result["curve"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "rat=2"], "did you mean 'rate'"),
        (["--set", "precision=fp8"], "no precision of training named 'fp8'"),
        (["--set", "ema=1"], "ema is 1, it must be"),
        (["--set", "augment=shfit"], "did you mean 'shift'"),
        (["--device", "tpu"], "--device is 'tpu'"),
        (["--shards", "0"], "--shards is 0"),
        (["--shards", "30"], "at least 2 for each of 30 shard"),
        (["--schedule", "fine_tun"], "did you mean 'fine_tune'"),
    ],
)
def test_wrong_options_are_one_sentence_and_write_nothing(bars, tmp_path, arguments, words):
    code, out, error = here("train", tmp_path / "run", "--space", SPACE, "--data", bars, *arguments)
    assert code == 2 and out == "" and words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_one_sentence(bars, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="finds no GPU here"):
        train(tmp_path / "run", space=SPACE, data=bars, device="cuda")


def test_a_number_of_processes_that_is_none_is_one_sentence(bars, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE is 'two'"):
        train(tmp_path / "run", space=SPACE, data=bars)


def test_weights_that_are_there_are_taken_as_they_are(trained, bars, photos, tmp_path):
    """As a published supernet on the images that it was trained on: no step, and everything behind training works on it."""
    result = train(tmp_path / "run", data=bars, init=trained, schedule="as_is", refit=0)
    assert result["steps"] == 0 and result["validation_accuracy_pct"].keys() == {"largest", "smallest"} and result["curve"] == []
    before, after = weights(trained), weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert train(tmp_path / "run", data=bars, init=trained, schedule="as_is", refit=0) == result
    with pytest.raises(InputError, match="--schedule as_is trains nothing: name the weights with --init"):
        train(tmp_path / "none", space=SPACE, data=bars, schedule="as_is")
    with pytest.raises(InputError, match="lacks a classifier of these classes: leave --schedule out"):
        train(tmp_path / "other", data=str(photos), init=trained, schedule="as_is", workers=0)


def test_a_file_of_torchvision_begins_the_network_that_it_is_of(photos, tmp_path):
    """For other classes, without saying which of torchvision's it is."""
    torch.manual_seed(1)
    theirs = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(theirs, tmp_path / "net.pth")
    options = {"space": "mobilenet_v2(resolutions=(96,), classes=3)", "data": str(photos), "init": tmp_path / "net.pth", "workers": 0}
    result = train(tmp_path / "run", **options, architecture="mobilenet_v2_1.0_96", batch=4, length=0.01, options=["rate=1e-12"])
    assert result["init"]["new_head"] and not result["init"]["missing"]
    found = weights(tmp_path / "run")
    torch.testing.assert_close(found["stem/conv.weight"], theirs["features.0.0.weight"], rtol=0, atol=1e-6)
    for name, reason in (("mobilenet_v2_0.35_96", "which is|--architecture mobilenet_v2_1.0_96"), (None, "its largest network in mobilenet_v2 has")):
        with pytest.raises(InputError, match=reason):
            train(tmp_path / str(name), **options, architecture=name, batch=4, length=0.01)


def test_roles_without_a_phase_of_their_own_are_free_in_the_last_one():
    """The widths of ResNet50 are trained, too."""
    space = ofa_resnet50(resolutions=(128,))
    for name in ("small", "fine_tune", "ofa"):
        phases = schedule(name)
        assert phases[-1].lowest(space).tolist() == [0] * len(space.choices)
    assert schedule("small")[0].lowest(space).tolist() == (space.largest()[0] * (space.cardinalities > 1)).tolist()
