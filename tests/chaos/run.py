"""One storm from its beginning to the verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.money import parse
from tests.chaos import checks, upstreams
from tests.chaos.checks import Evidence, Row
from tests.chaos.clients import Journal, RestClient
from tests.chaos.machines import STOPPED
from tests.chaos.receiver import SECRET as HOOK_SECRET
from tests.chaos.stage import DEPOSIT, Settings, Stage, ready, stage
from tests.chaos.storm import storm
from tests.harness import run_cli

LEFT_BEHIND_SECONDS = 45.0
LISTED_SECONDS = 200.0
UNLISTED_SECONDS = 1600.0
"""How far time is moved on, phase by phase: past the settling of orders left behind, of purchases that a list would
show and of strangers, and of those that no list shows."""

POLITE = "status 1:"
"""How a gateway ends that can't start, and says why."""


@dataclass
class Report:
    """What came of it. `facts` are counts that say how much there was to go wrong."""

    settings: Settings
    directory: Path
    facts: Mapping[str, int]
    problems: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        lines = [", ".join(f"{count} {name}" for name, count in self.facts.items())]
        for check in checks.CHECKS:
            name = check.__name__.replace("_", " ")
            found = self.problems.get(name, ())
            lines.append(f"{'FAILED' if found else 'ok':8}{name}")
            lines += [f"        {row}" for row in found[:20]]
            lines += [f"        … and {len(found) - 20} more"] if len(found) > 20 else []
        if self.problems:
            lines += ["", "What broke:", *(f"  {blow}" for blow in self.settings.plan), ""]
            lines += [f"Logs and journals: {self.directory}", f"Again: {self.settings.command}"]
        return "\n".join(lines)


# After the storm


async def calm(found: Stage) -> None:
    """Everything is well again, and clients see through what they have."""
    found.market.mend()
    found.receiver.is_well = True
    for process in found.processes:
        process.thaw()
        process.set_clock(0.0)
    for process in found.processes:
        await ready(found, process)


async def settle(found: Stage) -> None:
    """Lets time pass, phase by phase, and sees to it that each phase ends what it should."""
    _pass(found, LEFT_BEHIND_SECONDS)
    await found.until("no order is opening", lambda: found.none("select id from activations where status = 'opening'"))
    await found.until("no activation is open", lambda: found.none("select id from activations where ended_at is null"))
    _pass(found, LISTED_SECONDS)
    await _restart(found)
    # Elsewhere two that were lost in one place at once can't be told apart before their time is over.
    listed = "select id from attempts where state = 'in_doubt' and upstream = :upstream"
    await found.until("what a list shows is settled", lambda: found.none(listed, upstream=upstreams.LIAR))
    await found.until("notices are sent", lambda: found.none("select id from notices where state = 'pending'"))
    _pass(found, UNLISTED_SECONDS)
    await found.until(
        "every attempt is settled",
        lambda: found.none("select id from attempts where state in ('pending', 'in_doubt', 'orphan')"),
    )
    await found.until(
        "every end is told upstream", lambda: found.none("select id from activations where close_outcome is not null")
    )


def _pass(found: Stage, seconds: float) -> None:
    found.clock.ahead += seconds
    for process in found.processes:
        process.set_clock(process.skew)
    found.market.advance()


async def _restart(found: Stage) -> None:
    """Asks each process to end, which it does in good order."""
    for process in found.processes:
        status = await process.stop()
        if status not in STOPPED:
            found.ends.append(f"{process.name} ended with status {status} when it was asked to")
    for process in found.processes:
        process.start()
        await ready(found, process)


# The verdict


async def evidence(found: Stage) -> Evidence:
    """What everybody says. Asked of the gateways first, which are stopped then."""
    vault = found.database.vault
    messages = await found.rows("select id, activation_id, is_shown, code_sealed from messages order by id")
    for row in messages:
        row["code"] = vault.open(row.pop("code_sealed"))
    activations = await found.rows("select * from activations order by id")
    people = await _people(found)
    readable = await _readable(found, messages, activations, people)
    ends = [*found.ends]
    for process in found.processes:
        status = await process.stop()
        ends += [f"{process.name} ended with status {status} at last"] if status not in STOPPED else []
        impolite = [end for end in process.ends if not end.startswith(POLITE)]
        ends += [f"{process.name} ended by itself with {end}" for end in impolite]
    values = {**found.values, "DATABASE_URL": found.database.url}
    books = await asyncio.to_thread(run_cli, values, found.config, "ledger", "verify", "--days", "0")
    sold = found.market.sold()
    return Evidence(
        sold=sold,
        hidden=found.market.hidden,
        called_over=found.market.called_over,
        accounts=people,
        deposited=parse(DEPOSIT, "USD").micros,
        activations=activations,
        attempts=await found.rows("select * from attempts order by id"),
        holds=await found.rows("select * from holds"),
        ledger=await found.rows("select * from ledger order by id"),
        messages=messages,
        notices=await found.rows("select * from notices order by id"),
        accepted=found.receiver.accepted,
        readable=readable,
        journals=[client.journal for client in found.clients],
        late=found.late,
        verified="" if books.returncode == 0 else books.stdout + books.stderr,
        logs="".join(process.log.read_text(errors="replace") for process in found.processes),
        secrets=_secrets(found, sold),
        ends=ends,
    )


async def _people(found: Stage) -> list[dict[str, Any]]:
    rows = await found.rows(
        "select a.id, a.name, b.available, b.held, b.open_count, a.webhook_url_sealed is not null as has_webhook"
        " from accounts a join balances b on b.account_id = a.id order by a.id"
    )
    return [row for row in rows if row["name"].startswith("account-")]


async def _readable(
    found: Stage, messages: Sequence[Row], activations: Sequence[Row], people: Sequence[Row]
) -> dict[int, list[str] | None]:
    owner = {row["id"]: row["account_id"] for row in activations}
    name = {row["id"]: row["name"] for row in people}
    reader: dict[str, RestClient] = {}
    for client in found.clients:
        journal = Journal(client.journal.account)
        reader[journal.account] = RestClient(client.key, journal, client.chance, client.ports, client.is_over)
    wanted = sorted({row["activation_id"] for row in messages if row["is_shown"]})
    return {one: await reader[name[owner[one]]].messages(one) for one in wanted}


def _secrets(found: Stage, sold: Sequence[upstreams.Sold]) -> set[str]:
    keys = {client.key for client in found.clients} | set(upstreams.KEYS.values()) | {HOOK_SECRET}
    return keys | {one.number for one in sold}


def _facts(found: Stage, said: Evidence) -> dict[str, int]:
    states = [row["state"] for row in said.attempts]
    return {
        "requests": sum(journal.asked for journal in said.journals),
        "answers lost": sum(journal.lost for journal in said.journals),
        "starts": sum(process.starts for process in found.processes),
        "numbers sold": len(said.sold),
        "of them denied": len(said.hidden),
        "called over": len(said.called_over),
        "late codes": sum(not row["is_shown"] for row in said.messages),
        "purchases lost for good": states.count("gone"),
        "given back": states.count("cancelled"),
        "orders": len(said.activations),
        "charged": len(said.captured()),
        "losses": sum(row["kind"] == "loss" for row in said.ledger),
        "notices": len(said.notices),
        "refused by receivers": found.receiver.refused,
    }


def _write_journals(found: Stage) -> None:
    for number, client in enumerate(found.clients):
        (found.directory / f"client-{number}.journal").write_text("\n".join(client.journal.lines) + "\n")


def _write_rows(directory: Path, said: Evidence) -> None:
    """For whoever looks for the reason: the database is gone by then."""
    for name in ("accounts", "activations", "attempts", "holds", "ledger", "messages", "notices"):
        lines = [json.dumps(row) for row in getattr(said, name)]
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "sold").write_text("\n".join(map(str, said.sold)) + "\n")


async def run(settings: Settings, directory: Path) -> Report:
    """A whole storm; logs and journals are left in the directory."""
    (directory / "plan").write_text("\n".join(map(str, settings.plan)) + "\n")
    try:
        return await _run(settings, directory)
    except BaseException as error:
        error.add_note(f"logs, journals and the plan: {directory}\nagain: {settings.command}")
        raise


async def _run(settings: Settings, directory: Path) -> Report:
    async with stage(settings, directory) as found:
        trading = [asyncio.create_task(client.trade()) for client in found.clients]
        try:
            await storm(found)
            found.is_closed = True
            await calm(found)
            await asyncio.gather(*trading)
            await settle(found)
            said = await evidence(found)
        finally:
            for task in trading:
                task.cancel()
            _write_journals(found)
    report = Report(settings, directory, _facts(found, said), checks.problems(said))
    if report.problems:
        _write_rows(directory, said)
    return report
