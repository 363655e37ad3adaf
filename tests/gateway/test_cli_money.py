"""`simroute deposit`, `voucher` and `recharge`: what a person sees, and a sentence for each mistake."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway import deposits, vouchers
from gateway.cli import main
from gateway.database import open_database
from gateway.deposits import Told
from gateway.money import Money
from tests.gateway.branches import AT
from tests.gateway.test_cli_accounts import refused
from tests.harness import config_directory, environment
from tests.shell import Shell

RULE = ("recharge", "set", "carol", "--below", "1", "--amount", "2", "--month-max", "5")


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> Shell:
    """alice with five dollars, carol below her, bob beside them."""
    found = Shell(config_directory(tmp_path), environment(sqlite_url))
    found.ok("account", "create", "alice", "--balance", "5.00")
    found.ok("account", "create", "carol", "--parent", "alice")
    found.ok("account", "create", "bob")
    return found


def balances(shell: Shell) -> dict[str, str]:
    return {row["account"]: row["available"] for row in shell.json("account", "list")}


def told(shell: Shell, payment: Told) -> None:
    """As a callback does it."""

    async def receive() -> None:
        database = open_database(shell.values)
        await database.store.run(deposits.receive, payment, AT)
        await database.store.close()

    asyncio.run(receive())


# Deposits


def test_a_deposit_with_a_reference_is_booked_once(shell: Shell) -> None:
    pay = ("deposit", "alice", "1.50", "--reference", "b-17")
    assert shell.ok(*pay) == "alice now has 6.50 USD\n"
    assert shell.ok(*pay) == "booked before, nothing was added: alice has 6.50 USD\n"
    assert shell.json(*pay) == {"account": "alice", "available": "6.50", "booked": False}
    assert "used for another deposit" in refused(shell, "deposit", "alice", "1.51", "--reference", "b-17")
    assert "used for another deposit" in refused(shell, "deposit", "bob", "1.50", "--reference", "b-17")
    assert balances(shell) == {"alice": "6.50", "bob": "0.00", "carol": "0.00"}
    (row,) = shell.json("deposit", "list", "--account", "alice")
    assert (row["source"], row["reference"], row["state"], row["amount"]) == ("operator", "b-17", "booked", "1.50")
    assert shell.ok("ledger", "verify").startswith("ok")


def test_options_may_stand_before_the_account(shell: Shell) -> None:
    assert shell.ok("deposit", "--note", "a gift", "alice", "1") == "alice now has 6.00 USD\n"


def test_an_account_may_be_called_as_a_command_is(shell: Shell) -> None:
    shell.ok("account", "create", "list")
    assert shell.ok("deposit", "to", "list", "1") == "list now has 1.00 USD\n"


def test_an_unbooked_payment_is_assigned(shell: Shell) -> None:
    told(shell, Told("stripe", "p-1", "alcie", Money(2_000_000, "USD")))
    (row,) = shell.json("deposit", "list", "--open")
    assert (row["state"], row["told_account"]) == ("unbooked", "alcie")
    assert shell.ok("deposit", "assign", str(row["id"]), "alice") == "2.00 USD booked to alice\n"
    assert "is booked already" in refused(shell, "deposit", "assign", str(row["id"]), "bob")
    assert shell.json("deposit", "list", "--open") == []
    assert balances(shell)["alice"] == "7.00"
    assert shell.ok("ledger", "verify").startswith("ok")


def test_an_unbooked_payment_is_dismissed(shell: Shell) -> None:
    told(shell, Told("stripe", "p-1", "alice", Money(2_000_000, "EUR")))
    assert refused(shell, "deposit", "assign", "1", "alice") == "the account is kept in USD"
    assert shell.ok("deposit", "dismiss", "1", "--note", "sent back") == "payment 1 is dismissed\n"
    assert shell.json("deposit", "list")[0]["note"] == "sent back"
    assert refused(shell, "deposit", "dismiss", "2") == "there is no payment 2"


# Vouchers


def issued(shell: Shell, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(shell.ok("voucher", "issue", *arguments))))


def test_vouchers_are_issued_as_csv_redeemed_and_revoked(shell: Shell) -> None:
    rows = issued(shell, "3", "1.50", "--account", "alice", "--days", "30")
    assert [(row["batch"], row["amount"], row["currency"]) for row in rows] == [("1", "1.50", "USD")] * 3
    assert balances(shell)["alice"] == "0.50"
    code = rows[0]["code"]
    assert shell.ok("voucher", "redeem", "carol", code.lower()) == "1.50 USD paid into carol\n"
    assert refused(shell, "voucher", "redeem", "carol", code) == "you have redeemed this voucher already"
    assert refused(shell, "voucher", "redeem", "bob", rows[1]["code"]) == "there is no such voucher"
    assert "mistyped" in refused(shell, "voucher", "redeem", "carol", rows[1]["code"][:-1])
    assert shell.ok("voucher", "revoke", "1") == "2 vouchers of batch 1 revoked\n"
    assert refused(shell, "voucher", "redeem", "carol", rows[1]["code"]) == "this voucher was revoked"
    assert balances(shell) == {"alice": "3.50", "bob": "0.00", "carol": "1.50"}
    (batch,) = shell.json("voucher", "list", "--account", "alice")
    assert (batch["redeemed"], batch["revoked"], batch["open"]) == (1, 2, 0)
    listed = shell.json("voucher", "list", "1")
    assert [(row["code"], row["by"]) for row in listed[:1]] == [(code[:4] + "…", "carol")]
    assert shell.ok("ledger", "verify").startswith("ok")


def test_a_code_need_not_stand_on_the_command_line(shell: Shell) -> None:
    code = issued(shell, "1", "2")[0]["code"]
    command = ["--config", str(shell.directory), "voucher", "redeem", "bob"]
    result = CliRunner().invoke(main, command, input=f"{code}\n", env=dict(shell.values))
    assert result.exit_code == 0
    assert code not in result.output
    assert balances(shell)["bob"] == "2.00"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("0", "1"), "1 to 10000 vouchers"),
        (("1", "0"), "above zero"),
        (("1", "NaN"), "is not an amount"),
        (("1", "1.0000001"), "six decimals"),
        (("10000", "999999999"), "worth too much"),
        (("1", "1", "--account", "nobody"), "there is no account nobody"),
        (("9", "1", "--account", "alice"), "too little available"),
        (("1", "1", "--account", "alice", "--currency", "EUR"), "kept in USD"),
        (("1", "1", "--currency", "euro"), "three capital letters"),
    ],
)
def test_bad_batches_get_a_sentence(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(shell, "voucher", "issue", *arguments)
    assert shell.json("voucher", "list") == []
    assert balances(shell)["alice"] == "5.00"


def test_negative_numbers_get_a_sentence(shell: Shell) -> None:
    assert "above zero" in refused(shell, "voucher", "issue", "--", "1", "-1")
    assert "1 to 10000" in refused(shell, "voucher", "issue", "--", "-1", "1")


def test_unknown_batches_get_a_sentence(shell: Shell) -> None:
    assert refused(shell, "voucher", "revoke", "7") == "there is no batch 7"
    assert refused(shell, "voucher", "list", "99999999999999999999") == "there is no batch 99999999999999999999"
    assert refused(shell, "voucher", "redeem", "nobody", vouchers.new_code()) == "there is no account nobody"


# Recharges


def test_a_rule_is_set_shown_and_ended(shell: Shell) -> None:
    (row,) = shell.json(*RULE, "--from", "parent", "--cool-down", "60")
    wanted: dict[str, Any] = {
        "account": "carol", "on": True, "source": "parent", "below": "1.00", "amount": "2.00", "currency": "USD",
        "month_max": "5.00", "month_spent": "0.00", "cool_down": 60.0, "pending": False, "problem": None,
    }  # fmt: skip
    assert row == wanted
    assert shell.json("recharge", "show", "carol") == [wanted]
    assert shell.json("recharge", "show", "bob") == []
    assert shell.ok("recharge", "off", "carol") == "carol is no longer recharged\n"
    assert shell.ok("recharge", "off", "carol") == "carol was not recharged\n"
    assert shell.json("recharge", "show") == [{**wanted, "on": False}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*RULE, "--from", "hook"), "there is no payment hook"),
        ((*RULE, "--from", "parent", "--amount", "6"), "ceiling"),
        ((*RULE, "--from", "parent", "--below", "0"), "above zero"),
        ((*RULE, "--from", "parent", "--cool-down", "nan"), "cool-down"),
        (("recharge", "set", "bob", *RULE[3:], "--from", "parent"), "bob has no parent"),
        (("recharge", "off", "nobody"), "there is no account nobody"),
    ],
)
def test_bad_rules_get_a_sentence(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(shell, *arguments)
    assert shell.json("recharge", "show") == []
