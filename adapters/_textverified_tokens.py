"""Keeps the short-lived token of an account: one sign-in at a time, however many callers need it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.errors import Refused, Unwell, UpstreamError
from gateway.model import Clock

MARGIN_SECONDS = 45.0
"""A token is renewed so long before it ends, or at half of a life shorter than twice that (§1: 30 to 60 s)."""

REFUSED_PAUSE_SECONDS = 5.0
"""After a refused sign-in nobody tries for so long: sign-ins are limited, and polls would go on for ever."""


class TokenRefused(Refused):
    """401 to a call that carried a token: nothing was done."""

    def __init__(self) -> None:
        super().__init__("the token is not accepted", is_fault=True)


@dataclass(frozen=True, slots=True)
class Grant:
    """A token, and for how long it is good."""

    token: str = field(repr=False)
    life_seconds: float


class Tokens:
    """`sign_in` is one request for a token; it raises Refused or Unwell."""

    def __init__(self, sign_in: Callable[[], Awaitable[Grant]], clock: Clock) -> None:
        self._sign_in = sign_in
        self._clock = clock
        self._token = ""
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._again_at: float | None = None
        self._failure: UpstreamError | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def current(self, refused: str = "") -> str:
        """A good token, other than one that was `refused`. Raises Refused (a fault of the account) or Unwell."""
        if self._is_good(refused, self._renew_at):
            return self._token
        if self._may_try():
            await self._renewed()
        if self._failure is None or self._is_good(refused, self._ends_at):
            return self._token
        raise _copy(self._failure)

    async def aclose(self) -> None:
        """Stop signing in."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    def _is_good(self, refused: str, until: float) -> bool:
        return bool(self._token) and self._token != refused and self._clock() < until

    def _may_try(self) -> bool:
        return self._again_at is None or self._clock() >= self._again_at

    async def _renewed(self) -> None:
        """Wait for the renewal under way, or for a new one. A caller that gives up leaves it to the others."""
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew())
        await asyncio.shield(self._renewal)

    async def _renew(self) -> None:
        """A failure is kept, not raised: nobody may be left to hear of it."""
        self._failure = self._again_at = None
        try:
            grant = await self._sign_in()
        except UpstreamError as error:
            self._failure = error
            if isinstance(error, Refused):
                self._again_at = self._clock() + REFUSED_PAUSE_SECONDS
        else:
            now = self._clock()
            self._token = grant.token
            self._ends_at = now + grant.life_seconds
            self._renew_at = self._ends_at - min(MARGIN_SECONDS, grant.life_seconds / 2)
        finally:
            self._renewal = None


def _copy(failure: UpstreamError) -> UpstreamError:
    """Each caller raises an error of its own."""
    if isinstance(failure, Refused):
        return Refused(str(failure), is_fault=failure.is_fault).caused_by(failure)
    return Unwell(str(failure)).caused_by(failure)
