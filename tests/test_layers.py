"""The architecture as a test: imports point down, the core is numpy, and nobody asks which search space it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwnas import registry

PACKAGE = Path(registry.__file__).resolve().parent

#: Each layer may import itself and those above it in this list. A new file or folder of hwnas/ goes into one of them.
LAYERS = (
    ("errors", "files", "flat_yaml", "registry", "data", "download", "store", "ops", "graph", "elimination", "tensor_files"),
    ("hwnas", "blocks", "space", "index", "architecture", "variant", "pinned"),
    ("spaces", "costs", "weights", "budget", "device", "latency_table", "table_dialects", "table_merge"),
    (
        *("backends", "capture", "interface", "quantization", "predictor", "predictors", "block_features", "work_model", "measured_blocks", "predictor_file"),
        *("features", "grouped_ridge", "matern", "intervals", "quality", "memory", "growing", "table_fill", "table_latency", "model_size"),
        *("significance", "benchmark_tables", "benchmark_originals", "benchmark_sources"),
    ),
    (
        *("onnx_blocks", "zoo", "images", "kept_weights", "datasets", "profiling", "supernet", "training", "problem"),
        *("feasible_set", "rewards", "pareto", "exact", "expectation", "milp", "surrogate"),
        *("accuracy_predictor", "accuracy_predictors", "accuracy_quality"),
    ),
    ("searcher", "searchers", "optuna_search", "cmaes_search", "adam", "policies", "controller", "warm_up"),
    (
        *("run", "driver", "executor", "executors", "measured_latency", "exporter", "exporters", "manifest", "model_card", "kit", "testing", "tensorrt_parser"),
        *("tabular_benchmark", "tabular_benchmarks", "search_field"),
    ),
    ("report_data", "report_flame", "report_html", "report_plot", "report_text", "report_words"),
    ("verbs",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

#: Layers that numpy and the standard library are enough for, wherever a file is imported.
NUMPY_ONLY = (
    *(*LAYERS[0], *LAYERS[1], *LAYERS[2], "features", "predictor", "memory", "growing", "feasible_set", "problem", "rewards", "pareto"),
    *("exact", "expectation", "milp", "surrogate", "searcher", "searchers", "optuna_search", "cmaes_search", "run"),
)
HEAVY = {
    *("torch", "torchvision", "onnx", "onnxruntime", "scipy", "sklearn", "rich", "typer", "jinja2", "safetensors", "tomli_w", "optuna", "cmaes", "timm"),
    "ray",
}

#: Pairs that the order allows, or might one day, and the design does not.
FORBIDDEN = {("spaces", "latency_table"), ("spaces", "device"), ("latency_table", "spaces"), ("searchers", "torch"), ("searchers", "supernet")}

FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """The name in LAYERS that a file belongs to."""
    relative = path.relative_to(PACKAGE)
    return "hwnas" if relative == Path("__init__.py") else relative.parts[0].removesuffix(".py")


PARTS = {part(path) for path in FILES}


def asks_type_checker(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that a file imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            if node.module == "hwnas":
                yield from (f"hwnas.{alias.name}" if alias.name in PARTS else "hwnas" for alias in node.names)
            elif node.module:
                yield node.module


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """Top-level packages imported when the file is: not inside functions, not for type checkers only."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if asks_type_checker(node):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name.partition(".")[0] for name in imports(node))
        pending.extend(ast.iter_child_nodes(node))


def test_every_part_of_the_package_has_a_layer():
    unknown = sorted(PARTS - set(RANK))
    assert not unknown, f"hwnas/{unknown[0]} is in no layer: add it to LAYERS in tests/test_layers.py, as low as its imports allow"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here, tree = part(path), ast.parse(path.read_text())
    if here == "hwnas":  # the package itself offers the verbs of a layer above it, by name until they are asked for
        tree.body = [node for node in tree.body if not asks_type_checker(node)]
    for name in imports(tree):
        top, _, rest = name.partition(".")
        there = (rest.partition(".")[0] or "hwnas") if top == "hwnas" else top
        assert (here, there) not in FORBIDDEN, f"{path.name}: {here} must not import {there}"
        if top == "hwnas" and {here, there} <= set(RANK):
            assert RANK[there] <= RANK[here], f"{path.name} (layer {RANK[here]}) imports {name} (layer {RANK[there]}), which is above it"


@pytest.mark.parametrize("path", [path for path in FILES if part(path) in NUMPY_ONLY], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_needs_numpy_only(path):
    heavy = HEAVY & set(imported_at_once(ast.parse(path.read_text())))
    assert not heavy, f"{path.name} imports {', '.join(heavy)} when it is imported; do it inside the function that needs it"


def test_no_code_asks_for_a_search_space_by_name():
    spaces = set(registry.names("spaces"))
    for path in FILES:
        if part(path) == "spaces":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            asked = [node.left, *node.comparators] if isinstance(node, ast.Compare) else [node.value] if isinstance(node, ast.MatchValue) else []
            names = {each.value for expression in asked for each in ast.walk(expression) if isinstance(each, ast.Constant)}
            assert not names & spaces, f"{path.name}, line {node.lineno}: compares with the space {names & spaces}; what differs belongs into the space's file"


@pytest.mark.parametrize("catalogue", registry.CATALOGUES)
def test_every_file_of_a_catalogue_holds_a_factory_of_its_own_name(catalogue):
    for path in (PACKAGE.joinpath(*catalogue.split("."))).glob("[!_]*.py"):
        defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert path.stem in defined, f"{catalogue}/{path.name} defines no '{path.stem}'"


def test_the_rules_themselves_catch_what_they_forbid():
    tree = ast.parse("import torch\nfrom hwnas import registry, __version__\ndef f():\n    import onnx\n    from hwnas.cli import main\n")
    assert list(imports(tree)) == ["torch", "hwnas.registry", "hwnas", "onnx", "hwnas.cli"]
    assert set(imported_at_once(tree)) == {"torch", "hwnas"}
    guarded = ast.parse("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ntry:\n    import onnx\nfinally:\n    pass\n")
    assert set(imported_at_once(guarded)) == {"typing", "onnx"}
