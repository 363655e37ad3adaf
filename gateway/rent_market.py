"""What upstreams rent out, asked when a caller wants to know and remembered for a minute.

There are as many lists as countries and lengths of time, so none is fetched ahead. Each upstream is asked once for
all who wait for the same answer, and left out where it fails or takes too long: a listing is of what can be had now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from cachetools import LRUCache

from gateway.errors import UpstreamError
from gateway.house import House
from gateway.model import Offer, Order, RentOffer
from gateway.offers import Buyer
from gateway.routing import Facts, Shortlist
from gateway.upstream import Rents, Upstream

REMEMBERED_ROWS_MAX = 300_000
"""Offers kept in all: anybody with a key may ask for any country and any number of hours."""

FAILED_SECONDS = 10.0
"""How long an upstream that failed is not asked the same again: nobody else shall wait for its time-out."""

COUNTRIES_FACTOR = 10.0
"""Where an upstream rents out anything changes that much less often than what it rents out there."""

TOGETHER = 50
"""Services ranked before the loop may do something else."""

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True)
class _Answer:
    """What an upstream said when it was asked; None where it failed."""

    upstream: Upstream
    said: asyncio.Future[Any]
    until: float
    rows: int = 0


class RentMarket:
    """One per process."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._answers: LRUCache[Hashable, _Answer] = LRUCache(REMEMBERED_ROWS_MAX, _rows_of)
        self._asking: set[asyncio.Task[None]] = set()

    async def countries(self, buyer: Buyer) -> set[int]:
        """Where this caller can rent anything, as far as the upstreams answer."""
        renters = self._renters(buyer)
        seconds = self._house.settings.gateway.rentals.remembered_seconds * COUNTRIES_FACTOR
        found = await asyncio.gather(
            *(self._asked(facts.name, ("countries",), one.rent_countries, seconds) for facts, one in renters)
        )
        return {country for countries in found for country in countries or ()}

    async def shortlist(self, buyer: Buyer, order: Order) -> Shortlist:
        """What to rent for this order, in order."""
        stalls = await self._stalls(buyer, order.country, order.hours)
        offers = [(facts, [_offer(one) for one in some if one.service == order.service]) for facts, some in stalls]
        return self._house.market.rent_shortlist(buyer, order, offers)

    async def listing(
        self, buyer: Buyer, country: int, hours: int, operator: str, only: str = ""
    ) -> list[tuple[str, Shortlist]]:
        """Every service that can be rented there, or `only` one, by code, each with its short-list."""
        services = self._house.settings.catalog.services
        by_service: dict[str, list[tuple[Facts, list[Offer]]]] = {}
        for facts, some in await self._stalls(buyer, country, hours):
            of_upstream: dict[str, list[Offer]] = {}
            for one in some:
                if only and one.service != only:
                    continue
                of_upstream.setdefault(one.service, []).append(_offer(one))
            for service, offers in of_upstream.items():
                by_service.setdefault(service, []).append((facts, offers))
        found = []
        for number, service in enumerate(sorted(by_service.keys() & services.keys())):
            if number % TOGETHER == TOGETHER - 1:
                await asyncio.sleep(0)
            order = Order(service, country, operator, hours=hours)
            found.append((service, self._house.market.rent_shortlist(buyer, order, by_service[service])))
        return found

    async def _stalls(self, buyer: Buyer, country: int, hours: int) -> list[tuple[Facts, Sequence[RentOffer]]]:
        renters = self._renters(buyer)
        seconds = self._house.settings.gateway.rentals.remembered_seconds
        key = ("offers", country, hours)
        found = await asyncio.gather(
            *(self._asked(facts.name, key, partial(one.rent_offers, country, hours), seconds) for facts, one in renters)
        )
        return [
            (facts, [one for one in offers or () if one.hours >= hours])
            for (facts, _), offers in zip(renters, found, strict=True)
        ]

    def _renters(self, buyer: Buyer) -> list[tuple[Facts, Rents]]:
        found: list[tuple[Facts, Rents]] = []
        for facts in self._house.market.open_to(buyer):
            upstream = self._house.upstreams.get(facts.name)
            if isinstance(upstream, Rents):
                found.append((facts, upstream))
        return found

    async def _asked(
        self, name: str, what: tuple[Hashable, ...], ask: Callable[[], Awaitable[Collection[T]]], seconds: float
    ) -> Collection[T] | None:
        """The answer, remembered; None where there is none."""
        upstream, key = self._house.upstreams[name], (name, *what)
        known = self._answers.get(key)
        is_good = known is not None and known.upstream is upstream
        if known is None or not is_good or (known.said.done() and known.until <= self._house.clock()):
            known = _Answer(upstream, asyncio.get_running_loop().create_future(), 0.0)
            self._answers[key] = known
            # A task of its own: whoever asked first may hang up, and others wait for the same answer.
            task = asyncio.ensure_future(self._ask(name, key, known, ask, seconds))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        answer: Collection[T] | None = await asyncio.shield(known.said)
        return answer

    async def _ask(
        self, name: str, key: Hashable, answer: _Answer, ask: Callable[[], Awaitable[Collection[T]]], seconds: float
    ) -> None:
        said: Collection[T] | None = None
        try:
            async with asyncio.timeout(self._house.settings.gateway.rentals.quote_seconds):
                said = await ask()
        except (UpstreamError, TimeoutError) as error:
            log.info("rent_offers.failed", upstream=name, error=type(error).__name__)
        except Exception:  # a defect of one adapter must not leave those who wait for it waiting
            log.exception("rent_offers.failed", upstream=name)
        answer.until = self._house.clock() + (min(seconds, FAILED_SECONDS) if said is None else seconds)
        answer.said.set_result(said)
        if self._answers.get(key) is answer:
            # Put in anew: a cache weighs a value once.
            del self._answers[key]
            answer.rows = len(said or ())
            if _rows_of(answer) <= REMEMBERED_ROWS_MAX:
                self._answers[key] = answer


def _rows_of(answer: _Answer) -> int:
    return answer.rows + 1


def _offer(one: RentOffer) -> Offer:
    return Offer(one.upstream, one.service, one.country, one.cost, one.count, one.operator, None, one.hours)
