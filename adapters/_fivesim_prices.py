"""5sim's prices: the whole list, one product's, and those of rentals ("hosting"). Facts: §3 of its notes.

Pure; `parse_prices` is importable by name, for another process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters._fivesim_orders import call_error
from adapters._http import Reply
from adapters._prices import Listed, Sheet, tabulate
from adapters._rentals import long_enough
from adapters._values import Unreadable, in_stock, load_json, mapping, micros
from gateway.upstream import OfferTable

HOSTING = {"3hours": 3, "1day": 24, "10days": 240, "1month": 720}
"""Its products for rentals, and the hours they last. They receive for every service."""

_NOT_SOLD = frozenset({"no product", "bad product", "product is incorrect"})


@dataclass(frozen=True, slots=True)
class Rent:
    """A rental that is in stock; `cost` in micro-units."""

    product: str
    hours: int
    cost: int
    count: int


def price_body(reply: Reply) -> bytes:
    """The whole list, unread. Raises Unwell."""
    if reply.status != 200 or not reply.body.lstrip()[:1] == b"{":
        raise call_error(reply)
    return reply.body


def parse_prices(body: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price list in columns, one row for each operator, and how many numbers of each unknown word are in stock.

    Raises Unwell where the body is no price list.
    """
    return tabulate(_listed(body, sheet), sheet)


def _listed(body: bytes, sheet: Sheet) -> Iterator[Listed]:
    """A leaf is `{"cost": 0.21, "count": 321, "rate": 87.5}`; further `rate…` columns of newer answers are ignored."""
    for country, product, operators in _cells(mapping(load_json(body)), sheet):
        for operator, leaf in operators.items():
            fields = leaf if isinstance(leaf, dict) else {}
            yield Listed(country, product, fields.get("cost"), fields.get("count"), operator, fields.get("rate"))


def _cells(data: Mapping[str, Any], sheet: Sheet) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(country, product, operators): the whole list is nested by country first, a product's own by product (§3)."""
    for outer, inner in data.items():
        by_product = outer in sheet.services and outer not in sheet.countries
        for word, cell in mapping(inner or []).items():
            operators = mapping(cell or [])  # `null`: the country does not sell it
            if word not in HOSTING:
                yield (word, outer, operators) if by_product else (outer, word, operators)


def cost_at(country: str, product: str, operator: str) -> Callable[[Reply], int | None]:
    """A reader of one country's prices for one product: the operator's in micro-units, None where it has none."""

    def read(reply: Reply) -> int | None:
        if reply.status != 200:
            raise call_error(reply)
        products = mapping(mapping(reply.json() or {}).get(country) or {})
        leaf = mapping(mapping(products.get(product) or {}).get(operator) or {})
        return micros(leaf["cost"]) if "cost" in leaf else None

    return read


def rent_countries(product: str) -> Callable[[Reply], set[str]]:
    """A reader of one product's prices: its words for the countries that have it in stock."""

    def read(reply: Reply) -> set[str]:
        if reply.status in (301, 302) or (reply.status == 400 and reply.text.lower() in _NOT_SOLD):
            return set()
        if reply.status != 200:
            raise call_error(reply)
        places = mapping(mapping(reply.json() or {}).get(product) or {})
        return {place for place, leaves in places.items() if _stock(leaves)}

    return read


def _stock(leaves: Any) -> int:
    return sum(in_stock(mapping(leaf).get("count")) for leaf in mapping(leaves or {}).values())


def read_rents(reply: Reply) -> tuple[Rent, ...]:
    """The rentals a country has in stock (`/guest/products`), the shortest first."""
    if reply.status != 200:
        raise call_error(reply)
    products = mapping(reply.json() or {})
    rents: list[Rent] = []
    is_odd = False
    for product, hours in long_enough(HOSTING, 0):
        try:
            rents += _rent(product, hours, mapping(products.get(product) or {}))
        except Unreadable:  # one odd row must not hide the others
            is_odd = True
    if is_odd and not rents:
        raise Unreadable("not one price")
    return tuple(rents)


def _rent(product: str, hours: int, fields: Mapping[str, Any]) -> tuple[Rent, ...]:
    count = in_stock(fields.get("Qty"))
    if not count or fields.get("Category") != "hosting":
        return ()
    return (Rent(product, hours, micros(fields.get("Price")), count),)


def shortest(rents: tuple[Rent, ...], hours: int) -> Rent | None:
    """The first that lasts at least so long."""
    return next((rent for rent in rents if rent.hours >= hours), None)
