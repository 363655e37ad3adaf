"""`simroute desk` beside a gateway at work: what a person types in one process is what a client gets from another."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import House, config_directory, environment, house
from tests.shell import Shell

NUMBER, OTHER_NUMBER = "447700900001", "447700900002"
KEY = "key-of-this-desk"
DESK = '[manual_entry]\nservices = ["tg"]\ncountries = [16]\nprice = 0.40\npoll_seconds = 0.1\n'
TWO_DESKS = DESK + '\n[night]\nadapter = "manual_entry"\nservices = ["wa"]\nprice = "0.50"\n'
ONE_TO_ONE = "[[rule]]\npercent = 0\n"


class DeskShell(Shell):
    """Runs `simroute desk …`."""

    group = ("desk",)

    async def elsewhere(self, *arguments: str) -> Any:
        """Runs a command on a thread with a loop of its own; its JSON."""
        return await asyncio.to_thread(self.json, *arguments)

    async def until(self, wants: str) -> str:
        """The first task that wants this."""
        for _ in range(50):
            found = [row["task"] for row in await self.elsewhere("list") if row["wants"] == wants]
            if found:
                return str(found[0])
            await asyncio.sleep(0.1)
        raise AssertionError(f"no {wants} was wanted")


def shell_of(tmp_path: Path, url: str, upstreams: str = DESK) -> DeskShell:
    directory = config_directory(tmp_path, upstreams, pricing=ONE_TO_ONE)
    return DeskShell(directory, environment(url, MANUAL_ENTRY_API_KEY=KEY, NIGHT_API_KEY=KEY))


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> DeskShell:
    return shell_of(tmp_path, sqlite_url)


# Alone


def test_list_is_a_table_for_people_and_rows_for_programs(shell: DeskShell) -> None:
    assert shell.ok("list").split()[:3] == ["UPSTREAM", "TASK", "WANTS"]
    shell.ok("offer", "tg", "16", "+44 7700 900001")
    (row,) = shell.json("list")
    assert (row["upstream"], row["state"], row["service"], row["country"]) == ("manual_entry", "ready", "tg", 16)
    assert (row["number"], row["wants"], row["messages"], row["price"]) == (NUMBER, None, 0, "0.40 USD")
    (line,) = shell.ok("list").splitlines()[1:]
    assert line.split()[:2] == ["manual_entry", row["task"]]


def test_every_command_tells_people_a_sentence_and_programs_the_task(shell: DeskShell) -> None:
    said = shell.ok("offer", "tg", "16", NUMBER)
    assert re.fullmatch(r"task 1: ready for tg in country 16 until [\d :-]+ UTC\n", said)
    assert shell.json("offer", "tg", "16", OTHER_NUMBER)["state"] == "ready"
    assert shell.ok("supply", "1", "--number", NUMBER) == "task 1 has its number\n"
    assert shell.json("supply", "1", "--number", NUMBER)["number"] == NUMBER
    assert shell.ok("fail", "1") == "task 1 has failed\n"
    assert shell.json("fail", "2")["state"] == "failed"
    assert shell.json("list") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("supply", "99", "--code", "12345"), "no such task"),
        (("supply", "x", "--code", "12345"), "no such task"),
        (("fail", "99"), "no such task"),
        (("supply", "1"), "type a number, a code or a text"),
        (("supply", "1", "--code", "12345"), "no order has this number yet"),
        (("supply", "1", "--number", OTHER_NUMBER), "another number"),
        (("offer", "tg", "16", NUMBER), "on the desk already"),
        (("offer", "tg", "16", "07700900002"), "begins with 44"),
        (("offer", "go", "16", OTHER_NUMBER), "does not sell"),
        (("offer", "tg", "16", OTHER_NUMBER, "--upstream", "nosuch"), "--upstream: manual_entry"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(shell: DeskShell, arguments: tuple[str, ...], words: str) -> None:
    shell.ok("offer", "tg", "16", NUMBER)
    said = shell.refused(*arguments)
    assert said.startswith("Error: ")
    assert words in said
    assert not [secret for secret in ("12345", "90000") if secret in said]


def test_of_several_desks_an_offer_names_one_and_a_task_finds_its_own(tmp_path: Path, sqlite_url: str) -> None:
    shell = shell_of(tmp_path, sqlite_url, TWO_DESKS)
    assert "manual_entry, night" in shell.refused("offer", "tg", "16", NUMBER)
    shell.ok("offer", "tg", "16", NUMBER, "--upstream", "manual_entry")
    shell.ok("offer", "wa", "16", NUMBER, "--upstream", "night")
    assert {row["task"]: row["upstream"] for row in shell.json("list")} == {"1": "manual_entry", "2": "night"}
    assert shell.json("fail", "2")["upstream"] == "night"


def test_without_a_desk_the_list_is_empty_and_an_offer_says_why(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path)
    shell = DeskShell(directory, environment(sqlite_url))
    assert shell.json("list") == []
    assert "worked by a person" in shell.refused("offer", "tg", "16", NUMBER)
    assert "no such task" in shell.refused("fail", "1")


# Beside a gateway at work


@dataclass
class Office:
    """A gateway with a desk, and a shell in another process's place."""

    house: House
    shell: DeskShell

    async def buy(self) -> str:
        answer = await self.house.call("getNumber", service="tg", country=16)
        assert answer.startswith("ACCESS_NUMBER:"), answer
        activation, number = answer.split(":")[1:]
        assert number == NUMBER
        return activation

    async def bought(self) -> tuple[str, str]:
        """An activation whose number a person typed while its order waited, and the task."""
        buying = asyncio.create_task(self.buy())
        task = await self.shell.until("number")
        await self.shell.elsewhere("supply", task, "--number", NUMBER)
        return await buying, task

    async def post(self, path: str, body: Any) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        response = await self.house.client.post(f"/api/v1/desk/manual_entry/{path}", json=body, headers=headers)
        assert response.status_code == 200, response.text


@pytest.fixture
async def office(tmp_path: Path, database_url: str) -> AsyncIterator[Office]:
    shell = shell_of(tmp_path, database_url)
    async with house(shell.directory, shell.values, is_demo=False) as started:
        for _ in range(100):
            if "tg" in await started.call("getPrices", service="tg", country=16):
                break
            await asyncio.sleep(0.05)
        yield Office(started, shell)
        assert await started.problems() == []


async def test_client_gets_the_number_and_both_codes_that_a_person_types(office: Office) -> None:
    activation, task = await office.bought()
    assert await office.house.balance() == (9_600_000, 400_000)
    await office.shell.elsewhere("supply", task, "--code", "012345")
    assert await office.house.until(activation, "STATUS_OK") == "STATUS_OK:012345"
    assert await office.house.balance() == (9_600_000, 0)
    assert await office.house.call("setStatus", id=activation, status=3) == "ACCESS_RETRY_GET"
    assert await office.shell.until("code") == task
    await office.post(task, {"text": "Your code is 67890"})
    assert await office.house.until(activation, "STATUS_OK:67890") == "STATUS_OK:67890"
    assert await office.house.call("setStatus", id=activation, status=6) == "ACCESS_ACTIVATION"
    assert await office.house.balance() == (9_600_000, 0)


async def test_order_that_nobody_answers_costs_nothing_and_the_next_gets_the_number(office: Office) -> None:
    assert await office.house.call("getNumber", service="tg", country=16) == "NO_NUMBERS"
    assert await office.house.balance() == (10_000_000, 0)
    task = await office.shell.until("number")
    await office.shell.elsewhere("supply", task, "--number", NUMBER)
    await office.buy()
    assert await office.house.balance() == (9_600_000, 400_000)


async def test_failed_number_gives_the_client_the_money_back(office: Office) -> None:
    activation, task = await office.bought()
    await office.shell.elsewhere("fail", task)
    assert await office.house.until(activation, "STATUS_CANCEL") == "STATUS_CANCEL"
    assert await office.house.balance() == (10_000_000, 0)


async def test_cancelled_activation_ends_its_task(office: Office) -> None:
    await office.shell.elsewhere("offer", "tg", "16", NUMBER)
    activation = await office.buy()
    assert await office.house.call("setStatus", id=activation, status=8) == "ACCESS_CANCEL"
    assert await office.house.balance() == (10_000_000, 0)
    assert await office.shell.elsewhere("list") == []
