"""Bringing a file from an https URL, or from this machine, into a file, with its SHA-256; what leads elsewhere, or breaks off, is refused in one sentence."""

from __future__ import annotations

import hashlib
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from hwnas.errors import InputError
from hwnas.files import sha256

TIMEOUT_S = 60.0
DIGEST = re.compile(r"[0-9a-f]{64}")  # a SHA-256
_PIECE = 1 << 20

#: (bytes so far, of so many; 0 where the sender does not say)
Received = Callable[[int, int], None]


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise InputError(f"{req.full_url} leads to {newurl}, which is not https; fetch the file yourself and give its path")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_digest(digest: str | None) -> None:
    """A SHA-256 that a user gave. Raises InputError."""
    if digest is not None and not DIGEST.fullmatch(digest):
        raise InputError(f"--sha256 is '{digest}', it must be 64 hexadecimal digits in lower case")


def copied(source: Path, target: Path, *, most: int, advice: str) -> str:
    """Copy a file of this machine, `most` bytes at most; its SHA-256. advice: what to do where there is none. Raises InputError, OSError."""
    if not source.is_file():
        raise InputError(f"there is no file {source}; {advice}")
    if source.stat().st_size > most:
        raise InputError(f"{source} has {source.stat().st_size:,} bytes, over the limit of {most:,}")
    shutil.copyfile(source, target)
    return sha256(target)


def download(url: str, target: Path, received: Received, *, most: int) -> str:
    """Write what an https URL gives, `most` bytes at most, into a new file; its SHA-256. Raises InputError, and OSError where it cannot be written."""
    if urlsplit(url).scheme != "https":
        raise InputError(f"files are fetched over https only, not from {url}; fetch the file yourself and give its path")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.build_opener(_OnlyHttps).open(url, timeout=TIMEOUT_S) as answer, target.open("xb") as file:
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else 0
            while piece := answer.read(_PIECE):
                done += len(piece)
                if max(done, total) > most:
                    raise InputError(f"{url} gives more than {most:,} bytes")
                digest.update(piece)
                file.write(piece)
                received(done, total)
            if done < total:
                raise InputError(f"{url} broke off after {done:,} of {total:,} bytes; try again")
    except (urllib.error.URLError, HTTPException, TimeoutError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
        raise InputError(f"cannot fetch {url}: {reason}; fetch the file yourself and give its path") from None
    return digest.hexdigest()
