"""The HTTP seam, over raw sockets that count what arrives."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest

from adapters import _http
from adapters._http import Http, Reply, without_retry
from adapters._price_first import before_buying, within
from gateway.errors import InDoubt, NotReached, Refused, SoldOut, Unwell, UpstreamError
from tests.adapters._context import SECRET, Observed, Script, context
from tests.adapters._raw import Raw, Respond, answer, drop, endless, half, hang, nonsense, raw_server, reset


def text(reply: Reply) -> str:
    return reply.text


@asynccontextmanager
async def http(**changes: Any) -> AsyncIterator[Http]:
    made = Http(context(**changes))
    try:
        yield made
    finally:
        await made.aclose()


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


async def buy(made: Http, raw: Raw, seconds: float = 2.0) -> str:
    return await made.buy(raw.url, text, params={"api_key": SECRET}, seconds=seconds)


# --- one purchase, one request ---


@pytest.mark.parametrize("end", [drop, reset, half, nonsense])
async def test_purchase_dropped_on_a_fresh_connection_is_sent_once_and_in_doubt(end: Respond) -> None:
    async with raw_server(end) as raw, http() as made:
        with pytest.raises(InDoubt):
            await buy(made, raw)
        await asyncio.sleep(0.05)
        assert len(raw.heads) == 1


@pytest.mark.parametrize("end", [drop, reset, half, nonsense])
async def test_purchase_dropped_on_a_kept_connection_is_sent_once_and_in_doubt(end: Respond) -> None:
    async with raw_server(answer(), end) as raw, http() as made:
        await buy(made, raw)
        with pytest.raises(InDoubt):
            await buy(made, raw)
        await asyncio.sleep(0.05)
        assert raw.connections == 1
        assert len(raw.heads) == 2


async def test_aiohttp_alone_would_send_the_purchase_twice() -> None:
    async with raw_server(answer(), drop) as raw, aiohttp.ClientSession() as session:
        await (await session.get(raw.url)).read()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.get(raw.url)
        assert len(raw.heads) == 3


async def test_harmless_calls_are_not_repeated_either() -> None:
    async with raw_server(answer(), drop) as raw, http() as made:
        await made.ask("read", raw.url, text)
        with pytest.raises(Unwell):
            await made.ask("read", raw.url, text)
        assert len(raw.heads) == 2


async def test_session_without_the_retry_switch_is_refused() -> None:
    async with aiohttp.ClientSession() as session:
        del session._retry_connection
        with pytest.raises(RuntimeError, match="_retry_connection"):
            without_retry(session)


async def test_idle_connection_of_a_purchase_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "BUY_IDLE_SECONDS", 0.05)
    async with raw_server(answer()) as raw, http() as made:
        await buy(made, raw)
        await asyncio.sleep(0.1)
        await buy(made, raw)
        assert raw.connections == 2


# --- what was not sent, and what was perhaps ---


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_purchase_at_a_closed_port_is_not_reached(scheme: str) -> None:
    async with http() as made:
        with pytest.raises(NotReached):
            await made.buy(f"{scheme}://127.0.0.1:{closed_port()}/", text, seconds=2.0)


async def test_purchase_at_a_name_without_an_address_is_not_reached() -> None:
    async with http() as made:
        with pytest.raises(NotReached):
            await made.buy("http://nowhere.invalid/", text, seconds=2.0)


async def test_purchase_that_fails_the_tls_handshake_is_not_reached() -> None:
    async with raw_server(nonsense) as raw, http() as made:
        with pytest.raises(NotReached):
            await made.buy(raw.url.replace("http://", "https://"), text, seconds=2.0)
        assert raw.heads == []


async def test_purchase_without_a_place_in_the_pool_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "CONNECTIONS", 1)
    async with raw_server(hang) as raw, http() as made:
        first = asyncio.ensure_future(buy(made, raw, 3.0))
        await asyncio.sleep(0.1)
        with pytest.raises(NotReached):
            await buy(made, raw, 0.4)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(raw.heads) == 1


async def test_hanging_polls_do_not_starve_a_purchase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "CONNECTIONS", 1)
    async with raw_server(hang, answer(b"bought")) as raw, http() as made:
        poll = asyncio.ensure_future(made.ask("read", raw.url, text))
        await asyncio.sleep(0.1)
        assert await buy(made, raw) == "bought"
        poll.cancel()


async def test_slow_purchase_is_in_doubt_within_its_deadline() -> None:
    async with raw_server(hang) as raw, http() as made:
        started = time.monotonic()
        with pytest.raises(InDoubt):
            await buy(made, raw, 0.3)
        assert 0.25 < time.monotonic() - started < 1.0
        assert len(raw.heads) == 1


async def test_answer_that_trickles_is_cut_at_the_deadline() -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with raw_server(trickle) as raw, http() as made:
        with pytest.raises(InDoubt):
            await buy(made, raw, 0.3)
        with pytest.raises(Unwell):
            await made.ask("read", raw.url, text, seconds=0.3)


async def test_oversize_body_stops_being_read() -> None:
    sent: list[int] = []
    async with raw_server(endless(sent.append)) as raw, http() as made:
        with pytest.raises(InDoubt):
            await buy(made, raw, 20.0)
        with pytest.raises(Unwell):
            await made.ask("read", raw.url, text)
        assert sum(sent) < 64 << 20


async def test_compressed_body_is_capped_at_its_real_size() -> None:
    bomb = gzip.compress(b"x" * (4 << 20))
    async with raw_server(answer(bomb, "200 OK", "Content-Encoding: gzip")) as raw, http() as made:
        with pytest.raises(Unwell):
            await made.ask("read", raw.url, text)
        assert len(await made.ask("offers", raw.url, text, body_bytes=8 << 20)) == 4 << 20


async def test_redirect_is_not_followed() -> None:
    moved = answer(b"", "302 Found", "Location: /elsewhere")
    async with raw_server(moved) as raw, http() as made:
        assert await made.buy(raw.url, lambda reply: reply.status, seconds=2.0) == 302
        assert await made.ask("read", raw.url, lambda reply: reply.status) == 302
        assert len(raw.heads) == 2


async def test_cookies_are_not_kept() -> None:
    async with raw_server(answer(b"", "200 OK", "Set-Cookie: session=1; Path=/")) as raw, http() as made:
        await made.ask("read", raw.url, text)
        await made.ask("read", raw.url, text)
        assert "cookie:" not in raw.heads[1].lower()


async def test_configured_proxy_is_used_and_the_environment_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    async with raw_server(answer(b"through")) as raw:
        async with http(proxy=raw.url) as made:
            assert await made.buy("http://upstream.invalid/x", text, seconds=2.0) == "through"
            assert raw.heads[0].startswith("GET http://upstream.invalid/x HTTP/1.1")
        async with http() as made:
            assert await made.ask("read", raw.url, text) == "through"


async def test_proxy_that_will_not_connect_means_not_reached() -> None:
    async with raw_server(answer(b"", "403 Forbidden")) as raw, http(proxy=raw.url) as made:
        with pytest.raises(NotReached):
            await made.buy("https://upstream.invalid/x", text, seconds=2.0)
    async with http(proxy=f"http://127.0.0.1:{closed_port()}") as made:
        with pytest.raises(NotReached):
            await made.buy("http://upstream.invalid/x", text, seconds=2.0)


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:1", "ftp://user:word@127.0.0.1", "nonsense"])
def test_unusable_proxy_is_refused_without_its_address(address: str) -> None:
    with pytest.raises(ValueError, match="proxy") as caught:
        Http(context(proxy=address))
    assert "127" not in str(caught.value)


# --- what this machine lacks ---


@contextmanager
def no_descriptor() -> Iterator[None]:
    """This process has as many files open as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_without_a_descriptor_nothing_is_sent_and_the_cause_is_here(host: str) -> None:
    async with raw_server(answer()) as raw, http() as made:
        url = raw.url.replace("127.0.0.1", host)
        with no_descriptor():
            with pytest.raises(NotReached) as bought:
                await made.buy(url, text, seconds=2.0)
            with pytest.raises(Unwell) as asked:
                await made.ask("read", url, text)
            with pytest.raises(NotReached) as first_asked:
                await before_buying(made.buy(url, text, seconds=2.0, verb="price"))
            with pytest.raises(Refused) as read_first:
                await within(made.ask("read", url, text), 2.0)
        assert all(one.value.is_local for one in (bought, asked, first_asked, read_first))
        assert raw.heads == []
        assert await made.buy(url, text, seconds=2.0) == "OK"


async def test_a_name_without_an_address_or_a_closed_port_is_the_upstreams_business() -> None:
    async with http() as made:
        for url in ("http://nowhere.invalid/", f"http://127.0.0.1:{closed_port()}/"):
            with pytest.raises(NotReached) as caught:
                await made.buy(url, text, seconds=2.0)
            assert not caught.value.is_local


# --- stand-in transports ---


def connecting(number: int) -> Exception:
    """As httpx-aiohttp tells of a connection that the system refuses."""
    key: Any = SimpleNamespace(host="upstream.test", port=443, ssl=True)
    error = httpx.ConnectError("refused")
    error.__cause__ = aiohttp.ClientConnectorError(key, OSError(number, os.strerror(number)))
    return error


@pytest.mark.parametrize(
    ("number", "is_local"),
    [
        (errno.ENFILE, True),
        (errno.ENOBUFS, True),
        (errno.ENOMEM, True),
        (errno.EADDRNOTAVAIL, False),
        (errno.ECONNREFUSED, False),
        (errno.ETIMEDOUT, False),
        (errno.EHOSTUNREACH, False),
    ],
)
async def test_what_the_system_lacks_is_told_from_what_is_wrong_there(number: int, is_local: bool) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise connecting(number)

    async with http(transport=Script(fail)) as made:
        with pytest.raises(NotReached) as caught:
            await made.buy("http://upstream.test/", text, seconds=1.0)
    assert caught.value.is_local is is_local


def dropped_as_httpx_aiohttp_says_it() -> Exception:
    error = httpx.ConnectTimeout("dropped")
    error.__cause__ = aiohttp.ServerDisconnectedError()
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("refused"), NotReached),
        (httpx.ConnectTimeout("slow"), NotReached),
        (httpx.PoolTimeout("full"), NotReached),
        (dropped_as_httpx_aiohttp_says_it(), InDoubt),
        (httpx.ReadTimeout("slow"), InDoubt),
        (httpx.RemoteProtocolError("gone"), InDoubt),
        (httpx.ReadError("gone"), InDoubt),
        (httpx.WriteError("gone"), InDoubt),
        (httpx.DecodingError("garbled"), InDoubt),
        (ConnectionResetError("gone"), InDoubt),
        (aiohttp.ClientOSError("gone"), InDoubt),
    ],
)
async def test_purchase_errors_are_told_apart_by_cause(error: Exception, expected: type[UpstreamError]) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    async with http(transport=Script(fail)) as made:
        with pytest.raises(expected):
            await made.buy("http://upstream.test/", text, seconds=1.0)
        with pytest.raises(Unwell):
            await made.ask("read", "http://upstream.test/", text)


@pytest.mark.parametrize("unreadable", [lambda reply: reply.json(), lambda reply: [][0], lambda reply: int("x")])
async def test_unreadable_answers_are_in_doubt_or_unwell(unreadable: Callable[[Reply], Any]) -> None:
    async with http(transport=Script(lambda request: httpx.Response(200, text="<html>"))) as made:
        with pytest.raises(InDoubt):
            await made.buy("http://upstream.test/", unreadable, seconds=1.0)
        with pytest.raises(Unwell):
            await made.ask("read", "http://upstream.test/", unreadable)


async def test_errors_of_the_reader_pass_unchanged() -> None:
    def sold_out(_reply: Reply) -> str:
        raise SoldOut("none")

    async with http(transport=Script(lambda request: httpx.Response(200))) as made:
        with pytest.raises(SoldOut):
            await made.buy("http://upstream.test/", sold_out, seconds=1.0)


# --- reporting ---


async def test_every_request_is_reported_once() -> None:
    observed = Observed()
    async with raw_server(answer(), drop, hang) as raw, http(observe=observed) as made:
        await made.ask("balance", raw.url, text)
        with pytest.raises(Unwell):
            await made.ask("read", raw.url, text)
        with pytest.raises(InDoubt):
            await buy(made, raw, 0.2)
        cancelled = asyncio.ensure_future(buy(made, raw))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    assert observed.calls == [("balance", "ok"), ("read", "Unwell"), ("buy", "InDoubt"), ("buy", "CancelledError")]


@pytest.mark.parametrize("end", [drop, half, nonsense, hang])
async def test_errors_name_no_address_and_chain_nothing_foreign(end: Respond) -> None:
    async with raw_server(end) as raw, http() as made:
        with pytest.raises(InDoubt) as caught:
            await buy(made, raw, 0.3)
        error: BaseException | None = caught.value
        assert SECRET not in str(error)
        assert "127.0.0.1" not in str(error)
        assert error is not None
        assert error.__cause__ is None
        assert error.__context__ is None


def test_reply_shows_no_body() -> None:
    assert "447700900123" not in repr(Reply(200, b"447700900123"))
