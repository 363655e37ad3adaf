"""vak-sms against scripted answers: a price asked first, codes without states, an end that is also a cancel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from adapters import vaksms
from adapters._prices import Sheet
from adapters.vaksms import VakSms, parse_prices
from gateway.errors import (
    HasSms,
    NotAllowed,
    NotReached,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import LeaseState, Outcome, Progress
from gateway.money import Money
from tests.adapters._context import SECRET, Script, context, order, watched
from tests.adapters._scripted import LOST, in_doubt, refused, scripted

BOUGHT = {"tel": 447700900123, "idNum": "77"}
WAITING = {"smsCode": None}
GONE = {"error": "idNumNotFound"}


def status(word: str) -> dict[str, str]:
    return {"status": word}


def call(request: httpx.Request) -> str:
    return request.url.path.split("/")[2]


@asynccontextmanager
async def upstream(answers: dict[str, Any], **options: Any) -> AsyncIterator[tuple[VakSms, Script]]:
    script = scripted({"getCountNumber": {"tg": 55, "price": 0.4}, **answers}, call)
    async with aclosing(vaksms.build(context(script, clock=lambda: 1000.0), vaksms.Options(**options))) as made:
        yield made, script


def calls(script: Script) -> list[str]:
    return [call(request) for request in script.requests]


# --- buying ---


async def test_price_is_asked_first() -> None:
    async with upstream({"getNumber": BOUGHT}) as (there, script):
        lease = await there.buy(order(operator="o2"))
    price, purchase = script.requests
    common = {"apiKey": SECRET, "service": "tg", "country": "gb", "operator": "o2"}
    assert dict(price.url.params) == {**common, "price": "1"}
    assert dict(purchase.url.params) == common
    assert purchase.url.path == "/api/getNumber/"
    assert (lease.reference, lease.number, lease.cost, lease.expires_at) == ("77", "447700900123", None, 2200.0)


async def test_cost_is_read_where_the_purchase_tells_it() -> None:
    async with upstream({"getNumber": {**BOUGHT, "price": 0.9}}) as (there, _):
        assert (await there.buy(order())).cost == Money(900_000, "USD")


@pytest.mark.parametrize(
    "listed", [{"tg": 55, "price": 0.51}, {"tg": 0, "price": 0.1}, {"price": 0.1}, {"error": "noNumber"}]
)
async def test_what_is_dear_or_gone_is_not_bought(listed: Any) -> None:
    async with upstream({"getCountNumber": listed, "getNumber": BOUGHT}) as (there, script):
        with pytest.raises(SoldOut):
            await there.buy(order(cost_max=500_000))
    assert calls(script) == ["getCountNumber"]


@pytest.mark.parametrize(
    ("given", "expected", "is_fault"),
    [
        ({"error": "noNumber"}, SoldOut, None),
        ({"error": "apiKeyNotFound"}, Refused, True),
        ({"error": "noMoney"}, Refused, True),
        (httpx.Response(429, text="slow down"), Refused, True),
        ({"error": "noCountry"}, Refused, False),
        ({"error": "badService"}, Refused, False),
        (httpx.Response(400, json={"error": "badData"}), Refused, False),
    ],
)
async def test_refused_purchases_took_nothing(given: Any, expected: type[UpstreamError], is_fault: bool | None) -> None:
    async with upstream({"getNumber": given}) as (there, script):
        await refused(there, order(), expected, is_fault)
    assert calls(script).count("getNumber") == 1


@pytest.mark.parametrize(
    "given",
    [
        {"error": "newWord"},
        {"error": "447700900123"},
        {"tel": 447700900123},
        {"idNum": "77"},
        {"tel": "", "idNum": "77"},
        [BOUGHT],
        httpx.Response(500, json={"error": "noNumber"}),
        httpx.Response(404, text="{}"),
        httpx.Response(301, headers={"location": "/elsewhere"}),
        *LOST,
    ],
)
async def test_purchases_that_make_no_sense_are_in_doubt_and_sent_once(given: Any) -> None:
    async with upstream({"getNumber": given}) as (there, script):
        message = await in_doubt(there, order())
    assert calls(script).count("getNumber") == 1
    assert "447700900123" not in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"error": "newWord"}, Refused),
        ({"tg": 5}, Refused),
        (httpx.ReadTimeout("late"), Refused),
        (httpx.ConnectError("no route"), NotReached),
    ],
)
async def test_price_that_is_not_told_leaves_nothing_in_doubt(given: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"getCountNumber": given}) as (there, script):
        with pytest.raises(expected):
            await there.buy(order())
    assert calls(script) == ["getCountNumber"]


# --- reading ---


@pytest.mark.parametrize(
    ("given", "codes"),
    [(None, []), ([], []), ("12345", ["12345"]), (["12345", "67890"], ["12345", "67890"]), (12345, ["12345"])],
)
async def test_codes_come_in_every_shape_without_their_text(given: Any, codes: list[str]) -> None:
    async with upstream({"getSmsCode": {"smsCode": given}}) as (there, script):
        progress = await there.read(watched())
    assert progress.state is LeaseState.OPEN
    assert [(sms.code, sms.text) for sms in progress.messages] == [(code, "") for code in codes]
    assert "all" in script.requests[0].url.params


async def test_code_that_comes_again_is_another_message_once_it_was_asked_for() -> None:
    async with upstream({"getSmsCode": ({"smsCode": ["1234"]}, {"smsCode": ["1234", "1234"]})}) as (there, _):
        (first,) = (await there.read(watched())).messages
        old, new = (await there.read(watched(round_=2))).messages
    assert old.identity == first.identity != new.identity


async def test_what_is_not_found_is_unknown_whoever_bought_it() -> None:
    async with upstream({"getNumber": BOUGHT, "getSmsCode": GONE}) as (there, _):
        assert await there.read(watched()) == Progress(LeaseState.UNKNOWN)
        await there.buy(order())
        assert await there.read(watched()) == Progress(LeaseState.UNKNOWN)


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.CANCELLED, LeaseState.CANCELLED), (Outcome.FINISHED, LeaseState.FINISHED)]
)
@pytest.mark.parametrize("shown", [WAITING, GONE])
async def test_what_was_closed_here_is_over_whatever_is_shown(shown: Any, outcome: Outcome, state: LeaseState) -> None:
    async with upstream({"getSmsCode": (WAITING, shown), "setStatus": status("update")}) as (there, _):
        await there.close("77", outcome)
        if outcome is Outcome.FINISHED:
            await there.read(watched())
        assert (await there.read(watched())).state is state


@pytest.mark.parametrize("given", [{"error": "apiKeyNotFound"}, {"error": "new"}, {}, [], httpx.Response(502)])
async def test_states_that_say_nothing_are_unwell(given: Any) -> None:
    async with upstream({"getSmsCode": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


# --- asking again and closing ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (status("ready"), None),
        (status("waitSMS"), None),
        (GONE, UnknownLease),
        ({"error": "badStatus"}, NotAllowed),
        (status("newWord"), Unwell),
        ({}, Unwell),
    ],
)
async def test_asking_again_is_done_or_refused(given: Any, expected: type[UpstreamError] | None) -> None:
    async with upstream({"setStatus": given}) as (there, script):
        if expected is None:
            await there.ask_again("77")
        else:
            with pytest.raises(expected):
                await there.ask_again("77")
    assert script.requests[0].url.params["status"] == "send"


async def test_cancel_looks_before_it_ends() -> None:
    async with upstream({"getSmsCode": WAITING, "setStatus": status("update")}) as (there, script):
        await there.close("77", Outcome.CANCELLED)
    assert calls(script) == ["getSmsCode", "setStatus"]
    assert script.requests[1].url.params["status"] == "end"


async def test_code_is_never_ended_by_a_cancel() -> None:
    async with upstream({"getSmsCode": {"smsCode": ["12345"]}}) as (there, script):
        with pytest.raises(HasSms):
            await there.close("77", Outcome.CANCELLED)
    assert calls(script) == ["getSmsCode"]


@pytest.mark.parametrize(
    ("look", "said", "expected"),
    [
        (WAITING, status("smsReceived"), HasSms),
        (WAITING, status("received"), HasSms),
        (WAITING, status("waitSMS"), TooEarly),
        (WAITING, {"error": "badStatus"}, NotAllowed),
        (WAITING, GONE, UnknownLease),
        (GONE, status("update"), UnknownLease),
        (WAITING, status("newWord"), Unwell),
    ],
)
async def test_cancel_says_what_stands_in_the_way(look: Any, said: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"getSmsCode": look, "setStatus": said}) as (there, _):
        with pytest.raises(expected) as caught:
            await there.close("77", Outcome.CANCELLED)
    if isinstance(caught.value, TooEarly):
        assert caught.value.retry_seconds == 300


async def test_cancel_of_what_was_bought_here_and_is_not_found_is_told_as_that() -> None:
    async with upstream({"getNumber": BOUGHT, "getSmsCode": GONE}) as (there, _):
        await there.buy(order())
        with pytest.raises(UnknownLease):
            await there.close("77", Outcome.CANCELLED)


async def test_cancel_of_what_was_cancelled_here_and_is_not_found_is_done() -> None:
    async with upstream({"getSmsCode": (WAITING, GONE), "setStatus": status("update")}) as (there, script):
        for _ in range(2):
            await there.close("77", Outcome.CANCELLED)
    assert calls(script) == ["getSmsCode", "setStatus", "getSmsCode"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (status("update"), None),
        (status("smsReceived"), None),
        (status("waitSMS"), TooEarly),
        (GONE, UnknownLease),
        (status("newWord"), Unwell),
    ],
)
async def test_finish_is_done_or_refused(said: Any, expected: type[UpstreamError] | None) -> None:
    async with upstream({"setStatus": said}) as (there, _):
        if expected is None:
            await there.close("77", Outcome.FINISHED)
            return
        with pytest.raises(expected):
            await there.close("77", Outcome.FINISHED)


# --- the price list, and balance ---


def test_prices_are_read_under_both_names() -> None:
    lists = {
        "gb": {
            "tg": [{"cost": 12.5, "quantity": 7, "name": "Telegram"}, {"price": 13, "count": "2"}],
            "zzz": [{"cost": 1, "quantity": 3}],
            "wa": [{"cost": None, "quantity": 3}],
        },
        "DE": {"tg": {"cost": "9", "quantity": 1}},
        "xk": {"tg": [{"cost": 1, "quantity": 4}]},
        "us": {"error": "noCountry"},
    }
    sheet = Sheet("there", "RUB", {"tg": "tg", "wa": "wa"}, {"gb": 16, "de": 43, "us": 187})
    table, unmapped = parse_prices([(place, json.dumps(body).encode()) for place, body in lists.items()], sheet)
    assert [(one.cost.micros, one.count) for one in table.at("tg", 16)] == [(12_500_000, 7), (13_000_000, 2)]
    assert [one.count for one in table.at("tg", 43)] == [1]
    assert unmapped == {"service zzz": 3, "country xk": 4, "unreadable": 1}


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":"new"}', b'{"tg":[7]}', b'{"tg":[{"co'])
def test_unreadable_lists_are_unwell(body: bytes) -> None:
    with pytest.raises(Unwell):
        parse_prices([("gb", body)], Sheet("there", "RUB", {}, {}))


async def test_prices_of_all_countries_it_names_are_read_unless_some_are_chosen() -> None:
    answers: dict[str, Any] = {
        "getCountryList": [{"countryCode": "GB", "countryName": "x", "operatorList": []}, {"countryCode": "xk"}],
        "getCountNumbersList": {"tg": [{"cost": 1, "quantity": 4}]},
    }
    for options, expected in [({}, ["gb", "xk"]), ({"countries_listed": ["gb"]}, ["gb"])]:
        async with upstream(answers, **options) as (there, script):
            assert (await there.offers()).at("tg", 16)
        asked = [one.url.params["country"] for one in script.requests if "country" in one.url.params]
        assert asked == expected


@pytest.mark.parametrize("given", [{"error": "new"}, {}, "x", httpx.Response(502)])
async def test_offers_that_fail_are_unwell(given: Any) -> None:
    async with upstream({"getCountryList": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


async def test_balance_is_read_and_a_bad_key_is_a_fault() -> None:
    answers: tuple[Any, ...] = ({"balance": 7.5}, {"error": "apiKeyNotFound"}, {"error": "new"}, {})
    async with upstream({"getBalance": answers}) as (there, _):
        assert await there.balance() == Money(7_500_000, "USD")
        with pytest.raises(Refused) as caught:
            await there.balance()
        assert caught.value.is_fault
        for _ in range(2):
            with pytest.raises(Unwell):
                await there.balance()
