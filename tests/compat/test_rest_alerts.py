"""Owners of keys learn which of them the fuse slows or stops, theirs and those below them alone, and let them go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat._rest_client import rest_house
from tests.compat.test_rest_people import inhabited
from tests.compat.test_rest_resellers import TOP, Shop
from tests.harness import environment

SECRET = "s" * 64
STOP, COOLDOWN, WINDOW = 3, 600, 4000
FUSE = f"""
[fuse]
slow_after = 2
slow_seconds = 0.001
slow_seconds_max = 0.001
stop_after = {STOP}
cooldown_seconds = {COOLDOWN}
window_seconds = {WINDOW}
"""
ORDER = {"service": "xmute", "country": "ID"}


@pytest.fixture
async def shop(tmp_path: Path, database_url: str) -> AsyncIterator[Shop]:
    async with rest_house(tmp_path, environment(database_url, JWT_SECRET_KEY=SECRET), gateway=FUSE) as api:
        found = Shop(api, await inhabited(api))
        await found.open()
        await found.pay("alice.shop", "5", "a")
        yield found


async def till(shop: Shop) -> tuple[int, str]:
    """A key of the account below, which only buys; its id and itself."""
    made = await shop.done("POST", TOP + "/alice.shop/keys", {"name": "till", "may_manage": False})
    return made["id"], made["key"]


async def buy(shop: Shop, key: str) -> str:
    return str((await shop.done("POST", "/purchase", ORDER, key))["id"])


async def stop(shop: Shop, key: str) -> None:
    for _ in range(STOP):
        await buy(shop, key)
    assert await shop.refused("POST", "/purchase", ORDER, key) == "no_numbers"


async def alerts(shop: Shop, key: str = "") -> Any:
    return await shop.done("GET", "/api/v1/alerts", key=key)


async def test_a_slowed_and_then_stopped_key_is_told_to_those_above_it(shop: Shop) -> None:
    key_id, key = await till(shop)
    first = await buy(shop, key)
    assert await alerts(shop) == {"alerts": [], "stops": []}
    second = await buy(shop, key)
    told = {
        "alert": "key_slowed", "key": key_id, "account": "alice.shop", "name": "till", "since": "2025-06-01T12:00:00Z",
        "until": None, "misses": 2, "pause_seconds": 0.001,
    }  # fmt: skip
    assert await alerts(shop) == {"alerts": [told], "stops": []}
    await shop.api.house.passes(60.0)
    for one in (first, second):
        await shop.done("POST", f"/api/v1/activations/{one}/cancel", key=key)
    # Nothing waits any more: it is over when what was missed is.
    assert (await alerts(shop))["alerts"] == [{**told, "until": "2025-06-01T13:07:40Z"}]
    await shop.api.house.passes(60.0)
    await stop_after(shop, key)
    found = await alerts(shop)
    assert found["alerts"] == [{
        **told, "alert": "key_stopped", "since": "2025-06-01T12:02:00Z", "until": "2025-06-01T12:12:00Z", "misses": 1,
        "pause_seconds": 0.0,
    }]  # fmt: skip
    assert found["stops"] == [{
        "id": found["stops"][0]["id"], "key": key_id, "account": "alice.shop", "at": "2025-06-01T12:02:00Z",
        "until": "2025-06-01T12:12:00Z", "misses": STOP,
    }]  # fmt: skip
    await shop.api.house.passes(COOLDOWN + 1.0)
    over = await alerts(shop)
    assert (over["alerts"], over["stops"]) == ([], found["stops"])


async def stop_after(shop: Shop, key: str) -> None:
    """One more, and the next is refused."""
    await buy(shop, key)
    assert await shop.refused("POST", "/purchase", ORDER, key) == "no_numbers"


async def test_a_stop_is_lifted_by_those_it_is_below_and_written_down(shop: Shop) -> None:
    key_id, key = await till(shop)
    await stop(shop, key)
    path = f"/api/v1/keys/{key_id}/fuse"
    shown = await shop.done("GET", path)
    assert (shown["state"], shown["stop_after"], shown["account"], len(shown["stops"])) == (
        "stopped", STOP, "alice.shop", 1,
    )  # fmt: skip
    assert await shop.refused("GET", path, key=key) == "may_not_manage"
    assert await shop.refused("POST", path + "/reset", key=key) == "may_not_manage"
    assert await shop.refused("POST", path + "/reset", key=shop.api.house.keys["bob"]) == "unknown_key"
    for _ in range(2):
        after = await shop.done("POST", path + "/reset")
        assert (after["state"], after["ended"], after["until"]) == ("slowed", 0, None)
    assert ("key:1", "key.fuse", f"key:{key_id}") in await shop.audited()
    rows = await shop.done("GET", "/api/v1/keys/1")
    assert rows["account"] == "alice"
    assert (await alerts(shop))["stops"] == shown["stops"]


async def test_a_key_that_was_let_go_on_buys(shop: Shop) -> None:
    key_id, key = await till(shop)
    ids = [await buy(shop, key) for _ in range(STOP)]
    assert await shop.refused("POST", "/purchase", ORDER, key) == "no_numbers"
    await shop.api.house.passes(60.0)
    for one in ids:
        await shop.done("POST", f"/api/v1/activations/{one}/cancel", key=key)
    assert await shop.refused("POST", "/purchase", ORDER, key) == "no_numbers"
    assert (await shop.done("POST", f"/api/v1/keys/{key_id}/fuse/reset"))["state"] == "free"
    await buy(shop, key)


async def test_others_are_told_nothing_and_operators_everything(shop: Shop) -> None:
    _, key = await till(shop)
    await stop(shop, key)
    assert await alerts(shop, shop.api.house.keys["bob"]) == {"alerts": [], "stops": []}
    below = await shop.done("POST", TOP + "/alice.shop/keys", {"may_manage": True})
    assert (await alerts(shop, below["key"]))["alerts"] == (await alerts(shop))["alerts"]
    response = await shop.people.ask(await shop.people.token("ole@example.com"), "GET", "/api/v1/alerts")
    assert response.json() == await alerts(shop)
    assert await shop.refused("GET", "/api/v1/alerts", key=key) == "may_not_manage"


async def test_a_replaced_key_is_told_of_once(shop: Shop) -> None:
    key_id, key = await till(shop)
    await stop(shop, key)
    newer = await shop.done("POST", f"/api/v1/keys/{key_id}/rotate", {"grace_seconds": 600})
    assert [one["key"] for one in (await alerts(shop))["alerts"]] == [key_id]
    assert (await shop.done("GET", f"/api/v1/keys/{newer['id']}/fuse"))["state"] == "stopped"
