"""What a connection may cost, on real sockets: heads, bodies, slowness, and how many there are."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway import edge
from gateway.edge import Edge
from gateway.settings import ServerSettings
from tests.harness import PATH, config_directory, environment, server
from tests.wire import on_a_socket, still_house

LIMITS = """[server]
connections_max = 12
head_bytes_max = 2048
body_bytes_max = 4096
request_seconds = 1.5
hsts_seconds = 3600
"""
POST = f"POST {PATH} HTTP/1.1\r\nHost: g\r\nContent-Type: application/x-www-form-urlencoded\r\n".encode()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """`simroute serve`, one for all."""
    directory = tmp_path_factory.mktemp("edge")
    values = environment(f"sqlite:///{directory}/simroute.db")
    with server(config_directory(directory, gateway=LIMITS), values, directory / "log") as process:
        yield int(process.base.rpartition(":")[2])
        assert process.stop() == 0
    assert "Traceback" not in (directory / "log").read_text()


@pytest.fixture
async def own_port(tmp_path: Path, sqlite_url: str) -> AsyncIterator[int]:
    """A server in this process, whose connections nobody else has."""
    directory = config_directory(tmp_path, gateway=LIMITS)
    async with still_house(directory, environment(sqlite_url)) as house, on_a_socket(house.gateway) as found:
        yield found


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def answer(port: int, *parts: bytes) -> bytes:
    """All that comes for these parts, sent one after the other, until the server hangs up."""
    async with connected(port) as (reader, writer), asyncio.timeout(10):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        return await reader.read()


def request(target: str = PATH, *, close: bool = True) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: g\r\n{'Connection: close' if close else 'X: y'}\r\n\r\n".encode()


async def is_well(port: int) -> bool:
    return b"\r\n\r\nBAD_KEY" in await answer(port, request(f"{PATH}?api_key={'x' * 32}&action=getBalance"))


async def test_an_address_that_is_too_long_is_told_so(port: int) -> None:
    assert (await answer(port, request(PATH + "?x=" + "x" * 2100))).startswith(b"HTTP/1.1 414 ")
    assert await is_well(port)


async def test_headers_that_are_too_large_are_told_so(port: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: g\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 200) for n in range(12)) + b"\r\n"
    assert (await answer(port, head)).startswith(b"HTTP/1.1 431 ")


async def test_a_head_that_never_ends_is_cut_off_before_it_is_large(port: int) -> None:
    """One header that goes on and on is never handed over by the parser, so it is counted as it comes."""
    parts = (b"GET / HTTP/1.1\r\nHost: g\r\nX: ", *([b"x" * 700] * 8))
    assert (await answer(port, *parts)).startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_says_it_is_too_large_is_not_read(port: int) -> None:
    assert (await answer(port, POST + b"Content-Length: 4097\r\n\r\n", b"a" * 100)).startswith(b"HTTP/1.1 413 ")


async def test_a_body_in_chunks_that_grows_too_large_is_cut_off(port: int) -> None:
    chunk = b"400\r\n" + b"a" * 1024 + b"\r\n"
    found = await answer(port, POST + b"Transfer-Encoding: chunked\r\n\r\n", *([chunk] * 6))
    assert found.startswith(b"HTTP/1.1 413 ")
    assert await is_well(port)


async def test_no_path_takes_a_larger_body(port: int) -> None:
    for path in ("/api/v1/purchase", "/v1/user/x", "/webhooks/sms/x/y", "/nowhere"):
        head = f"POST {path} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        found = await answer(port, head, *([b"400\r\n" + b"a" * 1024 + b"\r\n"] * 6))
        # Whoever reads no body has answered before it was too large, and that answer stands.
        assert found.startswith((b"HTTP/1.1 4", b"HTTP/1.1 302 ")), (path, found)
        assert found.count(b"HTTP/1.1") <= 2


async def test_what_fits_is_served(port: int) -> None:
    body = b"api_key=" + b"x" * 32 + b"&action=getBalance&pad=" + b"x" * 3000
    whole = await answer(port, POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert whole.endswith(b"BAD_KEY")


TRICKLES = (
    (b"GET /stubs", b"x"),
    (b"GET / HTTP/1.1\r\nHost: g\r\nX: y", b"y"),
    (POST + b"Content-Length: 4000\r\n\r\n", b"a"),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
)


async def trickled(port: int, start: bytes, drip: bytes) -> bytes:
    async with connected(port) as (reader, writer), asyncio.timeout(10):
        writer.write(start)
        found = asyncio.ensure_future(reader.read())
        while not found.done():
            writer.write(drip)
            await asyncio.sleep(0.1)
        return found.result()


async def test_a_request_that_trickles_is_cut_off(port: int) -> None:
    for found in await asyncio.gather(*(trickled(port, start, drip) for start, drip in TRICKLES)):
        assert found.startswith(b"HTTP/1.1 408 ")
    assert await is_well(port)


async def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    started = time.monotonic()
    assert await answer(port) == b""
    assert time.monotonic() - started > 1.0


@pytest.mark.parametrize("asked", [b"", request("/health/live", close=False)])
async def test_empty_lines_hold_no_connection_open(port: int, asked: bytes) -> None:
    async with connected(port) as (reader, writer), asyncio.timeout(10):
        writer.write(asked)
        if asked:
            await reader.readuntil(b'"ok"}')
        writer.write(b"\r\n")
        assert await reader.read() == b""


async def test_what_follows_a_body_in_chunks_is_bounded(port: int) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for junk in (b"0\r\nx: " + b"a" * 2_000, b"1;" + b"a" * 2_000):
        parts = [head, junk, *[b"a" * 2_000] * 40]
        with suppress(ConnectionError):
            assert b" 431 " in (await answer(port, *parts)).partition(b"\r\n")[0]
    assert await is_well(port)


async def test_a_connection_between_two_requests_is_not_hurried(port: int) -> None:
    async with connected(port) as (reader, writer), asyncio.timeout(10):
        for _ in range(2):
            writer.write(request("/health/live", close=False))
            assert b"200" in await reader.readuntil(b"\r\n")
            await reader.readuntil(b'"ok"}')
            await asyncio.sleep(1.7)


async def test_one_connection_too_many_is_told_so_and_those_there_are_served_on(own_port: int) -> None:
    there = [await asyncio.open_connection("127.0.0.1", own_port) for _ in range(12)]
    for _, writer in there:
        writer.write(request("/health/live", close=False))
    for reader, _ in there:
        await reader.readuntil(b'"ok"}')
    found = await answer(own_port, request())
    assert found.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in found
    assert found.endswith(b"too many connections")
    for reader, writer in there:
        writer.write(request("/health/live"))
        assert b'"ok"}' in await reader.read()
        writer.close()
    assert await is_well(own_port)


async def test_a_flood_of_refused_connections_is_cut_off_without_an_answer(
    own_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "LINGERING_MAX", 2)
    there = [await asyncio.open_connection("127.0.0.1", own_port) for _ in range(12)]
    refused = [await asyncio.open_connection("127.0.0.1", own_port) for _ in range(6)]
    found = await asyncio.gather(*(reader.read() for reader, _ in refused), return_exceptions=True)
    assert sum(isinstance(one, bytes) and one.startswith(b"HTTP/1.1 503 ") for one in found) == 2
    for _, writer in (*there, *refused):
        writer.close()
    await asyncio.sleep(edge.LINGER_SECONDS + 0.2)
    assert await is_well(own_port)


async def ask_on(writer: asyncio.StreamWriter) -> None:
    """Asks for much, again and again, until the connection is gone."""
    while True:
        writer.write(request("/openapi.json", close=False))
        await asyncio.sleep(0.02)
        await writer.drain()


async def test_a_client_that_reads_nothing_of_its_answer_is_cut_off(
    own_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "STALLED_SECONDS", 0.3)
    async with connected(own_port) as (_, writer), asyncio.timeout(20):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            await ask_on(writer)
    assert await is_well(own_port)


async def test_a_client_that_reads_slowly_is_given_the_time(own_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small buffers on the way, or the kernel would take nearly all of it at once, and then nothing for long."""
    monkeypatch.setattr(edge, "STALLED_SECONDS", 0.5)
    there = socket.socket()
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    there.setblocking(False)
    await asyncio.get_running_loop().sock_connect(there, ("127.0.0.1", own_port))
    reader, writer = await asyncio.open_connection(sock=there, limit=16_384)
    async with asyncio.timeout(30):
        writer.write(request("/openapi.json", close=False) * 39 + request("/openapi.json"))
        read = b""
        while piece := await reader.read(65_536):
            read += piece
            await asyncio.sleep(0.01)
    writer.close()
    assert read.count(b"HTTP/1.1 200 ") == 40


async def test_pipelined_requests_count_each_for_itself(port: int) -> None:
    padded = request(f"{PATH}?api_key={'x' * 32}&action=getBalance&pad={'x' * 900}", close=False)
    last = request(f"{PATH}?api_key={'x' * 32}&action=getBalance")
    assert (await answer(port, padded * 5 + last)).count(b"BAD_KEY") == 6


BROWSED = ["/docs", "/openapi.json", "/nowhere", "/health", "/metrics", "/api/v1/activations", "/desk"]


async def test_a_browser_is_told_what_not_to_do(port: int) -> None:
    for path in BROWSED:
        head = (await answer(port, request(path))).partition(b"\r\n\r\n")[0].lower()
        for header in (
            b"x-content-type-options: nosniff",
            b"x-frame-options: deny",
            b"referrer-policy: no-referrer",
            b"strict-transport-security: max-age=3600",
            b"content-security-policy: default-src 'none'",
            b"cache-control: ",
        ):
            assert head.count(header) == 1, (path, header)
        assert b"frame-ancestors 'none'" in head
        assert path in ("/docs", "/openapi.json") or b"cache-control: no-store" in head


async def test_wire_formats_have_no_header_more(port: int) -> None:
    head = (await answer(port, request(f"{PATH}?api_key={'x' * 32}&action=getBalance"))).partition(b"\r\n\r\n")[0]
    names = sorted(line.partition(b":")[0] for line in head.split(b"\r\n")[1:])
    assert names == [b"connection", b"content-length", b"content-type", b"date", b"vary"]


def test_there_are_never_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 4096))
    assert Edge.of(ServerSettings()).connections_max == 768
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY, -1))
    assert Edge.of(ServerSettings()).connections_max == 4000
