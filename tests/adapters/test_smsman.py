"""sms-man against scripted answers: ids learnt from lists, codes without texts, words that are settings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from adapters import _words, smsman
from adapters._prices import Sheet
from adapters.smsman import SmsMan, parse_prices
from gateway.errors import (
    HasSms,
    NotAllowed,
    NotReached,
    Refused,
    SoldOut,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import LeaseState, Outcome, Progress, Sms
from gateway.money import Money
from tests.adapters._context import SECRET, Script, context, order, watched
from tests.adapters._scripted import LOST, in_doubt, refused, scripted

COUNTRIES = {
    "1": {"id": "1", "title": "Russia", "code": "RU"},
    "100": {"id": 100, "title": "United Kingdom"},
    "5": {"id": "5", "title": "USA", "code": "ZZ"},
}
APPLICATIONS = {
    "1": {"id": "1", "title": "Vkontakte", "code": "vk"},
    "3": {"id": "3", "name": "Telegram", "code": "zz"},
    "2": {"id": "2", "title": "A messenger of another name", "code": "wa"},
    "297": {"id": "297", "title": "Amazon", "code": "tg"},
}
BOUGHT = {"request_id": 77, "country_id": 100, "application_id": 3, "number": "447700900123"}
DONE = {"request_id": 77, "success": True}


def word(code: str, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json={"success": False, "error_code": code, "error_msg": {"any": "words"}})


def code(given: str = "12345") -> dict[str, Any]:
    return {**BOUGHT, "sms_code": given}


def call(request: httpx.Request) -> str:
    return request.url.path.rsplit("/", 1)[1]


@asynccontextmanager
async def upstream(answers: dict[str, Any], **options: Any) -> AsyncIterator[tuple[SmsMan, Script]]:
    script = scripted({"countries": COUNTRIES, "applications": APPLICATIONS, **answers}, call)
    async with aclosing(smsman.build(context(script, clock=lambda: 1000.0), smsman.Options(**options))) as made:
        yield made, script


def calls(script: Script) -> list[str]:
    return [call(request) for request in script.requests]


# --- its words ---


async def test_ids_are_learnt_once_by_name_before_code() -> None:
    async with upstream({"get-number": BOUGHT}) as (there, script):
        await there.buy(order(service="tg", country=16))
        await there.buy(order(service="am", country=187))
        await there.buy(order(service="wa", country=0))
    assert calls(script) == ["countries", "applications", "get-number", "get-number", "get-number"]
    ids = [(one.url.params["application_id"], one.url.params["country_id"]) for one in script.requests[2:]]
    assert ids == [("3", "100"), ("297", "5"), ("2", "1")]


async def test_stanza_names_ids_over_what_the_lists_say() -> None:
    async with upstream({"get-number": BOUGHT}, services={"tg": "9"}, countries={16: "8"}) as (there, script):
        await there.buy(order())
    assert dict(script.requests[-1].url.params).items() >= {"application_id": "9", "country_id": "8"}.items()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (word("wrong_token"), Refused),
        (httpx.Response(502), Refused),
        ([{"no": "id"}], Refused),
        ({"1": {"id": 1, "title": "Atlantis"}}, Refused),
        (httpx.ConnectError("no route"), NotReached),
    ],
)
async def test_purchase_whose_words_are_not_told_took_nothing(given: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"countries": given}) as (there, script):
        with pytest.raises(expected):
            await there.buy(order())
    assert calls(script) == ["countries"]


async def test_what_was_learnt_once_is_good_enough_for_a_purchase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_words, "LEARNT_SECONDS", 0.0)
    async with upstream({"countries": (COUNTRIES, httpx.Response(502)), "get-number": BOUGHT}) as (there, script):
        await there.buy(order())
        await there.buy(order())
        with pytest.raises(Unwell):
            await there.offers()
    assert calls(script).count("countries") == 2


async def test_what_it_does_not_list_is_refused() -> None:
    async with upstream({}) as (there, script):
        with pytest.raises(Refused) as caught:
            await there.buy(order(country=6))
    assert not caught.value.is_fault
    assert "get-number" not in calls(script)


# --- buying ---


async def test_purchase_carries_the_cap() -> None:
    async with upstream({"get-number": BOUGHT}) as (there, script):
        lease = await there.buy(order(cost_max=12_345_678))
    assert dict(script.requests[-1].url.params) == {
        "token": SECRET,
        "country_id": "100",
        "application_id": "3",
        "maxPrice": "12.345678",
    }
    assert (lease.reference, lease.number, lease.cost, lease.expires_at) == ("77", "447700900123", None, 2200.0)


async def test_currency_and_further_messages_are_asked_for_where_wanted() -> None:
    async with upstream({"get-number": {**BOUGHT, "cost": "0.3"}}, sends_currency=True, multiple_sms=True) as (
        there,
        script,
    ):
        lease = await there.buy(order())
    assert script.requests[-1].url.params["currency"] == "USD"
    assert script.requests[-1].url.params["hasMultipleSms"] == "true"
    assert lease.cost == Money(300_000, "USD")


@pytest.mark.parametrize(
    ("given", "expected", "is_fault"),
    [
        (word("no_numbers"), SoldOut, None),
        (word("NO_NUMBERS"), SoldOut, None),
        (word("balance"), Refused, True),
        (word("wrong_token"), Refused, True),
        (httpx.Response(429, text="slow down"), Refused, True),
        (word("wrong_application_id", 400), Refused, False),
    ],
)
async def test_refused_purchases_took_nothing(
    given: httpx.Response, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream({"get-number": given}) as (there, script):
        await refused(there, order(), expected, is_fault)
    assert calls(script).count("get-number") == 1


@pytest.mark.parametrize(
    "given",
    [
        word("new_word"),
        word("447700900123"),
        {"success": False},
        {"request_id": 77},
        {"number": "447700900123"},
        [],
        httpx.Response(500, json={"error_code": "no_numbers"}),
        httpx.Response(400, json={}),
        *LOST,
    ],
)
async def test_purchases_that_make_no_sense_are_in_doubt_and_sent_once(given: Any) -> None:
    async with upstream({"get-number": given}) as (there, script):
        message = await in_doubt(there, order())
    assert calls(script).count("get-number") == 1
    assert "447700900123" not in message


# --- reading ---


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (word("wait_sms"), LeaseState.OPEN),
        ({**BOUGHT, "error_code": "wait_sms", "error_msg": "Still waiting..."}, LeaseState.OPEN),
        (word("Canceled"), LeaseState.CANCELLED),
        (word("closed"), LeaseState.FINISHED),
        (word("wrong_request_id", 400), LeaseState.UNKNOWN),
    ],
)
async def test_states_are_read(given: Any, state: LeaseState) -> None:
    async with upstream({"get-sms": given}) as (there, _):
        assert await there.read(watched()) == Progress(state)


async def test_words_for_the_end_are_settings() -> None:
    async with upstream({"get-sms": word("gone")}, cancelled_words=["gone"]) as (there, _):
        assert (await there.read(watched())).state is LeaseState.CANCELLED


async def test_code_comes_without_its_text_and_is_another_in_another_round() -> None:
    async with upstream({"get-sms": code()}) as (there, _):
        first, second = await there.read(watched()), await there.read(watched(round_=2))
    assert first == Progress(LeaseState.OPEN, (Sms("12345", "", identity="1:12345"),))
    assert second.messages[0].identity == "2:12345"


@pytest.mark.parametrize(
    "given", [word("wrong_token"), word("new_word"), {"success": False}, {}, [], BOUGHT, httpx.Response(502)]
)
async def test_states_that_say_nothing_are_unwell(given: Any) -> None:
    async with upstream({"get-sms": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


# --- asking again and closing ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (word("wrong_request_id"), UnknownLease),
        (word("closed"), NotAllowed),
        (word("new_word"), Unwell),
        ({"success": "yes"}, Unwell),
    ],
)
async def test_asking_again_may_be_refused(given: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"set-status": given}) as (there, _):
        with pytest.raises(expected):
            await there.ask_again("77")


async def test_cancel_looks_before_it_rejects() -> None:
    async with upstream({"get-sms": word("wait_sms"), "set-status": DONE}) as (there, script):
        await there.close("77", Outcome.CANCELLED)
    assert calls(script) == ["get-sms", "set-status"]
    assert script.requests[-1].url.params["status"] == "reject"


async def test_cancel_that_is_done_already_rejects_nothing() -> None:
    async with upstream({"get-sms": word("canceled")}) as (there, script):
        await there.close("77", Outcome.CANCELLED)
    assert calls(script) == ["get-sms"]


@pytest.mark.parametrize(
    ("looks", "said", "expected"),
    [
        (code(), DONE, HasSms),
        ((word("wait_sms"), code()), word("sms_received"), HasSms),
        (word("wait_sms"), word("new_word"), Unwell),
        (word("closed"), DONE, NotAllowed),
        (word("wrong_request_id"), DONE, UnknownLease),
    ],
)
async def test_cancel_says_what_stands_in_the_way(looks: Any, said: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"get-sms": looks, "set-status": said}) as (there, _):
        with pytest.raises(expected):
            await there.close("77", Outcome.CANCELLED)


@pytest.mark.parametrize(
    ("said", "look", "expected"),
    [
        (DONE, word("wait_sms"), None),
        (word("closed"), word("closed"), None),
        (word("new_word"), word("canceled"), None),
        (word("new_word"), code(), Unwell),
        (word("wrong_request_id"), word("wrong_request_id"), UnknownLease),
    ],
)
async def test_finish_is_done_or_done_already(said: Any, look: Any, expected: type[UpstreamError] | None) -> None:
    async with upstream({"set-status": said, "get-sms": look}) as (there, script):
        if expected is None:
            await there.close("77", Outcome.FINISHED)
        else:
            with pytest.raises(expected):
                await there.close("77", Outcome.FINISHED)
    assert script.requests[0].url.params["status"] == "close"


# --- the price list, and balance ---

LIMITS = [
    {"application_id": "3", "country_id": "100", "numbers": "7"},
    {"application_id": "3", "country_id": "999", "numbers": "5"},
    {"application_id": "888", "country_id": "100", "numbers": "4"},
]
LEAF = {"cost": "12.50", "count": 99}


def parsed(prices: list[tuple[str, Any]], limits: Any = LIMITS) -> Any:
    sheet = Sheet("there", "RUB", {"3": "tg", "2": "wa"}, {"100": 16, "1": 0})
    return parse_prices(
        [(country, json.dumps(body).encode()) for country, body in prices], json.dumps(limits).encode(), sheet
    )


@pytest.mark.parametrize(
    "prices",
    [
        [("", {"100": {"3": LEAF}})],
        [("100", {"100": {"3": LEAF}})],
        [("100", {"3": LEAF})],
        [("100", {"0": {**LEAF, "application_id": "3", "country_id": "100"}})],
        [("", [{**LEAF, "application_id": 3, "country_id": 100}])],
    ],
)
def test_prices_are_read_in_every_nesting_with_the_counts_of_limits(prices: Any) -> None:
    table, unmapped = parsed(prices)
    assert [(offer.cost.micros, offer.count) for offer in table.at("tg", 16)] == [(12_500_000, 7)]
    assert unmapped == {}


def test_unknown_ids_and_odd_rows_are_counted() -> None:
    prices = {"100": {"3": LEAF, "888": LEAF, "2": {"cost": "free"}}, "999": {"3": LEAF}, "1": {"2": LEAF}}
    table, unmapped = parsed([("", prices)])
    assert unmapped == {"country 999": 5, "service 888": 4, "unreadable": 1}
    assert [offer.count for offer in table.at("wa", 0)] == [99]


@pytest.mark.parametrize("body", [{"success": False, "error_code": "wrong_token"}, 7, {"1": 7}])
def test_unreadable_lists_are_unwell(body: Any) -> None:
    with pytest.raises(Unwell):
        parsed([("", body)])
    with pytest.raises(Unwell):
        parsed([], body)


async def test_prices_come_country_by_country_where_they_do_not_come_at_once() -> None:
    answers = {"limits": LIMITS, "get-prices": {"3": {**LEAF, "country_id": "100"}}}
    async with upstream(answers, prices_at_once=False) as (there, script):
        table = await there.offers()
    asked = [one.url.params["country_id"] for one in script.requests if one.url.path.endswith("get-prices")]
    assert sorted(asked) == ["1", "100", "5"]
    assert table.at("tg", 16)


async def test_offers_keep_what_they_could_not_map() -> None:
    async with upstream({"limits": LIMITS, "get-prices": {"100": {"3": LEAF, "888": LEAF}}}) as (there, _):
        await there.offers()
        assert there.unmapped == {"service 888": 4}


async def test_balance_is_read_and_a_bad_key_is_a_fault() -> None:
    async with upstream({"get-balance": ({"balance": "9.50"}, word("wrong_token"), word("new"), {})}) as (there, _):
        assert await there.balance() == Money(9_500_000, "USD")
        with pytest.raises(Refused) as caught:
            await there.balance()
        assert caught.value.is_fault
        for _ in range(2):
            with pytest.raises(Unwell):
                await there.balance()
