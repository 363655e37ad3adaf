"""`simroute webhook`: where accounts' notices go, what became of them, and sending them once more."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from gateway import accounts, webhook_endpoints, webhook_log
from gateway.accounts import ID_MAX, AccountError
from gateway.app import Gateway
from gateway.database import Database
from gateway.errors import BadWebhookUrl, CallerError, NotAllowedNow, WebhookNotHttps, WebhookUrlTooLong
from gateway.manage import COMMAND_LINE
from gateway.store import Row, Tx
from gateway.terminal import Context, T, common, moment, show, tell, with_database, with_gateway
from gateway.webhook_endpoints import DEPLOYMENT, GRACE_SECONDS, Versions, secret_text
from gateway.webhook_forms import FORMATS
from gateway.webhooks import Tested

LIST_COLUMNS = ("account", "format", "state", "since", "failures", "last_failure", "secret", "pending", "dead")
LOG_COLUMNS = ("notice", "at", "format", "result", "status", "seconds", "digest")
NOTICE_COLUMNS = ("id", "activation", "format", "state", "tries", "created", "ended", "result")
STATES = ("pending", "sent", "dead")

REFUSALS: Mapping[type[CallerError], str] = {
    BadWebhookUrl: "this is no address that notices can be sent to",
    WebhookNotHttps: "notices are sent to https:// addresses only",
    WebhookUrlTooLong: "the address is too long: 255 characters at most",
    NotAllowedNow: "nothing would be sent: no address is set, it is disabled (`simroute webhook enable`), the message"
    " is deleted, or the notice waits to be sent anyway",
}


@click.group("webhook")
def webhook_group() -> None:
    """Where accounts' notices go, and what became of them."""


@webhook_group.command("list")
@common
@click.pass_obj
def webhook_list(context: Context) -> None:
    """Accounts that have an address, and how it fares. The address itself is its owner's."""
    now = time.time()
    found = with_database(context, lambda database: database.store.read(webhook_endpoints.overview))
    show(context, [_listed(row, now) for row in found], LIST_COLUMNS)


def _listed(row: Row, now: float) -> dict[str, Any]:
    state, since = webhook_endpoints.state_of(row, now)
    return {
        "account": row["name"],
        "format": row["format"],
        "state": state,
        "since": moment(since),
        "failures": row["failures"] or 0,
        "last_failure": row["last_failure"] or None,
        "secret": _secret_name(row["version"]),
        "pending": row["pending"],
        "dead": row["dead"],
    }


def _secret_name(version: int) -> str:
    return "deployment" if version == DEPLOYMENT else f"own, version {version}"


@webhook_group.command("set")
@click.argument("name", metavar="ACCOUNT")
@click.argument("url")
@click.option("--format", "body_format", type=click.Choice(FORMATS), default="native", help="The form of the body.")
@common
@click.pass_obj
def webhook_set(context: Context, name: str, url: str, body_format: str) -> None:
    """Send an account's notices there from now on. What waits is sent at once."""
    settings = context.settings().gateway.webhooks

    async def unit(database: Database) -> None:
        def work(tx: Tx) -> None:
            account_id = accounts.find(tx, name)["id"]
            webhook_endpoints.set_address(
                tx, database.vault, settings, account_id, url, body_format, time.time(), COMMAND_LINE.actor
            )

        await database.store.run(work)

    _or_sentence(lambda: with_database(context, unit))
    tell(context, {"account": name, "format": body_format}, f"{name} is told by {body_format} notices")


@webhook_group.command("enable")
@click.argument("name", metavar="ACCOUNT")
@common
@click.pass_obj
def webhook_enable(context: Context, name: str) -> None:
    """End every pause, and what disabled an address; rentals' own as well."""
    settings = context.settings().gateway.webhooks

    def work(tx: Tx) -> None:
        webhook_endpoints.enable(tx, settings, accounts.find(tx, name)["id"], time.time(), COMMAND_LINE.actor)

    with_database(context, lambda database: database.store.run(work))
    tell(context, {"account": name, "enabled": True}, f"{name} gets notices again")


@webhook_group.command("secret")
@click.argument("name", metavar="ACCOUNT")
@common
@click.pass_obj
def webhook_secret(context: Context, name: str) -> None:
    """Show what signs an account's notices, for its owner."""

    async def read(database: Database) -> dict[str, Any]:
        def work(tx: Tx) -> tuple[int, Versions]:
            account_id = accounts.find(tx, name)["id"]
            return account_id, webhook_endpoints.reveal(tx, COMMAND_LINE, account_id, time.time())

        return _secret_facts(database, name, *await database.store.run(work))

    _tell_secret(context, with_database(context, read))


@webhook_group.command("rotate")
@click.argument("name", metavar="ACCOUNT")
@click.option("--grace", type=float, default=GRACE_SECONDS, help="Seconds for which the former one signs as well.")
@common
@click.pass_obj
def webhook_rotate(context: Context, name: str, grace: float) -> None:
    """Replace what signs an account's notices, and show the new one."""

    async def rotate(database: Database) -> dict[str, Any]:
        def work(tx: Tx) -> tuple[int, Versions]:
            account_id = accounts.find(tx, name)["id"]
            return account_id, webhook_endpoints.rotate(tx, COMMAND_LINE, account_id, time.time(), grace)

        return _secret_facts(database, name, *await database.store.run(work))

    _tell_secret(context, with_database(context, rotate))


def _secret_facts(database: Database, name: str, account_id: int, found: Versions) -> dict[str, Any]:
    return {
        "account": name,
        "secret": secret_text(database.vault, account_id, found.current),
        "version": found.current,
        "former_until": moment(found.former_until),
    }


def _tell_secret(context: Context, facts: Mapping[str, Any]) -> None:
    sentence = facts["secret"] or "the deployment's: WEBHOOK_SECRET. `simroute webhook rotate` gives it one of its own"
    if facts["former_until"]:
        sentence += f"\nThe former one signs as well until {facts['former_until']} UTC."
    tell(context, facts, sentence)


@webhook_group.command("test")
@click.argument("name", metavar="ACCOUNT")
@common
@click.pass_obj
def webhook_test(context: Context, name: str) -> None:
    """Send a test to an account's address, from this machine. Status 1 where it is not taken."""

    async def send(gateway: Gateway) -> Tested:
        account_id = (await gateway.house.store.read(accounts.find, name))["id"]
        return await gateway.front.trials.send(account_id, f"test_{secrets.token_hex(8)}")

    found = _or_sentence(lambda: with_gateway(context, send))
    facts = {
        "account": name,
        "id": found.message_id,
        "delivered": found.is_delivered,
        "result": found.words,
        "status": found.status,
        "seconds": round(found.seconds, 3),
    }
    word = "delivered" if found.is_delivered else "not delivered"
    tell(context, facts, f"{found.message_id}: {word} ({found.words}) in {found.seconds:.2f} s")
    if not found.is_delivered:
        sys.exit(1)


@webhook_group.command("log")
@click.argument("name", metavar="ACCOUNT")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, help="How many at most.")
@common
@click.pass_obj
def webhook_show_log(context: Context, name: str, limit: int) -> None:
    """Attempts to deliver an account's notices, newest first. Those without a notice are tests; those without a digest
    told of messages that have been deleted."""

    def read(tx: Tx) -> list[dict[str, Any]]:
        account_id = accounts.find(tx, name)["id"]
        return [_logged(row) for row in webhook_log.attempts(tx, account_id, before=ID_MAX, limit=limit)]

    show(context, with_database(context, lambda database: database.store.read(read)), LOG_COLUMNS)


def _logged(row: Row) -> dict[str, Any]:
    return {
        "notice": row["notice_id"],
        "at": moment(row["at"]),
        "format": row["format"],
        "result": row["result"],
        "status": row["status"],
        "seconds": round(row["seconds"], 3),
        "digest": row["body_digest"] or None,
    }


@webhook_group.command("notices")
@click.argument("name", metavar="ACCOUNT")
@click.option("--state", type=click.Choice(STATES), help="Only these; `dead` are those that were given up.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, help="How many at most.")
@common
@click.pass_obj
def webhook_notices(context: Context, name: str, state: str | None, limit: int) -> None:
    """An account's notices, newest first."""

    def read(tx: Tx) -> list[dict[str, Any]]:
        account_id = accounts.find(tx, name)["id"]
        found = webhook_log.notices(tx, account_id, state=state, before=ID_MAX, limit=limit)
        return [_noticed(row) for row in found]

    show(context, with_database(context, lambda database: database.store.read(read)), NOTICE_COLUMNS)


def _noticed(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "activation": row["activation_id"],
        "format": row["format"],
        "state": row["state"],
        "tries": row["tries"],
        "created": moment(row["created_at"]),
        "ended": moment(row["ended_at"]),
        "result": row["last_result"] or None,
    }


@webhook_group.command("replay")
@click.argument("name", metavar="ACCOUNT")
@click.argument("notice_id", metavar="[NOTICE]", type=click.IntRange(1), required=False)
@click.option("--since", type=click.DateTime(), help="Only of messages from then on (UTC).")
@common
@click.pass_obj
def webhook_replay(context: Context, name: str, notice_id: int | None, since: datetime | None) -> None:
    """Send what was given up once more, or one notice, under its own id."""
    start = since.replace(tzinfo=UTC).timestamp() if since is not None else 0.0

    async def replay(database: Database) -> int:
        account_id = (await database.store.read(accounts.find, name))["id"]
        now, actor = time.time(), COMMAND_LINE.actor
        if notice_id is not None:
            row = await database.store.run(webhook_log.replay, account_id, notice_id, now, actor)
            if row is None:
                raise AccountError(f"{name} has no notice {notice_id}")
            return 1
        total = 0
        while count := await database.store.run(webhook_log.replay_dead, account_id, start, now, actor):
            total += count
        return total

    count = _or_sentence(lambda: with_database(context, replay))
    tell(context, {"account": name, "replayed": count}, f"{count} notices of {name} are sent once more")


def _or_sentence(work: Callable[[], T]) -> T:
    """What the work returns; a refusal in words for a person."""
    try:
        return work()
    except tuple(REFUSALS) as error:
        raise AccountError(REFUSALS[type(error)]) from None
