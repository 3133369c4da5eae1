"""Name -> factory. A catalogue is a package: each module holds one factory of the module's own name.

Other distributions add entry points in the group `hwnas.<catalogue>`; `path.py:name`, or `path.py` alone, works wherever a name does. Listing a
catalogue imports nothing. A shipped name is never taken by a plug-in, and one that does not load harms its own name alone.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from hwnas.errors import HwnasError, InputError, UnknownName

CATALOGUES = {
    "spaces": "search space",
    "datasets": "data set",
    "searchers": "searcher",
    "backends": "backend",
    "predictors": "predictor",
    "accuracy_predictors": "predictor of accuracy",
    "exporters": "exporter",
    "profiling.runtimes": "runtime",
    "profiling.transports": "transport",
    "tabular_benchmarks": "tabular benchmark",
    "executors": "executor",
}


def _package_path(catalogue: str) -> list[str]:
    return [str(Path(__file__).resolve().parent.joinpath(*catalogue.split(".")))]


def names(catalogue: str) -> list[str]:
    """Sorted names of a catalogue, shipped ones and entry points. Imports nothing."""
    shipped = {module.name for module in pkgutil.iter_modules(_package_path(catalogue)) if not module.name.startswith("_")}
    return sorted(shipped | {point.name for point in entry_points(group=f"hwnas.{catalogue}")})


def load(catalogue: str, name: str) -> Callable[..., Any]:
    """The factory of that name, of `path.py:name`, or of `path.py` where it is named like the file. Raises UnknownName, InputError."""
    if name.endswith(".py"):
        name = f"{name}:{Path(name).stem}"
    if ".py:" in name:
        return _load_file(*name.rsplit(":", 1))
    if any(module.name == name for module in pkgutil.iter_modules(_package_path(catalogue))):
        factory: Callable[..., Any] = getattr(importlib.import_module(f"hwnas.{catalogue}.{name}"), name)
        return factory
    for point in entry_points(group=f"hwnas.{catalogue}", name=name):
        return _load_plugin(catalogue, point)
    raise UnknownName(CATALOGUES[catalogue], name, names(catalogue))


def _load_plugin(catalogue: str, point: EntryPoint) -> Callable[..., Any]:
    what = f"the {CATALOGUES[catalogue]} '{point.name}'{f' of {point.dist.name}' if point.dist else ''}"
    try:
        loaded = point.load()
    except Exception as error:  # foreign code may fail in any way
        raise InputError(f"{what} does not load: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise InputError(f"{what} is no function: its entry point is '{point.value}', it must be 'module:function'")
    return loaded  # type: ignore[no-any-return]


def _load_file(path: str, name: str) -> Callable[..., Any]:
    if not Path(path).is_file():
        raise InputError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"hwnas_user_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, name, None)):
        raise InputError(f"{path} has no function '{name}'; of another name it is {path}:NAME")
    return getattr(module, name)  # type: ignore[no-any-return]


def split_call(text: str) -> tuple[str, dict[str, Any]]:
    """`name` or `name(key=literal, ...)` -> (name, keyword arguments). Literals only, nothing is evaluated. Raises InputError."""
    name, bracket, rest = text.partition("(")
    if not bracket:
        return text, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or not text.endswith(")"):
            raise ValueError("arguments are key=value")
        keys = [each.arg or "" for each in call.keywords]
        if not all(keys) or len(set(keys)) != len(keys):
            raise ValueError("every argument has a name of its own")
        return name, {key: ast.literal_eval(each.value) for key, each in zip(keys, call.keywords, strict=True)}
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"'{text}' is not of the form name(key=value, ...): {error}") from None


def create(catalogue: str, text: str, *given: Any) -> Any:
    """Call the factory that `text` names with what is given and the arguments it writes. Raises InputError on arguments
    it does not take, and where it fails."""
    name, arguments = split_call(text)
    factory = load(catalogue, name)
    try:
        return factory(*given, **arguments)
    except HwnasError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{text}: {error}") from None
    except Exception as error:  # the factory may be a plug-in's or a file's
        raise InputError(f"{text} does not run: {type(error).__name__}: {error}") from error
