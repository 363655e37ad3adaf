"""`simroute secrets`: which keys seal the database's numbers and messages, and bringing all of it under the newest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from gateway import audit, backups, keyring, logs, retention
from gateway.database import EMBEDDED_URL, Database
from gateway.reencryption import Resealer, census
from gateway.store import Tx
from gateway.terminal import Context, common, moment, show, tell, with_database

COLUMNS = ("key", "place", "values", "backups", "in_use_since", "state")
ACTOR = "cli"


@click.group("secrets")
def secrets_group() -> None:
    """The keys of DATA_ENCRYPTION_KEYS, by fingerprint; no key is ever shown."""


@secrets_group.command("status")
@common
@click.pass_obj
def show_status(context: Context) -> None:
    """How much is sealed under which key, and which may be removed. Reads everything: a minute for a million values."""

    async def read(database: Database) -> list[dict[str, Any]]:
        counts = await census(database.store, database.vault)
        rows = {row["fingerprint"]: row for row in await database.store.read(keyring.in_use)}
        return _rows(database.vault.fingerprints, counts, rows, _backups_by_key(context, database))

    rows = with_database(context, read)
    show(context, rows, COLUMNS)


def _backups_by_key(context: Context, database: Database) -> Counter[str]:
    """How many of the backups in their directory are sealed under each key of the ring, by its name in the ring."""
    url = context.environment.get("DATABASE_URL", "").strip() or EMBEDDED_URL
    directory = backups.place(context.settings().gateway.backup, url)
    if directory is None or not directory.is_dir():
        return Counter()
    names = dict(zip(backups.keys(database.vault), database.vault.fingerprints, strict=True))
    return Counter(names[one.header.key] for one in backups.listed(directory) if one.header.key in names)


def _rows(ring: Sequence[str], counts: Any, in_use: Any, kept: Counter[str]) -> list[dict[str, Any]]:
    rows = [
        {
            "key": key,
            "place": place,
            "values": counts[key],
            "backups": kept[key],
            "in_use_since": moment(in_use[key]["since"]) if key in in_use else None,
            "state": _state(place, is_needed=key in in_use or counts[key] > 0, is_kept=kept[key] > 0),
        }
        for place, key in enumerate(ring, start=1)
    ]
    if counts[""]:
        rows.append({"key": None, "place": None, "values": counts[""], "in_use_since": None, "state": "no key fits"})
    return rows


def _state(place: int, *, is_needed: bool, is_kept: bool) -> str:
    if place == 1:
        return "newest: seals what is new"
    if is_needed:
        return "needed"
    return "needed by backups only" if is_kept else "may be removed"


@secrets_group.command("reencrypt")
@common
@click.pass_obj
def reencrypt(context: Context) -> None:
    """Bring everything under the newest key now; a server that runs does so by itself, in small batches."""
    logs.configure("error", "auto")  # a value that no key opens is told there

    async def run(database: Database) -> int:
        store = database.store
        resealer = Resealer(store, database.vault, time.time)
        until = await resealer.busy_until()
        if until > time.time():
            raise click.ClickException(
                "a process may still seal under an older key: stop it, or start it with the new key in front,"
                f" and come back in {max(1, round(until - time.time()))} s"
            )
        batches = 0
        while await resealer.step():
            batches += 1
        await store.run(_note)
        await retention.settle_file(store)
        return batches

    batches = with_database(context, run)
    words = "everything is sealed under the newest key; `simroute secrets status` tells which others may be removed"
    tell(context, {"batches": batches}, words)


def _note(tx: Tx) -> None:
    audit.note(tx, time.time(), ACTOR, "secrets.reencrypt", "database")
