"""A new key in front of the ring: everything comes under it, nothing is lost meanwhile, and the old one may go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from gateway import accounts, keyring, reencryption
from gateway.database import Database, open_database
from gateway.errors import Unavailable
from gateway.keyring import PLACES, SILENT_SECONDS
from gateway.metrics import Metrics
from gateway.reencryption import Resealer, census
from gateway.store import Tx, transaction
from gateway.vault import SecretsError
from tests.harness import config_directory, environment
from tests.shell import Shell

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
ACTIVATIONS = 5


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def ring(url: str, *keys: str) -> dict[str, str]:
    return {**SECRETS, "DATABASE_URL": url, "DATA_ENCRYPTION_KEYS": ",".join(keys)}


SECRETS = {name: value for name, value in environment("").items() if name != "DATABASE_URL"}


def plant(tx: Tx, database: Database, count: int) -> None:
    """Something sealed in every place there is."""
    seal = database.vault.seal
    account = accounts.create(tx, "alice", "USD", 1.0, is_demo=True)
    accounts.set_webhook(tx, database.vault, account, "https://hook.example/alice")
    accounts.issue_key(tx, database.vault, "alice", 1.0)
    tx.execute(
        "insert into numbers (upstream, digest, number_sealed, country, carrier, source, services, is_enabled,"
        " quarantined_until, used_at, version, created_at) values ('own', 'd', :n, 6, '', '', '', 1, 0, 0, 0, 1)",
        n=seal("62800"),
    )
    tx.execute(
        "insert into number_messages (upstream, source, identity, to_sealed, device, sender_sealed, text_sealed,"
        " reason, received_at, recorded_at) values ('own', '', 'i', :to, '', :sender, :text, '', 1, 1)",
        to=seal("to"), sender=seal("sender"), text=seal("text"),
    )  # fmt: skip
    tx.execute(
        "insert into number_parts (upstream, source, identity, whole, place, total, number_id, to_sealed, device,"
        " sender_sealed, text_sealed, received_at, recorded_at) select 'own', '', 'i', '', 1, 2, id, :to, '', :sender,"
        " :text, 1, 1 from numbers",
        to=seal("to"), sender=seal("sender"), text=seal("text"),
    )  # fmt: skip
    task = tx.insert(
        "insert into desk_tasks (upstream, service, country, operator, cost, currency, state, number_sealed,"
        " created_at, waits_until, until_at, round) values ('desk', 'tg', 6, '', 1, 'USD', 'failed', :n, 1, 1, 1, 1)"
        " returning id",
        n=seal("62801"),
    )
    tx.execute(
        "insert into desk_messages (task_id, round, code_sealed, text_sealed, received_at) values (:t, 1, :c, :x, 1)",
        t=task, c=seal("code"), x=seal("text"),
    )  # fmt: skip
    tx.execute(
        "insert into pushes (upstream, source, body_digest, signature, signature_sealed, leases, processed_at)"
        " values ('one', '', '', '', :s, 1, 1)",
        s=seal("signature"),
    )
    for place in range(count):
        activation = tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " number_sealed, webhook_url_sealed, opened_at, ended_at, fingerprint, config_version) select account_id,"
            " id, 'tg', 6, '', 'finished', 1, 'USD', :n, :w, 1, 2, '', '' from api_keys returning id",
            n=seal(f"6280000{place}"), w=seal("https://hook.example/rental"),
        )  # fmt: skip
        tx.execute(
            "insert into messages (activation_id, identity, round, code_sealed, text_sealed, sender_sealed,"
            " received_at, is_shown) values (:a, 'i', 1, :c, :x, :s, 1, 1)",
            a=activation, c=seal(f"code {place}"), x=seal(f"text {place}"), s=seal("sender"),
        )  # fmt: skip


def opened(tx: Tx, database: Database) -> list[str]:
    """Everything sealed, in plain."""
    return [
        database.vault.open(row["value"])
        for table, column in PLACES
        for row in tx.all(f"select {column} as value from {table} where {column} <> '' order by id")  # noqa: S608 — constant text
    ]


def planted(url: str) -> str:
    database = open_database(ring(url, OLD))
    with transaction(url) as tx:
        plant(tx, database, ACTIVATIONS)
    return url


@pytest.fixture
def sealed(database_url: str) -> str:
    """A database with something under the old key in every place."""
    return planted(database_url)


@pytest.fixture
def light(sqlite_url: str) -> str:
    """As `sealed`, where one kind of database tells enough."""
    return planted(sqlite_url)


async def finished(resealer: Resealer) -> int:
    steps = 0
    while await resealer.step():
        steps += 1
    return steps


def later(clock: Clock, url: str) -> None:
    """A time at which nobody seals under the old key any more."""
    with transaction(url) as tx:
        clock.now = max(float(row["used_at"]) for row in keyring.in_use(tx)) + SILENT_SECONDS + 1


async def test_places_are_all_there_are(database_url: str) -> None:
    database = open_database(ring(database_url, OLD))
    sql = "select table_name as t, column_name as c from information_schema.columns where table_schema = 'public'"
    if database.is_embedded:
        sql = "select m.name as t, c.name as c from sqlite_master m, pragma_table_info(m.name) c where m.type = 'table'"
    columns = await database.store.read(lambda tx: [(row["t"], row["c"]) for row in tx.all(sql)])
    assert {place for place in columns if place[1].endswith("_sealed")} == set(PLACES)
    await database.store.close()


async def test_everything_comes_under_the_new_key_and_the_old_one_may_go(sealed: str) -> None:
    database = open_database(ring(sealed, NEW, OLD))
    newest, oldest = database.vault.fingerprints
    before = await database.store.read(opened, database)
    counts = await census(database.store, database.vault)
    assert counts == {oldest: len(before)}
    clock = Clock()
    later(clock, sealed)
    resealer = Resealer(database.store, database.vault, clock, Metrics())
    assert await finished(resealer) >= len(PLACES)
    assert await database.store.read(opened, database) == before
    assert await census(database.store, database.vault) == {newest: len(before)}
    assert [row["fingerprint"] for row in await database.store.read(keyring.in_use)] == [newest]
    await database.store.close()
    alone = open_database(ring(sealed, NEW))
    assert await alone.store.read(opened, alone) == before
    await alone.store.close()


@pytest.mark.parametrize("keys", [[NEW], [Fernet.generate_key().decode()]])
def test_a_ring_without_a_key_that_is_needed_is_refused(sealed: str, keys: Sequence[str]) -> None:
    with pytest.raises(SecretsError, match=r"lacks [0-9a-f]{12}") as told:
        open_database(ring(sealed, *keys))
    assert OLD not in str(told.value)
    open_database(ring(sealed, NEW, OLD))


def test_a_ring_of_foreign_keys_is_refused_for_a_database_that_has_written_none_down(light: str) -> None:
    with transaction(light) as tx:
        tx.execute("delete from sealing_keys")
    with pytest.raises(SecretsError, match="no key that opens"):
        open_database(ring(light, NEW))
    open_database(ring(light, NEW, OLD))


async def test_it_goes_on_where_it_was_stopped(light: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reencryption, "BATCH", 2)
    clock = Clock()
    values = ring(light, NEW, OLD)
    database = open_database(values)
    later(clock, light)
    before = await database.store.read(opened, database)
    for place in range(200):
        # Each step is another process; the third of each four dies between what it has read and what it would write.
        resealer = Resealer(database.store, database.vault, clock)
        if place % 4 == 3:
            with monkeypatch.context() as broken:
                broken.setattr(reencryption, "_write", _dies)
                with pytest.raises(Unavailable):
                    await resealer.step()
        if not await resealer.step():
            break
    else:
        raise AssertionError("it never ends")
    assert await database.store.read(opened, database) == before
    assert set(await census(database.store, database.vault)) == {database.vault.fingerprints[0]}
    await database.store.close()


def _dies(*_args: object) -> None:
    raise Unavailable


async def test_a_value_that_changes_meanwhile_is_not_lost(sealed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(ring(sealed, NEW, OLD))
    clock = Clock()
    later(clock, sealed)
    real, changed = reencryption._resealed, 0

    def between(vault: Any, rows: Any, after: int) -> Any:
        """The address is set anew after it was read and before it is written."""
        nonlocal changed
        batch = real(vault, rows, after)
        if not changed and batch.changes:
            changed = 1
            with transaction(sealed) as tx:
                accounts.set_webhook(tx, database.vault, 1, "https://hook.example/newer")
        return batch

    monkeypatch.setattr(reencryption, "_resealed", between)
    await finished(Resealer(database.store, database.vault, clock))
    url = await database.store.read(accounts.webhook, database.vault, 1)
    assert (changed, url) == (1, "https://hook.example/newer")
    await database.store.close()


async def test_it_waits_for_a_process_that_still_seals_under_the_old_key(sealed: str) -> None:
    database = open_database(ring(sealed, NEW, OLD))
    newest, oldest = database.vault.fingerprints
    clock = Clock()
    later(clock, sealed)
    await database.store.run(keyring.note_use, oldest, clock.now - 1)
    metrics = Metrics()
    resealer = Resealer(database.store, database.vault, clock, metrics)
    await resealer.round()
    assert set(await census(database.store, database.vault)) == {oldest}
    assert b"simroute_sealing_keys 2.0" in metrics.render()
    assert f"simroute_resealing_places {float(len(PLACES))}".encode() in metrics.render()
    clock.now += SILENT_SECONDS
    await finished(resealer)
    assert set(await census(database.store, database.vault)) == {newest}
    await database.store.close()


async def test_what_an_old_process_wrote_in_the_middle_of_it_is_gone_through_again(light: str) -> None:
    database = open_database(ring(light, NEW, OLD))
    newest, oldest = database.vault.fingerprints
    clock = Clock()
    later(clock, light)
    resealer = Resealer(database.store, database.vault, clock)
    for _ in range(6):
        await resealer.step()
    await database.store.run(keyring.note_use, oldest, clock.now)
    old = open_database(ring(light, OLD, NEW))
    await database.store.run(accounts.set_webhook, old.vault, 1, "https://hook.example/old")
    assert set(await census(database.store, database.vault)) == {newest, oldest}
    clock.now += SILENT_SECONDS + 1
    await finished(resealer)
    assert set(await census(database.store, database.vault)) == {newest}
    assert await database.store.read(accounts.webhook, database.vault, 1) == "https://hook.example/old"
    for one in (old, database):
        await one.store.close()


async def test_what_no_key_opens_is_counted_and_left_as_it_is(light: str) -> None:
    database = open_database(ring(light, NEW, OLD))
    foreign = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    await database.store.run(lambda tx: tx.execute("update desk_tasks set number_sealed = :x", x=foreign))
    clock = Clock()
    later(clock, light)
    await finished(Resealer(database.store, database.vault, clock))
    row = await database.store.read(lambda tx: tx.one("select number_sealed from desk_tasks"))
    assert row is not None
    assert row["number_sealed"] == foreign
    assert (await census(database.store, database.vault))[""] == 1
    unreadable = await database.store.read(lambda tx: tx.one("select sum(unreadable) as n from resealings"))
    assert unreadable is not None
    assert int(unreadable["n"]) == 1
    await database.store.close()


async def test_a_running_gateway_does_it_by_itself_and_then_rests(light: str) -> None:
    database = open_database(ring(light, NEW, OLD))
    clock = Clock()
    later(clock, light)
    resealer = Resealer(database.store, database.vault, clock)
    pauses = [await resealer.round() for _ in range(60)]
    assert pauses[-1] == reencryption.IDLE_SECONDS
    assert set(await census(database.store, database.vault)) == {database.vault.fingerprints[0]}
    await database.store.close()


def test_the_command_line_tells_where_it_stands_and_does_it_now(tmp_path: Path, sealed: str) -> None:
    directory = config_directory(tmp_path)
    shell = Shell(directory, ring(sealed, NEW, OLD))
    newest, oldest = shell.json("secrets", "status")
    assert (newest["values"], newest["state"]) == (0, "newest: seals what is new")
    assert (oldest["values"] > 0, oldest["state"]) == (True, "needed")
    told = shell.ok("secrets", "status")
    assert OLD not in told
    assert NEW not in told
    assert "may still seal under an older key" in shell.refused("secrets", "reencrypt")
    with transaction(sealed) as tx:
        tx.execute("update sealing_keys set used_at = used_at - 1000")
    assert "everything is sealed under the newest key" in shell.ok("secrets", "reencrypt")
    newest, oldest = shell.json("secrets", "status")
    assert (oldest["values"], oldest["state"]) == (0, "may be removed")
    assert newest["values"] > 0
    Shell(directory, ring(sealed, NEW)).ok("secrets", "status")


def test_a_key_that_backups_need_is_not_said_to_be_removable(tmp_path: Path, light: str) -> None:
    directory = config_directory(tmp_path)
    kept = tmp_path / "kept"
    shell = Shell(directory, ring(light, OLD) | {"BACKUP_DIRECTORY": str(kept)})
    shell.ok("backup")
    with transaction(light) as tx:
        tx.execute("update sealing_keys set used_at = used_at - 1000")
    shell = Shell(directory, ring(light, NEW, OLD) | {"BACKUP_DIRECTORY": str(kept)})
    shell.ok("secrets", "reencrypt")
    newest, oldest = shell.json("secrets", "status")
    assert (newest["backups"], oldest["backups"]) == (0, 1)
    assert oldest["state"] == "needed by backups only"
    next(kept.glob("*.backup")).unlink()
    assert shell.json("secrets", "status")[1]["state"] == "may be removed"


async def test_two_at_once_do_each_other_no_harm(sealed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reencryption, "BATCH", 1)
    clock = Clock()
    databases = [open_database(ring(sealed, NEW, OLD)) for _ in range(2)]
    later(clock, sealed)
    before = await databases[0].store.read(opened, databases[0])
    await asyncio.gather(*(finished(Resealer(one.store, one.vault, clock)) for one in databases))
    assert await databases[0].store.read(opened, databases[0]) == before
    assert set(await census(databases[0].store, databases[0].vault)) == {databases[0].vault.fingerprints[0]}
    for one in databases:
        await one.store.close()
