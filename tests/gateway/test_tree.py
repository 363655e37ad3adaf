"""Accounts in a tree: who is below whom, what stops a whole branch, keys that replace each other, money that moves."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gateway import accounts, ledger, levels, migrations, tree
from gateway.accounts import AccountError, Caller, Callers
from gateway.database import open_database
from gateway.errors import BadKey, CallerError, NoBalance
from gateway.ledger import TransferError
from gateway.money import Money
from gateway.rules import EVERYTHING, NO_RULES
from tests.gateway.branches import AT, Branches, usd
from tests.harness import environment


@pytest.fixture
async def branches(database_url: str) -> AsyncIterator[Branches]:
    """top, mid below it, leaf below that, and a stranger."""
    found = Branches(await asyncio.to_thread(open_database, environment(database_url)))
    for name, parent in (("top", None), ("mid", "top"), ("leaf", "mid"), ("stranger", None)):
        await found.grow(name, parent)
    yield found
    assert await found.problems() == []
    await found.store.close()


def callers(branches: Branches, at: float = AT) -> Callers:
    return Callers(branches.store, branches.database.vault, lambda: at)


async def caller(branches: Branches, key: str, at: float = AT) -> Caller:
    """As a process sees it that looks for the first time."""
    return await callers(branches, at).caller(branches.plain[key])


async def works(branches: Branches, key: str, at: float = AT) -> bool:
    try:
        await caller(branches, key, at)
    except BadKey:
        return False
    return True


# Who is below whom


async def test_an_account_knows_everybody_above_it(branches: Branches) -> None:
    top, mid, leaf, stranger = branches.ids.values()
    assert await branches.run(tree.line, leaf) == [top, mid, leaf]
    assert await branches.run(tree.below, top) == [top, mid, leaf]
    assert await branches.run(tree.is_within, leaf, top)
    for one, other in ((top, leaf), (stranger, top), (leaf, stranger)):
        assert not await branches.run(tree.is_within, one, other)


async def test_nobody_is_their_own_parent(branches: Branches) -> None:
    with pytest.raises(AccountError, match="can't be its own parent"):
        await branches.run(accounts.create, "loop", "USD", AT, is_demo=False, parent="loop")
    assert [row["name"] for row in await branches.run(accounts.overview)] == ["leaf", "mid", "stranger", "top"]


async def test_a_child_is_of_its_parents_kind(branches: Branches) -> None:
    with pytest.raises(AccountError, match="top is no demo account, and so are its children"):
        await branches.run(accounts.create, "toy", "USD", AT, is_demo=True, parent="top")


async def test_a_tree_is_only_so_deep(branches: Branches) -> None:
    names = ["top", *(f"level-{number}" for number in range(2, tree.LEVELS_MAX + 1))]
    for parent, name in pairwise(names):
        await branches.grow(name, parent, 0)
    with pytest.raises(AccountError, match="16 levels at most"):
        await branches.grow("too-deep", names[-1], 0)
    assert await branches.tries(names[-1], 0) == "ok"
    with pytest.raises(AccountError, match="there is no account too-deep"):
        await branches.run(accounts.find, "too-deep")


async def test_the_tree_is_shown_parents_first(branches: Branches) -> None:
    await branches.grow("aside", "top")
    shown = [(row["name"], row["depth"]) for row in await branches.run(accounts.in_tree)]
    assert shown == [("stranger", 0), ("top", 0), ("aside", 1), ("mid", 1), ("leaf", 2)]
    below = [(row["name"], row["depth"]) for row in await branches.run(accounts.in_tree, branches.ids["mid"])]
    assert below == [("mid", 0), ("leaf", 1)]


async def test_from_within_an_account_others_do_not_exist(branches: Branches) -> None:
    mid = branches.ids["mid"]
    assert (await branches.run(accounts.find, "leaf", mid))["id"] == branches.ids["leaf"]
    for name in ("top", "stranger", "nobody"):
        with pytest.raises(AccountError, match=f"^there is no account {name}$"):
            await branches.run(accounts.find, name, mid)
        with pytest.raises(AccountError, match=f"^there is no account {name}$"):
            await branches.run(accounts.set_rules, name, {"open_max": 1}, AT, within=mid)
    for change in (accounts.suspend, accounts.resume):
        with pytest.raises(AccountError, match="set by those above it"):
            await branches.run(change, "mid", AT, within=mid)
    await branches.run(accounts.suspend, "leaf", AT, within=mid)
    await branches.run(accounts.resume, "leaf", AT, within=mid)
    assert (await branches.run(accounts.find_key, branches.keys["leaf"], mid))["account"] == "leaf"
    for key_id in (branches.keys["top"], branches.keys["stranger"], 999, -1, 2**70):
        with pytest.raises(AccountError, match=f"^there is no key {key_id}$"):
            await branches.run(accounts.find_key, key_id, mid)


async def test_accounts_from_before_there_was_a_tree_get_their_places(tmp_path: Path) -> None:
    """By the migration; and by their first purchase where an older program makes one later."""
    values = environment(f"sqlite:///{tmp_path}/simroute.db")
    branches = Branches(open_database(values))
    for name, parent in (("top", None), ("mid", "top"), ("leaf", "mid")):
        await branches.grow(name, parent)
    before = await branches.run(lambda tx: [tuple(row) for row in tx.all("select * from account_tree order by 1, 2")])
    await branches.run(lambda tx: tx.execute("delete from account_tree"))
    assert len(await branches.problems()) == 3
    await branches.rules("top", services=frozenset({"wa"}))
    assert await branches.tries("leaf") == "no_numbers"
    await branches.rules("top", services=None)
    assert await branches.tries("leaf") == "ok"
    assert await branches.problems() == []
    await branches.store.close()
    filled = _migrated(tmp_path / "old.db", [(1, None), (2, 1), (3, 2)])
    assert filled == before


def _migrated(path: Path, parents: list[tuple[int, int | None]]) -> list[tuple[Any, ...]]:
    """The tree a migration makes of accounts as an older version wrote them."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations.HERE))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    command.upgrade(config, "0005")
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "insert into accounts (id, name, parent_id, currency, is_demo, created_at) values (?, ?, ?, 'USD', 0, 0)",
            [(number, f"account-{number}", parent) for number, parent in parents],
        )
    command.upgrade(config, "head")
    with sqlite3.connect(path) as connection:
        return connection.execute("select * from account_tree order by 1, 2").fetchall()


# Stopping


@pytest.mark.parametrize("name", ["top", "mid", "leaf"])
async def test_a_suspension_stops_everybody_below_at_once(branches: Branches, name: str) -> None:
    """In the very next hold, whatever a server still remembers of its callers."""
    await branches.run(accounts.suspend, name, AT + 500)
    names = ["top", "mid", "leaf"]
    stopped = names[names.index(name) :]
    for one in names:
        assert await branches.tries(one) == ("suspended" if one in stopped else "ok")
        assert ((await caller(branches, one)).suspended_at is not None) is (one in stopped)
    assert await branches.tries("stranger") == "ok"
    await branches.run(accounts.resume, name, AT)
    assert [await branches.tries(one) for one in names] == ["ok", "ok", "ok"]


async def test_what_is_open_is_given_back_while_its_account_is_suspended(branches: Branches) -> None:
    order = await branches.buy("leaf")
    await branches.run(accounts.suspend, "top", AT)
    await branches.end(order)
    assert await branches.balance("leaf") == (10_000_000, 0, 0)


async def test_an_account_ends_when_its_time_is_over(branches: Branches) -> None:
    await branches.rules("mid", expires_at=AT + 60)
    assert await branches.tries("leaf", at=AT + 59.9) == "ok"
    assert await branches.tries("leaf", at=AT + 60) == "suspended"
    assert (await caller(branches, "leaf")).suspended_at == AT + 60
    assert await works(branches, "leaf", AT + 61)


async def test_a_bar_is_for_everybody_below(branches: Branches) -> None:
    await branches.run(accounts.bar, "top", AT + 60)
    assert await branches.tries("leaf") == "barred"
    assert await branches.tries("leaf", at=AT + 60) == "ok"
    await branches.run(accounts.bar, "mid", AT + 600)
    assert (await caller(branches, "leaf")).barred_until == AT + 600


@pytest.mark.parametrize("rule", [{"services": frozenset({"wa"})}, {"denied_services": frozenset({"tg"})},
                                  {"countries": frozenset({7})}, {"price_max": 99_999}])  # fmt: skip
@pytest.mark.parametrize("name", ["top", "leaf", "key"])
async def test_what_is_not_allowed_is_not_held(branches: Branches, rule: dict[str, Any], name: str) -> None:
    before = await caller(branches, "leaf")
    assert before.allowed is EVERYTHING
    await (branches.key_rules("leaf", **rule) if name == "key" else branches.rules(name, **rule))
    assert await branches.tries("leaf") == "no_numbers"
    assert await branches.balance("leaf") == (10_000_000, 0, 0)
    now = (await caller(branches, "leaf")).allowed
    assert not now.sells("tg", 6) or now.price_max == 99_999
    assert await branches.tries("stranger") == "ok"


# Keys


@pytest.mark.parametrize("how", ["revoke", "suspend", "expire"])
async def test_a_key_that_has_ended_can_do_nothing_at_once(branches: Branches, how: str) -> None:
    if how == "revoke":
        await branches.run(accounts.revoke_key, branches.keys["leaf"], AT + 500)
    else:
        await branches.key_rules("leaf", **{"suspended_at" if how == "suspend" else "expires_at": AT})
    assert await branches.tries("leaf") == "bad_key"
    assert not await works(branches, "leaf")
    assert await works(branches, "mid")


async def test_a_key_runs_out_without_being_looked_up_again(branches: Branches) -> None:
    await branches.key_rules("leaf", expires_at=AT + 10)
    now = [AT]
    found = Callers(branches.store, branches.database.vault, lambda: now[0])
    assert (await found.caller(branches.plain["leaf"])).ends_at == AT + 10
    now[0] = AT + 10
    with pytest.raises(BadKey):
        await found.caller(branches.plain["leaf"])


async def rotate(branches: Branches, key: str, name: str, grace_seconds: float) -> None:
    made = await branches.run(accounts.rotate_key, branches.database.vault, branches.keys[key], AT, grace_seconds)
    assert made.key not in repr(made)
    branches.keys[name], branches.plain[name] = made.id, made.key


async def test_a_replaced_key_works_for_its_grace_time_under_the_same_rules(branches: Branches) -> None:
    await branches.key_rules("leaf", spend_total=250_000, services=frozenset({"tg"}))
    assert await branches.tries("leaf") == "ok"
    await rotate(branches, "leaf", "new", 60)
    assert await works(branches, "leaf", AT + 59)
    assert not await works(branches, "leaf", AT + 60)
    assert (await caller(branches, "new", AT + 61)).allowed.services == frozenset({"tg"})
    assert [await branches.tries(name) for name in ("new", "leaf")] == ["ok", "no_balance"]
    assert await branches.counter(f"key:{branches.keys['leaf']}", "total") == 200_000
    assert await branches.tries("leaf", 1, at=AT + 60) == "bad_key"
    await branches.key_rules("new", open_max=2, force=True)
    assert (await branches.run(accounts.rules_of_key, branches.keys["leaf"], AT)).rules.open_max == 2
    rows = await branches.run(accounts.keys, "leaf")
    assert [(row["name"], row["retires_at"]) for row in rows] == [("leaf", AT + 60), ("leaf", None)]


async def test_a_key_is_replaced_once_and_only_while_it_works(branches: Branches) -> None:
    await rotate(branches, "leaf", "new", 0)
    assert not await works(branches, "leaf")
    with pytest.raises(AccountError, match="replaced already"):
        await rotate(branches, "leaf", "newer", 60)
    await rotate(branches, "new", "newer", 60)
    await branches.run(accounts.revoke_key, branches.keys["newer"], AT)
    assert [await works(branches, name) for name in ("leaf", "new", "newer")] == [False, False, False]
    with pytest.raises(AccountError, match="is revoked"):
        await rotate(branches, "newer", "newest", 60)
    for grace in (-1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(AccountError, match="a grace time is from 0"):
            await rotate(branches, "mid", "other", grace)
    with pytest.raises(AccountError, match="there is no key 999"):
        await branches.run(accounts.rotate_key, branches.database.vault, 999, AT, 60)


async def test_revoking_a_replaced_key_leaves_its_successor(branches: Branches) -> None:
    await rotate(branches, "leaf", "new", 60)
    await branches.run(accounts.revoke_key, branches.keys["leaf"], AT)
    assert (await works(branches, "leaf"), await works(branches, "new")) == (False, True)


async def test_two_who_rotate_a_key_at_once_get_one_key(branches: Branches) -> None:
    done = await asyncio.gather(*(rotate(branches, "leaf", f"new-{n}", 60) for n in range(5)), return_exceptions=True)
    assert sum(isinstance(one, AccountError) for one in done) == 4


async def test_names_of_keys_are_plain(branches: Branches) -> None:
    await branches.run(accounts.rename_key, branches.keys["leaf"], "Büro 2")
    assert [row["name"] for row in await branches.run(accounts.keys, "leaf")] == ["Büro 2"]
    for label in ("x" * 101, "a\nb", "\x00"):
        with pytest.raises(AccountError, match="a key's name has up to 100"):
            await branches.run(accounts.rename_key, branches.keys["leaf"], label)


async def test_a_key_with_bad_rules_is_not_made(branches: Branches) -> None:
    before = await branches.run(accounts.keys)
    with pytest.raises(ValueError, match="open_max is from 1"):
        await branches.key("leaf", "bad", open_max=0)
    assert await branches.run(accounts.keys) == before


# Transfers


async def transfer(branches: Branches, one: str, other: str, money: Money | None, reference: str = "") -> Money:
    found: Money = await branches.run(
        ledger.transfer, branches.ids[one], branches.ids[other], money, AT, actor="test", reference=reference
    )
    return found


async def available(branches: Branches) -> list[int]:
    return [(await branches.balance(name))[0] for name in branches.ids]


async def test_money_goes_down_and_comes_back(branches: Branches) -> None:
    await transfer(branches, "top", "leaf", usd(4_000_000))
    await transfer(branches, "leaf", "mid", usd(1_000_001))
    assert await available(branches) == [6_000_000, 11_000_001, 12_999_999, 10_000_000]


async def test_what_is_held_stays_when_all_is_reclaimed(branches: Branches) -> None:
    await branches.buy("leaf", 3_000_000)
    assert await transfer(branches, "leaf", "top", None) == usd(7_000_000)
    assert await branches.balance("leaf") == (0, 3_000_000, 1)
    with pytest.raises(TransferError, match="nothing to transfer"):
        await transfer(branches, "leaf", "top", None)


async def test_a_reference_moves_money_once(branches: Branches) -> None:
    for _ in range(3):
        assert await transfer(branches, "top", "mid", usd(10), "march") == usd(10)
    await asyncio.gather(*(transfer(branches, "top", "mid", usd(5), "april") for _ in range(10)))
    assert await available(branches) == [9_999_985, 10_000_015, 10_000_000, 10_000_000]
    for one, other, money in (("top", "mid", usd(11)), ("mid", "top", usd(10)), ("top", "leaf", usd(10))):
        with pytest.raises(TransferError, match="used for another transfer"):
            await transfer(branches, one, other, money, "march")
    # Another account's references are its own.
    await transfer(branches, "mid", "leaf", usd(10), "march")


@pytest.mark.parametrize(
    ("one", "other", "money", "words"),
    [
        ("top", "mid", usd(0), "there is nothing to transfer"),
        ("top", "mid", usd(-5), "a transfer is above zero"),
        ("top", "mid", usd(10**16), "too large"),
        ("top", "mid", Money(5, "EUR"), "the account is kept in USD"),
        ("top", "top", usd(5), "can't pay itself"),
        ("top", "stranger", usd(5), "between an account and those above or below it"),
        ("stranger", "leaf", usd(5), "between an account and those above or below it"),
    ],
)
async def test_what_can_not_be_transferred_is_not(
    branches: Branches, one: str, other: str, money: Money, words: str
) -> None:
    before = await available(branches)
    with pytest.raises(TransferError, match=words):
        await transfer(branches, one, other, money, "reference")
    assert await available(branches) == before


async def test_references_are_of_a_sensible_length(branches: Branches) -> None:
    for reference in ("x" * 256, "a\nb"):
        with pytest.raises(TransferError, match="a reference has up to 255"):
            await transfer(branches, "top", "mid", usd(5), reference)


async def test_only_what_is_there_can_be_transferred(branches: Branches) -> None:
    with pytest.raises(NoBalance):
        await transfer(branches, "top", "mid", usd(10_000_001))
    tries = [transfer(branches, "top", "mid", usd(3_000_000)) for _ in range(10)]
    tries += [transfer(branches, "mid", "top", usd(3_000_000)) for _ in range(3)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert all(isinstance(one, Money | NoBalance) for one in done)
    assert sum(await available(branches)) == 40_000_000


async def test_siblings_money_stays_where_it_is(branches: Branches) -> None:
    await branches.grow("aside", "top")
    with pytest.raises(TransferError, match="above or below"):
        await transfer(branches, "aside", "mid", usd(5))


async def test_demo_money_never_becomes_real(branches: Branches) -> None:
    """Even where an older version let a real account stand below a demo one."""
    await branches.run(lambda tx: tx.execute("update accounts set is_demo = 1 where name = 'top'"))
    with pytest.raises(TransferError, match="not real"):
        await transfer(branches, "top", "mid", usd(5))


# Levels


async def test_levels_come_root_first_and_the_key_last(branches: Branches) -> None:
    found = await branches.run(levels.of_key, branches.ids["leaf"], branches.keys["leaf"])
    assert [level.subject for level in found] == ["account:1", "account:2", "account:3", "key:3"]
    assert [level.rules for level in found] == [NO_RULES] * 4
    order = await branches.buy("leaf")
    assert await branches.run(levels.of_order, order) == found


async def test_an_order_that_does_not_exist_holds_nothing(branches: Branches) -> None:
    with pytest.raises(KeyError):
        await branches.run(ledger.hold, branches.ids["leaf"], 12345, usd(5), AT, open_max=5, actor="test")
    assert await branches.balance("leaf") == (10_000_000, 0, 0)


def test_a_suspension_is_told_by_an_error_of_its_own() -> None:
    assert {error.code for error in CallerError.__subclasses__()} >= {"suspended", "barred", "bad_key"}
