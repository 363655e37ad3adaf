"""Purchases on wires without a price cap: the price is asked first, within the time of the order.

The question goes over the connections of purchases (`Http.buy` with the verb "price"): a caller waits for its answer,
and only there is "not reached" told from "lost". Asking takes no number, so an answer that is lost is a refusal and
never a purchase in doubt.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TypeVar

from gateway.errors import InDoubt, NotReached, Refused, SoldOut
from gateway.model import BuyOrder

T = TypeVar("T")

LEAST_SECONDS = 0.1
"""With less left a purchase is not begun: its answer could only be lost."""


async def before_buying(question: Awaitable[T]) -> T:
    """The answer to a question asked before a purchase. Raises NothingTaken."""
    try:
        return await question
    except InDoubt as error:
        reason = str(error)
    raise Refused(f"could not ask first: {reason}", is_fault=True)


async def require_price(question: Awaitable[int], order: BuyOrder) -> None:
    """Asks for the price in micro-units. Raises SoldOut where it is above the order's cap, and NothingTaken."""
    if await before_buying(question) > order.cost_max.micros:
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
