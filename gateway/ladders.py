"""From the operator's price down to a buyer's: what every account adds for those below it. Pure.

The operator's price is that of the account at the top (`pricing`, by that account's name). Each account on the way down
has rules of its own, of which the first that matches says what the account below it pays:

    price = paid × (1 + percent) + add, rounded up to the rule's step, never less than what was paid

so prices never fall on the way down, and rise with the one above: the ladder keeps the order of prices, and of two
costs the lower one is charged at every level. Without a matching rule the price is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.model import Offer, Quote
from gateway.money import MAX_MICROS, MICROS, PRICE_STEP_MICROS, Money
from gateway.pricing import REMEMBERED, Pricing


@dataclass(frozen=True, slots=True)
class Markup:
    """One rule. No services or countries stand for any; 1 % is 10,000 millionths."""

    services: frozenset[str] = frozenset()
    countries: frozenset[int] = frozenset()
    percent_millionths: int = 0
    add_micros: int = 0
    step_micros: int = PRICE_STEP_MICROS

    def is_for(self, service: str, country: int) -> bool:
        return (not self.services or service in self.services) and (not self.countries or country in self.countries)

    def price_micros(self, paid_micros: int) -> int:
        """What the account below pays where this one pays so much; up to what a ledger can hold."""
        wanted = paid_micros * (MICROS + self.percent_millionths) + self.add_micros * MICROS
        price = -(-wanted // (self.step_micros * MICROS)) * self.step_micros
        return max(paid_micros, min(price, MAX_MICROS))


AS_IT_IS = Markup()
"""Passes the price on."""

Rung = tuple[Markup, ...]
"""What one account says of the account below it, first match first."""


@dataclass(frozen=True)
class Ladder:
    """Everything between the operator's price and one buyer's: the accounts above it by name, the top first, and the
    rung of each."""

    names: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    steps: tuple[Rung, ...] = field(init=False, repr=False, compare=False)
    """The rungs that say anything: two ladders with the same steps make the same of a price."""

    _services: frozenset[str] = field(init=False, repr=False, compare=False)
    _countries: frozenset[int] = field(init=False, repr=False, compare=False)
    _found: dict[tuple[str, int], tuple[Markup, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        steps = tuple(rung for rung in self.rungs if rung)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(
            self, "_services", frozenset(name for rung in steps for one in rung for name in one.services)
        )
        object.__setattr__(
            self, "_countries", frozenset(number for rung in steps for one in rung for number in one.countries)
        )
        object.__setattr__(self, "_found", {})

    def markups(self, service: str, country: int) -> tuple[Markup, ...]:
        """The rule of each account above the buyer, the top first. Remembered; what no rule names is all alike."""
        key = (service if service in self._services else "", country if country in self._countries else -1)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            found = self._found[key] = tuple(_first(rung, *key) for rung in self.rungs)
        return found

    def price_micros(self, service: str, country: int, top_micros: int) -> int:
        """What the buyer pays where the account at the top pays so much."""
        micros = top_micros
        for markup in self.markups(service, country):
            if markup is not AS_IT_IS:
                micros = markup.price_micros(micros)
        return micros

    def shares(self, service: str, country: int, top_micros: int) -> tuple[int, ...]:
        """What each account pays, from the top to the buyer; nothing where all pay the same anyway."""
        if not self.steps:
            return ()
        found = [top_micros]
        for markup in self.markups(service, country):
            found.append(markup.price_micros(found[-1]))
        return tuple(found)


FLAT = Ladder()
"""That of an account nobody is above."""


class Customer(Protocol):
    """What has to be known of a buyer to price an offer."""

    @property
    def account_name(self) -> str: ...

    @property
    def currency(self) -> str: ...

    @property
    def ladder(self) -> Ladder: ...


def priced_as(customer: Customer) -> str:
    """The account whose name the operator's prices go by: the one at the top."""
    names = customer.ladder.names
    return names[0] if names else customer.account_name


def pricer(pricing: Pricing, customer: Customer) -> Callable[[Offer], Money | None]:
    """What a customer pays for offers; None for those in a currency without a known rate."""
    ladder, name, currency, price = customer.ladder, priced_as(customer), customer.currency, pricing.price
    if not ladder.steps:
        return lambda offer: price(offer, name, currency)

    def through_ladder(offer: Offer) -> Money | None:
        top = price(offer, name, currency)
        if top is None:
            return None
        return Money(ladder.price_micros(offer.service, offer.country, top.micros), currency)

    return through_ladder


def quote(pricing: Pricing, offer: Offer, customer: Customer) -> Quote | None:
    """An offer priced, with what each level pays. None where no exchange rate is known."""
    top = pricing.price(offer, priced_as(customer), customer.currency)
    if top is None:
        return None
    shares = customer.ladder.shares(offer.service, offer.country, top.micros)
    return Quote(offer, Money(shares[-1], top.currency) if shares else top, shares)


def cost_ceiling(pricing: Pricing, offer: Offer, held: Money, shares: tuple[int, ...], customer: Customer) -> Money:
    """The most we may pay upstream so that no level pays more than is held of it, in the upstream's currency.

    Levels rise with the operator's price, so what is held of the account at the top bounds them all. The offer's own
    cost where no cost fits, or where there is no exchange rate.
    """
    top = Money(shares[0], held.currency) if shares else held
    return pricing.cost_ceiling(offer, top, priced_as(customer)) or offer.cost


def _first(rung: Rung, service: str, country: int) -> Markup:
    return next((markup for markup in rung if markup.is_for(service, country)), AS_IT_IS)
