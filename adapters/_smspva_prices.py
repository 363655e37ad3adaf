"""SMSPVA's price list, which is two: prices, and counts by operator. Pure, for another process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters import _prices as prices
from adapters._values import Unreadable, in_stock, load_json, mapping, micros
from adapters._words import plain
from gateway.errors import Unwell
from gateway.upstream import OfferTable


@dataclass(frozen=True)
class Sheet(prices.Sheet):
    """With codes that have no word yet, by their plain names."""

    by_name: Mapping[str, str]


@dataclass(frozen=True)
class PriceList:
    """Offers, numbers in stock under each word without a code of ours, and words learnt by their names."""

    table: OfferTable
    unmapped: Counter[str]
    learnt: Mapping[str, str]


def codes_by_name(names: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Plain name to code, for codes without a word. A name that two of our services share is left out."""
    plain_names = Counter(plain(name) for name in names.values())
    return {plain(name): code for code, name in names.items() if code not in known and plain_names[plain(name)] == 1}


def parse_prices(costs: bytes, counts: bytes, sheet: Sheet) -> PriceList:
    """The two lists as one.

    Pure and importable by name: runs in another process. Raises Unwell where a body is no list.
    """
    price_rows, stock = _list_of(costs), _stock(_list_of(counts))
    learnt = dict(_learnt(price_rows, sheet))
    services = {**sheet.services, **{word: code for code, word in learnt.items()}}
    cheapest: dict[tuple[str, str], int] = {}
    unmapped: Counter[str] = Counter()
    for row in price_rows:
        key = str(row.get("service")), str(row.get("country"))
        count = stock.get(key, 0)
        if not count:
            continue
        if key[0] not in services or key[1] not in sheet.countries:
            unmapped[_unknown_word(row, sheet.countries)] += count
            continue
        try:
            cheapest[key] = min(micros(row.get("price")), cheapest.get(key, 1 << 62))
        except Unreadable:
            continue
    rows = (
        (services[service], sheet.countries[country], price, stock[service, country], "", None)
        for (service, country), price in cheapest.items()
    )
    return PriceList(OfferTable(sheet.upstream, sheet.currency, rows), unmapped, learnt)


def _list_of(body: bytes) -> list[Mapping[str, Any]]:
    try:
        fields = mapping(load_json(body))
        data = fields.get("data") if fields.get("statusCode") == 200 else None
    except Unreadable:
        data = None
    if not isinstance(data, list):
        raise Unwell("the price list is unreadable")
    return [row for row in data if isinstance(row, dict)]


def _stock(rows: list[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Numbers of each service and country, all operators together: prices are not told by operator."""
    stock: Counter[tuple[str, str]] = Counter()
    for row in rows:
        services = row.get("services")
        for service in services if isinstance(services, list) else ():
            if isinstance(service, dict):
                stock[str(service.get("service")), str(row.get("country"))] += in_stock(service.get("total"))
    return stock


def _learnt(rows: list[Mapping[str, Any]], sheet: Sheet) -> Iterator[tuple[str, str]]:
    """Code and word of each service that has a name of ours and no word yet; of two such words the first."""
    seen: set[str] = set()
    for row in rows:
        word, code = str(row.get("service")), sheet.by_name.get(plain(str(row.get("serviceDescription") or "")))
        if code is not None and code not in seen and word not in sheet.services:
            seen.add(code)
            yield code, word


def _unknown_word(row: Mapping[str, Any], countries: Mapping[str, int]) -> str:
    if str(row.get("country")) not in countries:
        return f"country {str(row.get('country'))[:40]}"
    return f"service {str(row.get('service'))[:40]} ({str(row.get('serviceDescription') or '?')[:40]})"
