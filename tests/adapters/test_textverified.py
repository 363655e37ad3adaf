"""TextVerified against its simulator and scripted answers: tokens, purchases in two steps, links, prices, events."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters import load, secrets, textverified
from adapters._textverified_prices import parse_services
from adapters._textverified_push import read_push
from adapters._textverified_tokens import Grant, Tokens
from adapters._textverified_words import SERVICES
from adapters.textverified import TextVerified
from gateway.errors import (
    HasSms,
    InDoubt,
    NotReached,
    PushRefused,
    PushUnreadable,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import Lease, LeaseState, Outcome, Progress, Watched
from gateway.money import Money
from gateway.upstream import Pushed, PushRequest, PushTaken
from tests.adapters import _scripted
from tests.adapters._context import SECRET, Observed, Script, context, order, watched
from tests.harness import ROOT
from tests.simulators import textverified as simulator
from tests.simulators._serve import serve
from tests.simulators._textverified_webhooks import DEFAULT_WEBHOOK_SECRET

BASE = "https://www.textverified.com"
API = "/api/pub/v2"
USERNAME = "ops@example.com"
TOKEN = "aaa.bbb.ccc"
WEBHOOK_SECRET = "whsec_example"
FAST: dict[str, Any] = {"requests_per_second": 1000}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# --- scripted answers ---


def verification(**changes: Any) -> dict[str, Any]:
    return {
        "id": "lr_01",
        "number": "2025550100",
        "serviceName": "telegram",
        "state": "verificationPending",
        "totalCost": 0.75,
        "createdAt": "2026-11-01T10:00:00.1234567+00:00",
        "endsAt": "2026-11-01T10:10:00+00:00",
        "sms": {"method": "GET", "href": f"{BASE}{API}/sms?reservationId=lr_01"},
        "cancel": {"canCancel": True, "link": None},
        "report": {"canReport": False, "link": None},
        **changes,
    }


def message(**changes: Any) -> dict[str, Any]:
    return {
        "id": "sm_1",
        "from": "12345",
        "to": "2025550100",
        "createdAt": "2026-11-01T10:01:00+00:00",
        "smsContent": "Code 123456",
        "parsedCode": "123456",
        "encrypted": False,
        **changes,
    }


def page(*rows: Any, next_href: str | None = None) -> dict[str, Any]:
    link = {"method": "GET", "href": next_href} if next_href else None
    links = {"current": None, "next": link, "previous": None}
    return {"data": list(rows), "count": len(rows), "hasNext": link is not None, "hasPrevious": False, "links": links}


def link(href: str = f"{BASE}{API}/verifications/lr_01", status: int = 201, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"method": "GET", "href": href}, headers=headers)


def refusal(code: str | None) -> httpx.Response:
    return httpx.Response(400, json={"errorCode": code, "errorDescription": "2025550100"})


def grant(token: str = TOKEN, seconds: float = 899.0) -> httpx.Response:
    return httpx.Response(200, json={"token": token, "expiresIn": seconds, "expiresAt": "2026-11-01T10:15:00+00:00"})


def by_call(answers: dict[str, Any]) -> Script:
    """Answers by `METHOD /path`, sign-ins included; whatever else is asked for is not found."""
    given = {"POST /auth": grant(), "": httpx.Response(404), **answers}

    def call(request: httpx.Request) -> str:
        name = f"{request.method} {request.url.path.removeprefix(API)}"
        return name if name in given else ""

    return _scripted.scripted(given, call)


@asynccontextmanager
async def scripted(
    answers: dict[str, Any], *, clock: Clock | None = None, **options: Any
) -> AsyncIterator[tuple[TextVerified, Script]]:
    script = by_call(answers)
    own = {"username": USERNAME, "webhook_secret": WEBHOOK_SECRET}
    given = context(script, secrets=own, clock=clock or Clock())
    async with aclosing(textverified.build(given, textverified.Options(**{**FAST, **options}))) as made:
        yield made, script


def sent(script: Script, call: str) -> list[httpx.Request]:
    """Requests of one kind, as `METHOD /path`."""
    return [one for one in script.requests if f"{one.method} {one.url.path.removeprefix(API)}" == call]


def us(**changes: Any) -> Any:
    return order(**{"country": 187, "cost_max": 1_000_000, **changes})


BOUGHT = {"POST /verifications": link(), "GET /verifications/lr_01": verification()}


# --- the simulator ---


@asynccontextmanager
async def simulated(
    options: dict[str, Any] | None = None, *, clock: Callable[[], float] | None = None, **settings: Any
) -> AsyncIterator[tuple[TextVerified, Any]]:
    app = simulator.build(**{"sms_delay_seconds": None, "stock": 3, **settings})
    with serve(app) as address:
        account = {"username": simulator.DEFAULT_USERNAME, "webhook_secret": DEFAULT_WEBHOOK_SECRET}
        made = textverified.build(
            context(secret=simulator.DEFAULT_KEY, secrets=account, clock=clock or Clock()),
            textverified.Options(base_url=address, **{**FAST, **(options or {})}),
        )
        try:
            yield made, app.state.sim
        finally:
            await made.aclose()


# --- what it is ---


def test_account_name_is_needed_beside_the_key_and_a_webhook_secret_is_not() -> None:
    assert secrets(load("textverified")) == {"api_key": True, "username": True, "webhook_secret": False}


@pytest.mark.parametrize(
    "wrong", [{"carriers": ["sprint"]}, {"area_codes": ["20"]}, {"requests_per_second": 0}, {"unheard_of": 1}]
)
def test_mistakes_in_the_stanza_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        textverified.Options(**wrong)


def test_services_have_one_word_each_and_known_codes() -> None:
    catalog = tomllib.loads((ROOT / "config" / "catalog" / "services.toml").read_text(encoding="utf-8"))
    assert set(SERVICES) <= set(catalog["services"])
    assert len(set(SERVICES.values())) == len(SERVICES)


# --- tokens ---


async def test_sign_in_carries_key_and_account_name_and_later_calls_the_token_alone() -> None:
    async with scripted({"GET /account/me": {"currentBalance": 42.5}}) as (there, script):
        assert await there.balance() == Money(42_500_000, "USD")
    signing_in, asking = script.requests
    assert (signing_in.headers["x-api-key"], signing_in.headers["x-api-username"]) == (SECRET, USERNAME)
    assert (signing_in.method, signing_in.content) == ("POST", b"")
    assert asking.headers["authorization"] == f"Bearer {TOKEN}"
    assert "x-api-key" not in asking.headers


async def test_fifty_readers_of_an_old_token_sign_in_once() -> None:
    clock = Clock()
    async with simulated(clock=clock, token_life_seconds=2.0) as (there, sim):
        lease = await there.buy(us())
        assert sim.requests["auth"] == 1
        clock.now += 1.5
        read = await asyncio.gather(*(there.read(Watched(lease.reference, 1)) for _ in range(50)))
        assert {progress.state for progress in read} == {LeaseState.OPEN}
        assert sim.requests["auth"] == 2
        assert sim.requests["details"] == 51


async def test_fifty_readers_of_a_refused_token_sign_in_once() -> None:
    async with simulated(token_life_seconds=2.0) as (there, sim):
        lease = await there.buy(us())
        sim.skip(2.5)
        read = await asyncio.gather(*(there.read(Watched(lease.reference, 1)) for _ in range(50)))
        assert {progress.state for progress in read} == {LeaseState.OPEN}
        assert sim.requests["auth"] == 2


@pytest.mark.parametrize(("life", "good_for"), [(899.0, 854.0), (10.0, 5.0)])
async def test_token_is_renewed_before_it_ends(life: float, good_for: float) -> None:
    clock = Clock()
    answers = {"POST /auth": grant(seconds=life), "GET /account/me": {"currentBalance": 1}}
    async with scripted(answers, clock=clock) as (there, script):
        await there.balance()
        clock.now += good_for - 0.1
        await there.balance()
        assert len(sent(script, "POST /auth")) == 1
        clock.now += 0.2
        await there.balance()
        assert len(sent(script, "POST /auth")) == 2


async def test_token_that_still_holds_serves_while_the_next_can_not_be_had() -> None:
    clock = Clock()
    answers = {"POST /auth": (grant(), httpx.Response(503)), "GET /account/me": {"currentBalance": 1}}
    async with scripted(answers, clock=clock) as (there, _):
        await there.balance()
        clock.now += 880
        await there.balance()
        clock.now += 20
        with pytest.raises(Unwell):
            await there.balance()


async def test_refused_sign_in_is_not_repeated_at_once() -> None:
    clock = Clock()
    answers = {"POST /auth": (httpx.Response(401), grant()), "GET /account/me": {"currentBalance": 1}}
    async with scripted(answers, clock=clock) as (there, script):
        for _ in range(3):
            with pytest.raises(Refused):
                await there.balance()
        assert len(script.requests) == 1
        clock.now += 6
        assert await there.balance() == Money(1_000_000, "USD")


async def test_caller_that_gives_up_leaves_the_sign_in_to_the_others() -> None:
    asked, answered = 0, asyncio.Event()

    async def sign_in() -> Grant:
        nonlocal asked
        asked += 1
        await answered.wait()
        return Grant("token", 60.0)

    tokens = Tokens(sign_in, Clock())
    first, second = (asyncio.create_task(tokens.current()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    answered.set()
    assert await second == "token"
    assert asked == 1


@pytest.mark.parametrize("status", [401, 429])
async def test_failed_sign_in_is_a_fault_of_the_account_to_buy_and_balance_and_unwell_to_the_rest(status: int) -> None:
    for verb in ("buy", "balance", "read", "close", "find", "offers", "read_many"):
        async with scripted({"POST /auth": httpx.Response(status)}) as (there, script):
            with pytest.raises(Refused if verb in ("buy", "balance") else Unwell) as caught:
                await call(there, verb)
            assert not isinstance(caught.value, Refused) or caught.value.is_fault
            assert len(script.requests) == 1


async def call(there: TextVerified, verb: str) -> Any:
    match verb:
        case "buy":
            return await there.buy(us())
        case "read":
            return await there.read(watched("lr_01"))
        case "read_many":
            return await there.read_many([watched("lr_01")])
        case "close":
            return await there.close("lr_01", Outcome.CANCELLED)
        case "find":
            return await there.find(0.0)
    return await getattr(there, verb)()


@pytest.mark.parametrize(
    "given", [httpx.Response(500), httpx.Response(200, text="<html>"), httpx.Response(200, json={"token": ""})]
)
async def test_purchase_without_a_token_asked_for_nothing(given: httpx.Response) -> None:
    async with scripted({**BOUGHT, "POST /auth": given}) as (there, script):
        with pytest.raises(NotReached):
            await there.buy(us())
    assert sent(script, "POST /verifications") == []


async def test_purchase_refused_for_its_token_is_asked_for_once_more() -> None:
    answers = {**BOUGHT, "POST /auth": (grant("old"), grant("new"))}
    answers["POST /verifications"] = (httpx.Response(401), link())
    async with scripted(answers) as (there, script):
        assert (await there.buy(us())).reference == "lr_01"
    bearers = [one.headers["authorization"] for one in sent(script, "POST /verifications")]
    assert bearers == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize(
    ("second", "expected"),
    [(httpx.Response(401), Refused), (httpx.ReadTimeout("lost"), InDoubt), (httpx.Response(500), InDoubt)],
)
async def test_purchase_is_asked_for_twice_at_most(second: Any, expected: type[UpstreamError]) -> None:
    async with scripted({**BOUGHT, "POST /verifications": (httpx.Response(401), second)}) as (there, script):
        with pytest.raises(expected):
            await there.buy(us())
    assert len(sent(script, "POST /verifications")) == 2


@pytest.mark.parametrize(
    ("fault", "expected"), [("auth.error", NotReached), ("auth_limit", Refused), ("bad_key", Refused)]
)
async def test_sign_in_that_fails_there_buys_nothing(fault: str, expected: type[UpstreamError]) -> None:
    async with simulated() as (there, sim):
        sim.fault(fault, 1)
        with pytest.raises(expected):
            await there.buy(us())
        assert (sim.requests["create"], sim.purchases) == (0, 0)


async def test_token_lost_there_costs_no_second_number() -> None:
    async with simulated() as (there, sim):
        await there.balance()
        sim.forget_tokens()
        await there.buy(us())
        assert (sim.requests["create"], sim.purchases, sim.requests["auth"]) == (2, 1, 2)


# --- buying ---


async def test_purchase_names_service_and_highest_price_and_nothing_else() -> None:
    async with scripted(BOUGHT) as (there, script):
        lease = await there.buy(us(cost_max=1_250_000))
    assert json.loads(sent(script, "POST /verifications")[0].content) == {
        "serviceName": "telegram",
        "capability": "sms",
        "areaCodeSelectOption": None,
        "carrierSelectOption": None,
        "serviceNotListedName": None,
        "maxPrice": 1.25,
    }
    assert lease == Lease("lr_01", "12025550100", Money(750_000, "USD"), expires_at=1793527800.0)


async def test_carrier_area_codes_and_unlisted_services_are_asked_for() -> None:
    async with scripted(BOUGHT, area_codes=["202", "646"], not_listed_name="berries") as (there, script):
        await there.buy(us(service="ot", operator="vz"))
    body = json.loads(sent(script, "POST /verifications")[0].content)
    assert body["areaCodeSelectOption"] == ["202", "646"]
    assert body["carrierSelectOption"] == ["vz"]
    assert (body["serviceName"], body["serviceNotListedName"]) == ("servicenotlisted", "berries")


@pytest.mark.parametrize("changes", [{"service": "zzz"}, {"country": 16}, {"operator": "sprint"}])
async def test_what_it_does_not_sell_is_refused_without_a_request(changes: dict[str, Any]) -> None:
    async with scripted(BOUGHT) as (there, script):
        with pytest.raises(Refused) as caught:
            await there.buy(order(**{"country": 187, **changes}))
    assert not caught.value.is_fault
    assert script.requests == []


@pytest.mark.parametrize(
    ("given", "expected", "is_fault"),
    [
        (refusal("Unavailable"), SoldOut, None),
        (refusal("MaxPriceExceeded"), SoldOut, None),
        (refusal("InsufficientBalance"), Refused, True),
        (refusal("TooManyUnfinishedVerifications"), Refused, True),
        (refusal("SomethingNew"), Refused, True),
        (refusal(None), Refused, True),
        (refusal("2025550100"), Refused, True),
        (httpx.Response(403, text="<html>"), Refused, True),
        (httpx.Response(429), Refused, True),
        (httpx.Response(302, headers={"location": f"{BASE}/login"}), Refused, True),
        (httpx.ConnectError("refused"), NotReached, None),
    ],
)
async def test_refused_purchases_took_nothing(given: Any, expected: type[UpstreamError], is_fault: bool | None) -> None:
    async with scripted({"POST /verifications": given}) as (there, script):
        message = await _scripted.refused(there, us(), expected, is_fault)
    assert len(sent(script, "POST /verifications")) == 1
    assert "2025550100" not in message


async def test_words_for_sold_out_are_a_setting() -> None:
    async with scripted({"POST /verifications": refusal("Exhausted")}, sold_out_codes=["exhausted"]) as (there, _):
        with pytest.raises(SoldOut):
            await there.buy(us())


@pytest.mark.parametrize(
    "given",
    [
        httpx.Response(500),
        httpx.Response(408),
        httpx.Response(400, text="<html>"),
        httpx.Response(400, json=["Unavailable"]),
        httpx.Response(200, text="<html>"),
        httpx.Response(201, text='{"method":"GET","hr'),
        httpx.Response(201, json={}),
        link(f"{BASE}{API}/verifications/"),
        link(f"{BASE}{API}/sales/sa_01"),
        link("{BASE}/verifications/a b"),
        httpx.ReadTimeout("lost"),
        httpx.RemoteProtocolError("lost"),
    ],
)
async def test_purchase_whose_answer_makes_no_sense_is_in_doubt(given: Any) -> None:
    async with scripted({**BOUGHT, "POST /verifications": given}) as (there, script):
        with pytest.raises(InDoubt):
            await there.buy(us())
    assert len(sent(script, "POST /verifications")) == 1


async def test_location_says_what_was_bought_where_the_body_does_not() -> None:
    given = httpx.Response(201, headers={"location": f"{API}/verifications/lr_01"})
    async with scripted({**BOUGHT, "POST /verifications": given}) as (there, _):
        assert (await there.buy(us())).reference == "lr_01"


async def test_token_never_follows_a_link_to_another_host() -> None:
    elsewhere = "https://www.textverified.com.example.org"
    answers = {
        **BOUGHT,
        "POST /verifications": link(f"{elsewhere}{API}/verifications/lr_01"),
        "GET /verifications/lr_02": verification(
            id="lr_02", state="verificationCompleted", sms={"href": f"{elsewhere}/sms"}
        ),
        "GET /verifications": page(verification(), next_href=f"{elsewhere}{API}/verifications?cursor=x"),
    }
    async with scripted(answers) as (there, script):
        assert (await there.buy(us())).reference == "lr_01"
        for reading in (there.read(watched("lr_02")), there.find(0.0)):
            with pytest.raises(Unwell):
                await reading
    assert {one.url.host for one in script.requests} == {"www.textverified.com"}


async def test_details_of_a_purchase_are_asked_for_until_they_come_and_the_purchase_is_not() -> None:
    async with simulated() as (there, sim):
        sim.fault("status.error", 2)
        lease = await there.buy(us())
        assert (sim.requests["create"], sim.requests["details"]) == (1, 3)
        assert sim.order_views()[0]["phone"] == f"+{lease.number}"


@pytest.mark.parametrize(
    "fault", ["status.error", "status.drop", "status.truncated", "status.hang", "status.rate_limit"]
)
async def test_purchase_whose_number_never_shows_is_in_doubt_and_found(fault: str) -> None:
    async with simulated() as (there, sim):
        sim.fault(fault)
        since = started = time.time()
        with pytest.raises(InDoubt):
            await there.buy(us(timeout_seconds=0.6))
        assert time.time() - started < 3
        assert sim.purchases == 1
        (found,) = await there.find(since - 1)
        assert (found.lease.reference, found.service, found.country) == (sim.order_views()[0]["id"], "tg", 187)


# --- reading ---


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("verificationPending", LeaseState.OPEN),
        ("verificationCompleted", LeaseState.OPEN),
        ("VerificationCanceled", LeaseState.CANCELLED),
        ("verificationTimedOut", LeaseState.CANCELLED),
        ("verificationReported", LeaseState.CANCELLED),
        ("verificationRefunded", LeaseState.CANCELLED),
        ("verificationReused", LeaseState.FINISHED),
        ("verificationReactivated", LeaseState.FINISHED),
    ],
)
async def test_states_are_told_apart(state: str, expected: LeaseState) -> None:
    answers = {"GET /verifications/lr_01": verification(state=state), "GET /sms": page()}
    async with scripted(answers) as (there, _):
        assert (await there.read(watched("lr_01"))).state is expected


@pytest.mark.parametrize("state", ["verificationPaused", "renewableActive", ""])
async def test_unknown_state_is_no_state(state: str) -> None:
    async with scripted({"GET /verifications/lr_01": verification(state=state)}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched("lr_01"))
        for outcome in Outcome:
            with pytest.raises(Unwell):
                await there.close("lr_01", outcome)


async def test_message_is_read_with_its_id_as_identity() -> None:
    answers = {"GET /verifications/lr_01": verification(state="verificationCompleted"), "GET /sms": page(message())}
    async with scripted(answers) as (there, script):
        (sms,) = (await there.read(watched("lr_01"))).messages
    assert (sms.code, sms.text, sms.sender, sms.identity) == ("123456", "Code 123456", "12345", "sm_1")
    assert sms.received_at == 1793527260.0
    assert sent(script, "GET /sms")[0].url.query == b"reservationId=lr_01"


async def test_message_that_says_nothing_yet_is_not_delivered() -> None:
    rows = page(message(id="sm_2", smsContent=None, parsedCode=None), message(parsedCode=None))
    answers = {"GET /verifications/lr_01": verification(state="verificationCompleted"), "GET /sms": rows}
    async with scripted(answers) as (there, _):
        (sms,) = (await there.read(watched("lr_01"))).messages
    assert (sms.identity, sms.code) == ("sm_1", "")


async def test_message_belongs_to_the_last_purchase_of_its_number_before_it() -> None:
    bought = [
        verification(id="lr_3", createdAt="2026-11-01T12:00:00Z"),
        verification(id="lr_2", createdAt="2026-11-01T11:00:00Z", state="verificationCompleted"),
        verification(id="lr_1", createdAt="2026-11-01T10:00:00Z", state="verificationCompleted"),
    ]
    came = [
        message(id="sm_2", createdAt="2026-11-01T11:30:00Z", to="+12025550100"),
        message(id="sm_1", createdAt="2026-11-01T10:30:00Z"),
        message(id="sm_0", createdAt="2026-11-01T09:30:00Z"),
    ]
    async with scripted({"GET /verifications": page(*bought), "GET /sms": page(*came)}) as (there, _):
        read = await there.read_many([watched("lr_1"), watched("lr_2"), watched("lr_3")])
    assert {name: [sms.identity for sms in one.messages] for name, one in read.items()} == {
        "lr_1": ["sm_1"],
        "lr_2": ["sm_2"],
        "lr_3": [],
    }


async def test_lease_that_the_lists_leave_open_is_left_to_be_read_singly() -> None:
    bought = page(
        verification(id="lr_1", state="verificationCompleted"),
        verification(id="lr_2", state="verificationPaused"),
        verification(id="lr_3", number=None),
        verification(id="lr_4", number="2025550101"),
    )
    async with scripted({"GET /verifications": bought, "GET /sms": page()}) as (there, _):
        read = await there.read_many([watched(f"lr_{place}") for place in range(1, 6)])
    assert read == {"lr_4": Progress(LeaseState.OPEN)}


async def test_pages_are_followed_as_they_are_named_and_no_further_than_needed() -> None:
    second = f"{BASE}{API}/verifications?cursor=a%2Bb%3D&x=1"
    answers = {
        "GET /verifications": (
            page(verification(id="lr_3"), verification(id="lr_2"), next_href=second),
            page(verification(id="lr_1"), verification(id="lr_0"), next_href=f"{BASE}{API}/verifications?cursor=c"),
        ),
        "GET /sms": page(next_href=f"{API}/sms?cursor=more"),
    }
    async with scripted(answers) as (there, script):
        assert set(await there.read_many([watched("lr_1"), watched("lr_3")])) == {"lr_1", "lr_3"}
    assert [str(one.url) for one in sent(script, "GET /verifications")] == [f"{BASE}{API}/verifications", second]
    assert len(sent(script, "GET /sms")) == 1


async def test_list_is_left_where_it_is_older_than_what_is_watched() -> None:
    opened_at = 1793527200.0
    rows = (
        page(verification(id="lr_9"), verification(id="lr_8"), next_href=f"{API}/verifications?cursor=a"),
        page(
            verification(id="lr_7", createdAt="2026-11-01T09:00:00Z"),
            verification(id="lr_6", createdAt="2026-11-01T08:00:00Z"),
            next_href=f"{API}/verifications?cursor=b",
        ),
    )
    async with scripted({"GET /verifications": rows, "GET /sms": page()}) as (there, script):
        await there.read_many([Watched("lr_gone", 1, opened_at=opened_at), Watched("lr_9", 1, opened_at=opened_at)])
    assert len(sent(script, "GET /verifications")) == 2


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_order_of_the_lists_does_not_matter(oldest_first: bool) -> None:
    async with simulated(page_size=2, stock=50, oldest_first=oldest_first) as (there, sim):
        leases = [await there.buy(us()) for _ in range(7)]
        for lease in leases[::2]:
            sim.deliver(lease.reference, f"Your code is {lease.number[-4:]}1")
        since = time.time()
        read = await there.read_many([Watched(lease.reference, 1, opened_at=since) for lease in leases])
        assert len(read) == 7
        for lease in leases:
            assert read[lease.reference] == await there.read(Watched(lease.reference, 1))
        assert len(await there.find(since - 60)) == 7


async def test_search_that_does_not_end_finds_nothing_rather_than_half() -> None:
    endless = page(verification(), next_href=f"{API}/verifications?cursor=again")
    async with scripted({"GET /verifications": endless}) as (there, script):
        with pytest.raises(Unwell):
            await there.find(0.0)
    assert len(sent(script, "GET /verifications")) == textverified.FIND_PAGES_MAX


async def test_search_shows_services_without_a_code_and_leaves_out_what_has_ended() -> None:
    rows = page(
        verification(id="lr_2", serviceName="plentyofberries"), verification(id="lr_1", state="verificationTimedOut")
    )
    answers = {"GET /verifications": rows, "GET /reservations/rental/nonrenewable": page()}
    async with scripted(answers) as (there, _):
        (found,) = await there.find(0.0)
    assert (found.lease.reference, found.service, found.lease.number) == ("lr_2", "plentyofberries", "12025550100")


# --- closing ---


async def test_what_can_no_longer_be_cancelled_is_reported() -> None:
    async with simulated(cancel_seconds=60.0) as (there, sim):
        lease = await there.buy(us())
        sim.skip(61)
        await there.close(lease.reference, Outcome.CANCELLED)
        assert (sim.requests["cancel"], sim.requests["report"]) == (0, 1)
        await there.close(lease.reference, Outcome.CANCELLED)
        assert sim.requests["report"] == 1
        assert await there.balance() == Money(1_000_000_000, "USD")


async def test_time_out_that_was_not_refunded_is_reported() -> None:
    async with simulated(refunds_on_timeout=False) as (there, sim):
        lease = await there.buy(us())
        sim.skip(601)
        await there.close(lease.reference, Outcome.CANCELLED)
        assert await there.balance() == Money(1_000_000_000, "USD")
        assert (await there.read(Watched(lease.reference, 1))).state is LeaseState.CANCELLED


async def test_completed_lease_without_a_message_is_reported() -> None:
    found = verification(state="verificationCompleted", report={"canReport": True})
    answers = {
        "GET /verifications/lr_01": found,
        "GET /sms": page(),
        "POST /verifications/lr_01/report": httpx.Response(200),
    }
    async with scripted(answers) as (there, script):
        await there.close("lr_01", Outcome.CANCELLED)
    assert len(sent(script, "POST /verifications/lr_01/report")) == 1
    answers["GET /sms"] = page(message())
    async with scripted(answers) as (there, script):
        with pytest.raises(HasSms):
            await there.close("lr_01", Outcome.CANCELLED)
    assert sent(script, "POST /verifications/lr_01/report") == []


async def test_refused_cancel_of_a_waiting_lease_may_be_tried_later() -> None:
    async with simulated() as (there, sim):
        lease = await there.buy(us())
        sim.fault("refuse_cancel", 1)
        with pytest.raises(TooEarly):
            await there.close(lease.reference, Outcome.CANCELLED)
        await there.close(lease.reference, Outcome.CANCELLED)


async def test_cancel_that_was_done_but_not_answered_is_done_when_repeated() -> None:
    async with simulated() as (there, sim):
        lease = await there.buy(us())
        sim.fault("close.drop", 1)
        with pytest.raises(Unwell):
            await there.close(lease.reference, Outcome.CANCELLED)
        await there.close(lease.reference, Outcome.CANCELLED)
        assert sim.requests["cancel"] == 1


async def test_finish_needs_no_call_after_a_message_and_cancels_without_one() -> None:
    async with simulated() as (there, sim):
        received, waiting, late = [await there.buy(us()) for _ in range(3)]
        sim.deliver(received.reference, "Your code is 12345")
        await there.close(received.reference, Outcome.FINISHED)
        assert sim.requests["cancel"] == 0
        await there.close(waiting.reference, Outcome.FINISHED)
        assert sim.order_views()[1]["state"] == "canceled"
        sim.fault("sms_on_cancel", 1)
        await there.close(late.reference, Outcome.FINISHED)
        assert sim.order_views()[2]["state"] == "completed"


@pytest.mark.parametrize("status", [404, 500, 429])
async def test_odd_answers_to_a_cancel_are_no_success(status: int) -> None:
    answers = {**BOUGHT, "POST /verifications/lr_01/cancel": httpx.Response(status)}
    async with scripted(answers) as (there, _):
        with pytest.raises(UnknownLease if status == 404 else Unwell):
            await there.close("lr_01", Outcome.CANCELLED)


# --- prices ---


async def test_offers_come_from_one_price_and_one_stock_for_each_service() -> None:
    async with simulated({"country": 12}, stock=12_000) as (there, sim):
        table = await there.offers()
        assert [(one.cost, one.count, one.operator) for one in table.at("tg", 12)] == [
            (Money(750_000, "USD"), 9000, "")
        ]
        assert there.unmapped == {"service plentyofberries": 1}
        assert len(table) == len(sim.shelves) - 1
        assert sim.requests["pricing"] == sim.requests["inventory"] == len(table)


async def test_carriers_are_operators_at_the_price_of_a_choice() -> None:
    async with simulated({"carriers": ["vz", "att"], "area_codes": ["202"]}) as (there, _):
        offers = (await there.offers()).at("tg", 187)
    assert [(str(one.cost.micros), one.operator, one.count) for one in offers] == [
        ("1000000", "", 3),
        ("1100000", "vz", 1),
        ("1100000", "att", 1),
    ]


async def test_carrier_is_bought_at_the_price_that_was_offered() -> None:
    async with simulated({"carriers": ["vz"]}) as (there, _):
        (offer,) = [one for one in (await there.offers()).at("tg", 187) if one.operator == "vz"]
        assert (await there.buy(us(operator="vz", cost_max=offer.cost.micros))).cost == offer.cost


async def test_what_was_told_is_not_asked_for_again_until_it_is_old() -> None:
    clock = Clock()
    async with simulated(clock=clock) as (there, sim):
        first = await there.offers()
        asked = dict(sim.requests)
        assert len(await there.offers()) == len(first)
        assert dict(sim.requests) == asked
        clock.now += 601
        await there.offers()
        assert sim.requests["inventory"] == 2 * asked["inventory"]
        assert sim.requests["pricing"] == asked["pricing"]
        clock.now += 6 * 3600
        await there.offers()
        assert sim.requests["pricing"] == 2 * asked["pricing"]
        assert sim.requests["services"] == 2


async def test_what_was_learned_together_does_not_grow_old_together() -> None:
    clock = Clock()
    async with simulated(clock=clock) as (there, sim):
        await there.offers()
        asked = sim.requests["inventory"]
        clock.now += 530
        await there.offers()
        assert asked < sim.requests["inventory"] < 2 * asked


async def test_round_that_runs_out_of_time_gives_what_is_known_and_goes_on_later() -> None:
    async with simulated({"requests_per_second": 40, "round_seconds": 0.25}) as (there, sim):
        first = await there.offers()
        assert 0 < len(first) < len(sim.shelves) - 1
        for _ in range(4):
            last = await there.offers()
        assert len(last) == len(sim.shelves) - 1
        assert sim.requests["pricing"] == len(last)


async def test_another_process_goes_on_where_the_first_one_was() -> None:
    """Or a list that took an hour to learn would be short again whenever its reader changes."""
    clock = Clock()
    async with simulated(clock=clock) as (reader, _), simulated(clock=clock) as (there, sim):
        table = await reader.offers()
        there.learn(json.loads(json.dumps(reader.knowledge())))
        assert (await there.offers()).columns() == table.columns()
        assert there.unmapped == reader.unmapped
        assert not sim.requests["services"] + sim.requests["inventory"] + sim.requests["pricing"]
        clock.now += 601
        await there.offers()
        assert sim.requests["inventory"] == len(sim.shelves) - 1
        assert not sim.requests["pricing"]


async def test_requests_keep_their_pace() -> None:
    async with simulated({"requests_per_second": 50}) as (there, sim):
        started = time.monotonic()
        await there.offers()
        asked = sim.requests["pricing"] + sim.requests["inventory"]
        assert time.monotonic() - started >= (asked - 1) / 50 * 0.9


async def test_older_version_without_stock_sells_one_of_each() -> None:
    async with simulated(has_inventory=False) as (there, _):
        assert [one.count for one in (await there.offers()).at("tg", 187)] == [1]


async def test_service_that_can_not_be_priced_hides_no_other() -> None:
    answers = {
        "GET /services": [{"serviceName": name, "capability": "sms"} for name in ("telegram", "whatsapp", "viber")],
        "POST /inventory/verifications": {"availableQuantity": 5},
        "POST /pricing/verifications": (refusal("Unsupported"), httpx.Response(500), {"price": 0.5}),
    }
    async with scripted(answers) as (there, _):
        table = await there.offers()
    assert len(table) == 1


async def test_prices_of_what_is_not_in_stock_are_not_asked_for() -> None:
    answers = {
        "GET /services": [{"serviceName": "telegram", "capability": "sms"}],
        "POST /inventory/verifications": {"availableQuantity": 0},
    }
    async with scripted(answers) as (there, script):
        assert len(await there.offers()) == 0
    assert sent(script, "POST /pricing/verifications") == []


async def test_upstream_that_prices_nothing_is_unwell_and_left_alone_soon() -> None:
    names = ("telegram", "whatsapp", "viber", "discord", "gmail", "yahoo", "tinder", "uber", "venmo", "nike", "lime")
    answers = {
        "GET /services": [{"serviceName": name, "capability": "sms"} for name in names],
        "POST /inventory/verifications": httpx.Response(429),
    }
    async with scripted(answers) as (there, script):
        with pytest.raises(Unwell):
            await there.offers()
    assert len(sent(script, "POST /inventory/verifications")) < len(names)


def test_services_by_call_and_special_names_are_no_gaps_in_our_table() -> None:
    body = json.dumps(
        [
            {"serviceName": "telegram", "capability": "sms", "description": None},
            {"serviceName": "tango", "capability": "voice"},
            {"serviceName": "servicenotlistedvoice", "capability": "smsAndVoiceCombo"},
            {"serviceName": "berries", "capability": "smsAndVoiceCombo"},
        ]
    ).encode()
    assert parse_services(body, frozenset({"telegram", "tango"})) == (("telegram",), {"service berries": 1})


@pytest.mark.parametrize("body", [b"", b"null", b"3", b'{"a":1}', b"[3]", b"<html>"])
def test_unreadable_services_are_told_as_such(body: bytes) -> None:
    with pytest.raises(Unwell):
        parse_services(body, frozenset())


# --- being told ---


def signed(body: bytes, secret: str = WEBHOOK_SECRET) -> PushRequest:
    value = base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha512).digest()).decode()
    return PushRequest("POST", "https://gate.example.com/push", {"x-webhook-signature": f"HMAC-SHA512={value}"}, body)


def event(name: str, data: Any, **changes: Any) -> bytes:
    envelope = {"id": "ev_1", "attempt": 1, "occurredAt": "2026-11-01T10:01:00+00:00", "event": name, "data": data}
    return json.dumps({**envelope, **changes}).encode()


async def taken(request: PushRequest) -> PushTaken:
    async with scripted({}) as (there, script):
        answer = await there.take_push(request)
    assert script.requests == []
    return answer


async def test_signature_is_that_of_the_documented_example() -> None:
    body = b'{"attempt":1,"event":"v2.sms.received"}'
    value = "9V20x84e3ILzytCBAFohctJ18kzbIofURqfH1bWwysj+4tyWG+PpcfTwV9vcH9QRa4oJNqP/81cT7ZSrXC+Bqg=="
    headers = {"x-webhook-signature": f"HMAC-SHA512={value}"}
    with pytest.raises(PushUnreadable):  # genuine, but without the data of the event
        await taken(PushRequest("POST", "https://gate.example.com/push", headers, body))
    with pytest.raises(PushRefused):
        await taken(PushRequest("POST", "https://gate.example.com/push", headers, body + b" "))


@pytest.mark.parametrize(
    "body",
    [
        event("v2.sms.received", {"reservationId": "lr_01", "smsContent": "Code 123456", "parsedCode": "123456"}),
        event("v2.sms.received", {"reservationId": "lr_01"}, attempt=4, idempotencyKey="idem_1"),
        b'{"Id":"ev_1","Attempt":2,"Event":"v2.sms.received","Data":{"ReservationId":"lr_01","SmsContent":"Code"}}',
    ],
)
async def test_received_message_hints_at_its_lease_in_either_casing(body: bytes) -> None:
    assert await taken(signed(body)) == PushTaken((Pushed("lr_01"), Pushed("rent:lr_01")))


@pytest.mark.parametrize(
    ("body", "pushed"),
    [
        (event("v2.reservation.created", {"id": "lr_01", "type": "verification"}), (Pushed(""),)),
        (event("v2.reservation.created", {"id": "lr_02", "type": "rental"}), (Pushed(""),)),
        (event("v2.reservation.created", {"id": "lr_03", "type": "renewable"}), ()),
        (event("v2.sms.received", {"reservationId": None}), ()),
        (event("v2.test", None), ()),
        (event("v2.rental.billingcycle.renewed", {"billingCycleId": "bc_1"}), ()),
        (event("v3.something.new", {"a": 1}), ()),
    ],
)
async def test_other_events_tell_no_more_than_they_know(body: bytes, pushed: tuple[Pushed, ...]) -> None:
    assert await taken(signed(body)) == PushTaken(pushed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b"{}",
        b'{"event":3}',
        b'{"event":"v2.sms.received","data":"x"}',
        event("v2.sms.received", {"reservationId": "../x y"}),
        event("v2.reservation.created", {"id": "lr_01"}),
    ],
)
async def test_garbage_with_a_good_signature_is_unreadable(body: bytes) -> None:
    with pytest.raises(PushUnreadable):
        await taken(signed(body))


@pytest.mark.parametrize(
    "header", ["", "HMAC-SHA512=", "HMAC-SHA512=!!", "HMAC-SHA512=YWJj", "YWJj", "HMAC-SHA512=ümläut"]
)
async def test_push_without_a_good_signature_is_refused(header: str) -> None:
    body = event("v2.test", None)
    with pytest.raises(PushRefused):
        await taken(PushRequest("POST", "https://gate.example.com/push", {"x-webhook-signature": header}, body))
    with pytest.raises(PushRefused):
        await taken(signed(body, "whsec_other"))
    with pytest.raises(PushRefused):
        await taken(PushRequest("POST", "https://gate.example.com/push", {}, body, has_secret=True))


async def test_signature_of_another_kind_is_refused() -> None:
    request = signed(event("v2.test", None))
    value = request.headers["x-webhook-signature"].replace("SHA512", "SHA256")
    with pytest.raises(PushRefused):
        await taken(PushRequest("POST", request.url, {"x-webhook-signature": value}, request.body))


async def test_nothing_is_taken_without_a_secret() -> None:
    there = textverified.build(context(by_call({})), textverified.Options())
    with pytest.raises(PushRefused):
        await there.take_push(signed(event("v2.test", None), ""))


@pytest.mark.parametrize("casing", ["camel", "pascal"])
async def test_event_and_reading_together_tell_a_message_once(casing: str) -> None:
    came: asyncio.Queue[PushRequest] = asyncio.Queue()
    statuses = [503, 503]
    loop = asyncio.get_running_loop()

    async def take(request: Request) -> Response:
        push = PushRequest("POST", str(request.url), dict(request.headers), await request.body())
        loop.call_soon_threadsafe(came.put_nowait, push)
        return Response(status_code=statuses.pop() if statuses else 200)

    with serve(Starlette(routes=[Route("/hook", take, methods=["POST"])])) as hook:
        settings: dict[str, Any] = {"webhook_url": f"{hook}/hook", "webhook_retry_seconds": 0.02}
        async with simulated(**settings, webhook_casing=casing) as (there, sim):
            lease = await there.buy(us())
            bought = [await came.get() for _ in range(3)]
            sim.deliver(lease.reference, "Your code is 12345")
            told = [await there.take_push(request) for request in (*bought, await came.get())]
            pushed = [one for taken in told for one in taken.pushed]
            assert pushed == [Pushed("")] * 3 + [Pushed(lease.reference), Pushed(f"rent:{lease.reference}")]
            (sms,) = (await there.read(Watched(lease.reference, 1))).messages
            assert sms.code == "12345"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["event", "Data", "data", "reservationId", "type", "id", "state", "sms", "number", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@hypothesis.given(data=_json)
@hypothesis.settings(max_examples=100, deadline=None)
def test_no_push_breaks_the_reader(data: Any) -> None:
    with suppress(PushUnreadable):
        read_push(json.dumps(data).encode())


@hypothesis.given(data=_json)
@hypothesis.settings(max_examples=100, deadline=None)
def test_no_answer_breaks_a_verb(data: Any) -> None:
    async def every_verb() -> None:
        answers = dict.fromkeys(("GET /verifications", "GET /sms", "GET /services", "GET /account/me"), data)
        answers |= {"GET /verifications/lr_01": data, "POST /verifications": data, "POST /auth": grant()}
        async with scripted(answers) as (there, _):
            for verb in ("buy", "balance", "read", "close", "find", "offers", "read_many"):
                with suppress(UpstreamError):
                    await call(there, verb)

    asyncio.run(every_verb())


async def test_every_request_is_reported_with_its_verb() -> None:
    observed = Observed()
    there = textverified.build(context(by_call(BOUGHT), observe=observed), textverified.Options(**FAST))
    await there.buy(us())
    await there.aclose()
    assert observed.calls == [("auth", "ok"), ("buy", "ok"), ("read", "ok")]
