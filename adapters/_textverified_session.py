"""Asking TextVerified as its account: every call with a token, links followed only under its own address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from adapters._http import ASK_SECONDS, BODY_BYTES, Body, Http, Reply, path
from adapters._textverified_records import Page, read_page, readable
from adapters._textverified_tokens import Grant, TokenRefused, Tokens
from adapters._values import Unreadable, mapping, micros
from gateway.errors import NotReached, Refused, Unwell
from gateway.money import MICROS
from gateway.upstream import Context

T = TypeVar("T")

PREFIX = "/api/pub/v2"
PAGE_BYTES = 8 << 20
DETAIL_SECONDS = 3.0
"""For one look at what was just bought: a look that hangs must leave time for another."""

DETAIL_PAUSE_SECONDS = (0.1, 1.0)


def own_path(*parts: str) -> str:
    """The parts as a path of theirs."""
    return PREFIX + path(*parts)


async def seen_by(deadline: float, look: Callable[[], Awaitable[T | None]]) -> T | None:
    """What a look sees that is repeated, after growing pauses, until there is something; None where there never was.

    `deadline` is a time of the event loop.
    """
    loop = asyncio.get_running_loop()
    pause, pause_max = DETAIL_PAUSE_SECONDS
    while loop.time() < deadline:
        try:
            async with asyncio.timeout(min(DETAIL_SECONDS, deadline - loop.time())):
                seen = await look()
        except (Unwell, TimeoutError):
            seen = None
        if seen is not None:
            return seen
        await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
        pause = min(pause * 2, pause_max)
    return None


class Session:
    """The connections and the token of one account."""

    def __init__(self, context: Context, base_url: str) -> None:
        self._base_url = base_url
        self._sign_in_headers = {"x-api-key": context.secret, "x-api-username": context.secrets.get("username", "")}
        self._http = Http(context, {"accept": "application/json"})
        self._tokens = Tokens(self._sign_in, context.clock)

    async def ask(
        self,
        verb: str,
        target: str,
        read: Callable[[Reply], T],
        *,
        method: str = "GET",
        data: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        seconds: float = ASK_SECONDS,
        body_bytes: int = BODY_BYTES,
        tells_account: bool = False,
    ) -> T:
        """One harmless call to a path or to a link, made once more where its token is refused.

        Raises Unwell; a fault of the account is told as what it is (Refused) only where the caller `tells_account`.
        """
        url = self._own(target)

        async def call(token: str) -> T:
            return await self._http.ask(
                verb,
                url,
                _signed_in(read),
                params=params,
                seconds=seconds,
                body_bytes=body_bytes,
                method=method,
                body=Body.json(data) if data is not None else None,
                headers=_bearer(token),
            )

        try:
            return await self._twice(call, self._tokens.current)
        except Refused as refused:
            if tells_account:
                raise
            reason = str(refused)
        raise Unwell(reason)

    async def buy(self, target: str, data: Mapping[str, Any] | None, read: Callable[[Reply], T], deadline: float) -> T:
        """One purchase: one request, and another only where the token of the first was refused.

        `deadline` is a time of the event loop. Raises what a purchase raises.
        """

        async def call(token: str) -> T:
            seconds = deadline - asyncio.get_running_loop().time()
            if seconds <= 0:
                raise NotReached("no time left to ask")
            return await self._http.buy(
                self._own(target),
                _signed_in(read),
                seconds=seconds,
                method="POST",
                body=Body.json(data) if data is not None else None,
                headers=_bearer(token),
            )

        async def token_in_time(refused: str = "") -> str:
            return await self._token_by(deadline, refused)

        return await self._twice(call, token_in_time)

    async def _twice(self, call: Callable[[str], Awaitable[T]], token: Callable[[str], Awaitable[str]]) -> T:
        """`call` with a token, and once more with a new one where that is refused, since nothing was done then."""
        first = await token("")
        try:
            return await call(first)
        except TokenRefused:
            pass
        return await call(await token(first))

    async def _token_by(self, deadline: float, refused: str) -> str:
        """Raises Refused, or NotReached: nothing was asked for yet."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._tokens.current(refused)
        except Unwell as error:
            failure = NotReached(f"not signed in: {error}").caused_by(error)
        except TimeoutError:
            failure = NotReached("not signed in: no answer in time")
        raise failure

    async def pages(self, verb: str, start: str, pages_max: int) -> AsyncGenerator[Page]:
        """Pages of a list, each where the one before says that it is (the query is theirs: it is sent as it came)."""
        href = start
        for _ in range(pages_max):
            page = await self.ask(verb, href, read_page, body_bytes=PAGE_BYTES)
            yield page
            if not page.next_href:
                return
            href = page.next_href

    async def aclose(self) -> None:
        """Close all connections."""
        await self._tokens.aclose()
        await self._http.aclose()

    async def _sign_in(self) -> Grant:
        return await self._http.ask(
            "auth", self._own(f"{PREFIX}/auth"), _grant, method="POST", headers=self._sign_in_headers
        )

    def _own(self, href: str) -> str:
        """The address of a path or link, if it is one of theirs: the token goes nowhere else. Raises Unwell."""
        if href.startswith("/") and not href.startswith("//"):
            return self._base_url + href
        if href.startswith(self._base_url + "/"):
            return href
        raise Unwell("a link that leads elsewhere")


def _bearer(token: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {token}"}


def _signed_in(read: Callable[[Reply], T]) -> Callable[[Reply], T]:
    """`read`, for replies to calls that carried a token."""

    def checked(reply: Reply) -> T:
        if reply.status == 401:
            raise TokenRefused
        return read(reply)

    return checked


def _grant(reply: Reply) -> Grant:
    """`expiresIn` is what counts, so that the two clocks need not agree. Raises Refused, Unwell, Unreadable."""
    if reply.status in (400, 401, 403):
        raise Refused("the key or the account's name is not accepted", is_fault=True)
    if reply.status == 429:
        raise Refused("too many sign-ins", is_fault=True)
    data = mapping(readable(reply))
    token = data.get("token")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise Unreadable("no token")
    return Grant(token, micros(data.get("expiresIn")) / MICROS)
