"""A real `sshd` of our own on loopback: a free port, host key, account key and configurations in one temporary folder."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwnas.device import Device

PROGRAM = next((path for path in (shutil.which("sshd"), "/usr/sbin/sshd", "/usr/local/sbin/sshd") if path and Path(path).is_file()), None)


def require() -> None:
    """Skip where there is no OpenSSH, or no /proc to find its processes in."""
    if PROGRAM is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH's sshd and ssh (package openssh-server)")
    if not Path("/proc/self/stat").exists():
        pytest.skip("finds the server's processes in /proc, which this system has not")


class Sshd:
    """Whoever logs in runs `login`, a shell script, and then the command that was sent."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("host_key", "user_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True, timeout=60)
        self.script("login.sh", "")
        key = (folder / "user_key.pub").read_text()
        (folder / "authorized_keys").write_text(f'command="{folder}/login.sh" {key}')
        self.python = self.script("python", f"exec '{sys.executable}' \"$@\"")
        self.login("")
        self._start()
        self.config = self.client_config("config")

    def _start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its service script makes it; without it sshd does not start as root
        for _ in range(5):  # another program may take the port before sshd does
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            lines = [
                *("ListenAddress 127.0.0.1", f"Port {self.port}", f"HostKey {self.folder}/host_key", f"AuthorizedKeysFile {self.folder}/authorized_keys"),
                *(f"PidFile {self.folder}/sshd.pid", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no"),
                *("PermitRootLogin prohibit-password", "MaxStartups 100"),
            ]
            (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
            log = self.folder / "sshd.log"
            self._process = subprocess.Popen(
                [str(PROGRAM), "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log.open("wb"), stdin=subprocess.DEVNULL
            )
            for _ in range(600):
                if "Server listening" in log.read_text(errors="replace"):
                    return
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
            self.stop()
        pytest.skip(f"sshd does not start here: {log.read_text(errors='replace')[-300:]}")

    def script(self, name: str, body: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def login(self, before: str, shell: str = "/bin/sh") -> None:
        """What happens at the next logins: these lines, then the command in that shell."""
        self.script("login.sh", f'export HWNAS_LEASE=\n{before}\nexec {shell} -c "$SSH_ORIGINAL_COMMAND"')

    def client_config(self, name: str, *, key: str = "user_key", known: str | None = None) -> Path:
        """A configuration for `ssh -F`. known: content of the file of known hosts, by default what is true."""
        hosts, path = self.folder / f"{name}.known_hosts", self.folder / name
        hosts.write_text(f"[127.0.0.1]:{self.port} {(self.folder / 'host_key.pub').read_text()}" if known is None else known)
        path.write_text(
            f"Host *\n  IdentityFile {self.folder}/{key}\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {hosts}\n"
            f"  GlobalKnownHostsFile {os.devnull}\nHost board\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
        )
        return path

    def device(self, *, address: str | None = None, python: Path | str | None = None) -> Device:
        where = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}" if address is None else address
        return Device("pi4", "a board", "cpu", "ssh", ("onnxruntime",), 1, where, str(python or self.python))

    def connections(self) -> list[int]:
        """Process ids of the server's own children: one for each connection."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self._process.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def drop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Break all connections."""
        for pid in self.connections():
            os.kill(pid, how)

    def stop(self) -> None:
        self.drop()
        self._process.terminate()
        self._process.wait(10)
