"""What resellers manage by the JSON API: accounts, rules, keys, money, statements, terms, and what is written of it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import accounts, audit, manage, rules
from gateway.markups import Rule
from gateway.money import plain
from gateway.store import Row, Tx
from tests.compat._rest_client import RestHouse, rest_house
from tests.compat.test_rest_people import People, inhabited
from tests.harness import environment
from tests.wire import NOON

SECRET = "s" * 64
TOP = "/api/v1/accounts"


@dataclass
class Shop:
    """Alice resells; `ask` is what her first key does."""

    api: RestHouse
    people: People
    keys: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> httpx.Response:
        token = key or self.api.house.keys["alice"]
        sent = {"authorization": f"Bearer {token}", **{name.replace("_", "-"): v for name, v in headers.items()}}
        return await self.api.ask(method, path, body, who="", headers=sent)

    async def done(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> Any:
        response = await self.ask(method, path, body, key, **headers)
        assert response.status_code in (200, 201), response.text
        return response.json()

    async def refused(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> str:
        response = await self.ask(method, path, body, key, **headers)
        assert response.headers["content-type"] == "application/problem+json", response.text
        return str(response.json()["code"])

    async def open(self, name: str = "alice.shop", **more: Any) -> Any:
        return await self.done("POST", TOP, {"name": name, **more})

    async def audited(self) -> list[tuple[str, str, str]]:
        rows = await self.api.house.database.store.read(audit.page)
        return [(row["actor"], row["action"], row["subject"]) for row in rows]

    async def pay(self, target: str, amount: str, word: str, **more: str) -> httpx.Response:
        body = {"to": target, "amount": amount, **more}
        return await self.ask("POST", "/api/v1/transfers", body, idempotency_key=word)


@pytest.fixture
async def shop(tmp_path: Path, database_url: str) -> AsyncIterator[Shop]:
    async with rest_house(tmp_path, environment(database_url, JWT_SECRET_KEY=SECRET)) as api:
        yield Shop(api, await inhabited(api))


@pytest.fixture
async def one(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Shop]:
    """The same on SQLite only, for what does not depend on the database."""
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET)) as api:
        yield Shop(api, await inhabited(api))


async def test_a_reseller_opens_accounts_below_its_own_and_sees_those_alone(shop: Shop) -> None:
    made = await shop.ask("POST", TOP, {"name": "alice.shop"})
    assert made.status_code == 201
    assert made.headers["location"] == "/api/v1/accounts/alice.shop"
    assert made.json() == {
        "name": "alice.shop", "parent": "alice", "balance": {"amount": "0.00", "currency": "USD"},
        "held": {"amount": "0.00", "currency": "USD"}, "open_activations": 0, "keys": 0, "is_demo": True,
        "barred_until": None, "suspended_at": None, "created_at": "2025-06-01T12:00:00Z",
    }  # fmt: skip
    await shop.open("alice.shop.till", parent="alice.shop")
    names = [row["name"] for row in (await shop.done("GET", TOP))["accounts"]]
    assert names == ["alice", "alice.shop", "alice.shop.till"]
    children = await shop.done("GET", TOP + "?parent=alice")
    assert [row["name"] for row in children["accounts"]] == ["alice.shop"]
    first = await shop.done("GET", TOP + "?limit=1")
    assert [row["name"] for row in first["accounts"]] == ["alice"]
    rest = await shop.done("GET", f"{TOP}?limit=2&cursor={first['next_cursor']}")
    assert ([row["name"] for row in rest["accounts"]], rest["next_cursor"]) == (names[1:], None)
    assert await shop.refused("POST", TOP, {"name": "alice.shop"}) == "name_taken"
    assert [entry[1] for entry in await shop.audited()] == ["account.create"] * 2


@pytest.mark.parametrize("name", ["bob", "bob.x", "shop", "alice", "alice.", "alice.a.b", "alicex"])
async def test_a_reseller_names_its_accounts_after_its_own(one: Shop, name: str) -> None:
    """So that no answer tells whether somebody else has an account of that name."""
    body = {"name": name}
    assert (await one.ask("POST", TOP, body)).status_code == 422
    there, gone = [await one.ask("POST", TOP, {"name": some}) for some in ("bob", "nobody")]
    assert there.content == gone.content


async def test_a_branch_is_stopped_and_let_go_on(shop: Shop) -> None:
    await shop.open()
    made = await shop.done("POST", TOP + "/alice.shop/keys", {"name": "till"})
    await shop.pay("alice.shop", "5", "a")
    suspended = await shop.done("POST", TOP + "/alice.shop/suspend")
    assert suspended["suspended_at"] == "2025-06-01T12:00:00Z"
    order = {"service": "tg", "country": "ID"}
    await shop.api.house.gateway.callers.refresh()
    assert await shop.refused("POST", "/purchase", order, made["key"]) == "suspended"
    assert await shop.refused("POST", TOP, {"name": "alice.shop.x"}, made["key"]) == "suspended"
    assert (await shop.done("POST", TOP + "/alice.shop/resume"))["suspended_at"] is None
    await shop.api.house.gateway.callers.refresh()
    await shop.done("POST", "/purchase", order, made["key"])
    assert await shop.refused("POST", TOP + "/alice/suspend") == "not_yours"


async def test_rules_are_read_set_as_a_whole_and_not_overwritten_unseen(shop: Shop) -> None:
    await shop.open()
    path = TOP + "/alice.shop/rules"
    before = await shop.ask("GET", path)
    given = {
        "services": ["tg", "wa"], "countries": ["ID", 187], "ip_ranges": ["192.0.2.7"], "dialects": ["rest"],
        "price_max": "0.5", "open_max": 3, "spend_day": "5", "expires_at": "2025-07-01T00:00:00Z",
        "polls_per_minute": 600,
    }  # fmt: skip
    put = await shop.ask("PUT", path, given, if_match=before.headers["etag"])
    assert put.status_code == 200, put.text
    assert put.json() == {
        "services": ["tg", "wa"], "denied_services": [], "countries": [6, 187], "ip_ranges": ["192.0.2.7/32"],
        "dialects": ["rest"], "price_max": "0.50", "open_max": 3, "spend_hour": None, "spend_day": "5.00",
        "spend_month": None, "spend_total": None, "expires_at": "2025-07-01T00:00:00Z", "suspended_at": None,
        "polls_per_minute": 600, "changes_per_minute": None, "currency": "USD", "used": put.json()["used"],
    }  # fmt: skip
    assert {"cap": "day", "used": "0.00", "of": "5.00"} in put.json()["used"]
    assert put.headers["etag"] == (await shop.ask("GET", path)).headers["etag"] != before.headers["etag"]
    assert await shop.refused("PUT", path, {}, if_match=before.headers["etag"]) == "changed_meanwhile"
    assert (await shop.done("GET", path))["services"] == ["tg", "wa"]
    await shop.done("POST", TOP + "/alice.shop/suspend")
    cleared = await shop.done("PUT", path, {}, if_match=put.headers["etag"])
    assert cleared["services"] is None
    assert cleared["suspended_at"] is not None
    assert await shop.refused("PUT", TOP + "/alice/rules", {}) == "not_yours"


@pytest.mark.parametrize(
    "given",
    [
        {"services": []}, {"services": ["zzzzz"]}, {"price_max": "0"}, {"price_max": "-1"}, {"price_max": "NaN"},
        {"price_max": 1}, {"price_max": "0.0000001"}, {"open_max": 0}, {"open_max": True}, {"ip_ranges": ["x"]},
        {"dialects": ["x"]}, {"countries": ["XX"]}, {"expires_at": "2025-06-01"}, {"spend_day": "99999999999"},
        {"suspended_at": None}, {"nonsense": 1}, {"polls_per_minute": 0}, {"polls_per_minute": "5"},
        {"changes_per_minute": 1_000_000_001}, {"changes_per_minute": -1},
    ],
    ids=str,
)  # fmt: skip
async def test_bad_rules_are_refused_and_change_nothing(one: Shop, given: dict[str, Any]) -> None:
    await one.open()
    assert await one.refused("PUT", TOP + "/alice.shop/rules", given) == "invalid"
    assert (await one.done("GET", TOP + "/alice.shop/rules"))["used"] == []


async def test_requests_a_minute_are_a_rule_for_accounts_alone(one: Shop) -> None:
    made = await one.done("POST", TOP + "/alice/keys", {})
    for name in ("polls_per_minute", "changes_per_minute"):
        assert await one.refused("PUT", f"/api/v1/keys/{made['id']}/rules", {name: 5}) == "invalid"
        assert await one.refused("POST", TOP + "/alice/keys", {"rules": {name: 5}}) == "invalid"
    assert await one.refused("PUT", TOP + "/alice/rules", {"polls_per_minute": 5}) == "not_yours"


async def test_keys_are_made_named_ruled_replaced_stopped_and_ended(shop: Shop) -> None:
    path = TOP + "/alice/keys"
    made = await shop.done("POST", path, {"name": "bot", "rules": {"services": ["tg"], "spend_day": "1"}})
    key_id, bot = made["id"], made["key"]
    assert (made["may_manage"], made["name"], made["hint"]) == (False, "bot", bot[:4])
    assert await shop.refused("GET", TOP, key=bot) == "may_not_manage"
    assert await shop.refused("POST", path, {}, key=bot) == "may_not_manage"
    shown = await shop.ask("GET", f"/api/v1/keys/{key_id}")
    assert "key" not in shown.json()
    settings = {"name": "the bot", "dialect": "hero", "polls_per_minute": 7}
    put = await shop.done("PUT", f"/api/v1/keys/{key_id}", settings, if_match=shown.headers["etag"])
    assert (put["name"], put["dialect"], put["polls_per_minute"]) == ("the bot", "hero", 7)
    assert (
        await shop.refused("PUT", f"/api/v1/keys/{key_id}", {}, if_match=shown.headers["etag"]) == "changed_meanwhile"
    )
    found = await shop.done("GET", f"/api/v1/keys/{key_id}/rules")
    assert (found["services"], found["spend_day"]) == (["tg"], "1.00")
    newer = await shop.done("POST", f"/api/v1/keys/{key_id}/rotate", {"grace_seconds": 60})
    assert newer["name"] == "the bot"
    assert await shop.refused("POST", f"/api/v1/keys/{key_id}/rotate", {}) == "key_is_over"
    for verb, code in (("suspend", 401), ("resume", 200), ("revoke", 401)):
        await shop.done("POST", f"/api/v1/keys/{newer['id']}/{verb}")
        await shop.api.house.gateway.callers.refresh()
        assert (await shop.ask("GET", "/balance", key=newer["key"])).status_code == code
    assert (await shop.ask("GET", "/balance", key=bot)).status_code == 401
    ids = [row["id"] for row in (await shop.done("GET", path))["keys"]]
    assert ids[1:] == [key_id, newer["id"]]
    assert [action for _, action, _ in await shop.audited()] == [
        "key.issue", "key.set", "key.rotate", "key.suspend", "key.resume", "key.revoke",
    ]  # fmt: skip


async def test_a_key_that_was_revoked_a_moment_ago_changes_nothing(shop: Shop) -> None:
    """What is known of a key may be a second old; whether it may manage is asked in the transaction."""
    made = await shop.done("POST", TOP + "/alice/keys", {"may_manage": True})
    await shop.done("GET", TOP, key=made["key"])
    run = shop.api.house.database.store.run
    await run(accounts.set_may_manage, made["id"], False)
    assert await shop.refused("POST", TOP, {"name": "alice.x"}, made["key"]) == "may_not_manage"
    await run(accounts.set_may_manage, made["id"], True)
    await run(accounts.revoke_key, made["id"], NOON)
    assert await shop.refused("POST", TOP, {"name": "alice.x"}, made["key"]) == "bad_key"
    assert [row["name"] for row in (await shop.done("GET", TOP))["accounts"]] == ["alice"]


async def test_money_moves_once_for_an_idempotency_key(shop: Shop) -> None:
    await shop.open()
    await shop.open("alice.other")
    answers = await asyncio.gather(*(shop.pay("alice.shop", "2.5", "word", note="march") for _ in range(8)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert answers[0].status_code == 201
    assert answers[0].json() == {
        "id": answers[0].json()["id"], "at": "2025-06-01T12:00:00Z", "from": "alice", "to": "alice.shop",
        "amount": {"amount": "2.50", "currency": "USD"}, "note": "march",
    }  # fmt: skip
    assert await shop.api.house.balance("alice") == (7_500_000, 0, 0)
    assert (await shop.pay("alice.shop", "3", "word")).json()["code"] == "idempotency_key_reused"
    assert (await shop.pay("alice.other", "2.5", "word")).json()["code"] == "idempotency_key_reused"
    assert (await shop.pay("alice.shop", "100", "more")).json()["code"] == "no_balance"
    body = {"to": "alice.shop", "amount": "1"}
    assert await shop.refused("POST", "/api/v1/transfers", body) == "bad_idempotency_key"
    back = await shop.pay("alice", "all", "back", **{"from": "alice.shop"})
    assert back.json()["amount"]["amount"] == "2.50"
    assert await shop.api.house.balance("alice.shop") == (0, 0, 0)
    listed = (await shop.done("GET", "/api/v1/transfers"))["transfers"]
    assert [(row["from"], row["to"]) for row in listed] == [("alice.shop", "alice"), ("alice", "alice.shop")]
    assert await shop.api.house.problems() == []
    assert [entry[1] for entry in await shop.audited()].count("transfer") == 4


@pytest.mark.parametrize("amount", ["0", "0.00", "-1", "NaN", "inf", "1e3", "0.0000001", "99999999999", "", "1,5"])
async def test_bad_amounts_move_nothing(one: Shop, amount: str) -> None:
    await one.open()
    assert (await one.pay("alice.shop", amount, "word")).json()["code"] == "invalid"
    assert await one.api.house.balance("alice") == (10_000_000, 0, 0)


async def test_what_a_parent_paid_is_seen_without_its_name(shop: Shop) -> None:
    await shop.open()
    key = (await shop.done("POST", TOP + "/alice.shop/keys", {}))["key"]
    await shop.pay("alice.shop", "1", "a")
    seen = (await shop.done("GET", "/api/v1/transfers", key=key))["transfers"]
    assert [(row["from"], row["to"]) for row in seen] == [(None, "alice.shop")]
    assert (await shop.done("GET", TOP, key=key))["accounts"][0]["parent"] is None


async def test_a_statement_comes_in_pages_and_as_csv(shop: Shop) -> None:
    await shop.open()
    for number in range(5):
        await shop.pay("alice.shop", f"1.{number}", str(number))
    path = TOP + "/alice/statement"
    first = await shop.done("GET", path + "?limit=4&start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z")
    assert first["currency"] == "USD"
    assert [row["kind"] for row in first["movements"]] == ["deposit"] + ["transfer"] * 3
    second = await shop.done(
        "GET", f"{path}?limit=4&start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z&cursor={first['next_cursor']}"
    )
    assert second["opening_available"] == first["movements"][-1]["available"]
    assert (second["movements"][-1]["available"], second["next_cursor"]) == ("4.00", None)
    response = await shop.ask("GET", path + ".csv?start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["amount"] for row in rows] == ["10.00", "-1.00", "-1.10", "-1.20", "-1.30", "-1.40"]
    assert await shop.refused("GET", path + "?start=2025-06-02T00:00:00Z&end=2025-06-01T00:00:00Z") == "invalid"


async def test_an_operator_manages_every_account_and_a_session_does_what_a_managing_key_does(shop: Shop) -> None:
    ole, ann = await shop.people.token("ole@example.com"), await shop.people.token("ann@example.com")
    await shop.done("POST", TOP, {"name": "carol", "currency": "EUR"}, ole)
    await shop.done("POST", TOP, {"name": "dave", "parent": "carol"}, ole)
    names = [row["name"] for row in (await shop.done("GET", TOP, key=ole))["accounts"]]
    assert names == ["alice", "bob", "carol", "dave"]
    await shop.done("POST", TOP, {"name": "alice.new"}, ann)
    assert [row["name"] for row in (await shop.done("GET", TOP, key=ann))["accounts"]] == ["alice", "alice.new"]
    await shop.done("PUT", TOP + "/alice/rules", {"denied_services": ["wa"]}, ole)
    actors = {actor for actor, _, _ in await shop.audited()}
    assert actors == {f"user:{shop.people.ids[email]}" for email in ("ole@example.com", "ann@example.com")}
    body = {"to": "carol", "amount": "1"}
    assert await shop.refused("POST", "/api/v1/transfers", body, ole, idempotency_key="x") == "invalid"


async def test_the_audit_log_shows_ones_own_branch(shop: Shop) -> None:
    ole = await shop.people.token("ole@example.com")
    await shop.open()
    await shop.done("POST", TOP + "/bob/suspend", key=ole)
    response = await shop.ask("GET", "/api/v1/audit")
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [(line["action"], line["detail"]) for line in lines] == [
        ("account.create", {"name": "alice.shop", "parent": "alice"})
    ]
    assert (await shop.ask("GET", f"/api/v1/audit?after={lines[-1]['id']}")).text == ""
    everything = [
        json.loads(line)["action"] for line in (await shop.ask("GET", "/api/v1/audit", key=ole)).text.splitlines()
    ]
    assert everything == ["session.open", "account.create", "account.suspend"]


async def test_first_keys_may_manage_and_others_may_not_unless_told(shop: Shop) -> None:
    def made(tx: Tx) -> list[bool]:
        vault = shop.api.house.database.vault
        accounts.create(tx, "zed", "USD", NOON, is_demo=True)
        given: list[dict[str, Any]] = [{}, {}, {"may_manage": True}, {"changes": {"open_max": 1}, "may_manage": True}]
        ids = [accounts.new_key(tx, vault, "zed", NOON, **more).id for more in given]
        ids.append(accounts.rotate_key(tx, vault, ids[0], NOON, 0).id)
        accounts.create(tx, "yan", "USD", NOON, is_demo=True)
        ids.append(accounts.new_key(tx, vault, "yan", NOON, changes={"services": frozenset({"tg"})}).id)
        return [bool(accounts.find_key(tx, key_id)["may_manage"]) for key_id in ids]

    found = await shop.api.house.database.store.run(made)
    assert found == [True, False, True, True, True, False]


async def test_vouchers_are_issued_redeemed_once_and_revoked(shop: Shop) -> None:
    await shop.open()
    made = await shop.done("POST", TOP + "/alice/vouchers", {"count": 3, "amount": "1.50", "note": "march"})
    assert await shop.api.house.balance("alice") == (5_500_000, 0, 0)
    code = made["codes"][0]
    answers = await asyncio.gather(
        *(shop.ask("POST", TOP + "/alice.shop/redeem", {"code": code.lower()}) for _ in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    assert await shop.api.house.balance("alice.shop") == (1_500_000, 0, 0)
    bob = shop.api.house.keys["bob"]
    unknown = await shop.refused("POST", TOP + "/bob/redeem", {"code": made["codes"][1]}, bob)
    assert unknown == "voucher_unknown"
    assert await shop.refused("POST", TOP + "/alice/redeem", {"code": code[:-1] + "%"}) == "voucher_mistyped"
    batch = (await shop.done("GET", TOP + "/alice/vouchers"))["batches"][0]
    assert (batch["open"], batch["redeemed"], batch["note"]) == (2, 1, "march")
    shown = (await shop.done("GET", f"/api/v1/vouchers/{made['id']}"))["vouchers"]
    assert [row["redeemed_by"] for row in shown] == ["alice.shop", None, None]
    revoked = await shop.done("POST", f"/api/v1/vouchers/{made['id']}/revoke")
    assert (revoked["open"], revoked["revoked"]) == (0, 2)
    assert await shop.refused("POST", f"/api/v1/vouchers/{made['id']}/revoke", key=bob) == "unknown_batch"
    assert await shop.api.house.balance("alice") == (8_500_000, 0, 0)
    assert await shop.refused("POST", TOP + "/alice/vouchers", {"amount": "100"}) == "no_balance"
    assert await shop.api.house.problems() == []


async def test_a_parent_says_that_its_money_recharges_a_child(shop: Shop) -> None:
    await shop.open()
    path = TOP + "/alice.shop/recharge"
    before = await shop.ask("GET", path)
    assert before.json() == {"account": "alice.shop", "recharge": None}
    rule = {"source": "parent", "threshold": "1", "amount": "2", "month_max": "3"}
    put = await shop.ask("PUT", path, rule, if_match=before.headers["etag"])
    assert put.json()["recharge"]["amount"] == "2.00"
    assert await shop.refused("PUT", path, rule, if_match=before.headers["etag"]) == "changed_meanwhile"
    assert await shop.refused("PUT", path, {**rule, "amount": "4"}) == "invalid"
    assert await shop.refused("PUT", TOP + "/alice/recharge", rule) == "not_yours"
    assert (await shop.ask("DELETE", path)).status_code == 204
    assert (await shop.done("GET", path))["recharge"] is None


async def test_terms_are_accepted_before_accounts_are_put_below(tmp_path: Path, sqlite_url: str) -> None:
    gateway = '[lawful]\nterms_version = "2025-05"\n'
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET), gateway=gateway) as api:
        shop = Shop(api, await inhabited(api))
        assert await shop.refused("POST", TOP, {"name": "alice.shop"}) == "terms_not_accepted"
        path = TOP + "/alice/terms"
        assert await shop.done("GET", path) == {
            "account": "alice", "version": "2025-05", "accepted_at": None, "accepted_by": None
        }  # fmt: skip
        assert await shop.refused("POST", path, {"version": "2024"}) == "terms_not_in_force"
        ann = await shop.people.token("ann@example.com")
        for _ in range(2):
            accepted = await shop.done("POST", path, {"version": "2025-05"}, ann)
            assert accepted["accepted_by"] == f"user:{shop.people.ids['ann@example.com']}"
        await shop.open()
        actions = [entry[1] for entry in await shop.audited()]
        assert actions == ["session.open", "terms.accept", "account.create"]
        ole = await shop.people.token("ole@example.com")
        await shop.done("POST", TOP, {"name": "top"}, ole)


async def test_a_denied_service_is_not_listed_and_not_sold(tmp_path: Path, sqlite_url: str) -> None:
    gateway = '[lawful]\ndenied_services = ["wa", "ts"]\n'
    async with rest_house(tmp_path, environment(sqlite_url), gateway=gateway) as api:
        assert not {"wa", "ts"} & {row["code"] for row in (await api.get("/services"))["services"]}
        assert not [row for row in (await api.get("/api/v1/prices"))["prices"] if row["service"] in ("wa", "ts")]
        response = await api.ask("POST", "/purchase", {"service": "wa", "country": "ID"})
        assert response.json()["code"] == "no_numbers"
        await api.buy("tg")


def test_the_rules_left_out_of_put_are_those_with_verbs_of_their_own() -> None:
    from compat._rest_reseller_models import NewRules

    assert set(NewRules.model_fields) == set(rules.COLUMNS) - {"suspended_at"}


MARKUPS = TOP + "/alice/markups"


async def test_markups_are_set_as_a_whole_in_their_order_and_not_overwritten_unseen(shop: Shop) -> None:
    await shop.open()
    before = await shop.ask("GET", MARKUPS)
    assert before.json() == {"account": "alice", "markups": []}
    given = [
        {"services": ["wa", "tg"], "countries": ["ID"], "percent": "12.5", "add": "0.01", "step": "0.05"},
        {"child": "alice.shop", "percent": "5"},
        {"add": "0.02"},
    ]
    put = await shop.ask("PUT", MARKUPS, {"markups": given}, if_match=before.headers["etag"])
    assert put.status_code == 200, put.text
    unset: dict[str, Any] = {
        "services": [],
        "countries": [],
        "child": None,
        "percent": "0",
        "add": "0.00",
        "step": "0.0001",
    }
    first = {"services": ["tg", "wa"], "countries": [6], "percent": "12.5", "add": "0.01", "step": "0.05"}
    shown = [{**unset, **first}, {**unset, "child": "alice.shop", "percent": "5"}, {**unset, "add": "0.02"}]
    assert put.json() == {"account": "alice", "markups": shown}
    again = await shop.ask("GET", MARKUPS)
    assert (again.json(), again.headers["etag"]) == (put.json(), put.headers["etag"])
    assert await shop.refused("PUT", MARKUPS, {"markups": []}, if_match=before.headers["etag"]) == "changed_meanwhile"
    assert await shop.refused("DELETE", MARKUPS, if_match=before.headers["etag"]) == "changed_meanwhile"
    turned = {"markups": given[::-1][:2]}
    ids = {rule.markup: rule.id for rule in await rules_of(shop)}
    assert (await shop.done("PUT", MARKUPS, turned, if_match=put.headers["etag"]))["markups"] == shown[::-1][:2]
    assert all(ids[rule.markup] == rule.id for rule in await rules_of(shop))
    for _ in range(2):
        assert (await shop.ask("DELETE", MARKUPS)).status_code == 204
    assert (await shop.done("GET", MARKUPS))["markups"] == []
    account = await shop.api.house.database.store.read(accounts.find, "alice")
    noted = [entry[1:] for entry in await shop.audited() if entry[1] == "account.markups"]
    assert noted == [("account.markups", f"account:{account['id']}")] * 4


async def rules_of(shop: Shop) -> list[Rule]:
    found: list[Rule] = await shop.api.house.database.store.read(manage.markups_of, None, "alice")
    return found


@pytest.mark.parametrize(
    "given",
    [
        {"services": ["zzzzz"]}, {"countries": ["XX"]}, {"percent": "-1"}, {"percent": "0.00001"}, {"percent": 20},
        {"percent": "100001"}, {"add": "-0.01"}, {"add": "0.0000001"}, {"step": "0"}, {"step": "0.00005"},
        {"child": "alice"}, {"child": "bob"}, {"child": "nobody"}, {"child": "alice.shop.till"}, {"nonsense": 1},
    ],
    ids=str,
)  # fmt: skip
async def test_bad_markups_are_refused_and_change_nothing(one: Shop, given: dict[str, Any]) -> None:
    await one.open()
    await one.open("alice.shop.till", parent="alice.shop")
    kept = await one.done("PUT", MARKUPS, {"markups": [{"percent": "3"}]})
    assert await one.refused("PUT", MARKUPS, {"markups": [{"percent": "2"}, given]}) == "invalid"
    assert await one.refused("PUT", MARKUPS, {"markups": [{"percent": "2"}, {"percent": "4"}]}) == "invalid"
    assert await one.refused("PUT", MARKUPS, {"markups": [{"percent": "2"}] * 201}) == "invalid"
    assert await one.done("GET", MARKUPS) == kept


async def test_a_markup_for_somebody_elses_account_says_no_more_than_for_nobodys(one: Shop) -> None:
    there, gone = [
        await one.ask("PUT", MARKUPS, {"markups": [{"child": some, "percent": "1"}]}) for some in ("bob", "nobody")
    ]
    assert (there.status_code, there.content) == (422, gone.content)


async def test_usage_tells_a_reseller_what_it_earned_and_nothing_of_the_operator(shop: Shop) -> None:
    await shop.open()
    key = (await shop.done("POST", TOP + "/alice.shop/keys", {}))["key"]
    await shop.pay("alice.shop", "5", "a")
    await shop.done("PUT", MARKUPS, {"markups": [{"add": "0.03"}]})
    await shop.api.house.gateway.callers.refresh()
    for word in (key, ""):
        await shop.done("POST", "/purchase", {"service": "tg", "country": "ID"}, word)
    await shop.api.house.passes(2.0)
    paid = {row["id"]: row for row in await held(shop)}
    below, own = (micros["price"] for _, micros in sorted(paid.items()))
    report = await shop.done("GET", TOP + "/alice/usage?by=account,service")
    assert (report["account"], report["start"], report["end"]) == ("alice", "2025-06-01", "2025-06-02")
    common = {
        "day": None, "key": None, "service": "tg", "country": None, "upstream": None, "bought": 1, "delivered": 1,
        "cancelled": 0, "expired": 0,
    }  # fmt: skip
    assert report["lines"] == [
        {**common, "account": name, "spent": usd(spent), "margin": usd(margin)}
        for name, spent, margin in (("alice", own, 0), ("alice.shop", below, below - own))
    ]
    assert below - own == 30_000
    (line,) = (await shop.done("GET", TOP + "/alice.shop/usage", key=key))["lines"]
    assert (line["day"], line["spent"], line["margin"]) == ("2025-06-01", usd(below), usd(0))
    told = await shop.ask("GET", TOP + "/alice/usage.csv?by=account")
    assert told.headers["content-type"] == "text/csv; charset=utf-8"
    assert told.text.splitlines() == [
        "account,bought,delivered,cancelled,expired,spent,currency,margin",
        f"alice,1,1,0,0,{plain(own)},USD,0.00 USD",
        f"alice.shop,1,1,0,0,{plain(below)},USD,0.03 USD",
    ]
    assert (await shop.done("GET", TOP + "/alice/usage?start=2025-05-01&end=2025-06-01"))["lines"] == []
    for query in ("by=upstream", "by=day,upstream", "by=day,day", "by=cost", "by=", "start=1748736000",
                  "end=2025-05-01", "start=2001-01-01", "end=9999-12-31", "start=2025-13-01"):  # fmt: skip
        assert await shop.refused("GET", f"{TOP}/alice/usage?{query}") == "invalid", query
        assert await shop.refused("GET", f"{TOP}/alice/usage.csv?{query}") == "invalid", query
    operator = await shop.people.token("ole@example.com")
    (line,) = (await shop.done("GET", TOP + "/alice.shop/usage?by=upstream", key=operator))["lines"]
    assert (line["upstream"], line["margin"]) == ("sandbox", usd(0))


async def held(shop: Shop) -> Sequence[Row]:
    def read(tx: Tx) -> Sequence[Row]:
        return tx.all("select id, price from activations order by id")

    return await shop.api.house.database.store.read(read)


def usd(micros: int) -> dict[str, str]:
    return {"amount": plain(micros), "currency": "USD"}
