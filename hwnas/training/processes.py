"""Training in several processes, as `torchrun` starts them: who this one is, and sums and copies over all of them.

Everything is a no-op in a single process. The order of a sum over processes is fixed, so that all of them keep the same weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hwnas.errors import HwnasError, InputError

PATIENCE = timedelta(days=1)  # the first process alone decodes a folder's images and validates, and the others wait for it


def started() -> int:
    """Number of processes that torchrun started this one among; 1 without it. Raises InputError."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"the environment variable WORLD_SIZE is '{text}', it must be a number of processes: start with torchrun")
    return int(text)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Within it this process is one of those that torchrun started: gloo between CPUs, NCCL between GPUs. Raises InputError."""
    if started() == 1 or dist.is_initialized():
        yield
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the processes cannot meet: {' '.join(str(error).split())[:200]}; start them with torchrun") from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_gradients(tensors: Sequence[Tensor]) -> None:
    """Each tensor's gradient, where it has one, becomes the sum over processes; all must have trained the same subnets."""
    if world() == 1:
        return
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    flat = torch.cat([each.reshape(-1) for each in gradients])
    with _together():
        dist.all_reduce(flat)
    for each, part in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        each.copy_(part.view_as(each))


def summed(value: float, device: torch.device) -> float:
    """The sum over processes, the same in each."""
    if world() == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64, device=device)
    with _together():
        dist.all_reduce(total)
    return float(total)


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        with _together():
            dist.barrier()


def from_first(data: bytes, device: torch.device) -> bytes:
    """What the first process gives, in all of them."""
    if world() == 1:
        return data
    length = torch.tensor([len(data)], dtype=torch.int64, device=device)
    with _together():
        dist.broadcast(length, 0)
        raw = torch.empty(int(length), dtype=torch.uint8, device=device)
        if len(raw) and rank() == 0:
            raw.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        if len(raw):
            dist.broadcast(raw, 0)
    return bytes(raw.cpu().numpy().tobytes())


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of the connection, where another process has ended
        reason = " ".join(str(error).split())[:100]
        raise HwnasError(f"another process of this training has ended, or cannot be reached; its message says why ({reason})") from None
