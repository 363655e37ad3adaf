"""What resellers manage for themselves, and operators for everybody: accounts, rules, keys, money, statements, audit.

Whoever asks sees its own account and those below it, an operator every one: anything else is answered as what nobody
has. All of it is `gateway.manage`; each change is in the audit log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

from compat._rest_access import Access
from compat._rest_cursor import cursor, id_of, place_of
from compat._rest_http import PREFIX, PRIVATE, Call, Operation, Reply, Stream, idempotency_key, show
from compat._rest_models import NoBody, Page, Wrong, amount
from compat._rest_people_models import Account, Accounts, account
from compat._rest_problems import Refused
from compat._rest_reseller_models import (
    Acceptance,
    AccountsQuery,
    AuditEntry,
    AuditQuery,
    IssuedKey,
    IssuedVouchers,
    Key,
    Keys,
    KeySettings,
    Markups,
    NewAccount,
    NewKey,
    NewMarkups,
    NewRecharge,
    NewRules,
    NewTransfer,
    NewVouchers,
    PageQuery,
    PaidIn,
    PeriodQuery,
    RechargeShown,
    Redemption,
    Rotation,
    RulesShown,
    StatementPage,
    StatementQuery,
    Terms,
    Transfer,
    Transfers,
    TransfersQuery,
    UsageQuery,
    UsageReport,
    VoucherBatch,
    VoucherBatches,
    Vouchers,
    audit_entry,
    changes_of,
    issued_key,
    issued_vouchers,
    key,
    markups_of,
    markups_shown,
    recharge_shown,
    rules_shown,
    statement_page,
    terms_shown,
    transfer,
    usage_line,
    voucher,
    voucher_batch,
)
from compat._rest_shared import require_turn
from gateway import accounts, audit, deposits, ledger, manage, statements, terms, usage, vouchers
from gateway.accounts import ID_MAX, AccountError, Ruled
from gateway.deposits import DepositError
from gateway.front import Front
from gateway.ledger import TransferError
from gateway.manage import Manager
from gateway.markups import MarkupError, Rule
from gateway.money import MoneyError
from gateway.recharges import RechargeError
from gateway.rules import RuleError
from gateway.usage import Line
from gateway.vouchers import VoucherError

CSV_ROWS = 1_000
USAGE_LINES_MAX = 20_000
"""Of one report: what is broken down further is asked for in parts."""


class Resellers:
    """The operations."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def _change(self, call: Call) -> tuple[Manager, float]:
        """Counts a change; who makes it, and when. Raises TooManyRequests."""
        await self._front.count_change_of(call.caller_or_none, call.session_or_none)
        return manager_of(call), self._front.house.clock()

    # Accounts

    async def accounts(self, call: Call) -> Reply:
        require_turn(call)
        query: AccountsQuery = call.query
        within = manager_of(call).account_id
        after = place_of("name", query.cursor) or ""
        with refusals():
            found = await self._front.house.store.read(
                manage.accounts_page, within, query.parent, after=after, limit=query.limit + 1
            )
        shown = found[: query.limit]
        next_cursor = cursor("name", shown[-1]["name"]) if len(found) > len(shown) else None
        return show(Accounts(accounts=[account(row, within) for row in shown], next_cursor=next_cursor))

    async def create(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: NewAccount = call.body
        settings = self._front.house.settings
        with refusals():
            row = await self._front.house.store.run(
                manage.create_account,
                manager,
                given.name,
                at,
                parent=given.parent,
                currency=given.currency,
                is_demo=given.is_demo,
                terms_version=settings.gateway.lawful.terms_version,
                house_currency=settings.pricing.currency,
            )
        place = (b"location", f"{PREFIX}/accounts/{row['name']}".encode())
        return show(account(row, manager.account_id), 201, (*PRIVATE, place))

    async def account(self, call: Call) -> Reply:
        require_turn(call)
        within = manager_of(call).account_id
        with refusals():
            row = await self._front.house.store.read(accounts.shown, _account(call), within)
        return show(account(row, within))

    async def suspend(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        with refusals():
            row = await self._front.house.store.run(manage.suspend, manager, _account(call), at)
        return show(account(row, manager.account_id))

    async def resume(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        with refusals():
            row = await self._front.house.store.run(manage.resume, manager, _account(call), at)
        return show(account(row, manager.account_id))

    async def rules(self, call: Call) -> Reply:
        require_turn(call)
        house, within = self._front.house, manager_of(call).account_id
        with refusals():
            found = await house.store.read(accounts.rules_of, _account(call), house.clock(), within=within)
        return _ruled(found)

    async def set_rules(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        house = self._front.house
        with refusals():
            changes = changes_of(call.body, house.settings.catalog)
            found = await house.store.run(
                manage.change_rules, manager, _account(call), changes, at, known_tags=_known_tags(call)
            )
        return _ruled(found)

    # Keys

    async def keys(self, call: Call) -> Reply:
        require_turn(call)
        query: PageQuery = call.query
        after = id_of("key", query.cursor, 0)
        with refusals():
            found = await self._front.house.store.read(
                manage.keys_page, manager_of(call).account_id, _account(call), after=after, limit=query.limit + 1
            )
        shown = found[: query.limit]
        next_cursor = cursor("key", shown[-1]["id"]) if len(found) > len(shown) else None
        return show(Keys(keys=[key(row) for row in shown], next_cursor=next_cursor))

    async def issue(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: NewKey = call.body
        house = self._front.house
        with refusals("/rules"):
            changes = changes_of(given.rules, house.settings.catalog) if given.rules else {}
            made, row = await house.store.run(
                manage.issue_key,
                manager,
                house.vault,
                _account(call),
                at,
                label=given.name,
                dialect=given.dialect,
                changes={name: value for name, value in changes.items() if value is not None},
                changes_per_minute=given.changes_per_minute,
                polls_per_minute=given.polls_per_minute,
                may_manage=given.may_manage,
            )
        return show(issued_key(made, row), 201)

    async def key(self, call: Call) -> Reply:
        require_turn(call)
        with refusals():
            row = await self._front.house.store.read(accounts.shown_key, _key_id(call), manager_of(call).account_id)
        return show(key(row), headers=_tagged(manage.key_tag(row)))

    async def set_key(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: KeySettings = call.body
        with refusals():
            row = await self._front.house.store.run(
                manage.set_key, manager, _key_id(call), given.model_dump(), at, known_tags=_known_tags(call)
            )
        return show(key(row), headers=_tagged(manage.key_tag(row)))

    async def key_rules(self, call: Call) -> Reply:
        require_turn(call)
        house, within = self._front.house, manager_of(call).account_id
        with refusals():
            found = await house.store.read(accounts.rules_of_key, _key_id(call), house.clock(), within=within)
        return _ruled(found)

    async def set_key_rules(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        house = self._front.house
        with refusals():
            changes = changes_of(call.body, house.settings.catalog)
            found = await house.store.run(
                manage.change_key_rules, manager, _key_id(call), changes, at, known_tags=_known_tags(call)
            )
        return _ruled(found)

    async def rotate(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: Rotation = call.body
        house = self._front.house
        with refusals():
            made, row = await house.store.run(
                manage.rotate_key, manager, house.vault, _key_id(call), at, given.grace_seconds
            )
        return show(issued_key(made, row), 201)

    async def suspend_key(self, call: Call) -> Reply:
        return await self._switch_key(call, is_suspended=True)

    async def resume_key(self, call: Call) -> Reply:
        return await self._switch_key(call, is_suspended=False)

    async def _switch_key(self, call: Call, *, is_suspended: bool) -> Reply:
        manager, at = await self._change(call)
        with refusals():
            row = await self._front.house.store.run(
                manage.switch_key, manager, _key_id(call), at, is_suspended=is_suspended
            )
        return show(key(row))

    async def revoke(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        with refusals():
            row = await self._front.house.store.run(manage.revoke_key, manager, _key_id(call), at)
        return show(key(row))

    # Money

    async def transfer(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: NewTransfer = call.body
        house = self._front.house
        word = idempotency_key(call)
        if not word:
            raise Refused("bad_idempotency_key", detail="a transfer needs one")
        source = given.source or (call.caller_or_none.account_name if call.caller_or_none else None)
        if source is None:
            raise Refused("invalid", errors=[Wrong(pointer="/from", detail="an operator has no account of its own")])
        with refusals("/amount"):
            row = await house.store.run(
                manage.transfer,
                manager,
                source,
                given.target,
                None if given.amount == "all" else given.amount,
                at,
                note=given.note,
                reference=house.vault.index_digest("transfer", f"{manager.account_id or 0}:{word}"),
                is_reference_own=True,
            )
        return show(transfer(row), 201)

    async def transfers(self, call: Call) -> Reply:
        require_turn(call)
        query: TransfersQuery = call.query
        before = id_of("transfer", query.cursor, ID_MAX)
        with refusals():
            found = await self._front.house.store.read(
                manage.transfers_page,
                manager_of(call).account_id,
                query.account,
                before=before,
                limit=query.limit + 1,
            )
        shown = found[: query.limit]
        next_cursor = cursor("transfer", shown[-1]["id"]) if len(found) > len(shown) else None
        return show(Transfers(transfers=[transfer(row) for row in shown], next_cursor=next_cursor))

    async def statement(self, call: Call) -> Reply:
        require_turn(call)
        query: StatementQuery = call.query
        name, after = _account(call), id_of("entry", query.cursor, 0)
        start, end = self._period(query)
        with refusals():
            found = await self._front.house.store.read(
                manage.statement, manager_of(call).account_id, name, start, end, after=after, limit=query.limit
            )
        next_cursor = None if found.next_after is None else cursor("entry", found.next_after)
        return show(statement_page(name, found, next_cursor))

    async def statement_csv(self, call: Call) -> Reply | Stream:
        """The first page before anything is sent, so that what is refused is refused with its status."""
        require_turn(call)
        start, end = self._period(call.query)
        read, within, name = self._front.house.store.read, manager_of(call).account_id, _account(call)
        with refusals():
            first = await read(manage.statement, within, name, start, end, limit=CSV_ROWS)

        async def chunks() -> AsyncIterator[bytes]:
            found = first
            yield statements.as_csv(found.movements).encode()
            while found.next_after is not None:
                found = await read(manage.statement, within, name, start, end, after=found.next_after, limit=CSV_ROWS)
                yield statements.as_csv(found.movements, has_heading=False).encode()

        return Stream(chunks(), b"text/csv; charset=utf-8", lambda: None)

    def _period(self, query: PeriodQuery) -> tuple[float, float]:
        """From when until when. Raises Refused where that is no time."""
        now = self._front.house.clock()
        month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        start = (query.start or month).timestamp()
        end = query.end.timestamp() if query.end is not None else now + 1
        if end < start:
            raise Refused("invalid", errors=[Wrong(parameter="end", detail="before the start")])
        return start, end

    # Usage and markups

    async def usage(self, call: Call) -> Reply:
        first, end, _, lines = await self._usage(call)
        report = UsageReport(account=_account(call), start=first, end=end, lines=[usage_line(line) for line in lines])
        return show(report)

    async def usage_csv(self, call: Call) -> Reply:
        _, _, by, lines = await self._usage(call)
        return Reply(usage.as_csv(lines, by).encode(), content_type=b"text/csv; charset=utf-8")

    async def _usage(self, call: Call) -> tuple[date, date, tuple[str, ...], Sequence[Line]]:
        """The days, what they are broken down by, and the lines. Raises Refused."""
        require_turn(call)
        within = manager_of(call).account_id
        first, end = self._days(call.query)
        by = _broken_down(call.query, usage.DIMENSIONS if within is None else usage.RESELLER_DIMENSIONS)
        days = usage.day_of(first), usage.day_of(end)
        with refusals():
            lines = await self._front.house.store.read(manage.usage_of, within, _account(call), *days, by)
        if len(lines) > USAGE_LINES_MAX:
            raise _wrong("by", f"more than {USAGE_LINES_MAX} lines: ask for fewer days, or by less")
        return first, end, by, lines

    def _days(self, query: UsageQuery) -> tuple[date, date]:
        """The first day, and the one after the last. Raises Refused."""
        today = datetime.fromtimestamp(self._front.house.clock(), UTC).date()
        first, end = query.start or today.replace(day=1), query.end or today + timedelta(days=1)
        if end < first:
            raise _wrong("end", "before the start")
        if (end - first).days > usage.DAYS_MAX:
            raise _wrong("end", f"more than {usage.DAYS_MAX} days after the start")
        return first, end

    async def markups(self, call: Call) -> Reply:
        require_turn(call)
        name = _account(call)
        with refusals():
            found = await self._front.house.store.read(manage.markups_of, manager_of(call).account_id, name)
        return _marked_up(name, found)

    async def set_markups(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        house, name = self._front.house, _account(call)
        with refusals("/markups"):
            wanted = markups_of(call.body, house.settings.catalog)
            found = await house.store.run(manage.set_markups, manager, name, wanted, at, known_tags=_known_tags(call))
        return _marked_up(name, found)

    async def end_markups(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        with refusals():
            await self._front.house.store.run(
                manage.set_markups, manager, _account(call), (), at, known_tags=_known_tags(call)
            )
        return Reply(status=204)

    # Vouchers and recharges

    async def issue_vouchers(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: NewVouchers = call.body
        house, name = self._front.house, _account(call)
        with refusals():
            batch = await house.store.run(
                manage.issue_vouchers,
                manager,
                house.vault,
                name,
                given.count,
                given.amount,
                at,
                expires_at=given.expires_at.timestamp() if given.expires_at is not None else None,
                note=given.note,
            )
        return show(issued_vouchers(name, batch), 201)

    async def batches(self, call: Call) -> Reply:
        require_turn(call)
        query: PageQuery = call.query
        after = id_of("batch", query.cursor, 0)
        with refusals():
            found = await self._front.house.store.read(
                manage.batches_page, manager_of(call).account_id, _account(call), after=after, limit=query.limit + 1
            )
        shown = found[: query.limit]
        next_cursor = cursor("batch", shown[-1]["id"]) if len(found) > len(shown) else None
        return show(VoucherBatches(batches=[voucher_batch(row) for row in shown], next_cursor=next_cursor))

    async def vouchers(self, call: Call) -> Reply:
        require_turn(call)
        query: PageQuery = call.query
        after = id_of("voucher", query.cursor, 0)
        with refusals():
            found = await self._front.house.store.read(
                manage.vouchers_page, manager_of(call).account_id, path_number(call, "batch_id"), after=after,
                limit=query.limit + 1,
            )  # fmt: skip
        shown = found[: query.limit]
        next_cursor = cursor("voucher", shown[-1]["id"]) if len(found) > len(shown) else None
        return show(Vouchers(vouchers=[voucher(row) for row in shown], next_cursor=next_cursor))

    async def revoke_vouchers(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        with refusals():
            row = await self._front.house.store.run(manage.revoke_vouchers, manager, path_number(call, "batch_id"), at)
        return show(voucher_batch(row))

    async def redeem(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: Redemption = call.body
        house, name = self._front.house, _account(call)
        with refusals():
            digest = vouchers.digest_of(house.vault, given.code)
            found = await house.store.run(manage.redeem, manager, name, digest, at)
            if found.money is None:
                raise found.error or vouchers.UnknownVoucher()
        return show(PaidIn(account=name, amount=amount(found.money)))

    async def recharge(self, call: Call) -> Reply:
        require_turn(call)
        house, name = self._front.house, _account(call)
        with refusals():
            found = await house.store.read(manage.recharge, manager_of(call).account_id, name, house.clock())
        return show(recharge_shown(name, found), headers=_tagged(manage.recharge_tag(found)))

    async def set_recharge(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: NewRecharge = call.body
        name = _account(call)
        with refusals():
            found = await self._front.house.store.run(
                manage.set_recharge,
                manager,
                name,
                (given.threshold, given.amount, given.month_max),
                given.source,
                float(given.cool_down_seconds),
                at,
                known_tags=_known_tags(call),
            )
        return show(recharge_shown(name, found), headers=_tagged(manage.recharge_tag(found)))

    async def end_recharge(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        with refusals():
            await self._front.house.store.run(
                manage.end_recharge, manager, _account(call), at, known_tags=_known_tags(call)
            )
        return Reply(status=204)

    # The record

    async def audit(self, call: Call) -> Reply:
        require_turn(call)
        query: AuditQuery = call.query
        rows = await self._front.house.store.read(
            audit.page,
            after=query.after,
            start=query.start.timestamp() if query.start is not None else 0.0,
            end=query.end.timestamp() if query.end is not None else float("inf"),
            within=manager_of(call).account_id,
            limit=query.limit,
        )
        lines = [audit_entry(audit.as_fields(row)).model_dump_json() + "\n" for row in rows]
        return Reply("".join(lines).encode(), content_type=b"application/x-ndjson")

    async def terms(self, call: Call) -> Reply:
        require_turn(call)
        house, name = self._front.house, _account(call)
        version = house.settings.gateway.lawful.terms_version
        with refusals():
            row = await house.store.read(manage.accepted_terms, manager_of(call).account_id, name, version)
        return show(terms_shown(name, version, row))

    async def accept_terms(self, call: Call) -> Reply:
        manager, at = await self._change(call)
        given: Acceptance = call.body
        house, name = self._front.house, _account(call)
        version = house.settings.gateway.lawful.terms_version
        with refusals():
            row = await house.store.run(manage.accept_terms, manager, name, given.version, version, at)
        return show(terms_shown(name, version, row))


def manager_of(call: Call) -> Manager:
    """Who asks, and within what."""
    caller = call.caller_or_none
    if caller is not None:
        return Manager(caller.actor, caller.account_id, caller.key_id, is_person=caller.person_id is not None)
    return Manager(f"user:{call.session.person.id}", is_person=True)


def _account(call: Call) -> str:
    """The account of the path, as it came: what can be no name is one that nobody has."""
    return str(call.scope["path_params"]["account"])


def _key_id(call: Call) -> int:
    return path_number(call, "key_id")


def path_number(call: Call, name: str) -> int:
    """An id of the path; 0, which is nobody's, for what is none."""
    word = str(call.scope["path_params"][name])
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0


def _known_tags(call: Call) -> frozenset[str] | None:
    """What `If-Match` names; None where it says nothing, or anything will do."""
    given = call.header(b"if-match")
    if not given or given == "*":
        return None
    return frozenset(tag.strip().removeprefix("W/").strip('"') for tag in given.split(","))


def _tagged(tag: str) -> tuple[tuple[bytes, bytes], ...]:
    return (*PRIVATE, (b"etag", f'"{tag}"'.encode()))


def _ruled(found: Ruled) -> Reply:
    return show(rules_shown(found), headers=_tagged(manage.tag(found.rules)))


def _marked_up(name: str, found: Sequence[Rule]) -> Reply:
    return show(markups_shown(name, found), headers=_tagged(manage.markups_tag(found)))


def _broken_down(query: UsageQuery, known: Sequence[str]) -> tuple[str, ...]:
    """Raises Refused on what is not known, or named twice."""
    by = tuple(query.by.split(","))
    if not set(by) <= set(known):
        raise _wrong("by", f"usage is by {', '.join(known)}")
    if len(set(by)) < len(by):
        raise _wrong("by", "each can be named once")
    return by


def _wrong(parameter: str, detail: str) -> Refused:
    return Refused("invalid", errors=[Wrong(parameter=parameter, detail=detail)])


CODES: dict[type[Exception], str] = {
    accounts.UnknownAccount: "unknown_account",
    accounts.UnknownKey: "unknown_key",
    accounts.NameTaken: "name_taken",
    accounts.NotYours: "not_yours",
    accounts.KeyOver: "key_is_over",
    manage.MayNotManage: "may_not_manage",
    manage.ChangedMeanwhile: "changed_meanwhile",
    terms.NotAccepted: "terms_not_accepted",
    terms.NotInForce: "terms_not_in_force",
    ledger.ReferenceUsed: "idempotency_key_reused",
    manage.UnknownBatch: "unknown_batch",
    deposits.UnknownPayment: "unknown_payment",
    deposits.ReferenceUsed: "reference_used",
    deposits.NotOpen: "not_allowed_now",
    vouchers.UnknownVoucher: "voucher_unknown",
    vouchers.SpentVoucher: "voucher_spent",
    vouchers.EndedVoucher: "voucher_ended",
    vouchers.WrongCurrency: "voucher_currency",
    vouchers.Mistyped: "voucher_mistyped",
    vouchers.TooManyTries: "voucher_tries",
}


REFUSALS = (
    AccountError, RuleError, TransferError, MoneyError, VoucherError, RechargeError, MarkupError, DepositError,
)  # fmt: skip


@contextmanager
def refusals(pointer: str = "", pointers: Mapping[type[Exception], str] = {}) -> Iterator[None]:
    """What managing is refused for, as problems.

    `pointer` is the member that words and amounts stand in, `pointers` has those of errors that are about another.
    """
    try:
        yield
    except REFUSALS as error:
        code = CODES.get(type(error))
        if code is not None:
            raise Refused(code) from None
        place = pointers.get(type(error), pointer)
        raise Refused("invalid", errors=[Wrong(pointer=place, detail=str(error))]) from None


def operations(front: Front) -> Sequence[Operation]:
    """For the table that routes and document are made from."""
    do = Resellers(front)
    top, one, one_key = PREFIX + "/accounts", PREFIX + "/accounts/{account}", PREFIX + "/keys/{key_id}"
    reads, of_account = ("too_many_requests",), ("too_many_requests", "unknown_account")
    of_key = ("too_many_requests", "unknown_key")
    may = Access.MANAGER
    changes, changes_key = (*of_account, "suspended"), (*of_key, "suspended")
    return (
        Operation("accounts", "GET", (top,), do.accounts, "One's own account and those below it", Accounts,
                  query=AccountsQuery, access=may, problems=of_account, description="An operator gets every account."),
        Operation("create_account", "POST", (top,), do.create, "Open an account", Account, 201, body=NewAccount,
                  access=may, problems=(*changes, "name_taken", "terms_not_accepted")),
        Operation("account", "GET", (one,), do.account, "An account with its balance", Account, access=may,
                  problems=of_account),
        Operation("suspend_account", "POST", (one + "/suspend",), do.suspend, "Stop an account and all below it",
                  Account, body=NoBody, access=may, problems=(*changes, "not_yours"),
                  description="It may read and give back, and buys nothing until it is resumed. Safe to repeat."),
        Operation("resume_account", "POST", (one + "/resume",), do.resume, "Let an account go on", Account,
                  body=NoBody, access=may, problems=(*changes, "not_yours"), description="Safe to repeat."),
        Operation("rules", "GET", (one + "/rules",), do.rules, "What an account may do", RulesShown, access=may,
                  problems=of_account, has_tag=True),
        Operation("set_rules", "PUT", (one + "/rules",), do.set_rules, "Say what an account may do", RulesShown,
                  body=NewRules, access=may, takes_if_match=True, description=_RULES, has_tag=True,
                  problems=(*changes, "not_yours", "changed_meanwhile")),
        Operation("terms", "GET", (one + "/terms",), do.terms, "Which terms are in force, and accepted", Terms,
                  access=may, problems=of_account),
        Operation("accept_terms", "POST", (one + "/terms",), do.accept_terms, "Accept the terms in force", Terms,
                  body=Acceptance, access=may, problems=(*changes, "not_yours", "terms_not_in_force"),
                  description="Needed of an account before others are put below it. Safe to repeat."),
        Operation("keys", "GET", (one + "/keys",), do.keys, "The keys of an account", Keys, query=PageQuery,
                  access=may, problems=of_account),
        Operation("issue_key", "POST", (one + "/keys",), do.issue, "Make a key", IssuedKey, 201, body=NewKey,
                  access=may, problems=changes),
        Operation("key", "GET", (one_key,), do.key, "A key", Key, access=may, problems=of_key, has_tag=True),
        Operation("set_key", "PUT", (one_key,), do.set_key, "Name a key, and say how it is answered", Key,
                  body=KeySettings, access=may, takes_if_match=True, has_tag=True,
                  problems=(*changes_key, "changed_meanwhile")),
        Operation("key_rules", "GET", (one_key + "/rules",), do.key_rules, "What a key may do", RulesShown,
                  access=may, problems=of_key, has_tag=True),
        Operation("set_key_rules", "PUT", (one_key + "/rules",), do.set_key_rules, "Say what a key may do",
                  RulesShown, body=NewRules, access=may, takes_if_match=True, description=_RULES, has_tag=True,
                  problems=(*changes_key, "changed_meanwhile")),
        Operation("rotate_key", "POST", (one_key + "/rotate",), do.rotate, "Replace a key", IssuedKey, 201,
                  body=Rotation, access=may, problems=(*changes_key, "key_is_over"),
                  description="The new one has the same rules, and what is spent of its caps."),
        Operation("suspend_key", "POST", (one_key + "/suspend",), do.suspend_key, "Stop a key", Key, body=NoBody,
                  access=may, problems=changes_key, description="Safe to repeat."),
        Operation("resume_key", "POST", (one_key + "/resume",), do.resume_key, "Let a key go on", Key, body=NoBody,
                  access=may, problems=changes_key, description="Safe to repeat."),
        Operation("revoke_key", "POST", (one_key + "/revoke",), do.revoke, "End a key", Key, body=NoBody, access=may,
                  problems=changes_key, description="For good, with those it replaced. Safe to repeat."),
        Operation("transfer", "POST", (PREFIX + "/transfers",), do.transfer, "Move money", Transfer, 201,
                  body=NewTransfer, access=may, needs_idempotency_key=True, description=_TRANSFER,
                  problems=(*changes, "no_balance", "bad_idempotency_key", "idempotency_key_reused")),
        Operation("transfers", "GET", (PREFIX + "/transfers",), do.transfers, "Transfers, newest first", Transfers,
                  query=TransfersQuery, access=may, problems=of_account),
        Operation("statement", "GET", (one + "/statement",), do.statement, "What moved in an account", StatementPage,
                  query=StatementQuery, access=may, problems=of_account),
        Operation("statement_csv", "GET", (one + "/statement.csv",), do.statement_csv, "The same as CSV, all of it",
                  Page, query=PeriodQuery, access=may, problems=of_account, media_type="text/csv"),
        Operation("usage", "GET", (one + "/usage",), do.usage, "What an account and those below it bought",
                  UsageReport, query=UsageQuery, access=may, problems=of_account, description=_USAGE),
        Operation("usage_csv", "GET", (one + "/usage.csv",), do.usage_csv, "The same as CSV", Page, query=UsageQuery,
                  access=may, problems=of_account, media_type="text/csv"),
        Operation("markups", "GET", (one + "/markups",), do.markups, "What an account adds to prices", Markups,
                  access=may, problems=of_account, has_tag=True),
        Operation("set_markups", "PUT", (one + "/markups",), do.set_markups, "Say what an account adds to prices",
                  Markups, body=NewMarkups, access=may, takes_if_match=True, has_tag=True, description=_MARKUPS,
                  problems=(*changes, "changed_meanwhile")),
        Operation("end_markups", "DELETE", (one + "/markups",), do.end_markups, "Pass prices on as they are", NoBody,
                  204, access=may, takes_if_match=True, problems=(*changes, "changed_meanwhile"),
                  description="Safe to repeat."),
        Operation("vouchers", "GET", (one + "/vouchers",), do.batches, "Batches of vouchers an account issued",
                  VoucherBatches, query=PageQuery, access=may, problems=of_account),
        Operation("issue_vouchers", "POST", (one + "/vouchers",), do.issue_vouchers, "Issue vouchers", IssuedVouchers,
                  201, body=NewVouchers, access=may, problems=(*changes, "no_balance"),
                  description="What they are worth is set aside at once. They are for the account and those below it."),
        Operation("redeem_voucher", "POST", (one + "/redeem",), do.redeem, "Pay a voucher in", PaidIn,
                  body=Redemption, access=may, problems=(*changes, "voucher_unknown", "voucher_spent", "voucher_ended",
                  "voucher_currency", "voucher_mistyped", "voucher_tries")),
        Operation("batch", "GET", (PREFIX + "/vouchers/{batch_id}",), do.vouchers, "The vouchers of a batch", Vouchers,
                  query=PageQuery, access=may, problems=("too_many_requests", "unknown_batch")),
        Operation("revoke_vouchers", "POST", (PREFIX + "/vouchers/{batch_id}/revoke",), do.revoke_vouchers,
                  "End what is not redeemed of a batch", VoucherBatch, body=NoBody, access=may,
                  problems=("too_many_requests", "unknown_batch", "suspended"),
                  description="Its worth goes back to whoever issued it. Safe to repeat."),
        Operation("recharge", "GET", (one + "/recharge",), do.recharge, "How an account is recharged", RechargeShown,
                  access=may, problems=of_account, has_tag=True),
        Operation("set_recharge", "PUT", (one + "/recharge",), do.set_recharge, "Say how an account is recharged",
                  RechargeShown, body=NewRecharge, access=may, takes_if_match=True, has_tag=True,
                  problems=(*changes, "not_yours", "changed_meanwhile")),
        Operation("end_recharge", "DELETE", (one + "/recharge",), do.end_recharge, "Recharge it no more", NoBody, 204,
                  access=may, takes_if_match=True, problems=(*changes, "changed_meanwhile"),
                  description="Safe to repeat."),
        Operation("audit", "GET", (PREFIX + "/audit",), do.audit, "Who read or changed what, as lines of JSON",
                  AuditEntry, query=AuditQuery, access=may, problems=reads, media_type="application/x-ndjson",
                  description="Oldest first. `after` takes the `id` of the last line of the page before."),
    )  # fmt: skip


_RULES = (
    "All of them: what is left out is no rule. A cap below what is spent already is refused. They hold for everybody"
    " below, too."
)
_USAGE = "Current to the moment. The margin is what the account earned itself, as its statement has it."
_MARKUPS = (
    "All of them, in the order in which they are looked at: the first that fits counts. Nobody sells below what they"
    " pay: a markup only adds. What is held already keeps its price."
)
_TRANSFER = (
    "Between an account and one above or below it. With the same `Idempotency-Key` the same request gets the same"
    " answer, and money moves once. Money that is held stays."
)
