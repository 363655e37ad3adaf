"""Requests a minute as a rule of an account: one measure for all its keys and everybody below it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import accounts
from gateway.accounts import Caller
from gateway.limits import Limits
from gateway.rules import Pace, Rules, paces
from gateway.store import Tx
from tests.compat._rest_client import rest_house
from tests.compat.test_rest_people import OLE, inhabited
from tests.compat.test_rest_resellers import TOP, Shop
from tests.harness import environment, run_cli

SECRET = "s" * 64
ORDER = {"service": "xmute", "country": "ID"}


@pytest.fixture
async def one(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Shop]:
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET)) as api:
        found = Shop(api, await inhabited(api))
        await found.open()
        found.keys["shop"] = (await found.done("POST", TOP + "/alice.shop/keys", {}))["key"]
        found.keys["second"] = (await found.done("POST", TOP + "/alice/keys", {}))["key"]
        await found.pay("alice.shop", "5", "a")
        # Time stands still for paces, too.
        front = api.house.gateway.front
        front.limits._ticks = lambda: 1000.0
        front.limits._due.clear()
        yield found


async def rule(shop: Shop, account: str, **rules: int | None) -> None:
    def change(tx: Tx) -> None:
        accounts.set_rules(tx, account, rules, shop.api.house.clock())

    await shop.api.house.database.store.run(change)
    await shop.api.house.gateway.callers.refresh()


async def callers(shop: Shop) -> dict[str, Caller]:
    keys = {**shop.api.house.keys, **shop.keys}
    return {name: await shop.api.house.gateway.callers.caller(key) for name, key in keys.items()}


async def test_changes_of_all_keys_of_a_branch_are_counted_together(one: Shop) -> None:
    await rule(one, "alice", changes_per_minute=3)
    alice, shop, second = one.api.house.keys["alice"], one.keys["shop"], one.keys["second"]
    for key in (alice, shop, second):
        await one.done("POST", "/purchase", ORDER, key)
    for key in (alice, shop, second):
        assert await one.refused("POST", "/purchase", ORDER, key) == "too_many_requests"
    await one.done("POST", "/purchase", ORDER, one.api.house.keys["bob"])


async def test_a_branch_that_has_used_its_own_leaves_the_rest_to_the_others(one: Shop) -> None:
    await rule(one, "alice", changes_per_minute=3)
    await rule(one, "alice.shop", changes_per_minute=1)
    await one.done("POST", "/purchase", ORDER, one.keys["shop"])
    for _ in range(5):
        assert await one.refused("POST", "/purchase", ORDER, one.keys["shop"]) == "too_many_requests"
    for _ in range(2):
        await one.done("POST", "/purchase", ORDER)
    assert await one.refused("POST", "/purchase", ORDER) == "too_many_requests"


async def test_a_key_s_own_limit_does_not_lift_it_above_the_rule(one: Shop) -> None:
    await rule(one, "alice", changes_per_minute=2)
    made = await one.done("POST", TOP + "/alice/keys", {"changes_per_minute": 1000, "polls_per_minute": 1_000_000})
    await one.done("POST", "/purchase", ORDER, made["key"])
    assert await one.refused("POST", "/purchase", ORDER, made["key"]) == "too_many_requests"


async def test_polls_of_a_branch_share_one_pace_without_the_database(one: Shop) -> None:
    await rule(one, "alice", polls_per_minute=30)
    found, front = await callers(one), one.api.house.gateway.front
    with one.api.house.database_away():
        assert [front.late_seconds(found[name]) for name in ("alice", "shop", "second") * 10] == [0.0] * 30
        for name in ("alice", "shop", "second"):
            assert front.late_seconds(found[name]) > 0
        assert front.late_seconds(found["bob"]) == 0


async def test_a_flood_from_below_is_not_taken_from_the_others(one: Shop) -> None:
    await rule(one, "alice", polls_per_minute=30)
    await rule(one, "alice.shop", polls_per_minute=5)
    found, front = await callers(one), one.api.house.gateway.front
    late = [front.late_seconds(found["shop"]) for _ in range(100)]
    assert late[:5] == [0.0] * 5
    assert min(late[5:]) > 1
    assert [front.late_seconds(found["alice"]) for _ in range(25)] == [0.0] * 25
    assert front.late_seconds(found["alice"]) > 0


async def test_a_rule_that_is_taken_away_counts_no_more(one: Shop) -> None:
    await rule(one, "alice", changes_per_minute=1, polls_per_minute=1)
    assert [pace.changes for pace in (await callers(one))["shop"].paces] == [1]
    await rule(one, "alice", changes_per_minute=None, polls_per_minute=None)
    assert (await callers(one))["shop"].paces == ()


async def test_operators_and_resellers_above_set_it_and_the_command_line_too(one: Shop) -> None:
    put = await one.done("PUT", TOP + "/alice.shop/rules", {"polls_per_minute": 7, "changes_per_minute": 8})
    assert (put["polls_per_minute"], put["changes_per_minute"], put["used"]) == (7, 8, [])
    token = await one.people.token(OLE)
    response = await one.people.ask(token, "PUT", TOP + "/alice/rules", {"polls_per_minute": 9})
    assert response.json()["polls_per_minute"] == 9


def test_the_command_line_sets_shows_and_takes_it_away(sqlite_url: str, tmp_path: Path) -> None:
    from tests.harness import config_directory

    values, directory = environment(sqlite_url), config_directory(tmp_path)

    def account(*arguments: str) -> str:
        done = run_cli(values, directory, "account", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    account("create", "acme")
    shown = account("rules", "acme", "--polls-per-minute", "600", "--changes-per-minute", "60")
    assert "polls_per_minute    600" in shown
    assert "changes_per_minute  60" in shown
    assert "polls_per_minute" not in account("rules", "acme", "--polls-per-minute", "none")


def test_the_account_s_own_pace_comes_first() -> None:
    top, leaf = Rules(polls_per_minute=1), Rules(changes_per_minute=2)
    assert paces([("account:1", top), ("account:2", Rules()), ("account:3", leaf)]) == (
        Pace("account:3", None, 2), Pace("account:1", 1, None),
    )  # fmt: skip


def test_names_and_ids_have_paces_of_their_own() -> None:
    limits = Limits(ticks=lambda: 0.0)
    assert [limits.turn_seconds(who, 1) for who in (5, "account:5", 6)] == [0.0] * 3
    assert limits.turn_seconds("account:5", 1) > 0
