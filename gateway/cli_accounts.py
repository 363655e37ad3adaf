"""`simroute account`, `key`, `deposit` and `transfer`: who pays, who may sign in, and what each of them may do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from gateway import accounts, ledger, manage, rules
from gateway.accounts import AccountError, Issued, Ruled
from gateway.caps import OPEN
from gateway.database import Database
from gateway.errors import NoBalance
from gateway.manage import COMMAND_LINE
from gateway.money import Money, parse, plain, to_micros
from gateway.rules import SPEND_CAPS, RuleError
from gateway.settings import Settings, Stanza
from gateway.store import Row, Tx
from gateway.terminal import Context, common, moment, show, tell, with_database

GRACE_SECONDS = 86_400.0
NONE = "none"
"""What takes a rule away."""

_DURATION = re.compile(r"([0-9]{1,6})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def sells_sandbox_only(settings: Settings) -> bool:
    return all(is_sandbox(stanza) for stanza in settings.upstreams.values() if stanza.enabled)


def is_sandbox(stanza: Stanza) -> bool:
    return stanza.enabled and stanza.adapter == "sandbox"


# Rules, as options


class _Limit(click.ParamType[Any]):
    """A whole number, or `none`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == NONE else click.INT.convert(value, param, ctx)


_RULE_OPTIONS = (
    click.option("--services", help="Services it may buy, such as tg,wa. `none` takes any of these rules away."),
    click.option("--deny-services", "denied_services", help="Services it may not buy."),
    click.option("--countries", help="Countries it may buy in, by id or two letters."),
    click.option("--ip-ranges", help="Addresses and networks its requests may come from."),
    click.option("--dialects", help=f"Dialects it may use: {', '.join(rules.WAYS_IN)}."),
    click.option("--price-max", metavar="AMOUNT", help="Highest price of one number."),
    click.option("--spend-hour", metavar="AMOUNT", help="Most it may spend in an hour (UTC)."),
    click.option("--spend-day", metavar="AMOUNT", help="Most it may spend in a day."),
    click.option("--spend-month", metavar="AMOUNT", help="Most it may spend in a month."),
    click.option("--spend-total", metavar="AMOUNT", help="Most it may spend in all."),
    click.option("--open-max", type=_Limit(), help="Activations it may have open at once."),
    click.option("--expires", "expires_at", metavar="WHEN", help="When it ends: 2026-12-31, 2026-12-31T18:00, or 30d."),
)


_ACCOUNT_RULE_OPTIONS = (
    click.option("--polls-per-minute", type=_Limit(), help="Requests of all its keys together, and of all below it."),
    click.option("--changes-per-minute", type=_Limit(), help="Likewise, purchases and changes."),
)


def _with_account_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_ACCOUNT_RULE_OPTIONS):
        function = option(function)
    return _with_rules(function)


def _with_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_RULE_OPTIONS):
        function = option(function)
    return function


def _changes(given: Mapping[str, Any], settings: Callable[[], Settings], currency: str, now: float) -> dict[str, Any]:
    """The rules that options name, as the core takes them. Raises RuleError, MoneyError."""
    readers: dict[str, Callable[[str], Any]] = {
        "services": lambda text: rules.services_of(_words(text), settings().catalog),
        "denied_services": lambda text: rules.services_of(_words(text), settings().catalog),
        "countries": lambda text: rules.countries_of(_words(text), settings().catalog),
        "ip_ranges": lambda text: rules.ip_ranges_of(_words(text)),
        "dialects": lambda text: rules.dialects_of(_words(text)),
        "open_max": int,
        "polls_per_minute": int,
        "changes_per_minute": int,
        "expires_at": lambda text: _moment_of(text, now),
    }
    amounts = ("price_max", *SPEND_CAPS.values())
    readers |= dict.fromkeys(amounts, lambda text: parse(text, currency).micros)
    return {
        name: None if value == NONE else readers[name](value)
        for name, value in given.items()
        if name in readers and value is not None
    }


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _moment_of(text: str, now: float) -> float:
    """A date or time in UTC, or so long from now. Raises RuleError."""
    short = _DURATION.fullmatch(text)
    try:
        at = now + int(short[1]) * _SECONDS[short[2]] if short else _timestamp(datetime.fromisoformat(text))
    except ValueError:
        raise RuleError(f"{text[:40]!r} is no time, such as 2026-12-31, 2026-12-31T18:00 (UTC) or 30d") from None
    if at <= now:
        raise RuleError(f"{text} is not in the future")
    return at


def _timestamp(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _tell_rules(context: Context, name: str, value: object, ruled: Ruled) -> None:
    facts = _facts(ruled)
    if context.is_json:
        tell(context, {name: value, **facts}, "")
        return
    if not facts["rules"]:
        click.echo(f"{name} {value} has no rules of its own")
        return
    show(context, [{"rule": rule, "value": text} for rule, text in facts["rules"].items()], ("rule", "value"))
    if facts["caps"]:
        click.echo()
        show(context, facts["caps"], ("cap", "used", "of"))


def _facts(ruled: Ruled) -> dict[str, Any]:
    caps = [
        {
            "cap": counter.period,
            "used": str(counter.amount) if counter.period == OPEN else plain(counter.amount),
            "of": str(counter.cap) if counter.period == OPEN else plain(counter.cap),
        }
        for counter in ruled.counters
    ]
    return {"rules": _shown(ruled), "caps": caps}


def _shown(ruled: Ruled) -> dict[str, str]:
    """Every rule that says something, by name, as text."""
    shown: dict[str, str] = {}
    for name in rules.COLUMNS:
        value = getattr(ruled.rules, name)
        if name.endswith("_at"):
            text = moment(value)
        elif name == "price_max" or name in SPEND_CAPS.values():
            text = None if value is None else plain(value)
        elif isinstance(value, tuple | frozenset):
            text = ",".join(map(str, value if isinstance(value, tuple) else sorted(value))) or None
        else:
            text = None if value is None else str(value)
        if text is not None:
            shown[name] = text
    return shown


# Accounts


@click.group("account")
def account_group() -> None:
    """Who pays."""


@account_group.command("create")
@click.argument("name")
@click.option("--balance", default="0", help="First deposit.")
@click.option("--demo/--no-demo", default=None, help="Served by the sandbox, and only by it.")
@click.option("--currency", help="Its currency, for good; that of its parent or the house currency unless given.")
@click.option("--parent", help="The account it belongs to, for good.")
@common
@click.pass_obj
def account_create(
    context: Context, name: str, balance: str, demo: bool | None, currency: str | None, parent: str | None
) -> None:
    """Open an account. It is a demo account while the sandbox is the only upstream, or as its parent is."""
    settings = context.settings()

    def create(tx: Tx) -> tuple[Money, bool]:
        now = time.time()
        above = accounts.find(tx, parent) if parent and parent != name else None
        is_demo = demo if demo is not None else bool(above["is_demo"]) if above else sells_sandbox_only(settings)
        kept_in = currency or (above["currency"] if above else settings.pricing.currency)
        money = Money(0, kept_in) if to_micros(balance) == 0 else parse(balance, kept_in)
        manage.create_account(
            tx,
            COMMAND_LINE,
            name,
            now,
            parent=parent,
            currency=kept_in,
            is_demo=is_demo,
            terms_version=settings.gateway.lawful.terms_version,
            house_currency=settings.pricing.currency,
        )
        if money.micros:
            manage.deposit(tx, COMMAND_LINE, name, money, now)
        return money, is_demo

    money, is_demo = with_database(context, lambda database: database.store.run(create))
    kind = "demo account" if is_demo else "account"
    tell(
        context, {"account": name, "balance": str(money), "is_demo": is_demo}, f"{kind} {name} created, balance {money}"
    )


@account_group.command("list")
@common
@click.pass_obj
def account_list(context: Context) -> None:
    """Every account with its balance."""
    found = with_database(context, lambda database: database.store.read(accounts.overview))
    rows = [
        {
            "account": row["name"],
            "available": plain(row["available"]),
            "held": plain(row["held"]),
            "currency": row["currency"],
            "open": row["open_count"],
            "keys": row["keys"],
            "demo": bool(row["is_demo"]),
            "parent": row["parent"],
            "barred_until": moment(row["barred_until"]),
            "suspended": moment(row["suspended_at"]),
        }
        for row in found
    ]
    columns = ("account", "available", "held", "currency", "open", "keys", "demo", "parent", "barred_until")
    show(context, rows, (*columns, "suspended"))


@account_group.command("tree")
@click.argument("name", metavar="[ACCOUNT]", required=False)
@common
@click.pass_obj
def account_tree(context: Context, name: str | None) -> None:
    """Accounts, each below its parent: all of them, or one and those below it."""

    def read(tx: Tx) -> Sequence[Mapping[str, Any]]:
        return accounts.in_tree(tx, accounts.find(tx, name)["id"] if name else None)

    rows = [
        {
            "account": row["name"] if context.is_json else "  " * row["depth"] + row["name"],
            "depth": row["depth"],
            "parent": row["parent"],
            "available": plain(row["available"]),
            "held": plain(row["held"]),
            "currency": row["currency"],
            "open": row["open_count"],
            "keys": row["keys"],
            "suspended": moment(row["suspended_at"]),
        }
        for row in with_database(context, lambda database: database.store.read(read))
    ]
    show(context, rows, ("account", "available", "held", "currency", "open", "keys", "suspended"))


@account_group.command("bar")
@click.argument("name")
@click.option("--hours", type=click.FloatRange(0, 24 * 3650), default=24.0, help="For how long; 0 lets it buy again.")
@common
@click.pass_obj
def account_bar(context: Context, name: str, hours: float) -> None:
    """Stop an account, and all below it, from buying for a while."""
    until = time.time() + hours * 3600 if hours else None
    with_database(context, lambda database: database.store.run(manage.bar, COMMAND_LINE, name, until, time.time()))
    words = f"barred until {moment(until)} UTC" if until else "free to buy"
    tell(context, {"account": name, "barred_until": moment(until)}, f"{name} is {words}")


@account_group.command("suspend")
@click.argument("name")
@common
@click.pass_obj
def account_suspend(context: Context, name: str) -> None:
    """Stop an account, and all below it, from buying until `resume`. What is open can still be read and given back."""
    with_database(context, lambda database: database.store.run(manage.suspend, COMMAND_LINE, name, time.time()))
    tell(context, {"account": name, "suspended": True}, f"{name} is suspended, with every account below it")


@account_group.command("resume")
@click.argument("name")
@common
@click.pass_obj
def account_resume(context: Context, name: str) -> None:
    """End an account's suspension."""
    with_database(context, lambda database: database.store.run(manage.resume, COMMAND_LINE, name, time.time()))
    tell(context, {"account": name, "suspended": False}, f"{name} is no longer suspended")


@account_group.command("rules")
@click.argument("name")
@_with_account_rules
@click.option("--force", is_flag=True, help="Set a cap below what is spent already: nothing can be bought for now.")
@common
@click.pass_obj
def account_rules(context: Context, /, name: str, force: bool, **given: Any) -> None:
    """What an account, and all below it, may do. Sets those rules that are given, and shows its own."""

    async def work(database: Database) -> Ruled:
        now, store = time.time(), database.store
        row = await store.read(accounts.find, name)
        changes = _changes(given, context.settings, row["currency"], now)
        if not changes:
            return await store.read(accounts.rules_of, name, now)
        return await store.run(manage.change_rules, COMMAND_LINE, name, changes, now, force=force)

    _tell_rules(context, "account", name, with_database(context, work))


@account_group.command("accept-terms")
@click.argument("name")
@click.argument("version")
@common
@click.pass_obj
def account_accept_terms(context: Context, name: str, version: str) -> None:
    """Write down that an account has accepted the terms in force (`lawful.terms_version`), on paper say."""
    current = context.settings().gateway.lawful.terms_version
    with_database(
        context,
        lambda database: database.store.run(manage.accept_terms, COMMAND_LINE, name, version, current, time.time()),
    )
    tell(context, {"account": name, "terms": version}, f"{name} has accepted the terms {version}")


# Money


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.argument("amount")
@click.option("--reference", default="", help="Your own word for it: asked for again, nothing more moves.")
@click.option("--note", default="", help="Kept with the entry.")
@common
@click.pass_obj
def transfer(context: Context, source: str, target: str, amount: str, reference: str, note: str) -> None:
    """Move money between an account and one above or below it. `all` is everything that is not held."""

    def pay(tx: Tx) -> tuple[Money, Money]:
        wanted = None if amount == "all" else amount
        try:
            row = manage.transfer(tx, COMMAND_LINE, source, target, wanted, time.time(), note=note, reference=reference)
        except NoBalance:
            left = ledger.balance(tx, accounts.find(tx, source)["id"]).available
            raise AccountError(f"{source} has {left} available: nothing was moved") from None
        moved = Money(row["amount"], row["currency"])
        return moved, ledger.balance(tx, accounts.find(tx, target)["id"]).available

    moved, available = with_database(context, lambda database: database.store.run(pay))
    facts = {"from": source, "to": target, "amount": plain(moved.micros), "available": plain(available.micros)}
    tell(context, facts, f"{moved} moved from {source} to {target}, which now has {available}")


# Keys


PER_MINUTE_MAX = 1_000_000_000
PER_MINUTE = click.IntRange(1, PER_MINUTE_MAX)


class _PerMinute(click.ParamType[int]):
    """A number a minute; 0 stands for the word `default`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return 0 if value == "default" else int(PER_MINUTE.convert(value, param, ctx))


_MANAGE = "Whether it may make accounts and keys and move money; an account's first key may, if it has no rules."


@click.group("key")
def key_group() -> None:
    """What clients sign in with."""


@key_group.command("issue")
@click.argument("name", metavar="ACCOUNT")
@click.option("--name", "label", default="", help="What you call it.")
@click.option("--dialect", help="What it is answered in where the path names no dialect; unset, `server.dialect`.")
@click.option("--changes-per-minute", type=PER_MINUTE, help="Unset, `limits.changes_per_minute`.")
@click.option("--polls-per-minute", type=PER_MINUTE, help="Unset, `limits.polls_per_minute`.")
@click.option("--manage/--no-manage", "may_manage", default=None, help=_MANAGE)
@_with_rules
@common
@click.pass_obj
def key_issue(
    context: Context,
    /,
    name: str,
    label: str,
    dialect: str | None,
    changes_per_minute: int | None,
    polls_per_minute: int | None,
    may_manage: bool | None,
    **given: Any,
) -> None:
    """A new key. It is shown this once: only its digest is kept."""

    async def issue(database: Database) -> tuple[Issued, Row]:
        now = time.time()
        row = await database.store.read(accounts.find, name)
        changes = _changes(given, context.settings, row["currency"], now)
        return await database.store.run(
            manage.issue_key,
            COMMAND_LINE,
            database.vault,
            name,
            now,
            label=label,
            dialect=dialect,
            changes=changes,
            changes_per_minute=changes_per_minute,
            polls_per_minute=polls_per_minute,
            may_manage=may_manage,
        )

    made, _ = with_database(context, issue)
    tell(context, {"id": made.id, "key": made.key}, made.key)


@key_group.command("dialect")
@click.argument("key_id", metavar="ID", type=int)
@click.argument("dialect", metavar="NAME")
@common
@click.pass_obj
def key_dialect(context: Context, key_id: int, dialect: str) -> None:
    """What a key is answered in, by its id; `default` for `server.dialect`. A server follows within a second."""
    chosen = None if dialect == "default" else dialect
    _set_key(context, key_id, {"dialect": chosen})
    tell(context, {"id": key_id, "dialect": chosen}, f"key {key_id} is answered in {chosen or 'the default dialect'}")


@key_group.command("limits")
@click.argument("key_id", metavar="ID", type=int)
@click.option("--changes-per-minute", "changes", type=_PerMinute(), help="Purchases and changes; or `default`.")
@click.option("--polls-per-minute", "polls", type=_PerMinute(), help="Requests of every kind; or `default`.")
@common
@click.pass_obj
def key_limits(context: Context, key_id: int, changes: int | None, polls: int | None) -> None:
    """A key's own limits, by its id: sets those that are given. A server follows within a second."""
    given = {"changes_per_minute": changes, "polls_per_minute": polls}
    wanted = {name: most or None for name, most in given.items() if most is not None}
    row = _set_key(context, key_id, wanted)
    facts = {"id": key_id, **{name: row[name] for name in given}}
    shown = {name: facts[name] or "default" for name in given}
    words = f"{shown['changes_per_minute']} changes and {shown['polls_per_minute']} polls a minute"
    tell(context, facts, f"key {key_id}: {words}")


@key_group.command("counts")
@click.argument("key_id", metavar="ID", type=int)
@click.argument("form", type=click.Choice(("old", "new")))
@common
@click.pass_obj
def key_counts(context: Context, key_id: int, form: str) -> None:
    """How getNumbersStatus looks for a key: `old`, as before 2022 (`"tg_0":498`), or `new` (`"tg":"498"`)."""

    _set_key(context, key_id, {"has_old_counts": form == "old"})
    tell(context, {"id": key_id, "counts": form}, f"key {key_id} gets the {form} form of getNumbersStatus")


@key_group.command("manage")
@click.argument("key_id", metavar="ID", type=int)
@click.option("--allow/--deny", "may_manage", default=True, help="Whether it may.")
@common
@click.pass_obj
def key_manage(context: Context, key_id: int, may_manage: bool) -> None:
    """Let a key make accounts and keys and move money, or (--deny) only buy. A server follows within a second."""
    _set_key(context, key_id, {"may_manage": may_manage})
    words = "may manage" if may_manage else "only buys"
    tell(context, {"id": key_id, "may_manage": may_manage}, f"key {key_id} {words}")


def _set_key(context: Context, key_id: int, changes: Mapping[str, Any]) -> Row:
    return with_database(
        context, lambda database: database.store.run(manage.set_key, COMMAND_LINE, key_id, changes, time.time())
    )


@key_group.command("list")
@click.argument("name", metavar="[ACCOUNT]", required=False)
@common
@click.pass_obj
def key_list(context: Context, name: str | None) -> None:
    """Keys, by their first four characters."""
    found = with_database(context, lambda database: database.store.read(accounts.keys, name))
    rows = [
        {
            "id": row["id"],
            "account": row["account"],
            "key": row["hint"] + "…",
            "name": row["name"] or None,
            "dialect": row["dialect"],
            "changes": row["changes_per_minute"],
            "polls": row["polls_per_minute"],
            "manages": bool(row["may_manage"]),
            "created": moment(row["created_at"]),
            "ends": moment(min((at for at in (row["expires_at"], row["retires_at"]) if at is not None), default=None)),
            "suspended": moment(row["suspended_at"]),
            "revoked": moment(row["revoked_at"]),
        }
        for row in found
    ]
    show(
        context,
        rows,
        (
            "id",
            "account",
            "key",
            "name",
            "dialect",
            "changes",
            "polls",
            "manages",
            "created",
            "ends",
            "suspended",
            "revoked",
        ),
    )


@key_group.command("name")
@click.argument("key_id", metavar="ID", type=int)
@click.argument("label", metavar="NAME")
@common
@click.pass_obj
def key_name(context: Context, key_id: int, label: str) -> None:
    """Call a key something else, by its id."""
    _set_key(context, key_id, {"name": label})
    tell(context, {"id": key_id, "name": label}, f"key {key_id} is called {label or 'nothing'}")


@key_group.command("rules")
@click.argument("key_id", metavar="ID", type=int)
@_with_rules
@click.option("--force", is_flag=True, help="Set a cap below what is spent already: nothing can be bought for now.")
@common
@click.pass_obj
def key_rules(context: Context, /, key_id: int, force: bool, **given: Any) -> None:
    """What a key may do, by its id. Sets those rules that are given, and shows its own."""

    async def work(database: Database) -> Ruled:
        now, store = time.time(), database.store
        row = await store.read(accounts.find_key, key_id)
        changes = _changes(given, context.settings, row["currency"], now)
        if not changes:
            return await store.read(accounts.rules_of_key, key_id, now)
        return await store.run(manage.change_key_rules, COMMAND_LINE, key_id, changes, now, force=force)

    _tell_rules(context, "key", key_id, with_database(context, work))


@key_group.command("rotate")
@click.argument("key_id", metavar="ID", type=int)
@click.option("--grace", type=float, default=GRACE_SECONDS, help="Seconds for which the old one goes on working.")
@common
@click.pass_obj
def key_rotate(context: Context, key_id: int, grace: float) -> None:
    """A new key in the place of another, with the same rules and what is spent of them; a day's grace by default."""
    now = time.time()
    made, _ = with_database(
        context,
        lambda database: database.store.run(manage.rotate_key, COMMAND_LINE, database.vault, key_id, now, grace),
    )
    facts = {"id": made.id, "key": made.key, "replaces": key_id, "ends": moment(now + grace)}
    tell(context, facts, made.key)


@key_group.command("suspend")
@click.argument("key_id", metavar="ID", type=int)
@common
@click.pass_obj
def key_suspend(context: Context, key_id: int) -> None:
    """Stop a key until `resume`: it can do nothing. What it bought is its account's, whose other keys see it."""
    _set_suspended(context, key_id, is_suspended=True)


@key_group.command("resume")
@click.argument("key_id", metavar="ID", type=int)
@common
@click.pass_obj
def key_resume(context: Context, key_id: int) -> None:
    """End a key's suspension."""
    _set_suspended(context, key_id, is_suspended=False)


def _set_suspended(context: Context, key_id: int, *, is_suspended: bool) -> None:
    with_database(
        context,
        lambda database: database.store.run(
            manage.switch_key, COMMAND_LINE, key_id, time.time(), is_suspended=is_suspended
        ),
    )
    words = "suspended" if is_suspended else "no longer suspended"
    tell(context, {"id": key_id, "suspended": is_suspended}, f"key {key_id} is {words}")


@key_group.command("revoke")
@click.argument("key_id", type=int)
@common
@click.pass_obj
def key_revoke(context: Context, key_id: int) -> None:
    """End a key, by its id, with those it replaced. A running server follows within a second."""
    with_database(context, lambda database: database.store.run(manage.revoke_key, COMMAND_LINE, key_id, time.time()))
    tell(context, {"id": key_id, "revoked": True}, f"key {key_id} is revoked")
