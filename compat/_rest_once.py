"""Purchases with an `Idempotency-Key`: one key, one number, one answer, however often and wherever it is asked.

The key is the order's reference, which the database keeps unique by account, so what holds in one process holds across
a restart too. The request itself is the order's fingerprint: that tells a repetition from another request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from compat._rest_problems import Refused
from gateway import journal
from gateway.accounts import Caller
from gateway.errors import NoNumbers, OrderExists
from gateway.front import Front
from gateway.live import Live
from gateway.model import Order, Status

Open = Callable[[Caller, Order, Callable[[], bool]], Awaitable[Live]]
"""A use-case that buys: `Purchases.open`, and those of `Rentals`."""

Get = Callable[[Caller, int], Awaitable[Live]]
"""What was bought, from the id of its order."""


@dataclass
class _Flight:
    """A purchase under way, and everybody who waits for it."""

    fingerprint: str
    clients: list[asyncio.Future[None]] = field(default_factory=list)

    def is_gone(self) -> bool:
        return all(hung_up.done() for hung_up in self.clients)


@dataclass(frozen=True)
class Bought:
    """`is_new` where this request, or one beside it, bought the number; else it was bought before."""

    live: Live
    is_new: bool


class Once:
    """The purchases of this process that have a key."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._flights: dict[tuple[int, str], tuple[_Flight, asyncio.Task[Bought]]] = {}

    async def buy(
        self, caller: Caller, order: Order, hung_up: asyncio.Future[None], opened: Open, known: Get
    ) -> Bought:
        """Buys with `opened`, or hands over with `known` what the key has bought. `order` has its reference.

        Raises Refused (key used for another request, or a purchase of it that is not over), and as `opened`.
        """
        place = (caller.account_id, order.reference)
        if place in self._flights:
            flight, task = self._flights[place]
            if flight.fingerprint != order.fingerprint:
                raise Refused("idempotency_key_reused")
        else:
            flight = _Flight(order.fingerprint)
            task = asyncio.ensure_future(self._bought(caller, order, flight, opened, known))
            self._flights[place] = (flight, task)
            task.add_done_callback(lambda done: self._landed(place, done))
        flight.clients.append(hung_up)
        # The others go on waiting when this one's connection is gone, and so does the purchase.
        return await asyncio.shield(task)

    def _landed(self, place: tuple[int, str], task: asyncio.Task[Bought]) -> None:
        del self._flights[place]
        if not task.cancelled():
            task.exception()  # marked as seen: there may be nobody left to look

    async def _bought(self, caller: Caller, order: Order, flight: _Flight, opened: Open, known: Get) -> Bought:
        before = await self._before(caller, order, known)
        if before is not None:
            return before
        try:
            return Bought(await opened(caller, order, flight.is_gone), is_new=True)
        except OrderExists:
            before = await self._before(caller, order, known)
            if before is None:
                raise
            return before

    async def _before(self, caller: Caller, order: Order, known: Get) -> Bought | None:
        """What the key has bought already, None where it is new. Raises Refused, NoNumbers."""
        row = await self._front.house.store.read(journal.referred, caller.account_id, order.reference)
        if row is None:
            return None
        if row["fingerprint"] != order.fingerprint:
            raise Refused("idempotency_key_reused")
        if row["status"] == Status.OPENING:
            raise Refused("in_progress")
        if row["status"] == Status.FAILED:
            raise NoNumbers
        return Bought(await known(caller, row["id"]), is_new=False)
