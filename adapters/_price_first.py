"""Purchases on wires without a price cap: the price is asked first, within the time of the order.

The question goes over the connections of purchases (`Http.buy` with the verb "price"): a caller waits for its answer,
and only there is "not reached" told from "lost". Asking takes no number, so an answer that is lost is a refusal and
never a purchase in doubt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from adapters._refusals import RefusedForGood
from gateway.errors import InDoubt, NotAllowed, NotReached, Refused, SoldOut, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder

T = TypeVar("T")

LEAST_SECONDS = 0.1
"""With less left a purchase is not begun: its answer could only be lost."""


async def before_buying(question: Awaitable[T]) -> T:
    """The answer to a question asked before a purchase. Raises NothingTaken."""
    try:
        return await question
    except (InDoubt, Unwell) as error:
        refused = _could_not_ask(error)
    raise refused


async def require_price(question: Awaitable[int], order: BuyOrder) -> None:
    """Asks for the price in micro-units. Raises SoldOut where it is above the order's cap, and NothingTaken."""
    require_cap(await before_buying(question), order)


async def within(question: Awaitable[T], seconds: float) -> T:
    """As `before_buying`, for questions asked with the calls of reading, in so many seconds at most.

    Raises NothingTaken: RefusedForGood where the answer was that this is never to be had.
    """
    refused: UpstreamError
    try:
        async with asyncio.timeout(seconds):
            return await question
    except (NotAllowed, UnknownLease) as error:
        refused = RefusedForGood(str(error))
    except Unwell as error:
        refused = _could_not_ask(error)
    except TimeoutError:
        refused = Refused("could not ask first: no answer in time", is_fault=True)
    raise refused


def _could_not_ask(error: UpstreamError) -> Refused:
    return Refused(f"could not ask first: {error}", is_fault=True).caused_by(error)


def require_cap(cost_micros: int, order: BuyOrder) -> None:
    """Raises SoldOut where a price is above the order's cap."""
    if cost_micros > order.cost_max.micros:
        raise SoldOut("dearer than allowed")


class Countdown:
    """What is left of an order's time."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    def left_seconds(self) -> float:
        """Raises NotReached where it is not worth beginning."""
        left = self._ends_at - time.monotonic()
        if left < LEAST_SECONDS:
            raise NotReached("no time left to buy")
        return left
