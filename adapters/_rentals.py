"""What adapters that rent numbers out share: how a rental's reference is worded, which product lasts long enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_MARK = "rent:"

WHOLE_NUMBER = "full"
"""Our code for a number that receives for every service."""


def rental_reference(ident: str) -> str:
    """What a rental is called outside, so that its id is known from those of other leases."""
    return _MARK + ident


def rental_id(reference: str) -> str:
    """The upstream's id of a rental, or empty where the reference is that of another lease."""
    return reference.removeprefix(_MARK) if reference.startswith(_MARK) else ""


def long_enough(products: Mapping[str, int], hours: int) -> Iterator[tuple[str, int]]:
    """Products, by the hours they last, that last at least so many: the shortest first."""
    lasting = sorted((length, product) for product, length in products.items() if length >= hours)
    return ((product, length) for length, product in lasting)
