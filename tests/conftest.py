"""What several files of tests use: a whole run, a trained one, an exported folder, the example plug-in, the agent in C++.

One thread for PyTorch: small networks gain nothing from more, and lose much on a machine that does something else as well.
"""

import http.server
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import native_agents
import pytest
import torch
from commands import SHORTENED, copied, environment, python
from exports import write_export

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: tests of Ctrl-C need it to be heard
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # and shells that are to hear that their link was lost
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Tests hold several agents at once, and so may test runs side by side; those of the lease name one of their own.
os.environ["HWNAS_LEASE"] = ""
os.environ["HWNAS_DEVICES"] = os.devnull  # whoever runs the tests may have devices of their own

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Demo:
    """What `make demo` left in `folder` (`table`, `run`, `export`, `report.html`) and printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The script of `make demo` as it stands, over commands shortened by `shortened.py`: real measurements, real training, real files."""
    pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")
    if shutil.which("sh") is None:
        pytest.skip("the demo is a shell script, and there is no shell")
    place = tmp_path_factory.mktemp("demo")
    program = place / "bin" / "hwnas"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{SHORTENED}' \"$@\"\n")
    program.chmod(0o755)
    found = {**environment(), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    for _ in range(3):
        command = ["sh", str(ROOT / "examples" / "end_to_end.sh")]
        done = subprocess.run(command, cwd=place, env=found, capture_output=True, text=True, timeout=600)
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode == 0:
            return Demo(place / "runs" / "demo", done.stdout)
        assert done.returncode == 1 and "is certified within 900 ms" in done.stderr, done.stderr  # only a disturbed window may fail
    pytest.skip(f"this machine is too busy to measure on: {done.stderr.splitlines()[-1]}")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trained supernet, in which nothing was searched yet; copy it before it is written."""
    pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")
    folder = tmp_path_factory.mktemp("trained")
    done = python(SHORTENED, "train", "run", "--space", "ofa_mini", "--data", "cluttered_digits", "--threads", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="session")
def built(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with accuracies of 20 subnets; copy it before it is written."""
    run = copied(trained, tmp_path_factory.mktemp("built") / "run")
    done = python(SHORTENED, "accuracy", "build", run, "--threads", 1, cwd=run.parent)
    assert done.returncode == 0 and "20 subnets measured" in done.stdout, done.stderr
    return run


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example of a plug-in was installed, for real."""
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools >= 77 in this environment; it is no dependency of hwnas")
    pytest.importorskip("pip", reason="installing needs pip")
    folder = tmp_path_factory.mktemp("plugin")
    source = copied(ROOT / "examples" / "plugin", folder / "source")  # building leaves files beside the source
    how = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile")
    done = python("-m", "pip", "install", *how, "--target", folder / "site", source, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="session")
def native_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the agent in C++, built for this machine."""
    return native_agents.native(tmp_path_factory.mktemp("native-agent"))


@pytest.fixture
def exported_folder(tmp_path: Path) -> Path:
    """The smallest network of ofa_mini with random weights, as `hwnas export` lays it out."""
    return write_export(tmp_path / "shipped")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real HTTPS server that serves a folder, with a certificate that only this test trusts; its address and the folder."""
    if shutil.which("openssl") is None:
        pytest.skip("a certificate needs the program openssl")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    done = subprocess.run([*made, "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def do_GET(self):
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{self.server.server_port}/net.safetensors")
                self.end_headers()
            elif self.path == "/short":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"only this")
            else:
                super().do_GET()

        def log_message(self, *arguments):
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    http_server.socket = context.wrap_socket(http_server.socket, server_side=True)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield f"https://localhost:{http_server.server_port}", tmp_path / "served"
    http_server.shutdown()
    http_server.server_close()
