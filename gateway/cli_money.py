"""`simroute deposit`, `voucher` and `recharge`: how money comes into accounts."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from gateway import accounts, audit, deposits, ledger, recharges, vouchers
from gateway.accounts import AccountError
from gateway.cli_accounts import sells_sandbox_only
from gateway.database import Database
from gateway.errors import NoBalance
from gateway.money import Money, parse, plain
from gateway.recharges import Recharge, RechargeError
from gateway.settings import Settings
from gateway.store import Tx
from gateway.terminal import Context, common, moment, show, tell, with_database
from gateway.vouchers import Batch

ACTOR = "cli"
TO = "to"
CURRENCY = re.compile(r"[A-Z]{3}")
PAYMENT_COLUMNS = (
    "id",
    "at",
    "source",
    "reference",
    "state",
    "amount",
    "currency",
    "account",
    "told_account",
    "reason",
)
BATCH_COLUMNS = (
    "id", "issuer", "amount", "currency", "count", "open", "redeemed", "revoked", "expired", "issued", "expires",
    "note",
)  # fmt: skip
RECHARGE_COLUMNS = (
    "account", "on", "source", "below", "amount", "currency", "month_max", "month_spent", "cool_down", "pending",
    "problem",
)  # fmt: skip


# Deposits


class _Deposits(click.Group):
    """`deposit ACCOUNT AMOUNT` is short for `deposit to ACCOUNT AMOUNT`."""

    default = TO

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group("deposit", cls=_Deposits, subcommand_metavar="ACCOUNT AMOUNT | COMMAND [ARGS]...")
def deposit_group() -> None:
    """Add money to an account (`deposit ACCOUNT AMOUNT`), or see to payments that could not be booked."""


@deposit_group.command(TO)
@click.argument("name", metavar="ACCOUNT")
@click.argument("amount")
@click.option("--reference", default="", help="The payment's own number: booked once, however often it is asked for.")
@click.option("--note", default="", help="Kept with the entry.")
@common
@click.pass_obj
def deposit_to(context: Context, name: str, amount: str, reference: str, note: str) -> None:
    """Add money to an account."""

    def pay(tx: Tx) -> tuple[bool, Money]:
        row, now = accounts.find(tx, name), time.time()
        money = parse(amount, row["currency"])
        is_new = _pay_in(tx, row["id"], money, reference, now, note)
        return is_new, ledger.balance(tx, row["id"]).available

    is_new, available = with_database(context, lambda database: database.store.run(pay))
    facts = {"account": name, "available": plain(available.micros), "booked": is_new}
    words = f"{name} now has {available}" if is_new else f"booked before, nothing was added: {name} has {available}"
    tell(context, facts, words)


def _pay_in(tx: Tx, account_id: int, money: Money, reference: str, now: float, note: str) -> bool:
    if reference:
        return deposits.pay_in(tx, account_id, money, reference, deposits.OPERATOR, now, ACTOR, note)
    ledger.deposit(tx, account_id, money, now, actor=ACTOR, note=note)
    audit.note(tx, now, ACTOR, "deposit", f"account:{account_id}", account_id=account_id, amount=str(money))
    return True


@deposit_group.command("list")
@click.option("--account", "name", help="Those of one account.")
@click.option("--open", "is_open", is_flag=True, help="Those that wait for you: unbooked payments, refunds, disputes.")
@common
@click.pass_obj
def deposit_list(context: Context, name: str | None, is_open: bool) -> None:
    """Payments that have a reference, oldest first."""

    def read(tx: Tx) -> list[Mapping[str, Any]]:
        account_id = accounts.find(tx, name)["id"] if name else None
        found: list[Mapping[str, Any]] = []
        while page := deposits.payments(
            tx, account_id=account_id, is_open=is_open, after=found[-1]["id"] if found else 0
        ):
            found += page
        return found

    rows = with_database(context, lambda database: database.store.read(read))
    show(context, [{**row, "at": moment(row["at"]), "amount": plain(row["amount"])} for row in rows], PAYMENT_COLUMNS)


@deposit_group.command("assign")
@click.argument("payment_id", metavar="ID", type=click.IntRange(1))
@click.argument("name", metavar="ACCOUNT")
@common
@click.pass_obj
def deposit_assign(context: Context, payment_id: int, name: str) -> None:
    """Book a payment that could not be booked, by its id in `deposit list --open`."""

    def book(tx: Tx) -> Money:
        return deposits.assign(tx, payment_id, accounts.find(tx, name)["id"], time.time(), ACTOR)

    money = with_database(context, lambda database: database.store.run(book))
    facts = {"id": payment_id, "account": name, "booked": plain(money.micros)}
    tell(context, facts, f"{money} booked to {name}")


@deposit_group.command("dismiss")
@click.argument("payment_id", metavar="ID", type=click.IntRange(1))
@click.option("--note", default="", help="What became of it.")
@common
@click.pass_obj
def deposit_dismiss(context: Context, payment_id: int, note: str) -> None:
    """Close a payment, a refund or a dispute without booking anything."""
    with_database(context, lambda database: database.store.run(deposits.dismiss, payment_id, time.time(), ACTOR, note))
    tell(context, {"id": payment_id, "dismissed": True}, f"payment {payment_id} is dismissed")


# Vouchers


@click.group("voucher")
def voucher_group() -> None:
    """Sums that whoever has the code can pay into an account, once."""


@voucher_group.command("issue")
@click.argument("count", type=int)
@click.argument("amount")
@click.option("--account", "name", help="Paid for by this account, for it and those below it; unless given, by you.")
@click.option("--currency", help="The account's, or the house currency, unless given.")
@click.option("--days", type=click.FloatRange(0, 7300, min_open=True), help="Days after which what is left is void.")
@click.option("--demo/--no-demo", default=None, help="For demo accounts, and only for them.")
@click.option("--note", default="", help="What they are for.")
@common
@click.pass_obj
def voucher_issue(
    context: Context,
    count: int,
    amount: str,
    name: str | None,
    currency: str | None,
    days: float | None,
    demo: bool | None,
    note: str,
) -> None:
    """Issue vouchers. Their codes are printed this once, as CSV: only digests are kept."""
    settings, now = context.settings(), time.time()
    is_demo = sells_sandbox_only(settings) if demo is None else demo
    expires_at = None if days is None else now + days * 86_400

    async def issue(database: Database) -> Batch:
        return await database.store.run(unit, database)

    def unit(tx: Tx, database: Database) -> Batch:
        row = accounts.find(tx, name) if name else None
        money = parse(amount, _currency(currency or (row["currency"] if row else settings.pricing.currency)))
        issuer_id = row["id"] if row else None
        try:
            return vouchers.issue(
                tx, database.vault, issuer_id, count, money, now, ACTOR, expires_at=expires_at, is_demo=is_demo,
                note=note,
            )  # fmt: skip
        except NoBalance:
            raise AccountError(f"{name} has too little available for {count} × {money}: nothing was issued") from None

    _print_codes(context, with_database(context, issue))


def _currency(text: str) -> str:
    if not CURRENCY.fullmatch(text):
        raise AccountError("a currency is three capital letters, such as USD")
    return text


def _print_codes(context: Context, batch: Batch) -> None:
    rows = [
        {
            "batch": batch.id,
            "code": code,
            "amount": plain(batch.amount.micros),
            "currency": batch.amount.currency,
            "expires": moment(batch.expires_at) or "",
        }
        for code in batch.codes
    ]
    if context.is_json:
        click.echo(json.dumps(rows))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    click.echo(text.getvalue(), nl=False)


@voucher_group.command("list")
@click.argument("batch_id", metavar="[BATCH]", type=click.IntRange(1), required=False)
@click.option("--account", "name", help="The batches of one account.")
@common
@click.pass_obj
def voucher_list(context: Context, batch_id: int | None, name: str | None) -> None:
    """Batches, or the vouchers of one by their first four characters."""

    def read(tx: Tx) -> tuple[list[dict[str, Any]], Sequence[str]]:
        if batch_id is not None:
            rows = vouchers.of_batch(tx, batch_id)
            found = [
                {"id": row["id"], "code": row["hint"] + "…", "state": row["state"], "by": row["redeemed_by"],
                 "at": moment(row["ended_at"])}
                for row in rows
            ]  # fmt: skip
            return found, ("id", "code", "state", "by", "at")
        return _batches(tx, accounts.find(tx, name)["id"] if name else None), BATCH_COLUMNS

    rows, columns = with_database(context, lambda database: database.store.read(read))
    show(context, rows, columns)


def _batches(tx: Tx, issuer_id: int | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := vouchers.batches(tx, issuer_id, after=found[-1]["id"] if found else 0):
        found += [
            {
                "id": row["id"],
                "issuer": row["issuer"],
                "amount": plain(row["amount"]),
                "currency": row["currency"],
                "count": row["voucher_count"],
                "open": int(row["open_count"]),
                "redeemed": int(row["redeemed"]),
                "revoked": int(row["revoked"]),
                "expired": int(row["expired"]),
                "issued": moment(row["issued_at"]),
                "expires": moment(row["expires_at"]),
                "note": row["note"],
            }
            for row in page
        ]
    return found


@voucher_group.command("revoke")
@click.argument("batch_id", metavar="BATCH", type=click.IntRange(1))
@click.option(
    "--voucher", "voucher_id", type=click.IntRange(1), help="Only this one, by its id in `voucher list BATCH`."
)
@common
@click.pass_obj
def voucher_revoke(context: Context, batch_id: int, voucher_id: int | None) -> None:
    """End what is not redeemed of a batch; its worth goes back to whoever issued it."""
    ended = with_database(
        context,
        lambda database: database.store.run(vouchers.revoke, batch_id, time.time(), ACTOR, voucher_id=voucher_id),
    )
    tell(context, {"batch": batch_id, "revoked": ended}, f"{ended} vouchers of batch {batch_id} revoked")


@voucher_group.command("redeem")
@click.argument("name", metavar="ACCOUNT")
@click.argument("code", required=False)
@common
@click.pass_obj
def voucher_redeem(context: Context, name: str, code: str | None) -> None:
    """Pay a voucher into an account. Without a code it is asked for, and stays out of the shell's history."""
    text = code if code is not None else click.prompt("Code", hide_input=True)

    async def redeem(database: Database) -> Money:
        account_id = (await database.store.read(accounts.find, name))["id"]
        return await vouchers.redeem(database.store, database.vault, account_id, text, time.time(), actor=ACTOR)

    money = with_database(context, redeem)
    tell(context, {"account": name, "redeemed": plain(money.micros)}, f"{money} paid into {name}")


# Recharges


@click.group("recharge")
def recharge_group() -> None:
    """Accounts that are recharged by themselves when little is left."""


@recharge_group.command("set")
@click.argument("name", metavar="ACCOUNT")
@click.option("--below", required=True, metavar="AMOUNT", help="Recharge when less than this is available.")
@click.option("--amount", required=True, help="How much to add.")
@click.option("--from", "source", required=True, type=click.Choice(recharges.SOURCES), help="Where it comes from.")
@click.option("--month-max", required=True, metavar="AMOUNT", help="Most that is added in a calendar month (UTC).")
@click.option("--cool-down", type=float, default=recharges.COOL_DOWN_SECONDS, help="Seconds between two recharges.")
@common
@click.pass_obj
def recharge_set(
    context: Context, name: str, below: str, amount: str, source: str, month_max: str, cool_down: float
) -> None:
    """Recharge an account from its parent's balance, or by asking the payment hook for a payment."""
    _require_hook(source, context.settings())

    def work(tx: Tx) -> list[Recharge]:
        row, now = accounts.find(tx, name), time.time()
        threshold, step, ceiling = (parse(text, row["currency"]) for text in (below, amount, month_max))
        recharges.set_rule(tx, row["id"], threshold, step, source, ceiling, now, ACTOR, cool_down_seconds=cool_down)
        return recharges.rules(tx, now, [row["id"]])

    _show_rules(context, with_database(context, lambda database: database.store.run(work)))


def _require_hook(source: str, settings: Settings) -> None:
    if source == "hook" and not settings.environment.payment_hook_url:
        raise RechargeError("there is no payment hook: set PAYMENT_HOOK_URL and PAYMENT_SECRET")


@recharge_group.command("show")
@click.argument("name", metavar="[ACCOUNT]", required=False)
@common
@click.pass_obj
def recharge_show(context: Context, name: str | None) -> None:
    """Who is recharged, how much of the month's ceiling is used, and what went wrong last."""

    def read(tx: Tx) -> list[Recharge]:
        return recharges.rules(tx, time.time(), [accounts.find(tx, name)["id"]] if name else None)

    _show_rules(context, with_database(context, lambda database: database.store.read(read)))


def _show_rules(context: Context, found: Sequence[Recharge]) -> None:
    rows = [
        {
            "account": one.account,
            "on": one.is_on,
            "source": one.source,
            "below": plain(one.threshold.micros),
            "amount": plain(one.amount.micros),
            "currency": one.amount.currency,
            "month_max": plain(one.month_max.micros),
            "month_spent": plain(one.month_spent.micros),
            "cool_down": one.cool_down_seconds,
            "pending": one.is_pending,
            "problem": one.problem or None,
        }
        for one in found
    ]
    show(context, rows, RECHARGE_COLUMNS)


@recharge_group.command("off")
@click.argument("name", metavar="ACCOUNT")
@common
@click.pass_obj
def recharge_off(context: Context, name: str) -> None:
    """End an account's recharges."""

    def work(tx: Tx) -> bool:
        return recharges.switch_off(tx, accounts.find(tx, name)["id"], time.time(), ACTOR)

    was_on = with_database(context, lambda database: database.store.run(work))
    tell(context, {"account": name, "recharge": False}, f"{name} {'is no longer' if was_on else 'was not'} recharged")
