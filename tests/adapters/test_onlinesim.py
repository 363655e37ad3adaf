"""OnlineSim against scripted answers: words in `response`, prefixes for countries, a cancel that is a close, a pace."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from adapters import onlinesim
from adapters._pace import Pace, Urgency
from adapters._prices import Sheet
from adapters._rounds import Rounds
from adapters.onlinesim import OnlineSim, parse_stats
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
from tests.adapters._scripted import LOST, as_json, in_doubt, refused, scripted

NOW = 1_790_000_000.0
TEXT = "Telegram code 12345"


def operation(**changes: Any) -> dict[str, Any]:
    return {
        "tzid": 77,
        "country": 44,
        "number": "+447700900123",
        "service": "telegram",
        "response": "TZ_NUM_WAIT",
        "msg": False,
        "time": 800,
        "sum": 0.4,
        **changes,
    }


def received(*texts: str, **changes: Any) -> dict[str, Any]:
    return operation(response="TZ_NUM_ANSWER", msg=[{"service": "telegram", "msg": text} for text in texts], **changes)


def country(code: int = 44, **cells: Any) -> dict[str, Any]:
    return {"name": "England", "code": code, "enabled": True, "services": cells}


def cell(slug: str = "telegram", price: Any = "0.40", count: Any = 7) -> dict[str, Any]:
    return {"slug": slug, "service": slug.title(), "price": price, "count": count, "popular": True}


LISTED = country(service_telegram=cell())
BOUGHT = {"response": 1, "tzid": 77, "number": "+447700900123"}


def method(request: httpx.Request) -> str:
    return request.url.path.rsplit("/", 1)[1].removesuffix(".php")


def said(given: Any) -> httpx.Response:
    """A bare word stands for the answer that is nothing but it."""
    return as_json({"response": given} if isinstance(given, str) else given)


@asynccontextmanager
async def upstream(answers: dict[str, Any], **options: Any) -> AsyncIterator[tuple[OnlineSim, Script]]:
    script = scripted({"getNumbersStats": LISTED, **answers}, method, said)
    given = onlinesim.Options(**{"pause_seconds": 0, **options})
    async with aclosing(onlinesim.build(context(script, clock=lambda: NOW), given)) as made:
        yield made, script


def methods(script: Script) -> list[str]:
    return [method(request) for request in script.requests]


# --- buying ---


async def test_price_is_asked_first_and_the_key_stays_out_of_addresses() -> None:
    async with upstream({"getNum": BOUGHT}) as (there, script):
        lease = await there.buy(order())
    price, purchase = script.requests
    assert dict(price.url.params) == {"lang": "en", "country": "44"}
    assert str(purchase.url) == "https://onlinesim.io/api/getNum.php?lang=en&service=telegram&country=44&number=1"
    assert purchase.headers["authorization"] == f"Bearer {SECRET}"
    assert (lease.reference, lease.number, lease.cost) == ("77", "447700900123", None)
    assert lease.expires_at == NOW + 900


async def test_key_goes_into_the_query_where_that_is_wanted() -> None:
    async with upstream({"getNum": BOUGHT}, key_in="query") as (there, script):
        await there.buy(order())
    assert all(request.url.params["apikey"] == SECRET for request in script.requests)
    assert not any("authorization" in request.headers for request in script.requests)


@pytest.mark.parametrize(
    "listed",
    [
        country(service_telegram=cell(price="0.51")),
        country(service_telegram=cell(count=0)),
        country(service_google=cell("google")),
        country(),
        "NO_NUMBER",
    ],
)
async def test_what_is_dear_or_gone_is_not_bought(listed: Any) -> None:
    async with upstream({"getNumbersStats": listed, "getNum": BOUGHT}) as (there, script):
        with pytest.raises(SoldOut):
            await there.buy(order(cost_max=500_000))
    assert methods(script) == ["getNumbersStats"]


@pytest.mark.parametrize(
    ("word", "expected", "is_fault"),
    [
        ("NO_NUMBER", SoldOut, None),
        ("WARNING_NO_NUMS", SoldOut, None),
        ("ERROR_WRONG_KEY", Refused, True),
        ("WARNING_LOW_BALANCE", Refused, True),
        ("ACCOUNT_BLOCKED", Refused, True),
        ("API_ACCESS_IP", Refused, True),
        ("EXCEEDED_CONCURRENT_OPERATIONS", Refused, True),
        ("TRY_AGAIN_LATER", Refused, True),
        ("DUPLICATE_OPERATION", Refused, False),
        ("ERROR_NO_SERVICE", Refused, False),
    ],
)
async def test_refused_purchases_took_nothing(word: str, expected: type[UpstreamError], is_fault: bool | None) -> None:
    async with upstream({"getNum": word}) as (there, script):
        await refused(there, order(), expected, is_fault)
    assert methods(script).count("getNum") == 1


@pytest.mark.parametrize(
    "given",
    [
        "SOMETHING_NEW",
        {"response": 1, "tzid": 77},
        {"response": 1, "tzid": 77, "number": ""},
        {"response": 1, "number": "+447700900123"},
        {},
        [],
        httpx.Response(200, text='{"response":1,"tzid":7'),
        *LOST,
    ],
)
async def test_purchases_that_make_no_sense_are_in_doubt_and_sent_once(given: Any) -> None:
    async with upstream({"getNum": given}) as (there, script):
        message = await in_doubt(there, order())
    assert methods(script).count("getNum") == 1
    assert "SOMETHING" not in message


@pytest.mark.parametrize("given", [httpx.ReadTimeout("late"), httpx.Response(502), "SOMETHING_NEW", [1]])
async def test_price_that_is_not_told_leaves_nothing_in_doubt(given: Any) -> None:
    async with upstream({"getNumbersStats": given, "getNum": BOUGHT}) as (there, script):
        with pytest.raises(Refused) as caught:
            await there.buy(order())
    assert caught.value.is_fault
    assert methods(script) == ["getNumbersStats"]


async def test_purchase_is_not_begun_when_its_time_is_over() -> None:
    async with upstream({"getNum": BOUGHT}, pause_seconds=5) as (there, script):
        with pytest.raises(NotReached):
            await there.buy(order(timeout_seconds=0.3))
    assert methods(script) == ["getNumbersStats"]


async def test_shared_prefix_stands_for_one_country() -> None:
    async with upstream({"getNum": BOUGHT}) as (there, script):
        await there.buy(order(country=187))
    assert script.requests[-1].url.params["country"] == "1"


async def test_stanza_may_give_a_shared_prefix_to_another_country() -> None:
    async with upstream({"getNum": BOUGHT}, countries={12: "1"}) as (there, script):
        await there.buy(order(country=12))
        with pytest.raises(Refused):
            await there.buy(order(country=187))
    assert script.requests[-1].url.params["country"] == "1"


# --- reading ---


async def test_text_and_code_are_read_and_the_code_is_asked_for_once() -> None:
    def state(query: httpx.QueryParams) -> Any:
        return [received("12345" if query["message_to_code"] == "1" else TEXT)]

    async with upstream({"getState": state}) as (there, script):
        first = await there.read(watched())
        again = await there.read(watched())
    (sms,) = first.messages
    assert (sms.code, sms.text) == ("12345", TEXT)
    assert first == again
    assert [request.url.params["message_to_code"] for request in script.requests] == ["0", "1", "0"]


async def test_text_is_delivered_without_a_code_when_that_is_not_told() -> None:
    def state(query: httpx.QueryParams) -> Any:
        return httpx.Response(502) if query["message_to_code"] == "1" else [received(TEXT)]

    async with upstream({"getState": state}) as (there, _):
        (sms,) = (await there.read(watched())).messages
    assert (sms.code, sms.text) == ("", TEXT)


async def test_text_in_which_no_code_was_recognised_has_none() -> None:
    async with upstream({"getState": [received(TEXT)]}) as (there, _):
        (sms,) = (await there.read(watched())).messages
    assert (sms.code, sms.text) == ("", TEXT)


@pytest.mark.parametrize(
    ("msg", "texts"),
    [(False, []), (None, []), ("", []), ([], []), ("a b", ["a b"]), (["a", "b"], ["a", "b"]), ([{"msg": "a"}], ["a"])],
)
async def test_messages_come_in_every_shape(msg: Any, texts: list[str]) -> None:
    async with upstream({"getState": [operation(msg=msg)]}) as (there, _):
        progress = await there.read(watched())
    assert [sms.text for sms in progress.messages] == texts


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ([operation(response="TZ_INPOOL", number=None)], LeaseState.OPEN),
        ([operation()], LeaseState.OPEN),
        ([operation(response="TZ_OVER_OK")], LeaseState.FINISHED),
        ([operation(response="TZ_OVER_EMPTY")], LeaseState.CANCELLED),
        ([operation(tzid=78)], LeaseState.UNKNOWN),
        ([], LeaseState.UNKNOWN),
        ("ERROR_NO_OPERATIONS", LeaseState.UNKNOWN),
        ("ERROR_WRONG_TZID", LeaseState.UNKNOWN),
    ],
)
async def test_states_are_read(given: Any, state: LeaseState) -> None:
    async with upstream({"getState": given}) as (there, _):
        assert await there.read(watched()) == Progress(state)


@pytest.mark.parametrize(
    "given", ["ERROR_WRONG_KEY", "NEW_WORD", [operation(response="TZ_NEW")], {}, {"response": 1}, httpx.Response(500)]
)
async def test_states_that_say_nothing_are_unwell(given: Any) -> None:
    async with upstream({"getState": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


async def test_one_list_reads_all_and_leaves_out_what_is_unreadable() -> None:
    rows = [operation(), operation(tzid=78, response="TZ_NEW"), {"tzid": 79}, "row", operation(tzid=80)]
    async with upstream({"getState": rows}) as (there, script):
        many = await there.read_many([watched("77"), watched("78"), watched("79")])
    assert set(many) == {"77"}
    assert len(script.requests) == 1
    assert "tzid" not in script.requests[0].url.params


async def test_find_derives_the_age_and_tells_the_cost() -> None:
    rows = [
        operation(time=890),
        operation(tzid=78, time=100),
        operation(tzid=79, number=None, response="TZ_INPOOL"),
        received(TEXT, tzid=80, service="Strange", country=999, time=900),
        operation(tzid=81, response="TZ_OVER_EMPTY"),
    ]
    async with upstream({"getState": rows}) as (there, _):
        found = await there.find(NOW - 60)
    assert [one.lease.reference for one in found] == ["77", "80"]
    assert (found[0].service, found[0].country, found[0].created_at) == ("tg", 16, NOW - 9)
    assert found[0].lease.cost == Money(400_000, "USD")
    assert (found[1].service, found[1].country) == ("Strange", -1)


# --- whose message it is ---


def test_words_listed_twice_in_one_round_are_one_message() -> None:
    rounds = Rounds()
    assert len(set(rounds.identities("77", 1, ["a", "a"]))) == 1
    old = rounds.identities("77", 2, ["a", "a"])
    assert old == rounds.identities("77", 1, ["a", "a"])
    later = rounds.identities("77", 2, ["a", "a", "b", "a"])
    assert later[:2] == old
    assert len({*old, *later}) == 3


def test_messages_keep_their_names_when_the_process_is_another() -> None:
    before, after = Rounds(), Rounds()
    before.identities("77", 1, ["a"])
    assert before.identities("77", 2, ["a", "a", "b"]) == after.identities("77", 2, ["a", "a", "b"])


# --- asking again and closing ---


@pytest.mark.parametrize(
    ("word", "expected"),
    [("ERROR_WRONG_TZID", UnknownLease), ("NO_COMPLETE_TZID", NotAllowed), ("NEW", Unwell), ("ERROR_NO_KEY", Unwell)],
)
async def test_asking_again_may_be_refused(word: str, expected: type[UpstreamError]) -> None:
    async with upstream({"setOperationRevise": word}) as (there, _):
        with pytest.raises(expected):
            await there.ask_again("77")


async def test_cancel_looks_closes_and_looks_again() -> None:
    states = ([operation()], [operation(response="TZ_OVER_EMPTY")])
    async with upstream({"getState": states, "setOperationOk": "1"}) as (there, script):
        await there.close("77", Outcome.CANCELLED)
    assert methods(script) == ["getState", "setOperationOk", "getState"]


async def test_cancel_is_done_where_ended_operations_are_not_shown() -> None:
    states = ([operation()], "ERROR_NO_OPERATIONS")
    async with upstream({"getState": states, "setOperationOk": "1"}) as (there, _):
        await there.close("77", Outcome.CANCELLED)


async def test_message_that_came_between_look_and_close_is_not_lost() -> None:
    states = ([operation()], [received(TEXT) | {"response": "TZ_OVER_OK"}])
    async with upstream({"getState": states, "setOperationOk": "1"}) as (there, _):
        with pytest.raises(HasSms):
            await there.close("77", Outcome.CANCELLED)


@pytest.mark.parametrize(
    ("states", "word", "expected"),
    [
        ([received(TEXT)], "1", HasSms),
        ([operation()], "NO_COMPLETE_TZID", TooEarly),
        ([operation(response="TZ_OVER_OK")], "1", NotAllowed),
        ([], "1", UnknownLease),
        ([operation()], "1", Unwell),
        ([operation()], "TRY_AGAIN_LATER", Unwell),
    ],
)
async def test_cancel_says_what_stands_in_the_way(states: Any, word: str, expected: type[UpstreamError]) -> None:
    async with upstream({"getState": states, "setOperationOk": word}) as (there, _):
        with pytest.raises(expected) as caught:
            await there.close("77", Outcome.CANCELLED)
    if isinstance(caught.value, TooEarly):
        assert caught.value.retry_seconds == 120


async def test_code_is_never_closed_by_a_cancel() -> None:
    async with upstream({"getState": [received(TEXT)]}) as (there, script):
        with pytest.raises(HasSms):
            await there.close("77", Outcome.CANCELLED)
    assert methods(script) == ["getState"]


async def test_cancel_can_be_left_to_expiry() -> None:
    states = ([operation()], [operation(response="TZ_OVER_EMPTY")])
    async with upstream({"getState": states}, cancel="expiry") as (there, script):
        with pytest.raises(TooEarly) as caught:
            await there.close("77", Outcome.CANCELLED)
        await there.close("77", Outcome.CANCELLED)
    assert caught.value.retry_seconds == 900
    assert methods(script) == ["getState", "getState"]


@pytest.mark.parametrize(
    ("states", "word", "expected"),
    [
        ([operation(response="TZ_OVER_OK")], "NO_COMPLETE_TZID", None),
        ([operation(response="TZ_OVER_EMPTY")], "ERROR_WRONG_TZID", None),
        ([operation()], "NO_COMPLETE_TZID", TooEarly),
        ([received(TEXT)], "NO_COMPLETE_TZID", Unwell),
        ([], "ERROR_WRONG_TZID", UnknownLease),
        ([operation()], "NEW_WORD", Unwell),
    ],
)
async def test_finish_is_done_or_done_already(states: Any, word: str, expected: type[UpstreamError] | None) -> None:
    async with upstream({"getState": states, "setOperationOk": word}) as (there, _):
        if expected is None:
            await there.close("77", Outcome.FINISHED)
            return
        with pytest.raises(expected):
            await there.close("77", Outcome.FINISHED)


# --- the price list, and balance ---


def test_statistics_are_read_with_their_oddities_counted() -> None:
    data = {
        "44": country(
            service_telegram=cell(price=20, count="5"),
            service_google={"price": "0.1", "count": 3},
            service_odd=cell("odd", count=4),
            service_whatsapp=cell("whatsapp", price="free"),
        ),
        "_49": {"services": {"service_telegram": cell()}},
        "999": country(999, service_telegram=cell(count=6)),
        "62": {"code": 62, "services": []},
    }
    sheet = Sheet("there", "USD", {"telegram": "tg", "google": "go", "whatsapp": "wa"}, {"44": 16, "49": 43, "62": 6})
    table, unmapped = parse_stats(json.dumps(data).encode(), sheet)
    assert [(offer.cost.micros, offer.count) for offer in table.at("tg", 16)] == [(20_000_000, 5)]
    assert [offer.count for offer in table.at("go", 16)] == [3]
    assert table.at("tg", 43)
    assert unmapped == {"service odd": 4, "country 999": 6, "unreadable": 1}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"response":"ERROR_WRONG_KEY"}', b"[1]", b'{"44":7}', b'{"44":{"se']
)
def test_unreadable_statistics_are_unwell(body: bytes) -> None:
    with pytest.raises(Unwell):
        parse_stats(body, Sheet("there", "USD", {}, {}))


async def test_balance_is_what_can_be_spent() -> None:
    async with upstream({"getBalance": {"response": 1, "balance": "230.25", "zbalance": 120.5}}) as (there, _):
        assert await there.balance() == Money(230_250_000, "USD")


@pytest.mark.parametrize(("given", "expected"), [("ERROR_WRONG_KEY", Refused), ("NEW", Unwell), ({}, Unwell)])
async def test_balance_that_is_not_told(given: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"getBalance": given}) as (there, _):
        with pytest.raises(expected):
            await there.balance()


@pytest.mark.parametrize("given", [{"pause_seconds": -1}, {"cancel": "hope"}, {"countries": {0: "7", 2: "7"}}])
def test_unusable_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        onlinesim.Options(**given)


# --- the pace ---


async def test_calls_keep_their_distance_and_purchases_go_first() -> None:
    pace, begun = Pace(0.05), list[tuple[Urgency, float]]()

    async def call(urgency: Urgency) -> None:
        await pace.turn(urgency)
        begun.append((urgency, time.monotonic()))

    await pace.turn(Urgency.LIST)
    waiting = [Urgency.LIST, Urgency.READ, Urgency.CLOSE, Urgency.BUY]
    await asyncio.gather(*(call(urgency) for urgency in waiting))
    assert [urgency for urgency, _ in begun] == sorted(waiting)
    gaps = [after[1] - before[1] for before, after in pairwise(begun)]
    assert min(gaps) > 0.04


async def test_whoever_gives_up_waiting_takes_no_turn() -> None:
    pace = Pace(0.05)
    await pace.turn(Urgency.READ)
    impatient = asyncio.ensure_future(pace.turn(Urgency.BUY))
    await asyncio.sleep(0)
    impatient.cancel()
    started = time.monotonic()
    await pace.turn(Urgency.LIST)
    assert time.monotonic() - started < 0.09


async def test_every_call_waits_its_turn() -> None:
    async with upstream({"getState": [operation()]}, pause_seconds=0.05) as (there, _):
        started = time.monotonic()
        for _ in range(3):
            await there.read(watched())
        assert time.monotonic() - started > 0.09
