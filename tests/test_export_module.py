"""hwnas/verbs/export_module.py: any module of the user's, as a file that was compared with it before it was kept."""

import json

import numpy as np
import onnx
import pytest
import torch
from commands import here
from torch import nn

from hwnas import export_module
from hwnas.backends.onnx import runner
from hwnas.errors import HwnasError, InputError, MissingExtra
from hwnas.interface import Interface, Preprocessing


def net(classes=5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, classes)
    )


EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_module_is_one_file_with_its_batch_norms_folded(tmp_path):
    module = net()
    found = export_module(module, EXAMPLE, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert found["parity"]["passed"] and found["parity"]["ratio"] < 1e-4 and found["opset"] == 17 and [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    with torch.no_grad():
        expected = module.eval()(EXAMPLE).numpy()
    np.testing.assert_allclose(runner(tmp_path / "net.onnx")(EXAMPLE.numpy()), expected, atol=1e-5)


def test_a_module_is_left_in_the_mode_it_was_in(tmp_path):
    module = net().train()
    module[1].eval()  # frozen, as people do when they fine-tune
    statistics = module[1].running_mean.clone()
    export_module(module, EXAMPLE, tmp_path / "net.onnx")
    assert module.training and module[0].training and not module[1].training and torch.equal(statistics, module[1].running_mean)


def test_the_same_module_gives_the_same_bytes_without_lines_of_its_source(tmp_path):
    for name in ("a.onnx", "b.onnx"):
        export_module(net(), EXAMPLE, tmp_path / name)
    raw = (tmp_path / "a.onnx").read_bytes()
    assert raw == (tmp_path / "b.onnx").read_bytes() and b"test_export_module" not in raw


def test_interface_and_opset_are_as_asked_for(tmp_path):
    face = Interface(softmax=True, free_batch=True, input_name="photo", output_name="shares")
    export_module(net(), EXAMPLE, tmp_path / "net.onnx", interface=face, opset=20, labels=("a", "b", "c", "d", "e"))
    model = onnx.load(tmp_path / "net.onnx")
    assert model.opset_import[0].version == 20 and model.graph.input[0].name == "photo" and model.graph.output[0].name == "shares"
    shares = runner(tmp_path / "net.onnx")(np.zeros((7, 3, 16, 16), np.float32))
    assert shares.shape == (7, 5) and shares.sum(axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    assert json.loads({each.key: each.value for each in model.metadata_props}["hwnas.labels"]) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("kind", ["pixels", "image"])
def test_preprocessing_goes_into_the_file(tmp_path, kind):
    how = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = export_module(net(), EXAMPLE, tmp_path / "net.onnx", interface=Interface(kind), preprocessing=how, opset=18)
    assert found["parity"]["passed"]
    side = 16 if kind == "pixels" else 40
    assert runner(tmp_path / "net.onnx")(np.zeros((2, side, side, 3), np.uint8)).shape == (2, 5)


def test_a_file_that_computes_something_else_is_not_kept(tmp_path):
    class Moody(nn.Module):
        """Another result at each call: what is traced is not what is run."""

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x.mean(dim=(2, 3)) + self.calls

    with pytest.raises(HwnasError, match=r"differs from the module by .* nothing was written"):
        export_module(Moody(), EXAMPLE, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such luck")


class Infinite(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)) / 0


@pytest.mark.parametrize(
    ("module", "example", "options", "message"),
    [
        (Pair(), EXAMPLE, {}, "one float32 tensor of finite values, it gives tuple"),
        (Broken(), EXAMPLE, {}, "does not run on an input of shape .*: RuntimeError: no such luck"),
        (Infinite(), EXAMPLE, {}, "finite"),
        (net(), EXAMPLE.double(), {}, "must be float32 with a batch in front"),
        (net(), "1x3", {}, "does not run on an input of shape"),
        (net(), "many", {}, "'input=many' is no shape"),
        (net(), EXAMPLE, {"opset": 9}, "opset 9 cannot be written here; there are 14 to 26"),
        (net(), EXAMPLE, {"interface": Interface("pixels")}, "needs to know how the network's images are prepared"),
        ("net", EXAMPLE, {}, "'net' names no module; write path.py:function"),
        (lambda x: x, EXAMPLE, {}, "what is exported is a torch.nn.Module, not function"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(tmp_path, module, example, options, message):
    with pytest.raises(InputError, match=message):
        export_module(module, example, tmp_path / "net.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_the_newer_exporter_says_what_it_needs_or_does_the_same(tmp_path):
    pytest.importorskip("torch")
    try:
        found = export_module(net(), EXAMPLE, tmp_path / "net.onnx", dynamo=True, opset=18)
    except MissingExtra as error:
        assert "hwnas[dynamo]" in str(error)
        pytest.skip("onnxscript is not installed")
    assert found["parity"]["passed"] and [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_command_takes_a_function_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(width=4):\n    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.Linear(width * 36, 2))\n"
    )
    code, out, err = here("export-module", "mine.py:net(width=6)", "--shape", "1x3x8x8", "--to", "mine.onnx", "--softmax")
    assert code == 0 and "mine.onnx (" in out and "equals the module to" in out, err
    code, out, err = here("export-module", "mine.py:nett", "--shape", "1x3x8x8", "--to", "other.onnx")
    assert code == 2 and err.startswith("error: mine.py has no function 'nett'") and not (tmp_path / "other.onnx").exists()
