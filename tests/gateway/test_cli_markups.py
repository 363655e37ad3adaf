"""`simroute markup`, and the price build-up that `simroute explain` shows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.harness import config_directory, environment
from tests.shell import Shell

PRICING = '[default]\npercent = "20"\nadd = "0.01"\n[[rule]]\nservices = ["wa"]\nfixed = "0.15"\n'


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> Shell:
    """alice, carol below her, dave below carol; bob beside them."""
    found = Shell(config_directory(tmp_path, pricing=PRICING), environment(sqlite_url))
    for name, parent in (("alice", ""), ("carol", "alice"), ("dave", "carol"), ("bob", "")):
        found.ok("account", "create", name, *(("--parent", parent) if parent else ()))
    return found


def test_markups_are_set_listed_replaced_and_removed(shell: Shell) -> None:
    assert shell.ok("markup", "list", "alice") == "no markups: prices are passed on as they are\n"
    shell.ok("markup", "set", "alice", "--percent", "12.5", "--step", "0.01")
    shell.ok("markup", "set", "alice", "--services", "tg, wa", "--countries", "6,NO", "--add", "0.02")
    shell.ok("markup", "set", "alice", "--child", "carol", "--percent", "5", "--place", "1")
    shell.ok("markup", "set", "alice", "--percent", "15", "--step", "0.01")
    found = shell.json("markup", "list", "alice")
    assert [{name: value for name, value in row.items() if name != "id"} for row in found] == [
        {"services": None, "countries": None, "child": "carol", "percent": "5", "add": "0.00", "step": "0.0001"},
        {"services": "tg,wa", "countries": "6,174", "child": None, "percent": "0", "add": "0.02", "step": "0.0001"},
        {"services": None, "countries": None, "child": None, "percent": "15", "add": "0.00", "step": "0.01"},
    ]
    shell.ok("markup", "remove", "alice", str(found[0]["id"]))
    assert shell.json("markup", "list", "alice") == found[1:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "nobody", "--percent", "5"), "there is no account nobody"),
        (("set", "alice", "--percent", "-5"), "'-5' is no percentage from 0 to 100000 with at most four decimals"),
        (("set", "alice", "--percent", "nan"), "'nan' is no percentage"),
        (("set", "alice", "--add", "-0.01"), "an amount added is from 0 to 1000000.00"),
        (("set", "alice", "--add", "0.0000001"), "an amount has at most six decimals"),
        (("set", "alice", "--add", "inf"), "'inf' is not an amount"),
        (("set", "alice", "--step", "0"), "a rounding step is a multiple of 0.0001"),
        (("set", "alice", "--step", "0.00015"), "a rounding step is a multiple of 0.0001"),
        (("set", "alice", "--services", "nosuch"), "there is no service 'nosuch' in the catalogue"),
        (("set", "alice", "--countries", "99999"), "there is no country '99999' in the catalogue"),
        (("set", "alice", "--child", "bob"), "there is no account bob"),
        (("set", "alice", "--child", "dave"), "a markup is for an account directly below"),
        (("set", "alice", "--child", "alice"), "a markup is for an account directly below"),
        (("remove", "alice", "7"), "there is no markup 7 of this account"),
        (("list", "nobody"), "there is no account nobody"),
    ],
)
def test_a_mistake_is_a_sentence_and_sets_nothing(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    assert words in shell.refused("markup", *arguments)
    assert shell.json("markup", "list", "alice") == []


def test_explain_shows_how_a_price_came_about(shell: Shell) -> None:
    shell.ok("markup", "set", "alice", "--percent", "10")
    shell.ok("markup", "set", "carol", "--percent", "10", "--add", "0.001", "--step", "0.01")
    (tried,) = shell.json("explain", "tg", "6", "--account", "dave")["tried"]
    assert (tried["cost"], tried["price"]) == ("0.05 USD", "0.09 USD")
    assert tried["steps"] == [
        {"step": "cost", "rule": "at sandbox", "amount": "0.05 USD"},
        {"step": "operator", "rule": "+ 20 % + 0.01 USD for alice", "amount": "0.07 USD"},
        {"step": "alice", "rule": "+ 10 %", "amount": "0.077 USD"},
        {"step": "carol", "rule": "+ 10 % + 0.001 up to a multiple of 0.01", "amount": "0.09 USD"},
    ]
    said = shell.ok("explain", "wa", "6", "--account", "carol")
    assert "The price at sandbox:" in said
    assert "fixed 0.15 USD for alice" in said
    (plain,) = shell.json("explain", "tg", "6")["tried"]
    assert [step["step"] for step in plain["steps"]] == ["cost", "operator"]
    (above,) = shell.json("explain", "tg", "6", "--account", "bob")["tried"]
    assert above["steps"][-1] == {"step": "operator", "rule": "+ 20 % + 0.01 USD for bob", "amount": "0.07 USD"}
    shell.ok("account", "create", "eve", "--parent", "bob")
    (below,) = shell.json("explain", "tg", "6", "--account", "eve")["tried"]
    assert below["steps"][-1] == {"step": "bob", "rule": "passes it on", "amount": "0.07 USD"}


def test_explain_shows_exchange_and_floor(tmp_path: Path, sqlite_url: str) -> None:
    pricing = '[default]\npercent = "0"\n[floor]\nmargin_percent = "50"\n'
    directory = config_directory(
        tmp_path, pricing=pricing, rates=f"as_of = {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n[rates]\nEUR = 2\n"
    )
    shell = Shell(directory, environment(sqlite_url))
    shell.ok("account", "create", "alice", "--currency", "EUR")
    (tried,) = shell.json("explain", "tg", "6", "--account", "alice")["tried"]
    assert tried["steps"] == [
        {"step": "cost", "rule": "at sandbox", "amount": "0.05 USD"},
        {"step": "exchange", "rule": "USD to EUR", "amount": "0.025 EUR"},
        {"step": "operator", "rule": "the cost, raised to the floor of 50 % over the cost for alice",
         "amount": "0.0375 EUR"},
    ]  # fmt: skip
