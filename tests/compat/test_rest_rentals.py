"""Rentals, and what builds on a number, in our JSON API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from compat._rest_problems import KINDS
from tests.compat._rest_client import RestHouse, rest_house
from tests.harness import environment

RENTALS = "/api/v1/rentals"
ONE = RENTALS + "/{}"
TG = {"service": "tg", "country": "ID", "hours": 24}
NOBODYS = "rent_100999999"


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str) -> AsyncIterator[RestHouse]:
    async with rest_house(tmp_path, environment(sqlite_url)) as found:
        yield found
        assert await found.house.problems() == []


@pytest.fixture
async def either(tmp_path: Path, database_url: str) -> AsyncIterator[RestHouse]:
    """The same on each kind of database."""
    async with rest_house(tmp_path, environment(database_url)) as found:
        yield found
        assert await found.house.problems() == []


async def rent(api: RestHouse, who: str = "alice", **more: Any) -> Any:
    response = await api.ask("POST", RENTALS, {**TG, **more}, who=who)
    assert response.status_code == 201, response.text
    return response.json()


def code_of(response: Any) -> str:
    found = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert found["status"] == response.status_code == KINDS[found["code"]].status
    return str(found["code"])


async def test_what_can_be_rented_is_listed_for_a_country_and_a_time(api: RestHouse) -> None:
    found = await api.get(f"{RENTALS}/offers?country=ID&hours=10")
    assert found["currency"] == "USD"
    assert {
        "service": "tg", "country": 6, "hours": 10, "price": "0.13", "count": 20, "operators": [],
    } in found["offers"]  # fmt: skip
    day = await api.get(f"{RENTALS}/offers?country=6")
    assert {row["hours"] for row in day["offers"]} == {24}
    assert (await api.get(f"{RENTALS}/offers?country=6&hours=8760"))["offers"] == []
    assert code_of(await api.ask("GET", f"{RENTALS}/offers?country=ZZ")) == "bad_country"
    for wrong in ("", "?hours=24", "?country=6&hours=0", "?country=6&hours=9999", "?country=6&hours=x"):
        assert code_of(await api.ask("GET", f"{RENTALS}/offers{wrong}")) == "invalid", wrong


async def test_a_rental_from_its_beginning_to_its_end(either: RestHouse) -> None:
    response = await either.ask("POST", RENTALS, {**TG, "service": "full"})
    bought = response.json()
    assert (response.status_code, response.headers["location"]) == (201, ONE.format(bought["id"]))
    assert bought | {"id": "", "phone_number": ""} == {
        "id": "", "status": "waiting", "service": "full", "country": 6, "hours": 24, "phone_number": "",
        "price": {"amount": "0.312", "currency": "USD"}, "opened_at": "2025-06-01T12:00:00Z",
        "expires_at": "2025-06-02T12:00:00Z", "ended_at": None, "messages": [],
    }  # fmt: skip
    balance = await either.get("/balance")
    assert [balance[name]["amount"] for name in ("balance", "held")] == ["9.688", "0.312"]
    await either.house.passes(60)
    one = ONE.format(bought["id"])
    found = await either.get(one)
    assert (found["status"], len(found["messages"])) == ("received", 3)
    assert all(sms["sender"] and sms["code"] in sms["text"] for sms in found["messages"])
    assert await either.get(ONE.format(bought["id"].removeprefix("rent_"))) == found
    assert (await either.get(RENTALS))["rentals"] == [found]
    assert (await either.get(f"{RENTALS}?state=open"))["rentals"] == [found]
    assert (await either.get(f"{RENTALS}?state=past"))["rentals"] == []
    assert code_of(await either.ask("POST", f"{one}/cancel")) == "not_allowed_now"
    for _ in range(2):
        ended = await either.ask("POST", f"{one}/finish")
        assert (ended.status_code, ended.json()["status"]) == (200, "finished")
    over = await either.get(one)
    assert len(over["messages"]) == 3
    assert (await either.get(f"{RENTALS}?state=open"))["rentals"] == []
    assert (await either.get(RENTALS))["rentals"] == (await either.get(f"{RENTALS}?state=past"))["rentals"] == [over]
    assert [(await either.get("/balance"))[name]["amount"] for name in ("balance", "held")] == ["9.688", "0.00"]


async def test_a_rental_without_a_message_is_given_back_in_time_and_only_then(api: RestHouse) -> None:
    first, second = [ONE.format((await rent(api, service="xmute"))["id"]) for _ in range(2)]
    for _ in range(2):
        assert (await api.ask("POST", f"{first}/cancel")).json()["status"] == "cancelled"
    assert (await api.get("/balance"))["held"]["amount"] == "0.312"
    await api.house.passes(1201)
    assert code_of(await api.ask("POST", f"{second}/cancel")) == "not_allowed_now"
    assert [(await api.get("/balance"))[name]["amount"] for name in ("balance", "held")] == ["9.688", "0.00"]


async def test_more_time_is_paid_for_and_told(either: RestHouse) -> None:
    one = ONE.format((await rent(either))["id"])
    offer = (await either.get(f"{one}/extensions?hours=10"))["offer"]
    assert offer == {"hours": 10, "price": {"amount": "0.13", "currency": "USD"}}
    longer = await either.ask("POST", f"{one}/extend", {"hours": 10})
    assert (longer.status_code, longer.headers["location"]) == (201, one)
    assert longer.json()["expires_at"] == "2025-06-02T22:00:00Z"
    assert await either.get(f"{one}/extensions") == {
        "extensions": [
            {"bought_at": "2025-06-01T12:00:00Z", "hours": 10, "price": {"amount": "0.13", "currency": "USD"}}
        ],
        "offer": None,
    }
    cheap = await either.ask("POST", f"{one}/extend", {"hours": 10, "max_price": "0.01"})
    assert (code_of(cheap), cheap.json()["minimum"]["amount"]) == ("price_too_low", "0.13")
    assert code_of(await either.ask("POST", f"{one}/extend", {"hours": 8000})) == "not_allowed_now"
    assert code_of(await either.ask("POST", f"{one}/extend", {"hours": "10"})) == "invalid"
    await either.ask("POST", f"{one}/finish")
    assert code_of(await either.ask("POST", f"{one}/extend", {"hours": 10})) == "not_allowed_now"
    assert code_of(await either.ask("GET", f"{one}/extensions?hours=10")) == "not_allowed_now"
    assert len((await either.get(f"{one}/extensions"))["extensions"]) == 1
    assert (await either.get("/balance"))["balance"]["amount"] == "9.558"


async def test_a_key_rents_once_and_extends_once(either: RestHouse) -> None:
    key = {"Idempotency-Key": "rent-1"}
    answers = await asyncio.gather(*(either.ask("POST", RENTALS, TG, headers=key) for _ in range(4)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    await either.house.passes(2)
    assert (await either.ask("POST", RENTALS, TG, headers=key)).text == answers[0].text
    other = await either.ask("POST", RENTALS, {**TG, "hours": 25}, headers=key)
    assert code_of(other) == "idempotency_key_reused"
    assert code_of(await either.ask("POST", "/purchase", {"service": "tg", "country": "ID"}, headers=key)) == (
        "idempotency_key_reused"
    )
    one = ONE.format(answers[0].json()["id"])
    key = {"Idempotency-Key": "extend-1"}
    for _ in range(3):
        longer = await either.ask("POST", f"{one}/extend", {"hours": 2}, headers=key)
        assert (longer.status_code, longer.json()["expires_at"]) == (201, "2025-06-02T14:00:00Z")
    assert len((await either.get(f"{one}/extensions"))["extensions"]) == 1
    assert code_of(await either.ask("POST", f"{one}/extend", {"hours": 3}, headers=key)) == "idempotency_key_reused"
    assert (await either.get("/balance"))["balance"]["amount"] == "9.662"


async def test_a_client_that_hung_up_gets_the_rental_it_never_heard_of(api: RestHouse) -> None:
    await api.hang_up("POST", RENTALS, TG)
    bought = await rent(api)
    assert len((await api.get(RENTALS))["rentals"]) == 1
    one = ONE.format(bought["id"])
    await api.hang_up("POST", f"{one}/extend", {"hours": 2})
    longer = await api.ask("POST", f"{one}/extend", {"hours": 2})
    assert longer.json()["expires_at"] == "2025-06-02T14:00:00Z"
    assert len((await api.get(f"{one}/extensions"))["extensions"]) == 1


async def test_who_waits_is_told_of_the_next_message(api: RestHouse) -> None:
    one = ONE.format((await rent(api))["id"])
    waiting = asyncio.ensure_future(api.get(f"{one}?wait=20"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await api.house.passes(1.5)
    assert len((await asyncio.wait_for(waiting, 5))["messages"]) == 1
    assert len((await asyncio.wait_for(api.get(f"{one}?wait=20"), 2))["messages"]) == 1
    waiting = asyncio.ensure_future(api.get(f"{one}?wait=20&seen=1"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await api.ask("POST", f"{one}/finish")
    assert (await asyncio.wait_for(waiting, 5))["status"] == "finished"


async def test_pages_of_rentals_lead_on(api: RestHouse) -> None:
    rented = [(await rent(api, service="xmute"))["id"] for _ in range(3)]
    page = await api.get(f"{RENTALS}?limit=2")
    assert [one["id"] for one in page["rentals"]] == rented[:0:-1]
    last = await api.get(f"{RENTALS}?limit=2&cursor={page['next_cursor']}")
    assert ([one["id"] for one in last["rentals"]], last["next_cursor"]) == ([rented[0]], None)
    assert code_of(await api.ask("GET", f"{RENTALS}?cursor=x")) == "invalid"


async def test_refusals_of_a_rental(api: RestHouse) -> None:
    wrong: dict[str, list[dict[str, Any]]] = {
        "bad_service": [{"service": "zzzzz"}],
        "bad_country": [{"country": "ZZ"}],
        "no_numbers": [{"service": "xnone"}, {"hours": 8000}],
        "price_too_low": [{"max_price": "0.01"}],
        "no_balance": [{"hours": 1344}],
        "webhook_not_https": [{"webhook_url": "http://example.com/"}],
        "bad_webhook_url": [{"webhook_url": "https://10.0.0.1/"}, {"webhook_url": "https://example.com/<b>"}],
        "invalid": [{"hours": 0}, {"hours": 1.5}, {"hours": "24"}, {"hours": True}, {"more": 1}, {"webhook_url": ""}],
    }
    for code, bodies in wrong.items():
        for body in bodies:
            assert code_of(await api.ask("POST", RENTALS, {**TG, **body})) == code, body
    assert (await api.get("/balance"))["balance"]["amount"] == "10.00"


async def test_anothers_rental_is_one_that_nobody_has(api: RestHouse) -> None:
    rented = (await rent(api))["id"]
    bought = await api.buy("tg")
    calls = [("GET", "", None), ("POST", "/finish", {}), ("POST", "/cancel", {}), ("POST", "/extend", {"hours": 2}),
             ("GET", "/extensions", None), ("GET", "/extensions?hours=2", None)]  # fmt: skip
    for method, rest, body in calls:
        wanted = await api.ask(method, ONE.format(NOBODYS) + rest, body, who="bob")
        assert code_of(wanted) == "unknown_activation"
        for who, named in (("bob", rented), ("alice", bought.replace("ver", "rent")), ("alice", bought)):
            got = await api.ask(method, ONE.format(named) + rest, body, who=who)
            assert (got.status_code, got.content) == (wanted.status_code, wanted.content)
    assert (await api.get(RENTALS, who="bob"))["rentals"] == []
    for path in ("/api/v1/activations/{}", "/messages/{}"):
        assert code_of(await api.ask("GET", path.format(rented.replace("rent", "ver")))) == "unknown_activation"
    assert [one["id"] for one in (await api.get("/api/v1/activations"))["activations"]] == [bought]


async def test_a_number_is_had_again_once_its_activation_is_over(either: RestHouse) -> None:
    first = await either.buy("tg")
    path = f"/api/v1/activations/{first}/again"
    assert code_of(await either.ask("GET", path)) == "not_allowed_now"
    await either.house.passes(1.5)
    await either.do(first, "finish")
    offer = await either.get(path)
    assert offer == {"price": {"amount": "0.08", "currency": "USD"}, "service": "tg", "country": 6}
    key = {"Idempotency-Key": "again-1"}
    answers = [await either.ask("POST", path, headers=key) for _ in range(2)]
    again = answers[0].json()
    assert (answers[0].status_code, answers[0].headers["location"]) == (201, f"/api/v1/activations/{again['id']}")
    assert answers[1].content == answers[0].content
    number = (await either.get(f"/api/v1/activations/{first}"))["phone_number"]
    assert (again["phone_number"], again["status"], again["service"]) == (number, "waiting", "tg")
    await either.house.passes(1.5)
    assert (await either.get(f"/api/v1/activations/{again['id']}"))["status"] == "received"
    assert code_of(await either.ask("POST", path, {"max_price": "0.01"})) == "price_too_low"
    assert code_of(await either.ask("POST", path, who="bob")) == "unknown_activation"
    assert code_of(await either.ask("GET", path, who="bob")) == "unknown_activation"


async def test_another_service_is_had_on_a_number_in_use(api: RestHouse) -> None:
    first = await api.buy("tg")
    path = f"/api/v1/activations/{first}/services"
    beside = await api.ask("POST", path, {"service": "wa"})
    assert beside.status_code == 201
    number = (await api.get(f"/api/v1/activations/{first}"))["phone_number"]
    assert (beside.json()["phone_number"], beside.json()["service"]) == (number, "wa")
    assert code_of(await api.ask("POST", path, {"service": "wa"})) == "not_allowed_now"
    assert code_of(await api.ask("POST", path, {"service": "zzzzz"})) == "bad_service"
    assert code_of(await api.ask("POST", path, {})) == "invalid"
    assert code_of(await api.ask("POST", path, {"service": "vi"}, who="bob")) == "unknown_activation"
    await api.do(first, "cancel")
    assert code_of(await api.ask("POST", path, {"service": "vi"})) == "not_allowed_now"
