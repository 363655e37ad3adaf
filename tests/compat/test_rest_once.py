"""Idempotency-Key: one key, one number, one answer; in parallel, after a hang-up and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gateway import accounts
from gateway.errors import Unavailable
from gateway.store import Tx
from tests.compat._rest_client import ONE, RestHouse, rest_house
from tests.harness import environment

BODY = {"service": "xmute", "country": 6}
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@pytest.fixture
async def api(tmp_path: Path, database_url: str) -> AsyncIterator[RestHouse]:
    async with rest_house(tmp_path, environment(database_url)) as found:
        yield found
        assert await found.house.problems() == []


async def purchase(api: RestHouse, body: Any = None, *, who: str = "alice", key: str = KEY["Idempotency-Key"]) -> Any:
    return await api.ask("POST", "/purchase", body or BODY, who=who, headers={"Idempotency-Key": key})


async def orders(api: RestHouse) -> int:
    """How many orders there are, failed ones too."""

    def count(tx: Tx) -> int:
        row = tx.one("select count(*) as n from activations")
        return int(row["n"]) if row else 0

    return await api.house.database.store.read(count)


async def test_in_parallel_there_is_one_purchase_and_one_answer(api: RestHouse) -> None:
    answers = await asyncio.gather(*(purchase(api) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert await orders(api) == 1
    assert (await api.get("/balance"))["held"]["amount"] == "0.08"


async def test_the_answer_stays_whatever_happens_to_the_number(api: RestHouse) -> None:
    first = await purchase(api, {"service": "tg", "country": 6})
    await api.house.passes(1.5)
    assert (await purchase(api, {"service": "tg", "country": 6})).content == first.content
    await api.do(first.json()["id"], "finish")
    assert (await purchase(api, {"service": "tg", "country": 6})).content == first.content
    assert (await api.get(ONE.format(first.json()["id"])))["status"] == "finished"


async def test_it_holds_across_a_restart(tmp_path: Path, database_url: str) -> None:
    values = environment(database_url)
    async with rest_house(tmp_path, values) as api:
        first = await purchase(api)
        await api.house.gateway.handovers.note_answered()
        keys = api.house.keys
    async with rest_house(tmp_path, values, is_new=False) as api:
        api.house.keys = keys
        answers = await asyncio.gather(*(purchase(api) for _ in range(3)))
        assert {answer.content for answer in answers} == {first.content}
        assert await orders(api) == 1


async def test_the_same_key_with_another_request_is_refused(api: RestHouse) -> None:
    first = await purchase(api)
    for body in ({"service": "tg", "country": 6}, {**BODY, "max_price": "1"}, {**BODY, "country": 0}):
        response = await purchase(api, body)
        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert (await purchase(api)).content == first.content
    assert await orders(api) == 1


async def test_another_request_is_refused_while_the_first_is_under_way(api: RestHouse) -> None:
    await api.get("/balance")  # the key is known from here on, so they arrive in this order
    answers = await asyncio.gather(purchase(api), purchase(api, {"service": "tg", "country": 6}), purchase(api))
    assert [answer.status_code for answer in answers] == [201, 422, 201]


async def test_how_a_body_is_written_does_not_matter(api: RestHouse) -> None:
    first = await purchase(api, {"service": "xmute", "country": 6})
    second = await purchase(api, {"country": "6", "service": "xmute", "operator": None})
    assert second.content == first.content


async def test_quotes_around_a_key_do_not_matter(api: RestHouse) -> None:
    assert (await purchase(api, key='"a b"')).content == (await purchase(api, key="a b")).content


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "ä", "a\tb"])
async def test_a_key_of_another_form_is_refused(api: RestHouse, key: str) -> None:
    headers: Any = {"Idempotency-Key": key.encode("latin-1")}
    response = await api.ask("POST", "/purchase", BODY, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "bad_idempotency_key")
    assert await orders(api) == 0


async def test_a_key_belongs_to_its_account(api: RestHouse) -> None:
    alices, bobs = await purchase(api), await purchase(api, who="bob")
    assert alices.json()["id"] != bobs.json()["id"]
    store, vault = api.house.database.store, api.house.database.vault
    api.house.keys["also alice"] = await store.run(accounts.issue_key, vault, "alice", 0.0)
    assert (await purchase(api, who="also alice")).content == alices.content


async def test_a_key_is_no_order_id_of_another_dialect(api: RestHouse) -> None:
    query = {"api_key": api.house.keys["alice"], "action": "getNumberV2", "service": "xmute", "country": "6"}
    import httpx

    transport = httpx.ASGITransport(app=api.house.gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        response = await client.get("/stubs/handler_api.php", params={**query, "orderId": KEY["Idempotency-Key"]})
    assert (await purchase(api)).json()["id"] != f"ver_{response.json()['activationId']}"


async def test_an_order_that_failed_stays_failed(api: RestHouse) -> None:
    body = {"service": "xnone", "country": 6}
    answers = [await purchase(api, body) for _ in range(2)]
    assert [answer.json()["code"] for answer in answers] == ["no_numbers", "no_numbers"]
    assert answers[0].content == answers[1].content
    assert await orders(api) == 1


async def test_what_was_refused_before_anybody_was_asked_uses_no_key_up(api: RestHouse) -> None:
    assert (await purchase(api, {**BODY, "country": "XX"})).status_code == 422
    assert (await purchase(api)).status_code == 201


async def test_a_client_that_hung_up_gets_its_number_and_keeps_it(api: RestHouse) -> None:
    await api.hang_up("POST", "/purchase", BODY, headers=KEY)
    [lost] = api.house.gateway.house.live.all_open()
    assert (await purchase(api)).json()["id"] == f"ver_{lost.id}"
    await api.house.gateway.handovers.note_answered()
    api.house.clock.now += 61
    assert await api.house.gateway.handovers.overdue() == []
    assert await orders(api) == 1


@pytest.mark.parametrize("is_first", [True, False])
async def test_one_client_hanging_up_does_not_take_the_number_from_the_other(api: RestHouse, is_first: bool) -> None:
    lost = api.hang_up("POST", "/purchase", BODY, headers=KEY)
    await asyncio.gather(*((lost, purchase(api)) if is_first else (purchase(api), lost)))
    api.house.clock.now += 61
    assert await api.house.gateway.handovers.overdue() == []
    assert await orders(api) == 1


async def test_a_barred_account_is_still_told_what_it_bought(api: RestHouse) -> None:
    first = await purchase(api)
    await api.house.database.store.run(accounts.bar, "alice", api.house.clock() + 3600)
    await api.house.gateway.callers.refresh()
    assert (await purchase(api)).content == first.content
    assert (await purchase(api, key="another")).json()["code"] == "barred"


async def test_an_order_left_open_is_in_progress_until_it_is_settled(api: RestHouse) -> None:
    """The database went away after the intent was written: nobody knows yet what became of it."""
    first = await purchase(api)

    def reopen(tx: Tx) -> None:
        tx.execute("update activations set status = 'opening'")

    def close(tx: Tx) -> None:
        tx.execute("update activations set status = 'waiting'")

    await api.house.database.store.run(reopen)
    response = await purchase(api)
    assert (response.status_code, response.json()["code"]) == (409, "in_progress")
    assert response.headers["retry-after"] == "1"
    await api.house.database.store.run(close)
    assert (await purchase(api)).content == first.content


async def test_a_purchase_that_could_not_be_made_now_may_be_repeated(api: RestHouse) -> None:
    with patch.object(api.house.gateway.purchases, "open", side_effect=Unavailable):
        assert (await purchase(api)).status_code == 503
    assert (await purchase(api)).status_code == 201
