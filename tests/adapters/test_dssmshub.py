"""DS SMS HUB: words with a status, prices and texts in headers, its JSON API and its webhook."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters import dssmshub
from adapters._prices import Sheet
from adapters.dssmshub import DsSmsHub, header_text, parse_prices
from gateway.errors import (
    HasSms,
    NotAllowed,
    PushRefused,
    PushUnreadable,
    Refused,
    SoldOut,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import BuyOrder, LeaseState, Outcome, Progress, Sms
from gateway.money import Money
from gateway.upstream import OfferTable, Pushed, PushRequest
from tests.adapters._context import SECRET, Script, context, watched
from tests.adapters._scripted import LOST, every_verb, in_doubt, refused, scripted
from tests.simulators import dssmshub as simulator
from tests.simulators._serve import serve

NOW = 1_793_527_200.0
PHONE = "+12025550123"

Answers = dict[str, Any]


def said(text: str, status: int = 200, **headers: str | bytes) -> httpx.Response:
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return httpx.Response(status, content=text.encode(), headers=fields)  # type: ignore[arg-type]


@asynccontextmanager
async def upstream(answers: Answers, **options: Any) -> AsyncIterator[tuple[DsSmsHub, Script]]:
    script = scripted(answers, lambda request: request.url.params.get("action", "json"), said)
    async with aclosing(
        dssmshub.build(context(script, currency="NGN", clock=lambda: NOW), dssmshub.Options(**options))
    ) as made:
        yield made, script


def order(service: str = "go", country: int = 187) -> BuyOrder:
    return BuyOrder(service, country, "", Money(55_500_000, "NGN"), 5.0)


def naira(micros: int) -> Money:
    return Money(micros, "NGN")


# --- buying ---


async def test_purchase_sends_words_and_the_cap_and_reads_the_price_in_the_header() -> None:
    answer = said(f"ACCESS_NUMBER:12345:{PHONE}", x_price="50.00")
    async with upstream({"getNumber": answer}) as (there, script):
        lease = await there.buy(order())
    (request,) = script.requests
    assert str(request.url.copy_with(query=None)) == "https://dssmshub.com.ng/stubs/handler_api.php"
    assert dict(request.url.params) == {
        "api_key": SECRET,
        "action": "getNumber",
        "service": "google",
        "country": "US",
        "max_price": "55.50",
    }
    assert (lease.reference, lease.number, lease.cost) == ("12345", "12025550123", naira(50_000_000))
    assert lease.expires_at == NOW + 300


async def test_life_of_a_number_is_a_setting() -> None:
    async with upstream({"getNumber": f"ACCESS_NUMBER:1:{PHONE}"}, life_seconds=600) as (there, _):
        lease = await there.buy(order())
    assert (lease.expires_at, lease.cost) == (NOW + 600, None)


@pytest.mark.parametrize("price", ["", "a lot", "-", "NaN"])
async def test_number_with_an_odd_price_is_not_lost(price: str) -> None:
    async with upstream({"getNumber": said(f"ACCESS_NUMBER:1:{PHONE}", x_price=price)}) as (there, _):
        assert (await there.buy(order())).cost is None


@pytest.mark.parametrize(
    ("given", "expected", "is_fault"),
    [
        (said("NO_NUMBERS", 400), SoldOut, None),
        (said("MAX_PRICE_EXCEEDED", 400), SoldOut, None),
        (said("NO_NUMBERS"), SoldOut, None),
        (said("BAD_KEY", 400), Refused, True),
        (said("BAD_KEY", 401), Refused, True),
        (said("BAD_KEY"), Refused, True),
        (said("BAD_ACTION", 400), Refused, True),
        (said("USER_NOT_FOUND", 404), Refused, True),
        (said("NO_MONEY", 400), Refused, True),
        (said("NO_BALANCE", 400), Refused, True),
        (said("TOO_MANY_ACTIVE_RENTALS", 400), Refused, True),
        (said("Too Many Requests", 429), Refused, True),
        (said("<html>forbidden</html>", 403), Refused, True),
        (said("<html>not found</html>", 404), Refused, True),
        (said("BAD_SERVICE", 400), Refused, False),
        (said("BAD_COUNTRY"), Refused, False),
        (said("SOMETHING_NEW", 400), Refused, False),
    ],
)
async def test_refused_purchases_took_nothing(
    given: httpx.Response, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream({"getNumber": given}) as (there, script):
        await refused(there, order(), expected, is_fault)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "given",
    [
        said("INTERNAL_ERROR", 500),
        said("BACKEND_ERROR", 500),
        said("DATABASE_ERROR", 500),
        said("DATABASE_ERROR"),
        said("BACKEND_ERROR", 400),
        said("NO_NUMBERS", 500),
        said("<html>Bad Gateway</html>", 502),
        said("", 408),
        said(""),
        said("<html>Welcome</html>"),
        said("SOMETHING_NEW"),
        said("ACCESS_GRANTED:1:2"),
        said("ACCESS_NUMBER"),
        said("ACCESS_NUMBER:12345"),
        said("ACCESS_NUMBER:12345:+1"),
        said(f"ACCESS_NUMBER::{PHONE}"),
        said("{}"),
        *LOST,
    ],
)
async def test_unreadable_purchases_are_in_doubt(given: Any) -> None:
    async with upstream({"getNumber": given}) as (there, script):
        await in_doubt(there, order())
    assert len(script.requests) == 1


async def test_overrides_win_over_the_table_and_over_the_one_country() -> None:
    options = {"services": {"xx": "nobodys"}, "countries": {12: "US"}}
    async with upstream({"getNumber": f"ACCESS_NUMBER:1:{PHONE}"}, **options) as (there, script):
        await there.buy(order("xx", 12))
        with pytest.raises(Refused):
            await there.buy(order())
    params = script.requests[0].url.params
    assert (params["service"], params["country"]) == ("nobodys", "US")


@pytest.mark.parametrize(("server", "action"), [("1", "getServer1Number"), ("2", "getServer2Number")])
async def test_other_servers_have_actions_of_their_own(server: str, action: str) -> None:
    async with upstream({action: f"ACCESS_NUMBER:1:{PHONE}"}, server=server) as (there, script):
        await there.buy(order())
    assert script.requests[0].url.params["country"] == "US"


async def test_second_server_is_asked_for_countries_by_their_letters() -> None:
    async with upstream({"getServer2Number": "ACCESS_NUMBER:1:+447700900123"}, server="2") as (there, script):
        await there.buy(order(country=16))
        with pytest.raises(Refused):  # of the two countries with the letters US, 187 is the physical one
            await there.buy(order(country=12))
    assert script.requests[0].url.params["country"] == "GB"


# --- reading ---


@pytest.mark.parametrize("word", ["WAITING", "STATUS_WAIT_CODE", "STATUS_WAIT", "STATUS_WAIT_RETRY:1"])
async def test_waiting_words_mean_that_nothing_came(word: str) -> None:
    async with upstream({"getStatus": word}) as (there, script):
        assert await there.read(watched()) == Progress(LeaseState.OPEN)
    params = script.requests[0].url.params
    assert (params["id"], params["text"]) == ("77", "1")


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (said("STATUS_CANCEL"), LeaseState.CANCELLED),
        (said("ACCESS_CANCEL"), LeaseState.CANCELLED),
        (said("NO_ACTIVATION", 400), LeaseState.UNKNOWN),
        (said("NO_ACTIVATION"), LeaseState.UNKNOWN),
    ],
)
async def test_states_without_a_message(given: httpx.Response, state: LeaseState) -> None:
    async with upstream({"getStatus": given}) as (there, _):
        assert await there.read(watched()) == Progress(state)


async def test_word_for_an_order_that_is_over_is_a_setting() -> None:
    async with upstream({"getStatus": said("TIMED_OUT", 400)}, cancelled_words=["TIMED_OUT"]) as (there, _):
        assert await there.read(watched()) == Progress(LeaseState.CANCELLED)


@pytest.mark.parametrize(
    "given",
    [
        said("BAD_KEY", 401),
        said("USER_NOT_FOUND", 404),
        said("INTERNAL_ERROR", 500),
        said("NO_ACTIVATION", 500),
        said("WAITING", 502),
        said("ACCESS_SMS:"),
        said("TIMED_OUT"),
        said("WAIT"),
        said(""),
        said("<html></html>"),
        httpx.ReadTimeout("late"),
    ],
)
async def test_what_is_no_state_says_nothing(given: Any) -> None:
    async with upstream({"getStatus": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched())


async def message(given: httpx.Response) -> Sms:
    async with upstream({"getStatus": given}) as (there, _):
        progress = await there.read(watched())
    assert progress.state is LeaseState.OPEN
    (sms,) = progress.messages
    return sms


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Your verification code is 123456", "123456"),
        ("G-123456 is your code: keep it", "123456"),
        ("Code:\n5544\nthanks", "5544"),
        ("123 456 is your code", ""),
        ("Call +12025550111 with 4455", ""),
        ("Use 99 or 123456", ""),
        ("no digits here", ""),
        ("Ваш код ١٢٣٤ или 4321", "4321"),
    ],
)
async def test_text_is_whole_and_a_code_is_named_only_where_it_is_plain(text: str, code: str) -> None:
    sms = await message(said(f"ACCESS_SMS:{text}"))
    assert (sms.text, sms.code) == (text, code)


@pytest.mark.parametrize(
    ("body", "header", "text"),
    [
        ("ACCESS_SMS:Line one\nCode: 12345", "Line one Code: 12345", "Line one\nCode: 12345"),
        ("ACCESS_SMS:12345", "Your code is 12345", "Your code is 12345"),
        ("ACCESS_SMS:", "Your code is 12345", "Your code is 12345"),
        ("ACCESS_SMS:Ваш код 12345", "??? ??? 12345", "Ваш код 12345"),
        ("ACCESS_SMS:12345", "Ваш код 12345".encode(), "Ваш код 12345"),
        ("ACCESS_SMS:12345", "Clé 12345 à usage".encode("latin-1"), "Clé 12345 à usage"),
        ("ACCESS_SMS:12345", "%D0%9A%D0%BE%D0%B4%2012345", "Код 12345"),
        ("ACCESS_SMS:12345", "Your+code%3A+12345", "Your code: 12345"),
        ("ACCESS_SMS:12345", "UTF-8''%D0%9A%D0%BE%D0%B4%2012345", "Код 12345"),
        ("STATUS_OK:12345", "Your code is 12345", "Your code is 12345"),
    ],
)
async def test_header_is_read_however_it_was_encoded(body: str, header: str | bytes, text: str) -> None:
    sms = await message(said(body, x_text=header))
    assert (sms.text, sms.code) == (text, "12345")


@pytest.mark.parametrize("plain", ["Save 50% at 12%20 today", "100%", "%zz", "a+b", "", "%FF%FE12345"])
def test_text_that_is_not_percent_encoded_stays(plain: str) -> None:
    assert header_text(plain) == plain


async def test_identity_is_the_same_with_and_without_the_header_and_in_a_later_round() -> None:
    answers = (said("ACCESS_SMS:12345", x_text="Your code is 12345"), said("ACCESS_SMS:12345"))
    async with upstream({"getStatus": answers}) as (there, _):
        first = (await there.read(watched())).messages[0]
        second = (await there.read(watched(round_=2))).messages[0]
    assert first.identity == second.identity
    other = await message(said("ACCESS_SMS:54321"))
    assert other.identity != first.identity


# --- closing ---


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        (Outcome.FINISHED, "6", "ACCESS_DONE"),
        (Outcome.FINISHED, "6", "ACCESS_ACTIVATION"),
        (Outcome.CANCELLED, "8", "ACCESS_CANCEL"),
    ],
)
async def test_close_sends_the_number_of_its_outcome(outcome: Outcome, status: str, word: str) -> None:
    async with upstream({"setStatus": word}) as (there, script):
        await there.close("77", outcome)
    (request,) = script.requests
    assert (request.url.params["id"], request.url.params["status"]) == ("77", status)


@pytest.mark.parametrize(
    ("outcome", "state", "expected"),
    [
        (Outcome.CANCELLED, said("STATUS_CANCEL"), None),
        (Outcome.FINISHED, said("STATUS_CANCEL"), None),
        (Outcome.FINISHED, said("ACCESS_SMS:Your code is 1234"), None),
        (Outcome.CANCELLED, said("ACCESS_SMS:Your code is 1234"), HasSms),
        (Outcome.CANCELLED, said("NO_ACTIVATION", 400), UnknownLease),
        (Outcome.FINISHED, said("NO_ACTIVATION", 400), UnknownLease),
        (Outcome.CANCELLED, said("WAITING"), NotAllowed),
        (Outcome.FINISHED, said("WAITING"), NotAllowed),
        (Outcome.FINISHED, said("INTERNAL_ERROR", 500), Unwell),
    ],
)
async def test_refused_close_asks_for_the_state(
    outcome: Outcome, state: httpx.Response, expected: type[UpstreamError] | None
) -> None:
    async with upstream({"setStatus": said("NO_ACTIVATION", 400), "getStatus": state}) as (there, script):
        if expected is None:
            await there.close("77", outcome)
        else:
            with pytest.raises(expected):
                await there.close("77", outcome)
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "given",
    [said("BAD_KEY", 401), said("INTERNAL_ERROR", 500), said("ACCESS_DONE"), said("SOMETHING_NEW", 400), said("OK")],
)
async def test_unknown_answer_to_a_cancel_is_no_success(given: httpx.Response) -> None:
    async with upstream({"setStatus": given}) as (there, script):
        with pytest.raises(Unwell):
            await there.close("77", Outcome.CANCELLED)
    assert len(script.requests) == 1


# --- balance ---


@pytest.mark.parametrize(("body", "micros"), [("ACCESS_BALANCE:500.00", 500_000_000), ("ACCESS_BALANCE: 0", 0)])
async def test_balance_is_naira(body: str, micros: int) -> None:
    async with upstream({"getBalance": body}) as (there, _):
        assert await there.balance() == naira(micros)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (said("BAD_KEY", 401), Refused),
        (said("USER_NOT_FOUND", 404), Refused),
        (said("DATABASE_ERROR", 500), Unwell),
        (said("ACCESS_BALANCE:"), Unwell),
        (said("<html></html>"), Unwell),
    ],
)
async def test_balance_that_is_refused_or_unreadable(given: httpx.Response, expected: type[UpstreamError]) -> None:
    async with upstream({"getBalance": given}) as (there, _):
        with pytest.raises(expected):
            await there.balance()


JSON_API = "https://dssmshub.com.ng/api"
WALLET = {"status": "success", "wallet_balance": 1234.5, "referral_balance": 9, "currency": "NGN"}


async def test_json_api_is_asked_with_the_key_in_the_body() -> None:
    async with upstream({"json": json.dumps(WALLET)}, json_api_url=JSON_API) as (there, script):
        assert await there.balance() == naira(1_234_500_000)
    (request,) = script.requests
    assert (request.method, str(request.url)) == ("POST", JSON_API)
    assert json.loads(request.content) == {"key": SECRET, "endpoint": "account/balance"}
    assert "authorization" not in request.headers


async def test_json_api_is_asked_with_the_key_as_a_bearer_token() -> None:
    options = {"json_api_url": JSON_API, "json_api_key_in": "bearer"}
    async with upstream({"json": json.dumps(WALLET)}, **options) as (there, script):
        await there.balance()
    (request,) = script.requests
    assert json.loads(request.content) == {"endpoint": "account/balance"}
    assert request.headers["authorization"] == f"Bearer {SECRET}"


def failed(code: str, status: int) -> httpx.Response:
    return said(json.dumps({"status": "error", "code": code, "message": "Some words"}), status)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (failed("INVALID_KEY", 401), Refused),
        (failed("MISSING_KEY", 401), Refused),
        (said("<html>who are you</html>", 401), Refused),
        (failed("MISSING_PARAMS", 400), Unwell),
        (failed("UNKNOWN_ENDPOINT", 404), Unwell),
        (failed("METHOD_NOT_ALLOWED", 405), Unwell),
        (failed("TOO_MANY_ACTIVE", 429), Unwell),
        (failed("PURCHASE_FAILED", 503), Unwell),
        (failed("INTERNAL_ERROR", 200), Unwell),
        (said("<html>Bad Gateway</html>", 502), Unwell),
        (said("<html>Welcome</html>"), Unwell),
        (said("[]"), Unwell),
        (said(json.dumps({"status": "success"})), Unwell),
        (said(json.dumps({**WALLET, "wallet_balance": None})), Unwell),
        (said(json.dumps({**WALLET, "currency": "USD"})), Unwell),
    ],
)
async def test_json_api_that_fails(given: httpx.Response, expected: type[UpstreamError]) -> None:
    async with upstream({"json": given}, json_api_url=JSON_API) as (there, _):
        with pytest.raises(expected):
            await there.balance()


# --- the price list ---

SHEET = Sheet("there", "NGN", {"google": "go", "facebook": "fb"}, {"US": 187, "GB": 16})


def listed(table: OfferTable, service: str, country: int) -> list[tuple[int, int]]:
    return [(offer.cost.micros, offer.count) for offer in table.at(service, country)]


def test_prices_by_country_are_read_with_an_unknown_count_of_one() -> None:
    body = (
        b'{"google": {"US": {"price": 50.00}, "GB": {"price": "70.5"}}, "Facebook": {"US": {"price": 60, "count": 9}}}'
    )
    table, unmapped = parse_prices(body, SHEET)
    assert listed(table, "go", 187) == [(50_000_000, 1)]
    assert listed(table, "go", 16) == [(70_500_000, 1)]
    assert listed(table, "fb", 187) == [(60_000_000, 9)]
    assert not unmapped


def test_prices_without_a_country_are_those_of_the_usa() -> None:
    table, _ = parse_prices(b'{"google": {"price": 50.00}}', SHEET)
    assert listed(table, "go", 187) == [(50_000_000, 1)]


def test_unknown_words_are_counted_and_odd_rows_hide_no_others() -> None:
    body = json.dumps(
        {
            "google": {"US": {"price": 50}, "XX": {"price": 1}},
            "nonsense": {"US": {"price": 5, "count": 30}},
            "facebook": {"US": {"price": "cheap"}, "GB": 5},
        }
    )
    table, unmapped = parse_prices(body.encode(), SHEET)
    assert list(table.pairs()) == [("go", 187)]
    assert unmapped == {"country XX": 1, "service nonsense": 30, "unreadable": 2}


@pytest.mark.parametrize("body", [b"[]", b"{}"])
def test_empty_list_sells_nothing(body: bytes) -> None:
    assert len(parse_prices(body, SHEET)[0]) == 0


@pytest.mark.parametrize(
    "body",
    [b'{"google": {"US": {"pri', b"null", b"[1]", b'{"status": "error", "code": "INVALID_KEY", "message": "Who?"}'],
)
def test_what_is_no_list_is_unwell(body: bytes) -> None:
    with pytest.raises(Unwell):
        parse_prices(body, SHEET)


def test_sheet_and_table_cross_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(SHEET)) == SHEET  # noqa: S301 - our own bytes
    table, _ = parse_prices(b'{"google": {"US": {"price": 50.00}}}', SHEET)
    crossed: OfferTable = pickle.loads(pickle.dumps(table))  # noqa: S301 - our own bytes
    assert listed(crossed, "go", 187) == [(50_000_000, 1)]


@pytest.mark.parametrize("given", [said("BAD_KEY", 401), said("BAD_KEY"), said("{}", 500), said("")])
async def test_price_list_that_is_a_word_is_unwell(given: httpx.Response) -> None:
    async with upstream({"getPrices": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


async def test_price_list_is_a_setting_and_leaves_the_unmapped_words() -> None:
    answers = {"getPricesVerification": '{"google": {"price": 50.00}, "nonsense": {"price": 1}}'}
    async with upstream(answers, price_action="getPricesVerification") as (there, _):
        table = await there.offers()
    assert listed(table, "go", 187) == [(50_000_000, 1)]
    assert there.unmapped == {"service nonsense": 1}


# --- the webhook ---

PUSH = {
    "rental_id": "12345",
    "number": PHONE,
    "service": "google",
    "text": "Your verification code is 123456",
    "received_at": "2025-10-27 12:30:00",
}


def push(data: Any = PUSH, **changes: Any) -> PushRequest:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    given = {"method": "POST", "url": "https://gw.example.com/in/x", "headers": {}, "has_secret": True, **changes}
    return PushRequest(body=body, **given)


@pytest.mark.parametrize("rental", ["12345", 12345])
async def test_webhook_is_a_hint_to_read_the_lease(rental: str | int) -> None:
    async with upstream({}) as (there, script):
        taken = await there.take_push(push({**PUSH, "rental_id": rental}))
    assert taken.pushed == (Pushed("12345"),)
    assert script.requests == []


async def test_webhook_without_the_secret_path_is_refused() -> None:
    async with upstream({}) as (there, _):
        with pytest.raises(PushRefused):
            await there.take_push(push(has_secret=False))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", {}, {"rental_id": None}, {"rental_id": "a b"}])
async def test_webhook_that_names_no_rental_is_unreadable(body: Any) -> None:
    async with upstream({}) as (there, _):
        with pytest.raises(PushUnreadable):
            await there.take_push(push(body))


@pytest.mark.parametrize(
    ("peer", "is_taken"),
    [
        ("192.0.2.9", True),
        ("::ffff:192.0.2.9", True),
        ("2001:db8::5", True),
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("", False),
        ("nonsense", False),
    ],
)
async def test_webhook_may_be_bound_to_addresses(peer: str, is_taken: bool) -> None:
    addresses = ["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]
    async with upstream({}, push_addresses=addresses) as (there, _):
        if is_taken:
            assert (await there.take_push(push(peer=peer))).pushed
        else:
            with pytest.raises(PushRefused):
                await there.take_push(push(peer=peer))


# --- the whole ---


@pytest.mark.parametrize(
    "options",
    [
        {"server": "3"},
        {"base_url": "ftp://x"},
        {"json_api_url": "nonsense"},
        {"push_addresses": ["everywhere"]},
        {"services": {"go": "google", "gf": "google"}},
        {"life_seconds": 0},
        {"nonsense": 1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        dssmshub.Options(**options)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.sampled_from([200, 302, 400, 401, 404, 429, 500]), st.text(max_size=60), st.binary(max_size=30))
async def test_any_answer_is_an_upstream_error_or_a_value(status: int, text: str, header: bytes) -> None:
    for body in (text, f"ACCESS_NUMBER:{text}", f"ACCESS_SMS:{text}", f"ACCESS_BALANCE:{text}", f'{{"google":{text}}}'):
        answer = said(body, status, x_text=header, x_price=header)
        actions = ("getNumber", "getStatus", "setStatus", "getBalance", "getPrices")
        async with upstream(dict.fromkeys(actions, answer)) as (there, _):
            await every_verb(there, order())


# --- over real sockets ---


@asynccontextmanager
async def live(simulated: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[tuple[DsSmsHub, Any]]:
    app = simulator.build(sms_delay_seconds=None, **(simulated or {}))
    with serve(app) as address:
        urls: dict[str, Any] = {"base_url": address + simulator.PATH}
        if options.pop("json_api", False):
            urls["json_api_url"] = address + simulator.JSON_PATH
        there = dssmshub.build(
            context(secret=simulator.DEFAULT_KEY, currency="NGN"), dssmshub.Options(**urls, **options)
        )
        async with aclosing(there):
            yield there, app.state.sim


@pytest.mark.parametrize("header_text", ["utf-8", "percent", "folded"])
async def test_texts_beyond_ascii_arrive_whole(header_text: str) -> None:
    async with live({"header_text": header_text}) as (there, sim):
        lease = await there.buy(order())
        sim.deliver(lease.reference, "Код: 123456\n请勿告知 🙂")
        (sms,) = (await there.read(watched(lease.reference))).messages
    assert (sms.text, sms.code) == ("Код: 123456\n请勿告知 🙂", "123456")


@pytest.mark.parametrize("key_in", ["body", "bearer"])
async def test_json_api_tells_what_the_handler_tells(key_in: str) -> None:
    async with live(json_api=True, json_api_key_in=key_in) as (there, sim):
        await there.buy(order())
        assert await there.balance() == naira(9_950_000_000)
        assert sim.requests["json_api"] == 1
        sim.fault("bad_key", 1)
        with pytest.raises(Refused):
            await there.balance()


async def test_twenty_first_rental_is_refused_and_takes_nothing() -> None:
    async with live({"open_max": 2}) as (there, sim):
        for _ in range(2):
            await there.buy(order())
        with pytest.raises(Refused) as caught:
            await there.buy(order())
        assert caught.value.is_fault
        assert sim.purchases == 2


@pytest.mark.parametrize("fault", ["database_error", "backend_error"])
async def test_its_own_failures_leave_a_purchase_in_doubt(fault: str) -> None:
    async with live() as (there, sim):
        sim.fault(fault, 1)
        await in_doubt(there, order())
        assert sim.purchases == (1 if fault == "database_error" else 0)


async def test_order_that_ran_out_with_an_sms_still_shows_it_and_counts_as_finished() -> None:
    async with live() as (there, sim):
        lease = await there.buy(order())
        sim.deliver(lease.reference, "Your code is 12345")
        sim.skip(301)
        assert (await there.read(watched(lease.reference))).messages
        await there.close(lease.reference, Outcome.FINISHED)


async def test_both_price_lists_tell_the_same_of_the_usa() -> None:
    for action in ("getPrices", "getPricesVerification"):
        async with live(price_action=action) as (there, _):
            assert listed(await there.offers(), "go", 187) == [(50_000_000, 1)]
