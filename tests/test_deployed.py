"""hwnas/verbs/deployed.py, through the main job in int8 and a batch of two: what is searched, measured, shipped and counted is that file."""

from dataclasses import replace

import onnx
import pytest
from commands import python

import hwnas
from hwnas.backends.onnx import runner
from hwnas.latency_table import LatencyTable
from hwnas.manifest import read_manifest
from hwnas.run import RunDirectory
from hwnas.variant import Variant
from hwnas.verbs.common import Job
from hwnas.verbs.deployed import classified, graph_of, model_of

pytestmark = pytest.mark.slow  # two minutes on a busy machine: a profile, a training, a search and a window

pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")

SPACE = "ofa_mini(resolutions=(24,))"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    hwnas.profile("localhost", space=SPACE, to=folder / "table", precision="int8_u8s8", batch=2, visits=1, networks=8)
    hwnas.train(folder / "run", space=SPACE, data="cluttered_digits", length=0.02, threads=1)
    options = ("population=4", "tournament=2")
    hwnas.search(folder / "run", table=folder / "table", latency="<= 900ms", evaluations=8, options=options, baselines=False, threads=1)
    for _ in range(3):
        if hwnas.verify(folder / "run", top=1, seconds=3)["certificate"]:
            return folder
    pytest.skip("this machine is too busy to measure on")


def test_the_certificate_and_the_file_are_of_the_tables_precision_and_batch(job):
    assert LatencyTable.load(job / "table").variants() == [Variant("int8_u8s8", 2)]
    with RunDirectory(job / "run") as directory:
        verified = Job(directory).result("verify")
        certificate = verified["certificate"]
        model = onnx.load_model_from_string(directory.store.blob(certificate["model_sha256"]))
    assert (certificate["precision"], certificate["batch"]) == ("int8_u8s8", 2)
    assert [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim] == [2, 1, 24, 24]
    assert {"QuantizeLinear", "DequantizeLinear"} < {node.op_type for node in model.graph.node}
    assert {each["accuracy_in"] for each in verified["measured"]} == {"int8_u8s8"}


def test_accuracies_are_those_of_the_files(job):
    with RunDirectory(job / "run") as directory:
        parts = Job(directory)
        chosen = next(each for each in parts.result("verify")["measured"] if each.get("chosen"))
        images, raw = parts.images("validation"), directory.store.blob(chosen["model_sha256"])
        assert raw == model_of(parts, chosen["code"])  # made again, the same bytes
        graph = graph_of(parts, chosen["code"])
        right = classified(raw, graph.input, images)
        x = images.inputs(images.pixels[:2], 24).numpy()
        by_hand = runner(raw)(x).argmax(axis=1) == images.labels[:2].numpy()
    assert right.shape == (len(images),) and right[:2].tolist() == by_hand.tolist()
    assert chosen["accuracy_pct"] == pytest.approx(100 * right.mean()) and abs(chosen["accuracy_pct"] - chosen["accuracy_fp32_pct"]) < 15


def test_an_odd_number_of_images_is_classified_in_batches_of_two(job):
    with RunDirectory(job / "run") as directory:
        parts = Job(directory)
        code = parts.result("verify")["measured"][0]["code"]
        images, raw, graph = parts.images("validation"), model_of(parts, code), graph_of(parts, code)
    few = replace(images, pixels=images.pixels[:5], labels=images.labels[:5], sources=images.sources[:5])
    assert classified(raw, graph.input, few).tolist() == classified(raw, graph.input, images)[:5].tolist()


def test_the_folder_to_ship_proves_itself_and_the_report_says_what_it_is_about(job):
    result = hwnas.export(job / "run", to=job / "export")
    assert set(result["parity"]) == {"real"} and result["parity"]["real"]["passed"]
    assert read_manifest(job / "export")["input"]["shape"] == [2, 1, 24, 24]
    done = python(job / "export" / "onnxruntime_python" / "infer.py", cwd=job)
    assert done.returncode == 0 and "logits agree" in done.stdout, done.stderr
    made = hwnas.report(job / "run")
    assert "int8_u8s8, batch 2" in made.conditions and "--precision int8_u8s8 --batch 2" in made.commands[0]
    assert made.layers[0].block.startswith("0.conv = conv2d.int8_u8s8 2x1x24x24")
