"""Hardware-aware neural architecture search: profile a device, search under a latency budget, export what is measured to fit.

Each command of the shell is a function here: `profile`, `plan_profile`, `train`, `search`, `solve`, `verify`, `verify_export`, `export`,
`export_module`, `report`, `compare`, `specialize`, `show_space`, `doctor`, `list_devices`, `add_device`, `check_device`, `check_tensorrt`,
`bench`, `bench_zoo`, `bench_search` and `predict`; for `hwnas accuracy` `build_accuracy` and
`report_accuracy`; for `hwnas table` `list_tables`, `show_table`, `check_table`, `import_table`, `export_table`,
`fill_table`, `merge_tables` and `diff_tables`; for `hwnas weights` `add_weights`, `check_weights` and `list_weights`; for `hwnas data` `fetch_data`
and `list_data`.
They, and with them PyTorch and the rest, are imported when they are first asked for; `import hwnas` alone needs numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hwnas.architecture import Architecture
from hwnas.errors import HwnasError, Infeasible, InputError, MissingLatency
from hwnas.graph import Block, Graph, Node
from hwnas.index import BlockIndex
from hwnas.space import Choice, Layer, SearchSpace

if TYPE_CHECKING:
    from hwnas.verbs.accuracy import build_accuracy as build_accuracy
    from hwnas.verbs.accuracy import report_accuracy as report_accuracy
    from hwnas.verbs.bench import bench as bench
    from hwnas.verbs.bench_search import bench_search as bench_search
    from hwnas.verbs.compare import compare as compare
    from hwnas.verbs.data import fetch_data as fetch_data
    from hwnas.verbs.data import list_data as list_data
    from hwnas.verbs.device import add_device as add_device
    from hwnas.verbs.device import check_device as check_device
    from hwnas.verbs.device import list_devices as list_devices
    from hwnas.verbs.doctor import doctor as doctor
    from hwnas.verbs.export import export as export
    from hwnas.verbs.export_module import export_module as export_module
    from hwnas.verbs.parser_check import check_tensorrt as check_tensorrt
    from hwnas.verbs.predict import predict as predict
    from hwnas.verbs.profile import plan_profile as plan_profile
    from hwnas.verbs.profile import profile as profile
    from hwnas.verbs.report import report as report
    from hwnas.verbs.search import search as search
    from hwnas.verbs.solve import solve as solve
    from hwnas.verbs.space import show_space as show_space
    from hwnas.verbs.specialize import specialize as specialize
    from hwnas.verbs.table import check_table as check_table
    from hwnas.verbs.table import diff_tables as diff_tables
    from hwnas.verbs.table import export_table as export_table
    from hwnas.verbs.table import fill_table as fill_table
    from hwnas.verbs.table import import_table as import_table
    from hwnas.verbs.table import list_tables as list_tables
    from hwnas.verbs.table import merge_tables as merge_tables
    from hwnas.verbs.table import show_table as show_table
    from hwnas.verbs.train import train as train
    from hwnas.verbs.verify import verify as verify
    from hwnas.verbs.verify_export import verify_export as verify_export
    from hwnas.verbs.weights import add_weights as add_weights
    from hwnas.verbs.weights import check_weights as check_weights
    from hwnas.verbs.weights import list_weights as list_weights
    from hwnas.verbs.zoo import bench_zoo as bench_zoo

__version__ = "0.1.0"

#: What `from hwnas import *` brings; the verbs are not among it, since naming them imports PyTorch.
__all__ = [
    "Architecture",
    "Block",
    "BlockIndex",
    "Choice",
    "Graph",
    "HwnasError",
    "Infeasible",
    "InputError",
    "Layer",
    "MissingLatency",
    "Node",
    "SearchSpace",
    "__version__",
]

#: Verb -> module that defines a function of that name. No module of this package may be named like a verb.
_VERBS = {
    "add_device": "hwnas.verbs.device",
    "add_weights": "hwnas.verbs.weights",
    "bench": "hwnas.verbs.bench",
    "bench_search": "hwnas.verbs.bench_search",
    "bench_zoo": "hwnas.verbs.zoo",
    "build_accuracy": "hwnas.verbs.accuracy",
    "check_device": "hwnas.verbs.device",
    "check_table": "hwnas.verbs.table",
    "check_tensorrt": "hwnas.verbs.parser_check",
    "check_weights": "hwnas.verbs.weights",
    "compare": "hwnas.verbs.compare",
    "diff_tables": "hwnas.verbs.table",
    "doctor": "hwnas.verbs.doctor",
    "export": "hwnas.verbs.export",
    "export_module": "hwnas.verbs.export_module",
    "export_table": "hwnas.verbs.table",
    "fetch_data": "hwnas.verbs.data",
    "fill_table": "hwnas.verbs.table",
    "import_table": "hwnas.verbs.table",
    "list_data": "hwnas.verbs.data",
    "list_devices": "hwnas.verbs.device",
    "list_tables": "hwnas.verbs.table",
    "list_weights": "hwnas.verbs.weights",
    "merge_tables": "hwnas.verbs.table",
    "plan_profile": "hwnas.verbs.profile",
    "predict": "hwnas.verbs.predict",
    "profile": "hwnas.verbs.profile",
    "report": "hwnas.verbs.report",
    "report_accuracy": "hwnas.verbs.accuracy",
    "search": "hwnas.verbs.search",
    "show_space": "hwnas.verbs.space",
    "show_table": "hwnas.verbs.table",
    "solve": "hwnas.verbs.solve",
    "specialize": "hwnas.verbs.specialize",
    "train": "hwnas.verbs.train",
    "verify": "hwnas.verbs.verify",
    "verify_export": "hwnas.verbs.verify_export",
}


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'hwnas' has no attribute '{name}'")
    verb = getattr(importlib.import_module(_VERBS[name]), name)
    globals()[name] = verb
    return verb


def __dir__() -> list[str]:
    return sorted({*globals(), *_VERBS})
