"""SMSPVA against scripted answers: its own statuses, prices asked first, numbers without prefix, no time in lists."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st

from adapters import smspva
from adapters._smspva_prices import PriceList, Sheet, parse_prices
from adapters.smspva import SmsPva
from gateway.errors import (
    HasSms,
    NotAllowed,
    Refused,
    SoldOut,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import LeaseState, Outcome, Progress
from gateway.money import Money
from tests.adapters._context import SECRET, Observed, Script, context, order, watched
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

DATE = {"date": "Sat, 06 Jan 2024 17:03:15 GMT"}
NOW = 1704560595.0

PRICE = "serviceprice/UK/opt29"
NUMBER = "number/UK/opt29"


def told(data: Any = None, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=json.dumps({"statusCode": status, "data": data}), headers=DATE)


def refusal(status: int, kind: str = "SOME_REASON") -> httpx.Response:
    body = {"statusCode": status, "error": {"type": kind, "description": "Some words"}}
    return httpx.Response(status, content=json.dumps(body), headers=DATE)


def priced(price: Any = "0.40", **changes: Any) -> httpx.Response:
    return told({"service": "opt29", "serviceDescription": "Telegram", "country": "UK", "price": price, **changes})


def bought(**changes: Any) -> httpx.Response:
    order = {"orderId": 123456, "phoneNumber": 7700900123, "countryCode": "UK", "orderExpireIn": 600}
    return told({**order, **changes})


def received(code: str = "12345", text: str = "Your code is 12345") -> httpx.Response:
    return told({"sms": {"code": code, "fullText": text}, "orderId": "123456", "orderExpireIn": 400})


def row(**changes: Any) -> dict[str, Any]:
    return {
        "orderId": 123456,
        "phoneNumber": 7700900123,
        "countryCode": "UK",
        "orderExpireIn": 590,
        "service": "opt29",
        "country": "UK",
        "status": "active",
        **changes,
    }


WAITING = refusal(202, "SMS_NOT_YET_RECEIVED")
NO_ORDER = refusal(406)
OVER = refusal(410)
DONE = told({"orderId": 123456})
NO_KEY = refusal(401, "UNAUTHORIZED")


def played(answers: dict[str, Any]) -> Script:
    return scripted(answers, lambda request: longest_prefix(request.url.path.removeprefix("/activation/"), answers))


@asynccontextmanager
async def upstream(answers: dict[str, Any], **options: Any) -> AsyncIterator[tuple[SmsPva, Script]]:
    script = played(answers)
    async with aclosing(smspva.build(context(script), smspva.Options(**options))) as made:
        yield made, script


def paths(script: Script) -> list[str]:
    return [f"{request.method} {request.url.path.removeprefix('/activation/')}" for request in script.requests]


# --- buying ---


async def test_price_is_asked_before_the_number_and_the_key_is_a_header() -> None:
    async with upstream({PRICE: priced(), NUMBER: bought()}) as (there, script):
        lease = await there.buy(order())
    assert paths(script) == [f"GET {PRICE}", f"GET {NUMBER}"]
    assert all(request.headers["apikey"] == SECRET for request in script.requests)
    assert str(script.requests[1].url) == "https://api.smspva.com/activation/number/UK/opt29"
    assert (lease.reference, lease.number, lease.cost) == ("123456", "447700900123", None)
    assert lease.expires_at == NOW + 600


async def test_dearer_than_the_cap_is_not_bought() -> None:
    async with upstream({PRICE: priced(0.51)}) as (there, script):
        with pytest.raises(SoldOut):
            await there.buy(order())
    assert len(script.requests) == 1


async def test_price_of_the_operator_decides_where_one_is_asked_for() -> None:
    prices = {"o2": "0.60", "a/b": "0.50"}
    async with upstream({PRICE: priced(priceByOperators=prices), NUMBER: bought()}) as (there, script):
        with pytest.raises(SoldOut):
            await there.buy(order(operator="o2"))
        await there.buy(order(operator="a/b"))
    assert script.requests[-1].url.raw_path == b"/activation/number/UK/opt29/a%2Fb"


@pytest.mark.parametrize(
    ("given", "is_fault"),
    [
        (refusal(405), False),
        (refusal(411), True),
        (NO_KEY, True),
        (refusal(500), True),
        (httpx.Response(502, text="Bad Gateway"), True),
        (httpx.Response(200, text="<html>"), True),
        (priced("soon"), True),
        (httpx.ReadTimeout("late"), True),
    ],
)
async def test_without_a_price_nothing_is_bought_and_nothing_is_in_doubt(given: Any, is_fault: bool) -> None:
    async with upstream({PRICE: given}) as (there, script):
        with pytest.raises(Refused) as caught:
            await there.buy(order())
    assert caught.value.is_fault is is_fault
    assert len(script.requests) == 1


async def test_price_question_is_reported_as_such() -> None:
    observed = Observed()
    script = played({PRICE: priced(), NUMBER: bought()})
    there = smspva.build(context(script, observe=observed), smspva.Options())
    await there.buy(order())
    await there.aclose()
    assert observed.calls == [("price", "ok"), ("buy", "ok")]


@pytest.mark.parametrize(
    ("given", "expected", "is_fault"),
    [
        (refusal(501), SoldOut, None),
        (refusal(502, "NUMBER_NOT_FOUND"), SoldOut, None),
        (refusal(407), Refused, True),
        (refusal(411), Refused, True),
        (refusal(429), Refused, True),
        (NO_KEY, Refused, True),
        (httpx.Response(403, text="<html>forbidden"), Refused, True),
        (refusal(405), Refused, False),
        (httpx.Response(404, text="<html>"), Refused, False),
        (httpx.Response(302, headers={"location": "/"}), Refused, False),
    ],
)
async def test_refused_purchases_took_nothing(
    given: httpx.Response, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream({PRICE: priced(), NUMBER: given}) as (there, script):
        message = await refused(there, order(), expected, is_fault)
    assert len(script.requests) == 2
    assert "words" not in message


@pytest.mark.parametrize(
    "given",
    [
        refusal(500),
        refusal(503),
        refusal(202),
        httpx.Response(501, text="<html>"),
        httpx.Response(200, text='{"statusCode":200,"data":{"orderId":12'),
        httpx.Response(200, text='{"statusCode":200,"data":{"orderId":1},"error":{"type":"X"}}'),
        httpx.Response(200, text="{}"),
        told({}),
        bought(orderId=None),
        bought(phoneNumber=""),
        *LOST,
    ],
)
async def test_unreadable_purchases_are_in_doubt(given: Any) -> None:
    async with upstream({PRICE: priced(), NUMBER: given}) as (there, script):
        await in_doubt(there, order())
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("country_code", "options", "number"),
    [
        ("UK", {}, "447700900123"),
        ("+44", {}, "447700900123"),
        ("49", {}, "497700900123"),
        (None, {}, "447700900123"),
        ("UK", {"national_numbers": False}, "7700900123"),
    ],
)
async def test_number_gets_its_prefix(country_code: Any, options: dict[str, Any], number: str) -> None:
    answers = {PRICE: priced(), NUMBER: bought(countryCode=country_code)}
    async with upstream(answers, **options) as (there, _):
        assert (await there.buy(order())).number == number


# --- reading ---


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (WAITING, LeaseState.OPEN),
        (told({"sms": {}, "orderId": "123456"}), LeaseState.OPEN),
        (told({"sms": None}), LeaseState.OPEN),
        (NO_ORDER, LeaseState.UNKNOWN),
        (OVER, LeaseState.CANCELLED),
    ],
)
async def test_states_are_read(given: httpx.Response, state: LeaseState) -> None:
    async with upstream({"sms/123456": given}) as (there, _):
        assert await there.read(watched("123456")) == Progress(state)


async def test_sms_has_a_steady_identity_of_its_round() -> None:
    async with upstream({"sms/77": received()}) as (there, _):
        (sms,) = (await there.read(watched())).messages
        assert (await there.read(watched())).messages == (sms,)
        (other,) = (await there.read(watched(round_=2))).messages
    assert (sms.code, sms.text) == ("12345", "Your code is 12345")
    assert "12345" not in sms.identity
    assert other.identity != sms.identity


@pytest.mark.parametrize(
    "given",
    [
        NO_KEY,
        refusal(405),
        refusal(407),
        refusal(411),
        refusal(503),
        httpx.Response(404, text="<html>"),
        httpx.Response(200, text="<html>"),
        told(7),
        httpx.ReadTimeout("late"),
    ],
)
async def test_answers_that_tell_nothing_are_unwell(given: Any) -> None:
    async with upstream({"sms/77": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


# --- the list of orders ---


SMS = {"code": "12345", "fullText": "Your code is 12345"}


async def test_list_is_read_as_single_orders_are() -> None:
    rows = [row(orderId=1), row(orderId=2, sms=SMS), row(orderId=3, status="IN ORBIT"), row(orderId=4, status=None)]
    async with upstream({"orders": told({"orders": [*rows, None, {}]}), "sms/2": received()}) as (there, _):
        many = await there.read_many([watched(name) for name in ("1", "2", "3", "4", "5")])
        assert set(many) == {"1", "2", "4"}
        assert many["2"] == await there.read(watched("2"))
    assert many["1"] == Progress(LeaseState.OPEN)


async def test_list_that_may_hide_an_sms_leaves_the_waiting_to_be_read_singly() -> None:
    rows = [row(orderId=1), row(orderId=2, sms=SMS)]
    async with upstream({"orders": told({"orders": rows})}, list_shows_sms=False) as (there, _):
        assert set(await there.read_many([watched("1"), watched("2")])) == {"2"}


async def test_words_for_open_orders_are_a_setting() -> None:
    async with upstream({"orders": told({"orders": [row(status="In Orbit")]})}, open_statuses=["in orbit"]) as (
        there,
        _,
    ):
        assert set(await there.read_many([watched("123456")])) == {"123456"}


async def test_orders_are_found_with_our_codes_and_the_time_their_lives_tell() -> None:
    rows = [
        row(orderId=1),
        row(orderId=2, service="opt9999", country="AQ", countryCode="AQ"),
        row(orderId=3, orderExpireIn=500),
        row(orderId=4, orderExpireIn=None),
    ]
    async with upstream({"orders": told({"orders": rows})}) as (there, _):
        found = await there.find(NOW - 15)
    assert [(one.lease.reference, one.service, one.country, one.created_at) for one in found] == [
        ("1", "tg", 16, NOW - 10),
        ("2", "opt9999", -1, NOW - 10),
        ("4", "tg", 16, None),
    ]
    assert (found[0].lease.number, found[0].lease.expires_at) == ("447700900123", NOW + 590)


async def test_life_of_an_order_is_a_setting() -> None:
    async with upstream({"orders": told({"orders": [row()]})}, life_seconds=1200) as (there, _):
        (found,) = await there.find(0)
    assert found.created_at == NOW + 590 - 1200


@pytest.mark.parametrize("given", [NO_KEY, refusal(501), told({"orders": 7}), told(7), httpx.Response(200, text="x")])
async def test_unreadable_lists_are_unwell(given: Any) -> None:
    async with upstream({"orders": given}) as (there, _):
        for call in (there.find(0), there.read_many([watched()])):
            with pytest.raises(Unwell):
                await call


# --- another SMS ---


@pytest.mark.parametrize(
    "answers",
    [
        {"clearsms/77": DONE},
        {"clearsms/77": refusal(404)},
        {"clearsms/77": refusal(503), "sms/77": WAITING},
    ],
)
async def test_another_sms_is_asked_for_or_waited_for_already(answers: dict[str, Any]) -> None:
    async with upstream(answers) as (there, script):
        await there.ask_again("77")
    assert paths(script)[0] == "PUT clearsms/77"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"clearsms": NO_ORDER, "sms": NO_ORDER}, UnknownLease),
        ({"clearsms": OVER, "sms": OVER}, NotAllowed),
        ({"clearsms": refusal(503), "sms": received()}, Unwell),
        ({"clearsms": refusal(501)}, Unwell),
        ({"clearsms": NO_KEY}, Unwell),
        ({"clearsms": httpx.Response(503, text="<html>")}, Unwell),
    ],
)
async def test_why_there_is_no_other_sms(answers: dict[str, Any], expected: type[UpstreamError]) -> None:
    async with upstream(answers) as (there, _):
        with pytest.raises(expected):
            await there.ask_again("77")


# --- closing ---


@pytest.mark.parametrize(
    ("outcome", "answers", "asked"),
    [
        (Outcome.CANCELLED, {"cancelorder": DONE}, ["PUT cancelorder/77"]),
        (Outcome.CANCELLED, {"cancelorder": OVER, "sms": OVER}, ["PUT cancelorder/77", "GET sms/77"]),
        (Outcome.FINISHED, {"sms": received()}, ["GET sms/77"]),
        (Outcome.FINISHED, {"sms": OVER}, ["GET sms/77"]),
        (Outcome.FINISHED, {"sms": WAITING}, ["GET sms/77"]),
    ],
)
async def test_close_is_done_or_done_already(outcome: Outcome, answers: dict[str, Any], asked: list[str]) -> None:
    async with upstream(answers) as (there, script):
        await there.close("77", outcome)
    assert paths(script) == asked


@pytest.mark.parametrize("given", [DONE, NO_ORDER, OVER])
@pytest.mark.parametrize("shown", [received(), WAITING])
async def test_order_is_stopped_where_the_stanza_says_so(given: httpx.Response, shown: httpx.Response) -> None:
    async with upstream({"sms": shown, "stopsms": given}, finish="stopsms") as (there, script):
        await there.close("77", Outcome.FINISHED)
    assert paths(script) == ["GET sms/77", "PUT stopsms/77"]


@pytest.mark.parametrize(
    ("outcome", "answers", "expected"),
    [
        (Outcome.CANCELLED, {"cancelorder": refusal(405), "sms": received()}, HasSms),
        (Outcome.CANCELLED, {"cancelorder": refusal(405), "sms": WAITING}, Unwell),
        (Outcome.CANCELLED, {"cancelorder": NO_ORDER, "sms": NO_ORDER}, UnknownLease),
        (Outcome.CANCELLED, {"cancelorder": refusal(501)}, Unwell),
        (Outcome.CANCELLED, {"cancelorder": NO_KEY}, Unwell),
        (Outcome.CANCELLED, {"cancelorder": httpx.Response(200, text="<html>")}, Unwell),
        (Outcome.FINISHED, {"sms": NO_ORDER}, UnknownLease),
        (Outcome.FINISHED, {"sms": received(), "stopsms": refusal(405)}, Unwell),
    ],
)
async def test_close_says_what_stands_in_the_way(
    outcome: Outcome, answers: dict[str, Any], expected: type[UpstreamError]
) -> None:
    async with upstream(answers, finish="stopsms") as (there, _):
        with pytest.raises(expected):
            await there.close("77", outcome)


# --- money and prices ---


@pytest.mark.parametrize("balance", [10.5, "10.50"])
async def test_balance_is_read(balance: Any) -> None:
    async with upstream({"balance": told({"balance": balance})}) as (there, _):
        assert await there.balance() == Money(10_500_000, "USD")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(NO_KEY, Refused), (httpx.Response(403, text="no"), Refused), (refusal(503), Unwell), (told({}), Unwell)],
)
async def test_balance_that_is_not_told(given: httpx.Response, expected: type[UpstreamError]) -> None:
    async with upstream({"balance": given}) as (there, _):
        with pytest.raises(expected):
            await there.balance()


def price(service: str = "opt29", country: str = "UK", cost: Any = "0.40", name: str = "Telegram") -> dict[str, Any]:
    return {"service": service, "serviceDescription": name, "country": country, "price": cost}


def stock(operator: str, country: str = "UK", **totals: Any) -> dict[str, Any]:
    services = [{"service": service, "total": total} for service, total in totals.items()]
    return {"operator": operator, "country": country, "services": services}


def parsed(prices: list[Any], counts: list[Any]) -> PriceList:
    sheet = Sheet("there", "USD", {"opt29": "tg"}, {"UK": 16, "DE": 43}, {"whatsapp": "wa"})
    return parse_prices(told(prices).content, told(counts).content, sheet)


def test_prices_and_counts_are_joined_over_operators() -> None:
    prices = [price(), price(country="DE", cost=0.2), price(country="DE", cost=0.3), price(cost=None), 7]
    counts = [stock("o2", opt29=4), stock("vodafone", opt29="3"), stock("o2", "DE", opt29=1), {"services": 7}, None]
    table = parsed(prices, counts).table
    assert [(offer.cost.micros, offer.count, offer.operator) for offer in table.at("tg", 16)] == [(400_000, 7, "")]
    assert [(offer.cost.micros, offer.count) for offer in table.at("tg", 43)] == [(200_000, 1)]


def test_what_is_not_in_stock_is_not_offered() -> None:
    assert len(parsed([price()], [stock("o2", opt29=0)]).table) == 0


def test_unknown_words_are_counted_under_their_names() -> None:
    prices = [price("opt251", name="1cupis.ru"), price(country="AQ")]
    counts = [stock("o2", opt251=5), stock("o2", "AQ", opt29=2)]
    assert parsed(prices, counts).unmapped == {"service opt251 (1cupis.ru)": 5, "country AQ": 2}


def test_word_is_learnt_by_its_name_once() -> None:
    prices = [price("opt900", name="Whats-APP"), price("opt901", name="WhatsApp")]
    learnt = parsed(prices, [stock("o2", opt900=5)])
    assert learnt.learnt == {"wa": "opt900"}
    assert learnt.table.at("wa", 16)[0].count == 5


async def test_learnt_word_can_be_bought_with() -> None:
    answers = {
        "servicesprices": told([price("opt777", name="Nobody's")]),
        "countnumbers": told([stock("o2", opt777=1)]),
        "serviceprice/UK/opt777": priced(),
        "number/UK/opt777": bought(),
    }
    async with upstream(answers) as (there, _):
        assert (await there.offers()).at("xx", 16)[0].count == 1
        assert (await there.buy(order("xx"))).reference == "123456"


async def test_word_learnt_by_one_process_can_be_bought_with_in_another() -> None:
    lists = {"servicesprices": told([price("opt777", name="Nobody's")]), "countnumbers": told([stock("o2", opt777=1)])}
    answers = {"serviceprice/UK/opt777": priced(), "number/UK/opt777": bought()}
    async with upstream(lists) as (reader, _), upstream(answers) as (there, _):
        await reader.offers()
        with pytest.raises(Refused):
            await there.buy(order("xx"))
        there.learn(reader.knowledge())
        assert (await there.buy(order("xx"))).reference == "123456"
        before = there.knowledge()
        there.learn({"services": {"xx": "opt1", "am": "opt777"}})
        assert there.knowledge() == before  # what is known here stays


async def test_override_wins_over_table_and_learnt_words() -> None:
    answers = {
        "servicesprices": told([price("opt777", name="Nobody's")]),
        "countnumbers": told([stock("o2", opt777=1)]),
    }
    async with upstream(answers, services={"tg": "opt777"}, countries={12: "UK"}) as (there, _):
        table = await there.offers()
    assert set(table.pairs()) == {("tg", 12)}


@pytest.mark.parametrize("path", ["servicesprices", "countnumbers"])
@pytest.mark.parametrize("given", [NO_KEY, refusal(503), httpx.Response(200, text="<html>"), told({}), told(None)])
async def test_price_lists_that_cannot_be_had_are_unwell(path: str, given: httpx.Response) -> None:
    async with upstream({"servicesprices": told([]), "countnumbers": told([]), path: given}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


# --- whatever comes ---

NAMES = ["statusCode", "data", "error", "type", "orders", "sms", "balance", "price", "orderId", *row()]
values = json_values(NAMES)
odd_rows = odd(row, values)
envelopes = st.fixed_dictionaries(
    {"statusCode": st.sampled_from([200, 202, 404, 406, 407, 410, 502])},
    optional={
        "data": values | odd_rows | st.lists(odd_rows) | st.lists(odd_rows).map(lambda rows: {"orders": rows}),
        "error": values,
    },
)
bodies = (values | envelopes).map(json.dumps) | texts


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(body=bodies, status=st.sampled_from([200, 202, 302, 406, 502, 503]))
async def test_no_answer_breaks_any_verb(body: str, status: int) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/activation/serviceprice/"):
            return priced()
        return httpx.Response(status, content=body.encode())

    async with aclosing(smspva.build(context(Script(respond)), smspva.Options(finish="stopsms"))) as there:
        await every_verb(there, order())
