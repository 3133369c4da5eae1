"""Latency tables as other projects write them: the YAML dialects of Once-for-All and ProxylessNAS.

An entry is `TYPE-input:HxWxC-output:HxWxC`, for inverted residuals with `-expand:M-kernel:K-stride:S-idskip:0|1` and more behind it, and
holds count, mean (ms) and the spread. The two differ where it hurts: `expand` is the number of middle channels in one and the expansion
ratio in the other, and so is the spread a standard deviation (ms) or a variance (ms^2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.blocks import conv_bn_act, inverted_residual
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.flat_yaml import flat_yaml, read_flat_yaml
from hwnas.graph import Block, Node, block_text, parse_block
from hwnas.latency_table import Entry, Failure, Imported, Predicted
from hwnas.ops import Conv2d, Flatten, GlobalPool, Linear


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one project names blocks. The activation of the layers whose entry does not tell is that of the project's networks."""

    name: str
    types: tuple[str, ...]
    attributes: tuple[str, ...]
    expand: Literal["channels", "ratio"]
    spread: Literal["std", "var"]
    act: str


#: `ofa`: official code `MBv3LatencyTable`, the Note 10's tables. `proxylessnas`: `LatencyEstimator`, the table "mobile_trim".
DIALECTS: Mapping[str, Dialect] = {
    "ofa": Dialect(
        "ofa",
        ("Conv", "expanded_conv", "Conv_1", "AvgPool2D", "Conv_2", "Logits"),
        ("expand", "kernel", "stride", "idskip", "se", "hs"),
        expand="channels",
        spread="std",
        act="hswish",
    ),
    "proxylessnas": Dialect(
        "proxylessnas",
        ("Conv", "expanded_conv", "Conv_1", "Logits"),
        ("expand", "kernel", "stride", "idskip"),
        expand="ratio",
        spread="var",
        act="relu6",
    ),
}

_SIZE = "[1-9][0-9]{0,5}"
_KEY = re.compile(rf"([A-Za-z0-9_]+)-input:({_SIZE})x({_SIZE})x({_SIZE})-output:((?:{_SIZE}x{_SIZE}x)?{_SIZE})((?:-[a-z]+:[0-9]{{1,6}})*)")


def dialect_named(name: str) -> Dialect:
    """Raises UnknownName."""
    if name not in DIALECTS:
        raise UnknownName("dialect of latency tables", name, DIALECTS)
    return DIALECTS[name]


def block_of(key: str, dialect: Dialect) -> Block:
    """The block, float32 and of batch 1, that an entry of that key is of. Raises InputError with the reason why there is none."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise InputError("the key is not of the form TYPE-input:HxWxC-output:HxWxC-name:number")
    kind, height, width, channels, output = found[1], int(found[2]), int(found[3]), int(found[4]), found[5]
    if kind not in dialect.types:
        raise InputError(f"'{kind[:40]}' is no type of layer in the dialect {dialect.name}, which has {', '.join(dialect.types)}")
    pairs = [part.split(":") for part in found[6].split("-")[1:]]
    attributes = {name: int(value) for name, value in pairs}
    wanted = dialect.attributes if kind == "expanded_conv" else ()
    if tuple(name for name, _ in pairs) != wanted:
        says, must = (", ".join(names) or "nothing" for names in (attributes, wanted))
        raise InputError(f"{kind} says {says} after the output, in the dialect {dialect.name} it says {must}")
    shape, out = (1, channels, height, width), int(output.rpartition("x")[2])
    try:
        block = _inverted_residual(shape, out, attributes, dialect) if kind == "expanded_conv" else _LAYERS[kind](shape, out, dialect.act)
    except ValueError as error:
        raise InputError(str(error)) from None
    if (spelled := _spelled(kind, block, attributes)) != key:
        raise InputError(f"such a layer is written '{spelled}': shapes or spelling do not fit")
    return block


def key_of(block: Block, dialect: Dialect) -> str:
    """The key under which a block is found. Raises InputError where the dialect has none for it."""
    ops = {node.name: node.op for node in block}
    attributes: dict[str, int] = {}
    depthwise, project, conv = ops.get("depthwise"), ops.get("project"), ops.get("conv")
    if isinstance(depthwise, Conv2d) and isinstance(project, Conv2d):
        kind, channels, middle = "expanded_conv", block[0].op.input[1], depthwise.out
        expand = middle if dialect.expand == "channels" else middle // channels
        values = (expand, depthwise.kernel, depthwise.stride, int("add" in ops), int("se.pool" in ops), int(depthwise.act == "hswish"))
        attributes = dict(zip(dialect.attributes, values, strict=False))  # the shorter dialect lacks the last ones
    elif isinstance(conv, Conv2d):
        kind = "Conv" if conv.kernel > 1 else "Conv_1" if conv.bias else "Conv_2"
    else:
        kind = "Logits" if "classifier" in ops else "AvgPool2D"
    try:
        key = _spelled(kind, block, attributes)
        if block_text(block_of(key, dialect)) == block_text(block):
            return key
    except (InputError, IndexError):
        pass
    raise InputError(f"the dialect {dialect.name} has no key for such a block")


def read_dialect(path: Path, dialect: Dialect) -> tuple[dict[str, Imported], dict[str, str]]:
    """(rows by block text, reasons by key of the entries that are no block of ours). Raises DamagedFile where one is not as it should be.

    The spread may be `std` or `var`, whichever the dialect.
    """
    rows: dict[str, Imported] = {}
    left_out: dict[str, str] = {}
    for key, numbers in read_flat_yaml(path).items():
        row = _row(numbers, f"{path}: {key[:160]}")
        try:
            rows[block_text(block_of(key, dialect))] = row
        except InputError as error:
            left_out[key] = str(error)
    blocks = {key: reason for key, reason in left_out.items() if key.startswith("expanded_conv-")}
    fitting = len(rows) if not blocks else sum(any(node.name == "depthwise" for node in parse_block(text)) for text in rows)
    if not fitting:  # the other layers are spelled alike in both dialects, and are not alike
        key, reason = next(iter((blocks or left_out).items()))
        raise DamagedFile(f"{path} is not of the dialect {dialect.name}: '{key[:120]}' is none of its entries, {reason}; known are {', '.join(DIALECTS)}")
    return rows, left_out


def write_dialect(entries: Mapping[str, Entry], dialect: Dialect) -> tuple[str, dict[str, str]]:
    """(text of the file, reasons by block text of the rows that cannot be in it). Raises InputError where none can."""
    written: dict[str, dict[str, int | float]] = {}
    left_out: dict[str, str] = {}
    for text, entry in entries.items():
        if isinstance(entry, Failure):
            left_out[text] = f"it failed: {entry.error}"
        elif isinstance(entry, Predicted):
            left_out[text] = "it is predicted: no run is behind it, and those files hold counts of runs"
        elif entry.mean_ms is None or entry.std_ms is None:
            left_out[text] = "its row has no mean: it was measured before tables had one"
        else:
            try:
                key = key_of(parse_block(text), dialect)
            except InputError as error:
                left_out[text] = str(error)
                continue
            spread = entry.std_ms if dialect.spread == "std" else float(f"{entry.std_ms**2:.15g}")  # squaring a root costs the last digit
            written[key] = {"count": entry.runs, "mean": entry.mean_ms, dialect.spread: spread}
    if not written:
        text, reason = next(iter(left_out.items()), ("nothing", "the table is empty"))
        raise InputError(f"no row of this table can be written in the dialect {dialect.name}; the first is {text}: {reason}")
    return flat_yaml(written), left_out


# -- layers ---------------------------------------------------------------------------------------------------------------------------


def _inverted_residual(shape: tuple[int, ...], out: int, given: Mapping[str, int], dialect: Dialect) -> Block:
    channels, expand = shape[1], given["expand"]
    middle = expand if dialect.expand == "channels" else expand * channels
    if middle < channels:
        raise InputError(f"{middle} middle channels are fewer than the {channels} of the input; in the dialect {dialect.name} expand is {dialect.expand}")
    if given["idskip"] > 1 or given.get("se", 0) > 1 or given.get("hs", 0) > 1:
        raise InputError("idskip, se and hs are 0 or 1")
    act = ("hswish" if given["hs"] else "relu") if "hs" in given else dialect.act
    if given["idskip"] and (given["stride"] != 1 or channels != out):
        raise InputError("a shortcut needs stride 1 and as many output channels as input channels")
    return inverted_residual(
        shape,
        out,
        given["kernel"],
        None if middle == channels else middle,  # as the first block of both networks is
        stride=given["stride"],
        act=act,
        se=bool(given.get("se", 0)),
        shortcut=bool(given["idskip"]),
    )


def _stem(shape: tuple[int, ...], out: int, act: str) -> Block:
    return conv_bn_act(shape, out, 3, 2, act)


def _pointwise(shape: tuple[int, ...], out: int, act: str) -> Block:
    return conv_bn_act(shape, out, 1, 1, act)


def _mix(shape: tuple[int, ...], out: int, act: str) -> Block:
    return (Node("conv", Conv2d(shape, out=out, bias=False, act=act), ("in0",)),)


def _pool(shape: tuple[int, ...], out: int, act: str) -> Block:
    return (Node("pool", GlobalPool(shape), ("in0",)),)


def _classifier(shape: tuple[int, ...], out: int, act: str) -> Block:
    """All that is left behind the last convolution: the mean over the image, where there still is one, and the classifier."""
    pool = _pool(shape, out, act) if shape[2:] != (1, 1) else ()
    flatten = Flatten((*shape[:2], 1, 1))
    return (
        *pool,
        Node("flatten", flatten, ("pool" if pool else "in0",)),
        Node("classifier", Linear(flatten.output, out=out), ("flatten",)),
    )


_LAYERS = {"Conv": _stem, "Conv_1": _pointwise, "AvgPool2D": _pool, "Conv_2": _mix, "Logits": _classifier}


def _spelled(kind: str, block: Block, attributes: Mapping[str, int]) -> str:
    def image(shape: Sequence[int]) -> str:
        return f"{shape[2]}x{shape[3]}x{shape[1]}" if len(shape) == 4 else str(shape[1])

    parts = [kind, f"input:{image(block[0].op.input)}", f"output:{image(block[-1].op.output)}"]
    return "-".join([*parts, *(f"{name}:{value}" for name, value in attributes.items())])


def _row(numbers: Mapping[str, int | float], where: str) -> Imported:
    spreads = [name for name in ("std", "var") if name in numbers]
    if len(spreads) != 1 or set(numbers) != {"count", "mean", *spreads}:
        raise DamagedFile(f"{where}: an entry has count, mean, and one of std and var, got {', '.join(numbers)}")
    count, mean, spread = numbers["count"], numbers["mean"], numbers[spreads[0]]
    if not isinstance(count, int) or not 1 <= count <= 10**12:
        raise DamagedFile(f"{where}: count must be a whole number from 1 to 1e12, got {count}")
    if not 1e-9 <= mean <= 1e12 or not 0 <= spread <= 1e12:
        raise DamagedFile(f"{where}: mean must be from 1e-9 to 1e12 ms and {spreads[0]} from 0 to 1e12, got {mean} and {spread}")
    return Imported(float(mean), math.sqrt(spread) if spreads == ["var"] else float(spread), count)
