"""Price lists of the `handler_api.php` family. Pure and importable by name: runs in another process, on megabytes.

Shapes met (`protocol/handler_api.md` §5.5, §5.6, `upstreams/handler_api_family.md` §2), told apart leaf by leaf:

    {"cost": 0.2, "count": 9, "physicalCount": 5}     SMS-Activate, HeroSMS; cost in text: Tiger; `price`: DS
    {"0.15": 123, "0.20": 4}                          SMSHub, SMSBower V2: price → count
    {"prices": {"0.25": 41}, …}                       Tiger V2: the same, cumulative
    {"1011": {"count": 5, "price": 0.2}}              V3: by provider; Tiger puts these under `providers`
    0.22                                              privatesms.vip
    []                                                an empty map, as PHP writes it

Counts: HeroSMS sells what `physicalCount` says, `count` may be huge beside it. A leaf without a count (DS SMS HUB,
privatesms.vip) sells an unknown number, counted as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from adapters import _prices
from adapters._values import Unreadable, load_json, mapping, micros
from gateway.upstream import OfferTable

UNKNOWN_COUNT = 1


@dataclass(frozen=True)
class Sheet(_prices.Sheet):
    """How to read one member's list."""

    services_first: bool = False
    is_cumulative: bool = False
    providers: frozenset[str] = frozenset()
    excluded_providers: frozenset[str] = frozenset()

    def has(self, provider: str) -> bool:
        return provider not in self.excluded_providers and (not self.providers or provider in self.providers)


def parse_prices(body: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price list in columns, and how many numbers under each unknown country or service were left out.

    Raises Unwell where the body is no price list (large lists were seen truncated), or nothing in it can be read.
    """
    unmapped: Counter[str] = Counter()
    return _prices.in_columns(_rows(body, sheet, unmapped), sheet, unmapped), unmapped


def _rows(body: bytes, sheet: Sheet, unmapped: Counter[str]) -> Iterator[_prices.Row]:
    for service_word, country_word, leaf in _leaves(load_json(body), sheet.services_first):
        try:
            ladder = _ladder(leaf, sheet)
        except Unreadable:  # one odd row must not hide the others
            unmapped["unreadable"] += 1
            continue
        service, country = sheet.services.get(service_word), sheet.countries.get(country_word)
        if service is not None and country is not None:
            for cost, count in ladder:
                yield service, country, cost, count, "", None
        elif in_stock := sum(max(0, count) for _, count in ladder):
            unmapped[f"country {country_word}" if country is None else f"service {service_word}"] += in_stock


def _leaves(data: Any, services_first: bool) -> Iterator[tuple[str, str, Any]]:
    for outer, inner_map in mapping(data).items():
        for inner, leaf in mapping(inner_map).items():
            yield (outer, inner, leaf) if services_first else (inner, outer, leaf)


def _ladder(leaf: Any, sheet: Sheet) -> Iterable[tuple[int, int]]:
    """(cost in micro-units, count) of one leaf."""
    if not isinstance(leaf, dict | list):
        return [(_micros(leaf), UNKNOWN_COUNT)]
    leaf = mapping(leaf)
    if "providers" in leaf:
        return _by_provider(mapping(leaf["providers"]), sheet)
    if "prices" in leaf:
        return _by_price(mapping(leaf["prices"]), sheet.is_cumulative)
    if "cost" in leaf or "price" in leaf:
        return [_single(leaf)]
    if any(isinstance(value, dict) for value in leaf.values()):
        return _by_provider(leaf, sheet)
    return _by_price(leaf, sheet.is_cumulative)


def _single(leaf: Mapping[str, Any]) -> tuple[int, int]:
    """A list of prices (V3) is sold up to its highest: that one surely buys."""
    price = leaf["cost"] if "cost" in leaf else leaf["price"]
    costs = [_micros(value) for value in price] if isinstance(price, list) else [_micros(price)]
    return max(costs, default=0), _count(leaf) if costs else 0


def _by_provider(leaf: Mapping[str, Any], sheet: Sheet) -> list[tuple[int, int]]:
    offers = {name: offer for name, offer in leaf.items() if isinstance(offer, dict) and "price" in offer}
    if leaf and not offers:
        raise Unreadable("no provider has a price")
    return [_single(offer) for provider, offer in offers.items() if sheet.has(provider)]


def _by_price(leaf: Mapping[str, Any], is_cumulative: bool) -> list[tuple[int, int]]:
    """A cumulative ladder counts, at each price, all that is cheaper too; made plain here."""
    if any(isinstance(count, dict | list) for count in leaf.values()):
        raise Unreadable("not a count")
    steps = sorted((_micros(price), _whole(count)) for price, count in leaf.items())
    if not is_cumulative:
        return steps
    below = [0, *(count for _, count in steps)]
    return [(price, max(0, count - less)) for (price, count), less in zip(steps, below, strict=False)]


def _count(leaf: Mapping[str, Any]) -> int:
    for name in ("physicalCount", "count"):
        if leaf.get(name) is not None:
            return _whole(leaf[name])
    return UNKNOWN_COUNT


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0  # "more than 100" and the like: not a count we can sell from


@lru_cache(maxsize=8192)
def _cached_micros(value: str | int) -> int:
    return micros(value)


def _micros(value: Any) -> int:
    """Prices repeat a thousand times over in one list."""
    return _cached_micros(value) if isinstance(value, str | int) else micros(value)
