"""Prices, their inverse and exchange: examples by hand, and what has to hold for any settings."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.model import Offer, Product
from gateway.money import PRICE_STEP_MICROS, Money, to_micros
from gateway.pricing import REMEMBERED, Pricing
from gateway.settings import FloorSettings, PriceRule, PriceTerms, PricingSettings, RentalPricing, RentalRule


def usd(text: str) -> Money:
    return Money(to_micros(text), "USD")


def offer(cost: str = "0.10", currency: str = "USD", **changes: Any) -> Offer:
    values: dict[str, Any] = {"upstream": "x", "service": "tg", "country": 1, "count": 5, **changes}
    return Offer(cost=Money(to_micros(cost), currency), **values)


def rule(terms: PriceTerms, **selectors: frozenset[Any]) -> PriceRule:
    """Selectors are set after validation, which would want the catalogue to check countries against."""
    return PriceRule(**terms.model_dump()).model_copy(update=selectors)


def percent(text: str, add: str | None = None) -> PriceTerms:
    return PriceTerms(percent=Decimal(text), add=None if add is None else Decimal(add))


def fixed(text: str) -> PriceTerms:
    return PriceTerms(fixed=Decimal(text))


def pricing(default: PriceTerms, *rules: PriceRule, margin: str = "0", below_cost: bool = False) -> Pricing:
    return Pricing(
        PricingSettings(
            default=default,
            rule=rules,
            floor=FloorSettings(margin_percent=Decimal(margin), below_cost=below_cost),
        ),
        {"RUB": Decimal("0.0125"), "EUR": Decimal("1.1")},
    )


def test_percent_and_add_go_on_top_of_the_cost() -> None:
    assert pricing(percent("20", "0.01")).price(offer("0.10"), "acme", "USD") == usd("0.13")


def test_a_fixed_price_does_not_follow_the_cost() -> None:
    prices = pricing(fixed("0.15"))
    assert prices.price(offer("0.10"), "acme", "USD") == prices.price(offer("0.02"), "acme", "USD") == usd("0.15")


def test_prices_are_rounded_up_to_the_step() -> None:
    assert pricing(percent("0")).price(offer("0.100001"), "acme", "USD") == usd("0.1001")


def test_the_floor_raises_a_fixed_price_that_is_too_low() -> None:
    assert pricing(fixed("0.08"), margin="10").price(offer("0.10"), "acme", "USD") == usd("0.11")


def test_the_floor_raises_a_thin_markup_even_when_selling_below_cost_is_allowed() -> None:
    prices = pricing(percent("5"), margin="10", below_cost=True)
    assert prices.price(offer("0.10"), "acme", "USD") == usd("0.11")


def test_a_fixed_price_may_go_below_cost_where_allowed() -> None:
    assert pricing(fixed("0.08"), below_cost=True).price(offer("0.10"), "acme", "USD") == usd("0.08")


@pytest.mark.parametrize(
    "selector",
    [
        {"services": frozenset({"tg"})},
        {"countries": frozenset({1})},
        {"accounts": frozenset({"acme"})},
        {"upstreams": frozenset({"x"})},
    ],
)
def test_a_rule_applies_to_what_it_names(selector: dict[str, frozenset[Any]]) -> None:
    prices = pricing(percent("0"), rule(fixed("0.5"), **selector))
    other = offer("0.10", upstream="y", service="wa", country=2)
    assert prices.price(offer("0.10"), "acme", "USD") == usd("0.50")
    assert prices.price(other, "other", "USD") == usd("0.10")


def test_country_nought_is_a_country_like_any_other() -> None:
    prices = pricing(percent("0"), rule(fixed("0.5"), countries=frozenset({0})))
    assert prices.price(offer(country=0), "acme", "USD") == usd("0.50")
    assert prices.price(offer(country=1), "acme", "USD") == usd("0.10")


def test_all_selectors_have_to_match_and_the_first_rule_wins() -> None:
    prices = pricing(
        percent("0"),
        rule(fixed("0.5"), services=frozenset({"tg"}), accounts=frozenset({"vip"})),
        rule(fixed("0.6"), services=frozenset({"tg", "wa"})),
        rule(fixed("0.7"), services=frozenset({"wa"})),
    )
    assert prices.price(offer(), "vip", "USD") == usd("0.50")
    assert prices.price(offer(), "acme", "USD") == usd("0.60")
    assert prices.price(offer(service="wa"), "acme", "USD") == usd("0.60")
    assert prices.price(offer(service="vk"), "acme", "USD") == usd("0.10")


def test_costs_are_converted_into_the_accounts_currency() -> None:
    assert pricing(percent("0")).price(offer("10", "RUB"), "acme", "USD") == usd("0.125")
    assert pricing(percent("0")).price(offer("10", "RUB"), "acme", "EUR") == Money(113_700, "EUR")


def test_fixed_and_add_are_in_house_currency() -> None:
    assert pricing(fixed("0.15")).price(offer("1", "RUB"), "acme", "RUB") == Money(12_000_000, "RUB")
    assert pricing(percent("0", "0.01")).price(offer("1", "RUB"), "acme", "RUB") == Money(1_800_000, "RUB")


@pytest.mark.parametrize(("cost_currency", "currency"), [("NGN", "USD"), ("USD", "NGN"), ("NGN", "NGN")])
def test_without_an_exchange_rate_there_is_no_price(cost_currency: str, currency: str) -> None:
    prices = pricing(fixed("0.15"))
    assert prices.price(offer("1", cost_currency), "acme", currency) is None
    assert prices.cost_ceiling(offer("1", cost_currency), Money(10**6, currency), "acme") is None


def test_convert_rounds_up_and_knows_its_limits() -> None:
    prices = pricing(percent("0"))
    assert prices.convert(Money(1, "RUB"), "USD") == Money(1, "USD")
    assert prices.convert(usd("0.125"), "RUB") == Money(10_000_000, "RUB")
    assert prices.convert(Money(7, "NGN"), "NGN") == Money(7, "NGN")
    assert prices.convert(Money(7, "NGN"), "USD") is None


def test_house_value_is_known_where_a_rate_is() -> None:
    assert pricing(percent("0")).house_micros(Money(1000, "RUB")) == pytest.approx(12.5)
    assert pricing(percent("0")).house_micros(Money(1000, "NGN")) is None


def test_the_cost_may_rise_until_the_price_reaches_the_ceiling() -> None:
    assert pricing(percent("20", "0.01")).cost_ceiling(offer("0.05"), usd("0.13"), "acme") == usd("0.10")


def test_the_cost_behind_a_fixed_price_may_rise_to_break_even_with_the_margin() -> None:
    assert pricing(fixed("0.15"), margin="50").cost_ceiling(offer("0.05"), usd("0.15"), "acme") == usd("0.10")


def test_below_a_fixed_price_no_cost_fits() -> None:
    assert pricing(fixed("0.15")).cost_ceiling(offer("0.05"), usd("0.14"), "acme") is None
    assert pricing(percent("0", "0.10")).cost_ceiling(offer("0.05"), usd("0.05"), "acme") is None


def test_selling_below_cost_accepts_the_loss_that_was_seen_and_no_more() -> None:
    prices = pricing(fixed("0.08"), below_cost=True)
    assert prices.cost_ceiling(offer("0.10"), usd("0.08"), "acme") == usd("0.10")
    assert prices.cost_ceiling(offer("0.01"), usd("0.08"), "acme") == usd("0.08")
    assert prices.cost_ceiling(offer("1", "RUB"), usd("0.08"), "acme") == Money(6_400_000, "RUB")


def test_more_accounts_than_are_remembered_are_priced_all_the_same() -> None:
    names = [f"account{number}" for number in range(REMEMBERED + 10)]
    prices = pricing(percent("0"), rule(fixed("0.5"), accounts=frozenset(names)))
    assert {prices.price(offer(), name, "USD") for name in names} == {usd("0.50")}
    assert prices.price(offer(), "somebody", "USD") == usd("0.10")


amounts = st.decimals(0, 50, places=6)
rates = st.decimals("0.0001", 200, places=8)
markups = st.builds(
    PriceTerms, percent=st.decimals(0, 500, places=3), add=st.none() | st.decimals(0, 5, places=6)
) | st.builds(PriceTerms, fixed=st.decimals("0.000001", 5, places=6))
any_settings = st.builds(
    PricingSettings,
    default=markups,
    floor=st.builds(FloorSettings, margin_percent=st.decimals(0, 100, places=3)),
)
any_rates = st.fixed_dictionaries({"RUB": rates, "EUR": rates})
offers = st.builds(
    Offer,
    upstream=st.just("x"),
    service=st.just("tg"),
    country=st.just(1),
    cost=st.builds(Money, st.integers(0, 10**8), st.sampled_from(["USD", "RUB"])),
    count=st.just(1),
)
currencies = st.sampled_from(["USD", "EUR", "RUB"])


@given(any_settings, any_rates, offers, currencies)
@settings(deadline=None, database=None)
def test_prices_are_multiples_of_the_step_and_never_below_cost(
    setting: PricingSettings, exchange: dict[str, Decimal], one: Offer, currency: str
) -> None:
    price = Pricing(setting, exchange).price(one, "acme", currency)
    assert price is not None
    assert price.currency == currency
    assert price.micros % PRICE_STEP_MICROS == 0
    rates = {"USD": Fraction(1), **{name: Fraction(rate) for name, rate in exchange.items()}}
    least = one.cost.micros * rates[one.cost.currency] * (1 + Fraction(setting.floor.margin_percent) / 100)
    assert price.micros * rates[currency] >= least


@given(any_settings, any_rates, offers, currencies, st.integers(0, 10**8))
@settings(deadline=None, database=None)
def test_the_cost_ceiling_is_the_exact_inverse_of_the_price(
    setting: PricingSettings, exchange: dict[str, Decimal], one: Offer, currency: str, ceiling_micros: int
) -> None:
    prices, ceiling = Pricing(setting, exchange), Money(ceiling_micros, currency)
    limit = prices.cost_ceiling(one, ceiling, "acme")
    price = prices.price(one, "acme", currency)
    assert price is not None
    assert (price.micros <= ceiling.micros) == (limit is not None and one.cost.micros <= limit.micros)
    assume(limit is not None)
    assert limit is not None
    assert limit.currency == one.cost.currency
    assert _price_at(prices, one, limit.micros, currency) <= ceiling.micros
    assert _price_at(prices, one, limit.micros + 1, currency) > ceiling.micros


def _price_at(prices: Pricing, one: Offer, cost_micros: int, currency: str) -> int:
    changed = Offer(one.upstream, one.service, one.country, Money(cost_micros, one.cost.currency), one.count)
    price = prices.price(changed, "acme", currency)
    assert price is not None
    return price.micros


@given(any_settings, any_rates, offers, currencies)
@settings(deadline=None, database=None)
def test_an_offer_always_fits_under_its_own_price(
    setting: PricingSettings, exchange: dict[str, Decimal], one: Offer, currency: str
) -> None:
    for below_cost in (False, True):
        floor = setting.floor.model_copy(update={"below_cost": below_cost})
        prices = Pricing(setting.model_copy(update={"floor": floor}), exchange)
        price = prices.price(one, "acme", currency)
        assert price is not None
        limit = prices.cost_ceiling(one, price, "acme")
        assert limit is not None
        assert limit.micros >= one.cost.micros


@given(st.integers(0, 10**12), rates, rates)
@settings(deadline=None, database=None)
def test_converting_never_loses_value(micros: int, rub: Decimal, eur: Decimal) -> None:
    prices = Pricing(PricingSettings(), {"RUB": rub, "EUR": eur})
    converted = prices.convert(Money(micros, "RUB"), "EUR")
    assert converted is not None
    assert converted.micros * Fraction(eur) >= micros * Fraction(rub) > (converted.micros - 1) * Fraction(eur)


# Rentals


def test_rentals_have_terms_of_their_own() -> None:
    rental = RentalPricing(
        percent=Decimal(50),
        add=Decimal("0.10"),
        rule=(RentalRule(services=frozenset({"full"}), percent=Decimal(10)), RentalRule(accounts=frozenset({"vip"}))),
    )
    prices = Pricing(PricingSettings(default=fixed("0.08"), rental=rental))
    assert prices.price(offer("2.00"), "acme", "USD") == usd("2.00")  # lifted to what it costs
    assert prices.rentals.price(offer("2.00"), "acme", "USD") == usd("3.10")
    assert prices.rentals.price(offer("2.00", service="full"), "acme", "USD") == usd("2.20")
    assert prices.rentals.price(offer("2.00"), "vip", "USD") == usd("2.60")
    assert prices.of(Product.RENTAL) is prices.of(Product.EXTENSION) is prices.rentals
    assert prices.of(Product.SMS) is prices.of(Product.AGAIN) is prices.of(Product.BESIDE) is prices


def test_a_rentals_floor_and_the_inverse_of_its_price() -> None:
    settings = PricingSettings(
        default=fixed("0.08"), rental=RentalPricing(percent=Decimal(5)), floor=FloorSettings(margin_percent=Decimal(20))
    )
    prices = Pricing(settings).rentals
    price = prices.price(offer("3.33"), "acme", "USD")
    assert price == usd("3.996")
    ceiling = prices.cost_ceiling(offer("3.33"), price, "acme")
    assert ceiling == usd("3.33")
