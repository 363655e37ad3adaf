"""The first time each key or person is shown a message is in the audit log, whichever way it is shown; no time else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

import compat
from gateway import audit
from gateway.errors import Unavailable
from gateway.live import Shown
from gateway.store import Tx
from tests.compat.test_isolation_matrix import (
    ACTIONS,
    ENDPOINTS,
    GATEWAY,
    ME,
    NOBODY,
    ROLES,
    SECRET,
    Try,
    World,
    _actions,
    filled,
    peopled,
)
from tests.harness import config_directory, environment

LAST = (
    "setStatus", "setRentStatus", "finishActivation", "cancelActivation", "finish", "cancel", "another_sms",
    "finish_rental", "cancel_rental",
)  # fmt: skip
"""What changes the activation or rental comes after what only shows it."""


RENTING = ("sms_activate", "hero", "grizzly")
"""Dialects that show what came to a rental."""


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncIterator[World]:
    values = environment(sqlite_url, JWT_SECRET_KEY=SECRET)
    async with peopled(config_directory(tmp_path, gateway=GATEWAY), values) as found:
        yield found


@pytest.fixture
async def either(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    values = environment(database_url, JWT_SECRET_KEY=SECRET)
    async with peopled(config_directory(tmp_path, gateway=GATEWAY), values) as found:
        yield found


def key_of(world: World, which: str = "first") -> str:
    return world.objects[ME][f"{which} key in plain"]


async def status(world: World, which: str = "first") -> str:
    query = {"api_key": key_of(world, which), "action": "getStatus", "id": world.it("activation", ME)}
    return (await world.client.get("/stubs/handler_api.php", params=query)).text


async def written(world: World) -> list[tuple[str, str, int | None]]:
    """The entries of messages, after what is noted has been written."""
    await world.house.gateway.readers.write()
    rows = await world.house.database.store.read(audit.page)
    return [(row["actor"], row["subject"], row["account_id"]) for row in rows if row["action"] == "message.read"]


async def forget(world: World) -> None:
    """As if nobody had read anything."""

    def clear(tx: Tx) -> None:
        tx.execute("delete from shown_messages")
        tx.execute("delete from audit")

    await world.house.database.store.run(clear)
    world.house.gateway.readers._known.clear()
    world.house.gateway.readers._waiting.clear()


async def test_each_reader_is_written_once(either: World) -> None:
    assert await written(either) == []
    for _ in range(3):
        assert (await status(either)).startswith("STATUS_OK:")
    await status(either, "second")
    found = await written(either)
    assert len(found) == 2
    assert len({actor for actor, _, _ in found}) == 2
    assert len({subject for _, subject, _ in found}) == 1
    headers = {"authorization": f"Bearer {either.tokens['session']}"}
    activation = either.it("activation", ME)
    await either.client.get(f"/api/v1/activations/{activation}", headers=headers)
    assert [actor for actor, _, _ in await written(either)][2:] == [f"user:{either.objects[ME]['user']}"]
    # Another process, or this one after a restart, knows of none of it in memory.
    either.house.gateway.readers._known.clear()
    await status(either)
    assert len(await written(either)) == 3


async def test_two_processes_write_it_once(either: World) -> None:
    from gateway.readers import Readers

    house = either.house.gateway.house
    others = [Readers(house.store, house.clock) for _ in range(4)]
    live = house.live.get(int(either.it("activation", ME)))
    caller = await either.house.gateway.callers.caller(key_of(either))
    assert live is not None
    for one in others:
        one.saw(caller, live)
    await asyncio.gather(*(one.write() for one in others))
    assert len(await written(either)) == 1


async def test_a_poll_needs_no_database_and_its_note_survives_an_outage(world: World) -> None:
    await status(world, "second")
    await world.house.gateway.readers.write()
    with world.house.database_away():
        world.house.gateway.readers._known.clear()
        for _ in range(2):
            assert (await status(world, "second")).startswith("STATUS_OK:")
    await forget(world)
    await world.client.get("/api/v1/me", headers={"x-api-key": key_of(world)})
    with world.house.database_away():
        assert (await status(world)).startswith("STATUS_OK:")
        with pytest.raises(Unavailable):
            await world.house.gateway.readers.write()
    assert len(await written(world)) == 1


async def shows(world: World, response: httpx.Response) -> bool:
    """Whether a message of the asker's is in an answer."""
    told = response.text + str(response.headers)
    return any(message.code in told or message.text in told for message in messages(world))


def messages(world: World) -> list[Shown]:
    """All that came for the activation and the rental asked for."""
    found = [world.house.gateway.house.live.get(int(world.it(kind, ME))) for kind in ("activation", "rental")]
    lives = [live for live in found if live is not None and live.messages]
    assert len(lives) == 2
    return [message for live in lives for message in live.messages]


@pytest.mark.parametrize("dialect", sorted(compat.DIALECTS))
async def test_whatever_action_shows_a_message_is_noted(world: World, dialect: str) -> None:
    path, shown = f"/{dialect}/stubs/handler_api.php", set()
    actions = _actions(compat.DIALECTS[dialect]) - {"getNumber", "getNumberV2", "setWebhook"}
    for action in sorted(actions, key=lambda action: (action in LAST, action)):
        asked = ACTIONS[action] or ({"service": "tg", "country": "6"},)
        for values, kind in itertools.product(asked, ("activation", "rental")):
            await forget(world)
            query: Mapping[str, Any] = {
                "api_key": key_of(world), "action": action, **filled(values, {"{it}": world.it(kind, ME)})
            }  # fmt: skip
            response = await world.client.get(path, params=query)
            is_shown = await shows(world, response)
            assert bool(await written(world)) is is_shown, f"{action} {values} of {kind}: {response.text}"
            if is_shown and values in ACTIONS[action]:
                shown.add(kind)
    assert "activation" in shown
    assert ("rental" in shown) is (dialect in RENTING)


async def test_whatever_endpoint_shows_a_message_is_noted(world: World) -> None:
    shown = 0
    role = ROLES[0]
    operations = [one for one in world.operations() if one.name not in ("revoke_key", "purchase")]
    for operation in sorted(operations, key=lambda one: one.name in LAST):
        entry = ENDPOINTS[operation.name]
        for one in entry.tries or (Try(),):
            it = (
                world.it(entry.names, ME)
                if entry.names in ("activation", "rental", "account")
                else NOBODY.get(entry.names, "")
            )
            await forget(world)
            response = await world.ask(role, operation, operation.paths[0], entry, one, it)
            is_shown = await shows(world, response)
            assert bool(await written(world)) is is_shown, f"{operation.name}: {response.text}"
            shown += is_shown
    assert shown >= 8


async def test_5sim_notes_it_too(world: World) -> None:
    headers, id_ = {"authorization": f"Bearer {key_of(world)}"}, world.it("activation", ME)
    for path in (f"check/{id_}", "orders?category=activation", f"finish/{id_}", "profile"):
        await forget(world)
        response = await world.client.get(f"/v1/user/{path}", headers=headers)
        assert response.status_code == 200, response.text
        assert bool(await written(world)) is await shows(world, response), path


async def test_5sims_hosting_notes_it_too(world: World) -> None:
    headers, id_ = {"authorization": f"Bearer {key_of(world)}"}, world.it("rental", ME)
    shown = 0
    for path in (
        f"check/{id_}", f"sms/inbox/{id_}", f"sms/inbox/{id_}?limit=1", f"sms/inbox/{id_}?offset=5",
        "orders?category=hosting", "orders?category=hosting&offset=5", "orders?category=activation&offset=5",
        f"finish/{id_}", f"check/{id_}",
    ):  # fmt: skip
        await forget(world)
        response = await world.client.get(f"/v1/user/{path}", headers=headers)
        assert response.status_code == 200, response.text
        is_shown = await shows(world, response)
        assert bool(await written(world)) is is_shown, path
        shown += is_shown
    assert shown == 6
    other = {"authorization": f"Bearer {key_of(world, 'second')}"}
    await world.client.get(f"/v1/user/sms/inbox/{id_}", headers=other)
    actors = {actor for actor, _, _ in await written(world)}
    assert len(actors) == 2


async def test_many_notes_are_written_in_parts(world: World) -> None:
    house, readers = world.house.gateway.house, world.house.gateway.readers
    live = house.live.get(int(world.it("activation", ME)))
    caller = await world.house.gateway.callers.caller(key_of(world))
    assert live is not None
    for number in itertools.islice(itertools.count(1), 250):
        readers._note(caller, 10_000 + number, 1)
    readers.saw(caller, live, only_newest=True)
    assert len(await written(world)) == 1
    assert not readers._waiting
