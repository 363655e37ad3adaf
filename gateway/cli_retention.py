"""`simroute retention`: how long numbers and messages are kept, what is overdue, and deleting it now."""

from __future__ import annotations

import time
from typing import Any

import click

from gateway import retention
from gateway.database import Database
from gateway.manage import COMMAND_LINE
from gateway.store import Tx
from gateway.terminal import Context, common, moment, show, tell, with_database

DEFAULT = "default"


class _Days(click.ParamType[int | None]):
    """Whole days, or `default`: whatever holds above."""

    name = "days"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value == DEFAULT else click.IntRange(1, 3650).convert(value, param, ctx)


@click.group("retention")
def retention_group() -> None:
    """How long numbers and messages are kept."""


@retention_group.command("status")
@common
@click.pass_obj
def show_status(context: Context) -> None:
    """For how long they are kept, and what should have been deleted by now."""
    days, now = context.settings().gateway.retention.days, time.time()

    def read(tx: Tx) -> dict[str, Any]:
        found = retention.overdue(tx, now, days)
        own = [{**row, "changed_at": moment(row["changed_at"])} for row in retention.terms(tx)]
        return {
            "days": days or None,
            "overdue": found.total,
            "places": [{"place": name, "overdue": count} for name, count in found.counts.items()],
            "accounts": own,
            "clean_at": moment(retention.clean_at(tx)),
        }

    facts = with_database(context, lambda database: database.store.read(read))
    kept = f"kept for {days} days" if days else "kept for ever"
    clean = f"nothing was at {facts['clean_at']} UTC" if facts["clean_at"] else "no server has looked yet"
    tell(context, facts, f"numbers and messages are {kept}; {facts['overdue']} rows are overdue, {clean}")
    if not context.is_json:
        click.echo()
        show(context, facts["places"], ("place", "overdue"))
        if facts["accounts"]:
            click.echo()
            show(context, facts["accounts"], ("name", "days", "changed_at", "actor"))


@retention_group.command("run")
@click.option("--compact", "is_compact", is_flag=True, help="On SQLite, write the file anew: nothing sold meanwhile.")
@common
@click.pass_obj
def run_now(context: Context, is_compact: bool) -> None:
    """Delete what is overdue now, in small batches; a server that runs does so by itself every minute."""
    days = context.settings().gateway.retention.days

    async def run(database: Database) -> tuple[int, bool]:
        done = await retention.delete_overdue(database.store, time.time(), days)
        if is_compact:
            await retention.compact(database.store)
        return done, await retention.settle_file(database.store)

    done, is_settled = with_database(context, run)
    more = "" if is_settled else "; the write-ahead log could not be emptied while others read, run it again"
    tell(context, {"deleted": done, "is_settled": is_settled}, f"deleted: {done} rows{more}")


@retention_group.command("set")
@click.argument("name", metavar="ACCOUNT")
@click.argument("days", type=_Days())
@common
@click.pass_obj
def set_term(context: Context, name: str, days: int | None) -> None:
    """Keep an account's numbers and messages, and those of all below it, for less than others': DAYS, or `default`."""
    deployment_days, now = context.settings().gateway.retention.days, time.time()

    found = with_database(
        context,
        lambda database: database.store.run(retention.set_term, COMMAND_LINE, name, days, deployment_days, now),
    )
    sentence = f"{name}: kept for {found.days} days" if found.days else f"{name}: kept for ever"
    tell(context, {"account": name, "days": found.days, "own_days": found.own_days}, sentence)
