"""The commands of the documents, which take minutes, in seconds: the one place that says what is shortened, and by how much.

python tests/shortened.py train RUN --space ofa_mini --data cluttered_digits      as `hwnas train ...`, shortened
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence

from hwnas import cli, registry
from hwnas.searcher import trains

#: By command: options that take the place of those written, or are added. All else is as the document says. The budget is wide, so
#: that whether a network is certified does not hang on how busy this machine is; the one on memory makes the job one under two budgets.
SHORTER: dict[str, dict[str, str | int | float | tuple[str, ...]]] = {
    "accuracy build": {"samples": 20},
    "bench": {"seconds": 1},
    "device check": {"seconds": 2},
    "profile": {"visits": 8, "networks": 16},  # 8 networks are needed; a busy machine loses some, and makes single visits worthless
    "train": {"length": 0.02},
    "search": {"latency": "<= 900ms p50", "memory": "<= 60%", "evaluations": 20, "options": ("population=4", "tournament=2")},
    "solve": {"latency": "<= 900ms p50"},
    "verify": {"top": 2, "seconds": 6},
}

#: The same for a search with a searcher that is named, after which nothing is measured. At one small resolution subnets are so alike that a
#: smaller share of the largest may leave none.
SHORTER_SEARCH: dict[str, str | int | float | tuple[str, ...]] = {"evaluations": 6, "latency": "<= 90% p50"}

#: Of a searcher that trains, besides.
SHORTER_TRAINING = {"options": ("rounds=3",)}

#: Of a search that measures its candidates, besides.
SHORTER_MEASURING = {"evaluations": 6, "latency-seconds": 0.2}

#: What takes the place of a space, wherever one is searched, trained or measured.
SMALLER = {"ofa_mini": "ofa_mini(resolutions=(24,))"}


def shortened(arguments: Sequence[str]) -> list[str]:
    """Arguments of `hwnas` -> arguments of `hwnas`."""
    command = next((each.split() for each in SHORTER if list(arguments[: len(each.split())]) == each.split()), [])
    changed = SHORTER_SEARCH if "--searcher" in arguments else SHORTER.get(" ".join(command), {})
    searcher = arguments[list(arguments).index("--searcher") + 1] if "--searcher" in arguments else ""
    if searcher in registry.names("searchers") and trains(registry.load("searchers", searcher)):
        changed = changed | SHORTER_TRAINING
    if "--latency-source" in arguments:
        changed = {**changed, **SHORTER_MEASURING}
    if "--help" in arguments:
        return list(arguments)
    kept, given = list(command), iter(arguments[len(command) :])
    for argument in given:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in changed:
            _ = equals or next(given)  # its value goes with it
        elif argument == "--space":
            kept += [argument, SMALLER.get(value := next(given), value)]
        else:
            kept.append(argument)
    for name, value in changed.items():
        texts = value if isinstance(value, tuple) else (str(value),)
        kept += [part for text in texts for part in ("--set" if name == "options" else f"--{name}", text)]
    return kept


class _Shortened(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        verb = ast.unparse(node.func).removeprefix("hwnas.")
        if ast.unparse(node.func) == f"hwnas.{verb}" and verb in SHORTER:
            node.keywords = [each for each in node.keywords if each.arg not in SHORTER[verb]]
            node.keywords += [ast.keyword(name, ast.Constant(value)) for name, value in SHORTER[verb].items()]
            for each in node.keywords:
                if each.arg == "space" and isinstance(each.value, ast.Constant):
                    each.value = ast.Constant(SMALLER.get(each.value.value, each.value.value))
        return node


def shortened_python(tree: ast.Module) -> ast.Module:
    """The same for calls `hwnas.search(...)` of a program."""
    return ast.fix_missing_locations(_Shortened().visit(tree))


if __name__ == "__main__":
    sys.argv[1:] = shortened(sys.argv[1:])
    cli.main()
