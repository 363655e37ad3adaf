"""Conditions on who sells and for how much: kept or refused, in every action that buys.

Seen from outside everything here comes from one provider: the house, by the id that price lists show.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING

from compat._reply import is_true
from gateway.errors import NoNumbers
from gateway.money import Money, MoneyError, to_micros

OUR_PROVIDER = "1"


def is_elsewhere(values: Mapping[str, str]) -> bool:
    """Whether another provider is asked for."""
    wanted = _ids(values.get("providerIds"))
    return bool(wanted) and OUR_PROVIDER not in wanted


def is_unwanted(values: Mapping[str, str]) -> bool:
    """Whether our provider is not wanted."""
    return OUR_PROVIDER in _ids(values.get("exceptProviderIds"))


def names_a_price(values: Mapping[str, str]) -> bool:
    """Whether there are conditions on the listed price, which takes a look to know."""
    return "minPrice" in values or is_true(values.get("fixedPrice"))


def require_minimum(values: Mapping[str, str], listed: Money | None) -> None:
    """Raises NoNumbers where the listed price is below `minPrice`, and where that is no amount."""
    least = values.get("minPrice")
    if least is None:
        return
    try:
        micros = to_micros(least, rounding=ROUND_CEILING)
    except MoneyError:
        raise NoNumbers from None
    if listed is None or listed.micros < micros:
        raise NoNumbers


def is_other_price(values: Mapping[str, str], listed: Money | None, cap: Money | None) -> bool:
    """Whether `fixedPrice` can't be kept to: exactly at the highest price or not at all."""
    if not is_true(values.get("fixedPrice")):
        return False
    return cap is None or listed is None or listed.micros != cap.micros


def _ids(value: str | None) -> frozenset[str]:
    """Ids in a comma-separated list."""
    return frozenset(part.strip() for part in (value or "").split(",")) - {""}
