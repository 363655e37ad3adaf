"""The `handler_api.php` family against scripted answers: every shape the brands are known to send."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters import handler_api, herosms
from adapters._handler_api import HandlerApi, OpenList
from adapters._handler_prices import Sheet, parse_prices
from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    NotReached,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money
from gateway.upstream import AsksAgain, Finds, Names, OfferTable, ReadsMany
from tests.adapters._context import SECRET, Script, SmallCatalog, context, order, watched
from tests.adapters._handler_answers import Answers, by_action, envelope, reply

BASE_URL = "https://upstream.test/stubs/handler_api.php"
NUMBER = "447700900123"
LEASE_V2 = {
    "activationId": 635468024,
    "phoneNumber": NUMBER,
    "activationCost": 0.4,
    "currency": 840,
    "countryCode": "16",
    "activationTime": "2026-11-01 10:00:00",
    "activationOperator": "o2",
}

Made = tuple[HandlerApi, Script]


@asynccontextmanager
async def upstream(answers: Answers, names: Names | None = None, **options: Any) -> AsyncIterator[Made]:
    script = Script(by_action(answers))
    given = {"base_url": BASE_URL, "open_list": "getActiveActivations", **options}
    made = handler_api.build(context(script, names=names or SmallCatalog()), handler_api.Options(**given))
    try:
        yield made, script
    finally:
        await made.aclose()


# --- buying ---


async def test_purchase_names_the_highest_price_and_the_canonical_codes() -> None:
    async with upstream({"getNumberV2": LEASE_V2}) as (there, script):
        lease = await there.buy(order(operator="o2", phone_exceptions=("447700", "447701")))
    assert dict(script.requests[0].url.params) == {
        "api_key": SECRET,
        "action": "getNumberV2",
        "service": "tg",
        "country": "16",
        "maxPrice": "0.50",
        "operator": "o2",
        "phoneException": "447700,447701",
    }
    assert lease.reference == "635468024"
    assert lease.number == NUMBER
    assert lease.cost == Money(400_000, "USD")
    assert lease.operator == "o2"


async def test_purchase_of_a_brand_without_v2_uses_its_own_names() -> None:
    answers = {"getNumber": httpx.Response(200, text=f"ACCESS_NUMBER:12:+{NUMBER}", headers={"X-Price": "0.31"})}
    async with upstream(answers, number_v2=False, max_price_parameter="max_price") as (there, script):
        lease = await there.buy(order(operator="any"))
    params = script.requests[0].url.params
    assert params["max_price"] == "0.50"
    assert "operator" not in params
    assert (lease.reference, lease.number, lease.cost) == ("12", NUMBER, Money(310_000, "USD"))


async def test_ids_of_nineteen_digits_survive() -> None:
    async with upstream({"getNumberV2": {**LEASE_V2, "activationId": 9223372036854775801}}) as (there, _):
        assert (await there.buy(order())).reference == "9223372036854775801"


async def test_number_above_the_cap_is_returned_at_its_real_cost() -> None:
    async with upstream({"getNumberV2": {**LEASE_V2, "activationCost": "0.9000"}}) as (there, script):
        lease = await there.buy(order(cost_max=500_000))
    assert lease.cost == Money(900_000, "USD")
    assert len(script.requests) == 1


@pytest.mark.parametrize("odd", [None, "", "cheap", [], {"a": 1}])
async def test_odd_cost_does_not_lose_the_number(odd: Any) -> None:
    async with upstream({"getNumberV2": {**LEASE_V2, "activationCost": odd}}) as (there, _):
        assert (await there.buy(order())).cost is None


async def test_herosms_lease_knows_its_end() -> None:
    hero = {**LEASE_V2, "activationId": "1", "activationEndTime": "2026-11-01T10:20:00+00:00", "status": 4}
    async with upstream({"getNumberV2": hero}) as (there, _):
        assert (await there.buy(order())).expires_at == 1793528400.0


async def test_v2_answered_in_the_old_form_is_a_lease_too() -> None:
    async with upstream({"getNumberV2": f"ACCESS_NUMBER:5:{NUMBER}"}) as (there, _):
        assert (await there.buy(order())).cost is None


@pytest.mark.parametrize(
    ("given", "expected", "is_fault"),
    [
        (reply("NO_NUMBERS"), SoldOut, None),
        (reply("WRONG_MAX_PRICE:0.31"), SoldOut, None),
        (reply("MAX_PRICE_EXCEEDED"), SoldOut, None),
        (envelope(400, "WRONG_MAX_PRICE", min=0.31), SoldOut, None),
        (reply("BAD_KEY"), Refused, True),
        (envelope(401, "BAD_KEY"), Refused, True),
        (reply("", 401), Refused, True),
        (reply({"status": 0, "message": "No access", "data": []}, 401), Refused, True),
        (reply("API_KEY_NOT_VALID"), Refused, True),
        (reply("NO_BALANCE"), Refused, True),
        (envelope(402, "NO_BALANCE"), Refused, True),
        (reply("BANNED:'2026-11-01 10-00-00'"), Refused, True),
        (envelope(403, "BANNED", scope="global"), Refused, True),
        (envelope(403, "BANNED", scope="specific"), Refused, False),
        (envelope(403, "CHANNELS_LIMIT", current_threads=3), Refused, True),
        (envelope(429, "RATE_LIMIT"), Refused, True),
        (reply("Too Many Requests", 429), Refused, True),
        (reply("<html>slow down</html>", 429), Refused, True),
        (reply("<html>forbidden</html>", 403), Refused, True),
        (reply("", 302, Location="/login"), Refused, True),
        (reply("BAD_SERVICE"), Refused, False),
        (envelope(422, "UNPROCESSABLE_ENTITY", field="service"), Refused, False),
        (reply("UNPROCESSABLE_ENTITY:service:INVALID"), Refused, False),
        (reply({"error": "Bad service"}), Refused, False),
        (reply({"status": "false", "msg": "country is incorrect"}), Refused, False),
        (reply("The service is prohibited for sale by administration"), Refused, False),
        (reply("SOMETHING_NEVER_SEEN"), Refused, False),
    ],
)
async def test_refused_purchases_took_nothing(
    given: httpx.Response, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream({"getNumberV2": given}) as (there, script):
        with pytest.raises(expected) as caught:
            await there.buy(order())
    assert len(script.requests) == 1
    if isinstance(caught.value, Refused):
        assert caught.value.is_fault is is_fault


@pytest.mark.parametrize(
    "given",
    [
        reply(""),
        reply("<html><body>Welcome</body></html>"),
        reply('{"activationId":63546'),
        reply("{}"),
        reply([]),
        reply("null"),
        reply("[" * 100_000),
        reply({"activationId": 7, "phoneNumber": None}),
        reply({"activationId": None, "phoneNumber": NUMBER}),
        reply({"activationId": True, "phoneNumber": NUMBER}),
        reply({"activationId": 1.5, "phoneNumber": NUMBER}),
        reply("ACCESS_NUMBER"),
        reply("ACCESS_NUMBER:12"),
        reply("ACCESS_NUMBER:12:"),
        reply("ACCESS_NUMBER:12:44"),
        reply("ACCESS_NUMBER:12:447700900123:9"),
        reply("ACCESS_SOMETHING"),
        reply("ASLEEP:12:447700900123"),
        reply("ERROR_SQL"),
        envelope(500, "SERVER_ERROR"),
        reply("NO_NUMBERS", 502),
        reply("<html>Bad Gateway</html>", 502),
        reply("", 408),
        reply("", 204),
        httpx.ReadTimeout("late"),
        httpx.RemoteProtocolError("dropped"),
    ],
)
async def test_unreadable_purchases_are_in_doubt(given: httpx.Response | Exception) -> None:
    async with upstream({"getNumberV2": given}) as (there, script):
        with pytest.raises(InDoubt):
            await there.buy(order())
    assert len(script.requests) == 1


async def test_purchase_that_did_not_connect_is_not_reached() -> None:
    async with upstream({"getNumberV2": httpx.ConnectError("refused")}) as (there, _):
        with pytest.raises(NotReached):
            await there.buy(order())


async def test_service_or_country_without_a_word_is_refused_unasked() -> None:
    async with upstream({}, services={"tg": "am"}, countries={182: "1001"}) as (there, script):
        for unknown in (order("zz"), order("am"), order(country=999)):
            with pytest.raises(Refused):
                await there.buy(unknown)
    assert script.requests == []


async def test_overrides_are_spoken_and_understood() -> None:
    answers = {"getNumberV2": LEASE_V2, "getPrices": {"1001": {"telegram": {"cost": 0.1, "count": 2}}}}
    async with upstream(answers, services={"tg": "telegram"}, countries={182: "1001"}) as (there, script):
        await there.buy(order(country=182))
        table = await there.offers()
    assert script.requests[0].url.params["service"] == "telegram"
    assert script.requests[0].url.params["country"] == "1001"
    assert [offer.count for offer in table.at("tg", 182)] == [2]


@pytest.mark.parametrize("given", ["<p>447700900123</p>", "K3Y9", "X_447700900123_Y", "SECRET1:447700900123"])
async def test_errors_repeat_nothing_but_plain_words(given: str) -> None:
    async with upstream({"getNumberV2": given}) as (there, _):
        with pytest.raises(UpstreamError) as caught:
            await there.buy(order())
    assert not any(part in str(caught.value) for part in ("4477", "K3Y9", "SECRET1", SECRET))


# --- reading ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (reply("STATUS_WAIT_CODE"), Progress(LeaseState.OPEN)),
        (reply("STATUS_WAIT_CODE\n"), Progress(LeaseState.OPEN)),
        (reply("\ufeffSTATUS_WAIT_CODE"), Progress(LeaseState.OPEN)),
        (reply("STATUS_WAIT_RETRY:111"), Progress(LeaseState.OPEN)),
        (reply("STATUS_WAIT_RESEND"), Progress(LeaseState.OPEN)),
        (reply("STATUS_CANCEL"), Progress(LeaseState.CANCELLED)),
        (reply("ACCESS_CANCEL"), Progress(LeaseState.CANCELLED)),
        (reply("NO_ACTIVATION"), Progress(LeaseState.UNKNOWN)),
        (envelope(404, "NOT_FOUND"), Progress(LeaseState.UNKNOWN)),
        (reply("STATUS_OK:123456"), Progress(LeaseState.OPEN, (Sms("123456", "", identity="2:123456"),))),
        (reply("STATUS_OK:12:34:56"), Progress(LeaseState.OPEN, (Sms("12:34:56", "", identity="2:12:34:56"),))),
        (reply("STATUS_OK:Нет кода"), Progress(LeaseState.OPEN, (Sms("", "", identity="2:Нет кода"),))),
    ],
)
async def test_states_are_read(given: httpx.Response, expected: Progress) -> None:
    async with upstream({"getStatus": given}, text_source="none") as (there, _):
        assert await there.read(watched(round_=2)) == expected


@pytest.mark.parametrize(
    "given",
    [
        reply("BAD_KEY"),
        envelope(401, "BAD_KEY"),
        reply("BAD_ACTION"),
        envelope(404, "BAD_ACTION"),
        reply("<html>not found</html>", 404),
        reply("ERROR_SQL"),
        reply("STATUS_OK"),
        reply("STATUS_NEVER_SEEN"),
        reply(""),
        reply("{"),
        reply("", 502),
        httpx.ReadTimeout("late"),
        httpx.ConnectError("refused"),
    ],
)
async def test_states_that_say_nothing_are_unwell(given: httpx.Response | Exception) -> None:
    async with upstream({"getStatus": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


async def test_whole_sms_as_state_has_an_identity_without_its_text() -> None:
    async with upstream({"getStatus": "FULL_SMS:Hello: 1\n2"}) as (there, _):
        (sms,) = (await there.read(watched())).messages
    assert sms.text == "Hello: 1\n2"
    assert "Hello" not in sms.identity


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("getStatusV2", {"verificationType": 0, "sms": {"code": "55", "text": "Code: 55"}, "call": None}),
        ("getStatusV2", {"verificationType": "sms", "data": {"phoneFrom": "X", "code": "55", "text": "Code: 55"}}),
        ("getFullSms", "FULL_SMS:Code: 55"),
    ],
)
async def test_text_of_a_new_code_is_asked_for_once(source: str, given: Any) -> None:
    async with upstream({"getStatus": "STATUS_OK:55", source: given}, text_source=source) as (there, script):
        for _ in range(3):
            (sms,) = (await there.read(watched())).messages
            assert (sms.code, sms.text) == ("55", "Code: 55")
    assert [request.url.params["action"] for request in script.requests].count(source) == 1


@pytest.mark.parametrize(
    "given",
    [reply("BAD_ACTION"), reply("", 500), httpx.ReadTimeout("late"), {"sms": {"code": "66", "text": "other"}}, "[]"],
)
async def test_code_is_delivered_without_its_text_when_that_is_not_to_be_had(given: Any) -> None:
    async with upstream({"getStatus": "STATUS_OK:55", "getStatusV2": given}) as (there, script):
        for _ in range(2):
            (sms,) = (await there.read(watched())).messages
            assert (sms.code, sms.text) == ("55", "")
    assert len(script.requests) == 3


# --- the list of open orders ---


def row(identity: str = "1", **changes: Any) -> dict[str, Any]:
    return {
        "activationId": identity,
        "serviceCode": "tg",
        "phoneNumber": f"+{NUMBER}",
        "activationCost": 0.4,
        "activationStatus": "4",
        "smsCode": None,
        "smsText": None,
        "activationTime": "2026-11-01 10:00:00",
        "countryCode": "16",
        **changes,
    }


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda rows: rows,
        lambda rows: {"status": "success", "data": rows, "activeActivations": {"rows": []}},
        lambda rows: {"status": "success", "activeActivations": rows},
        lambda rows: {"status": "success", "array": rows, "time": 1},
    ],
)
async def test_list_is_read_in_every_wrapping(wrapped: Callable[[list[Any]], Any]) -> None:
    async with upstream({"getActiveActivations": wrapped([row()])}) as (there, _):
        assert isinstance(there, ReadsMany)
        assert await there.read_many([watched("1")]) == {"1": Progress(LeaseState.OPEN)}


@pytest.mark.parametrize(
    ("codes", "texts", "expected"),
    [
        (None, None, []),
        ("", "", []),
        ([], [], []),
        ("55", "Code 55", [("55", "Code 55")]),
        (["55"], "Code 55", [("55", "Code 55")]),
        (["55"], ["Code 55"], [("55", "Code 55")]),
        (["55", "66"], ["a", "b"], [("55", "a"), ("66", "b")]),
        (["55", "66"], "b", [("55", ""), ("66", "b")]),
        (["55", "55"], ["a", "a"], [("55", "a")]),
        (55, None, [("55", "")]),
    ],
)
async def test_codes_in_rows_come_as_null_text_or_list(codes: Any, texts: Any, expected: list[Any]) -> None:
    rows = [row(smsCode=codes, smsText=texts, activationStatus="2")]
    async with upstream({"getActiveActivations": rows}) as (there, _):
        assert isinstance(there, ReadsMany)
        progress = (await there.read_many([watched("1")]))["1"]
    assert [(sms.code, sms.text) for sms in progress.messages] == expected
    assert all(sms.identity == f"1:{sms.code}" for sms in progress.messages)


async def test_rows_that_say_too_little_are_left_to_be_read_singly() -> None:
    rows = [
        row("1"),
        row("2"),
        row("3", activationStatus="6", smsCode="55"),
        row("4", smsText="no code in here"),
        row("5", phoneNumber=None),
        "no row",
    ]
    leases = [Watched("1", 1), Watched("2", 2), *(Watched(str(number), 1) for number in range(3, 8))]
    async with upstream({"getActiveActivations": rows}) as (there, _):
        assert isinstance(there, ReadsMany)
        assert set(await there.read_many(leases)) == {"1"}


async def test_nothing_is_asked_when_only_later_rounds_are_watched() -> None:
    async with upstream({}) as (there, script):
        assert isinstance(there, ReadsMany)
        assert await there.read_many([Watched("1", 2)]) == {}
    assert script.requests == []


@pytest.mark.parametrize(
    "given",
    [
        "NO_ACTIVATIONS",
        {"status": "error", "error": "NO_ACTIVATIONS"},
        {"status": "fail", "msg": "no_activations"},
        {"status": "success", "data": [], "activeActivations": {"rows": []}},
        "[]",
    ],
)
async def test_empty_lists_hold_nothing(given: Any) -> None:
    async with upstream({"getActiveActivations": given}) as (there, _):
        assert isinstance(there, ReadsMany)
        assert isinstance(there, Finds)
        assert await there.read_many([watched("1")]) == {}
        assert await there.find(0) == []


@pytest.mark.parametrize("given", ["BAD_ACTION", "{}", {"data": "x"}, reply("<html>", 502), reply("[{", 200)])
async def test_unreadable_lists_are_unwell(given: Any) -> None:
    async with upstream({"getActiveActivations": given}) as (there, _):
        assert isinstance(there, Finds)
        with pytest.raises(Unwell):
            await there.find(0)


async def test_pages_are_read_until_all_are_seen() -> None:
    pages = ([row("9"), row("8")], [row("7"), row("6")], [row("5"), row("4")])
    async with upstream({"getActiveActivations": pages}, open_list_page=2) as (there, script):
        assert isinstance(there, ReadsMany)
        assert set(await there.read_many([watched("8"), watched("6")])) == {"8", "6"}
    assert [request.url.params["start"] for request in script.requests] == ["0", "2"]


async def test_upstream_that_ignores_paging_is_asked_twice_at_most() -> None:
    async with upstream({"getActiveActivations": [row("9"), row("8")]}, open_list_page=2) as (there, script):
        assert isinstance(there, Finds)
        await there.find(0)
    assert len(script.requests) == 2


async def test_find_tells_service_country_and_time_in_utc() -> None:
    rows = [
        row("1"),
        row("2", activationTime="2026-11-01 09:00:00"),
        row("3", activationTime="?"),
        row("4", serviceCode="gr_x", countryCode="x"),
    ]
    async with upstream({"getActiveActivations": rows}, utc_offset_minutes=180) as (there, _):
        assert isinstance(there, Finds)
        found = await there.find(1793516400.9)  # 2026-11-01 07:00:00.9 UTC
    assert [(order.lease.reference, order.service, order.country, order.created_at) for order in found] == [
        ("1", "tg", 16, 1793516400.0),
        ("3", "tg", 16, None),
        ("4", "gr_x", -1, 1793516400.0),
    ]
    assert found[0].lease.number == NUMBER
    assert found[0].lease.cost == Money(400_000, "USD")


def test_abilities_are_claimed_only_where_the_list_exists() -> None:
    def built(open_list: OpenList) -> HandlerApi:
        return handler_api.build(context(), handler_api.Options(base_url=BASE_URL, open_list=open_list))

    blind, sighted = built("none"), built("getActiveActivations")
    assert not isinstance(blind, ReadsMany)
    assert not isinstance(blind, Finds)
    assert isinstance(blind, AsksAgain)
    assert isinstance(sighted, ReadsMany)
    assert isinstance(sighted, Finds)


# --- closing ---


@pytest.mark.parametrize(
    ("outcome", "number", "given"),
    [
        (Outcome.FINISHED, "6", reply("ACCESS_ACTIVATION")),
        (Outcome.CANCELLED, "8", reply("ACCESS_CANCEL")),
        (Outcome.CANCELLED, "8", reply("", 204)),
        (Outcome.CANCELLED, "8", reply({"status": "success"})),
    ],
)
async def test_close_says_how_the_lease_ends(outcome: Outcome, number: str, given: httpx.Response) -> None:
    async with upstream({"setStatus": given}) as (there, script):
        await there.close("77", outcome)
    assert script.requests[0].url.params["status"] == number
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("outcome", "answers", "expected"),
    [
        (Outcome.CANCELLED, {"setStatus": envelope(409, "OTP_RECEIVED")}, HasSms),
        (Outcome.CANCELLED, {"setStatus": envelope(409, "NEW_OTP_RECEIVED")}, HasSms),
        (Outcome.CANCELLED, {"setStatus": "BAD_STATUS", "getStatus": "STATUS_OK:55"}, HasSms),
        (Outcome.CANCELLED, {"setStatus": "BAD_STATUS", "getStatus": "STATUS_WAIT_RETRY:55"}, HasSms),
        (Outcome.CANCELLED, {"setStatus": "ACCESS_READY", "getStatus": "STATUS_OK:55"}, HasSms),
        (Outcome.CANCELLED, {"setStatus": "BAD_STATUS", "getStatus": "STATUS_WAIT_CODE"}, NotAllowed),
        (Outcome.CANCELLED, {"setStatus": "BAD_STATUS", "getStatus": "NO_ACTIVATION"}, UnknownLease),
        (Outcome.CANCELLED, {"setStatus": "BAD_STATUS", "getStatus": "<html>"}, Unwell),
        (Outcome.CANCELLED, {"setStatus": "NO_ACTIVATION"}, UnknownLease),
        (Outcome.CANCELLED, {"setStatus": envelope(404, "NOT_FOUND")}, UnknownLease),
        (Outcome.CANCELLED, {"setStatus": "BAD_KEY"}, Unwell),
        (Outcome.CANCELLED, {"setStatus": "ACCESS_ACTIVATION"}, Unwell),
        (Outcome.CANCELLED, {"setStatus": reply("<html>", 200)}, Unwell),
        (Outcome.CANCELLED, {"setStatus": httpx.ReadTimeout("late")}, Unwell),
        (Outcome.FINISHED, {"setStatus": "BAD_STATUS", "getStatus": "STATUS_WAIT_CODE"}, NotAllowed),
        (Outcome.FINISHED, {"setStatus": "ERROR_SQL"}, Unwell),
    ],
)
async def test_close_says_what_stands_in_the_way(
    outcome: Outcome, answers: Answers, expected: type[UpstreamError]
) -> None:
    async with upstream(answers) as (there, _):
        with pytest.raises(expected):
            await there.close("77", outcome)


@pytest.mark.parametrize("word", ["BAD_STATUS", "ACTIVATION_NOT_ACTIVE"])
@pytest.mark.parametrize("outcome", list(Outcome))
async def test_close_repeated_is_done_already(outcome: Outcome, word: str) -> None:
    async with upstream({"setStatus": word, "getStatus": "STATUS_CANCEL"}) as (there, _):
        await there.close("77", outcome)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (envelope(409, "EARLY_CANCEL_DENIED", minActivationTime=120), 120.0),
        (envelope(425, "TOO_EARLY"), 60.0),
        (reply("EARLY_CANCEL_DENIED"), 60.0),
    ],
)
async def test_early_cancel_says_when_to_try_again(given: httpx.Response, seconds: float) -> None:
    async with upstream({"setStatus": given}, early_cancel_seconds=60) as (there, _):
        with pytest.raises(TooEarly) as caught:
            await there.close("77", Outcome.CANCELLED)
    assert caught.value.retry_seconds == seconds


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"setStatus": "ACCESS_RETRY_GET"}, None),
        ({"setStatus": "BAD_STATUS", "getStatus": "STATUS_WAIT_RETRY:55"}, None),
        ({"setStatus": "BAD_STATUS", "getStatus": "STATUS_WAIT_CODE"}, NotAllowed),
        ({"setStatus": "NO_ACTIVATION"}, UnknownLease),
        ({"setStatus": "<html>"}, Unwell),
    ],
)
async def test_another_sms_is_asked_for(answers: Answers, expected: type[UpstreamError] | None) -> None:
    async with upstream(answers) as (there, script):
        if expected is None:
            await there.ask_again("77")
        else:
            with pytest.raises(expected):
                await there.ask_again("77")
    assert script.requests[0].url.params["status"] == "3"


# --- whatever comes ---


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(row())) | st.text(), inner),
    max_leaves=12,
)
bodies = (
    json_values.map(json.dumps)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(row(), json_values)).map(json.dumps)
    | st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(row(), json_values))).map(json.dumps)
    | st.sampled_from(["ACCESS_NUMBER:", "STATUS_OK:", "ACCESS_BALANCE:", "BANNED:"]).flatmap(
        lambda word: st.text(st.characters(exclude_categories=["Cs"])).map(lambda rest: word + rest)
    )
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(body=bodies, status=st.sampled_from([200, 204, 302, 400, 404, 500]))
async def test_no_answer_breaks_any_verb(body: str, status: int) -> None:
    script = Script(lambda request: httpx.Response(status, content=body.encode()))
    there = herosms.build(context(script), herosms.Options())
    assert isinstance(there, ReadsMany)
    assert isinstance(there, Finds)
    calls = (
        there.buy(order()),
        there.read(watched()),
        there.read_many([watched()]),
        there.find(0),
        there.balance(),
        there.offers(),
        there.ask_again("77"),
        there.close("77", Outcome.CANCELLED),
    )
    for call in calls:
        with suppress(UpstreamError):
            await call
    await there.aclose()


@pytest.mark.parametrize(("told", "operator"), [("o\0002", "o\ufffd2"), ("o2 \ud83d", "o2 \ufffd")])
async def test_an_operator_is_a_text_that_can_be_stored(told: str, operator: str) -> None:
    async with upstream({"getNumberV2": LEASE_V2 | {"activationOperator": told}}) as (there, _):
        assert (await there.buy(order())).operator == operator


async def test_sms_cut_in_the_middle_of_a_character_is_read() -> None:
    rows = row("1", smsCode="55", smsText="Code 55 \ud83d", activationStatus="2")
    async with upstream({"getActiveActivations": [rows]}) as (there, _):
        assert isinstance(there, ReadsMany)
        (sms,) = (await there.read_many([watched("1")]))["1"].messages
    assert sms.text == "Code 55 \ufffd"


# --- money ---


@pytest.mark.parametrize(
    "given", ["ACCESS_BALANCE:12.5085", {"balance": "12.5085", "currency": 840}, {"balance": 12.5085}, "12.5085"]
)
async def test_balance_is_read_in_every_form(given: Any) -> None:
    async with upstream({"getBalance": given}) as (there, _):
        assert await there.balance() == Money(12_508_500, "USD")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("BAD_KEY", Refused),
        (envelope(401, "BAD_KEY"), Refused),
        ("ERROR_SQL", Unwell),
        ("ACCESS_BALANCE:", Unwell),
        ("ACCESS_BALANCE:much", Unwell),
        ("<html>", Unwell),
        ("{}", Unwell),
        (reply("1.0", 503), Unwell),
    ],
)
async def test_balance_that_is_not_told(given: Any, expected: type[UpstreamError]) -> None:
    async with upstream({"getBalance": given}) as (there, _):
        with pytest.raises(expected):
            await there.balance()


# --- price lists ---


def parsed(data: Any, **changes: Any) -> tuple[OfferTable, dict[str, int]]:
    sheet = Sheet("there", "USD", {"tg": "tg", "wa": "wa"}, {"16": 16, "187": 187}, **changes)
    table, unmapped = parse_prices(json.dumps(data).encode(), sheet)
    return table, dict(unmapped)


def ladder(table: OfferTable, service: str = "tg", country: int = 16) -> list[tuple[int, int]]:
    return [(offer.cost.micros, offer.count) for offer in table.at(service, country)]


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        ({"cost": 0.5, "count": 10}, [(500_000, 10)]),
        ({"cost": 0.5, "count": 90_000, "physicalCount": 5}, [(500_000, 5)]),
        ({"cost": 0.5, "count": 90_000, "physicalCount": 0}, []),
        ({"cost": "0.2500", "count": "41"}, [(250_000, 41)]),
        ({"0.20": 4, "0.15": 123}, [(150_000, 123), (200_000, 4)]),
        ({"prices": {"0.25": 41}, "has_multi": True}, [(250_000, 41)]),
        ({"1011": {"count": 5, "price": 0.2}, "7": {"count": 1, "price": [0.1, 0.3]}}, [(200_000, 5), (300_000, 1)]),
        ({"price": 1, "count": 3, "providers": {"7": {"count": 3, "price": [0.4]}}}, [(400_000, 3)]),
        ({"price": 50.0}, [(50_000_000, 1)]),
        (0.22, [(220_000, 1)]),
        ([], []),
        ({}, []),
        (1e-05, [(10, 1)]),
    ],
)
def test_price_leaves_are_read_in_every_shape(leaf: Any, expected: list[tuple[int, int]]) -> None:
    table, unmapped = parsed({"16": {"tg": leaf}})
    assert ladder(table) == expected
    assert unmapped == {}


def test_cumulative_ladder_is_made_plain() -> None:
    table, _ = parsed({"16": {"tg": {"0.15": 100, "0.20": 120, "0.30": 120}}}, is_cumulative=True)
    assert ladder(table) == [(150_000, 100), (200_000, 20)]


def test_list_by_service_first_is_turned_round() -> None:
    table, _ = parsed({"tg": {"187": {"cost": 0.5, "count": 1}}}, services_first=True)
    assert ladder(table, country=187) == [(500_000, 1)]


@pytest.mark.parametrize("nothing", [[], {}, {"16": []}])
def test_empty_lists_sell_nothing(nothing: Any) -> None:
    assert len(parsed(nothing)[0]) == 0


def test_unknown_words_and_odd_rows_are_counted() -> None:
    good, none = {"cost": 0.5, "count": 7}, {"cost": 0.5, "count": 0}
    listed = {"16": {"tg": good, "zz": {"0.1": 2, "0.2": 3}, "wa": {"cost": None}}, "999": {"tg": good, "wa": good}}
    table, unmapped = parsed({**listed, "43": {"tg": none}})
    assert ladder(table) == [(500_000, 7)]
    assert unmapped == {"service zz": 5, "country 999": 14, "unreadable": 1}


def test_unknown_words_of_a_cumulative_ladder_are_counted_once() -> None:
    _, unmapped = parsed({"16": {"zz": {"prices": {"0.1": 2, "0.2": 3}}}}, is_cumulative=True)
    assert unmapped == {"service zz": 3}


def test_only_chosen_providers_count() -> None:
    leaf = {number: {"count": 5, "price": price, "provider_id": number} for number, price in [("1", 0.1), ("2", 0.2)]}
    listed = {"16": {"tg": leaf}}
    assert ladder(parsed(listed, providers=frozenset({"2"}))[0]) == [(200_000, 5)]
    assert ladder(parsed(listed, excluded_providers=frozenset({"2"}))[0]) == [(100_000, 5)]


@pytest.mark.parametrize(
    "body", [b"", b'{"16":{"tg":{"cost":0.', b"<html>", b"[1]", b'{"status":"false"}', b"7", b"NaN"]
)
def test_unreadable_price_list_is_unwell(body: bytes) -> None:
    with pytest.raises(Unwell) as caught:
        parse_prices(body, Sheet("there", "USD", {}, {}))
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args  # noqa: S301 - as the process pool does


async def test_price_lists_cross_to_another_process_and_back() -> None:
    moved: list[bytes] = []

    async def offload(function: Callable[..., Any], *args: Any) -> Any:
        moved.append(pickle.dumps((function, args)))
        run, given = pickle.loads(moved[0])  # noqa: S301 - as the process pool does
        return pickle.loads(pickle.dumps(run(*given)))  # noqa: S301 - likewise

    script = Script(by_action({"getPrices": {"16": {"tg": {"cost": 0.4, "count": 2}}}}))
    there = herosms.build(context(script, offload=offload), herosms.Options())
    assert ladder(await there.offers()) == [(400_000, 2)]
    await there.aclose()
    assert SECRET.encode() not in moved[0]


async def test_offers_keep_what_they_could_not_map() -> None:
    async with upstream({"getPrices": {"16": {"tg": {"cost": 0.4, "count": 2}, "zz": {"cost": 1, "count": 1}}}}) as (
        there,
        _,
    ):
        table = await there.offers()
    assert ladder(table) == [(400_000, 2)]
    assert there.unmapped == {"service zz": 1}


@pytest.mark.parametrize(
    "given",
    [
        "BAD_KEY",
        envelope(401, "BAD_KEY"),
        {"status": "false", "msg": "service is incorrect"},
        {"error": "Bad service"},
        reply("<html>", 502),
        reply('{"16":{', 200),
        "",
        httpx.ReadTimeout("late"),
    ],
)
async def test_offers_that_fail_are_unwell(given: Any) -> None:
    async with upstream({"getPrices": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


async def test_long_page_in_place_of_prices_is_unwell() -> None:
    async with upstream({"getPrices": "<p>" * 9_000}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


# --- options ---


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"base_url": "upstream.test"},
        {"base_url": f"{BASE_URL}?api_key=x"},
        {"base_url": BASE_URL, "services": {"tg": "x", "wa": "x"}},
        {"base_url": BASE_URL, "max_price_parameter": "max"},
        {"base_url": BASE_URL, "open_list_page": -1},
    ],
)
def test_unusable_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        handler_api.Options(**given)


async def test_herosms_is_the_family_at_its_own_address() -> None:
    script = Script(by_action({"getBalance": "ACCESS_BALANCE:1.0"}))
    there = herosms.build(context(script), herosms.Options())
    await there.balance()
    await there.aclose()
    assert str(script.requests[0].url).startswith("https://hero-sms.com/stubs/handler_api.php?")
    assert isinstance(there, ReadsMany)
