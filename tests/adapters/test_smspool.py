"""SMSPool against scripted answers: refusals in JSON and HTML, numeric ids, doubtful statuses, unnamed time zones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters import smspool
from adapters._prices import Sheet
from adapters.smspool import SmsPool, parse_prices
from gateway.errors import (
    HasSms,
    NotAllowed,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import LeaseState, Outcome, Progress
from gateway.money import Money
from gateway.upstream import OfferTable
from tests.adapters._context import SECRET, Script, context, order, watched
from tests.adapters._scripted import LOST, every_verb, in_doubt, json_values, odd, refused, scripted, texts

MADE_AT = 1704560595.0
"""2024-01-06 17:03:15 UTC"""

SERVICES = [
    {"ID": 907, "name": "Telegram", "favourite": 0},
    {"ID": 39, "name": "Amazon / Amazon Web Services"},
    {"ID": 5, "name": "2game"},
]
COUNTRIES = [
    {"ID": 1, "name": "United States", "short_name": "US", "region": "North America"},
    {"ID": 2, "name": "United Kingdom", "short_name": "GB", "region": "Europe"},
    {"ID": 160, "name": "United States (Virtual)", "short_name": "US_V", "cc": "1"},
]
LISTS: dict[str, Any] = {"/service/retrieve_all": SERVICES, "/country/retrieve_all": COUNTRIES}

NO_ORDER = {"success": 0, "message": "We could not find this order."}
DONE = {"success": 1, "message": "The order has been cancelled, and you have been refunded 0.24 dollars."}
TOO_EARLY = {"success": 0, "message": "This phone number cannot be cancelled yet, please try again later!"}
BAD_KEY = {"success": 0, "errors": [{"message": "Invalid API key", "param": "key"}]}
PENDING = {"status": 1, "resend": 0, "expiration": 1704562249, "time_left": 1173}
RECEIVED = {"status": 3, "sms": "12345", "full_sms": "Your code is 12345", "expiration": 1704562249}
RESENDABLE = {"success": 1, "resendCost": 0, "resends": 2, "message": "This phonenumber is available for resend!"}
RESENT = {"success": 1, "charge": 0, "order_id": "ABCD1234", "message": "Your number has been requested again!"}


def bought(**changes: Any) -> dict[str, Any]:
    return {
        "success": 1,
        "number": 447700900123,
        "phonenumber": "7700900123",
        "cc": "44",
        "order_id": "ABCD1234",
        "country": "United Kingdom",
        "service": "Telegram",
        "pool": 7,
        "expires_in": 599,
        "expiration": 1704562249,
        "cost": "0.24",
        "cost_in_cents": 24,
        "message": "You have succesfully ordered a number.",
        **changes,
    }


def row(**changes: Any) -> dict[str, Any]:
    return {
        "order_code": "ABCD1234",
        "phonenumber": "447700900123",
        "code": "0",
        "full_code": "",
        "cost": "0.24",
        "short_name": "GB",
        "service": "Telegram",
        "status": "pending",
        "timestamp": "2024-01-06 18:03:15",
        "expiry": 1704561795,
        "time_left": 1126,
        **changes,
    }


def refusal(words: str = "", kind: str = "", status: int = 200) -> httpx.Response:
    body = {"success": 0, "message": words, **({"type": kind} if kind else {})}
    return httpx.Response(status, content=json.dumps(body))


@asynccontextmanager
async def upstream(answers: dict[str, Any], **options: Any) -> AsyncIterator[tuple[SmsPool, Script]]:
    script = scripted(answers, lambda request: request.url.path)
    async with aclosing(smspool.build(context(script), smspool.Options(**options))) as made:
        yield made, script


def posted(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode()))


# --- buying ---


async def test_purchase_posts_names_and_the_cap_and_keeps_the_key_out_of_both() -> None:
    async with upstream({"/purchase/sms": bought()}) as (there, script):
        lease = await there.buy(order())
    (request,) = script.requests
    assert (request.method, str(request.url)) == ("POST", "https://api.smspool.net/purchase/sms")
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert posted(request) == {
        "country": "GB",
        "service": "Telegram",
        "max_price": "0.50",
        "pricing_option": "0",
        "quantity": "1",
    }
    assert (lease.reference, lease.number, lease.operator) == ("ABCD1234", "447700900123", "7")
    assert lease.cost == Money(240_000, "USD")
    assert lease.expires_at == 1704562249


async def test_purchase_posts_ids_once_the_lists_were_read() -> None:
    answers = {**LISTS, "/sms/all_stock": [], "/purchase/sms": bought()}
    async with upstream(answers, pool="7", prefer="best_rate") as (there, script):
        await there.offers()
        await there.buy(order())
        await there.buy(order("am", 12, operator="3"))
    first, second = (posted(request) for request in script.requests[-2:])
    assert (first["country"], first["service"], first["pool"], first["pricing_option"]) == ("2", "907", "7", "1")
    assert (second["country"], second["service"], second["pool"]) == ("160", "39", "3")


async def test_purchase_posts_ids_that_another_process_has_read() -> None:
    async with (
        upstream({**LISTS, "/sms/all_stock": []}) as (reader, _),
        upstream({"/purchase/sms": bought()}) as (there, script),
    ):
        await reader.offers()
        there.learn(reader.knowledge())
        await there.buy(order("am", 12))
    assert (posted(script.requests[0])["country"], posted(script.requests[0])["service"]) == ("160", "39")


async def test_overrides_are_ids_and_win() -> None:
    answers = {"/purchase/sms": bought()}
    async with upstream(answers, services={"xx": "5"}, countries={12: "1"}) as (there, script):
        await there.buy(order("xx", 12))
    assert (posted(script.requests[0])["service"], posted(script.requests[0])["country"]) == ("5", "1")


async def test_what_has_no_id_there_is_refused_unasked() -> None:
    async with upstream({**LISTS, "/sms/all_stock": []}) as (there, script):
        await there.offers()
        asked = len(script.requests)
        for unknown in (order("wa"), order(country=43), order(country=999)):
            with pytest.raises(Refused):
                await there.buy(unknown)
        assert len(script.requests) == asked


@pytest.mark.parametrize("status", [200, 422])
@pytest.mark.parametrize(
    ("kind", "words", "expected", "is_fault"),
    [
        ("OUT_OF_STOCK", "<p>Pool <b>Foxtrot</b>: whatever</p>", SoldOut, None),
        ("PRICE_NOT_FOUND", "We could not find a suitable pool below the price of: 0.01", SoldOut, None),
        ("BALANCE_ERROR", "<p>whatever</p>", Refused, True),
        (
            "",
            "<p>We couldn't find an <b>available</b> phone number for you, please try again later!</p>",
            SoldOut,
            None,
        ),
        ("", "We could not find a suitable pool below the price of: 0.01", SoldOut, None),
        ("", "<p><b>Foxtrot</b> Insufficient balance, the price is: 0.24</p>", Refused, True),
        ("", "Invalid API key", Refused, True),
        ("", "Your account has been suspended", Refused, True),
        ("NEW_TYPE", "Some new words", Refused, False),
        ("", "", Refused, False),
    ],
)
async def test_refusals_are_told_by_type_and_then_by_words(
    status: int, kind: str, words: str, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream({"/purchase/sms": refusal(words, kind, status)}) as (there, script):
        message = await refused(there, order(), expected, is_fault)
    assert len(script.requests) == 1
    assert "0.24" not in message


@pytest.mark.parametrize(
    ("given", "is_fault"),
    [
        (httpx.Response(403, json=BAD_KEY), True),
        (BAD_KEY, True),
        (httpx.Response(401), True),
        (httpx.Response(429, text="slow down"), True),
        (httpx.Response(404, text="<html>"), False),
        (httpx.Response(302, headers={"location": "/"}), False),
    ],
)
async def test_purchases_turned_away_at_the_door_took_nothing(given: Any, is_fault: bool) -> None:
    async with upstream({"/purchase/sms": given}) as (there, _):
        with pytest.raises(Refused) as caught:
            await there.buy(order())
    assert caught.value.is_fault is is_fault


@pytest.mark.parametrize(
    "given",
    [
        httpx.Response(200, text='{"success":1,"order_id":"ABC'),
        httpx.Response(500, json={"success": 0, "message": "We couldn't find an available phone number"}),
        {},
        [],
        {"message": "no word on success"},
        bought(order_id=None),
        bought(number=""),
        bought(success="perhaps"),
        *LOST,
    ],
)
async def test_unreadable_purchases_are_in_doubt(given: Any) -> None:
    async with upstream({"/purchase/sms": given}) as (there, script):
        await in_doubt(there, order())
    assert len(script.requests) == 1


async def test_number_at_an_odd_price_is_kept() -> None:
    async with upstream({"/purchase/sms": bought(cost="free", expiration=None)}) as (there, _):
        lease = await there.buy(order())
    assert lease.cost is None
    assert lease.expires_at == 599.0


# --- reading ---


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (1, LeaseState.OPEN),
        ("1", LeaseState.OPEN),
        (4, LeaseState.OPEN),
        (7, LeaseState.OPEN),
        (8, LeaseState.OPEN),
        (3, LeaseState.OPEN),
        (2, LeaseState.CANCELLED),
        (5, LeaseState.CANCELLED),
        (6, LeaseState.CANCELLED),
    ],
)
async def test_statuses_are_read(status: Any, state: LeaseState) -> None:
    async with upstream({"/sms/check": {**PENDING, "status": status}}) as (there, script):
        assert await there.read(watched("ABCD1234")) == Progress(state)
    assert posted(script.requests[0]) == {"orderid": "ABCD1234"}


async def test_doubtful_statuses_are_settings() -> None:
    answers = {"/sms/check": ({**PENDING, "status": 2}, {**PENDING, "status": 8})}
    async with upstream(answers, open_statuses=[1, 2], ended_statuses=[5, 6, 8]) as (there, _):
        assert (await there.read(watched())).state is LeaseState.OPEN
        assert (await there.read(watched())).state is LeaseState.CANCELLED


@pytest.mark.parametrize("options", [{"open_statuses": [1, 5]}, {"ended_statuses": [3]}])
def test_status_cannot_be_two_things(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        smspool.Options(**options)


async def test_received_order_shows_its_sms_under_a_steady_identity() -> None:
    async with upstream({"/sms/check": RECEIVED, "/request/active": [row(status="completed", code="12345")]}) as (
        there,
        _,
    ):
        (sms,) = (await there.read(watched())).messages
        assert (await there.read(watched())).messages == (sms,)
        (other,) = (await there.read(watched(round_=2))).messages
    assert (sms.code, sms.text) == ("12345", "Your code is 12345")
    assert "12345" not in sms.identity
    assert other.identity != sms.identity


async def test_order_that_waits_again_does_not_show_the_message_before() -> None:
    async with upstream({"/sms/check": {**RECEIVED, "status": 4}}) as (there, _):
        assert await there.read(watched(round_=2)) == Progress(LeaseState.OPEN)


@pytest.mark.parametrize("given", [NO_ORDER, httpx.Response(404, json=NO_ORDER), refusal("Order not found", "", 404)])
async def test_unknown_order_is_a_state(given: Any) -> None:
    async with upstream({"/sms/check": given}) as (there, _):
        assert await there.read(watched()) == Progress(LeaseState.UNKNOWN)


@pytest.mark.parametrize(
    "given",
    [
        BAD_KEY,
        httpx.Response(403, json=BAD_KEY),
        {**PENDING, "status": 9},
        {**PENDING, "status": "active"},
        refusal("Some new words"),
        httpx.Response(404, text="<html>"),
        httpx.Response(500),
        [],
        httpx.ReadTimeout("late"),
    ],
)
async def test_answers_that_tell_nothing_are_unwell(given: Any) -> None:
    async with upstream({"/sms/check": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


# --- the list of open orders ---


async def test_list_is_read_as_single_orders_are() -> None:
    rows = [
        row(),
        row(order_code="DONE0001", status="completed", code="12345", full_code="Your code is 12345"),
        row(order_code="OVER0001", status="refunded"),
        row(order_code="ODD00001", status="in orbit"),
        {"order_code": None},
        None,
    ]
    async with upstream({"/request/active": rows, "/sms/check": RECEIVED}) as (there, _):
        names = ("ABCD1234", "DONE0001", "OVER0001", "ODD00001", "GONE0001")
        many = await there.read_many([watched(name) for name in names])
        assert set(many) == {"ABCD1234", "DONE0001", "OVER0001"}
        assert many["DONE0001"] == await there.read(watched("DONE0001"))
    assert many["ABCD1234"] == Progress(LeaseState.OPEN)
    assert many["OVER0001"] == Progress(LeaseState.CANCELLED)


async def test_open_orders_are_found_with_our_codes_and_the_time_they_were_made() -> None:
    rows = [
        row(),
        row(order_code="VIRT0001", short_name="US_V", service="Amazon / Amazon Web Services"),
        row(order_code="ODD00001", short_name="AQ", service="Nobody's"),
        row(order_code="OVER0001", status="refunded"),
        row(order_code="OLD00001", timestamp="2024-01-06 18:02:14"),
        row(order_code="MUTE0001", timestamp="soon"),
    ]
    async with upstream({**LISTS, "/request/active": rows}) as (there, _):
        found = await there.find(MADE_AT)
    assert [(one.lease.reference, one.service, one.country, one.created_at) for one in found] == [
        ("ABCD1234", "tg", 16, MADE_AT),
        ("VIRT0001", "am", 12, MADE_AT),
        ("ODD00001", "Nobody's", -1, MADE_AT),
        ("MUTE0001", "tg", 16, None),
    ]
    assert (found[0].lease.number, found[0].lease.cost) == ("447700900123", Money(240_000, "USD"))


@pytest.mark.parametrize("hours", [-11, -5, 0, 1, 2, 9, 14])
async def test_zone_of_a_time_stamp_is_told_from_the_clock_of_the_list(hours: int) -> None:
    day, hour = divmod(17 + hours, 24)
    stamp = f"2024-01-{6 + day:02d} {hour:02d}:03:15"
    async with upstream({**LISTS, "/request/active": [row(timestamp=stamp)]}) as (there, _):
        (found,) = await there.find(0)
    assert found.created_at == MADE_AT


async def test_zone_of_a_time_stamp_may_be_set() -> None:
    async with upstream({**LISTS, "/request/active": [row()]}, utc_offset_minutes=120) as (there, _):
        (found,) = await there.find(0)
    assert found.created_at == MADE_AT - 3600


@pytest.mark.parametrize("given", [BAD_KEY, httpx.Response(500), httpx.Response(200, text="<html>"), "x"])
async def test_unreadable_lists_are_unwell(given: Any) -> None:
    async with upstream({**LISTS, "/request/active": given}) as (there, _):
        for call in (there.find(0), there.read_many([watched()])):
            with pytest.raises(Unwell):
                await call


# --- another SMS ---


async def test_another_sms_is_asked_for_when_it_is_free() -> None:
    answers = {"/sms/check": RECEIVED, "/sms/check_resend": RESENDABLE, "/sms/resend": RESENT}
    async with upstream(answers) as (there, script):
        await there.ask_again("ABCD1234")
    assert [request.url.path for request in script.requests] == ["/sms/check", "/sms/check_resend", "/sms/resend"]


async def test_nothing_is_asked_while_the_order_waits_anyway() -> None:
    async with upstream({"/sms/check": PENDING}) as (there, script):
        await there.ask_again("ABCD1234")
    assert len(script.requests) == 1


@pytest.mark.parametrize("price", [0.12, "0.12"])
async def test_another_sms_that_costs_is_bought_only_where_the_stanza_says_so(price: Any) -> None:
    answers = {"/sms/check": RECEIVED, "/sms/check_resend": {**RESENDABLE, "resendCost": price}, "/sms/resend": RESENT}
    async with upstream(answers) as (there, script):
        with pytest.raises(NotAllowed):
            await there.ask_again("ABCD1234")
        assert script.requests[-1].url.path == "/sms/check_resend"
    async with upstream(answers, resend="paid") as (there, script):
        await there.ask_again("ABCD1234")
        assert script.requests[-1].url.path == "/sms/resend"
    async with upstream(answers, resend="never") as (there, script):
        with pytest.raises(NotAllowed):
            await there.ask_again("ABCD1234")
        assert script.requests[-1].url.path == "/sms/check"


async def test_lease_goes_on_under_the_order_that_replaced_its_own() -> None:
    answers: dict[str, Any] = {
        **LISTS,
        "/sms/check": RECEIVED,
        "/sms/check_resend": RESENDABLE,
        "/sms/resend": {**RESENT, "order_id": "NEWER001"},
        "/request/active": [row(order_code="NEWER001", status="completed", code="67890", full_code="b 67890")],
    }
    async with upstream(answers) as (there, _):
        assert await there.ask_again("ABCD1234") == "NEWER001"
    async with upstream(answers) as (another, _):
        many = await another.read_many([watched("NEWER001", 2)])
        assert many["NEWER001"].messages[0].code == "67890"
        assert [one.lease.reference for one in await another.find(0)] == ["NEWER001"]


@pytest.mark.parametrize("told", [{}, {"order_id": None}, {"order_id": ""}, {"order_id": "ABCD1234"}])
async def test_lease_stays_where_no_other_order_replaces_its_own(told: dict[str, Any]) -> None:
    resent = {"success": 1, "charge": 0, **told}
    answers = {"/sms/check": RECEIVED, "/sms/check_resend": RESENDABLE, "/sms/resend": resent}
    async with upstream(answers) as (there, _):
        assert await there.ask_again("ABCD1234") is None


async def test_order_that_was_made_for_another_sms_is_given_back_where_none_came() -> None:
    async with upstream({"/sms/check": PENDING, "/sms/cancel": DONE}) as (there, script):
        await there.close("NEWER001", Outcome.FINISHED)
    assert posted(script.requests[-1]) == {"orderid": "NEWER001"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"/sms/check": NO_ORDER}, UnknownLease),
        ({"/sms/check": {**PENDING, "status": 6}}, NotAllowed),
        ({"/sms/check_resend": httpx.Response(404, json=NO_ORDER)}, UnknownLease),
        ({"/sms/check_resend": refusal("Some new words", "", 400)}, NotAllowed),
        ({"/sms/check_resend": refusal("This number cannot be resent at the moment, please try again later.")}, Unwell),
        ({"/sms/check_resend": {**RESENDABLE, "resendCost": "some"}}, Unwell),
        ({"/sms/check_resend": {}}, Unwell),
        ({"/sms/resend": refusal("Insufficient balance")}, Unwell),
        ({"/sms/resend": httpx.ReadTimeout("late")}, Unwell),
    ],
)
async def test_why_there_is_no_other_sms(answers: dict[str, Any], expected: type[UpstreamError]) -> None:
    usual = {"/sms/check": RECEIVED, "/sms/check_resend": RESENDABLE, "/sms/resend": RESENT}
    async with upstream({**usual, **answers}) as (there, _):
        with pytest.raises(expected):
            await there.ask_again("ABCD1234")


# --- closing ---


@pytest.mark.parametrize(
    ("outcome", "answers"),
    [
        (Outcome.CANCELLED, {"/sms/cancel": DONE}),
        (Outcome.CANCELLED, {"/sms/cancel": refusal("It is over"), "/sms/check": {**PENDING, "status": 6}}),
        (Outcome.CANCELLED, {"/sms/cancel": refusal("", "", 400), "/sms/check": {**PENDING, "status": 5}}),
        (Outcome.FINISHED, {"/sms/check": RECEIVED}),
        (Outcome.FINISHED, {"/sms/check": {**RECEIVED, "status": 4}}),
        (Outcome.FINISHED, {"/sms/check": {**PENDING, "status": 6}}),
        (Outcome.FINISHED, {"/sms/check": PENDING, "/sms/cancel": DONE}),
        (Outcome.FINISHED, {"/sms/check": (PENDING, RECEIVED), "/sms/cancel": refusal("It has an SMS")}),
    ],
)
async def test_close_is_done_or_done_already(outcome: Outcome, answers: dict[str, Any]) -> None:
    async with upstream(answers) as (there, _):
        await there.close("ABCD1234", outcome)


@pytest.mark.parametrize(
    ("outcome", "answers", "expected"),
    [
        (Outcome.CANCELLED, {"/sms/cancel": TOO_EARLY}, TooEarly),
        (Outcome.CANCELLED, {"/sms/cancel": httpx.Response(400, json=TOO_EARLY)}, TooEarly),
        (Outcome.CANCELLED, {"/sms/cancel": refusal("new words"), "/sms/check": RECEIVED}, HasSms),
        (Outcome.CANCELLED, {"/sms/cancel": refusal("new words"), "/sms/check": PENDING}, Unwell),
        (Outcome.CANCELLED, {"/sms/cancel": NO_ORDER, "/sms/check": NO_ORDER}, UnknownLease),
        (Outcome.CANCELLED, {"/sms/cancel": {}, "/sms/check": PENDING}, Unwell),
        (Outcome.CANCELLED, {"/sms/cancel": httpx.Response(500)}, Unwell),
        (Outcome.CANCELLED, {"/sms/cancel": BAD_KEY}, Unwell),
        (Outcome.FINISHED, {"/sms/check": NO_ORDER}, UnknownLease),
        (Outcome.FINISHED, {"/sms/check": PENDING, "/sms/cancel": TOO_EARLY}, TooEarly),
    ],
)
async def test_close_says_what_stands_in_the_way(
    outcome: Outcome, answers: dict[str, Any], expected: type[UpstreamError]
) -> None:
    async with upstream(answers) as (there, _):
        with pytest.raises(expected):
            await there.close("ABCD1234", outcome)


async def test_early_cancel_is_tried_again_in_small_steps() -> None:
    async with upstream({"/sms/cancel": TOO_EARLY}) as (there, _):
        with pytest.raises(TooEarly) as caught:
            await there.close("ABCD1234", Outcome.CANCELLED)
    assert caught.value.retry_seconds == 15.0


# --- money and prices ---


async def test_balance_is_read() -> None:
    async with upstream({"/request/balance": {"balance": "12.30"}}) as (there, _):
        assert await there.balance() == Money(12_300_000, "USD")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (BAD_KEY, Refused),
        (httpx.Response(403, json=BAD_KEY), Refused),
        (httpx.Response(500), Unwell),
        ({}, Unwell),
        ([], Unwell),
    ],
)
async def test_balance_that_is_not_told(given: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"/request/balance": given}) as (there, _):
        with pytest.raises(expected):
            await there.balance()


def priced(**changes: Any) -> dict[str, Any]:
    return {
        "country": 2,
        "country_name": "United Kingdom",
        "pool": 7,
        "price": "0.24",
        "service": 907,
        "service_name": "Telegram",
        "stock": 5,
        **changes,
    }


def parsed(data: Any, pool: str = "") -> tuple[OfferTable, dict[str, int]]:
    sheet = Sheet("there", "USD", {"907": "tg"}, {"2": 16})
    table, unmapped = parse_prices(json.dumps(data).encode(), pool, sheet)
    return table, dict(unmapped)


@pytest.mark.parametrize("nested", [False, True])
def test_prices_are_read_flat_or_nested(nested: bool) -> None:
    rows = [priced(), priced(pool=3, price=0.2, stock="9"), priced(pool=1, stock=0), priced(price=None), 7]
    table, unmapped = parsed([rows] if nested else rows)
    assert [(offer.cost.micros, offer.count, offer.operator) for offer in table.at("tg", 16)] == [
        (200_000, 9, "3"),
        (240_000, 5, "7"),
    ]
    assert unmapped == {}


def test_list_without_stock_counts_one_each_and_a_pool_may_be_picked() -> None:
    rows = [{name: value for name, value in priced(pool=pool).items() if name != "stock"} for pool in (3, 7)]
    table, _ = parsed(rows, pool="7")
    assert [(offer.count, offer.operator) for offer in table.at("tg", 16)] == [(1, "7")]


def test_unknown_ids_are_counted_under_their_names() -> None:
    rows = [priced(service=5, service_name="2game"), priced(country=99, country_name="Atlantis", stock=3)]
    table, unmapped = parsed(rows)
    assert len(table) == 0
    assert unmapped == {"service 5 (2game)": 5, "country 99 (Atlantis)": 3}


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"success":0}', b"[", b"null"])
def test_body_that_is_no_price_list_is_unwell(body: bytes) -> None:
    with pytest.raises(Unwell):
        parse_prices(body, "", Sheet("there", "USD", {}, {}))


@pytest.mark.parametrize(("price_list", "path"), [("all_stock", "/sms/all_stock"), ("pricing", "/request/pricing")])
async def test_either_price_list_may_be_taken(price_list: str, path: str) -> None:
    async with upstream({**LISTS, path: [priced()]}, price_list=price_list) as (there, script):
        table = await there.offers()
        await there.offers()
    assert table.at("tg", 16)[0].cost == Money(240_000, "USD")
    paths = [request.url.path for request in script.requests]
    assert paths == ["/service/retrieve_all", "/country/retrieve_all", path, path]


@pytest.mark.parametrize("path", [*LISTS, "/sms/all_stock"])
@pytest.mark.parametrize("given", [BAD_KEY, httpx.Response(500), httpx.Response(200, text="<html>"), {}])
async def test_lists_that_cannot_be_had_are_unwell(path: str, given: Any) -> None:
    async with upstream({**LISTS, "/sms/all_stock": [], path: given}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


# --- whatever comes ---

values = json_values({**bought(), **row()})
odd_rows = odd(row, values)
odd_orders = odd(lambda **changes: bought(**{"status": 3, **changes}), values)
bodies = values.map(json.dumps) | odd_orders.map(json.dumps) | st.lists(odd_rows).map(json.dumps) | texts


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(body=bodies, status=st.sampled_from([200, 302, 400, 404, 500]))
async def test_no_answer_breaks_any_verb(body: str, status: int) -> None:
    script = Script(lambda _: httpx.Response(status, content=body.encode()))
    async with aclosing(smspool.build(context(script), smspool.Options())) as there:
        await every_verb(there, order(), "ABCD1234")
