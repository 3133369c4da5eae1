"""hwnas/profiling/page_server.py: what it serves, what it refuses, and clients written by hand that hold the page well and badly."""

import http.client
import json
import socket
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

from hwnas.data import shipped
from hwnas.errors import ConnectionLost, InputError, MeasurementFailed
from hwnas.profiling.page_server import MAX_ANSWER_BYTES, PageServer, outward_address
from hwnas.profiling.transports.browser import AttachedPage, is_served, note_path, parse_address, qr_code

AGENT = shipped("devices") / "agents" / "onnxruntime_web_agent.js"
HELLO = {"op": "hello", "contract": 2, "threads": 1, "seed": 0}
FILES = {"runtime.mjs": b"export {}", "runtime.wasm": b"\0asm"}


@pytest.fixture
def server():
    server = PageServer(AGENT, FILES)
    yield server
    server.close()


def ask(server, path, method="GET", body=None, headers=None):
    """(status, headers, content) of one request of a path below the token, or of a whole path."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path if path.startswith("/") else f"/{server.token}/{path}", body, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


@contextmanager
def holder(server):
    """A client that holds the page: (its key, its stream of requests)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", f"/{server.token}/requests")
    response = connection.getresponse()
    assert response.status == 200
    try:
        yield response.headers["X-Lease"], response
    finally:
        response.close()
        connection.close()


def answer(server, key, content):
    return ask(server, "answer", "POST", content, {"X-Lease": key})[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("", "text/html; charset=utf-8"), (AGENT.name, "text/javascript"), ("runtime.mjs", "text/javascript"), ("runtime.wasm", "application/wasm")],
)
def test_what_is_served_isolates_the_page_and_is_ours(server, name, kind):
    status, headers, content = ask(server, name)
    expected = {"": AGENT.with_suffix(".html").read_bytes(), AGENT.name: AGENT.read_bytes()} | FILES
    assert (status, content, headers["Content-Type"]) == (200, expected[name], kind)
    assert (headers["Cross-Origin-Opener-Policy"], headers["Cross-Origin-Embedder-Policy"]) == ("same-origin", "require-corp")
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/index.html", "/wrong-token/", f"/{AGENT.name}", "//", "/%2e%2e/etc/passwd", "/../../etc/passwd", "/\u00e9".encode().decode("latin-1")),
        *("../", "..", "%2e%2e/%2e%2e/etc/passwd", "./", "runtime.mjs/", "runtime.mjs?x", "/etc/passwd", "..\\..\\windows", "answer", "attach/x"),
        f"../agents/{AGENT.name}",
    ],
)
def test_nothing_else_is_there_and_no_path_is_opened(server, path):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        whole = path if path.startswith("/") else f"/{server.token}/{path}"
        link.sendall(f"GET {whole} HTTP/1.1\r\n\r\n".encode("latin-1"))
        reply = link.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 404 ") and reply.endswith(b"\r\n\r\n")


def test_tokens_are_new_in_each_run_and_too_long_to_guess(server):
    other = PageServer(AGENT, FILES)
    other.close()
    assert server.token != other.token and min(len(server.token), len(server.secret)) >= 20
    assert server.token in server.url and server.secret not in server.url


def test_the_secret_of_other_processes_is_not_the_token(server):
    assert ask(server, f"attach/{server.agent_sha256}")[0] == 404
    assert ask(server, f"/{server.secret}/")[0] == 404


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("answer", {"Content-Length": str(MAX_ANSWER_BYTES + 1)}, 413),
        ("answer", {"Content-Length": "9" * 30}, 411),
        ("answer", {"Content-Length": "-1"}, 411),
        ("answer", {"Content-Length": "many"}, 411),
        ("answer", {"Transfer-Encoding": "chunked"}, 411),
        ("closed", {"Content-Length": str(MAX_ANSWER_BYTES + 1)}, 413),
        ("", {"Content-Length": "3"}, 404),
        ("requests", {"Content-Length": "3"}, 404),
    ],
)
def test_a_post_of_no_known_size_or_too_large_is_refused_before_it_is_read(server, path, headers, status):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        link.sendall(f"POST /{server.token}/{path} HTTP/1.1\r\n{lines}\r\n".encode())
        assert int(link.makefile("rb").readline().split()[1]) == status


@pytest.mark.parametrize("request_", [b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000])
def test_a_peer_that_speaks_nonsense_costs_its_connection_alone(server, request_):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        link.sendall(request_)
        link.shutdown(socket.SHUT_WR)
        assert b"200 OK" not in link.makefile("rb").read()
    assert ask(server, "")[0] == 200


def test_a_second_client_is_told_that_the_lease_is_held_until_it_is_free(server):
    with holder(server):
        page = server.wait(10)
        status, _, content = ask(server, "requests")
        assert status == 409 and b"in use by the browser at 127.0.0.1 since" in content
    assert page is not None
    while server.page is page:  # the server sees the end of the connection in its own time
        threading.Event().wait(0.01)
    with holder(server):
        assert server.wait(10) is not page


def test_requests_and_models_are_streamed_and_answers_come_back(server):
    with holder(server) as (key, stream):
        page = server.wait(10)
        replies = []
        asking = threading.Thread(target=lambda: replies.append(page.ask({"op": "load", "bytes": 300_000}, bytes(300_000), seconds=20)))
        asking.start()
        assert json.loads(stream.readline()) == {"op": "load", "bytes": 300_000}
        assert stream.read(300_000) == bytes(300_000)
        assert answer(server, "somebody else's key", b'{"ok": false}') == 409
        assert answer(server, key, b'{"ok": true, "item": "e0"}') == 204
        asking.join(20)
        assert replies == [{"ok": True, "item": "e0"}]
        assert answer(server, key, b'{"ok": true}') == 409  # nothing was asked


@pytest.mark.parametrize("said", [b"hello there", b"[1, 2]", b'{"ok": 1}', b"[" * 100_000, b"\xff\xfe", b""])
def test_an_answer_outside_the_contract_is_refused(server, said):
    with holder(server) as (key, stream):
        page = server.wait(10)
        answering = threading.Thread(target=lambda: (stream.readline(), answer(server, key, said)))
        answering.start()
        with pytest.raises(MeasurementFailed, match="not of its contract"):
            page.ask(HELLO, seconds=20)
        answering.join(20)


def test_a_client_that_does_not_answer_is_let_go_at_the_deadline(server):
    with holder(server) as (_, stream):
        page = server.wait(10)
        with pytest.raises(MeasurementFailed, match="did not answer 'hello' within 1 s and was let go"):
            page.ask(HELLO, seconds=1)
        stream.readline()
        assert stream.read() == b""  # the stream has ended, so the browser ends its work


def test_a_client_that_reads_nothing_is_let_go_while_a_model_is_sent(server):
    with holder(server):
        page = server.wait(10)
        with pytest.raises(MeasurementFailed, match="did not answer 'load' within 1 s"):
            page.ask({"op": "load", "bytes": 1 << 26}, bytes(1 << 26), seconds=1)


@pytest.mark.parametrize(("says_so", "words"), [(True, "the page was closed during 'hello'"), (False, "at 127.0.0.1 ended during 'hello'")])
def test_a_page_that_is_closed_is_a_lost_connection(server, says_so, words):
    with holder(server) as (key, stream):
        page = server.wait(10)

        def leave():
            stream.readline()
            if says_so:
                assert ask(server, "closed", "POST", key)[0] == 204
            stream.close()

        leaving = threading.Thread(target=leave)
        leaving.start()
        with pytest.raises(ConnectionLost, match=words):
            page.ask(HELLO, seconds=20)
        leaving.join(20)


def test_a_port_that_is_taken_is_refused_in_a_sentence(server):
    with pytest.raises(InputError, match=rf"no page can be served at 127\.0\.0\.1:{server.port}: .*; choose another"):
        PageServer(AGENT, FILES, port=server.port)


def test_without_a_browser_waiting_ends(server):
    assert server.wait(0.05) is None


@pytest.mark.parametrize(("text", "address"), [("", ("127.0.0.1", 0)), ("0.0.0.0:8421", ("0.0.0.0", 8421)), ("my-laptop.local", ("my-laptop.local", 0))])
def test_an_address_is_a_host_and_a_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["http://localhost/", "host:port", "host:70000", ":80", "user@host", "a b"])
def test_another_address_is_refused(text):
    with pytest.raises(InputError, match=r"such as 0\.0\.0\.0:8421"):
        parse_address(text)


def test_the_address_for_the_network_is_an_address():
    assert socket.inet_aton(outward_address())


def test_the_qr_code_is_that_of_the_url():
    segno = pytest.importorskip("segno", reason="the QR code is drawn by segno, extra 'browser'")
    url = "http://192.168.0.7:8421/abcdefghijklmnopqrstuv/"
    lines = [line.removeprefix("\033[37;40m").removesuffix("\033[0m") for line in qr_code(url).splitlines()]
    light = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
    rows = [[light[c][half] for c in line] for line in lines for half in (0, 1)]
    expected = [[1 - bool(module) for module in row] for row in segno.make(url, micro=False, error="l").matrix_iter(border=2)]
    assert rows[: len(expected)] == expected


def test_where_the_package_is_missing_the_url_still_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "segno", None)
    assert "pip install 'hwnas[browser]'" in qr_code("http://127.0.0.1/")


def test_many_connections_leave_the_server_alive(server):
    links = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(100)]
    for link in links:
        link.close()
    for _ in range(100):  # until their threads have seen the ends
        with suppress(OSError, http.client.HTTPException):
            if ask(server, "")[0] == 200:
                return
        threading.Event().wait(0.1)
    pytest.fail("it answers nobody any more")


@pytest.mark.parametrize("note", ["", "[]", '{"host": "127.0.0.1"}', '{"host": 1, "port": 2, "secret": 3}', '{"host": "a\\u0000b", "port": 9, "secret": "s"}'])
def test_a_damaged_note_of_a_served_page_counts_as_none(note, monkeypatch, tmp_path):
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    note_path().write_text(note)
    assert not is_served() and AttachedPage.find(AGENT, print, 1) is None
