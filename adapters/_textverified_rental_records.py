"""TextVerified's answers about rentals, read: sales, rentals, extensions, wake requests. Facts: §6 of its notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from adapters._http import Reply
from adapters._rentals import rental_reference
from adapters._textverified_records import PREFIX, Flag, Record, Text, parse, purchase_error, readable
from adapters._values import Digits, Reference, Unreadable, cost, mapping, moment
from gateway.errors import Unwell
from gateway.model import Lease, LeaseState

DURATIONS = {
    "oneDay": 24,
    "threeDay": 72,
    "sevenDay": 168,
    "fourteenDay": 336,
    "thirtyDay": 720,
    "ninetyDay": 2160,
    "oneYear": 8760,
}
"""Its words for how long a rental lasts, in hours."""

_STATES = {
    "nonrenewableactive": LeaseState.OPEN,
    "nonrenewableexpired": LeaseState.FINISHED,
    "nonrenewablerefunded": LeaseState.CANCELLED,
}
"""In small letters. Those of renewable rentals are left out: none is bought."""


class _Refund(Record):
    can_refund: Flag = False


class Rental(Record):
    """A rental as its own address and, with fewer members, the list show it."""

    id: Reference
    number: Digits
    state: str
    service_name: Text = ""
    created_at: Text = ""
    ends_at: Text = ""
    always_on: Flag = False
    sale_id: Text = ""
    refund: _Refund | None = None

    @property
    def lease_state(self) -> LeaseState | None:
        """None where the state is a word never seen."""
        return _STATES.get(self.state.lower())

    @property
    def is_open(self) -> bool:
        return self.lease_state is LeaseState.OPEN

    @property
    def can_refund(self) -> bool:
        return self.refund is not None and self.refund.can_refund

    def lease(self, currency: str, total: str | None) -> Lease:
        """`total` is that of its sale."""
        number = PREFIX + self.number if len(self.number) == 10 else self.number
        return Lease(rental_reference(self.id), number, cost(total, currency), expires_at=moment(self.ends_at))


class _Reserved(Record):
    id: Reference


class Sale(Record):
    """What a purchase makes first. Rentals are in it once it has succeeded."""

    state: str
    total: str | None = None
    reservations: tuple[_Reserved, ...] = ()

    @property
    def has_failed(self) -> bool:
        return self.state.lower() == "failed"

    @property
    def rental_id(self) -> str:
        """Empty while there is none, or more than the one that was bought."""
        return self.reservations[0].id if len(self.reservations) == 1 else ""


def seen_rental(reply: Reply) -> Rental | None:
    """A rental in a state that is known, or None where there is none. Raises Unreadable, Unwell."""
    rental = None if reply.status == 404 else parse(Rental, readable(reply))
    if rental is not None and rental.lease_state is None:
        raise Unwell("an unknown state")
    return rental


def read_sale(reply: Reply) -> Sale:
    """Raises Unreadable, Unwell."""
    return parse(Sale, readable(reply))


def every_rental(rows: Sequence[dict[str, Any]]) -> list[Rental]:
    """Raises Unwell where one can't be read: it may be the one that is looked for."""
    try:
        return [parse(Rental, row) for row in rows]
    except Unreadable:
        pass
    raise Unwell("a rental in the list is unreadable")


def extended(sold_out: frozenset[str]) -> Callable[[Reply], float | None]:
    """A reader of the answer to an extension: when the rental ends now, None where that is not told.

    It raises the error of a purchase.
    """

    def read(reply: Reply) -> float | None:
        if reply.status not in (200, 201, 204):
            raise purchase_error(reply, sold_out)
        if not reply.body:
            return None
        data = mapping(reply.json())
        if isinstance(data.get("href"), str):
            return None
        end = moment(data.get("newEndsAt"))
        if end is None:
            raise Unreadable("no end")
        return end

    return read


def wake_href(reply: Reply) -> str:
    """Where a wake request that was made can be seen. Raises Unreadable, Unwell."""
    if reply.status not in (200, 201):
        raise Unwell(f"status {reply.status}")
    href = mapping(reply.json()).get("href")
    if not isinstance(href, str):
        raise Unreadable("no link")
    return href


def awake_until(reply: Reply) -> float | None:
    """Until when a number is awake, or will be; None where it was not scheduled. Raises Unreadable, Unwell."""
    data = mapping(readable(reply))
    return moment(data.get("usageWindowEnd")) if data.get("isScheduled") is True else None
