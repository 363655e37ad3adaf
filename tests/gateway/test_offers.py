"""The market: swapping price lists, one order's short-list, and whole listings without stalling the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gateway.catalog import Catalog, Country
from gateway.health import Health
from gateway.ladders import FLAT, Ladder
from gateway.model import Offer, Order
from gateway.money import Money, to_micros
from gateway.offers import PAIRS_REMEMBERED, Market, Row, UpstreamEntry, View, entry_of, view_of
from gateway.pricing import Pricing
from gateway.routing import Routes, Shortlist
from gateway.rules import EVERYTHING, Allowed
from gateway.settings import (
    Environment,
    GatewaySettings,
    HealthSettings,
    PriceRule,
    PriceTerms,
    PricingSettings,
    RatesSettings,
    RoutingRule,
    RoutingSettings,
    Settings,
    Stanza,
)
from gateway.upstream import OfferTable

SERVICES = ("tg", "wa", "vk", "go")
COUNTRIES = (0, 1, 2)
OfferRow = tuple[str, int, int, int, str, float | None]


@dataclass(frozen=True)
class Caller:
    account_name: str = "acme"
    currency: str = "USD"
    is_demo: bool = False
    allowed: Allowed = EVERYTHING
    ladder: Ladder = FLAT


ACME = Caller()
DEMO = Caller("demo", is_demo=True)


class Watch:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Seller:
    """Sells every service of the catalogue everywhere, by rule."""

    def offers_for(self, service: str, country: int) -> Sequence[Offer]:
        return (Offer("sandbox", service, country, Money(50_000, "USD"), 1000, "anytel"),)


SANDBOX = UpstreamEntry("sandbox", serves_demo=True, seller=Seller())
ALPHA = UpstreamEntry("alpha", priority=1)
BETA = UpstreamEntry("beta", priority=2, list_age_max_seconds=60, currency="RUB")


def view(*entries: UpstreamEntry, **changes: Any) -> View:
    values: dict[str, Any] = {
        "pricing": Pricing(PricingSettings(default=PriceTerms(percent=Decimal(0))), {"RUB": Decimal("0.01")}),
        "routes": Routes(RoutingSettings()),
        "services": SERVICES,
        "countries": COUNTRIES,
        "version": "v1",
        **changes,
    }
    return View(entries=entries or (ALPHA, BETA, SANDBOX), **values)


def market(watch: Watch, *entries: UpstreamEntry, **changes: Any) -> Market:
    return Market(watch, Health(watch, HealthSettings(faults_to_open=1)), view(*entries, **changes))


def row(
    service: str, country: int, cost: str, count: int = 5, operator: str = "", rate: float | None = None
) -> OfferRow:
    return service, country, to_micros(cost), count, operator, rate


def table(upstream: str, *rows: OfferRow, currency: str = "USD") -> OfferTable:
    return OfferTable(upstream, currency, rows)


def usd(text: str) -> Money:
    return Money(to_micros(text), "USD")


def order_of(shortlist: Shortlist) -> list[str]:
    return [ranked.quote.offer.upstream for ranked in shortlist.ranked]


def reasons(shortlist: Shortlist) -> dict[str, str]:
    return {excluded.upstream: excluded.reason for excluded in shortlist.excluded}


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def stocked(watch: Watch) -> Market:
    stocked = market(watch)
    stocked.put("alpha", table("alpha", row("tg", 1, "0.20"), row("tg", 1, "0.30", 7), row("wa", 1, "0.50")))
    stocked.put("beta", table("beta", row("tg", 1, "10", 3, "mts"), row("vk", 0, "9"), currency="RUB"))
    return stocked


def test_a_shortlist_compares_upstreams_across_currencies(stocked: Market) -> None:
    shortlist = stocked.shortlist(ACME, Order("tg", 1, price_max=usd("1")))
    assert order_of(shortlist) == ["beta", "alpha"]
    assert [str(ranked.quote.price) for ranked in shortlist.ranked] == ["0.10 USD", "0.20 USD"]
    assert reasons(shortlist)["sandbox"] == "serves demo accounts only"


@pytest.mark.parametrize(("age_hours", "is_sold"), [(0, True), (47, True), (49, False), (-20, True), (-30, False)])
def test_an_upstream_sits_out_while_the_rates_it_needs_are_too_old_or_from_the_future(
    watch: Watch, stocked: Market, age_hours: float, is_sold: bool
) -> None:
    stocked.apply(view(rates_from=watch() - age_hours * 3600, rates_max_seconds=48 * 3600))
    shortlist = stocked.shortlist(ACME, Order("tg", 1, price_max=usd("1")))
    assert order_of(shortlist) == (["beta", "alpha"] if is_sold else ["alpha"])
    why = "dated in the future" if age_hours < 0 else f"{age_hours} h old"
    assert reasons(shortlist).get("beta") == (None if is_sold else f"exchange rates are {why}")
    listed = {row.price for row in stocked.listing_now(ACME, "tg", 1)}
    assert listed == {usd("0.10") if is_sold else usd("0.20")}


def test_without_a_cap_failover_stays_under_the_listed_price(stocked: Market) -> None:
    shortlist = stocked.shortlist(ACME, Order("tg", 1))
    assert shortlist.ceiling == usd("0.10")
    assert order_of(shortlist) == ["beta"]
    assert reasons(shortlist)["alpha"] == "price 0.30 is above the ceiling 0.10"


def test_demo_accounts_see_the_sandbox_only(stocked: Market) -> None:
    assert order_of(stocked.shortlist(DEMO, Order("tg", 1))) == ["sandbox"]


def test_nothing_is_in_stock_before_the_first_price_list(watch: Watch) -> None:
    empty = market(watch)
    empty.failed("alpha", "bad key")
    shortlist = empty.shortlist(ACME, Order("tg", 1))
    assert not shortlist.in_stock
    assert reasons(shortlist)["alpha"] == "no price list yet (bad key)"


def test_a_failed_refresh_keeps_the_old_list_until_it_is_too_old(stocked: Market, watch: Watch) -> None:
    stocked.failed("beta", "time-out")
    assert order_of(stocked.shortlist(ACME, Order("tg", 1))) == ["beta"]
    watch.now += 180
    shortlist = stocked.shortlist(ACME, Order("tg", 1))
    assert order_of(shortlist) == ["alpha"]
    assert reasons(shortlist)["beta"] == "price list is 3 min old (time-out)"


def test_a_list_fetched_elsewhere_keeps_its_age(stocked: Market, watch: Watch) -> None:
    stocked.put("beta", table("beta", row("tg", 1, "0.01")), fetched_at=watch.now - 61)
    assert reasons(stocked.shortlist(ACME, Order("tg", 1)))["beta"] == "price list is 61 s old"


def test_a_new_list_replaces_the_old_one_at_once(stocked: Market) -> None:
    stocked.shortlist(ACME, Order("tg", 1))
    stocked.put("beta", table("beta", row("tg", 1, "0.05")))
    assert stocked.shortlist(ACME, Order("tg", 1)).ceiling == usd("0.05")


def test_a_drained_upstream_takes_no_orders_until_it_is_back(stocked: Market) -> None:
    stocked.drain(["beta"])
    assert stocked.drained == {"beta"}
    assert order_of(stocked.shortlist(ACME, Order("tg", 1))) == ["alpha"]
    stocked.drain([])
    assert order_of(stocked.shortlist(ACME, Order("tg", 1))) == ["beta"]


def test_a_purchase_in_doubt_takes_that_kind_out_there(stocked: Market) -> None:
    stocked.health.block("beta", "tg", 1)
    assert reasons(stocked.shortlist(ACME, Order("tg", 1)))["beta"] == "a purchase in doubt is being settled"
    assert order_of(stocked.shortlist(ACME, Order("vk", 0))) == ["beta"]


def test_an_open_circuit_names_its_fault(stocked: Market, watch: Watch) -> None:
    stocked.health.fault("beta", "time-out")
    watch.now += 18
    shortlist = stocked.shortlist(ACME, Order("tg", 1))
    assert reasons(shortlist)["beta"] == "circuit open for 12 s more after 1 fault (time-out)"


def test_delivery_decides_between_like_prices(watch: Watch) -> None:
    even = market(watch)
    even.put("alpha", table("alpha", row("tg", 1, "0.10")))
    even.put("beta", table("beta", row("tg", 1, "0.10")))
    assert order_of(even.shortlist(ACME, Order("tg", 1))) == ["alpha", "beta"]
    even.health.undelivered("alpha", 1, "tg")
    assert order_of(even.shortlist(ACME, Order("tg", 1))) == ["beta", "alpha"]


@pytest.mark.parametrize(
    ("operator", "first"), [("MTS", "beta"), ("any", "alpha"), ("life, mts", "beta"), ("no", "alpha")]
)
def test_operators_are_a_list_in_any_case(watch: Watch, operator: str, first: str) -> None:
    sellers = market(watch)
    sellers.put("alpha", table("alpha", row("tg", 1, "0.10")))
    sellers.put("beta", table("beta", row("tg", 1, "0.11", operator="mts")))
    order = Order("tg", 1, operator=operator, price_max=usd("1"))
    assert order_of(sellers.shortlist(ACME, order))[0] == first


def test_a_cap_in_a_foreign_currency_is_a_mistake(stocked: Market) -> None:
    with pytest.raises(ValueError, match="a cap in RUB for an account in USD"):
        stocked.shortlist(ACME, Order("tg", 1, price_max=Money(1, "RUB")))


def test_every_swap_moves_the_generation(stocked: Market) -> None:
    seen = [stocked.generation]
    stocked.put("alpha", table("alpha"))
    seen.append(stocked.generation)
    stocked.drain(["alpha"])
    seen.append(stocked.generation)
    stocked.apply(view())
    seen.append(stocked.generation)
    stocked.health.fault("beta", "time-out")
    seen.append(stocked.generation)
    stocked.health.block("beta", "tg", 1)
    seen.append(stocked.generation)
    assert len(set(seen)) == len(seen)
    stocked.failed("alpha", "time-out")
    assert stocked.generation == seen[-1]


def test_a_reload_keeps_the_lists_of_upstreams_that_stay(stocked: Market) -> None:
    stocked.apply(view(ALPHA, version="v2"))
    assert stocked.view.version == "v2"
    assert order_of(stocked.shortlist(ACME, Order("tg", 1))) == ["alpha"]
    stocked.apply(view())
    assert reasons(stocked.shortlist(ACME, Order("tg", 1)))["beta"] == "no price list yet"


def test_an_entry_takes_its_facts_from_the_stanza(watch: Watch) -> None:
    stanza = Stanza(
        name="x", options={}, parsed=None, priority=3, tier=2, enabled=False, offers_max_age_seconds=7.0, currency="RUB"
    )
    entry = entry_of(stanza, Seller())  # type: ignore[arg-type]
    assert entry.serves_demo
    assert entry.seller is not None
    plain = entry_of(stanza, object())  # type: ignore[arg-type]
    assert plain == UpstreamEntry("x", 2, 3, False, False, 7.0, "RUB", None)


def test_a_view_is_made_of_settings_and_loaded_upstreams(watch: Watch) -> None:
    catalog = Catalog({"tg": "Telegram"}, frozenset(), {7: Country(7, "MY", "Malaysia", "Малайзия", "马来西亚", "60")})
    settings = Settings(
        gateway=GatewaySettings(),
        upstreams={name: Stanza(name=name, options={}, parsed=None) for name in ("sandbox", "unloaded")},
        routing=RoutingSettings(),
        pricing=PricingSettings(),
        rates=RatesSettings(),
        catalog=catalog,
        environment=Environment(),
        version="v7",
    )
    made = view_of(settings, {"sandbox": Seller()})  # type: ignore[dict-item]
    assert [entry.name for entry in made.entries] == ["sandbox"]
    assert (made.services, made.countries, made.version) == (("tg",), (7,), "v7")
    demo = Market(watch, Health(watch, HealthSettings()), made)
    assert list(demo.listing_now(DEMO)) == [Row(7, "tg", usd("0.08"), 1000)]


def test_a_listing_of_a_single_upstream_follows_its_list(watch: Watch) -> None:
    single = market(watch, ALPHA)
    assert list(single.listing_now(ACME)) == []
    single.put(
        "alpha", table("alpha", row("wa", 2, "0.10"), row("tg", 2, "0.10"), row("tg", 2, "0.20"), row("go", 0, "1"))
    )
    assert [(row.country, row.service) for row in single.listing_now(ACME)] == [(0, "go"), (2, "tg"), (2, "wa")]


async def test_a_listing_shows_what_the_first_place_costs(stocked: Market) -> None:
    rows = [row async for row in stocked.listing(ACME)]
    assert rows == [
        Row(0, "vk", usd("0.09"), 5),
        Row(1, "tg", usd("0.10"), 3),
        Row(1, "wa", usd("0.50"), 5),
    ]


@pytest.mark.parametrize(
    ("service", "country", "found"),
    [
        ("tg", None, [(1, "tg")]),
        (None, 1, [(1, "tg"), (1, "wa")]),
        ("vk", 0, [(0, "vk")]),
        ("vk", 1, []),
        ("??", 9, []),
    ],
)
def test_a_listing_can_be_narrowed_down(
    stocked: Market, service: str | None, country: int | None, found: list[tuple[int, str]]
) -> None:
    assert [(row.country, row.service) for row in stocked.listing_now(ACME, service, country)] == found


async def test_a_rule_lists_the_whole_catalogue_for_demo_accounts(stocked: Market) -> None:
    stocked.put("sandbox", OfferTable("sandbox", "USD"))
    rows = [row async for row in stocked.listing(DEMO)]
    assert {(row.country, row.service) for row in rows} == {(number, code) for number in COUNTRIES for code in SERVICES}
    assert {(row.price, row.count) for row in rows} == {(usd("0.05"), 1000)}


def test_listings_leave_out_what_may_not_be_bought(stocked: Market) -> None:
    routes = Routes(RoutingSettings(rule=(RoutingRule(services=frozenset({"vk"}), exclude=frozenset({"beta"})),)))
    stocked.apply(view(routes=routes))
    stocked.health.block("beta", "tg", 1)
    rows = list(stocked.listing_now(ACME))
    assert rows == [Row(1, "tg", usd("0.20"), 5), Row(1, "wa", usd("0.50"), 5)]


def test_listings_show_each_account_its_own_prices(stocked: Market) -> None:
    vip = PriceRule(percent=Decimal(50)).model_copy(update={"accounts": frozenset({"vip"})})
    stocked.apply(view(pricing=Pricing(PricingSettings(default=PriceTerms(percent=Decimal(10)), rule=(vip,)))))
    assert list(stocked.listing_now(Caller("vip"), "wa")) == [Row(1, "wa", usd("0.75"), 5)]
    assert list(stocked.listing_now(ACME, "wa")) == [Row(1, "wa", usd("0.55"), 5)]
    assert list(stocked.listing_now(ACME, "vk")) == []  # no rate for roubles any more


def test_operators_are_those_of_upstreams_that_may_serve(stocked: Market, watch: Watch) -> None:
    stocked.put("alpha", table("alpha", row("tg", 1, "1", operator="zain"), row("tg", 2, "1", operator="other")))
    assert stocked.operators(1, ACME) == ["mts", "zain"]
    assert stocked.operators(0, ACME) == []
    assert stocked.operators(1, DEMO) == ["anytel"]
    watch.now += 100
    assert stocked.operators(1, ACME) == ["zain"]


def test_more_pairs_than_are_remembered_are_found_all_the_same(watch: Watch) -> None:
    wide = market(watch, ALPHA)
    wide.put("alpha", table("alpha", *(row("tg", country, "0.10") for country in range(PAIRS_REMEMBERED + 5))))
    found = sum(wide.shortlist(ACME, Order("tg", country)).in_stock for country in range(PAIRS_REMEMBERED + 5))
    assert found == PAIRS_REMEMBERED + 5


async def test_a_long_listing_lets_the_loop_run(watch: Watch) -> None:
    """A loop that is not let run sees one turn or two; one that is sees a turn every few hundred rows."""
    busy = market(watch, SANDBOX, services=tuple(f"s{number}" for number in range(500)), countries=tuple(range(20)))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counter = asyncio.create_task(count_turns())
    rows = [row async for row in busy.listing(DEMO)]
    counter.cancel()
    assert len(rows) == 10_000
    assert turns >= 10


offer_rows = st.lists(
    st.tuples(
        st.sampled_from(SERVICES),
        st.sampled_from(COUNTRIES),
        st.integers(1, 50).map(lambda cents: cents * 10_000),
        st.integers(1, 9),
        st.sampled_from(["", "mts"]),
        st.none() | st.sampled_from([0.1, 0.9]),
    ),
    max_size=12,
)


@given(offer_rows, offer_rows, st.booleans(), st.booleans())
@profile(deadline=None, database=None)
def test_the_list_shows_exactly_what_an_order_would_pay(
    alpha: list[OfferRow], beta: list[OfferRow], is_tripped: bool, is_blocked: bool
) -> None:
    both = market(Watch(), ALPHA, BETA)
    both.put("alpha", table("alpha", *alpha))
    both.put("beta", table("beta", *beta))
    if is_tripped:
        both.health.fault("alpha", "time-out")
    if is_blocked:
        both.health.block("beta", "tg", 1)
    listed = {(row.service, row.country): (row.price, row.count) for row in both.listing_now(ACME)}
    for service in SERVICES:
        for country in COUNTRIES:
            shortlist = both.shortlist(ACME, Order(service, country))
            expected = shortlist.listed and (shortlist.listed.price, shortlist.listed.count)
            assert listed.get((service, country)) == expected
            assert all(ranked.quote.price.micros <= listed[service, country][0].micros for ranked in shortlist.ranked)
