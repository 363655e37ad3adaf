"""Accounts and keys: who may ask, and how soon a change is seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import accounts, ledger
from gateway.accounts import AccountError, Callers
from gateway.database import Database, open_database
from gateway.errors import BadKey, BadWebhookUrl, Unavailable
from gateway.money import Money
from gateway.store import connect
from gateway.vault import new_api_key
from tests.harness import add_account, config_directory, environment, house
from tests.scripted import Faulty

AT = 1_750_000_000.0


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await asyncio.to_thread(open_database, environment(database_url))
    yield database
    await database.store.close()


async def create(database: Database, name: str, currency: str = "USD", parent: str | None = None) -> int:
    return await database.store.run(accounts.create, name, currency, AT, is_demo=False, parent=parent)


# Accounts


async def test_a_new_account_has_an_empty_purse(database: Database) -> None:
    account_id = await create(database, "alice", "RUB")
    balance = await database.store.read(ledger.balance, account_id)
    assert balance == ledger.Balance(Money(0, "RUB"), Money(0, "RUB"), 0)
    rows = await database.store.read(accounts.overview)
    assert [(row["name"], row["currency"], row["keys"], row["parent"]) for row in rows] == [("alice", "RUB", 0, None)]


@pytest.mark.parametrize("name", ["", "-a", "a b", "a:b", "a" * 64, "änna", "a\n", "_a"])
async def test_names_are_plain(database: Database, name: str) -> None:
    with pytest.raises(AccountError, match="a name has"):
        await create(database, name)


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDT", "U1D", "USD\n"])
async def test_currencies_are_three_capitals(database: Database, currency: str) -> None:
    with pytest.raises(AccountError, match="three capital letters"):
        await create(database, "alice", currency)


async def test_a_name_is_given_once(database: Database) -> None:
    await create(database, "alice")
    with pytest.raises(AccountError, match="there is an account alice already"):
        await create(database, "alice")
    assert len(await database.store.read(accounts.overview)) == 1


async def test_a_child_keeps_its_parents_currency(database: Database) -> None:
    await create(database, "parent", "EUR")
    with pytest.raises(AccountError, match="parent is kept in EUR, its children too"):
        await create(database, "child", "USD", "parent")
    with pytest.raises(AccountError, match="there is no account nobody"):
        await create(database, "child", "EUR", "nobody")
    await create(database, "child", "EUR", "parent")
    rows = await database.store.read(accounts.overview)
    assert [(row["name"], row["parent"]) for row in rows] == [("child", "parent"), ("parent", None)]


async def test_webhook_addresses_are_sealed(database: Database) -> None:
    account_id = await create(database, "alice")
    url = "https://example.com/hook?token=secret"
    assert await database.store.read(accounts.webhook, database.vault, account_id) == ""
    await database.store.run(accounts.set_webhook, database.vault, account_id, url)
    assert await database.store.read(accounts.webhook, database.vault, account_id) == url
    row = await database.store.read(lambda tx: tx.one("select webhook_url_sealed as it from accounts"))
    assert row is not None
    assert "example" not in row["it"]
    for bad in ("", "https://example.com/" + "x" * 255):
        with pytest.raises(BadWebhookUrl):
            await database.store.run(accounts.set_webhook, database.vault, account_id, bad)


# Keys


async def test_a_key_leads_to_its_account_and_is_kept_nowhere(database: Database) -> None:
    key = await add_account(database, "alice", "1.00", is_demo=True)
    callers = Callers(database.store, database.vault)
    caller = await callers.caller(key)
    assert (caller.account_name, caller.currency, caller.is_demo, caller.barred_until) == ("alice", "USD", True, None)
    assert await callers.caller(key) is caller
    rows = await database.store.read(lambda tx: [dict(row) for row in tx.all("select * from api_keys")])
    assert key not in str(rows)
    assert rows[0]["hint"] == key[:4]


@pytest.mark.parametrize("key", ["", "short", "x" * 31, "x" * 33, "ä" * 32, "x" * 31 + " ", "' or 1=1 --" + "x" * 21])
async def test_what_has_no_keys_form_is_never_looked_up(database: Database, key: str) -> None:
    with pytest.raises(BadKey):
        await Callers(Faulty(database.store), database.vault).caller(key)


async def test_an_unknown_key_is_bad_and_looked_up_once(database: Database) -> None:
    callers = Callers(database.store, database.vault)
    key = new_api_key()
    for _ in range(2):
        with pytest.raises(BadKey):
            await callers.caller(key)
    await database.store.close()
    with pytest.raises(BadKey):
        await callers.caller(key)
    with pytest.raises(Unavailable):
        await callers.caller(new_api_key())


async def test_revocation_is_seen_with_the_next_refresh_and_not_undone(database: Database) -> None:
    key = await add_account(database, "alice")
    other = await database.store.run(accounts.issue_key, database.vault, "alice", AT)
    callers = Callers(database.store, database.vault)
    await callers.refresh()
    caller = await callers.caller(key)
    await database.store.run(accounts.revoke_key, caller.key_id, AT)
    await callers.refresh()
    with pytest.raises(BadKey):
        await callers.caller(key)
    assert (await callers.caller(other)).account_id == caller.account_id
    await database.store.run(accounts.revoke_key, caller.key_id, AT + 99)
    rows = await database.store.read(accounts.keys, "alice")
    assert [row["revoked_at"] for row in rows] == [AT, None]
    with pytest.raises(AccountError, match="there is no key 999"):
        await database.store.run(accounts.revoke_key, 999, AT)


async def test_nothing_is_looked_up_again_while_nothing_changes(database: Database) -> None:
    callers = Callers(database.store, database.vault)
    key = await add_account(database, "alice")
    await callers.refresh()
    caller = await callers.caller(key)
    await callers.refresh()
    assert await callers.caller(key) is caller


async def test_a_key_is_looked_up_again_after_a_while(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await add_account(database)
    callers = Callers(database.store, database.vault)
    monkeypatch.setattr(accounts, "CACHED_SECONDS", 0.0)
    assert await callers.caller(key) is not await callers.caller(key)


async def test_only_so_many_keys_are_remembered(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [await add_account(database, f"number-{number}") for number in range(4)]
    callers = Callers(database.store, database.vault)
    monkeypatch.setattr(accounts, "CACHED_MAX", 3)
    known = [await callers.caller(key) for key in keys]
    assert all([await callers.caller(key) is caller for key, caller in zip(keys[1:], known[1:], strict=True)])
    assert await callers.caller(keys[0]) is not known[0]


async def test_a_bar_is_seen_with_the_next_refresh(database: Database) -> None:
    key = await add_account(database, "alice")
    callers = Callers(database.store, database.vault)
    await callers.refresh()
    assert (await callers.caller(key)).barred_until is None
    for until in (AT, None):
        await database.store.run(accounts.bar, "alice", until)
        await callers.refresh()
        assert (await callers.caller(key)).barred_until == until


async def test_a_running_gateway_sees_a_revocation_within_a_second(tmp_path: Path, database_url: str) -> None:
    """As the command line tool would do it: beside the server, on a connection of its own."""
    async with house(config_directory(tmp_path), environment(database_url)) as running:
        assert (await running.call("getBalance")).startswith("ACCESS_BALANCE:")
        caller = await running.gateway.callers.caller(running.keys["alice"])
        beside = connect(database_url)
        await beside.run(accounts.revoke_key, caller.key_id, AT)
        await beside.close()
        revoked_at = time.monotonic()
        while await running.call("getBalance") != "BAD_KEY":
            assert time.monotonic() - revoked_at < 1.5
            await asyncio.sleep(0.05)
