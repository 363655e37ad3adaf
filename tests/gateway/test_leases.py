"""Who takes up which work on a real PostgreSQL, round by round: those at work share it, and heirs have it soon."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.database import open_database
from gateway.leases import LEASE_SECONDS, RENEW_SECONDS, TAKEN_AT_ONCE, Leases, overview
from gateway.store import Store, Tx
from tests.harness import environment

WORK = {"ends", "strangers", "report", "tidy", "seal", "usage", *(f"poll:upstream-{place}" for place in range(18))}
TAKEOVER_SECONDS = 9.0
"""What docs/scaling.md promises of workers."""


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    database = open_database(environment(postgres_url))
    yield database.store
    await database.store.close()


def process(store: Store, name: str, *, is_eager: bool = True) -> Leases:
    """One whose own clock stands still: only the database says what has run out."""
    return Leases(store, name, is_eager=is_eager, ticks=lambda: 0.0)


async def holding_everything(store: Store) -> Leases:
    leases = process(store, "before")
    while len(leases.held()) < len(WORK):
        await leases.round(WORK)
    return leases


async def die(store: Store, name: str) -> None:
    """As if the time had passed in which it renewed nothing."""
    await store.run(_run_out, name)


def _run_out(tx: Tx, name: str) -> None:
    tx.execute("update leases set until = 0 where holder = :name", name=name)


async def shares(store: Store) -> Counter[str]:
    """How many pieces of work each has, by the database."""
    return Counter(row["holder"] for row in await store.read(overview))


async def test_an_heir_has_all_work_of_a_dead_process_within_seconds(store: Store) -> None:
    await holding_everything(store)
    heir = process(store, "heir")
    await heir.round(WORK)
    assert heir.held() == []
    await die(store, "before")
    await heir.round(WORK)
    assert len(heir.held()) == TAKEN_AT_ONCE
    await heir.round(WORK)
    assert set(heir.held()) == WORK
    # The first look comes up to a round after they have run out.
    assert LEASE_SECONDS + 2 * RENEW_SECONDS <= TAKEOVER_SECONDS


async def test_heirs_share_the_work_of_a_dead_process(store: Store) -> None:
    await holding_everything(store)
    heirs = [process(store, name) for name in ("one", "two", "three")]
    for heir in heirs:
        await heir.round(WORK)
    await die(store, "before")
    for _ in range(2):
        for heir in heirs:
            await heir.round(WORK)
    assert await shares(store) == {"one": 8, "two": 8, "three": 8}


async def test_an_heir_that_has_more_than_its_share_already_leaves_the_rest_to_the_other(store: Store) -> None:
    await holding_everything(store)
    busy, idle = process(store, "busy"), process(store, "idle")
    most = set(sorted(WORK)[:18])
    await store.run(_hand_over, "before", "busy", sorted(most))
    busy._held = dict.fromkeys(most, 1.0)
    for heir in (busy, idle):
        await heir.round(WORK)
    await die(store, "before")
    for _ in range(2):
        for heir in (busy, idle):
            await heir.round(WORK)
    found = await shares(store)
    assert found.total() == len(WORK)
    assert found["busy"] < len(WORK)
    assert found["idle"] >= TAKEN_AT_ONCE


def _hand_over(tx: Tx, before: str, after: str, names: list[str]) -> None:
    for name in names:
        tx.execute("update leases set holder = :a where name = :n and holder = :b", a=after, b=before, n=name)


async def test_those_that_start_together_share_the_work(store: Store) -> None:
    members = [process(store, name) for name in ("one", "two", "three")]
    while (await shares(store)).total() < len(WORK):
        for member in members:
            await member.round(WORK)
    found = await shares(store)
    assert max(found.values()) - min(found.values()) <= TAKEN_AT_ONCE


async def test_a_serving_process_takes_what_no_worker_wants_a_round_later(store: Store) -> None:
    await holding_everything(store)
    serving = process(store, "serving", is_eager=False)
    await serving.round(WORK)
    await die(store, "before")
    held = []
    for _ in range(3):
        await serving.round(WORK)
        held.append(len(serving.held()))
    assert held == [0, TAKEN_AT_ONCE, len(WORK)]


async def test_what_a_stopping_process_gives_back_is_taken_at_once(store: Store) -> None:
    before = await holding_everything(store)
    heir = process(store, "heir")
    await heir.round(WORK)
    await before.give_back()
    for _ in range(2):
        await heir.round(WORK)
    assert set(heir.held()) == WORK
