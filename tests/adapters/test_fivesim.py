"""5sim against scripted answers: bare sentences, odd statuses, nanoseconds, two nestings of prices."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters import fivesim
from adapters._fivesim_prices import parse_prices
from adapters._prices import Sheet
from adapters.fivesim import FiveSim
from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    NothingTaken,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import BuyOrder, LeaseState, Outcome, Progress, RentOffer
from gateway.money import Money
from gateway.upstream import OfferTable
from tests.adapters._context import SECRET, Script, context, order, watched
from tests.adapters._scripted import (
    LOST,
    every_verb,
    in_doubt,
    json_values,
    longest_prefix,
    odd,
    refused,
    scripted,
    texts,
)

CREATED = 1793527200.123456
"""2026-11-01 10:00:00.123456 UTC"""


def bought(**changes: Any) -> dict[str, Any]:
    return {
        "id": 11631253,
        "phone": "+447700900123",
        "operator": "vodafone",
        "product": "telegram",
        "price": 0.21,
        "status": "PENDING",
        "expires": "2026-11-01T10:15:00.5Z",
        "sms": None,
        "created_at": "2026-11-01T10:00:00.123456789Z",
        "country": "england",
        **changes,
    }


def usd(micros: int) -> Money:
    return Money(micros, "USD")


def message(code: str = "12345", text: str = "Telegram code 12345", **changes: Any) -> dict[str, Any]:
    return {"created_at": "2026-11-01T10:01:00.1Z", "sender": "Telegram", "text": text, "code": code, **changes}


def said(text: str, status: int = 400) -> httpx.Response:
    return httpx.Response(status, text=text, headers={"content-type": "text/plain"})


def listed(*orders: Any) -> dict[str, Any]:
    return {"Data": list(orders), "ProductNames": [], "Statuses": [], "Total": len(orders)}


def by_category(activations: Any, rentals: Any) -> Callable[[httpx.QueryParams], Any]:
    """For `scripted`: the list of orders there."""
    return lambda query: rentals if query["category"] == "hosting" else activations


@asynccontextmanager
async def upstream(answers: dict[str, Any], **options: Any) -> AsyncIterator[tuple[FiveSim, Script]]:
    script = scripted(answers, lambda request: longest_prefix(request.url.path.removeprefix("/v1/"), answers))
    async with aclosing(fivesim.build(context(script), fivesim.Options(**options))) as made:
        yield made, script


# --- buying ---


async def test_purchase_of_any_operator_carries_the_cap_and_the_token() -> None:
    async with upstream({"user/buy": bought()}) as (there, script):
        lease = await there.buy(order())
    (request,) = script.requests
    assert str(request.url) == "https://5sim.net/v1/user/buy/activation/england/any/telegram?maxPrice=0.50"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert (lease.reference, lease.number, lease.operator) == ("11631253", "447700900123", "vodafone")
    assert lease.cost == Money(210_000, "USD")
    assert lease.expires_at == 1793528100.5


async def test_named_operator_is_bought_without_a_cap_that_would_be_ignored() -> None:
    async with upstream({"user/buy": bought(price=0.9)}) as (there, script):
        lease = await there.buy(order(operator="o2/../x"))
    assert script.requests[0].url.raw_path == b"/v1/user/buy/activation/england/o2%2F..%2Fx/telegram"
    assert lease.cost == Money(900_000, "USD")


@pytest.mark.parametrize(
    ("given", "expected", "is_fault"),
    [
        (said("no free phones", 200), SoldOut, None),
        (said("no free phones"), SoldOut, None),
        (said("not enough user balance"), Refused, True),
        (said("not enough rating"), Refused, True),
        (said("", 401), Refused, True),
        (said("<html>forbidden</html>", 403), Refused, True),
        (said("api limit is 100 requests per second", 429), Refused, True),
        (said("ip address limit is 100 requests per second", 503), Refused, True),
        (said("server offline"), Refused, False),
        (said("server offline", 200), Refused, False),
        (said("bad country"), Refused, False),
        (said("no product"), Refused, False),
        (said("some new words", 200), Refused, False),
        (httpx.Response(302, headers={"location": "/404.html"}), Refused, False),
    ],
)
async def test_refused_purchases_took_nothing(
    given: httpx.Response, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream({"user/buy": given}) as (there, script):
        await refused(there, order(), expected, is_fault)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "given",
    [
        said("internal error", 500),
        said("no free phones", 500),
        said("internal error", 200),
        said("", 200),
        said("null", 200),
        said('{"id":116312', 200),
        said("{}", 200),
        bought(id=None),
        bought(phone=""),
        said("ip address banned", 503),
        *LOST,
    ],
)
async def test_unreadable_purchases_are_in_doubt(given: Any) -> None:
    async with upstream({"user/buy": given}) as (there, script):
        await in_doubt(there, order())
    assert len(script.requests) == 1


async def test_overrides_win_over_the_tables() -> None:
    async with upstream({"user/buy": bought()}, services={"xx": "nobodys"}, countries={12: "usa"}) as (there, script):
        await there.buy(order("xx", 12))
        with pytest.raises(Refused):
            await there.buy(order(country=187))
    assert script.requests[0].url.path == "/v1/user/buy/activation/usa/any/nobodys"


# --- renting ---

RENTS = {
    "telegram": {"Category": "activation", "Qty": 321, "Price": 0.21},
    "3hours": {"Category": "hosting", "Qty": 0, "Price": 0.8},
    "1day": {"Category": "hosting", "Qty": 14, "Price": 1.9},
    "10days": {"Category": "hosting", "Qty": 3, "Price": 6.4},
}
RENTED = bought(product="1day", price=1.9, expires="2026-11-02T10:00:00Z")


def rent_order(hours: int = 24, cost_max: int = 2_000_000, **changes: Any) -> BuyOrder:
    return order("full", cost_max=cost_max, hours=hours, **changes)


@pytest.mark.parametrize(
    ("hours", "expected"), [(1, (24, 1_900_000, 14)), (24, (24, 1_900_000, 14)), (25, (240, 6_400_000, 3)), (241, None)]
)
async def test_shortest_rental_in_stock_that_lasts_so_long_is_offered(
    hours: int, expected: tuple[int, int, int] | None
) -> None:
    async with upstream({"guest/products": RENTS}) as (there, script):
        offers = await there.rent_offers(16, hours)
    assert script.requests[0].url.path == "/v1/guest/products/england/any"
    wanted = [] if expected is None else [RentOffer("there", "full", 16, expected[0], usd(expected[1]), expected[2])]
    assert list(offers) == wanted


async def test_country_without_a_word_rents_nothing_out() -> None:
    async with upstream({}) as (there, script):
        assert list(await there.rent_offers(9999, 24)) == []
        with pytest.raises(Refused):
            await there.rent(rent_order(country=9999))
    assert script.requests == []


@pytest.mark.parametrize("given", [said("<html>", 200), said("internal error", 500), {"1day": {"Qty": {}}}, ["x"]])
async def test_rentals_that_can_not_be_read_are_unwell_and_refuse_a_purchase(given: Any) -> None:
    async with upstream({"guest/products": given}) as (there, script):
        with pytest.raises(Unwell):
            await there.rent_offers(16, 24)
        with pytest.raises(Refused) as caught:
            await there.rent(rent_order())
    assert caught.value.is_fault
    assert len(script.requests) == 2


async def test_countries_that_rent_out_are_those_with_a_rental_in_stock() -> None:
    def priced(query: httpx.QueryParams) -> Any:
        match query["product"]:
            case "1day":
                places = {"england": {"o2": {"count": 1}}, "usa": {"x": {"count": 0}}, "atlantis": {"y": {"count": 5}}}
                return {"1day": places}
            case "10days":
                return {"10days": {"germany": {"o2": {"count": 2, "cost": 1}}}}
            case "3hours":
                return httpx.Response(302, headers={"location": "/404.html"})
        return said("product is incorrect")

    async with upstream({"guest/prices": priced}) as (there, _):
        assert await there.rent_countries() == {16, 43}
    async with upstream({}, rent_countries=[6, 16]) as (there, _):
        assert await there.rent_countries() == {6, 16}
    async with upstream({"guest/prices": said("", 401)}) as (there, _):
        with pytest.raises(Unwell):
            await there.rent_countries()


async def test_rental_is_bought_once_its_price_is_known() -> None:
    async with upstream({"guest/products": RENTS, "user/buy/hosting": RENTED}) as (there, script):
        lease = await there.rent(rent_order(20))
    assert [request.url.raw_path for request in script.requests] == [
        b"/v1/guest/products/england/any",
        b"/v1/user/buy/hosting/england/any/1day",
    ]
    assert (lease.reference, lease.number, lease.cost) == ("rent:11631253", "447700900123", usd(1_900_000))
    assert lease.expires_at == 1793613600.0


async def test_named_operator_of_a_rental_is_asked_and_bought() -> None:
    async with upstream({"guest/products": RENTS, "user/buy/hosting": RENTED}) as (there, script):
        await there.rent(rent_order(operator="o2"))
    assert [request.url.path.split("/")[-2:] for request in script.requests] == [["england", "o2"], ["o2", "1day"]]


@pytest.mark.parametrize("wanted", [rent_order(cost_max=1_899_999), rent_order(241)])
async def test_rental_too_dear_or_not_there_is_not_asked_for(wanted: BuyOrder) -> None:
    async with upstream({"guest/products": RENTS}) as (there, script):
        with pytest.raises(SoldOut):
            await there.rent(wanted)
    assert len(script.requests) == 1


async def test_rental_dearer_than_the_cap_is_returned_at_its_cost() -> None:
    async with upstream({"guest/products": RENTS, "user/buy": bought(price=2.4)}) as (there, _):
        assert (await there.rent(rent_order())).cost == usd(2_400_000)


@pytest.mark.parametrize("given", [said("internal error", 500), said("", 200), bought(phone=""), *LOST])
async def test_unreadable_rentals_are_in_doubt(given: Any) -> None:
    async with upstream({"guest/products": RENTS, "user/buy": given}) as (there, script):
        with pytest.raises(InDoubt):
            await there.rent(rent_order())
    assert len(script.requests) == 2


async def test_rental_is_read_with_its_inbox_and_its_end() -> None:
    late = message("", "Hello", created_at="2026-11-01T10:02:00Z")
    inbox = {"Data": [late, message(), message()], "Total": 3}
    shown = bought(id=77, sms=[message("1", "shown with the order")])
    answers = {"user/check/77": shown, "user/sms/inbox/77": inbox}
    async with upstream(answers) as (there, script):
        progress = await there.read(watched("rent:77"))
    assert [sms.text for sms in progress.messages] == ["Telegram code 12345", "Hello"]
    assert progress.expires_at == 1793528100.5
    assert [request.url.path for request in script.requests] == ["/v1/user/check/77", "/v1/user/sms/inbox/77"]


async def test_rental_can_be_read_without_an_inbox() -> None:
    rows = listed(bought(id=77, sms=[message()]))
    answers = {"user/check/77": bought(sms=[message()]), "user/orders": by_category(listed(), rows)}
    async with upstream(answers, rent_messages="order") as (there, _):
        progress = await there.read(watched("rent:77"))
        many = await there.read_many([watched("rent:77"), watched("5")])
    assert many == {"rent:77": progress}
    assert len(progress.messages) == 1


async def test_rentals_with_an_inbox_are_left_to_be_read_singly() -> None:
    async with upstream({}) as (there, script):
        assert await there.read_many([watched("rent:77")]) == {}
    assert script.requests == []


@pytest.mark.parametrize(("status", "state"), [("TIMEOUT", LeaseState.FINISHED), ("CANCELED", LeaseState.CANCELLED)])
async def test_rental_whose_time_is_over_was_used(status: str, state: LeaseState) -> None:
    async with upstream({"user/check": bought(status=status)}, rent_messages="order") as (there, _):
        assert (await there.read(watched("rent:77"))).state is state


async def test_rental_that_is_over_may_have_lost_its_inbox() -> None:
    answers = {"user/check": bought(status="FINISHED"), "user/sms/inbox": said("hosting order not found")}
    async with upstream(answers) as (there, _):
        assert await there.read(watched("rent:77")) == Progress(LeaseState.FINISHED, (), 1793528100.5)


@pytest.mark.parametrize("given", [said("hosting order not found"), httpx.Response(302), {"Data": ["x"]}, said("{")])
async def test_inbox_that_can_not_be_read_is_unwell(given: Any) -> None:
    async with upstream({"user/check": bought(), "user/sms/inbox": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched("rent:77"))


async def test_rental_is_not_given_back_but_may_be_finished() -> None:
    answers = {
        "user/cancel/77": said("hosting order"),
        "user/finish/77": (bought(status="FINISHED"), said("order no sms"), said("hosting order"), said("new words")),
    }
    async with upstream(answers) as (there, script):
        with pytest.raises(NotAllowed):
            await there.close("rent:77", Outcome.CANCELLED)
        for _ in range(3):
            await there.close("rent:77", Outcome.FINISHED)
        with pytest.raises(Unwell):
            await there.close("rent:77", Outcome.FINISHED)
    assert len(script.requests) == 5, "nothing is cancelled instead"


async def test_rental_is_not_extended() -> None:
    async with upstream({}) as (there, script):
        with pytest.raises(NotAllowed):
            await there.extension_cost("rent:77", 24)
        with pytest.raises(NothingTaken):
            await there.extend(rent_order(lease_reference="rent:77"))
    assert script.requests == []


# --- a number again ---

USED = bought(status="FINISHED", sms=[message()])
PRICED = {"england": {"telegram": {"vodafone": {"cost": 0.25, "count": 0}, "o2": {"cost": 0.1, "count": 9}}}}


def again(**changes: Any) -> BuyOrder:
    return order(lease_reference="77", lease_number="447700900123", **changes)


@pytest.mark.parametrize(
    ("paid", "listed_prices", "expected"),
    [(0.21, PRICED, 250_000), (0.31, PRICED, 310_000), (0.21, None, 210_000), (None, PRICED, 250_000)],
)
async def test_number_again_is_taken_to_cost_the_dearer_of_what_is_known(
    paid: float | None, listed_prices: Any, expected: int
) -> None:
    answers = {"user/check/77": bought(status="FINISHED", price=paid), "guest/prices": listed_prices}
    async with upstream(answers) as (there, script):
        assert await there.reuse_cost("77", "447700900123", "tg", 16) == usd(expected)
    assert dict(script.requests[1].url.params) == {"country": "england", "product": "telegram"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"user/check": said("order not found", 404)}, UnknownLease),
        ({"user/check": bought(status="CANCELED")}, NotAllowed),
        ({"user/check": bought(status="TIMEOUT")}, NotAllowed),
        ({"user/check": said("", 401)}, Unwell),
        ({"user/check": USED, "guest/prices": said("internal error", 500)}, Unwell),
        ({"user/check": bought(status="FINISHED", price=None), "guest/prices": {}}, Unwell),
    ],
)
async def test_cost_of_a_number_again_may_not_be_known(answers: dict[str, Any], expected: type[UpstreamError]) -> None:
    async with upstream(answers) as (there, script):
        with pytest.raises(expected):
            await there.reuse_cost("77", "447700900123", "tg", 16)
        asked = len(script.requests)
        with pytest.raises(NothingTaken):
            await there.reuse(again())
    assert len(script.requests) == 2 * asked


async def test_number_is_used_again_by_its_product_once_its_price_is_known() -> None:
    answers = {"user/check/77": USED, "guest/prices": PRICED, "user/reuse": bought(id=88, price=0.22)}
    async with upstream(answers) as (there, script):
        lease = await there.reuse(again(cost_max=250_000))
        with pytest.raises(SoldOut):
            await there.reuse(again(cost_max=249_999))
    assert script.requests[2].url.path == "/v1/user/reuse/telegram/447700900123"
    assert (lease.reference, lease.number, lease.cost) == ("88", "447700900123", usd(220_000))


@pytest.mark.parametrize("words", ["reuse not possible", "reuse false", "reuse expired"])
async def test_refused_reuse_is_never_possible_and_took_nothing(words: str) -> None:
    async with upstream({"user/check": USED, "guest/prices": PRICED, "user/reuse": said(words)}) as (there, _):
        with pytest.raises(NotAllowed) as caught:
            await there.reuse(again())
    assert isinstance(caught.value, Refused)
    assert not caught.value.is_fault


@pytest.mark.parametrize("given", LOST)
async def test_lost_reuse_is_in_doubt(given: Any) -> None:
    async with upstream({"user/check": USED, "guest/prices": PRICED, "user/reuse": given}) as (there, script):
        with pytest.raises(InDoubt):
            await there.reuse(again())
    assert len(script.requests) == 3


async def test_numbers_that_can_be_used_again_are_bought_where_the_stanza_says_so() -> None:
    async with upstream({"user/buy": bought()}, reusable=True) as (there, script):
        await there.buy(order())
        await there.buy(order(operator="o2"))
    assert [dict(request.url.params) for request in script.requests] == [
        {"maxPrice": "0.50", "reuse": "1"},
        {"reuse": "1"},
    ]


# --- reading ---


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PENDING", LeaseState.OPEN),
        ("RECEIVED", LeaseState.OPEN),
        ("FINISHED", LeaseState.FINISHED),
        ("CANCELED", LeaseState.CANCELLED),
        ("BANNED", LeaseState.CANCELLED),
        ("TIMEOUT", LeaseState.CANCELLED),
    ],
)
@pytest.mark.parametrize("sms", [None, []])
async def test_states_are_read_and_say_nothing_about_messages(status: str, state: LeaseState, sms: Any) -> None:
    async with upstream({"user/check/77": bought(status=status, sms=sms)}) as (there, _):
        assert await there.read(watched()) == Progress(state)


async def test_pending_order_with_a_message_delivers_it() -> None:
    async with upstream({"user/check": bought(sms=[message()])}) as (there, _):
        progress = await there.read(watched())
    (sms,) = progress.messages
    assert (sms.code, sms.text, sms.sender) == ("12345", "Telegram code 12345", "Telegram")
    assert sms.received_at == 1793527260.1


async def test_messages_append_and_keep_their_identities() -> None:
    first, second, same_code = message(), message("67890", "b"), message(created_at="2026-11-01T10:02:00Z")
    answers = (bought(sms=[first]), bought(sms=[first, first, second, same_code]))
    async with upstream({"user/check": answers}) as (there, _):
        (once,) = (await there.read(watched())).messages
        again = (await there.read(watched(round_=2))).messages
    assert again[0] == once
    assert [sms.code for sms in again] == ["12345", "67890", "12345"]
    assert len({sms.identity for sms in again}) == 3


async def test_message_without_a_code_keeps_its_text_out_of_its_identity() -> None:
    async with upstream({"user/check": bought(sms=[message("", "Hello there"), message("", "Another")])}) as (there, _):
        first, second = (await there.read(watched())).messages
    assert (first.code, first.text) == ("", "Hello there")
    assert first.identity != second.identity
    assert "Hello" not in first.identity


async def test_unknown_order_is_a_state() -> None:
    async with upstream({"user/check": said("order not found", 404)}) as (there, _):
        assert await there.read(watched()) == Progress(LeaseState.UNKNOWN)


@pytest.mark.parametrize(
    "given",
    [
        said("", 401),
        said("<html>", 404),
        said("internal error", 500),
        said("<html>", 200),
        bought(status="NEW"),
        httpx.Response(302),
        httpx.ReadTimeout("late"),
    ],
)
async def test_states_that_say_nothing_are_unwell(given: Any) -> None:
    async with upstream({"user/check": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


# --- the list of orders ---


def page(first: int, count: int = 100, **changes: Any) -> dict[str, Any]:
    return listed(*(bought(id=first - step, **changes) for step in range(count)))


async def test_one_page_reads_all_and_stops_when_all_are_seen() -> None:
    async with upstream({"user/orders": page(1000)}) as (there, script):
        assert set(await there.read_many([watched("1000"), watched("901")])) == {"1000", "901"}
    assert len(script.requests) == 1
    assert dict(script.requests[0].url.params) == {
        "category": "activation",
        "limit": "100",
        "offset": "0",
        "order": "id",
        "reverse": "true",
    }


async def test_pages_are_read_down_to_the_oldest_watched_order() -> None:
    async with upstream({"user/orders": (page(1000), page(900), page(800))}) as (there, script):
        assert set(await there.read_many([watched("950"), watched("850"), watched("99000")])) == {"950", "850"}
    assert [request.url.params["offset"] for request in script.requests] == ["0", "100"]


async def test_unreadable_or_unknown_rows_are_left_to_be_read_singly() -> None:
    rows = listed(bought(id=1), bought(id=2, status="NEW"), {"id": 3}, None)
    async with upstream({"user/orders": rows}) as (there, _):
        assert set(await there.read_many([watched("1"), watched("2"), watched("3")])) == {"1"}


async def test_find_lists_open_orders_since_the_purchase() -> None:
    rows = listed(
        bought(id=5),
        bought(id=4, status="CANCELED"),
        bought(id=3, status="RECEIVED", country="atlantis", product="nobodys"),
        bought(id=2, created_at="2026-11-01T09:59:59Z"),
    )
    rentals = listed(bought(id=7, product="1day", status="RECEIVED"), bought(id=6, product="1day", status="FINISHED"))
    async with upstream({"user/orders": by_category(rows, rentals)}) as (there, script):
        found = await there.find(CREATED)
    assert [(order.lease.reference, order.service, order.country, order.is_rental) for order in found] == [
        ("5", "tg", 16, False),
        ("3", "nobodys", -1, False),
        ("rent:7", "full", 16, True),
    ]
    assert found[0].created_at == pytest.approx(CREATED)
    assert len(script.requests) == 2


async def test_shop_without_a_list_of_rentals_has_none() -> None:
    answers = {"user/orders": by_category(listed(bought(id=5)), said("bad category"))}
    async with upstream(answers) as (there, _):
        assert [one.lease.reference for one in await there.find(0)] == ["5"]
    async with upstream({"user/orders": by_category(listed(), said("", 401))}) as (there, _):
        with pytest.raises(Unwell):
            await there.find(0)


@pytest.mark.parametrize("given", [said("", 401), said("<html>", 200), {"Data": "x"}, said("bad category")])
async def test_unreadable_lists_are_unwell(given: Any) -> None:
    async with upstream({"user/orders": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.find(0)


# --- closing ---

ENDED = said("order not found")


@pytest.mark.parametrize(
    ("outcome", "answers"),
    [
        (Outcome.FINISHED, {"user/finish/77": bought(status="FINISHED")}),
        (Outcome.CANCELLED, {"user/cancel/77": bought(status="CANCELED")}),
        (Outcome.FINISHED, {"user/finish": said("order no sms"), "user/cancel/77": bought(status="CANCELED")}),
        (Outcome.FINISHED, {"user/finish": ENDED, "user/check": bought(status="FINISHED")}),
        (Outcome.FINISHED, {"user/finish": said("order expired"), "user/check": bought(status="TIMEOUT")}),
        (Outcome.CANCELLED, {"user/cancel": ENDED, "user/check": bought(status="CANCELED")}),
        (Outcome.CANCELLED, {"user/cancel": said("order expired"), "user/check": bought(status="TIMEOUT")}),
    ],
)
async def test_close_is_done_or_done_already(outcome: Outcome, answers: dict[str, Any]) -> None:
    async with upstream(answers) as (there, _):
        await there.close("77", outcome)


@pytest.mark.parametrize(
    ("outcome", "answers", "expected"),
    [
        (Outcome.CANCELLED, {"user/cancel": said("order has sms")}, HasSms),
        (Outcome.CANCELLED, {"user/cancel": said("hosting order")}, NotAllowed),
        (Outcome.CANCELLED, {"user/cancel": said("internal error", 500)}, Unwell),
        (Outcome.CANCELLED, {"user/cancel": said("", 401)}, Unwell),
        (Outcome.CANCELLED, {"user/cancel": said("<html>", 200)}, Unwell),
        (Outcome.CANCELLED, {"user/cancel": said("new words")}, Unwell),
        (Outcome.CANCELLED, {"user/cancel": ENDED, "user/check": said("order not found", 404)}, UnknownLease),
        (Outcome.CANCELLED, {"user/cancel": ENDED, "user/check": bought(status="FINISHED", sms=[message()])}, HasSms),
        (Outcome.CANCELLED, {"user/cancel": ENDED, "user/check": bought(status="FINISHED")}, NotAllowed),
        (Outcome.CANCELLED, {"user/cancel": ENDED, "user/check": bought()}, Unwell),
        (Outcome.FINISHED, {"user/finish": said("order no sms"), "user/cancel": said("order has sms")}, Unwell),
        (
            Outcome.FINISHED,
            {"user/finish": said("order no sms"), "user/cancel": said("you need to wait time")},
            TooEarly,
        ),
    ],
)
async def test_close_says_what_stands_in_the_way(
    outcome: Outcome, answers: dict[str, Any], expected: type[UpstreamError]
) -> None:
    async with upstream(answers) as (there, _):
        with pytest.raises(expected):
            await there.close("77", outcome)


async def test_early_cancel_is_tried_again_in_small_steps() -> None:
    async with upstream({"user/cancel": said("you need to wait time")}) as (there, _):
        with pytest.raises(TooEarly) as caught:
            await there.close("77", Outcome.CANCELLED)
    assert caught.value.retry_seconds == 5.0


# --- whatever comes ---

values = json_values(bought())
orders = odd(bought, values)
bodies = (
    values.map(json.dumps)
    | orders.map(json.dumps)
    | st.lists(orders).map(lambda rows: json.dumps({"Data": rows}))
    | texts
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(body=bodies, status=st.sampled_from([200, 302, 400, 404, 500]))
async def test_no_answer_breaks_any_verb(body: str, status: int) -> None:
    script = Script(lambda _: httpx.Response(status, content=body.encode()))
    async with aclosing(fivesim.build(context(script), fivesim.Options())) as there:
        await every_verb(there, order())


# --- money and prices ---


async def test_balance_is_net_of_what_is_held() -> None:
    async with upstream({"user/profile": {"balance": 12.4731, "frozen_balance": 0.32}}) as (there, _):
        assert await there.balance() == Money(12_473_100, "USD")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(said("", 401), Refused), (said("internal error", 500), Unwell), ({}, Unwell), (said("<html>", 200), Unwell)],
)
async def test_balance_that_is_not_told(given: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"user/profile": given}) as (there, _):
        with pytest.raises(expected):
            await there.balance()


def parsed(data: Any) -> tuple[OfferTable, dict[str, int]]:
    sheet = Sheet("there", "USD", {"telegram": "tg", "whatsapp": "wa"}, {"england": 16, "usa": 187})
    table, unmapped = parse_prices(json.dumps(data).encode(), sheet)
    return table, dict(unmapped)


LEAVES = {
    "vodafone": {"cost": 0.21, "count": 321, "rate": 87.5, "rate72": 90},
    "o2": {"cost": 0.2, "count": 5},
    "virtual21": {"cost": 0.1, "count": 0, "rate": 3},
}


@pytest.mark.parametrize("data", [{"england": {"telegram": LEAVES}}, {"telegram": {"england": LEAVES}}])
def test_prices_are_read_in_both_nestings(data: Any) -> None:
    table, unmapped = parsed(data)
    assert [(offer.cost.micros, offer.count, offer.operator, offer.success_rate) for offer in table.at("tg", 16)] == [
        (200_000, 5, "o2", None),
        (210_000, 321, "vodafone", 0.875),
    ]
    assert unmapped == {}


def test_unknown_words_and_odd_rows_are_counted() -> None:
    table, unmapped = parsed(
        {
            "atlantis": {"telegram": LEAVES},
            "england": {"nobodys": LEAVES, "telegram": None, "whatsapp": {"o2": {"cost": None, "count": 1}, "ee": 7}},
            "usa": None,
        }
    )
    assert len(table) == 0
    assert unmapped == {"country atlantis": 326, "service nobodys": 326, "unreadable": 2}


async def test_offers_keep_what_they_could_not_map() -> None:
    async with upstream({"guest/prices": {"england": {"telegram": LEAVES, "nobodys": LEAVES}}}) as (there, _):
        table = await there.offers()
    assert len(table.at("tg", 16)) == 2
    assert there.unmapped == {"service nobodys": 326}


@pytest.mark.parametrize(
    "given", [said("<html>", 200), said("null", 200), said('{"england":', 200), said("", 502), {"england": 7}]
)
async def test_offers_that_fail_are_unwell(given: Any) -> None:
    async with upstream({"guest/prices": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


# --- options ---


@pytest.mark.parametrize(
    "given",
    [{"base_url": "5sim.net"}, {"countries": {16: "x", 43: "x"}}, {"countries": {"gb": "x"}}, {"operator": "any"}],
)
def test_unusable_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        fivesim.Options(**given)
