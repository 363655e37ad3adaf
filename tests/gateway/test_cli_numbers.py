"""`simroute numbers`: what a person types, what a file holds, and what is shown of it to whom."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.cli_numbers import masked
from gateway.database import open_database
from gateway.inhouse import PoolMessage, PoolTerms, Recorded
from gateway.model import BuyOrder, Lease, Outcome
from gateway.money import Money
from gateway.numbers import Numbers
from tests.harness import SANDBOX, config_directory, environment
from tests.shell import Shell

POOL = SANDBOX + "[receive_sms]\n"
FIRST, SECOND = "447700900101", "447700900102"
TERMS = PoolTerms(Money(0, "USD"), lambda leases, _: leases[0], 1200, 3600, 1800, 60, 20, 1, 60, 2, 86_400, 10)


class NumbersShell(Shell):
    """Runs `simroute numbers …`, and does to the pool what a gateway would."""

    group = ("numbers",)

    def lease(self, service: str = "tg") -> Lease | None:
        order = BuyOrder(service, 16, "", Money(0, "USD"), 5.0)
        return self._with_pool(lambda pool: pool.lease(order, TERMS))  # type: ignore[no-any-return]

    def close(self, lease: Lease) -> None:
        self._with_pool(lambda pool: pool.close(lease.reference, Outcome.CANCELLED, TERMS))

    def send(self, to: str, text: str, sender: str = "Telegram") -> Recorded:
        message = PoolMessage("generic", text, to, sender, text)
        (recorded,) = self._with_pool(lambda pool: pool.record(message, TERMS))
        assert isinstance(recorded, Recorded)
        return recorded

    def _with_pool(self, work: Any) -> Any:
        async def run() -> Any:
            database = open_database(self.values)
            try:
                return await work(Numbers(database.store, database.vault, time.time, "receive_sms"))
            finally:
                await database.store.close()

        return asyncio.run(run())


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> NumbersShell:
    return NumbersShell(config_directory(tmp_path, POOL), environment(sqlite_url))


def written(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# Adding


def test_number_is_added_shown_and_changed(shell: NumbersShell) -> None:
    added = shell.ok("add", "+44 7700 900101", "--country", "GB", "--carrier", "Example Cell", "--services", "wa,tg")
    assert added == "receive_sms: 1 added, 0 changed, 0 as they were\n"
    (row,) = shell.json("list", "--full")
    assert row["number"] == FIRST
    assert (row["country"], row["carrier"], row["services"], row["state"]) == (16, "example_cell", "tg,wa", "free")
    assert shell.json("add", FIRST, "--services", "!fb", "--daily-cap", "3")["changed"] == 1
    facts = shell.json("show", FIRST)
    assert (facts["services"], facts["carrier"], facts["day"]) == ("!fb", "example_cell", "0/3")
    assert shell.json("add", FIRST, "--services", "!fb")["unchanged"] == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((FIRST,), "a new number needs a country"),
        ((FIRST, "--country", "6"), "a number of country 6 begins with 62"),
        (("12025550100", "--country", "US"), "US is more than one country: say one of 12, 187"),
        ((FIRST, "--country", "ZZ"), "there is no country 'ZZ'"),
        (("07700900101", "--country", "16"), "a number has 7 to 15 digits"),
        ((FIRST, "--country", "16", "--services", "tg,!wa"), "either allowed (tg) or excepted (!tg)"),
        ((FIRST, "--country", "16", "--services", "zzzzz"), "there is no service 'zzzzz'"),
        ((FIRST, "--country", "16", "--source", "a b"), "no sensible source"),
        ((FIRST, "--country", "16", "--upstream", "sandbox"), "no upstream sandbox with the adapter receive_sms"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    shell: NumbersShell, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in shell.refused("add", *arguments)
    assert shell.json("list") == []


def test_pool_has_to_be_named_where_there_are_several(tmp_path: Path, sqlite_url: str) -> None:
    text = POOL + '[farm]\nadapter = "receive_sms"\n'
    shell = NumbersShell(config_directory(tmp_path, text), environment(sqlite_url))
    assert "say --upstream and one of receive_sms, farm" in shell.refused("add", FIRST, "--country", "16")
    shell.ok("add", FIRST, "--country", "16", "--upstream", "farm")
    assert "the number is in the pool of farm" in shell.refused(
        "add", FIRST, "--country", "16", "--upstream", "receive_sms"
    )


def test_pool_may_be_filled_before_anybody_sells_it(tmp_path: Path, sqlite_url: str) -> None:
    shell = NumbersShell(config_directory(tmp_path), environment(sqlite_url))
    result = shell.run("add", FIRST, "--country", "16")
    assert result.exit_code == 0
    assert "no upstream sells these numbers yet" in result.stderr
    assert [row["upstream"] for row in shell.json("list")] == ["receive_sms"]


# Files


def test_csv_is_imported_and_a_repeat_updates(shell: NumbersShell, tmp_path: Path) -> None:
    text = "number,country,carrier,source,services,device,daily_cap,enabled\n"
    text += f"+{FIRST},16,cell,twilio,tg wa,,5,yes\n# a remark\n\n{SECOND},GB,,,!fb,dev1:1,,no\n"
    assert shell.json("import", written(tmp_path, "a.csv", text))["added"] == 2
    first, second = shell.json("list", "--full")
    assert (first["number"], first["source"], first["services"], first["day"]) == (FIRST, "twilio", "tg,wa", "0/5")
    assert (second["state"], second["device"], second["services"]) == ("disabled", "dev1:1", "!fb")
    again = f"\ufeffnumber;enabled;daily_cap\n{FIRST};yes;\n{SECOND};yes;\n"
    assert shell.json("import", written(tmp_path, "b.csv", again)) == {
        "upstream": "receive_sms", "added": 0, "changed": 2, "unchanged": 0,
    }  # fmt: skip
    first, second = shell.json("list")
    assert (first["day"], first["source"]) == ("0", "twilio")
    assert (second["state"], second["device"]) == ("free", "dev1:1")


def test_toml_is_imported(shell: NumbersShell, tmp_path: Path) -> None:
    text = f'[[number]]\nnumber = "{FIRST}"\ncountry = 16\nservices = ["tg", "wa"]\n\n'
    text += f"[[number]]\nnumber = {SECOND}\ncountry = 16\nenabled = false\ndaily_cap = 2\n"
    assert shell.json("import", written(tmp_path, "a.toml", text))["added"] == 2
    assert [(row["services"], row["state"]) for row in shell.json("list")] == [("tg,wa", "free"), (None, "disabled")]


def test_every_line_that_is_wrong_is_named_and_nothing_is_imported(shell: NumbersShell, tmp_path: Path) -> None:
    lines = ["number,country,services", f"{FIRST},16,tg", "nonsense,16,", f"{SECOND},16,zzzzz", f"{FIRST},6,"]
    said = shell.refused("import", written(tmp_path, "a.csv", "\n".join(lines)))
    assert [line.split(":")[0] for line in said.splitlines()[:3]] == ["Error", "line 4", "line 5"]
    assert "line 3: a number has" in said
    toml = f'# two\n[[number]]\nnumber = "{FIRST}"\ncountry = 16\n\n[[number]]\nnumber = "{FIRST}"\ncountry = 16\n'
    said = shell.refused("import", written(tmp_path, "a.toml", toml))
    assert "line 6: the same number as line 2" in said
    assert said.endswith("nothing was changed\n")
    assert shell.json("list") == []


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "number,contry\n", "line 1: there is no column 'contry'; did you mean 'country'?"),
        ("a.csv", "country\n16\n", "the header needs a column number"),
        ("a.csv", "", "the header needs a column number"),
        ("a.csv", f"number,country\n{FIRST},16,tg\n", "line 2: 3 cells under a header of 2"),
        ("a.toml", "[[numbers]]\n", "only [[number]] tables belong there"),
        ("a.toml", "[[number]]\nnumbr = 1\n", "line 1: there is no column 'numbr'; did you mean 'number'?"),
        ("a.toml", "[[number]\n", "a.toml"),
    ],
)
def test_file_of_another_shape_is_refused(
    shell: NumbersShell, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    assert reason in shell.refused("import", written(tmp_path, name, text))


def test_refusal_shows_no_number(shell: NumbersShell, tmp_path: Path) -> None:
    text = f"number,country\n{FIRST},6\n"
    assert FIRST not in shell.refused("import", written(tmp_path, "a.csv", text))


# What is shown


def test_numbers_are_shown_without_their_middle(shell: NumbersShell) -> None:
    shell.ok("add", FIRST, "--country", "16")
    shell.send(FIRST, "Telegram code 12345", sender="+12025550111")
    for command in (("list",), ("show", "1"), ("messages",)):
        said = shell.ok(*command) + json.dumps(shell.json(*command))
        assert "4477******01" in said
        assert FIRST not in said
        assert FIRST in shell.ok(*command, "--full")
        assert "12345" not in said.replace("12025550111", "")


def test_texts_are_shown_on_request_and_unmatched_messages_apart(shell: NumbersShell) -> None:
    shell.ok("add", FIRST, "--country", "16")
    shell.send(FIRST, "before")
    lease = shell.lease()
    shell.send(FIRST, "Telegram code 12345")
    assert lease is not None
    rows = shell.json("messages", "--show-text")
    assert [(row["text"], row["lease"], row["service"], row["reason"]) for row in rows] == [
        ("Telegram code 12345", int(lease.reference), "tg", None),
        ("before", None, None, "no lease"),
    ]
    assert [row["text"] for row in shell.json("messages", "--unmatched", "--show-text")] == ["before"]
    assert "text" not in shell.json("messages")[0]


def test_one_number_is_shown_with_its_leases(shell: NumbersShell) -> None:
    shell.ok("add", FIRST, "--country", "16")
    lease = shell.lease()
    assert lease is not None
    assert shell.json("show", "1")["state"] == "leased"
    shell.close(lease)
    facts = shell.json("show", f"+{FIRST}")
    assert facts["state"] == "quarantined"
    assert [(row["service"], row["state"]) for row in facts["leases"]] == [("tg", "cancelled")]
    assert facts["leases"][0]["again_from"]
    assert "cancelled" in shell.ok("show", "1")
    assert "there is no number 999" in shell.refused("show", "999")


def test_short_numbers_and_names_are_not_masked() -> None:
    assert [masked(word, full=False) for word in ("22000", "Telegram", FIRST)] == ["22000", "Telegram", "4477******01"]


# Switches


def test_switches_take_numbers_out_and_back_in(shell: NumbersShell) -> None:
    shell.ok("add", FIRST, SECOND, "--country", "16")
    assert shell.ok("disable", "1", SECOND) == "2 disabled\n"
    assert shell.lease() is None
    assert shell.json("enable", FIRST)["numbers"] == 1
    shell.ok("quarantine", FIRST, "--hours", "2")
    assert [row["state"] for row in shell.json("list")] == ["quarantined", "disabled"]
    assert shell.lease() is None
    shell.ok("release", FIRST)
    lease = shell.lease()
    assert lease is not None
    assert "number 1 is leased" in shell.refused("remove", FIRST)
    shell.close(lease)
    shell.ok("release", FIRST)
    assert shell.lease() is None
    shell.ok("release", FIRST, "--cooldowns")
    assert shell.lease() is not None
    assert shell.ok("remove", "2") == "1 removed\n"
    assert [row["id"] for row in shell.json("list")] == [1]
