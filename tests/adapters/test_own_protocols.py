"""What holds for every adapter of a protocol of its own, whatever the protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st

import adapters
from gateway.errors import NotReached, Refused
from gateway.model import BuyOrder
from gateway.upstream import AsksAgain, Finds, Pushes, ReadsMany, Upstream
from tests.adapters._context import Observed, Script, context, order
from tests.adapters._scripted import every_verb, json_values, texts

ABILITIES: dict[str, set[type]] = {
    "dssmshub": {Pushes},
    "fivesim": {ReadsMany, Finds},
    "onlinesim": {AsksAgain, ReadsMany, Finds},
    "smsman": {AsksAgain},
    "smspool": {AsksAgain, ReadsMany, Finds},
    "smspva": {AsksAgain, ReadsMany, Finds},
    "textverified": {ReadsMany, Finds, Pushes},
    "vaksms": {AsksAgain},
}
OPTIONS: dict[str, dict[str, Any]] = {"onlinesim": {"pause_seconds": 0}}
ONLY_USA = ("dssmshub", "textverified")
LEARNT_FIRST = ("smsman", "smspool")
"""Its words come from its own lists, or are names until those were read."""

NAMES = [
    *("response", "tzid", "number", "msg", "time", "services", "code", "price", "count", "slug"),
    *("error_code", "success", "request_id", "sms_code", "id", "title", "cost", "country_id", "application_id"),
    *("error", "smsCode", "idNum", "tel", "status", "tg", "telegram", "countryCode", "balance", "data", "statusCode"),
]


@asynccontextmanager
async def opened(name: str, script: Script, **changes: Any) -> AsyncIterator[Upstream]:
    module = adapters.load(name)
    given = context(script, secrets={"username": "ops@example.com"}, **changes)
    async with aclosing(module.build(given, module.Options(**OPTIONS.get(name, {})))) as there:
        yield there


def unconnected(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


def sold(name: str) -> BuyOrder:
    return order("go", 187) if name in ONLY_USA else order()


@pytest.mark.parametrize("name", ABILITIES)
async def test_abilities_are_those_of_the_protocol(name: str) -> None:
    async with opened(name, Script(unconnected)) as there:
        abilities = {ability for ability in (AsksAgain, Finds, Pushes, ReadsMany) if isinstance(there, ability)}
    assert abilities == ABILITIES[name]


@pytest.mark.parametrize("name", ABILITIES)
async def test_purchase_that_did_not_connect_is_not_reached(name: str) -> None:
    async with opened(name, Script(unconnected)) as there:
        with pytest.raises(NotReached):
            await there.buy(sold(name))


@pytest.mark.parametrize(
    ("name", "verb"), [("onlinesim", "price"), ("smspva", "price"), ("vaksms", "price"), ("smsman", "words")]
)
async def test_question_before_a_purchase_is_not_reported_as_one(name: str, verb: str) -> None:
    observed = Observed()
    async with opened(name, Script(unconnected), observe=observed) as there:
        with pytest.raises(NotReached):
            await there.buy(sold(name))
    assert observed.calls == [(verb, "NotReached")]


@pytest.mark.parametrize("wanted", [("xx", 16), ("xx", 187), ("tg", 12), ("tg", 999)])
@pytest.mark.parametrize("name", [name for name in ABILITIES if name not in LEARNT_FIRST])
async def test_what_has_no_word_there_is_refused_unasked(name: str, wanted: tuple[str, int]) -> None:
    script = Script(unconnected)
    async with opened(name, script) as there:
        with pytest.raises(Refused):
            await there.buy(order(*wanted))
    assert script.requests == []


@pytest.mark.parametrize("name", [name for name, abilities in ABILITIES.items() if ReadsMany in abilities])
async def test_nothing_watched_asks_nothing(name: str) -> None:
    script = Script(unconnected)
    async with opened(name, script) as there:
        assert isinstance(there, ReadsMany)
        assert await there.read_many([]) == {}
    assert script.requests == []


@pytest.mark.parametrize("name", [name for name in ABILITIES if name != "textverified"])
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    body=json_values(NAMES).map(json.dumps) | texts, status=st.sampled_from([200, 202, 302, 400, 404, 429, 500])
)
async def test_no_answer_breaks_any_verb(name: str, body: str, status: int) -> None:
    async with opened(name, Script(lambda _: httpx.Response(status, content=body.encode()))) as there:
        await every_verb(there, sold(name))
