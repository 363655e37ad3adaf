"""Deposits by an operator's session: booked once, shown, assigned, dismissed; what can't be moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import accounts, audit, deposits, ledger
from gateway.money import Money
from gateway.store import Tx
from tests.compat._rest_client import RestHouse, rest_house
from tests.compat.test_rest_people import OLE, People, inhabited
from tests.harness import environment
from tests.wire import NOON

SECRET = "s" * 64
TOP = "/api/v1/deposits"
PAYMENT = {"account": "alice", "amount": "25.00", "currency": "USD", "reference": "inv-1"}


@dataclass
class Till:
    """Ole books for alice and bob, who have ten dollars each."""

    api: RestHouse
    people: People
    token: str

    async def ask(self, path: str = TOP, body: Any = None, method: str = "POST") -> httpx.Response:
        return await self.people.ask(self.token, method, path, body)

    async def book(self, **changes: Any) -> httpx.Response:
        return await self.ask(body={name: v for name, v in {**PAYMENT, **changes}.items() if v is not None})

    async def micros(self, name: str = "alice") -> int:
        def read(tx: Tx) -> int:
            return ledger.balance(tx, accounts.find(tx, name)["id"]).available.micros

        return await self.api.house.database.store.read(read)

    async def audited(self) -> list[tuple[str, str]]:
        rows = await self.api.house.database.store.read(audit.page)
        entries = [(row["actor"], row["action"]) for row in rows]
        return [entry for entry in entries if entry[1] != "session.open"]

    async def told(self, reference: str = "pi_1", account: str = "nobody", currency: str = "USD") -> str:
        """A payment that somebody signed for and nobody could book; its id."""
        told = deposits.Told("generic", reference, account, Money(5_000_000, currency))
        await self.api.house.database.store.run(deposits.receive, told, NOON)
        found = await self.api.house.database.store.read(deposits.payments, is_open=True)
        return str(found[-1]["id"])


@pytest.fixture
async def till(tmp_path: Path, database_url: str) -> AsyncIterator[Till]:
    async with rest_house(tmp_path, environment(database_url, JWT_SECRET_KEY=SECRET)) as api:
        people = await inhabited(api)
        yield Till(api, people, await people.token(OLE))


@pytest.fixture
async def one(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Till]:
    """The same on SQLite only, for what does not depend on the database."""
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET)) as api:
        people = await inhabited(api)
        yield Till(api, people, await people.token(OLE))


async def test_a_deposit_is_booked_once_for_its_reference(till: Till) -> None:
    first = await till.book(note="by wire")
    assert first.status_code == 201
    assert first.json() == {
        "id": first.json()["id"], "at": "2025-06-01T12:00:00Z", "source": "operator", "reference": "inv-1",
        "state": "booked", "account": "alice", "amount": {"amount": "25.00", "currency": "USD"}, "told_account": "",
        "reason": "", "note": "by wire",
    }  # fmt: skip
    for again in (await till.book(), await till.book(currency=None), await till.book(amount="25")):
        assert (again.status_code, again.content) == (201, first.content)
    assert await till.micros() == 35_000_000
    actor = f"user:{till.people.ids[OLE]}"
    assert await till.audited() == [(actor, "deposit")]
    assert await till.api.house.problems() == []


async def test_a_reference_stands_for_one_amount_and_account(till: Till) -> None:
    await till.book()
    for changes in ({"amount": "25.01"}, {"account": "bob"}):
        refused = await till.book(**changes)
        assert (refused.status_code, refused.json()["code"]) == (409, "reference_used")
    assert (await till.micros(), await till.micros("bob")) == (35_000_000, 10_000_000)
    assert len(await till.audited()) == 1


async def test_the_same_deposit_told_of_at_once_is_booked_once(till: Till) -> None:
    answers = await asyncio.gather(*(till.book() for _ in range(20)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert await till.micros() == 35_000_000


async def test_the_command_line_has_the_same_references(one: Till) -> None:
    await one.book()

    def pay(tx: Tx) -> bool:
        money = Money(25_000_000, "USD")
        account_id = accounts.find(tx, "alice")["id"]
        return deposits.pay_in(tx, account_id, money, "inv-1", deposits.OPERATOR, NOON, "cli")

    assert await one.api.house.database.store.run(pay) is False
    assert await one.micros() == 35_000_000


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        *(({"amount": amount}, "invalid", "/amount") for amount in (
            "0", "0.00", "-1", "NaN", "inf", "1e3", "0.0000001", "25.0000000", "9999999999", "", " 1", "1,5", 25, 25.0,
            True, None,
        )),
        ({"currency": "XYZ"}, "invalid", "/currency"), ({"currency": "EUR"}, "invalid", "/currency"),
        ({"currency": "usd"}, "invalid", "/currency"), ({"currency": ""}, "invalid", "/currency"),
        ({"reference": ""}, "invalid", "/reference"), ({"reference": None}, "invalid", "/reference"),
        ({"reference": "x" * 256}, "invalid", "/reference"), ({"reference": "a\u200bb"}, "invalid", "/reference"),
        ({"reference": "a\nb"}, "invalid", "/reference"), ({"note": "x" * 201}, "invalid", "/note"),
        ({"account": "nobody"}, "unknown_account", None), ({"account": "a b"}, "invalid", "/account"),
        ({"more": 1}, "invalid", "/more"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_deposit_is_refused_and_moves_nothing(
    one: Till, changes: dict[str, Any], code: str, pointer: str | None
) -> None:
    refused = await one.book(**changes)
    assert refused.json()["code"] == code, refused.text
    assert [wrong["pointer"] for wrong in refused.json().get("errors", [])] == ([pointer] if pointer else [])
    assert await one.micros() == 10_000_000
    assert await one.audited() == []
    assert (await one.ask(method="GET")).json()["payments"] == []


async def test_only_operators_book(one: Till) -> None:
    token = await one.people.token()
    for response in (
        await one.people.ask(token, "POST", TOP, PAYMENT),
        await one.people.ask(token, "GET", TOP),
        await one.people.ask(one.api.house.keys["alice"], "POST", TOP, PAYMENT),
    ):
        assert (response.status_code, response.json()["code"]) == (403, "operator_required")
    assert await one.micros() == 10_000_000


async def test_payments_are_listed_by_account_and_by_what_waits(till: Till) -> None:
    for number in range(3):
        await till.book(reference=f"inv-{number}", account="bob" if number == 2 else "alice")
    await till.told()

    async def references(query: str = "") -> list[str]:
        found = (await till.ask(TOP + query, method="GET")).json()
        return [payment["reference"] for payment in found["payments"]]

    assert await references() == ["inv-0", "inv-1", "inv-2", "pi_1"]
    assert await references("?account=alice") == ["inv-0", "inv-1"]
    assert await references("?open=true") == ["pi_1"]
    page = (await till.ask(TOP + "?limit=3", method="GET")).json()
    assert await references(f"?cursor={page['next_cursor']}") == ["pi_1"]
    assert (await till.ask(TOP + "?account=nobody", method="GET")).json()["code"] == "unknown_account"


async def test_what_could_not_be_booked_is_assigned_or_dismissed_once(till: Till) -> None:
    paid, lost = await till.told(), await till.told("pi_2")
    booked = await till.ask(f"{TOP}/{paid}/assign", {"account": "bob"})
    assert (booked.json()["state"], booked.json()["account"]) == ("booked", "bob")
    gone = await till.ask(f"{TOP}/{lost}/dismiss", {"note": "sent back"})
    assert (gone.json()["state"], gone.json()["note"]) == ("dismissed", "sent back")
    for path, body in ((f"{paid}/assign", {"account": "bob"}), (f"{lost}/assign", {"account": "bob"}),
                       (f"{paid}/dismiss", {}), (f"{lost}/dismiss", {})):  # fmt: skip
        again = await till.ask(f"{TOP}/{path}", body)
        assert (again.status_code, again.json()["code"]) == (409, "not_allowed_now")
    assert await till.micros("bob") == 15_000_000
    actor = f"user:{till.people.ids[OLE]}"
    assert [entry for entry in await till.audited() if entry[0] == actor] == [
        (actor, "deposit"), (actor, "deposit.dismiss"),
    ]  # fmt: skip


async def test_what_can_not_be_assigned_stays_open(one: Till) -> None:
    foreign = await one.told("pi_3", "alice", "EUR")
    refused = await one.ask(f"{TOP}/{foreign}/assign", {"account": "alice"})
    assert (refused.json()["code"], refused.json()["errors"][0]["pointer"]) == ("invalid", "/account")
    assert (await one.ask(f"{TOP}/{foreign}/assign", {"account": "nobody"})).json()["code"] == "unknown_account"
    for unknown in ("999999", "9" * 19, "0", "x"):
        for verb, body in (("assign", {"account": "alice"}), ("dismiss", {})):
            assert (await one.ask(f"{TOP}/{unknown}/{verb}", body)).json()["code"] == "unknown_payment"
    assert len((await one.ask(TOP + "?open=true", method="GET")).json()["payments"]) == 1
    assert await one.micros() == 10_000_000
