"""What a caller pays for an offer, and what we may pay upstream for a price. Pure: nothing but the settings goes in.

A price is the larger of two straight lines over the cost, computed in whole numbers and rounded up once, at the end:

    by rule   fixed, or cost × (1 + percent) + add
    floor     cost × (1 + floor margin), unless the price is fixed and selling below cost is allowed

Rounding once is what makes `cost_ceiling` the exact inverse of `price`. `fixed` and `add` are in house currency.
Rentals have rules of their own, over the cost of their whole time: a fixed price for a code would be none for a month.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from math import lcm
from types import MappingProxyType
from typing import Generic, TypeVar

from gateway.model import Offer, Product
from gateway.money import MICROS, PRICE_STEP_MICROS, Money, round_down_to_step
from gateway.settings import PriceRule, PriceTerms, PricingSettings, RentalPricing, RentalRule, RentalTerms

REMEMBERED = 65_536
"""Entries a lookup keeps before it starts afresh."""

CLOCK_SKEW_SECONDS = 86_400.0
"""Rates may be dated at the end of the day they are of."""

NO_RATES: Mapping[str, Decimal] = MappingProxyType({})

R = TypeVar("R")

Selector = tuple[Collection[str], Collection[int], Collection[str], Collection[str]]
"""Services, countries, accounts, upstreams a rule is for; an empty one means any."""


class RuleBook(Generic[R]):
    """First match wins, remembered. Names no rule mentions are all alike, so what is remembered stays small."""

    __slots__ = ("_accounts", "_countries", "_default", "_found", "_rules", "_services", "_upstreams")

    def __init__(self, rules: Iterable[tuple[Selector, R]], default: R) -> None:
        self._rules: Sequence[tuple[Selector, R]] = tuple(rules)
        self._default = default
        self._services = frozenset(name for selector, _ in self._rules for name in selector[0])
        self._countries = frozenset(country for selector, _ in self._rules for country in selector[1])
        self._accounts = frozenset(name for selector, _ in self._rules for name in selector[2])
        self._upstreams = frozenset(name for selector, _ in self._rules for name in selector[3])
        self._found: dict[tuple[str, int, str, str], R] = {}

    def find(self, service: str, country: int, account: str, upstream: str = "") -> R:
        """The first rule for all four, or the default."""
        key = (
            service if service in self._services else "",
            country if country in self._countries else -1,
            account if account in self._accounts else "",
            upstream if upstream in self._upstreams else "",
        )
        found = self._found.get(key)
        return self._remember(key) if found is None else found

    def alias(self, account: str) -> str:
        """The account's name where a rule mentions it, else empty: all others are alike."""
        return account if account in self._accounts else ""

    def _remember(self, key: tuple[str, int, str, str]) -> R:
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        found = next((rule for selector, rule in self._rules if _matches(selector, key)), self._default)
        self._found[key] = found
        return found


def _matches(selector: Selector, key: tuple[str, int, str, str]) -> bool:
    return all(not wanted or have in wanted for wanted, have in zip(selector, key, strict=True))


@dataclass(frozen=True, slots=True)
class Tariff:
    """One rule between two currencies: price in steps = ⌈max(cost × slope + base, cost × floor) / divisor⌉.

    Costs are micro-units of the upstream's currency; all four numbers are whole, none is negative.
    """

    slope: int
    base: int
    floor: int
    divisor: int
    parity: Fraction
    """Account micro-units per upstream micro-unit."""

    def price_micros(self, cost_micros: int) -> int:
        """The price in the account's currency, a multiple of the price step."""
        wanted = cost_micros * self.slope + self.base
        least = cost_micros * self.floor
        return -(-(wanted if wanted > least else least) // self.divisor) * PRICE_STEP_MICROS

    def cost_micros(self, price_micros: int, known_micros: int) -> int | None:
        """The largest cost whose price is at most `price_micros`; None where even a cost of nought is dearer.

        Where the price does not depend on the cost there is no largest one. Then it is the cost we break even at,
        or `known_micros`, the cost seen when the offer was accepted: selling at a loss is allowed, an unseen one not.
        """
        budget = price_micros // PRICE_STEP_MICROS * self.divisor
        if budget < self.base:
            return None
        limits = [(budget - base) // slope for slope, base in ((self.slope, self.base), (self.floor, 0)) if slope]
        if limits:
            return min(limits)
        return max(known_micros, int(round_down_to_step(price_micros) / self.parity))


class Pricing:
    """Prices and exchange, for one version of the settings. Bounded caches inside, so keep one and share it."""

    def __init__(
        self,
        settings: PricingSettings,
        rates: Mapping[str, Decimal] = NO_RATES,
        rules: RuleBook[PriceTerms] | None = None,
    ) -> None:
        """`rates`: values of one unit of other currencies, in house currency. `rules`: those for codes unless given."""
        self.settings = settings
        self.house_currency = settings.currency
        self._given_rates = rates
        self._rates = {name: Fraction(rate) for name, rate in rates.items()}
        self._rates[settings.currency] = Fraction(1)
        self._house_micros = {name: float(rate) for name, rate in self._rates.items()}
        self._rules = rules or RuleBook(((_selector(rule), rule) for rule in settings.rule), settings.default)
        self._tariffs: dict[tuple[int, str, str], Tariff | None] = {}

    @cached_property
    def rentals(self) -> Pricing:
        """The same for rentals and their extensions."""
        return Pricing(self.settings, self._given_rates, _rental_rules(self.settings.rental))

    def alias(self, account_name: str) -> str:
        """As `RuleBook.alias`: two accounts of one alias and currency pay the same for everything."""
        return self._rules.alias(account_name)

    def of(self, product: Product) -> Pricing:
        """What an order for this is priced by."""
        return self.rentals if product in (Product.RENTAL, Product.EXTENSION) else self

    def price(self, offer: Offer, account_name: str, currency: str) -> Money | None:
        """What this account pays, in `currency`: a multiple of 0.0001. None where no exchange rate is known."""
        cost = offer.cost
        tariff = self.tariff(offer.service, offer.country, account_name, offer.upstream, cost.currency, currency)
        return None if tariff is None else Money(tariff.price_micros(cost.micros), currency)

    def cost_ceiling(self, offer: Offer, price_ceiling: Money, account_name: str) -> Money | None:
        """The most we may pay upstream so that the price stays within `price_ceiling`, in the upstream's currency.

        None where no cost fits under it, or no exchange rate is known. See `Tariff.cost_micros` for fixed prices.
        """
        cost = offer.cost
        tariff = self.tariff(
            offer.service, offer.country, account_name, offer.upstream, cost.currency, price_ceiling.currency
        )
        limit = None if tariff is None else tariff.cost_micros(price_ceiling.micros, cost.micros)
        return None if limit is None else Money(limit, cost.currency)

    def terms(self, offer: Offer, account_name: str) -> PriceTerms:
        """The rule an offer is priced by."""
        return self._rules.find(offer.service, offer.country, account_name, offer.upstream)

    def is_at_floor(self, offer: Offer, account_name: str, currency: str) -> bool:
        """Whether it is the least margin, not the rule, that makes the price."""
        cost = offer.cost
        tariff = self.tariff(offer.service, offer.country, account_name, offer.upstream, cost.currency, currency)
        return tariff is not None and cost.micros * tariff.floor > cost.micros * tariff.slope + tariff.base

    def convert(self, money: Money, currency: str) -> Money | None:
        """The same value in another currency, rounded up to a whole micro-unit. None where no rate is known."""
        if money.currency == currency:
            return money
        parity = self._parity(money.currency, currency)
        return None if parity is None else Money(-(-money.micros * parity.numerator // parity.denominator), currency)

    def house_micros(self, money: Money) -> float | None:
        """About how much it is worth in house currency: for comparing, never for charging."""
        rate = self._house_micros.get(money.currency)
        return None if rate is None else money.micros * rate

    def tariff(
        self, service: str, country: int, account_name: str, upstream: str, cost_currency: str, currency: str
    ) -> Tariff | None:
        """The line prices lie on, for pricing many costs at once. None where no exchange rate is known."""
        rule = self._rules.find(service, country, account_name, upstream)
        key = (id(rule), cost_currency, currency)
        try:
            return self._tariffs[key]
        except KeyError:
            return self._remember(key, rule)

    def _remember(self, key: tuple[int, str, str], rule: PriceTerms) -> Tariff | None:
        if len(self._tariffs) >= REMEMBERED:
            self._tariffs.clear()
        _, cost_currency, currency = key
        tariff = self._compile(rule, cost_currency, currency)
        self._tariffs[key] = tariff
        return tariff

    def _compile(self, rule: PriceTerms, cost_currency: str, currency: str) -> Tariff | None:
        parity, house = self._parity(cost_currency, currency), self._parity(self.house_currency, currency)
        if parity is None or house is None:
            return None
        floor = self.settings.floor
        slope, base = _line(rule)
        is_floored = rule.fixed is None or not floor.below_cost
        least = _grown(floor.margin_percent) if is_floored else Fraction(0)
        return _tariff(slope * parity, base * house * MICROS, least * parity, parity)

    def _parity(self, source: str, target: str) -> Fraction | None:
        """Units of `target` one unit of `source` is worth."""
        if source == target:
            return Fraction(1)
        source_rate, target_rate = self._rates.get(source), self._rates.get(target)
        return None if source_rate is None or target_rate is None else source_rate / target_rate


def rates_trouble_seconds(as_of_seconds: float | None, age_seconds_max: float, now: float) -> float | None:
    """The age of exchange rates that are older than allowed, or from the future (negative); None where they are good.

    Rates without a date are those of a deployment that needs none.
    """
    if as_of_seconds is None:
        return None
    age_seconds = now - as_of_seconds
    return None if -CLOCK_SKEW_SECONDS <= age_seconds <= age_seconds_max else age_seconds


def _selector(rule: PriceRule | RentalRule) -> Selector:
    return rule.services, rule.countries, rule.accounts, rule.upstreams


def _rental_rules(settings: RentalPricing) -> RuleBook[PriceTerms]:
    return RuleBook(((_selector(rule), _terms(rule)) for rule in settings.rule), _terms(settings))


def _terms(rental: RentalTerms) -> PriceTerms:
    return PriceTerms(percent=rental.percent, add=rental.add)


def _line(rule: PriceTerms) -> tuple[Fraction, Fraction]:
    """Slope over the cost, and the base in units of house currency."""
    if rule.fixed is not None:
        return Fraction(0), Fraction(rule.fixed)
    return _grown(rule.percent or Decimal(0)), Fraction(rule.add or 0)


def _grown(percent: Decimal) -> Fraction:
    """The factor that adds `percent`."""
    return 1 + Fraction(percent) / 100


def _tariff(slope: Fraction, base: Fraction, least: Fraction, parity: Fraction) -> Tariff:
    """Brings the three to one denominator, so that a price costs two multiplications and a division."""
    common = lcm(slope.denominator, base.denominator, least.denominator)
    slope_, base_, least_ = (int(value * common) for value in (slope, base, least))
    return Tariff(slope_, base_, least_, common * PRICE_STEP_MICROS, parity)
