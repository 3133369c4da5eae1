"""What `import hwnas` costs: numpy and the standard library."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "scipy", "sklearn", "rich", "typer", "jinja2", "safetensors", "tomli_w", "pydantic", "optuna", "cmaes")


def loaded_after(code: str) -> set[str]:
    """Top-level packages in memory after running `code` in a fresh interpreter."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import hwnas",
        "from hwnas import *",
        "from hwnas import registry\nfor catalogue in registry.CATALOGUES: registry.names(catalogue)",
        "from hwnas import registry\nfrom hwnas.index import BlockIndex\nBlockIndex(registry.create('spaces', 'ofa_mini')).subnets()",
    ],
    ids=["import", "star", "catalogues", "a space"],
)
def test_only_numpy_is_loaded(code):
    loaded = loaded_after(code)
    assert "numpy" in loaded or "import hwnas" not in code
    assert not loaded & set(HEAVY)


def test_the_test_sees_what_is_loaded():
    assert "onnx" in loaded_after("import hwnas.backends.onnx")
