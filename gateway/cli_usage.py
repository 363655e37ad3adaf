"""`simroute usage`: what was bought, delivered and spent, and what is left of it."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime

import click

from gateway import accounts, usage
from gateway.accounts import AccountError
from gateway.store import Tx
from gateway.terminal import Context, common, show, with_database


@click.command("usage")
@click.option(
    "--account", "name", help="One account with all below it, and what it earns by them; unless given, every account."
)
@click.option("--from", "start", default="", help="First day, YYYY-MM-DD (UTC); unless given, of this month.")
@click.option("--to", "end", default="", help="Day after the last one; unless given, up to now.")
@click.option("--by", "words", default="day", help=f"What to break it down by, any of {','.join(usage.DIMENSIONS)}.")
@click.option("--csv", "is_csv", is_flag=True, help="As CSV.")
@common
@click.pass_obj
def show_usage(context: Context, name: str | None, start: str, end: str, words: str, is_csv: bool) -> None:
    """What was bought, delivered, cancelled and spent, and the margin.

    Of every account it is the operator's: what accounts at the top pay less what upstreams take. With --account it is
    that account's: what those below pay it less what it pays for the same itself.
    """
    by = tuple(word.strip() for word in words.split(",") if word.strip())
    today = datetime.fromtimestamp(time.time(), UTC).date()
    first = _day(start) if start else today.replace(day=1)
    last = usage.day_of(_day(end)) if end else usage.day_of(today) + 1

    def read(tx: Tx) -> list[usage.Line]:
        within = accounts.find(tx, name)["id"] if name else None
        return usage.report(tx, usage.Query(usage.day_of(first), last, by, within))

    lines = with_database(context, lambda database: database.store.read(read))
    if is_csv:
        click.echo(usage.as_csv(lines, by), nl=False)
    elif context.is_json:
        show(context, [usage.as_fields(line) for line in lines], ())
    else:
        show(context, [usage.as_row(line) for line in lines], usage.columns(by))


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 — a day, of no zone but UTC
    except ValueError:
        raise AccountError(f"{text[:40]!r} is not a day: YYYY-MM-DD") from None
