"""Every action of every dialect has an answer of its own to what clients send: none ever ends in a defect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from compat import DIALECTS
from compat._lists import Lists
from tests.harness import PATH, config_directory, environment
from tests.wire import StillHouse, still_house


@pytest.fixture
async def house(tmp_path: Path, sqlite_url: str) -> AsyncIterator[StillHouse]:
    directory = config_directory(tmp_path, gateway="[limits]\nchanges_per_minute = 10000\npolls_per_minute = 100000\n")
    async with still_house(directory, environment(sqlite_url)) as found:
        await found.open_account("alice", "100.00")
        yield found
        assert await found.problems() == []


async def ask(house: StillHouse, dialect: str, method: str = "GET", **parameters: str) -> tuple[int, str]:
    """Status and body."""
    pairs = {"api_key": house.keys["alice"], **parameters}
    query = "&".join(f"{name}={value}" for name, value in pairs.items()).encode()
    scope = {"type": "http", "method": method, "path": f"/{dialect}{PATH}", "query_string": query, "headers": []}
    sent: list[dict[str, Any]] = []
    asked = iter(({"type": "http.request", "body": b""},))

    async def receive() -> dict[str, Any]:
        message = next(asked, None)
        return message or {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    app: Any = house.gateway.app
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


def plausible(dialect: str, activation_id: str) -> Mapping[str, str]:
    """Something for every parameter there is."""
    words = {
        "ds": {"service": "telegram", "country": "US"},
        "daisy": {"service": "tg", "country": "187"},
        "api1": {"service": "telegram", "country": "indonesia"},
    }
    return {
        "service": "tg", "country": "6", "multiService": "tg,wa", "id": activation_id, "activationId": activation_id,
        "status": "6", "rent_time": "4", "time": "4", "hours": "4", "duration": "24", "needHistory": "1",
        "operator": "any", "url": "https://example.com/sms", "start": "0", "limit": "5", "page": "1", "size": "5",
        "length": "5", "orderId": "one", "number": "", "phoneException": "7700,7708", "currency": "840",
        "freePrice": "true", **words.get(dialect, {}),
    }  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_no_action_of_a_dialect_ends_in_a_defect(house: StillHouse, dialect: str) -> None:
    actions = DIALECTS[dialect](house.gateway.front, Lists()).actions
    goods = plausible(dialect, "")
    bought = await ask(house, dialect, action="getNumber", service=goods["service"], country=goods["country"])
    assert bought[1].startswith("ACCESS_NUMBER:")
    known = bought[1].split(":")[1]
    failed: list[str] = []
    for action in actions:
        for parameters in ({}, plausible(dialect, known)):
            with capture_logs() as logged:
                await ask(house, dialect, action=action, **parameters)
            failed += [action for event in logged if event["event"] == "request.failed"]
    assert failed == []


async def test_countries_have_numbers_where_their_names_are_words(house: StillHouse) -> None:
    status, body = await ask(house, "api1", action="getCountries")
    assert (status, '"6":{"id":6,"rus":' in body) == (200, True)
