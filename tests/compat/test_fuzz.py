"""Whatever is thrown at the endpoint: HTTP 200, a known word or a proper success, no traceback, no money lost."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from compat import DIALECTS
from compat._lists import Lists
from compat._unserved import UNSERVED
from tests.harness import PATH, config_directory, environment
from tests.wire import StillHouse, still_house

GATEWAY = "[limits]\nchanges_per_minute = 1000000\npolls_per_minute = 1000000\nopen_activations = 1000000\n"
UPSTREAMS = '[sandbox]\nadapter = "sandbox"\nearly_cancel = "deny"\nslow_seconds = 0\n'
SETTINGS = settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

BODIES = [b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"text/plain"]

PROPER = re.compile(
    r"ACCESS_BALANCE:\d+\.\d{2,6}|ACCESS_NUMBER:\d+:\d+|ADDITIONAL:\d+:\d+|WRONG_SECURITY|REPEAT_ADDITIONAL_SERVICE|ACCESS_READY|ACCESS_RETRY_GET|ACCESS_ACTIVATION|ACCESS_CANCEL"
    r"|STATUS_WAIT_CODE|STATUS_OK:[^:\s]+|STATUS_WAIT_RETRY:[^:\s]+|STATUS_CANCEL|FULL_SMS:.+"
    r"|ACCESS_WEBHOOK_SET|ACCESS_WEBHOOK:https://.+|NO_WEBHOOK_SET"
    r"|ACCESS_SMS:.+|ACCESS_DONE|WAITING|WRONG_DATE|UNPROCESSABLE_ENTITY:(service|country):INVALID"
    r"|NO_ACTION|NO_KEY|NO_PROVIDERS|BAD_(ACTIVATION_TYPE|MAX_PRICE|PROVIDER_IDS|FIXED_PRICE|CURRENCY|ID)"
    r"|CURRENCY_CHANGE_UNAVAILABLE|NUMBER_NOT_AVAILABLE|STATUS_OK:.+|ACCESS_NUMBER:\d+:\+\d+"
    r"|WRONG_MAX_PRICE:\d+\.\d{2,4}|BANNED:'\d{4}-\d\d-\d\d \d\d-\d\d-\d\d'",
    re.DOTALL,
)
_MOVES_MONEY = re.compile(
    r'ACCESS_NUMBER:|ADDITIONAL:|ACCESS_CANCEL|\{"activationId"|\[\{"phone"|\{"status":"success","phone"'
    r'|\{"status":"success"\}|ACCESS_ACTIVATION$|$'
)
_SPENDS = re.compile(r'\{"status":"success","phone"|\{"status":"success"\}|\{"activationId"|ACCESS_ACTIVATION$|$')
"""More time for a rental is paid for at once, and one that is ended before its first message is. 204 says nothing."""

ACTIONS = [
    "buyPartnerProduct", "cancelActivation", "checkExtraActivation", "continueRentInfo", "continueRentNumber",
    "finishActivation", "getActiveActivations", "getAdditionalService", "getAllSms", "getBalance",
    "getBalanceAndCashBack", "getContinueRentPriceNumber", "getCountries", "getCurrentActivations",
    "getExtraActivation", "getFreePrices", "getFullSms", "getHistory", "getIncomingCallStatus",
    "getListOfActiveActivations", "getListOfTopCountriesByService", "getMultiServiceNumber", "getNumber",
    "getNumbersStatus", "getNumberV2", "getOperators", "getPrices", "getPricesExtended", "getPricesV2", "getPricesV3",
    "getPricesVerification", "getRentList", "getRentNumber", "getRentPrices", "getRentServicesAndCountries",
    "getRentStatus", "getServicesList", "getStatus", "getStatusV2", "getTopCountriesByService",
    "getTopCountriesByServiceRank", "getWebhook", "keep", "parseCall", "prolong", "prolongHistory", "prolongOptions",
    "reactivate", "reactivateOptions", "reactivationPrice", "serviceCountRent", "setAutoRenew", "setRentStatus",
    "setStatus", "setWebhook", "updateApiCurrency",
]  # fmt: skip


pytestmark = pytest.mark.timeout(240)  # thousands of requests: more than a minute on a busy machine


@dataclass
class Target:
    """The endpoint as an ASGI application, asked synchronously."""

    house: StillHouse
    loop: asyncio.AbstractEventLoop
    lives: list[str] = field(default_factory=list)

    path: str = PATH
    statuses: frozenset[int] = frozenset({200})

    def ask(self, query: bytes, body: bytes | None = None, headers: list[tuple[bytes, bytes]] | None = None) -> str:
        """One request, checked for all that must always hold; the answer's body."""
        return self.loop.run_until_complete(self._ask(query, body, headers or []))

    async def _ask(self, query: bytes, body: bytes | None, headers: list[tuple[bytes, bytes]]) -> str:
        before = await self.house.balance("alice")
        with capture_logs() as logs:
            answer = await self._answer(query, body, headers)
        assert [line for line in logs if line["log_level"] in ("error", "critical")] == []
        after = await self.house.balance("alice")
        if not _MOVES_MONEY.match(answer):
            assert after == before, answer
        spent = sum(before[:2]) - sum(after[:2])
        assert spent == 0 or (spent > 0 and _SPENDS.match(answer)), "money appeared or went away"
        return answer

    async def _answer(self, query: bytes, body: bytes | None, headers: list[tuple[bytes, bytes]]) -> str:
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "path": self.path,
            "raw_path": self.path.encode(), "method": "GET" if body is None else "POST", "query_string": query,
            "headers": [(b"host", b"gateway"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
            "root_path": "",
        }  # fmt: skip
        waiting = [{"type": "http.request", "body": body or b"", "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.house.gateway.app(scope, receive, send)  # type: ignore[arg-type] # the dictionaries are the protocol
        assert sent[0]["status"] in self.statuses
        text = bytes(sent[1]["body"])
        if sent[0]["status"] != 204:
            assert dict(sent[0]["headers"])[b"content-length"] == b"%d" % len(text)
        return text.decode("utf-8")

    def pair(self, name: bytes, value: bytes) -> bytes:
        return quote_from_bytes(name).encode() + b"=" + quote_from_bytes(value).encode()


WORDS = {word for dialect in DIALECTS.values() for word in (*dialect.words.values(), *dialect.action_words.values())}
WORDS |= {row.word for row in UNSERVED.values()} | {row.unknown for row in UNSERVED.values()}


def is_known(answer: str) -> bool:
    """A word of the dialect, or a proper success."""
    if answer in WORDS and answer not in ("BANNED", "WRONG_MAX_PRICE"):
        return True
    if answer.startswith(("{", "[")):
        json.loads(answer)
        return True
    return PROPER.fullmatch(answer) is not None


@asynccontextmanager
async def prepared(directory: Path, url: str) -> AsyncIterator[StillHouse]:
    async with still_house(directory, environment(url)) as house:
        await house.open_account("alice", "1000.00")
        yield house


@pytest.fixture
def target(tmp_path: Path, database_url: str) -> Iterator[Target]:
    """A gateway with a few numbers in several states, and a rental; its ledger has to add up when the test is over."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        entered = prepared(config_directory(tmp_path, UPSTREAMS, GATEWAY), database_url)
        house = loop.run_until_complete(entered.__aenter__())
        try:
            found = Target(house, loop)
            key = house.keys["alice"]
            for service in ("tg", "xmute", "xlock"):
                bought = found.ask(f"api_key={key}&action=getNumber&service={service}&country=6".encode())
                found.lives.append(bought.split(":")[1])
            rented = found.ask(f"api_key={key}&action=getRentNumber&service=xmute&country=6".encode())
            found.lives.append(str(json.loads(rented)["phone"]["id"]))
            over = found.ask(f"api_key={key}&action=getNumber&service=tg&country=6".encode()).split(":")[1]
            found.lives.append(over)
            loop.run_until_complete(house.passes(1.5))
            assert found.ask(f"api_key={key}&action=setStatus&status=6&id={over}".encode()) == "ACCESS_ACTIVATION"
            yield found
            assert loop.run_until_complete(house.problems()) == []
        finally:
            loop.run_until_complete(entered.__aexit__(None, None, None))


# What is thrown

VALUES = st.one_of(
    st.sampled_from(
        [
            b"", b"undefined", b"null", b"None", b"0", b"-1", b"1e400", b"-1e400", b"NaN", b"Infinity",
            b"1e-400", b"0x10", b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809",
            b"1" * 5000, b"9" * 400, b"0.1" * 40, b"\x00", b"tg\x00", b"\xff\xfe", b"\xed\xa0\x80",
            b"\xf0\x9f\x98\x80", b"'; drop table accounts; --", b"%s%n%d", b"../../etc/passwd",
            b"<script>", b"${jndi:ldap://x}", b"\r\nSet-Cookie: a=b", b"\xe2\x80\xae", b"A" * 70_000,
            b"1,2,3", b",", b":", b"::1", "٣".encode(), b"1_000", b"+1", b" 1", b"1 ",
            b"1.0000000000000000000000001",
        ]
    ),
    st.binary(max_size=40),
    st.integers(-(2**70), 2**70).map(lambda number: str(number).encode()),
    st.floats().map(lambda number: str(number).encode()),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
)  # fmt: skip
SENSIBLE: dict[bytes, st.SearchStrategy[bytes]] = {
    b"service": st.sampled_from([b"tg", b"xmute", b"xnone", b"xban", b"xtwo", b"xlock", b"xslow"]),
    b"country": st.sampled_from([b"6", b"0", b"187"]),
    b"status": st.sampled_from([b"1", b"3", b"6", b"8", b"-1"]),
    b"maxPrice": st.sampled_from([b"0.08", b"0.01", b"100"]),
    b"max_price": st.just(b"0.5"),
    b"operator": st.sampled_from([b"any", b"mtt,any"]),
    b"phoneException": st.sampled_from([b"7918", b"6200", b"x"]),
    b"orderId": st.sampled_from([b"a", b"b", b"c"]),
    b"url": st.sampled_from([b"https://example.com/", b"http://10.0.0.1/"]),
    b"webhook_url": st.just(b"https://example.com/"),
    b"start": st.just(b"1"),
    b"limit": st.just(b"2"),
    b"lang": st.just(b"en"),
    b"activationId": st.sampled_from([b"live:0", b"live:4"]),
    b"duration": st.sampled_from([b"2", b"24"]),
    b"hours": st.sampled_from([b"2", b"24"]),
    b"incomingCall": st.just(b"false"),
    b"multiService": st.sampled_from([b"tg,wa", b"tg,xnone"]),
    b"needHistory": st.just(b"1"),
    b"rent_time": st.sampled_from([b"2", b"24"]),
    b"activationType": st.sampled_from([b"0", b"1", b"SMS"]),
    b"currency": st.sampled_from([b"643", b"840"]),
    b"end": st.sampled_from([b"1748779200", b"1"]),
    b"fixedPrice": st.just(b"true"),
    b"freePrice": st.just(b"true"),
    b"format": st.just(b"json"),
    b"length": st.sampled_from([b"0", b"1"]),
    b"minPrice": st.just(b"0.01"),
    b"offset": st.just(b"1"),
    b"order": st.just(b"desc"),
    b"page": st.sampled_from([b"0", b"1", b"2"]),
    b"providerIds": st.sampled_from([b"1", b"7"]),
    b"size": st.just(b"1"),
    b"text": st.just(b"1"),
}
ANY_ACTION = st.one_of(
    st.sampled_from(ACTIONS).map(str.encode),
    st.sampled_from(ACTIONS).map(lambda action: action.upper().encode()),
    VALUES,
)


@st.composite
def parameters(draw: st.DrawFn, lives: int = 5) -> list[tuple[bytes, bytes]]:
    """Parameters of one call: mostly sensible, with rubbish among them, in any order, some more than once."""
    found = [
        (b"action", draw(ANY_ACTION if draw(st.integers(0, 3)) == 0 else st.sampled_from(ACTIONS).map(str.encode)))
    ]
    for name in draw(st.lists(st.sampled_from(sorted(SENSIBLE)), max_size=6)):
        found.append((name, draw(SENSIBLE[name] if draw(st.booleans()) else VALUES)))
    if draw(st.booleans()):
        is_live = draw(st.booleans())
        found.append((b"id", b"live:%d" % draw(st.integers(0, lives - 1)) if is_live else draw(VALUES)))
    if draw(st.integers(0, 4)) == 0:
        found.append((draw(st.binary(max_size=12)), draw(VALUES)))
    if draw(st.integers(0, 9)) > 0:
        found.append((b"api_key", b"mine"))
    elif draw(st.booleans()):
        found.append((b"api_key", draw(VALUES)))
    return draw(st.permutations(found))


def encoded(target: Target, pairs: list[tuple[bytes, bytes]]) -> bytes:
    mine = target.house.keys["alice"].encode()
    known = {b"mine": mine, **{b"live:%d" % place: found.encode() for place, found in enumerate(target.lives)}}
    return b"&".join(target.pair(name, known.get(value, value)) for name, value in pairs)


def check(target: Target, answer: str) -> None:
    assert is_known(answer), answer[:200]
    target.house.clock.now += 0.25
    if target.house.clock.now % 5 == 0:
        target.loop.run_until_complete(target.house.passes(0.0))


@SETTINGS
@given(pairs=parameters(), as_form=st.booleans())
def test_any_parameters_get_a_known_answer(target: Target, pairs: list[tuple[bytes, bytes]], as_form: bool) -> None:
    text = encoded(target, pairs)
    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    check(target, target.ask(b"", text, form) if as_form else target.ask(text))


@SETTINGS
@given(query=st.binary(max_size=300), body=st.none() | st.binary(max_size=300), kind=st.sampled_from(BODIES))
def test_any_bytes_get_a_known_answer(target: Target, query: bytes, body: bytes | None, kind: bytes) -> None:
    key = target.house.keys["alice"].encode()
    headers = [(b"content-type", kind)]
    for prefix in (b"", b"api_key=%b&action=getNumber&service=xmute&" % key):
        check(target, target.ask(prefix + query, body, headers))


@SETTINGS
@given(name=st.sampled_from([b"Accept-Encoding", b"Content-Type"]), value=st.binary(max_size=40))
def test_any_header_gets_an_answer(target: Target, name: bytes, value: bytes) -> None:
    key = target.house.keys["alice"].encode()
    query = b"api_key=%b&action=getStatus&id=999" % key
    if b"gzip" not in value and b"*" not in value:
        check(target, target.ask(query, b"a=b", [(name.lower(), value)]))


def test_text_that_a_database_may_refuse_is_no_server_error(target: Target) -> None:
    names = [b"operator", b"orderId", b"phoneException", b"maxPrice", b"ref", b"service", b"country", b"id"]
    values = [b"\x00", b"a\x00b", b"\xff", b"\xed\xa0\x80", b"x" * 10_000, "ä€😀".encode()]
    for name, value in product(names, values):
        pairs = [(b"api_key", b"mine"), (b"action", b"getNumberV2"), (b"service", b"xmute"), (name, value)]
        answer = target.ask(encoded(target, pairs))
        assert answer != "ERROR_SQL", (name, value)
        check(target, answer)


def test_a_form_too_large_to_be_one_is_read_to_its_end_and_says_nothing(target: Target) -> None:
    key = target.house.keys["alice"].encode()
    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    body = b"api_key=%b&action=getNumber&service=tg&x=" % key + b"x" * 1_000_000
    assert target.ask(b"", body, form) == "BAD_ACTION"


def test_a_megabyte_of_separators_is_answered_soon(target: Target) -> None:
    started = time.monotonic()
    check(target, target.ask(b"&" * 60_000 + b"action=getBalance", b"=&" * 30_000))
    assert time.monotonic() - started < 2


def test_every_action_of_every_dialect_is_thrown_at_it(target: Target) -> None:
    found = {action for dialect in DIALECTS.values() for action in dialect(target.house.gateway.front, Lists()).actions}
    assert found == set(ACTIONS)


@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - {"sms_activate"}))
@settings(SETTINGS, max_examples=80)
@given(pairs=parameters())
def test_any_parameters_get_a_known_answer_in_every_dialect(
    target: Target, dialect: str, pairs: list[tuple[bytes, bytes]]
) -> None:
    target.path = f"/{dialect}{PATH}"
    target.statuses = frozenset({200, 204, 400, 401, 402, 403, 404, 405, 409, 422})
    answer = target.ask(encoded(target, pairs))
    check(target, answer or "{}")
