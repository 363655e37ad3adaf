"""`simroute ledger` and `simroute audit`: the books, proved; statements; who did what."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from gateway import accounts, audit, caps, drift, ledger, seals, statements, usage
from gateway.accounts import AccountError
from gateway.database import Database
from gateway.money import parse, plain
from gateway.statements import Movement
from gateway.store import Tx
from gateway.terminal import Context, common, moment, show, tell, with_database
from gateway.vault import Vault

DRIFT_DAYS = 7
DRIFT_COLUMNS = ("upstream", "day", "fell_by", "topped_up", "booked", "open_change", "drift", "currency")
STATEMENT_COLUMNS = ("id", "at", "kind", "amount", "held", "available", "total_held", "activation", "note")


@click.group("ledger")
def ledger_group() -> None:
    """The books."""


@ledger_group.command("verify")
@click.option("--days", type=click.IntRange(0), default=DRIFT_DAYS, help="Days compared with upstreams' balances.")
@common
@click.pass_obj
def verify_books(context: Context, days: int) -> None:
    """Recompute everything from the immutable rows, walk the seals, and compare with what upstreams say."""

    async def read(database: Database) -> tuple[list[str], list[dict[str, Any]]]:
        return await database.store.read(_verify, database.vault, time.time(), days)

    problems, rows = with_database(context, read)
    if context.is_json:
        click.echo(json.dumps({"ok": not problems, "problems": problems, "drift": rows}))
    else:
        click.echo("\n".join(problems) if problems else "ok")
        if rows:
            click.echo("\nUpstreams' balances (drift: taken there beyond what is booked)\n")
            show(context, rows, DRIFT_COLUMNS)
    if problems:
        sys.exit(1)


def _verify(tx: Tx, vault: Vault, now: float, days: int) -> tuple[list[str], list[dict[str, Any]]]:
    problems = [*ledger.verify(tx), *usage.verify(tx), *seals.verify(tx, vault)]
    found = drift.days(tx, now - days * drift.DAY_SECONDS, now) if days else []
    return problems, [_drift_fields(row) for row in found]


def _drift_fields(row: drift.Drift) -> dict[str, Any]:
    amounts = ("fell_by", "topped_up", "booked", "open_change", "drift")
    return {
        "upstream": row.upstream,
        "day": row.day,
        **{name: plain(getattr(row, name)) for name in amounts},
        "currency": row.currency,
    }


@ledger_group.command("head")
@common
@click.pass_obj
def show_head(context: Context) -> None:
    """The newest seals: written down elsewhere, they prove later that nothing before them was altered."""

    def read(tx: Tx) -> list[seals.Seal]:
        return [sealed for chain in seals.CHAINS if (sealed := seals.head(tx, chain)) is not None]

    found = with_database(context, lambda database: database.store.read(read))
    rows = [
        {"chain": one.chain, "last_row": one.last_id, "sealed": moment(one.sealed_at), "digest": one.digest}
        for one in found
    ]
    show(context, rows, ("chain", "last_row", "sealed", "digest"))


@ledger_group.command("statement")
@click.argument("name")
@click.option("--from", "start", default="", help="First day, YYYY-MM-DD (UTC); unless given, of this month.")
@click.option("--to", "end", default="", help="Day after the last one; unless given, up to now.")
@click.option("--csv", "is_csv", is_flag=True, help="As CSV.")
@common
@click.pass_obj
def show_statement(context: Context, name: str, start: str, end: str, is_csv: bool) -> None:
    """What moved in an account, with the balance after each movement."""
    begins = _day(start) if start else caps.starts_at("month", time.time())
    ends = _day(end) if end else time.time() + 1

    def read(tx: Tx) -> list[Movement]:
        account_id = accounts.find(tx, name)["id"]
        found: list[Movement] = []
        after: int | None = 0
        while after is not None:
            page = statements.statement(tx, account_id, begins, ends, after=after)
            found += page.movements
            after = page.next_after
        return found

    movements = with_database(context, lambda database: database.store.read(read))
    if is_csv:
        click.echo(statements.as_csv(movements), nl=False)
    else:
        show(context, [statements.as_fields(movement) for movement in movements], STATEMENT_COLUMNS)


def _day(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise AccountError(f"{text[:40]!r} is not a day: YYYY-MM-DD") from None


@click.group("audit")
def audit_group() -> None:
    """Who read or changed what."""


@audit_group.command("export")
@click.option("--from", "start", default="", help="First day, YYYY-MM-DD (UTC).")
@click.option("--to", "end", default="", help="Day after the last one.")
@common
@click.pass_obj
def export_audit(context: Context, start: str, end: str) -> None:
    """Every entry as a line of JSON, oldest first."""
    begins, ends = (_day(start) if start else 0.0), (_day(end) if end else time.time() + 1)

    def read(tx: Tx, after: int) -> Sequence[Any]:
        return audit.page(tx, after=after, start=begins, end=ends)

    async def write(database: Database) -> int:
        after = count = 0
        while rows := await database.store.read(read, after):
            for row in rows:
                click.echo(json.dumps(audit.as_fields(row), ensure_ascii=False))
            after, count = rows[-1]["id"], count + len(rows)
        return count

    with_database(context, write)


@click.command("topup")
@click.argument("name")
@click.argument("amount")
@click.option("--note", default="", help="What for, such as the payment's number.")
@common
@click.pass_obj
def top_up(context: Context, name: str, amount: str, note: str) -> None:
    """Book what was paid to an upstream in advance, so that its balance can be compared with the books."""
    stanza = context.settings().upstreams.get(name)
    if stanza is None:
        raise AccountError(f"there is no upstream {name} in upstreams.toml")
    money = parse(amount, stanza.currency)
    now = time.time()

    def book(tx: Tx) -> None:
        ledger.top_up(tx, name, money, now, actor="cli", note=note)
        audit.note(tx, now, "cli", "upstream.topup", f"upstream:{name}", amount=str(money))

    with_database(context, lambda database: database.store.run(book))
    tell(context, {"upstream": name, "booked": str(money)}, f"{money} booked to {name}")
