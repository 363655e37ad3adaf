"""The cached picture of what every upstream sells, and what that means for one caller.

Comes after routing in the order of imports: it brings the facts together and lets `routing` and `pricing` decide.
Price lists are swapped by reference in the background; everything here reads memory only.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple, Protocol

from gateway.health import Health
from gateway.ladders import Ladder, priced_as, pricer, quote
from gateway.model import Clock, Offer, Order
from gateway.money import Money
from gateway.pricing import Pricing, rates_trouble_seconds
from gateway.routing import (
    NOT_ALLOWED,
    Candidate,
    Excluded,
    Facts,
    Listed,
    Route,
    Routes,
    Shortlist,
    Stall,
    Terms,
    barrier,
    choose,
    list_price,
    named,
)
from gateway.rules import EVERYTHING, Allowed
from gateway.settings import Settings, Stanza
from gateway.upstream import OfferTable, SellsByRule, Upstream

SLICE_SECONDS = 0.002
"""How long a listing works before it lets the event loop do something else."""

ROWS_BETWEEN_LOOKS = 16
"""How many rows are made between two looks at the watch."""

PAIRS_REMEMBERED = 20_000
"""How many (service, country) of one price list are kept unpacked."""

Pair = tuple[str, int]
Pricer = Callable[[Offer], Money | None]


class Buyer(Protocol):
    """What has to be known of a caller: whose prices, which currency, which kind of upstream, and what is allowed."""

    @property
    def account_name(self) -> str: ...

    @property
    def currency(self) -> str: ...

    @property
    def is_demo(self) -> bool: ...

    @property
    def allowed(self) -> Allowed: ...

    @property
    def ladder(self) -> Ladder: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a price list: `count` numbers can be bought at `price` or below."""

    country: int
    service: str
    price: Money
    count: int


@dataclass(frozen=True, slots=True)
class UpstreamEntry:
    """What the market knows of an upstream from the settings. `seller` is set where it sells by rule, not by list."""

    name: str
    tier: int = 1
    priority: int = 100
    serves_demo: bool = False
    is_enabled: bool = True
    list_age_max_seconds: float = 900.0
    currency: str = "USD"
    seller: SellsByRule | None = None


@dataclass(frozen=True)
class View:
    """One version of the configuration, as far as selling goes; swapped whole."""

    entries: tuple[UpstreamEntry, ...]
    pricing: Pricing
    routes: Routes
    services: tuple[str, ...]
    countries: tuple[int, ...]
    version: str = ""
    rates_from: float | None = None
    rates_max_seconds: float = 96 * 3600.0

    def rates_stale_seconds(self, now: float) -> float | None:
        """The age of the exchange rates where they are too old to sell by, or from the future; else None."""
        return rates_trouble_seconds(self.rates_from, self.rates_max_seconds, now)


def view_of(settings: Settings, upstreams: Mapping[str, Upstream]) -> View:
    """The view these settings make; `upstreams` are those that were loaded, by name."""
    stanzas = settings.upstreams
    return View(
        entries=tuple(entry_of(stanzas[name], upstream) for name, upstream in upstreams.items()),
        pricing=Pricing(settings.pricing, settings.rates.rates),
        routes=Routes(settings.routing),
        services=tuple(settings.catalog.services),
        countries=tuple(settings.catalog.countries),
        version=settings.version,
        rates_from=settings.rates.as_of_seconds,
        rates_max_seconds=settings.pricing.exchange.max_hours * 3600,
    )


def entry_of(stanza: Stanza, upstream: Upstream) -> UpstreamEntry:
    """An upstream that sells by rule makes its numbers up, so it serves demo accounts, and only them."""
    seller = upstream if isinstance(upstream, SellsByRule) else None
    return UpstreamEntry(
        name=stanza.name,
        tier=stanza.tier,
        priority=stanza.priority,
        serves_demo=seller is not None,
        is_enabled=stanza.enabled,
        list_age_max_seconds=stanza.offers_max_age_seconds,
        currency=stanza.currency,
        seller=seller,
    )


@dataclass(slots=True)
class _Shelf:
    """The newest price list of one upstream, and why a newer one could not be had."""

    table: OfferTable | None = None
    fetched_at: float = 0.0
    error: str = ""
    unpacked: dict[Pair, tuple[Offer, ...]] = field(default_factory=dict)

    def at(self, service: str, country: int) -> Sequence[Offer]:
        """As `OfferTable.at`, remembered: the same few pairs make up most orders."""
        pair = (service, country)
        offers = self.unpacked.get(pair)
        if offers is None:
            offers = self.table.at(service, country) if self.table is not None else ()
            if len(self.unpacked) >= PAIRS_REMEMBERED:
                self.unpacked.clear()
            self.unpacked[pair] = offers
        return offers


class _Source(NamedTuple):
    """An upstream a listing draws from, with the price list it had when the listing began."""

    entry: UpstreamEntry
    facts: Facts
    table: OfferTable | None

    def at(self, service: str, country: int) -> Sequence[Offer]:
        if self.entry.seller is not None:
            return self.entry.seller.offers_for(service, country)
        return self.table.at(service, country) if self.table is not None else ()


class Market:
    """Everything for sale. Reads and swaps happen on one event loop; no method waits for anything but `listing`."""

    def __init__(self, clock: Clock, health: Health, view: View) -> None:
        self.health = health
        self._clock = clock
        self._view = view
        self._shelves: dict[str, _Shelf] = {}
        self._awaited_since = dict.fromkeys((entry.name for entry in view.entries), clock())
        self._drained: frozenset[str] = frozenset()
        self._overexposed: frozenset[str] = frozenset()
        self._swaps = 0

    @property
    def view(self) -> View:
        """The configuration in force."""
        return self._view

    @property
    def drained(self) -> frozenset[str]:
        """Upstreams that an operator has taken out of new orders."""
        return self._drained

    @property
    def overexposed(self) -> frozenset[str]:
        """Upstreams whose purchases in doubt may have cost too much to risk another."""
        return self._overexposed

    @property
    def generation(self) -> int:
        """Differs whenever a listing may: after a swap, a reload, a switch, a circuit's move, a block. Time passing
        (a list grown stale, a cool-down over) and delivery evidence do not move it, so give rendered lists an age."""
        return self._swaps + self.health.changes

    def apply(self, view: View) -> None:
        """Swaps the configuration; price lists of upstreams that stay are kept."""
        names, now = {entry.name for entry in view.entries}, self._clock()
        self._view = view
        self._awaited_since = {name: self._awaited_since.get(name, now) for name in names}
        self._shelves = {name: shelf for name, shelf in self._shelves.items() if name in names}
        self._swaps += 1

    def put(self, upstream: str, table: OfferTable, fetched_at: float | None = None) -> None:
        """Swaps an upstream's price list; `fetched_at` is now unless it was fetched elsewhere."""
        self._shelves[upstream] = _Shelf(table, self._clock() if fetched_at is None else fetched_at)
        self._swaps += 1

    def failed(self, upstream: str, reason: str) -> None:
        """No new price list could be had: the old one is sold from until it is too old."""
        self._shelves.setdefault(upstream, _Shelf()).error = reason

    def drain(self, upstreams: Iterable[str]) -> None:
        """These take no new orders by an operator's word, and only these."""
        self._drained = frozenset(upstreams)
        self._swaps += 1

    def rest(self, upstreams: Iterable[str]) -> None:
        """These take no new orders until purchases in doubt are settled, and only these."""
        self._overexposed = frozenset(upstreams)
        self._swaps += 1

    def list_of(self, upstream: str) -> tuple[int, float | None, str]:
        """Rows of an upstream's price list, when it was fetched (None: never), and why no newer one could be had."""
        shelf = self._shelves.get(upstream, _BARE)
        return (0, None, shelf.error) if shelf.table is None else (len(shelf.table), shelf.fetched_at, shelf.error)

    def list_age_seconds(self, upstream: str) -> float:
        """How old an upstream's price list is; where none was read yet, for how long it has been waited for."""
        _, fetched_at, _ = self.list_of(upstream)
        now = self._clock()
        return now - (self._awaited_since.get(upstream, now) if fetched_at is None else fetched_at)

    def shortlist(self, buyer: Buyer, order: Order, only: Collection[str] | None = None) -> Shortlist:
        """What to try for this order, in order, and what is left out; with the reasons, so it explains itself.

        `only` names the upstreams in question; None for all. `order.price_max` has to be in the buyer's currency:
        ValueError otherwise.
        """
        view, terms = self._view, _terms(buyer, order)
        service, country, now = order.service, order.country, self._clock()
        if not buyer.allowed.sells(service, country):
            kept_out = tuple(Excluded(entry.name, NOT_ALLOWED) for entry in view.entries)
            return Shortlist((), kept_out, None, None, None)
        price = pricer(view.pricing, buyer)
        stalls = [
            Stall(
                self._facts(entry, buyer, now, self.health.is_blocked(entry.name, service, country)),
                self._candidates(view, price, self._offers(entry, service, country)),
            )
            for entry in view.entries
            if only is None or entry.name in only
        ]
        found = choose(stalls, terms, view.routes.route(service, country, buyer.account_name))
        return _shared(found, view.pricing, buyer)

    def open_to(self, buyer: Buyer) -> list[Facts]:
        """Upstreams that may serve this caller with what is on no price list: rentals, and numbers used again."""
        terms, now = Terms(buyer.currency, buyer.is_demo), self._clock()
        facts = (replace(self._facts(entry, buyer, now), list_age_seconds=0.0) for entry in self._view.entries)
        return [one for one in facts if barrier(one, terms) is None]

    def rent_shortlist(self, buyer: Buyer, order: Order, stalls: Sequence[tuple[Facts, Sequence[Offer]]]) -> Shortlist:
        """As `shortlist`, for a rental and what upstreams just said they rent out. A named operator is kept to where
        anybody has it: the price listed for it is the one it can be had at."""
        view, terms = self._view, _terms(buyer, order)
        service, country = order.service, order.country
        if not buyer.allowed.sells(service, country):
            kept_out = tuple(Excluded(facts.name, NOT_ALLOWED) for facts, _ in stalls)
            return Shortlist((), kept_out, None, None, None)
        price, value = pricer(view.pricing.rentals, buyer), view.pricing.house_micros
        kept: Sequence[tuple[Facts, Sequence[Offer]]] = [
            (facts, _of_operators(offers, terms.operators)) for facts, offers in stalls
        ]
        if not any(offers for _, offers in kept):
            kept = stalls
        found = [
            Stall(
                replace(facts, is_in_doubt=self.health.is_blocked(facts.name, service, country, is_rental=True)),
                [Candidate(offer, price(offer), value(offer.cost) or 0.0) for offer in offers],
            )
            for facts, offers in kept
        ]
        shortlist = choose(found, terms, view.routes.route(service, country, buyer.account_name))
        return _shared(shortlist, view.pricing.rentals, buyer)

    async def listing(
        self, buyer: Buyer, service: str | None = None, country: int | None = None, operator: str = ""
    ) -> AsyncIterator[Row]:
        """Listed price and count of everything this caller can buy, a country at a time; None stands for all.

        `operator` narrows it down to numbers of these, by comma; empty or `any` for all.

        Lets the loop run every few milliseconds, the time its reader takes between rows included.
        """
        pause_at = time.perf_counter() + SLICE_SECONDS
        for number, row in enumerate(self._rows(buyer, service, country, _operator_words(operator))):
            if row is not None:
                yield row
            if number % ROWS_BETWEEN_LOOKS == 0 and time.perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.perf_counter() + SLICE_SECONDS

    def listing_now(self, buyer: Buyer, service: str | None = None, country: int | None = None) -> Iterator[Row]:
        """As `listing`, without pausing: for one service and country, the command line and tests."""
        return (row for row in self._rows(buyer, service, country) if row is not None)

    def list_key(self, buyer: Buyer) -> Hashable:
        """What a buyer's listings depend on beside `generation`: of two buyers with one key both see the same."""
        pricing, routes, ladder = self._view.pricing, self._view.routes, buyer.ladder
        names = pricing.alias(priced_as(buyer)), routes.alias(buyer.account_name)
        return *names, ladder.steps, buyer.currency, buyer.is_demo, buyer.allowed

    def operators(self, country: int, buyer: Buyer) -> list[str]:
        """Operators this caller can name in a country, sorted."""
        words: set[str] = set()
        if buyer.allowed.countries is not None and country not in buyer.allowed.countries:
            return []
        for source in self._sources(buyer):
            if source.entry.seller is None and source.table is not None:
                words |= source.table.operators(country)
            # A rule has no list of operators; what it sells of one service tells them all.
            elif self._view.services:
                words |= {offer.operator for offer in source.at(self._view.services[0], country)}
        return sorted(words - {""})

    # One order

    def _offers(self, entry: UpstreamEntry, service: str, country: int) -> Sequence[Offer]:
        if entry.seller is not None:
            return entry.seller.offers_for(service, country)
        shelf = self._shelves.get(entry.name)
        return () if shelf is None else shelf.at(service, country)

    def _candidates(self, view: View, price: Pricer, offers: Iterable[Offer]) -> list[Candidate]:
        return [Candidate(offer, price(offer), self._value(view, offer)) for offer in offers]

    def _value(self, view: View, offer: Offer) -> float:
        """Expected cost of one delivered code. Nought without an exchange rate: then there is no price to rank."""
        chance = self.health.chance(offer.upstream, offer.country, offer.service, offer.success_rate)
        return (view.pricing.house_micros(offer.cost) or 0.0) / chance

    def _facts(self, entry: UpstreamEntry, buyer: Buyer, now: float, is_in_doubt: bool = False) -> Facts:
        shelf = self._shelves.get(entry.name, _BARE)
        stale = self._view.rates_stale_seconds(now)
        is_exchanged = (
            stale is not None and len({entry.currency, buyer.currency, self._view.pricing.house_currency}) > 1
        )
        circuit = self.health.state(entry.name) if self.health.is_open(entry.name) else None
        return Facts(
            name=entry.name,
            tier=entry.tier,
            priority=entry.priority,
            serves_demo=entry.serves_demo,
            is_enabled=entry.is_enabled,
            is_drained=entry.name in self._drained,
            is_overexposed=entry.name in self._overexposed,
            is_in_doubt=is_in_doubt,
            list_age_seconds=0.0 if entry.seller is not None else _age_seconds(shelf, now),
            list_age_max_seconds=entry.list_age_max_seconds,
            list_error=shelf.error,
            rates_stale_seconds=stale if is_exchanged else None,
            circuit=circuit,
            circuit_seconds_left=0.0 if circuit is None else (circuit.open_until or now) - now,
        )

    # Whole lists

    def _sources(self, buyer: Buyer) -> list[_Source]:
        """Every upstream that may serve this caller at all."""
        terms, now = _any_terms(buyer), self._clock()
        found = ((entry, self._facts(entry, buyer, now)) for entry in self._view.entries)
        return [
            _Source(entry, facts, self._shelves.get(entry.name, _BARE).table)
            for entry, facts in found
            if barrier(facts, terms) is None
        ]

    def _rows(
        self, buyer: Buyer, service: str | None, country: int | None, operators: frozenset[str] = frozenset()
    ) -> Iterator[Row | None]:
        """A row for each pair in question, None where nothing is for sale: looking takes time as well."""
        view, sources, terms, allowed = self._view, self._sources(buyer), _any_terms(buyer), buyer.allowed
        price = pricer(view.pricing, buyer)
        for pair in _pairs(view, sources, service, country):
            if allowed is not EVERYTHING and not allowed.sells(*pair):
                yield None
                continue
            listed = self._listed(view, sources, buyer, price, terms, pair, operators)
            yield None if listed is None else Row(pair[1], pair[0], listed.price, listed.count)

    def _listed(
        self,
        view: View,
        sources: Iterable[_Source],
        buyer: Buyer,
        price: Pricer,
        terms: Terms,
        pair: Pair,
        operators: frozenset[str],
    ) -> Listed | None:
        service, country = pair
        route = view.routes.route(service, country, buyer.account_name)
        stalls = [
            (source.facts, offers)
            for source in sources
            if (offers := _of_operators(source.at(service, country), operators))
            and self._may_sell(source.entry.name, route, pair)
        ]
        if len(stalls) == 1 and len(stalls[0][1]) == 1:
            return _sole(price, stalls[0][1][0], terms.price_limit)
        return list_price(
            (Stall(facts, self._candidates(view, price, offers)) for facts, offers in stalls), terms, route
        )

    def _may_sell(self, upstream: str, route: Route, pair: Pair) -> bool:
        return named(upstream, route) is None and not self.health.is_blocked(upstream, *pair)


_BARE = _Shelf()
"""Stands for the price list nobody has brought yet."""


def _terms(buyer: Buyer, order: Order) -> Terms:
    if order.price_max is not None and order.price_max.currency != buyer.currency:
        raise ValueError(f"a cap in {order.price_max.currency} for an account in {buyer.currency}")
    words, limit = _operator_words(order.operator), buyer.allowed.price_max
    return Terms(buyer.currency, buyer.is_demo, words, order.price_max, limit)


def _any_terms(buyer: Buyer) -> Terms:
    """Those of a caller who asks for nothing in particular."""
    return Terms(buyer.currency, buyer.is_demo, price_limit=buyer.allowed.price_max)


def _operator_words(operator: str) -> frozenset[str]:
    """Operators in a comma-separated list, lower case; `any` says nothing."""
    if not operator:
        return _ANY
    return frozenset(word.strip() for word in operator.lower().split(",")) - {"", "any"}


def _of_operators(offers: Sequence[Offer], operators: frozenset[str]) -> Sequence[Offer]:
    return offers if not operators else [offer for offer in offers if offer.operator.lower() in operators]


_ANY: frozenset[str] = frozenset()


def _age_seconds(shelf: _Shelf, now: float) -> float | None:
    return None if shelf.table is None else now - shelf.fetched_at


def _sole(price_of: Pricer, offer: Offer, limit: int | None) -> Listed | None:
    """What a single offer lists as: nothing has to be compared, and most pairs of a long list have no more."""
    price = price_of(offer)
    if price is None or offer.count <= 0 or (limit is not None and price.micros > limit):
        return None
    return Listed(price, offer.count)


def _shared(found: Shortlist, pricing: Pricing, buyer: Buyer) -> Shortlist:
    """With what each level pays of every quote, which only those who buy need to know."""
    if not buyer.ladder.steps:
        return found
    ranked = ((one, quote(pricing, one.quote.offer, buyer)) for one in found.ranked)
    return replace(found, ranked=tuple(replace(one, quote=priced or one.quote) for one, priced in ranked))


def _pairs(view: View, sources: Sequence[_Source], service: str | None, country: int | None) -> Iterable[Pair]:
    """The pairs worth looking at, by country: those on the lists, or the catalogue's where asked to narrow it down
    or where a rule may sell anything."""
    if service is None and country is None and all(source.entry.seller is None for source in sources):
        return _merged([source.table for source in sources if source.table is not None])
    countries = view.countries if country is None else (country,)
    services = view.services if service is None else (service,)
    return ((code, number) for number, code in product(countries, services))


def _merged(tables: Sequence[OfferTable]) -> Iterator[Pair]:
    """Every pair on any of the lists, once, in the order they all share."""
    if len(tables) == 1:
        yield from tables[0].pairs()
        return
    previous = None
    for pair in heapq.merge(*(table.pairs() for table in tables), key=_place_in_table):
        if pair != previous:
            previous = pair
            yield pair


def _place_in_table(pair: Pair) -> tuple[int, int, str]:
    """An OfferTable is sorted by country, then by the service code as a number: shorter codes first."""
    return pair[1], len(pair[0]), pair[0]
