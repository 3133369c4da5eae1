"""A machine reached by the system's `ssh`: user's keys, aliases, jump hosts and known hosts are those of the shell.

The agent's source travels over the connection itself, so nothing is left on the device and no path is named to it. Then the contract
runs over the same pipes as that of a local agent. What shells and banners print before is skipped: Python says a random word first.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from hwnas.device import Device
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed
from hwnas.profiling.transport import Connection, Transport, agent_source, taskset
from hwnas.profiling.transports._process import ProcessConnection

OLDEST_PYTHON = (3, 8)
CONFIG = "HWNAS_SSH_CONFIG"  # names another file than ~/.ssh/config; no field of a device's file, which may come from anybody
_ALIVE_S = 15
_CONNECT_S = 20
_LOGIN_S = 90.0  # to connect, to log in and to start Python on a slow board
_MAX_NOISE_BYTES = 1 << 16
_USER, _HOST = r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})", r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]{0,252})|\[(?P<ip6>[0-9A-Fa-f:.]{2,45})\]"
_ADDRESS = re.compile(rf"(?P<scheme>ssh://)?(?:{_USER}@)?(?:{_HOST})(?P<port>:[0-9]{{1,5}})?/?")

_OPTIONS = (
    *("-T", "-a", "-x"),
    *("-o", "BatchMode=yes"),  # nobody is asked: a question would wait for ever
    *("-o", f"ConnectTimeout={_CONNECT_S}"),
    *("-o", f"ServerAliveInterval={_ALIVE_S}", "-o", "ServerAliveCountMax=3"),  # a link that fell silent is noticed
    *("-o", "LogLevel=INFO"),  # below it is not said that the link fell silent
    *("-o", "ControlMaster=no"),  # an existing master is used; ours would outlive us
    *("-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none"),
)

#: What ssh says when a connection that stood is gone.
_LOST = re.compile(r"closed by remote host|not responding|^client_loop: |Connection reset|Broken pipe|Read from remote host|Connection to .* closed")


@dataclass(frozen=True, slots=True)
class Target:
    """Who is reached: `host` may be an alias of the user's ssh configuration; port None leaves it to that."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, address: str) -> Target:
        """From `[user@]host` or `ssh://[user@]host[:port]`; an IPv6 address stands in brackets. Raises InputError."""
        match = _ADDRESS.fullmatch(address)
        port = int(match["port"][1:]) if match and match["port"] else None
        if not match or not (port is None or 1 <= port <= 65_535) or (not match["scheme"] and (port or address.endswith("/"))):
            raise InputError(f"'{address}' is no address for ssh; write user@host, ssh://user@host:port, or a name of your ssh configuration")
        return cls(match["host"] or match["ip6"], match["user"], port)

    @property
    def arguments(self) -> list[str]:
        return [*(["-p", str(self.port)] if self.port else []), *(["-l", self.user] if self.user else []), "--", self.host]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f" port {self.port}" if self.port else "")


class SshTransport:
    def check(self, device: Device) -> None:
        if not device.address:
            raise InputError(f"{device.name} has transport 'ssh' and no address; give it one, such as user@host")
        if device.agent:
            raise InputError(f"{device.name} has transport 'ssh', which sends the agent in Python; remove 'agent'")
        Target.parse(device.address)

    def start(self, device: Device, agent: Path) -> Connection:
        self.check(device)
        if shutil.which("ssh") is None:
            raise InputError("transport 'ssh' needs the program ssh, which is not installed here; install OpenSSH's client")
        config = os.environ.get(CONFIG, "")
        if config and not Path(config).is_file():
            raise InputError(f"{CONFIG} names '{config}', which is no file")
        connection = SshConnection(device, ["-F", str(Path(config).resolve())] if config else [])
        try:
            connection.send_agent(agent_source(agent))
        except BaseException:
            connection.close()
            raise
        return connection


class SshConnection(ProcessConnection):
    """`ssh`, with Python at its other end."""

    def __init__(self, device: Device, config: list[str]):
        self._target, self._python = Target.parse(device.address), device.python or "python3"
        self._by_hand = " ".join(["ssh", *config, *(each for each in self._target.arguments if each != "--")])
        self._where = f"{device.name} ({self._target})"
        self._word = f"hwnas-{secrets.token_hex(8)}"
        self._noise = b""
        # The device's shell receives the interpreter's name as it is, so that ~ is expanded; its characters were checked.
        line = " ".join([*taskset(device), f'{self._python} -c "{_loader(self._word)}"'])
        super().__init__(["ssh", *config, *_OPTIONS, *self._target.arguments, line], f"the agent on {self._where}")

    def send_agent(self, source: bytes) -> None:
        """Wait until Python runs, then hand it the agent's source. Raises MeasurementFailed with what to do about it."""
        expected = re.compile(re.escape(self._word).encode() + rb" (\d{1,3})\.(\d{1,3})\S{0,40}\s*$")
        match: re.Match[bytes] | None = None
        with self._deadline("login", _LOGIN_S):
            while match is None:
                line = self._read_line(_MAX_NOISE_BYTES)
                if not line:
                    break
                match = expected.search(line)
                self._noise += b"" if match else line
                if len(self._noise) > _MAX_NOISE_BYTES:
                    raise MeasurementFailed(f"{self._where} prints without end when one logs in; try: {self._by_hand} true")
        if match is None:
            raise self._not_started()
        version = (int(match[1]), int(match[2]))
        if version < OLDEST_PYTHON:
            raise MeasurementFailed(
                f"'{self._python}' of {self._where} is Python {version[0]}.{version[1]}, the agent needs {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer; "
                f'install one there and name it in the device\'s file, such as python = "~/venv/bin/python"'
            )
        try:
            self._write(b"%d\n" % len(source) + source)
        except OSError:
            raise self._ended("start") from None

    def _not_started(self) -> MeasurementFailed:
        """Why there was no word of Python."""
        code, words = self._last_words()
        noise = [line.strip() for line in self._noise.decode(errors="replace").splitlines() if line.strip()]
        said = (words or noise or ["no reason given"])[-1][:300]
        if code == 255:
            return MeasurementFailed(f"{self._where} cannot be reached: {said}; {self._advice(' '.join(words))}")
        if code in (126, 127):
            return MeasurementFailed(
                f"{self._where} cannot run '{self._python}': {said}; install Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer there, "
                f'or name the one it has in the device\'s file, such as python = "~/venv/bin/python"'
            )
        how = "does not end its login" if code is None else f"ended the login with exit code {code}"
        return MeasurementFailed(f"{self._where} {how} before '{self._python}' ran: {said}; try: {self._by_hand} {self._python} --version")

    def _advice(self, words: str) -> str:
        if "HAS CHANGED" in words:
            known = f"[{self._target.host}]:{self._target.port}" if self._target.port else self._target.host
            return f"its host key is not the one that was accepted before: find out why, and only then forget the old one (ssh-keygen -R '{known}')"
        if "Host key verification failed" in words:
            return f"its host key is not known here: compare and accept it once by hand with: {self._by_hand}"
        if "Permission denied" in words or "Too many authentication failures" in words:
            return f"install a key that needs no password there (ssh-copy-id), until this works: {self._by_hand} true"
        if "refused" in words:
            return "no SSH server listens there; check the address, and that the server is on"
        if "resolve" in words:
            return "check the name"
        return f"check that it is on and in this network, until this works: {self._by_hand} true"

    def _ended(self, what: str) -> MeasurementFailed:
        code, words = self._last_words()
        if code == 255 and any(_LOST.search(line) for line in words):
            return ConnectionLost(f"the connection to {self._where} was lost during '{what}': {words[-1][:300]}; the same command goes on where it was")
        if code == 255:  # ssh does not tell which signal
            return MeasurementFailed(f"{self.agent} was killed during '{what}'" + (f": {words[-1][:300]}" if words else ", by its system or out of memory"))
        return super()._ended(what)


def _loader(word: str) -> str:
    """Python, of any version, that says the word and runs what it is sent: a line with the length, then the source.

    It stands between double quotes in the command line of whatever shell the device has: no quotes of that kind, no $ ` \\ ! % in it.
    """
    return (
        f"import sys;sys.stdout.write('{word} '+sys.version.split()[0]+chr(10));sys.stdout.flush();"
        "sys.path[:]=[p for p in sys.path if p];"  # the folder one logs in to holds no modules
        "b=sys.stdin.buffer;exec(compile(b.read(int(b.readline())),'agent','exec'))"
    )


def ssh() -> Transport:
    """Another machine, over SSH."""
    return SshTransport()
