"""Rentals are read as long as they last, and less often than numbers that wait for a code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from gateway.model import Progress, Status, Watched
from gateway.poller import Poller
from tests.scripted import World, worlds


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncIterator[World]:
    world = worlds(sqlite_url, tmp_path)()
    await world.begin()
    yield world
    await world.end()


def counted(world: World) -> list[str]:
    """References read from `one` from now on."""
    read: list[str] = []
    plain = world.one.read

    async def answer(watched: Watched) -> Progress:
        read.append(watched.reference)
        return await plain(watched)

    world.one.read = answer  # type: ignore[method-assign]
    return read


async def swept(world: World, seconds: int) -> None:
    poller = Poller(world.gateway.house, world.gateway.activations, "one")
    for _ in range(seconds):
        await poller.sweep()
        world.watch.now += 1


async def test_a_rental_is_read_before_and_after_its_first_message(world: World) -> None:
    live = await world.rent()
    read = counted(world)
    await swept(world, 20)
    assert len(read) == 4
    world.one.sms(live.reference)
    await swept(world, 6)
    assert (live.status, len(live.messages)) == (Status.RECEIVED, 1)
    world.one.sms(live.reference)
    await swept(world, 6)
    assert len(live.messages) == 2


async def test_an_old_rental_is_read_less_often_unless_somebody_asks(world: World) -> None:
    live = await world.rent(world.rental(hours=24))
    world.watch.now += 2000
    read = counted(world)
    await swept(world, 60)
    assert len(read) == 2
    live.polled_at = world.watch.now
    await swept(world, 60)
    assert len(read) == 14


async def test_in_a_list_of_all_a_rental_is_there_when_it_is_due(world: World) -> None:
    asked: list[list[str]] = []

    async def read_many(watched: Sequence[Watched]) -> Mapping[str, Progress]:
        asked.append([one.reference for one in watched])
        return {one.reference: world.one.progress(one.reference) for one in watched}

    world.one.read_many = read_many  # type: ignore[attr-defined]
    rental, number = await world.rent(), await world.buy()
    await swept(world, 10)
    assert len(asked) == 10
    assert sum(rental.reference in one for one in asked) == 2
    assert all(number.reference in one for one in asked)


async def test_what_a_list_does_not_show_is_read_singly(world: World) -> None:
    async def read_many(watched: Sequence[Watched]) -> Mapping[str, Progress]:
        return {}

    world.one.read_many = read_many  # type: ignore[attr-defined]
    live = await world.rent()
    world.one.sms(live.reference)
    await swept(world, 1)
    assert live.status is Status.RECEIVED
