"""Conditions on who sells and for how much, as SMSBower and GrizzlySMS take them.

Seen from outside everything here comes from one provider: the house, by the id that price lists show.
"""

from __future__ import annotations

from decimal import ROUND_CEILING

from compat._reply import Call
from gateway.errors import NoNumbers
from gateway.model import Order
from gateway.money import MoneyError, to_micros
from gateway.offers import Market

OUR_PROVIDER = "1"


def require_seller(market: Market, call: Call, order: Order) -> None:
    """Raises NoNumbers where another provider is asked for, ours is not wanted, or ours sells below `minPrice`."""
    wanted, unwanted = ids(call.values.get("providerIds")), ids(call.values.get("exceptProviderIds"))
    if (wanted and OUR_PROVIDER not in wanted) or OUR_PROVIDER in unwanted:
        raise NoNumbers
    least = call.values.get("minPrice")
    if least is None:
        return
    try:
        micros = to_micros(least, rounding=ROUND_CEILING)
    except MoneyError:
        raise NoNumbers from None
    listed = next(market.listing_now(call.caller, order.service, order.country), None)
    if listed is None or listed.price.micros < micros:
        raise NoNumbers


def ids(value: str | None) -> frozenset[str]:
    """Ids in a comma-separated list."""
    return frozenset(part.strip() for part in (value or "").split(",")) - {""}
