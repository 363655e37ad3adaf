"""Raw bytes against a `simroute serve` process: whatever they are, the next client is served."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import PATH, config_directory, environment, run_cli, server
from tests.wire import get, parse_answer, raw


@dataclass(frozen=True)
class Running:
    port: int
    key: str
    log: Path

    def target(self, action: str = "getBalance", rest: str = "") -> str:
        return f"{PATH}?api_key={self.key}&action={action}{rest}"

    def is_well(self) -> bool:
        return parse_answer(get(self.port, self.target())).body.startswith(b"ACCESS_BALANCE:")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all; every test has to leave it well."""
    directory = tmp_path_factory.mktemp("sockets")
    values = environment(f"sqlite:///{directory}/simroute.db")
    config = config_directory(directory)
    run_cli(values, config, "account", "create", "alice", "--balance", "5.00")
    key = run_cli(values, config, "key", "issue", "alice").stdout.strip()
    with server(config, values, directory / "log") as process:
        yield Running(int(process.base.rpartition(":")[2]), key, process.log)
        assert process.stop() == 0
    assert "Traceback" not in (directory / "log").read_text()


@pytest.fixture(autouse=True)
def _survives(running: Running) -> Iterator[None]:
    yield
    assert running.is_well()


def bodies(found: bytes) -> list[bytes]:
    """The bodies of whole answers that follow each other on one connection."""
    result = []
    while head := re.match(
        rb".*?^content-length: (\d+)(?=\r\n).*?\r\n\r\n", found, re.DOTALL | re.MULTILINE | re.IGNORECASE
    ):
        end = head.end() + int(head[1])
        if len(found) < end:
            break
        result.append(found[head.end() : end])
        found = found[end:]
    return result


def test_http_1_0_is_answered_and_closed(running: Running) -> None:
    found = raw(running.port, f"GET {running.target()} HTTP/1.0\r\n\r\n".encode())
    assert parse_answer(found).body == b"ACCESS_BALANCE:5.00"
    assert b"chunked" not in found.lower()


def test_http_1_0_may_keep_the_connection(running: Running) -> None:
    request = f"GET {running.target()} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode()
    assert b"ACCESS_BALANCE:5.00" in raw(running.port, request + request.replace(b"keep-alive", b"close"))


def test_a_connection_serves_one_request_after_another(running: Running) -> None:
    request = f"GET {running.target()} HTTP/1.1\r\nHost: g\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", running.port), 5) as connection:
        for _ in range(5):
            connection.sendall(request)
            found = b""
            while not bodies(found):
                found += connection.recv(4096)
            assert bodies(found) == [b"ACCESS_BALANCE:5.00"]


def test_pipelined_requests_are_answered_in_their_order(running: Running) -> None:
    calls = [("getBalance", ""), ("nonsense", ""), ("getStatus", "&id=7"), ("getNumber", "")]
    targets = [running.target(action, rest) for action, rest in calls]
    requests = "".join(f"GET {target} HTTP/1.1\r\nHost: g\r\n\r\n" for target in targets)
    last = f"GET {running.target()} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    found = bodies(raw(running.port, (requests + last).encode()))
    assert found == [b"ACCESS_BALANCE:5.00", b"BAD_ACTION", b"NO_ACTIVATION", b"BAD_SERVICE", b"ACCESS_BALANCE:5.00"]


def test_a_body_in_chunks_is_a_form_all_the_same(running: Running) -> None:
    body = f"api_key={running.key}&action=getBalance".encode()
    head = b"Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, body[place : place + 1]) for place in range(len(body)))
    found = raw(running.port, b"POST %b HTTP/1.1\r\nHost: g\r\n%b%b0\r\n\r\n" % (PATH.encode(), head, chunks))
    assert parse_answer(found).body == b"ACCESS_BALANCE:5.00"


def test_expect_continue_is_obliged(running: Running) -> None:
    """What curl sends before a larger form."""
    body = f"api_key={running.key}&action=getBalance".encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", running.port), 5) as connection:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        found = b""
        while chunk := connection.recv(4096):
            found += chunk
    assert parse_answer(found).body == b"ACCESS_BALANCE:5.00"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"get " + PATH.encode() + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello on the plain port
        b"\x00" * 4096,
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: g\r\nContent-Length: -1\r\n\r\n",
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: g\r\nNo colon here\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_rubbish_gets_an_error_or_nothing(running: Running, rubbish: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.port), 5) as connection:
        connection.sendall(rubbish)
        connection.shutdown(socket.SHUT_WR)
        found = connection.recv(65536)
    assert not found or found.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), found
    assert b"Traceback" not in found


def test_a_form_cut_off_in_the_middle_does_nothing(running: Running) -> None:
    body = f"api_key={running.key}&action=getNumber&service=tg".encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: g\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body) + 50}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), 5) as connection:
        connection.sendall(head.encode() + body)
    time.sleep(0.3)
    assert parse_answer(get(running.port, running.target())).body == b"ACCESS_BALANCE:5.00"


@pytest.mark.parametrize("length", [8_000, 60_000, 1_000_000])
def test_an_oversized_url_is_answered_or_refused(running: Running, length: int) -> None:
    try:
        found = get(running.port, running.target("getBalance", "&x=" + "x" * length))
    except (ConnectionResetError, BrokenPipeError):
        return
    assert not found or parse_answer(found).body == b"ACCESS_BALANCE:5.00" or found.startswith(b"HTTP/1.1 4")


def test_an_oversized_header_is_answered_or_refused(running: Running) -> None:
    try:
        found = get(running.port, running.target(), "X-Long: " + "x" * 1_000_000)
    except (ConnectionResetError, BrokenPipeError):
        return
    assert not found or parse_answer(found).body == b"ACCESS_BALANCE:5.00" or found.startswith(b"HTTP/1.1 4")


async def test_slow_headers_hold_nobody_up(running: Running) -> None:
    """A hundred clients that send a byte now and then; the one beside them is answered at once."""
    connections = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(100)]
    for _, writer in connections:
        writer.write(b"GET /stubs/handler_api.php?a")
    for _ in range(5):
        for _, writer in connections:
            writer.write(b"a")
        started = time.monotonic()
        assert await asyncio.to_thread(running.is_well)
        assert time.monotonic() - started < 1
        await asyncio.sleep(0.05)
    for _, writer in connections:
        writer.close()
        await writer.wait_closed()


def test_other_paths_are_not_found_and_not_redirected(running: Running) -> None:
    for path in ("/stubs", "/stubs/", "/stubs/handler_api.php/x", "//stubs/handler_api.php", "/stubs/HANDLER_API.php"):
        found = parse_answer(get(running.port, path))
        assert found.status == 404, path
        assert "location" not in found.headers
