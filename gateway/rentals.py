"""Numbers for a time, and what builds on a number one has: more time, another code, another service.

Everything is bought by `purchases` under the same rules as an activation; what is here is which upstream is asked, and
what a caller may do with a rental while it lasts. Every method names the caller it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gateway.accounts import Caller
from gateway.live import Live
from gateway.model import Order
from gateway.money import Money


@dataclass(frozen=True, slots=True)
class RentRow:
    """One line of a rental price list: `count` numbers for `hours` hours at `price` or below, the whole time."""

    service: str
    country: int
    hours: int
    price: Money
    count: int
    operators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extension:
    """More time a rental was given."""

    bought_at: float
    hours: int
    price: Money


@dataclass(frozen=True, slots=True)
class ExtraOffer:
    """What the number of an activation that is over would cost again."""

    price: Money
    service: str
    country: int
    number: str


class Rentals:
    """One per process."""

    async def countries(self, caller: Caller) -> Collection[int]:
        """Where this caller can rent anything now. Raises Unavailable."""
        raise NotImplementedError

    async def offers(self, caller: Caller, country: int, hours: int, operator: str = "") -> Sequence[RentRow]:
        """What this caller can rent there for at least `hours` hours: one row a service, the listed price.

        Raises BadCountry, Unavailable.
        """
        raise NotImplementedError

    async def open(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """Rents a number (`order.product` is RENTAL). `Live.expires_at` is the rental's end.

        Raises as `Purchases.open`.
        """
        raise NotImplementedError

    async def get(self, caller: Caller, rental_id: int) -> Live:
        """The caller's rental with all its messages. Raises UnknownActivation (of anything else too), Unavailable."""
        raise NotImplementedError

    async def rentals_of(self, caller: Caller, *, before: int, limit: int) -> list[Live]:
        """The caller's open rentals with ids below `before`, newest first. Raises Unavailable."""
        raise NotImplementedError

    async def finish(self, caller: Caller, rental_id: int) -> Live:
        """Ends it; what was paid stays paid. Safe to repeat. Raises UnknownActivation, NotAllowedNow, Unavailable."""
        raise NotImplementedError

    async def cancel(self, caller: Caller, rental_id: int) -> Live:
        """Gives it back while its money can still be had back: no message yet, and within the upstream's window.

        Safe to repeat. Raises UnknownActivation, NotAllowedNow, Unavailable.
        """
        raise NotImplementedError

    async def extension_price(self, caller: Caller, rental_id: int, hours: int) -> tuple[Money, int]:
        """What at least `hours` hours more cost, and how many they are.

        Raises UnknownActivation, NotAllowedNow (over, or not extensible by that), Unavailable.
        """
        raise NotImplementedError

    async def extend(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """Prolongs the rental `order.parent_id` by `order.hours`; the rental as it is then.

        Raises UnknownActivation, NotAllowedNow, NoBalance, TooManyOpen, PriceTooLow, Unavailable (also while an
        earlier extension of it is in doubt).
        """
        raise NotImplementedError

    async def extensions(self, caller: Caller, rental_id: int) -> Sequence[Extension]:
        """What it was prolonged by, oldest first. Raises UnknownActivation, Unavailable."""
        raise NotImplementedError

    async def extra_offer(self, caller: Caller, activation_id: int) -> ExtraOffer:
        """What another code on the number of an activation that is over would cost.

        Raises UnknownActivation, NotAllowedNow (not this number, not any more), Unavailable.
        """
        raise NotImplementedError

    async def open_extra(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """The number of `order.parent_id` again, for its service (`order.product` is AGAIN).

        Raises UnknownActivation, NotAllowedNow, and as `Purchases.open`.
        """
        raise NotImplementedError

    async def add_service(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """`order.service` on the number of the open activation `order.parent_id` (`order.product` is BESIDE).

        Raises UnknownActivation, NotAllowedNow (the upstream can't, or it has this service already), and as
        `Purchases.open`.
        """
        raise NotImplementedError

    async def open_many(self, caller: Caller, orders: Sequence[Order], is_gone: Callable[[], bool]) -> list[Live]:
        """One number for several services, all or none: where one can't be had, the others are given back.

        `orders` differ in their service alone. Raises as `Purchases.open`, and NoNumbers where no upstream can.
        """
        raise NotImplementedError
