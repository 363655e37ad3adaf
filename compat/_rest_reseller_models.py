"""What resellers and operators send and get: accounts, rules, keys, transfers, statements, terms. As `_rest_models`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from compat._rest_models import LINE, PAGE_MAX, PRICE, Amount, CountryWord, Model, ServiceCode, amount, moment, name_of
from compat._rest_people_models import ACCOUNT_NAME
from gateway.accounts import GRACE_SECONDS_MAX, Issued, Ruled
from gateway.caps import OPEN
from gateway.catalog import Catalog
from gateway.ladders import Markup
from gateway.markups import RULES_MAX, Rule, percent_of, percent_text
from gateway.money import PRICE_STEP_MICROS, plain, to_micros
from gateway.recharges import Recharge
from gateway.rules import (
    IP_RANGES_MAX,
    NAME_LENGTH_MAX,
    OPEN_MAX,
    PER_MINUTE_MAX,
    SPEND_CAPS,
    WAYS_IN,
    Rules,
    countries_of,
    dialects_of,
    ip_ranges_of,
    services_of,
)
from gateway.settings import DIALECTS
from gateway.statements import Movement, Statement
from gateway.usage import COUNTS, DIMENSIONS, Line
from gateway.vouchers import Batch

GRACE_SECONDS = 86_400
NOTE_LENGTH_MAX = 200
STATEMENT_PAGE_MAX = 1_000
SERVICES_MAX = 1_000
VOUCHERS_MAX = 1_000
COUNTRIES_MAX = 300
AMOUNTS = ("price_max", *SPEND_CAPS.values())

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")


def _as_text(value: Any) -> Any:
    """A time is written out: a number could be seconds or milliseconds."""
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise ValueError("a time is RFC 3339, such as 2025-06-01T12:00:00Z")
    return value


def _as_day(value: Any) -> Any:
    """A day is written out, too."""
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("a day is YYYY-MM-DD, such as 2025-06-01")
    return value


AccountName = Annotated[StrictStr, Field(pattern=ACCOUNT_NAME, examples=["acme.shop"])]
Price = Annotated[StrictStr, Field(pattern=PRICE, examples=["5.00"])]
PerMinute = Annotated[StrictInt, Field(ge=1, le=PER_MINUTE_MAX)]
Label = Annotated[StrictStr, Field(max_length=NAME_LENGTH_MAX, pattern=r"^[^\x00-\x1f\x7f]*$", examples=["checkout"])]
DialectWord = Literal[DIALECTS]  # type: ignore[valid-type]
WayIn = Literal[WAYS_IN]  # type: ignore[valid-type]
Moment = Annotated[AwareDatetime, BeforeValidator(_as_text)]
Day = Annotated[date, BeforeValidator(_as_day)]
Percent = Annotated[StrictStr, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,4})?$", examples=["20"])]
Cursor = Annotated[
    str, Field(min_length=1, max_length=128, description="`next_cursor` of the page before, as it came.")
]
Limit = Annotated[int, Field(ge=1, le=PAGE_MAX, description="How many at most.")]


# Requests


class AccountsQuery(Model):
    """Which accounts."""

    parent: Annotated[str, Field(pattern=ACCOUNT_NAME)] | None = Field(
        default=None, description="Only the accounts right below this one."
    )
    limit: Limit = 50
    cursor: Cursor | None = None


class PageQuery(Model):
    """Which part of the list."""

    limit: Limit = 50
    cursor: Cursor | None = None


class TransfersQuery(Model):
    """Which transfers."""

    account: Annotated[str, Field(pattern=ACCOUNT_NAME)] | None = Field(
        default=None, description="Only from and to this account."
    )
    limit: Limit = 50
    cursor: Cursor | None = None


class PeriodQuery(Model):
    """Which time."""

    start: Moment | None = Field(default=None, description="From then on; without it, since the month began.")
    end: Moment | None = Field(default=None, description="Until before then; without it, up to now.")


class StatementQuery(PeriodQuery):
    """Which part of the statement."""

    limit: Annotated[int, Field(ge=1, le=STATEMENT_PAGE_MAX, description="How many at most.")] = 100
    cursor: Cursor | None = None


class UsageQuery(Model):
    """Which days (UTC, those of the purchase), and what they are broken down by."""

    start: Day | None = Field(default=None, description="First day; without it, of this month.")
    end: Day | None = Field(default=None, description="Day after the last one; without it, up to now.")
    by: Annotated[str, Field(max_length=60, pattern=r"^[a-z]+(,[a-z]+)*$")] = Field(
        default="day",
        description="Any of `day`, `account`, `key`, `service`, `country`, by comma; for operators `upstream` as well.",
        examples=["day,service"],
    )


class AuditQuery(PeriodQuery):
    """Which entries."""

    start: Moment | None = Field(default=None, description="From then on.")
    after: Annotated[int, Field(ge=0, le=2**53)] = Field(default=0, description="The `id` of the last entry known.")
    limit: Annotated[int, Field(ge=1, le=STATEMENT_PAGE_MAX, description="How many at most.")] = 100


class NewAccount(Model):
    """An account to be opened."""

    name: AccountName = Field(
        description="For good. A reseller's begins with the name of the account above it and a dot: `acme.shop`."
    )
    parent: AccountName | None = Field(
        default=None, description="The account above it, for good. Without it, a reseller's own; an operator's is none."
    )
    currency: Annotated[StrictStr, Field(pattern=r"^[A-Z]{3}$")] | None = Field(
        default=None, description="For good. Without it, that of the account above."
    )
    is_demo: StrictBool | None = Field(default=None, description="Served by the sandbox only, as those below it are.")


class NewRules(Model):
    """What an account or a key may do. What is left out or null is no rule."""

    services: Annotated[list[ServiceCode], Field(min_length=1, max_length=SERVICES_MAX)] | None = Field(
        default=None, description="The only services it may buy."
    )
    denied_services: Annotated[list[ServiceCode], Field(max_length=SERVICES_MAX)] | None = Field(
        default=None, description="Services it may not buy."
    )
    countries: Annotated[list[CountryWord], Field(min_length=1, max_length=COUNTRIES_MAX)] | None = Field(
        default=None, description="The only countries it may buy in."
    )
    ip_ranges: (
        Annotated[list[Annotated[StrictStr, Field(min_length=1, max_length=60)]], Field(max_length=IP_RANGES_MAX)]
        | None
    ) = Field(
        default=None, description="Addresses and networks its requests may come from.", examples=[["192.0.2.0/24"]]
    )
    dialects: Annotated[list[WayIn], Field(min_length=1, max_length=len(WAYS_IN))] | None = Field(
        default=None, description="The ways in it may use."
    )
    price_max: Price | None = Field(default=None, description="The highest price of one number.")
    open_max: Annotated[StrictInt, Field(ge=1, le=OPEN_MAX)] | None = Field(
        default=None, description="Activations it may have open at once."
    )
    spend_hour: Price | None = Field(default=None, description="The most it may spend in an hour (UTC).")
    spend_day: Price | None = Field(default=None, description="In a day.")
    spend_month: Price | None = Field(default=None, description="In a month.")
    spend_total: Price | None = Field(default=None, description="In all.")
    expires_at: Moment | None = Field(default=None, description="When it ends.")
    polls_per_minute: PerMinute | None = Field(
        default=None, description="Requests of an account and all below it together. A key has limits of its own."
    )
    changes_per_minute: PerMinute | None = Field(default=None, description="Likewise, purchases and changes.")


class NewKey(Model):
    """A key to be made."""

    name: Label = Field(default="", description="What it is called.")
    dialect: DialectWord | None = Field(default=None, description="Where the path names none; null for the house's.")
    changes_per_minute: PerMinute | None = Field(default=None, description="Its own limit; null for the house's.")
    polls_per_minute: PerMinute | None = Field(default=None, description="Likewise.")
    may_manage: StrictBool | None = Field(
        default=None,
        description="Whether it may do more than buy. Null: an account's first key may, if it has no rules.",
    )
    rules: NewRules | None = None


class KeySettings(Model):
    """What a key is called and how it is answered. What is left out is as for a new key."""

    name: Label = ""
    dialect: DialectWord | None = None
    changes_per_minute: PerMinute | None = None
    polls_per_minute: PerMinute | None = None
    may_manage: StrictBool = False


class Rotation(Model):
    """How a key is replaced."""

    grace_seconds: Annotated[StrictInt, Field(ge=0, le=GRACE_SECONDS_MAX)] = Field(
        default=GRACE_SECONDS, description="How long the old one goes on working."
    )


class NewTransfer(Model):
    """Money to be moved between an account and one above or below it."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    source: AccountName | None = Field(default=None, alias="from", description="Without it, a reseller's own.")
    target: AccountName = Field(alias="to")
    amount: Annotated[StrictStr, Field(pattern=r"^([0-9]{1,9}(\.[0-9]{1,6})?|all)$", examples=["20.00"])] = Field(
        description="In the accounts' currency; `all` is everything that is not held."
    )
    note: Annotated[StrictStr, Field(max_length=NOTE_LENGTH_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class Acceptance(Model):
    """The terms that are accepted."""

    version: Annotated[StrictStr, Field(min_length=1, max_length=100, pattern=LINE)]


class NewVouchers(Model):
    """Vouchers to be issued, paid for at once from the account's balance."""

    count: Annotated[StrictInt, Field(ge=1, le=VOUCHERS_MAX)] = 1
    amount: Price = Field(description="What each is worth.")
    expires_at: Moment | None = None
    note: Annotated[StrictStr, Field(max_length=NOTE_LENGTH_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class Redemption(Model):
    """A voucher to be paid in."""

    code: Annotated[StrictStr, Field(min_length=1, max_length=64, description="Case, spaces and dashes don't matter.")]


class NewMarkup(Model):
    """What is added to what the account pays itself. Without services, countries or child it is for everybody below."""

    services: Annotated[list[ServiceCode], Field(max_length=SERVICES_MAX)] = Field(
        default=[], description="Only for these services."
    )
    countries: Annotated[list[CountryWord], Field(max_length=COUNTRIES_MAX)] = Field(
        default=[], description="Only for these countries."
    )
    child: AccountName | None = Field(
        default=None, description="Only for this account directly below, and those below that."
    )
    percent: Percent = "0"
    add: Price = Field(default="0", description="Added to each number, after that; in the account's currency.")
    step: Price = Field(
        default=plain(PRICE_STEP_MICROS), description="Prices are rounded up to a multiple of it.", examples=["0.05"]
    )


class NewMarkups(Model):
    """All markups of an account, in the order in which they are looked at: the first that fits counts."""

    markups: Annotated[list[NewMarkup], Field(max_length=RULES_MAX)]


class NewRecharge(Model):
    """How an account is to be recharged."""

    source: Literal["parent", "hook"] = Field(description="From the balance above, or by asking for a payment.")
    threshold: Price = Field(description="Whenever less than this can be spent.")
    amount: Price = Field(description="What is added.")
    month_max: Price = Field(description="The most that is added in a month (UTC).")
    cool_down_seconds: Annotated[StrictInt, Field(ge=1, le=30 * 86_400)] = 300


# Answers


class VoucherBatch(Model):
    """Vouchers issued together, by their states."""

    id: int = Field(examples=[3])
    account: str = Field(description="Who issued it.")
    amount: Amount = Field(description="What each is worth.")
    count: int
    open: int
    redeemed: int
    revoked: int
    expired: int
    note: str
    issued_at: datetime
    expires_at: datetime | None


class IssuedVouchers(Model):
    """Vouchers just issued."""

    id: int = Field(description="That of the batch.", examples=[3])
    account: str
    amount: Amount
    expires_at: datetime | None
    codes: list[str] = Field(description="Shown this once: only their digests are kept.")


class VoucherBatches(Model):
    """One page, oldest first."""

    batches: list[VoucherBatch]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Voucher(Model):
    """A voucher, by its first four characters."""

    id: int
    hint: str
    state: Literal["open", "redeemed", "revoked", "expired"]
    ended_at: datetime | None
    redeemed_by: str | None


class Vouchers(Model):
    """One page, by id."""

    vouchers: list[Voucher]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class PaidIn(Model):
    """A voucher that was redeemed."""

    account: str
    amount: Amount


class RechargeRule(Model):
    """How an account is recharged, and how that stands."""

    source: str = Field(description="`parent` or `hook`.")
    threshold: str
    amount: str
    month_max: str
    cool_down_seconds: int
    currency: str
    month_spent: str = Field(description="What was added this month.")
    is_pending: bool = Field(description="Whether a payment is being waited for.")
    problem: str | None = Field(description="Why the last try failed.")


class RechargeShown(Model):
    """An account's recharge; null where it has none."""

    account: str
    recharge: RechargeRule | None


class Cap(Model):
    """How much of a cap is used."""

    cap: str = Field(description="`open`, `hour`, `day`, `month` or `total`.", examples=["day"])
    used: str = Field(examples=["3.20"])
    of: str = Field(examples=["5.00"])


class RulesShown(Model):
    """Rules as they stand, and what is used of the caps among them. Null says nothing."""

    services: list[str] | None
    denied_services: list[str]
    countries: list[int] | None
    ip_ranges: list[str]
    dialects: list[str] | None
    price_max: str | None
    open_max: int | None
    spend_hour: str | None
    spend_day: str | None
    spend_month: str | None
    spend_total: str | None
    expires_at: datetime | None
    suspended_at: datetime | None
    polls_per_minute: int | None
    changes_per_minute: int | None
    currency: str
    used: list[Cap]


class Key(Model):
    """A key, by its first four characters."""

    id: int = Field(examples=[17])
    account: str
    hint: str = Field(examples=["aB3d"])
    name: str
    dialect: str | None
    changes_per_minute: int | None
    polls_per_minute: int | None
    may_manage: bool
    created_at: datetime
    ends_at: datetime | None = Field(description="When it stops working: its time is over, or another has its place.")
    suspended_at: datetime | None
    revoked_at: datetime | None


class IssuedKey(Key):
    """A key just made."""

    key: str = Field(description="Shown this once: only its digest is kept.")


class Keys(Model):
    """One page, by id."""

    keys: list[Key]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Transfer(Model):
    """Money that was moved."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    id: int = Field(examples=[5])
    at: datetime
    source: str | None = Field(alias="from", description="Null for an account above one's own.")
    target: str | None = Field(alias="to", description="Likewise.")
    amount: Amount
    note: str


class Transfers(Model):
    """One page, newest first."""

    transfers: list[Transfer]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Move(Model):
    """One row of the ledger as its account sees it; amounts are signed."""

    id: int
    at: datetime
    kind: str = Field(examples=["hold"])
    amount: str = Field(description="What it did to what can be spent.", examples=["-0.12"])
    held: str = Field(description="What it did to what is held.", examples=["0.12"])
    available: str = Field(description="What could be spent after it.")
    total_held: str = Field(description="What was held after it.")
    activation: str | None = Field(examples=["ver_123456"])
    actor: str = Field(description="Who did it.", examples=["key:17"])
    note: str


class StatementPage(Model):
    """One page, oldest first."""

    account: str
    currency: str
    opening_available: str = Field(description="What could be spent before the first movement of this page.")
    opening_held: str
    movements: list[Move]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class MarkupShown(Model):
    """One markup. No services or countries are any."""

    services: list[str]
    countries: list[int]
    child: str | None
    percent: str = Field(examples=["20"])
    add: str = Field(examples=["0.01"])
    step: str = Field(examples=["0.05"])


class Markups(Model):
    """What an account adds to the prices of those below it, in the order in which it is looked at."""

    account: str
    markups: list[MarkupShown]


class UsageLine(Model):
    """What was bought. What the report is not broken down by is null."""

    day: date | None
    account: str | None
    key: int | None = Field(examples=[17])
    service: str | None = Field(examples=["tg"])
    country: int | None = Field(examples=[6])
    upstream: str | None = Field(description="For operators.")
    bought: int = Field(description="Numbers had, rentals and more time included.")
    delivered: int = Field(description="Those that were paid for.")
    cancelled: int
    expired: int
    spent: Amount = Field(description="What those who bought were charged for the delivered ones.")
    margin: Amount = Field(description="What the account of the report earned of it, by those below it.")


class UsageReport(Model):
    """What an account and those below it bought."""

    account: str
    start: date
    end: date = Field(description="The day after the last one.")
    lines: list[UsageLine]


class AuditEntry(Model):
    """Who did what, when: one line."""

    id: int
    at: datetime
    actor: str = Field(examples=["user:3"])
    action: str = Field(examples=["key.issue"])
    subject: str = Field(examples=["key:17"])
    account: int | None
    detail: dict[str, Any]


class Terms(Model):
    """The terms in force, and whether an account has accepted them."""

    account: str
    version: str | None = Field(description="Null where there are none.")
    accepted_at: datetime | None
    accepted_by: str | None


# From theirs to ours


def changes_of(given: NewRules, catalog: Catalog) -> dict[str, Any]:
    """Every rule, as the core takes them. Raises RuleError, MoneyError."""
    found: dict[str, Any] = {
        "services": services_of(given.services, catalog) if given.services else None,
        "denied_services": services_of(given.denied_services, catalog) if given.denied_services else None,
        "countries": countries_of(given.countries, catalog) if given.countries else None,
        "ip_ranges": ip_ranges_of(given.ip_ranges) if given.ip_ranges else None,
        "dialects": dialects_of(given.dialects) if given.dialects else None,
        "open_max": given.open_max,
        "polls_per_minute": given.polls_per_minute,
        "changes_per_minute": given.changes_per_minute,
        "expires_at": given.expires_at.timestamp() if given.expires_at is not None else None,
    }
    for name in AMOUNTS:
        text = getattr(given, name)
        found[name] = None if text is None else to_micros(text)
    return found


def markups_of(given: NewMarkups, catalog: Catalog) -> list[tuple[Markup, str | None]]:
    """As the core takes them, each with its child. Raises RuleError, MarkupError, MoneyError."""
    return [(_markup_of(one, catalog), one.child) for one in given.markups]


def _markup_of(given: NewMarkup, catalog: Catalog) -> Markup:
    return Markup(
        services=services_of(given.services, catalog),
        countries=countries_of(given.countries, catalog),
        percent_millionths=percent_of(given.percent),
        add_micros=to_micros(given.add),
        step_micros=to_micros(given.step),
    )


# From ours to theirs


def markups_shown(name: str, found: Sequence[Rule]) -> Markups:
    return Markups(account=name, markups=[_markup(rule) for rule in found])


def _markup(rule: Rule) -> MarkupShown:
    return MarkupShown(
        services=sorted(rule.markup.services),
        countries=sorted(rule.markup.countries),
        child=rule.child or None,
        percent=percent_text(rule.markup.percent_millionths),
        add=plain(rule.markup.add_micros),
        step=plain(rule.markup.step_micros),
    )


def usage_line(line: Line) -> UsageLine:
    """A line of an account's report: its margin is in its own currency alone."""
    members: dict[str, Any] = {name: line.place.get(name) for name in DIMENSIONS}
    return UsageLine(
        **members,
        **{name: getattr(line, name) for name in COUNTS},
        spent=Amount(amount=plain(line.spent), currency=line.currency),
        margin=Amount(amount=plain(line.margin[line.currency]), currency=line.currency),
    )


def rules_shown(ruled: Ruled) -> RulesShown:
    rules: Rules = ruled.rules
    amounts = {name: None if (micros := getattr(rules, name)) is None else plain(micros) for name in AMOUNTS}
    return RulesShown(
        services=None if rules.services is None else sorted(rules.services),
        denied_services=sorted(rules.denied_services),
        countries=None if rules.countries is None else sorted(rules.countries),
        ip_ranges=list(rules.ip_ranges),
        dialects=None if rules.dialects is None else sorted(rules.dialects),
        open_max=rules.open_max,
        expires_at=_time(rules.expires_at),
        suspended_at=_time(rules.suspended_at),
        polls_per_minute=rules.polls_per_minute,
        changes_per_minute=rules.changes_per_minute,
        currency=ruled.currency,
        used=[
            Cap(
                cap=counter.period,
                used=str(counter.amount) if counter.period == OPEN else plain(counter.amount),
                of=str(counter.cap) if counter.period == OPEN else plain(counter.cap),
            )
            for counter in ruled.counters
        ],
        **amounts,
    )


def key(row: Mapping[str, Any]) -> Key:
    ends = [at for at in (row["expires_at"], row["retires_at"]) if at is not None]
    return Key(
        id=row["id"],
        account=row["account"],
        hint=row["hint"],
        name=row["name"],
        dialect=row["dialect"],
        changes_per_minute=row["changes_per_minute"],
        polls_per_minute=row["polls_per_minute"],
        may_manage=bool(row["may_manage"]),
        created_at=moment(row["created_at"]),
        ends_at=_time(min(ends, default=None)),
        suspended_at=_time(row["suspended_at"]),
        revoked_at=_time(row["revoked_at"]),
    )


def issued_key(made: Issued, row: Mapping[str, Any]) -> IssuedKey:
    return IssuedKey(**key(row).model_dump(), key=made.key)


def transfer(row: Mapping[str, Any]) -> Transfer:
    return Transfer(
        **{"from": row["source"], "to": row["target"]},
        id=row["id"],
        at=moment(row["at"]),
        amount=Amount(amount=plain(row["amount"]), currency=row["currency"]),
        note=row["note"],
    )


def statement_page(name: str, found: Statement, next_cursor: str | None) -> StatementPage:
    return StatementPage(
        account=name,
        currency=found.currency,
        opening_available=plain(found.opening_available),
        opening_held=plain(found.opening_held),
        movements=[_move(movement) for movement in found.movements],
        next_cursor=next_cursor,
    )


def _move(movement: Movement) -> Move:
    return Move(
        id=movement.id,
        at=moment(movement.at),
        kind=movement.kind,
        amount=plain(movement.amount),
        held=plain(movement.held),
        available=plain(movement.available),
        total_held=plain(movement.total_held),
        activation=None if movement.activation_id is None else name_of(movement.activation_id),
        actor=movement.actor,
        note=movement.note,
    )


def voucher_batch(row: Mapping[str, Any]) -> VoucherBatch:
    return VoucherBatch(
        id=row["id"],
        account=row["issuer"] or "",
        amount=Amount(amount=plain(row["amount"]), currency=row["currency"]),
        count=row["voucher_count"],
        open=row["open_count"],
        redeemed=row["redeemed"],
        revoked=row["revoked"],
        expired=row["expired"],
        note=row["note"],
        issued_at=moment(row["issued_at"]),
        expires_at=_time(row["expires_at"]),
    )


def issued_vouchers(name: str, batch: Batch) -> IssuedVouchers:
    return IssuedVouchers(
        id=batch.id,
        account=name,
        amount=amount(batch.amount),
        expires_at=_time(batch.expires_at),
        codes=list(batch.codes),
    )


def voucher(row: Mapping[str, Any]) -> Voucher:
    return Voucher(
        id=row["id"],
        hint=row["hint"],
        state=row["state"],
        ended_at=_time(row["ended_at"]),
        redeemed_by=row["redeemed_by"],
    )


def recharge_shown(name: str, found: Recharge | None) -> RechargeShown:
    if found is None:
        return RechargeShown(account=name, recharge=None)
    rule = RechargeRule(
        source=found.source,
        threshold=plain(found.threshold.micros),
        amount=plain(found.amount.micros),
        month_max=plain(found.month_max.micros),
        cool_down_seconds=round(found.cool_down_seconds),
        currency=found.amount.currency,
        month_spent=plain(found.month_spent.micros),
        is_pending=found.is_pending,
        problem=found.problem or None,
    )
    return RechargeShown(account=name, recharge=rule)


def audit_entry(fields: Mapping[str, Any]) -> AuditEntry:
    return AuditEntry(**{**fields, "at": moment(fields["at"])})


def terms_shown(name: str, version: str, row: Mapping[str, Any] | None) -> Terms:
    return Terms(
        account=name,
        version=version or None,
        accepted_at=_time(row["at"] if row else None),
        accepted_by=row["actor"] if row else None,
    )


def _time(at: float | None) -> datetime | None:
    return None if at is None else moment(at)
