"""Whatever changes something is in the audit log: every command there is, signing in, and passwords."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gateway import deposits
from gateway.cli import main
from gateway.database import Database, open_database
from gateway.money import Money
from gateway.store import Tx
from tests.harness import config_directory, environment
from tests.shell import Shell

PASSWORD = "correct horse battery"
NUMBER, OTHER = "447700900001", "447700900002"
UPSTREAMS = """
[sandbox]
adapter = "sandbox"
[receive_sms]
services = ["tg"]
price = 0.1
[manual_entry]
services = ["tg"]
countries = [16]
price = 0.40
"""
READS = {
    "serve", "check-config", "doctor", "offers", "explain", "forward", "account list", "account tree", "key list",
    "deposit list", "voucher list", "recharge show", "numbers list", "numbers show", "numbers messages", "desk list",
    "upstreams", "upstreams push-urls", "catalog coverage", "ledger verify", "ledger head", "ledger statement",
    "audit export", "user list", "markup list", "usage", "db upgrade", "worker", "processes", "activation show",
    "activation unsettled", "backup", "backups", "restore", "retention status", "retention run", "secrets status",
    "webhook list", "webhook log", "webhook notices", "webhook test", "webhook replay",
}  # fmt: skip
"""What changes nothing of anybody's, or only what the server would change by itself. The schema has a history of its
own, a restored database says so itself, and what is replayed has to have been given up first."""


@dataclass(frozen=True)
class Run:
    """A command that changes something: what it is given, and the first word of what is written of it."""

    command: str
    arguments: Sequence[str]
    action: str
    typed: str = ""


RUNS = [
    Run("account create", ["acme"], "account.create"),
    Run("account accept-terms", ["acme", "1"], "terms.accept"),
    Run("account create", ["acme-shop", "--parent", "acme"], "account.create"),
    Run("account rules", ["acme-shop", "--open-max", "5"], "account.rules"),
    Run("account bar", ["acme-shop", "--hours", "1"], "account.bar"),
    Run("account suspend", ["acme-shop"], "account.suspend"),
    Run("account resume", ["acme-shop"], "account.resume"),
    Run("key issue", ["acme"], "key.issue"),
    Run("key dialect", ["1", "hero"], "key.set"),
    Run("key limits", ["1", "--polls-per-minute", "5"], "key.set"),
    Run("key counts", ["1", "old"], "key.set"),
    Run("key manage", ["1", "--deny"], "key.set"),
    Run("key name", ["1", "till"], "key.set"),
    Run("key rules", ["1", "--open-max", "5"], "key.rules"),
    Run("key fuse", ["1", "--stop-after", "5", "--reset"], "key.fuse"),
    Run("key suspend", ["1"], "key.suspend"),
    Run("key resume", ["1"], "key.resume"),
    Run("key rotate", ["1"], "key.rotate"),
    Run("key revoke", ["2"], "key.revoke"),
    Run("deposit to", ["acme", "5"], "deposit"),
    Run("deposit to", ["acme", "5", "--reference", "r"], "deposit"),
    Run("deposit assign", ["1", "acme"], "deposit"),
    Run("deposit dismiss", ["2"], "deposit.dismiss"),
    Run("transfer", ["acme", "acme-shop", "1"], "transfer"),
    Run("voucher issue", ["2", "1.00", "--account", "acme"], "voucher.issue"),
    Run("voucher redeem", ["acme", "{code}"], "voucher.redeem"),
    Run("voucher revoke", ["1"], "voucher.revoked"),
    Run("recharge set", ["acme-shop", "--below", "1", "--amount", "1", "--from", "parent", "--month-max", "9"],
        "recharge.set"),
    Run("recharge off", ["acme-shop"], "recharge.off"),
    Run("markup set", ["acme", "--percent", "5"], "account.markups"),
    Run("markup remove", ["acme", "1"], "account.markups"),
    Run("retention set", ["acme", "7"], "account.retention"),
    Run("secrets reencrypt", [], "secrets.reencrypt"),
    Run("webhook set", ["acme", "https://example.com/hook"], "webhook.set"),
    Run("webhook enable", ["acme"], "webhook.enable"),
    Run("webhook secret", ["acme"], "webhook.secret"),
    Run("webhook rotate", ["acme"], "webhook.rotate"),
    Run("numbers add", [NUMBER, "--country", "16"], "numbers.put"),
    Run("numbers import", ["{file}"], "numbers.put"),
    Run("numbers disable", [NUMBER], "number.disable"),
    Run("numbers enable", [NUMBER], "number.enable"),
    Run("numbers quarantine", [NUMBER], "number.quarantine"),
    Run("numbers release", [NUMBER, "--cooldowns"], "number.release"),
    Run("numbers remove", [NUMBER], "number.remove"),
    Run("desk offer", ["tg", "16", NUMBER], "desk.offer"),
    Run("desk supply", ["1", "--number", OTHER], "desk.number"),
    Run("desk supply", ["2", "--code", "98765"], "desk.message"),
    Run("desk fail", ["2"], "desk.fail"),
    Run("upstreams drain", ["sandbox"], "upstream.drain"),
    Run("upstreams resume", ["sandbox"], "upstream.resume"),
    Run("upstreams topup", ["sandbox", "5"], "upstream.topup"),
    Run("user add", ["ann@example.com", "--role", "operator", "--password-stdin"], "user.add", PASSWORD),
    Run("user password", ["ann@example.com", "--password-stdin"], "user.password", PASSWORD),
    Run("user disable", ["ann@example.com", "--force"], "user.disable"),
    Run("user enable", ["ann@example.com"], "user.enable"),
]  # fmt: skip


def commands(command: click.Command, path: Sequence[str] = ()) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    if command.invoke_without_command:
        yield " ".join(path)
    for name, inner in command.commands.items():
        yield from commands(inner, (*path, name))


def test_every_command_is_known_to_change_something_or_not() -> None:
    changing = {run.command for run in RUNS}
    assert changing | READS == set(commands(main)), "a new command: add it to RUNS, or to READS"
    assert not changing & READS


def prepare(tx: Tx) -> None:
    """Two payments that nobody could book; at the desk, a number wanted and one in use."""
    for reference in ("p1", "p2"):
        deposits.receive(tx, deposits.Told("generic", reference, "nobody", Money(1_000_000, "USD")), time.time())
    for state in ("wanted", "leased"):
        tx.execute(
            "insert into desk_tasks (upstream, service, country, operator, cost, currency, state, created_at,"
            " waits_until, until_at, round) values ('manual_entry', 'tg', 16, '', 400000, 'USD', :state, :at, :until,"
            " :until, 1)",
            state=state,
            at=time.time(),
            until=time.time() + 3600,
        )


def entries(shell: Shell) -> list[Any]:
    return [json.loads(line) for line in shell.ok("audit", "export").splitlines()]


def test_every_command_that_changes_something_is_in_the_audit_log(sqlite_url: str, tmp_path: Path) -> None:
    directory = config_directory(tmp_path, UPSTREAMS, gateway='[lawful]\nterms_version = "1"\n')
    shell = Shell(directory, environment(sqlite_url, MANUAL_ENTRY_API_KEY="desk-key"))
    listed = tmp_path / "numbers.csv"
    listed.write_text(f"number,country\n{OTHER},16\n")
    shell.ok("db", "upgrade")
    database = open_database(shell.values)
    asyncio.run(_run(database, prepare))
    words, known = {"{file}": str(listed)}, len(entries(shell))
    for run in RUNS:
        arguments = [words.get(word, word) for word in run.arguments]
        said = shell.ok(*run.command.split(), *arguments, *(["--json"] if run.command == "voucher issue" else []),
                        typed=run.typed)  # fmt: skip
        if run.command == "voucher issue":
            words["{code}"] = json.loads(said)[0]["code"]
        found = entries(shell)
        fresh = found[known:]
        assert run.action in [entry["action"] for entry in fresh], (run, fresh)
        assert {entry["actor"] for entry in fresh} <= {"cli", "desk:manual_entry"}, (run, fresh)
        known = len(found)
    told = json.dumps(entries(shell))
    for secret in (NUMBER, OTHER, PASSWORD, "98765", words["{code}"], "ann@example.com"):
        assert secret not in told


async def _run(database: Database, unit: Callable[[Tx], None]) -> None:
    await database.store.run(unit)
    await database.store.close()


def test_a_switch_that_is_where_it_should_be_is_written_once(sqlite_url: str, tmp_path: Path) -> None:
    shell = Shell(config_directory(tmp_path), environment(sqlite_url))
    for _ in range(2):
        shell.ok("upstreams", "drain", "sandbox")
    assert [entry["action"] for entry in entries(shell)] == ["upstream.drain"]
