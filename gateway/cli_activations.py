"""`simroute activation`: what is known of one order, and which purchases are unsettled. Never a number or a message."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from gateway import moves
from gateway.accounts import AccountError
from gateway.money import Money
from gateway.store import Row, Tx
from gateway.terminal import Context, common, moment, show, with_database

ATTEMPT_COLUMNS = ("attempt", "upstream", "state", "at_most", "reference", "started", "ended", "reason")
UNSETTLED_COLUMNS = (
    "attempt",
    "activation",
    "upstream",
    "service",
    "country",
    "state",
    "at_most",
    "started",
    "minutes",
)


@click.group("activation")
def activation_group() -> None:
    """Single orders, for whoever looks into an incident."""


@activation_group.command("show")
@click.argument("activation_id", metavar="ID", type=int)
@common
@click.pass_obj
def show_activation(context: Context, activation_id: int) -> None:
    """Everything written down of one activation or rental, but its number and messages."""
    facts, attempts = with_database(context, lambda database: database.store.read(_activation, activation_id))
    if context.is_json:
        click.echo(json.dumps({**facts, "attempts": attempts}, ensure_ascii=False))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.ljust(width)}  {'-' if value is None else value}")
    click.echo()
    show(context, attempts, ATTEMPT_COLUMNS)


@activation_group.command("unsettled")
@common
@click.pass_obj
def show_unsettled(context: Context) -> None:
    """Purchases of which nobody knows yet whether they happened, and numbers to be given back; oldest first."""
    now = time.time()
    rows = with_database(context, lambda database: database.store.read(_unsettled))
    show(context, [_unsettled_fields(row, now) for row in rows], UNSETTLED_COLUMNS)


def _activation(tx: Tx, activation_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    row = tx.one(
        "select v.*, a.name as account from activations v join accounts a on a.id = v.account_id where v.id = :id",
        id=activation_id,
    )
    if row is None:
        raise AccountError(f"there is no activation {activation_id}")
    attempts = tx.all("select * from attempts where activation_id = :id order by id", id=activation_id)
    return _facts(tx, row), [_attempt_fields(attempt) for attempt in attempts]


def _facts(tx: Tx, row: Row) -> dict[str, Any]:
    hold = tx.one("select state, amount, currency from holds where activation_id = :id", id=row["id"])
    messages = tx.one(
        "select count(*) as n, coalesce(sum(is_shown), 0) as shown from messages where activation_id = :id",
        id=row["id"],
    )
    notices = tx.all(
        "select state, count(*) as n from notices where activation_id = :id group by state order by state", id=row["id"]
    )
    return {
        "activation": row["id"],
        "account": row["account"],
        "key": row["key_id"],
        "product": row["product"],
        "service": row["service"],
        "country": row["country"],
        "status": row["status"],
        "price": str(Money(row["price"], row["currency"])),
        "hold": None if hold is None else f"{hold['state']}, {Money(hold['amount'], hold['currency'])}",
        "upstream": row["upstream"],
        "reference": row["reference"],
        "former_references": ", ".join(moves.former_references(tx, row["id"])) or None,
        "cost": None if row["cost"] is None else str(Money(row["cost"], row["cost_currency"])),
        "opened": moment(row["opened_at"]),
        "expires": moment(row["expires_at"]),
        "ended": moment(row["ended_at"]),
        "told_client": bool(row["answered"]),
        "messages": 0 if messages is None else int(messages["n"]),
        "messages_shown": 0 if messages is None else int(messages["shown"]),
        "webhooks": ", ".join(f"{notice['n']} {notice['state']}" for notice in notices) or None,
        "to_tell_upstream": _closing(row),
    }


def _closing(row: Row) -> str | None:
    """What the upstream has yet to be told of the number's end."""
    if row["close_outcome"] is None:
        return None
    return f"{row['close_outcome']}, next at {moment(row['close_at'])}, {row['close_tries']} tries"


def _attempt_fields(row: Row) -> dict[str, Any]:
    return {
        "attempt": row["id"],
        "upstream": row["upstream"],
        "state": row["state"],
        "at_most": str(Money(row["cost_max"], row["currency"])),
        "reference": row["reference"],
        "started": moment(row["started_at"]),
        "ended": moment(row["ended_at"]),
        "reason": row["reason"] or None,
    }


def _unsettled(tx: Tx) -> Sequence[Row]:
    return tx.all("select * from attempts where state in ('pending', 'in_doubt', 'orphan') order by started_at, id")


def _unsettled_fields(row: Row, now: float) -> Mapping[str, Any]:
    return {
        **_attempt_fields(row),
        "activation": row["activation_id"],
        "service": row["service"],
        "country": row["country"],
        "minutes": round((now - row["started_at"]) / 60, 1),
    }
