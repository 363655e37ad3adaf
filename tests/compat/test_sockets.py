"""Raw bytes against a `simroute serve` process: whatever they are, the next client is served."""

from __future__ import annotations

import asyncio
import gzip
import json
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


# Parsers that believe what they read


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("prefix", ["", "/hero", "/daisy", "/bower", "/ds"])
def test_head_and_options_have_no_body_and_buy_nothing(
    running: Running, prefix: str, version: str, method: str
) -> None:
    target = prefix + running.target("getNumber", "&service=tg&country=187")
    found = raw(running.port, f"{method} {target} HTTP/{version}\r\nHost: g\r\nConnection: close\r\n\r\n".encode())
    answer = parse_answer(found)
    assert (answer.status, answer.headers["allow"], answer.headers["content-length"]) == (200, "GET, POST", "0")
    assert found.endswith(b"\r\n\r\n")
    assert parse_answer(get(running.port, running.target())).body == b"ACCESS_BALANCE:5.00"


def test_a_head_leaves_the_connection_to_the_next_request(running: Running) -> None:
    head = f"HEAD {running.target()} HTTP/1.1\r\nHost: g\r\n\r\n"
    last = f"GET {running.target()} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    assert bodies(raw(running.port, (head + last).encode())) == [b"", b"ACCESS_BALANCE:5.00"]


@pytest.mark.parametrize("coding", ["", "Accept-Encoding: gzip"])
@pytest.mark.parametrize(
    ("action", "rest"),
    [
        ("getBalance", ""),
        ("nonsense", ""),
        ("getCountries", ""),  # three alphabets
        ("getServicesList", ""),
        ("getPrices", "&country=6"),
        ("getNumbersStatus", "&country=6"),
        ("getActiveActivations", ""),
    ],
)
def test_the_length_is_that_of_the_body_and_nothing_follows(
    running: Running, action: str, rest: str, coding: str
) -> None:
    answer = parse_answer(get(running.port, running.target(action, rest), *filter(None, [coding])))
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert "transfer-encoding" not in answer.headers
    assert ("content-encoding" in answer.headers) == bool(coding)
    text = gzip.decompress(answer.body) if coding else answer.body
    assert text
    assert text == text.strip()
    assert not text.startswith(b"\xef\xbb\xbf")


def listed(running: Running, query: str) -> object:
    answer = parse_answer(get(running.port, f"{PATH}?api_key={running.key}&{query}"))
    return json.loads(answer.body) if answer.headers["content-type"] == "application/json" else answer.body.decode()


TELEGRAM = {"6": {"tg": {"cost": 0.08, "count": 1000, "physicalCount": 1000}}}


@pytest.mark.parametrize(
    "query",
    [
        "action=getPrices&service=tg&country=6",
        "action=%67etPrices&servi%63e=%74%67&countr%79=%36",
        "action=getPrices&service=wa&service=tg&country=7&country=6",  # the last of a name
        "action=getBalance&action=getPrices&service=tg&country=6",
        "&&action=getPrices&=&=x&service=tg&country=6&&",
        "action=getPrices&service[]=tg&country[]=6",  # an array of one
        "action=getPrices&service%5B%5D=tg&country%5b0%5d=6",
        "action=getPrices&service[]=wa&service=tg&country=7&country[]=6",  # each takes the other's place
        "action=getPrices&service=tg&country=6&operator[=x&]=y&[]=z",
    ],
)
def test_names_and_values_are_decoded_as_php_does(running: Running, query: str) -> None:
    assert listed(running, query) == TELEGRAM


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("action=getBalance;x=1", "BAD_ACTION"),  # a semicolon parts nothing
        ("action=get+Balance", "BAD_ACTION"),
        ("action=getBalance%20", "BAD_ACTION"),
        ("action=getBalance%0A", "BAD_ACTION"),
        ("action=getNumber&service=t%2Bg&country=6", "BAD_SERVICE"),
        ("action=getNumber&service=%zz&country=6", "BAD_SERVICE"),  # no escape, so it stays as it is
        ("action=getNumber&service[]=tg&service[]=wa&country=6", "BAD_SERVICE"),  # a list is one value with commas
        ("action=getNumber&service=tg&country=6&phoneException[]=7918&phoneException[]=x", "WRONG_EXCEPTION_PHONE"),
        ("action=getNumber&service=tg&country=6&phoneException[]=62&phoneException[]=", "WRONG_EXCEPTION_PHONE"),
    ],
)
def test_what_is_decoded_is_not_guessed_at(running: Running, query: str, answer: str) -> None:
    assert listed(running, query) == answer


def multipart(running: Running, body: str, content_type: str = 'multipart/form-data; boundary="-x-"') -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
    request = f"{head}Content-Length: {len(body.encode())}\r\n\r\n{body}"
    return parse_answer(raw(running.port, request.encode())).body


def part(name: str, value: str, more: str = "") -> str:
    return f'---x-\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


def test_a_multipart_form_is_a_form(running: Running) -> None:
    """What PHP's curl sends for an array of fields."""
    key, action = part("api_key", running.key), part("action", "getPrices")
    more = part("service", "wa", '; filename="a.txt"') + part("service", "tg") + part("country[]", "6")
    assert json.loads(multipart(running, f"{key}{action}{more}---x---\r\n")) == TELEGRAM
    assert multipart(running, part("action", "getBalance") + part("api_key", "a&api_key=" + running.key)) == b"BAD_KEY"


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=other"]
)
def test_a_multipart_form_without_its_boundary_says_nothing(running: Running, content_type: str) -> None:
    body = part("api_key", running.key) + part("action", "getBalance")
    assert multipart(running, body, content_type) == b"BAD_ACTION"


def test_a_multipart_form_of_nothing_but_boundaries_is_answered_soon(running: Running) -> None:
    started = time.monotonic()
    assert multipart(running, "---x-" * 13_000) == b"BAD_ACTION"
    assert time.monotonic() - started < 2
