"""Clients that wait for a code: told at once when it is there, bounded, and gone without a trace."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import uvicorn

from compat import _rest_waiting
from compat.rest import STREAM_SECONDS_MAX
from tests.compat._rest_client import ONE, RestHouse, Switch, rest_house, soon
from tests.harness import environment
from tests.wire import exchange


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str) -> AsyncIterator[RestHouse]:
    async with rest_house(tmp_path, environment(sqlite_url)) as found:
        yield found


def waiting(api: RestHouse) -> _rest_waiting.Waiting:
    """Where clients of this house wait."""
    for route in api.app.routes:
        for operation in getattr(route.app, "_operations", {}).values():  # type: ignore[attr-defined] # one of ours
            if operation.name == "events":
                found = operation.run.__self__.waiting
                assert isinstance(found, _rest_waiting.Waiting)
                return found
    raise AssertionError


@asynccontextmanager
async def on_a_socket(api: RestHouse) -> AsyncIterator[tuple[httpx.AsyncClient, uvicorn.Server]]:
    """The API behind a real server: there, streams flow and clients hang up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(api.app, log_config=None, access_log=False, http="httptools", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        await soon(lambda: server.started)
        headers = {"authorization": f"Bearer {api.house.keys['alice']}"}
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=base, headers=headers) as client:
                yield client, server
        finally:
            server.should_exit = True
            await serving


async def events(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The events of a stream, without its comments and settings."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name not in ("", "retry"):
            event[name] = value
        elif not line and event:
            yield event
            event = {}


# One answer, put off


@pytest.mark.parametrize("path", [ONE, ONE + "/messages", "/messages/{}"])
async def test_the_answer_comes_with_the_code(api: RestHouse, path: str) -> None:
    bought = await api.buy("tg")
    asked = asyncio.ensure_future(api.get(path.format(bought) + "?wait=25"))
    await soon(lambda: len(waiting(api)))
    assert not asked.done()
    started = time.monotonic()
    await api.house.passes(1.5)
    told = await asked
    assert time.monotonic() - started < 1
    assert told["status"] == "received"
    assert len(told["messages"]) == 1
    assert len(waiting(api)) == 0


async def test_what_is_known_already_is_told_at_once(api: RestHouse) -> None:
    bought = await api.buy("tg")
    await api.house.passes(1.5)
    started = time.monotonic()
    assert (await api.get(ONE.format(bought) + "?wait=25"))["status"] == "received"
    await api.do(bought, "finish")
    assert (await api.get(ONE.format(bought) + "?wait=25"))["status"] == "finished"
    assert time.monotonic() - started < 1


async def test_another_message_can_be_waited_for(api: RestHouse) -> None:
    bought = await api.buy("tg")
    await api.house.passes(1.5)
    await api.do(bought, "another-sms")
    asked = asyncio.ensure_future(api.get(ONE.format(bought) + "?wait=25"))
    await soon(lambda: len(waiting(api)))
    await api.house.passes(8.5)
    assert len((await asked)["messages"]) == 2


async def test_the_end_of_the_activation_ends_the_wait(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    asked = asyncio.ensure_future(api.get(ONE.format(bought) + "?wait=25"))
    await soon(lambda: len(waiting(api)))
    await api.do(bought, "cancel")
    assert (await asked)["status"] == "cancelled"


async def test_the_wait_is_no_longer_than_asked_for(api: RestHouse) -> None:
    bought, started = await api.buy("xmute"), time.monotonic()
    assert (await api.get(ONE.format(bought) + "?wait=1"))["status"] == "waiting"
    assert 0.9 < time.monotonic() - started < 2
    assert len(waiting(api)) == 0


async def test_waiting_asks_neither_database_nor_upstream(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    await api.get("/balance")
    [upstream] = api.house.gateway.house.upstreams.values()
    with api.house.database_away(), patch.object(upstream, "read", side_effect=AssertionError):
        assert (await api.get(ONE.format(bought) + "?wait=1"))["status"] == "waiting"


async def test_waiting_counts_as_asking(api: RestHouse) -> None:
    """What nobody asks for is polled less often at the upstream."""
    bought = await api.buy("xmute")
    asked = asyncio.ensure_future(api.get(ONE.format(bought) + "?wait=1"))
    await soon(lambda: len(waiting(api)))
    api.house.clock.now += 300
    await asked
    [live] = api.house.gateway.house.live.all_open()
    assert live.polled_at == api.house.clock.now


async def test_one_wake_up_serves_all_who_wait(api: RestHouse) -> None:
    bought = await api.buy("tg")
    asked = [asyncio.ensure_future(api.get(ONE.format(bought) + "?wait=25")) for _ in range(100)]
    await soon(lambda: len(waiting(api)) == 100)
    with patch.object(waiting(api), "_look", wraps=waiting(api)._look) as look:
        await asyncio.sleep(0.55)
        assert look.call_count <= 6
    await api.house.passes(1.5)
    assert {told["status"] for told in await asyncio.gather(*asked)} == {"received"}
    assert waiting(api)._timer is None


async def test_a_key_has_so_many_places_and_what_is_known_is_told_beyond_them(
    api: RestHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rest_waiting, "WAITERS_PER_KEY", 2)
    alices, bobs = await api.buy("xmute"), await api.buy("xmute", who="bob")
    asked = [asyncio.ensure_future(api.get(ONE.format(alices) + "?wait=25")) for _ in range(2)]
    await soon(lambda: len(waiting(api)) == 2)
    started = time.monotonic()
    assert (await api.get(ONE.format(alices) + "?wait=25"))["status"] == "waiting"
    refused = await api.ask("GET", ONE.format(alices) + "/events")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_waiting")
    assert time.monotonic() - started < 1
    bob = asyncio.ensure_future(api.get(ONE.format(bobs) + "?wait=25", who="bob"))
    await soon(lambda: len(waiting(api)) == 3)
    monkeypatch.setattr(_rest_waiting, "WAITERS_MAX", 3)
    assert (await api.get(ONE.format(bobs) + "?wait=25", who="bob"))["status"] == "waiting"
    api.stop.is_on = True
    await asyncio.gather(*asked, bob)
    assert len(waiting(api)) == 0
    assert waiting(api)._by_key == {}


async def test_whoever_waits_is_told_what_is_known_when_the_house_shuts_down(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    asked = asyncio.ensure_future(api.get(ONE.format(bought) + "?wait=60"))
    await soon(lambda: len(waiting(api)))
    api.stop.is_on = True
    assert (await asyncio.wait_for(asked, 1))["status"] == "waiting"
    assert (await asyncio.wait_for(api.get(ONE.format(bought) + "?wait=60"), 1))["status"] == "waiting"


async def test_a_client_that_hangs_up_leaves_no_place_behind(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    async with on_a_socket(api) as (client, _):
        for path in ("?wait=60", "/events"):
            asked = asyncio.ensure_future(client.get(ONE.format(bought) + path, timeout=60))
            await soon(lambda: len(waiting(api)))
            asked.cancel()
            await soon(lambda: not len(waiting(api)))
    assert waiting(api)._timer is None


async def test_a_head_does_not_wait(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    for path in ("?wait=60", "/events"):
        response = await asyncio.wait_for(api.ask("HEAD", ONE.format(bought) + path), 1)
        assert (response.status_code, response.content) == (200, b"")
    assert len(waiting(api)) == 0


async def test_nothing_keeps_listening_for_a_client_that_has_its_answer(api: RestHouse) -> None:
    """Not even where the server never says that the client is gone."""
    bought = await api.buy("tg")
    before = asyncio.all_tasks()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(_message: Any) -> None:
        pass

    answering = api.app(api.scope("GET", ONE.format(bought) + "?wait=25", "alice"), receive, send)
    asked = asyncio.ensure_future(answering)
    await soon(lambda: len(waiting(api)))
    await api.house.passes(1.5)
    await asked
    await soon(lambda: asyncio.all_tasks() <= before)


# Events


async def test_events_tell_each_message_and_each_status_to_the_end(api: RestHouse) -> None:
    bought = await api.buy("tg")
    found: list[dict[str, str]] = []
    async with on_a_socket(api) as (client, _), client.stream("GET", ONE.format(bought) + "/events") as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        assert "content-length" not in response.headers
        async for event in events(response):
            found.append(event)
            if (event["event"], len(found)) == ("status", 1):
                await api.house.passes(1.5)
            elif event["event"] == "status" and json.loads(event["data"])["status"] == "received":
                await api.do(bought, "finish")
    assert [event["event"] for event in found] == ["status", "message", "status", "status"]
    assert [event["id"] for event in found] == ["0", "1", "1", "1"]
    statuses = [json.loads(event["data"])["status"] for event in found if event["event"] == "status"]
    assert statuses == ["waiting", "received", "finished"]
    assert json.loads(found[1]["data"]) == json.loads(found[-1]["data"])["messages"][0]
    assert len(waiting(api)) == 0


async def test_a_client_that_cant_read_a_stream_is_told_what_to_do_instead(api: RestHouse) -> None:
    """HTTP/1.0 knows no chunks."""
    bought = await api.buy("xmute")
    path, key = ONE.format(bought) + "/events", api.house.keys["alice"]
    async with on_a_socket(api) as (client, _):
        answer = await exchange(
            client.base_url.port or 0, f"GET {path} HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        )
    assert (answer.status, "transfer-encoding" in answer.headers) == (422, False)
    assert "?wait=" in json.loads(answer.body)["detail"]


async def test_a_stream_goes_on_where_it_was(api: RestHouse) -> None:
    bought = await api.buy("tg")
    await api.house.passes(1.5)
    await api.do(bought, "another-sms")
    await api.house.passes(8.5)
    api.stop.is_on = True
    response = await api.ask("GET", ONE.format(bought) + "/events", headers={"Last-Event-ID": "1"})
    found = [event async for event in events(response)]
    assert [(event["event"], event["id"]) for event in found] == [("message", "2"), ("status", "2")]


async def test_what_came_just_before_the_end_is_still_told(api: RestHouse) -> None:
    bought = await api.buy("tg")
    await api.house.passes(1.5)
    await api.do(bought, "finish")
    response = await api.ask("GET", ONE.format(bought) + "/events", headers={"Last-Event-ID": "0"})
    assert [event["event"] async for event in events(response)] == ["message", "status"]


async def test_after_the_end_a_browser_is_told_not_to_come_again(api: RestHouse) -> None:
    bought = await api.buy("tg")
    await api.house.passes(1.5)
    await api.do(bought, "finish")
    path = ONE.format(bought) + "/events"
    first = await api.ask("GET", path)
    assert [event["event"] async for event in events(first)] == ["message", "status"]
    again = await api.ask("GET", path, headers={"Last-Event-ID": "1"})
    assert (again.status_code, again.content) == (204, b"")
    for rubbish in ("x", "-1", "٣", "9" * 50):
        headers: Any = {"Last-Event-ID": rubbish.encode()}
        assert (await api.ask("GET", path, headers=headers)).status_code in (200, 204)


async def test_a_stream_shows_that_it_lives(api: RestHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compat.rest.PING_SECONDS", 0.05)
    monkeypatch.setattr("compat.rest.STREAM_SECONDS_MAX", 0.3)
    response = await api.ask("GET", ONE.format(await api.buy("xmute")) + "/events")
    assert response.text.count(": still here\n\n") >= 3
    assert STREAM_SECONDS_MAX <= 600


async def test_a_server_that_stops_does_not_wait_for_those_who_wait(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    async with on_a_socket(api) as (client, server):
        with patch.object(Switch, "__call__", lambda _self: server.should_exit):
            asked = [asyncio.ensure_future(client.get(ONE.format(bought) + path, timeout=60))
                     for path in ("?wait=60", "/events")]  # fmt: skip
            await soon(lambda: len(waiting(api)) == 2)
            server.should_exit = True
            answers = await asyncio.wait_for(asyncio.gather(*asked), 3)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["status"] == "waiting"
