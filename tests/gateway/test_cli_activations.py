"""`simroute activation`: what an operator sees of an order when something is to be looked into."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.errors import CallerError
from tests.harness import SANDBOX, config_directory, environment, house
from tests.scripted import STANZAS, World
from tests.shell import Shell


async def test_an_activation_is_shown_without_its_number_and_messages(database_url: str, tmp_path: Path) -> None:
    values = environment(database_url)
    directory = config_directory(tmp_path, SANDBOX + "quick_seconds = 0.1\npoll_seconds = 0.1\n")
    shell = Shell(directory, values)
    async with house(directory, values) as running:
        answer = await running.call("getNumber", service="tg", country=6)
        _, bought, number = answer.split(":")
        code = (await running.until(bought, "STATUS_OK:")).split(":")[1]
        text = await asyncio.to_thread(shell.ok, "activation", "show", bought)
        facts = await asyncio.to_thread(shell.json, "activation", "show", bought)
        unknown = await asyncio.to_thread(shell.refused, "activation", "show", "5")
        assert await asyncio.to_thread(shell.json, "activation", "unsettled") == []
    assert (facts["account"], facts["status"], facts["upstream"]) == ("alice", "received", "sandbox")
    assert facts["hold"].startswith("captured, ")
    assert (facts["messages"], facts["messages_shown"], facts["to_tell_upstream"]) == (1, 1, None)
    assert [attempt["state"] for attempt in facts["attempts"]] == ["leased"]
    assert number not in text + str(facts)
    assert code not in text.replace(facts["reference"], "")
    assert unknown == "Error: there is no activation 5\n"


async def test_purchases_in_doubt_and_what_is_yet_to_be_told_are_shown(database_url: str, tmp_path: Path) -> None:
    values = environment(database_url, ONE_API_KEY="k" * 32, TWO_API_KEY="k" * 32)
    shell = Shell(config_directory(tmp_path, STANZAS), values)
    world = World(values, shell.directory)
    await world.begin()
    try:
        world.one.buys.append("doubt_hidden")
        world.two.buys.append("sold_out")
        with pytest.raises(CallerError):
            await world.buy(world.order(price_max="0.50"))
        (row,) = await asyncio.to_thread(shell.json, "activation", "unsettled")
        live = await world.buy(world.order("another", "0.50"))
        world.two.closes.append("unwell")
        await world.gateway.activations.cancel(world.caller, live.id)
        facts = await asyncio.to_thread(shell.json, "activation", "show", str(live.id))
    finally:
        await world.end()
    assert (row["upstream"], row["state"], row["service"]) == ("one", "in_doubt", "tg")
    assert facts["upstream"] == "two"
    assert facts["hold"].startswith("released, ")
    assert facts["to_tell_upstream"].startswith("cancelled, next at ")
