"""Tensors in files from elsewhere: safetensors, and both formats of PyTorch. Files are hostile: tensors are read, code never (`weights_only`)."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import DamagedFile

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 16 << 30  # of a file, and of what an archive unpacks to


def read_tensors(path: Path, *, where: str = "", what: str = "weights", most_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Key -> tensor; a training's snapshot gives its `state_dict` or `model`. Values are not looked at.

    where: what the sentences call the file, by default its path; what: it should hold. Raises DamagedFile.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    where = where or str(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
        size = path.stat().st_size
    except OSError as error:
        raise DamagedFile(f"cannot read {where}: {error.strerror or error}") from None
    if size > most_bytes:
        raise DamagedFile(f"{where} has {size:,} bytes, over the limit of {most_bytes:,} for {what}")
    try:
        if start[8:9] == b"{" and start[:2] != b"PK":  # the header of safetensors is JSON behind eight bytes of length
            held: Any = load_file(path)
        else:
            if start[:2] == b"PK":
                with zipfile.ZipFile(path) as archive:
                    if sum(each.file_size for each in archive.infolist()) > most_bytes:
                        raise DamagedFile(f"{where} unpacks to more than {most_bytes:,} bytes, the limit for {what}")
            with warnings.catch_warnings():  # about pickles that PyTorch did not write
                warnings.simplefilter("ignore")
                held = torch.load(path, map_location="cpu", weights_only=True)
    except DamagedFile:
        raise
    except SafetensorError as error:
        raise DamagedFile(f"{where} is not a readable safetensors file: {error}") from None
    except Exception as error:  # the reader is PyTorch's, and what it makes of arbitrary bytes is not one kind of error
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise DamagedFile(f"{where} cannot be read as tensors alone: {reason[:200]}") from None
    for key in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not held or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in held.items()):
        raise DamagedFile(f"{where} holds no {what}: it must be a dictionary of tensors, or have one as 'state_dict'")
    return dict(held)
