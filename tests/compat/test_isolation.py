"""An id that belongs to somebody else does not exist: the same bytes as for one nobody has, and nothing happens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import accounts
from gateway.store import Tx
from tests.harness import PATH, config_directory, environment
from tests.wire import Answer, StillHouse, exchange, on_a_socket, still_house

NOBODYS = "100999999"

STATES: dict[str, tuple[str, list[str | float]]] = {
    "waiting": ("xmute", []),
    "received": ("tg", [1.5]),
    "retrying": ("tg", [1.5, "3"]),
    "finished": ("tg", [1.5, "6"]),
    "cancelled": ("xmute", ["8"]),
    "expired": ("xmute", [1201.0]),
    "timed_out": ("tg", [1.5, 1200.0]),
}
"""Service, then the seconds that pass and the setStatus codes that lead there."""

ACTIONS: list[dict[str, str]] = [
    {"action": "getStatus"},
    {"action": "getStatusV2"},
    {"action": "getFullSms"},
    *({"action": "setStatus", "status": status} for status in ("1", "3", "6", "8", "-1", "2", "nonsense")),
    {"action": "setStatus"},
]


RENTALS: dict[str, tuple[str, list[str | float]]] = {
    "waiting": ("xmute", []),
    "received": ("tg", [1.5]),
    "finished": ("tg", [1.5, "1"]),
    "cancelled": ("xmute", ["2"]),
    "timed_out": ("tg", [1.5, 7200.0]),
}
"""Service, then the seconds that pass and the setRentStatus codes that lead there."""

RENT_ACTIONS: list[dict[str, str]] = [
    {"action": "getRentStatus"},
    {"action": "getRentStatus", "page": "1", "size": "5"},
    *({"action": "setRentStatus", "status": status} for status in ("1", "2", "3")),
    {"action": "setRentStatus"},
    {"action": "continueRentNumber", "rent_time": "4"},
    {"action": "getContinueRentPriceNumber", "rent_time": "4"},
    {"action": "continueRentInfo", "hours": "4", "needHistory": "true"},
]


@dataclass
class Two:
    """Alice, who has numbers, and bob, who tries to get at them."""

    house: StillHouse
    port: int

    async def ask(self, who: str, **parameters: str) -> Answer:
        pairs = {"api_key": self.house.keys[who], **parameters}
        query = "&".join(f"{name}={value}" for name, value in pairs.items())
        request = f"GET {PATH}?{query} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
        return await exchange(self.port, request.encode())

    async def said(self, who: str, **parameters: str) -> str:
        return (await self.ask(who, **parameters)).body.decode()

    async def alices(self, state: str) -> str:
        """An activation of alice's in that state; its id."""
        service, steps = STATES[state]
        answer = await self.said("alice", action="getNumber", service=service, country="6")
        activation_id = answer.split(":")[1]
        for step in steps:
            if isinstance(step, float):
                await self.house.passes(step)
            else:
                await self.said("alice", action="setStatus", id=activation_id, status=step)
        return activation_id

    async def rental_of_alices(self, state: str) -> str:
        """A rental of alice's in that state; its id."""
        service, steps = RENTALS[state]
        rental_id = str(json.loads(await self.said("alice", action="getRentNumber", service=service))["phone"]["id"])
        for step in steps:
            if isinstance(step, float):
                await self.house.passes(step)
            else:
                answer = await self.said("alice", action="setRentStatus", id=rental_id, status=step)
                assert answer == '{"status":"success"}'
        return rental_id

    async def rows(self) -> list[tuple[object, ...]]:
        """Everything that could have changed."""

        def read(tx: Tx) -> list[tuple[object, ...]]:
            return [
                *(tuple(dict(row).values()) for row in tx.all("select * from activations order by id")),
                *(tuple(dict(row).values()) for row in tx.all("select * from balances order by account_id")),
                *(tuple(dict(row).values()) for row in tx.all("select * from ledger order by id")),
            ]

        return await self.house.database.store.read(read)


@asynccontextmanager
async def two(directory: Path, values: dict[str, str]) -> AsyncIterator[Two]:
    async with still_house(directory, values) as house, on_a_socket(house.gateway) as port:
        await house.open_account("alice", "10.00")
        await house.open_account("bob", "10.00")
        yield Two(house, port)


@pytest.fixture
async def both(tmp_path: Path, database_url: str) -> AsyncIterator[Two]:
    async with two(config_directory(tmp_path), environment(database_url)) as found:
        yield found


def without_date(answer: Answer) -> Answer:
    return Answer(answer.status, {k: v for k, v in answer.headers.items() if k != "date"}, answer.body)


async def test_every_action_on_anothers_id_is_that_on_an_unknown_one_and_changes_nothing(both: Two) -> None:
    ids = {state: await both.alices(state) for state in STATES}
    before = await both.rows()
    for parameters in ACTIONS:
        wanted = without_date(await both.ask("bob", id=NOBODYS, **parameters))
        assert wanted.body == b"NO_ACTIVATION"
        for state, activation_id in ids.items():
            got = without_date(await both.ask("bob", id=activation_id, **parameters))
            assert got == wanted, f"{parameters} on alice's {state} one"
    assert await both.rows() == before


async def test_every_rent_action_on_anothers_id_is_that_on_an_unknown_one_and_changes_nothing(both: Two) -> None:
    ids = {state: await both.rental_of_alices(state) for state in RENTALS}
    ids["an activation"] = await both.alices("waiting")
    before = await both.rows()
    for parameters in RENT_ACTIONS:
        wanted = without_date(await both.ask("bob", id=NOBODYS, **parameters))
        assert wanted.body == b'{"status":"error","message":"INVALID_PHONE"}'
        for state, rental_id in ids.items():
            got = without_date(await both.ask("bob", id=rental_id, **parameters))
            assert got == wanted, f"{parameters} on alice's {state} one"
    # Nor are one's own rentals activations, or the other way round.
    for parameters in RENT_ACTIONS:
        assert b"INVALID_PHONE" in (await both.ask("alice", id=ids["an activation"], **parameters)).body
    for parameters in ACTIONS:
        assert (await both.ask("alice", id=ids["received"], **parameters)).body == b"NO_ACTIVATION"
    assert await both.said("bob", action="getRentList") == '{"status":"error","message":"NO_NUMBERS"}'
    assert await both.rows() == before


async def test_rentals_are_in_no_list_of_activations(both: Two) -> None:
    rental_id = await both.rental_of_alices("received")
    for parameters in ({"action": "getActiveActivations"}, *LISTS):
        assert rental_id not in await both.said("alice", **parameters)
    assert rental_id in await both.said("alice", action="getRentList")


async def test_a_stranger_of_a_rental_learns_nothing_from_an_outage(both: Two) -> None:
    rental_id = await both.rental_of_alices("received")
    for who in ("alice", "bob"):
        await both.said(who, action="getBalance")
    with both.house.database_away():
        for parameters in RENT_ACTIONS:
            wanted = without_date(await both.ask("bob", id=NOBODYS, **parameters))
            assert without_date(await both.ask("bob", id=rental_id, **parameters)) == wanted
        assert '"quantity":"1"' in await both.said("alice", action="getRentStatus", id=rental_id)


async def test_a_stranger_learns_nothing_from_an_outage_either(both: Two) -> None:
    """What is in memory must not answer where what is not would have to be looked up."""
    open_id = await both.alices("received")
    for who in ("alice", "bob"):
        await both.said(who, action="getBalance")
    with both.house.database_away():
        for parameters in ACTIONS:
            wanted = without_date(await both.ask("bob", id=NOBODYS, **parameters))
            assert without_date(await both.ask("bob", id=open_id, **parameters)) == wanted
        assert (await both.said("alice", action="getStatus", id=open_id)).startswith("STATUS_OK:")


async def test_what_was_read_for_its_owner_from_the_database_is_not_there_for_others(both: Two) -> None:
    """Both ways: an ended one that only the database has, asked for by the stranger first, then by the owner."""
    activation_id = await both.alices("finished")
    live = both.house.gateway.house.live
    live._ended.clear()
    assert await both.said("bob", action="getFullSms", id=activation_id) == "NO_ACTIVATION"
    assert live.get(int(activation_id)) is None
    assert (await both.said("alice", action="getFullSms", id=activation_id)).startswith("FULL_SMS:")
    assert await both.said("bob", action="getFullSms", id=activation_id) == "NO_ACTIVATION"


async def test_lists_show_only_ones_own(both: Two) -> None:
    alices = await both.alices("waiting")
    bobs = (await both.said("bob", action="getNumber", service="xmute")).split(":")[1]
    assert f'"activationId":"{alices}"' in await both.said("alice", action="getActiveActivations")
    assert bobs not in await both.said("alice", action="getActiveActivations")
    assert f'"activationId":"{bobs}"' in await both.said("bob", action="getActiveActivations")
    assert alices not in await both.said("bob", action="getActiveActivations")


LISTS: list[dict[str, str]] = [
    {"action": "getHistory"},
    {"action": "getHistory", "start": "1748779000", "end": "1748790000", "limit": "100"},
    {"action": "getListOfActiveActivations"},
    {"action": "getCurrentActivations"},
    {"action": "getListOfTopCountriesByService", "service": "tg"},
]


@pytest.mark.parametrize("parameters", LISTS, ids=lambda parameters: "-".join(parameters.values()))
async def test_what_one_did_is_in_no_list_of_anothers(both: Two, parameters: dict[str, str]) -> None:
    nothing = await both.said("bob", **parameters)
    for state in STATES:
        await both.alices(state)
    await both.said("alice", action="getNumberV2", service="tg", country="6", orderId="a")
    assert await both.said("alice", **parameters) != nothing
    assert await both.said("bob", **parameters) == nothing


@pytest.mark.parametrize("action", ["getHistory", "getActiveActivations", "getCurrentActivations"])
async def test_an_order_id_leads_to_ones_own_order_only(both: Two, action: str) -> None:
    bought = {}
    for who in ("alice", "bob"):
        answer = await both.said(who, action="getNumberV2", service="xmute", country="6", orderId=f"of%20{who}")
        assert answer.startswith("{"), answer
        bought[who] = answer.split(":")[1].split(",")[0]
    nothing = await both.said("bob", action=action, orderId="of%20nobody")
    assert await both.said("bob", action=action, orderId="of%20alice") == nothing
    mine = await both.said("bob", action=action, orderId="of%20bob")
    assert bought["bob"] in mine
    assert bought["alice"] not in mine


async def test_balances_and_webhooks_are_ones_own(both: Two) -> None:
    await both.alices("waiting")
    assert await both.said("bob", action="getBalance") == "ACCESS_BALANCE:10.00"
    await both.said("alice", action="setWebhook", url="https://example.com/alice")
    assert await both.said("bob", action="getWebhook") == "NO_WEBHOOK_SET"


async def test_two_keys_of_one_account_see_the_same(both: Two) -> None:
    store, vault = both.house.database.store, both.house.database.vault
    both.house.keys["also alice"] = await store.run(accounts.issue_key, vault, "alice", 0.0)
    activation_id = await both.alices("waiting")
    assert await both.said("also alice", action="getStatus", id=activation_id) == "STATUS_WAIT_CODE"


async def test_a_barred_account_keeps_its_own_and_still_has_nobody_elses(both: Two) -> None:
    activation_id = await both.alices("received")
    await both.house.database.store.run(accounts.bar, "alice", both.house.clock() + 3600)
    await both.house.gateway.callers.refresh()
    assert (await both.said("alice", action="getStatus", id=activation_id)).startswith("STATUS_OK:")
    assert await both.said("bob", action="getStatus", id=activation_id) == "NO_ACTIVATION"
