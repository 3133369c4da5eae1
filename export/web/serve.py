"""Serves an exported folder to a browser of this machine, whose page runs the network and says how that went.

    python serve.py                       print the address, and serve until Ctrl-C
    python serve.py --once photo.png      end with what the first page that was opened says, about that image as well
    python serve.py --once --browser chromium        open a browser for it, without a window

Standard library only, Python 3.8 or later. Exits 1 if the network does not compute what it should, 2 if a file is refused.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

MAX_MANIFEST_BYTES = 16 << 20
MAX_IMAGE_BYTES = 256 << 20
MAX_REPORT_BYTES = 1 << 20
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # isolation gives the page a clock of 5 microseconds
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; style-src 'unsafe-inline'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
HEADLESS = ("--headless", "--no-first-run", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", type=Path, help="an image for the page to classify")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent.parent, help="the exported folder (default: the one above)")
    parser.add_argument("--port", type=int, default=0, help="any free one by default")
    parser.add_argument("--once", action="store_true", help="end with the first page's report")
    parser.add_argument("--browser", help="a browser of Chromium's family to open without a window")
    parser.add_argument("--browser-option", action="append", default=[], help="an option for it, such as --browser-option=--no-sandbox in a container")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to wait for a page, with --once")
    arguments = parser.parse_args()
    try:
        return serve(arguments)
    except Refused as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class Refused(Exception):
    """One sentence; exit code 2."""


def serve(arguments):
    folder, image = arguments.folder.resolve(), arguments.image
    names = served(folder)
    if image is not None and (not image.is_file() or image.stat().st_size > MAX_IMAGE_BYTES):
        raise Refused(f"{image} is no file of at most {MAX_IMAGE_BYTES >> 20} MiB")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", arguments.port), handler(folder, names, image))
    except (OSError, OverflowError) as error:
        raise Refused(f"cannot serve on port {arguments.port}: {error}") from None
    server.daemon_threads = True
    server.report, server.reported = None, threading.Event()
    query = f"?image={quote(image.name)}" if image is not None else ""
    url = f"http://127.0.0.1:{server.server_port}/{Path(__file__).resolve().parent.name}/index.html{query}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    if arguments.browser is None:
        print(url, flush=True)
    try:
        with opened(arguments.browser, arguments.browser_option, url):
            if not arguments.once:
                threading.Event().wait()
            if not server.reported.wait(arguments.seconds):
                raise Refused(f"no page said how it went within {arguments.seconds:g} s; open {url} in a browser")
    finally:
        server.shutdown()
        server.server_close()
    lines, code = server.report
    for line in lines:
        print(line, file=sys.stderr if line.startswith("error: ") else sys.stdout)
    return code


def served(folder):
    """Names of the files that may be asked for: the manifest and what it names, as far as that is inside the folder."""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise Refused(f"{path} is too large for a manifest")
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        inside = {name for name in files if (folder / name).is_file() and folder in (folder / name).resolve().parents and ".." not in PurePosixPath(name).parts}
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        inside = set()  # the page says what is wrong with it
    own = Path(__file__).resolve().parent
    return inside | {"manifest.json"} | {f"{own.name}/{each.name}" for each in own.iterdir() if each.suffix in TYPES and each.is_file()}


def handler(folder, names, image):
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "hwnas", ""

        def do_GET(self):
            name = unquote(urlsplit(self.path).path).lstrip("/")
            if image is not None and name.endswith("/image"):
                self.answer(200, image.read_bytes(), "application/octet-stream")
            elif name in names:
                self.answer(200, (folder / name).read_bytes(), TYPES.get(Path(name).suffix, "application/octet-stream"))
            else:
                self.answer(404, b"there is no such file", "text/plain")

        def do_POST(self):
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or int(size) > MAX_REPORT_BYTES:
                return self.answer(413, b"too long", "text/plain")
            try:
                said = json.loads(self.rfile.read(int(size)))
                lines = [line for line in said["lines"] if isinstance(line, str) and line.isprintable()]
                code = said["code"] if said["code"] in (0, 1, 2) else 2
            except (ValueError, RecursionError, KeyError, TypeError):
                return self.answer(400, b"no report", "text/plain")
            if self.server.report is None:
                self.server.report = (lines, code)
                self.server.reported.set()
            return self.answer(200, b"", "text/plain")

        def answer(self, status, body, kind):
            self.send_response(status)
            for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


class opened:
    """A browser that has the page open, with a profile of its own that goes with it; without a name nothing is opened."""

    def __init__(self, browser, options, url):
        self.browser, self.options, self.url, self.process = browser, options, url, None

    def __enter__(self):
        if self.browser is None:
            return
        program = shutil.which(self.browser)
        if program is None:
            raise Refused(f"there is no browser '{self.browser}' here")
        self.profile = tempfile.mkdtemp(prefix="hwnas-browser-")
        command = [program, *HEADLESS, *self.options, f"--user-data-dir={self.profile}", self.url]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.profile, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
