"""Price lists of upstreams with a protocol of their own, once an adapter has told where what stands in its rows.

Pure and importable by name, for another process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from adapters._values import Unreadable, in_stock, micros
from gateway.errors import Unwell
from gateway.money import MICROS
from gateway.upstream import OfferTable

Row = tuple[str, int, int, int, str, float | None]


@dataclass(frozen=True)
class Sheet:
    """How to read one upstream's list: its words to our codes."""

    upstream: str
    currency: str
    services: Mapping[str, str]
    countries: Mapping[str, int]


class Listed(NamedTuple):
    """A row as it came. The names are what the list itself explains its words with; `percent` is what delivers."""

    country: str
    service: str
    price: object
    stock: object
    operator: str = ""
    percent: object = None
    country_name: str = ""
    service_name: str = ""


def tabulate(listed: Iterable[Listed], sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The list in columns, and how many numbers were left out, by unknown country or service.

    Raises Unwell where `listed`, which may be read from the body as it goes, turns out to be Unreadable, or every row
    of it does.
    """
    unmapped: Counter[str] = Counter()
    return in_columns(_rows(listed, sheet, unmapped), sheet, unmapped), unmapped


def in_columns(rows: Iterable[Row], sheet: Sheet, unmapped: Counter[str]) -> OfferTable:
    """The rows as a table; reading them fills `unmapped`. Raises Unwell where they are, or every one is, Unreadable."""
    try:
        table = OfferTable(sheet.upstream, sheet.currency, rows)
    except Unreadable:
        table = None
    if table is None or (not len(table) and set(unmapped) == {"unreadable"}):
        raise Unwell("the price list is unreadable")
    return table


def _rows(listed: Iterable[Listed], sheet: Sheet, unmapped: Counter[str]) -> Iterator[Row]:
    for row in listed:
        country, service = sheet.countries.get(row.country), sheet.services.get(row.service)
        try:
            stock = in_stock(row.stock)
            if country is None:
                unmapped[_unknown("country", row.country, row.country_name)] += stock
            elif service is None:
                unmapped[_unknown("service", row.service, row.service_name)] += stock
            else:
                yield service, country, micros(row.price), stock, row.operator, _rate(row.percent)
        except Unreadable:  # one odd row must not hide the others
            unmapped["unreadable"] += 1


def _unknown(kind: str, word: str, name: str) -> str:
    return f"{kind} {word} ({name})" if name else f"{kind} {word}"


def _rate(percent: object) -> float | None:
    """Success rate 0 to 1, or None where the list tells none."""
    if percent is None:
        return None
    return min(1.0, max(0.0, micros(percent) / (100 * MICROS)))
