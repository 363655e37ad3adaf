"""Renting on the wire beyond what transcripts can show: clients that hang up, limits, what getCountries says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest

from gateway import accounts
from gateway.model import LeaseState, Progress, Status
from gateway.store import Tx
from tests.harness import PATH, config_directory, environment
from tests.wire import StillHouse, still_house


class Asked:
    """A gateway asked as an ASGI application, so that a client can be gone when its answer comes."""

    def __init__(self, house: StillHouse) -> None:
        self.house = house

    async def ask(self, *, dialect: str = "", who: str = "alice", is_there: bool = True, **parameters: object) -> str:
        """The answer's body; empty where the client is not there to get it."""
        pairs = {"api_key": self.house.keys[who], **parameters}
        query = "&".join(f"{name}={value}" for name, value in pairs.items()).encode()
        path = f"/{dialect}{PATH}" if dialect else PATH
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": []}
        sent: list[bytes] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if not is_there:
                raise OSError
            sent.append(bytes(message.get("body", b"")))

        async def waits() -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        app: Any = self.house.gateway.app
        await app(scope, waits if is_there else receive, send)
        return b"".join(sent).decode()

    async def json(self, **parameters: Any) -> Any:
        return json.loads(await self.ask(**parameters))


@pytest.fixture
async def here(tmp_path: Path, database_url: str) -> AsyncIterator[Asked]:
    async with still_house(config_directory(tmp_path), environment(database_url)) as house:
        await house.open_account("alice", "10.00")
        yield Asked(house)
        assert await house.problems() == []


async def test_a_client_that_hung_up_gets_the_rental_it_never_heard_of(here: Asked) -> None:
    wanted: dict[str, Any] = {"action": "getRentNumber", "service": "xmute", "country": 6}
    await here.ask(**wanted, is_there=False)
    held = await here.house.balance("alice")
    bought = await here.json(**wanted)
    assert await here.house.balance("alice") == held
    assert [row["id"] for row in (await here.json(action="getRentList"))["values"].values()] == [
        str(bought["phone"]["id"])
    ]
    await here.json(**wanted)  # from now on it is another one
    assert (await here.house.balance("alice"))[2] == held[2] + 1


async def test_a_client_that_hung_up_pays_once_for_more_time(here: Asked) -> None:
    rental_id = (await here.json(action="getRentNumber", service="tg", country=6))["phone"]["id"]
    wanted: dict[str, Any] = {"action": "continueRentNumber", "id": rental_id, "rent_time": 4}
    await here.ask(**wanted, is_there=False)
    paid = await here.house.balance("alice")
    assert (await here.json(**wanted))["phone"]["endDate"] == "2025-06-01T18:00:00"
    assert await here.house.balance("alice") == paid
    assert (await here.json(**wanted))["phone"]["endDate"] == "2025-06-01T22:00:00"


async def test_a_client_that_hung_up_gets_what_builds_on_its_number(here: Asked) -> None:
    first = (await here.ask(action="getNumber", service="tg", country=6)).split(":")[1]
    beside: dict[str, Any] = {"action": "getAdditionalService", "id": first, "service": "wa"}
    many: dict[str, Any] = {"action": "getMultiServiceNumber", "multiService": "tg,wa", "country": 6}
    for wanted in (beside, many):
        await here.ask(**wanted, is_there=False)
        held = await here.house.balance("alice")
        assert await here.ask(**wanted)
        assert await here.house.balance("alice") == held, wanted
    await here.house.passes(1.5)
    await here.ask(action="setStatus", id=first, status=6)
    again: dict[str, Any] = {"action": "getExtraActivation", "activationId": first}
    await here.ask(**again, is_there=False)
    held = await here.house.balance("alice")
    assert (await here.ask(**again)).startswith("ACCESS_NUMBER:")
    assert await here.house.balance("alice") == held


async def test_over_its_limit_a_poll_is_told_what_memory_knows(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path, gateway="[limits]\npolls_per_minute = 3\n")
    async with still_house(directory, environment(sqlite_url)) as house:
        await house.open_account("alice", "10.00")
        here = Asked(house)
        rental_id = (await here.json(action="getRentNumber", service="tg", country=6))["phone"]["id"]
        await house.passes(1.5)
        for _ in range(5):
            assert (await here.json(action="getRentStatus", id=rental_id))["quantity"] == "1"
            assert (await here.ask(dialect="hero", action="getStatus", id=rental_id)).startswith("STATUS_OK:")
        assert len((await here.json(action="getRentList"))["values"]) == 1
        assert (await here.json(action="getRentStatus", id=100999999))["message"] == "SERVER_ERROR"
        assert (await here.json(dialect="hero", action="getStatus", id=100999999))["title"] == "RATE_LIMIT"


async def test_a_page_beyond_the_end_is_empty_however_far(here: Asked) -> None:
    assert (await here.json(action="getRentList", page=1))["message"] == "NO_NUMBERS"
    rental_id = (await here.json(action="getRentNumber", service="tg", country=6))["phone"]["id"]
    await here.house.passes(1.5)
    for page in ("2", "101", "9" * 12, "9" * 30):
        assert await here.json(action="getRentList", page=page) == {"status": "success", "values": {}}
        told = await here.json(action="getRentStatus", id=rental_id, page=page)
        assert told == {"status": "success", "quantity": "1", "values": {}}
    for page in ("1", "0", "-1", "x"):
        assert len((await here.json(action="getRentList", page=page))["values"]) == 1


async def test_more_hours_than_there_are_are_too_many_however_they_are_written(here: Asked) -> None:
    for hours in ("1345", "9" * 10, "9" * 30):
        told = await here.json(action="getRentNumber", service="tg", country=6, rent_time=hours)
        assert told["message"] == "MAX_HOURS_EXCEED"
    for hours in ("1", "0", "-4", "4.5", "x"):
        told = await here.json(action="getRentNumber", service="tg", country=6, rent_time=hours)
        assert told["message"] == "INVALID_TIME"


async def test_an_order_for_a_rental_that_got_no_number_is_none(here: Asked) -> None:
    assert (await here.json(action="getRentNumber", service="xnone", country=6))["message"] == "NO_NUMBERS"

    def failed(tx: Tx) -> int:
        row = tx.one("select id from activations where status = :status", status=Status.FAILED.value)
        assert row is not None
        return int(row["id"])

    rental_id = await here.house.database.store.read(failed)
    for parameters in ({"action": "getRentStatus"}, {"action": "setRentStatus", "status": 1}):
        assert (await here.json(**parameters, id=rental_id))["message"] == "INVALID_PHONE"


async def test_a_rental_that_its_upstream_takes_away_is_revoked_and_paid_back(here: Asked) -> None:
    rental_id = (await here.json(action="getRentNumber", service="xmute", country=6))["phone"]["id"]
    live = here.house.gateway.house.live.get(rental_id)
    assert live is not None
    await here.house.gateway.activations.take(live, 1, Progress(LeaseState.CANCELLED))
    assert (await here.json(action="getRentStatus", id=rental_id))["message"] == "STATUS_REVOKE"
    assert (await here.json(action="setRentStatus", id=rental_id, status=1))["message"] == "ALREADY_CANCEL"
    assert (await here.house.balance("alice"))[:2] == (10_000_000, 0)


async def test_countries_say_where_an_account_can_rent(here: Asked) -> None:
    for dialect, rents in (("", 1), ("hero", 1), ("grizzly", 1), ("smshub", 0), ("daisy", 0)):
        assert (await here.json(dialect=dialect, action="getCountries"))["6"]["rent"] == rents, dialect
    with patch.object(here.house.gateway.rentals, "countries", AsyncMock(return_value={187})):
        told = await here.json(action="getCountries")
    assert (told["6"]["rent"], told["187"]["rent"]) == (0, 1)


async def test_a_list_is_of_what_this_key_may_rent(here: Asked) -> None:
    """Two keys of one account, one of which may buy less."""
    house = here.house

    def narrow(tx: Tx) -> str:
        rules: dict[str, Any] = {"services": frozenset({"wa"})}
        return accounts.new_key(tx, house.database.vault, "alice", house.clock(), changes=rules).key

    house.keys["narrow"] = await house.database.store.run(narrow)
    wanted = {"action": "getRentServicesAndCountries", "country": 6, "rent_time": 4}
    wide = await here.json(**wanted)
    assert len(wide["services"]) > 1
    assert list((await here.json(**wanted, who="narrow"))["services"]) == ["wa"]
    assert await here.json(**wanted) == wide
