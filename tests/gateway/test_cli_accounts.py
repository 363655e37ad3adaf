"""`simroute account`, `key` and `transfer`: a reseller's customers on the command line; a sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import config_directory, environment
from tests.shell import Shell


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> Shell:
    """alice with five dollars, carol below her, bob beside them; a key each."""
    found = Shell(config_directory(tmp_path), environment(sqlite_url))
    found.ok("account", "create", "alice", "--balance", "5.00")
    found.ok("account", "create", "carol", "--parent", "alice")
    found.ok("account", "create", "bob")
    for name in ("alice", "carol", "bob"):
        found.ok("key", "issue", name)
    return found


def refused(shell: Shell, *arguments: str) -> str:
    """The sentence of a command that did nothing."""
    result = shell.run(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.stderr.removeprefix("Error: ").strip()


def test_a_branch_is_shown_below_its_parent(shell: Shell) -> None:
    lines = shell.ok("account", "tree").splitlines()
    assert [line.split("  ")[0] or line[:7].rstrip() for line in lines[1:]] == ["alice", "  carol", "bob"]
    assert [row["account"] for row in shell.json("account", "tree", "alice")] == ["alice", "carol"]
    assert [row["depth"] for row in shell.json("account", "tree")] == [0, 1, 0]


def test_rules_are_set_shown_and_taken_away(shell: Shell) -> None:
    shell.ok(
        "account", "rules", "carol", "--services", "tg, wa", "--deny-services", "vk", "--countries", "6,us",
        "--price-max", "0.50", "--spend-day", "20", "--open-max", "5", "--dialects", "rest",
        "--ip-ranges", "192.0.2.0/24",
    )  # fmt: skip
    found = shell.json("account", "rules", "carol")
    assert found["account"] == "carol"
    assert found["rules"] == {
        "services": "tg,wa", "denied_services": "vk", "countries": "6,12,187", "ip_ranges": "192.0.2.0/24",
        "dialects": "rest", "price_max": "0.50", "open_max": "5", "spend_day": "20.00",
    }  # fmt: skip
    assert found["caps"] == [
        {"cap": "day", "used": "0.00", "of": "20.00"},
        {"cap": "open", "used": "0", "of": "5"},
    ]
    shell.ok("account", "rules", "carol", "--services", "none", "--spend-day", "none", "--open-max", "none")
    assert set(shell.json("account", "rules", "carol")["rules"]) == {
        "denied_services", "countries", "ip_ranges", "dialects", "price_max",
    }  # fmt: skip
    assert shell.ok("account", "rules", "bob") == "account bob has no rules of its own\n"


def test_a_key_is_issued_with_its_rules_and_replaced(shell: Shell) -> None:
    made = shell.json("key", "issue", "alice", "--name", "shop", "--spend-total", "3", "--expires", "2099-12-31")
    rules = shell.json("key", "rules", str(made["id"]))["rules"]
    assert rules == {"expires_at": "2099-12-31 00:00:00", "spend_total": "3.00"}
    new = shell.json("key", "rotate", str(made["id"]), "--grace", "3600")
    assert new["replaces"] == made["id"]
    assert len(new["key"]) == 32
    assert shell.json("key", "rules", str(new["id"]))["rules"] == rules
    rows = {row["id"]: row for row in shell.json("key", "list", "alice")}
    assert {rows[made["id"]]["name"], rows[new["id"]]["name"]} == {"shop"}
    assert rows[made["id"]]["ends"] < rows[new["id"]]["ends"] == "2099-12-31 00:00:00"
    shell.ok("key", "suspend", str(new["id"]))
    assert shell.json("key", "list", "alice")[-1]["suspended"]
    shell.ok("key", "resume", str(new["id"]))
    assert shell.json("key", "list", "alice")[-1]["suspended"] is None


def test_explain_says_what_a_rule_keeps_out(shell: Shell) -> None:
    shell.ok("account", "rules", "alice", "--deny-services", "tg", "--price-max", "0.05")
    for service, words in (("tg", "not allowed by the rules"), ("wa", "costs more than the rules")):
        found = shell.json("explain", service, "6", "--account", "carol")
        assert found["tried"] == []
        assert found["listed"] is None
        assert all(row["why"].startswith(words) for row in found["excluded"])
        assert shell.json("explain", service, "6", "--account", "bob")["tried"]
    assert shell.json("offers", "--account", "carol", "--country", "6") == []


def test_money_moves_down_and_up_once_for_each_reference(shell: Shell) -> None:
    for _ in range(2):
        said = shell.json("transfer", "alice", "carol", "1.25", "--reference", "march")
        assert said == {"from": "alice", "to": "carol", "amount": "1.25", "available": "1.25"}
    assert shell.ok("transfer", "carol", "alice", "all") == (
        "1.25 USD moved from carol to alice, which now has 5.00 USD\n"
    )
    assert shell.ok("ledger", "verify") == "ok\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("account create dora --parent nobody", "there is no account nobody"),
        ("account create dora --parent dora", "an account can't be its own parent"),
        ("account create dora --parent alice --currency EUR", "alice is kept in USD, its children too"),
        ("account create dora --parent alice --no-demo", "alice is a demo account, and so are its children"),
        ("account tree nobody", "there is no account nobody"),
        ("account suspend nobody", "there is no account nobody"),
        ("account rules nobody --spend-day 5", "there is no account nobody"),
        ("account rules carol --services zzz9", "there is no service 'zzz9' in the catalogue"),
        ("account rules carol --services ,", "services would allow nothing"),
        ("account rules carol --countries ZZ", "there is no country 'ZZ' in the catalogue"),
        ("account rules carol --ip-ranges 192.0.2.1/24", "'192.0.2.1/24' is no address and no network"),
        ("account rules carol --dialects soap", "there is no dialect 'soap'"),
        ("account rules carol --spend-day 0", "the amount must be above zero"),
        ("account rules carol --spend-day -5", "the amount must be above zero"),
        ("account rules carol --spend-day NaN", "'NaN' is not an amount"),
        ("account rules carol --spend-day 0.0000001", "the amount must be above zero"),
        ("account rules carol --spend-day 1.0000001", "an amount has at most six decimals"),
        ("account rules carol --spend-day 1e30", "'1e30' is too large"),
        ("account rules carol --price-max inf", "'inf' is not an amount"),
        ("account rules carol --open-max 0", "open_max is from 1"),
        ("account rules carol --expires yesterday", "'yesterday' is no time"),
        ("account rules carol --expires 2001-01-01", "2001-01-01 is not in the future"),
        ("account rules carol --expires 0d", "0d is not in the future"),
        ("key rules 99 --spend-day 5", "there is no key 99"),
        ("key rotate 99", "there is no key 99"),
        ("key rotate 1 --grace -5", "a grace time is from 0"),
        ("key rotate 1 --grace nan", "a grace time is from 0"),
        ("key suspend 99", "there is no key 99"),
        ("key issue carol --spend-day none0", "'none0' is not an amount"),
        ("transfer alice carol 0", "the amount must be above zero"),
        ("transfer alice carol NaN", "'NaN' is not an amount"),
        ("transfer alice carol 1.0000001", "an amount has at most six decimals"),
        ("transfer alice carol 5.01", "alice has 5.00 USD available: nothing was moved"),
        ("transfer carol alice all", "there is nothing to transfer"),
        ("transfer alice alice 1", "an account can't pay itself"),
        ("transfer alice bob 1", "money moves only between an account and those above or below it"),
        ("transfer alice nobody 1", "there is no account nobody"),
    ],
)
def test_a_mistake_is_a_sentence_and_nothing_has_moved(shell: Shell, command: str, words: str) -> None:
    before = shell.json("account", "list"), shell.json("key", "list"), shell.json("account", "rules", "carol")
    assert refused(shell, *command.split()).startswith(words)
    assert (shell.json("account", "list"), shell.json("key", "list"), shell.json("account", "rules", "carol")) == before
    assert shell.ok("ledger", "verify") == "ok\n"


def test_a_key_is_let_manage_and_kept_to_buying(shell: Shell) -> None:
    found = {row["id"]: row["manages"] for row in shell.json("key", "list")}
    assert set(found.values()) == {True}
    made = shell.json("key", "issue", "alice")
    told = shell.json("key", "issue", "alice", "--manage")
    shell.ok("key", "manage", "1", "--deny")
    found = {row["id"]: row["manages"] for row in shell.json("key", "list")}
    assert (found[1], found[made["id"]], found[told["id"]]) == (False, False, True)
    assert shell.json("key", "manage", "1")["may_manage"] is True


def test_terms_are_accepted_before_accounts_are_put_below(tmp_path: Path, sqlite_url: str) -> None:
    shell = Shell(config_directory(tmp_path, gateway='[lawful]\nterms_version = "2025-05"\n'), environment(sqlite_url))
    shell.ok("account", "create", "alice")
    assert refused(shell, "account", "create", "carol", "--parent", "alice") == (
        "alice has not accepted the terms 2025-05"
    )
    assert refused(shell, "account", "accept-terms", "alice", "2024") == "the terms in force are '2025-05'"
    shell.ok("account", "accept-terms", "alice", "2025-05")
    shell.ok("account", "create", "carol", "--parent", "alice")


def test_every_change_by_command_is_in_the_audit_log(shell: Shell) -> None:
    for command in (
        "account rules carol --spend-day 5", "account suspend carol", "account resume carol", "account bar bob",
        "transfer alice carol 1", "deposit bob 2", "key name 1 till", "key rules 1 --open-max 3", "key suspend 1",
        "key resume 1", "key rotate 1", "key revoke 2", "markup set alice --percent 5", "markup remove alice 1",
    ):  # fmt: skip
        shell.ok(*command.split())
    lines = [json.loads(line) for line in shell.ok("audit", "export").splitlines()]
    assert {line["actor"] for line in lines} == {"cli"}
    assert [line["action"] for line in lines] == [
        "account.create", "deposit", "account.create", "account.create", "key.issue", "key.issue", "key.issue",
        "account.rules", "account.suspend", "account.resume", "account.bar", "transfer", "transfer", "deposit",
        "key.set", "key.rules", "key.suspend", "key.resume", "key.rotate", "key.revoke",
        "account.markups", "account.markups",
    ]  # fmt: skip
