"""The `simroute` command: what a person reads, what a program reads, and one sentence where something is wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner

from gateway.activations import Activations
from gateway.cli import main
from gateway.vault import SECRET_NAMES
from tests.harness import PATH, SANDBOX, Server, config_directory, environment, run_cli, server
from tests.shell import Shell

HEROSMS = '[herosms]\nbase_url = "http://127.0.0.1:9/stubs/handler_api.php"\n'


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> Shell:
    """A fresh database with the account alice."""
    found = Shell(config_directory(tmp_path), environment(sqlite_url))
    found.ok("account", "create", "alice", "--balance", "5.00")
    return found


# Every command

EXAMPLES: dict[str, tuple[str, ...]] = {
    "check-config": (),
    "doctor": (),
    "account create": ("new",),
    "account list": (),
    "account bar": ("alice",),
    "account tree": (),
    "account rules": ("alice", "--services", "tg,wa", "--spend-day", "2.50", "--open-max", "3"),
    "account suspend": ("alice",),
    "account resume": ("alice",),
    "deposit to": ("alice", "1.50", "--note", "a gift", "--reference", "b-17"),
    "deposit list": (),
    "voucher issue": ("3", "1.50", "--account", "alice", "--days", "30"),
    "voucher list": (),
    "recharge set": ("bob", "--below", "1", "--amount", "2", "--from", "parent", "--month-max", "10"),
    "recharge show": (),
    "recharge off": ("bob",),
    "key issue": ("alice",),
    "key dialect": ("1", "daisy"),
    "key limits": ("1", "--changes-per-minute", "500"),
    "key name": ("1", "the shop"),
    "key manage": ("1", "--deny"),
    "key rules": ("1", "--price-max", "0.20", "--ip-ranges", "192.0.2.0/24", "--expires", "30d"),
    "key rotate": ("1", "--grace", "60"),
    "key suspend": ("1",),
    "key resume": ("1",),
    "transfer": ("alice", "bob", "1.25", "--reference", "march"),
    "key counts": ("1", "old"),
    "key list": (),
    "key revoke": ("1",),
    "markup set": ("alice", "--percent", "20", "--child", "bob"),
    "markup list": ("alice",),
    "ledger verify": (),
    "usage": (),
    "key fuse": ("1",),
    "retention status": (),
    "retention run": ("--compact",),
    "retention set": ("alice", "7"),
    "secrets status": (),
    "secrets reencrypt": (),
    "ledger head": (),
    "ledger statement": ("alice",),
    "db upgrade": (),
    "backup": (),
    "backups": (),
    "activation unsettled": (),
    "offers": ("--service", "tg", "--country", "6"),
    "explain": ("tg", "6"),
    "upstreams drain": ("sandbox",),
    "upstreams resume": ("sandbox",),
    "upstreams push-urls": (),
    "upstreams topup": ("sandbox", "25.00"),
    "catalog coverage": (),
    "desk list": (),
    "user list": (),
    "numbers add": ("447700900123", "--country", "GB"),
    "numbers list": (),
    "numbers messages": (),
    "webhook list": (),
    "webhook set": ("alice", "https://example.com/hook", "--format", "standard"),
    "webhook enable": ("alice",),
    "webhook secret": ("alice",),
    "webhook rotate": ("alice", "--grace", "60"),
    "webhook log": ("alice",),
    "webhook notices": ("alice", "--state", "dead"),
}

ELSEWHERE = {
    "serve", "forward", "desk supply", "desk fail", "desk offer", "numbers import", "numbers show", "numbers enable",
    "numbers disable", "numbers quarantine", "numbers release", "numbers remove", "user add", "user disable",
    "user enable", "user password", "audit export", "deposit assign", "deposit dismiss", "voucher revoke",
    "voucher redeem", "markup remove", "account accept-terms", "restore", "activation show", "webhook test",
    "webhook replay", "worker", "processes",
}  # fmt: skip
"""A server, a program of its own, what prints lines, and what needs a desk, a number, a person, a payment, a voucher, a
markup, a backup, an activation, a webhook or PostgreSQL: tested where those are."""


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name


def test_every_command_has_an_example_here() -> None:
    assert set(commands(main)) - ELSEWHERE <= EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_command_speaks_to_people_and_to_programs(name: str, tmp_path: Path) -> None:
    """As text, and as one line of JSON with `--json` before the command or behind it."""
    command = (*name.split(), *EXAMPLES[name])
    for place, arguments in enumerate([command, ("--json", *command), (*command, "--json")]):
        shell = Shell(config_directory(tmp_path), environment(f"sqlite:///{tmp_path}/{place}/x.db"))
        shell.ok("account", "create", "alice", "--balance", "5.00")
        shell.ok("account", "create", "bob", "--parent", "alice")
        shell.ok("key", "issue", "alice")
        said = shell.ok(*arguments)
        assert said.strip()
        if "--json" in arguments:
            assert len(said.splitlines()) == 1
            json.loads(said)
        else:
            assert not said.startswith(("{", "["))


def test_every_command_explains_itself() -> None:
    for name in ["", *commands(main)]:
        result = CliRunner().invoke(main, [*name.split(), "--help"])
        assert result.exit_code == 0
        assert "usage:" in result.output.lower()


def test_the_directory_may_stand_behind_the_command(shell: Shell) -> None:
    result = CliRunner().invoke(main, ["check-config", "--config", str(shell.directory)], env=dict(shell.values))
    assert result.exit_code == 0
    assert result.stdout.startswith("ok: version ")


# What they say


def test_an_issued_key_is_all_there_is_on_the_line(shell: Shell) -> None:
    assert re.fullmatch(r"[A-Za-z0-9]{32}\n", shell.ok("key", "issue", "alice"))
    made = shell.json("key", "issue", "alice")
    assert made.keys() == {"id", "key"}
    assert re.fullmatch(r"[A-Za-z0-9]{32}", made["key"])


def test_a_key_is_listed_by_its_beginning_only(shell: Shell) -> None:
    made = shell.json("key", "issue", "alice")["key"]
    shown = shell.ok("key", "list")
    assert made not in shown
    assert made[:4] + "…" in shown
    assert [row["account"] for row in shell.json("key", "list", "alice")] == ["alice"]


def test_a_table_is_aligned(shell: Shell) -> None:
    shell.ok("account", "create", "somebody-with-a-longer-name")
    head, *rows = shell.ok("account", "list").splitlines()
    assert head.startswith("ACCOUNT ")
    place = head.index("AVAILABLE")
    assert all(row[place - 1] == " " and row[place] != " " for row in rows)


def test_accounts_and_money(shell: Shell) -> None:
    assert shell.ok("deposit", "alice", "1.5") == "alice now has 6.50 USD\n"
    assert shell.json("deposit", "alice", "0.000001") == {
        "account": "alice",
        "available": "6.500001",
        "booked": True,
    }
    shell.ok("account", "create", "child", "--parent", "alice")
    alice, child = shell.json("account", "list")
    assert (alice["available"], alice["held"], alice["currency"], alice["open"]) == ("6.500001", "0.00", "USD", 0)
    assert (child["parent"], child["available"]) == ("alice", "0.00")


def test_an_account_is_barred_and_free_again(shell: Shell) -> None:
    assert re.fullmatch(
        r"alice is barred until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", shell.ok("account", "bar", "alice")
    )
    assert shell.json("account", "list")[0]["barred_until"]
    assert shell.ok("account", "bar", "alice", "--hours", "0") == "alice is free to buy\n"
    assert shell.json("account", "list")[0]["barred_until"] is None


def test_accounts_are_demo_while_only_the_sandbox_sells(tmp_path: Path, sqlite_url: str) -> None:
    values = environment(sqlite_url, HEROSMS_API_KEY="not-a-real-key")
    with_sandbox = Shell(config_directory(tmp_path), values)
    with_both = Shell(config_directory(tmp_path, SANDBOX + HEROSMS), values)
    assert with_sandbox.json("account", "create", "a")["is_demo"] is True
    assert with_sandbox.ok("account", "create", "b").startswith("demo account b created")
    assert with_sandbox.json("account", "create", "c", "--no-demo")["is_demo"] is False
    assert with_both.json("account", "create", "d")["is_demo"] is False
    assert with_both.json("account", "create", "e", "--demo")["is_demo"] is True
    assert [row["demo"] for row in with_both.json("account", "list")] == [True, True, False, False, True]


def test_explain_gives_a_reason_for_each_place_and_each_exclusion(tmp_path: Path, sqlite_url: str) -> None:
    values = environment(sqlite_url, HEROSMS_API_KEY="not-a-real-key")
    shell = Shell(config_directory(tmp_path, SANDBOX + HEROSMS), values)
    shell.ok("account", "create", "real", "--balance", "1")
    shell.ok("account", "create", "demo", "--demo")
    facts = shell.run("explain", "tg", "6", "--account", "demo", "--json")
    found = json.loads(facts.stdout)
    assert [(row["place"], row["upstream"], row["price"]) for row in found["tried"]] == [(1, "sandbox", "0.08 USD")]
    assert [(row["upstream"], row["why"]) for row in found["excluded"]] == [("herosms", "serves no demo accounts")]
    assert "herosms: no price list" in facts.stderr
    for_real = json.loads(shell.run("explain", "tg", "6", "--account", "real", "--json").stdout)
    reasons = {row["upstream"]: row["why"] for row in for_real["excluded"]}
    assert for_real["tried"] == []
    assert reasons["sandbox"] == "serves demo accounts only"
    assert reasons["herosms"].startswith("no price list yet")
    said = shell.run("explain", "tg", "6", "--account", "demo").stdout
    assert "serves no demo accounts" in said
    assert "tg in 6: listed 0.08 USD, ceiling 0.08 USD" in said


def test_explain_says_what_a_cap_shuts_out(shell: Shell) -> None:
    found = shell.json("explain", "tg", "6", "--account", "alice", "--max-price", "0.01")
    assert (found["ceiling"], found["tried"]) == ("0.01 USD", [])
    assert [row["why"] for row in found["excluded"]] == ["price 0.08 is above the ceiling 0.01"]


def test_doctor_fails_where_an_upstream_does(tmp_path: Path, sqlite_url: str) -> None:
    values = environment(sqlite_url, HEROSMS_API_KEY="not-a-real-key")
    result = Shell(config_directory(tmp_path, SANDBOX + HEROSMS), values).run("doctor", "--json")
    rows = {row["upstream"]: row["state"] for row in json.loads(result.stdout)}
    assert result.exit_code == 1
    assert rows["sandbox"] == "ok"
    assert rows["herosms"] != "ok"
    assert "not-a-real-key" not in result.output


def test_commands_that_look_do_nothing_upstream(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may run beside them: what it is about to cancel or finish is left to it."""
    closed: list[str] = []

    async def close_upstream(_self: Activations, *, waits: bool = True) -> None:
        closed.append("closed")

    monkeypatch.setattr(Activations, "close_upstream", close_upstream)
    for command in (["explain", "tg", "6"], ["offers", "--service", "tg", "--country", "6"], ["doctor"]):
        shell.ok(*command)
    assert closed == []


def test_the_books_are_verified_and_tampering_is_named(shell: Shell) -> None:
    assert shell.ok("ledger", "verify") == "ok\n"
    assert shell.json("ledger", "verify") == {"ok": True, "problems": [], "drift": []}
    with sqlite3.connect(shell.values["DATABASE_URL"].removeprefix("sqlite:///")) as connection:
        connection.execute("update balances set available = available + 1000000")
    connection.close()
    result = shell.run("ledger", "verify")
    assert result.exit_code == 1
    assert "(alice) shows 6000000, its ledger rows say 5000000" in result.stdout
    as_json = shell.run("ledger", "verify", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["ok"] is False


def test_a_statement_shows_what_moved(shell: Shell) -> None:
    shell.ok("deposit", "alice", "1.50", "--note", "a gift")
    rows = shell.json("ledger", "statement", "alice")
    assert [(row["kind"], row["amount"], row["available"]) for row in rows] == [
        ("deposit", "5.00", "5.00"),
        ("deposit", "1.50", "6.50"),
    ]
    lines = shell.ok("ledger", "statement", "alice", "--csv").splitlines()
    assert lines[0].startswith("id,at,kind,amount")
    assert lines[2].rstrip().endswith(",cli,a gift")
    assert "is not a day" in shell.run("ledger", "statement", "alice", "--from", "yesterday").stderr


def test_what_was_paid_to_an_upstream_is_booked_and_told_in_the_audit_log(shell: Shell) -> None:
    shell.ok("upstreams", "topup", "sandbox", "25.00", "--note", "invoice 7")
    *opened, line = shell.ok("audit", "export").splitlines()
    assert "deposit" in [json.loads(one)["action"] for one in opened]  # what alice was opened with
    entry = json.loads(line)
    assert (entry["actor"], entry["action"], entry["subject"]) == ("cli", "upstream.topup", "upstream:sandbox")
    assert entry["detail"] == {"amount": "25.00 USD"}
    assert shell.ok("ledger", "verify") == "ok\n"


# What is wrong

WRONG = [
    ("upstreams", "topup", "nobody", "1"),
    ("upstreams", "topup", "sandbox", "--", "-1"),
    ("ledger", "statement", "nobody"),
    ("deposit", "nobody", "1"),
    ("deposit", "alice", "a lot"),
    ("deposit", "alice", "0"),
    ("deposit", "alice", "--", "-1"),
    ("deposit", "alice", "1e400"),
    ("deposit", "alice", "NaN"),
    ("deposit", "alice", "0.0000001"),
    ("deposit", "alice", "99999999999999999999"),
    ("account", "bar", "nobody"),
    ("account", "create", "alice"),
    ("account", "create", "not a name"),
    ("account", "create", "b", "--parent", "nobody"),
    ("account", "create", "b", "--currency", "usd"),
    ("account", "create", "b", "--currency", "EUR", "--parent", "alice"),
    ("account", "create", "b", "--balance", "nan"),
    ("account", "create", "b", "--balance", "-1"),
    ("key", "issue", "nobody"),
    ("key", "list", "nobody"),
    ("key", "revoke", "999"),
    ("key", "revoke", "99999999999999999999999"),
    ("explain", "nosuch", "6"),
    ("explain", "tg", "99999"),
    ("explain", "tg", "6", "--account", "nobody"),
    ("explain", "tg", "6", "--max-price", "cheap"),
    ("offers", "--account", "nobody"),
    ("offers", "--service", "nosuch"),
    ("offers", "--country", "99999"),
    ("check-config", "--config", "/no/such/place"),
]


def test_what_is_wrong_is_one_sentence_and_status_1(shell: Shell) -> None:
    for arguments in WRONG:
        result = shell.run(*arguments)
        assert result.exit_code == 1, (arguments, result.output, result.exception)
        assert isinstance(result.exception, SystemExit), (arguments, result.exception)
        assert result.stdout == ""
        assert re.fullmatch(r"Error: \S.*\n", result.stderr), (arguments, result.stderr)
    assert shell.json("account", "list")[0]["available"] == "5.00"
    assert len(shell.json("account", "list")) == 1


def test_a_mistake_in_a_file_is_named_with_its_place(tmp_path: Path, sqlite_url: str) -> None:
    shell = Shell(config_directory(tmp_path, gateway="[limits]\nchanges_per_minuet = 5\n"), environment(sqlite_url))
    result = shell.run("check-config")
    assert result.exit_code == 1
    assert "gateway.toml" in result.stderr
    assert "changes_per_minute" in result.stderr
    assert "Traceback" not in result.stderr


def is_one_sentence(result: subprocess.CompletedProcess[str]) -> bool:
    return result.returncode == 1 and re.fullmatch(r"Error: \S.*\n", result.stderr) is not None


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("This is a letter to my aunt, and no database at all. " * 100)
    values = environment(f"sqlite:///{tmp_path}/x.db")
    result = run_cli(values, config_directory(tmp_path), "ledger", "verify")
    assert is_one_sentence(result), result.stderr


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    values = environment("postgresql://someone:a-password@127.0.0.1:9/x")
    result = run_cli(values, config_directory(tmp_path), "ledger", "verify")
    assert is_one_sentence(result), result.stderr
    assert "a-password" not in result.stderr


def test_secrets_of_an_existing_database_are_never_made_anew(tmp_path: Path) -> None:
    values, directory = {"DATABASE_URL": f"sqlite:///{tmp_path}/var/simroute.db"}, config_directory(tmp_path)
    assert run_cli(values, directory, "account", "create", "alice").returncode == 0
    (tmp_path / "var" / "secrets.env").rename(tmp_path / "kept")
    for command in (["account", "list"], ["serve", "--port", "0"]):
        result = run_cli(values, directory, *command)
        assert is_one_sentence(result), result.stderr
        assert "put" in result.stderr
        assert "secrets.env back" in result.stderr
        assert not (tmp_path / "var" / "secrets.env").exists()
    (tmp_path / "kept").rename(tmp_path / "var" / "secrets.env")
    assert run_cli(values, directory, "account", "list").returncode == 0


# Serving


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def said_at_start(running: Server) -> list[str]:
    """The rest of the banner, up to its third line to paste."""
    assert running.process.stdout is not None
    lines: list[str] = []
    while sum("curl " in line for line in lines) < 3:
        lines.append(running.process.stdout.readline())
        assert lines[-1], "the banner ended early"
    return lines


def test_the_first_start_makes_a_demo_account_whose_lines_can_be_pasted(tmp_path: Path) -> None:
    values, directory = {"DATABASE_URL": f"sqlite:///{tmp_path}/var/simroute.db"}, config_directory(tmp_path)
    var = tmp_path / "var"
    with server(directory, values, tmp_path / "log") as running:
        banner = said_at_start(running)
        key = (var / "demo-key").read_text().strip()
        secrets = (var / "secrets.env").read_text()
        assert any(f"API key   {key} " in line for line in banner)
        assert mode(var / "demo-key") == mode(var / "secrets.env") == mode(var / "simroute.db") == 0o600
        assert all(f"{name}=" in secrets for name in SECRET_NAMES)
        if shutil.which("curl"):
            answers = [paste(line) for line in banner if "curl " in line]
            assert answers[0] == "ACCESS_BALANCE:100.00"
            assert re.fullmatch(r"ACCESS_NUMBER:\d+:62\d+", answers[1])
            assert json.loads(answers[2])["activeActivations"][0]["activationId"] == answers[1].split(":")[1]
        assert running.stop() == 0
    with server(directory, values, tmp_path / "log") as again:
        assert any(key in line for line in said_at_start(again))
        assert (var / "secrets.env").read_text() == secrets
        assert httpx.get(again.url, params={"api_key": key, "action": "getBalance"}).text.startswith(
            "ACCESS_BALANCE:99."
        )
        assert again.stop() == 0


def paste(line: str) -> str:
    """What a person sees who pastes the line into a shell."""
    return subprocess.run(["sh", "-c", line.strip() + " -s"], capture_output=True, text=True, check=True).stdout


def test_one_server_at_a_time_and_the_command_line_beside_it(tmp_path: Path, sqlite_url: str) -> None:
    values, directory = environment(sqlite_url), config_directory(tmp_path)
    with server(directory, values, tmp_path / "log") as running:
        second = run_cli(values, directory, "serve", "--port", "0")
        assert is_one_sentence(second), second.stderr
        assert "serves from this SQLite file" in second.stderr
        assert "DATABASE_URL" in second.stderr

        assert run_cli(values, directory, "account", "create", "alice", "--balance", "1").returncode == 0
        key = json.loads(run_cli(values, directory, "key", "issue", "alice", "--json").stdout)["key"]
        question = {"api_key": key, "action": "getBalance"}
        assert httpx.get(running.url, params=question).text == "ACCESS_BALANCE:1.00"
        run_cli(values, directory, "deposit", "alice", "2")
        assert httpx.get(running.url, params=question).text == "ACCESS_BALANCE:3.00"

        key_id = str(json.loads(run_cli(values, directory, "key", "list", "alice", "--json").stdout)[0]["id"])
        assert run_cli(values, directory, "key", "revoke", key_id).stdout == f"key {key_id} is revoked\n"
        assert seconds_until(lambda: httpx.get(running.url, params=question).text == "BAD_KEY") < 2
        assert running.stop() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def seconds_until(is_so: Any, patience: float = 5.0) -> float:
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < patience
        time.sleep(0.05)
    return time.monotonic() - started


def test_a_port_in_use_is_one_sentence(tmp_path: Path, sqlite_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run_cli(environment(sqlite_url), config_directory(tmp_path), "serve", "--port", port)
    assert is_one_sentence(result), result.stderr
    assert f"127.0.0.1:{port}" in result.stderr


def test_a_file_that_can_not_be_opened_is_one_sentence(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "simroute.lock").mkdir()
    result = run_cli(environment(sqlite_url), config_directory(tmp_path), "serve", "--port", "0")
    assert is_one_sentence(result), result.stderr
    assert result.stderr.endswith("simroute.lock: Is a directory\n")


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from gateway.cli import main
main(sys.argv[1:])
"""


def test_a_disk_that_fills_at_the_first_start_is_one_sentence_and_the_next_start_goes_well(
    tmp_path: Path, sqlite_url: str
) -> None:
    """The limit on a file's size stands for the disk: the empty tables are larger."""
    values, directory = environment(sqlite_url), config_directory(tmp_path)
    result = run_cli(values, directory, "serve", "--port", "0", code=FULL)
    assert is_one_sentence(result), result.stderr
    assert "simroute.db can't be opened" in result.stderr
    assert run_cli(values, directory, "account", "create", "alice").returncode == 0


AWAY = """
import sys
from gateway.activations import Activations
from gateway.cli import main
from gateway.errors import Unavailable

async def fail(self):
    raise Unavailable

Activations.restore = fail
main(sys.argv[1:])
"""


def test_a_database_that_goes_away_while_a_server_starts_is_one_sentence(tmp_path: Path, sqlite_url: str) -> None:
    result = run_cli(environment(sqlite_url), config_directory(tmp_path), "serve", "--port", "0", code=AWAY)
    assert is_one_sentence(result), (result.returncode, result.stderr)
    assert "does not answer" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_purchase_under_way_is_settled_before_the_server_goes(tmp_path: Path, sqlite_url: str, how: int) -> None:
    values, directory = environment(sqlite_url), config_directory(tmp_path, SANDBOX + "slow_seconds = 2\n")
    run_cli(values, directory, "account", "create", "alice", "--balance", "1")
    key = run_cli(values, directory, "key", "issue", "alice").stdout.strip()
    answers: list[str] = []
    with server(directory, values, tmp_path / "log") as running:
        question = {"api_key": key, "action": "getNumber", "service": "xslow", "country": "6"}

        def buy() -> None:
            answers.append(httpx.get(running.url, params=question, timeout=20).text)

        buying = threading.Thread(target=buy)
        buying.start()
        assert seconds_until(lambda: json.loads(list_accounts(values, directory))[0]["open"] == 1) < 5
        running.process.send_signal(how)
        status = running.process.wait(20)
        buying.join(10)
    assert status == (0 if how == signal.SIGINT else -signal.SIGTERM)
    assert answers
    assert answers[0].startswith("ACCESS_NUMBER:")
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert run_cli(values, directory, "ledger", "verify").stdout == "ok\n"
    with server(directory, values, tmp_path / "log") as again:
        asked = {"api_key": key, "action": "getStatus", "id": answers[0].split(":")[1]}
        assert httpx.get(again.base + PATH, params=asked).text.startswith("STATUS_")


def list_accounts(values: Mapping[str, str], directory: Path) -> str:
    return run_cli(values, directory, "account", "list", "--json").stdout
