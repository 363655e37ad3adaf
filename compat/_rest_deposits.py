"""Money from outside, for operators: deposits booked by reference, and payments that wait for a person.

What `simroute deposit` does, by the same references: a deposit told of here and there is booked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StrictStr

from compat._rest_access import Access
from compat._rest_cursor import cursor, id_of
from compat._rest_http import PREFIX, Call, Operation, Reply, show
from compat._rest_models import LINE, Amount, Model, moment
from compat._rest_people_models import ACCOUNT_NAME
from compat._rest_reseller_models import NOTE_LENGTH_MAX, AccountName, Cursor, Limit, Price
from compat._rest_resellers import manager_of, path_number, refusals
from compat._rest_shared import require_turn
from gateway import manage
from gateway.deposits import REFERENCE_LENGTH_MAX, BadReference, WrongCurrency
from gateway.front import Front
from gateway.money import plain

Note = Annotated[StrictStr, Field(max_length=NOTE_LENGTH_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")]


class PaymentsQuery(Model):
    """Which payments."""

    account: Annotated[str, Field(pattern=ACCOUNT_NAME)] | None = Field(
        default=None, description="Only those booked to this account."
    )
    open: bool = Field(default=False, description="Only those that wait for a person.")
    limit: Limit = 50
    cursor: Cursor | None = None


class NewDeposit(Model):
    """Money that came from outside."""

    account: AccountName
    amount: Price = Field(description="Above zero.")
    currency: Annotated[StrictStr, Field(pattern=r"^[A-Z]{3}$")] | None = Field(
        default=None, description="The account's; without it, taken to be."
    )
    reference: Annotated[StrictStr, Field(min_length=1, max_length=REFERENCE_LENGTH_MAX, pattern=LINE)] = Field(
        description="The payment's own number: booked once, however often it is told of.", examples=["inv-2031"]
    )
    note: Note = ""


class Assignment(Model):
    """Whom a payment is for."""

    account: AccountName


class Dismissal(Model):
    """What became of a payment."""

    note: Note = ""


class Payment(Model):
    """A payment with a reference."""

    id: int = Field(examples=[9])
    at: datetime = Field(description="When it was first told of.")
    source: str = Field(description="`operator` for what was booked by hand.", examples=["operator"])
    reference: str
    state: str = Field(description="`booked`, `unbooked`, `reversal` (a refund or dispute) or `dismissed`.")
    account: str | None = Field(description="Whom it is booked to.")
    amount: Amount
    told_account: str = Field(description="Whom its source named, where it could not be booked.")
    reason: str = Field(description="Why it is not booked.")
    note: str


class Payments(Model):
    """One page, oldest first."""

    payments: list[Payment]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Deposits:
    """The operations."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def _change(self, call: Call) -> float:
        """Counts a change; when it is made. Raises TooManyRequests."""
        await self._front.count_change_of(call.caller_or_none, call.session_or_none)
        return self._front.house.clock()

    async def payments(self, call: Call) -> Reply:
        require_turn(call)
        query: PaymentsQuery = call.query
        after = id_of("payment", query.cursor, 0)
        with refusals():
            found = await self._front.house.store.read(
                manage.payments_page, query.account, is_open=query.open, after=after, limit=query.limit + 1
            )
        shown = found[: query.limit]
        next_cursor = cursor("payment", shown[-1]["id"]) if len(found) > len(shown) else None
        return show(Payments(payments=[_payment(row) for row in shown], next_cursor=next_cursor))

    async def deposit(self, call: Call) -> Reply:
        at, given = await self._change(call), call.body
        with refusals("/amount", {BadReference: "/reference", WrongCurrency: "/currency"}):
            row = await self._front.house.store.run(
                manage.pay_in,
                manager_of(call),
                given.account,
                given.amount,
                given.currency,
                given.reference,
                at,
                note=given.note,
            )
        return show(_payment(row), 201)

    async def assign(self, call: Call) -> Reply:
        at = await self._change(call)
        with refusals("/account"):
            row = await self._front.house.store.run(
                manage.assign_payment, manager_of(call), _payment_id(call), call.body.account, at
            )
        return show(_payment(row))

    async def dismiss(self, call: Call) -> Reply:
        at = await self._change(call)
        with refusals():
            row = await self._front.house.store.run(
                manage.dismiss_payment, manager_of(call), _payment_id(call), at, note=call.body.note
            )
        return show(_payment(row))


def _payment_id(call: Call) -> int:
    return path_number(call, "payment_id")


def _payment(row: Mapping[str, Any]) -> Payment:
    return Payment(
        id=row["id"],
        at=moment(row["at"]),
        source=row["source"],
        reference=row["reference"],
        state=row["state"],
        account=row["account"],
        amount=Amount(amount=plain(row["amount"]), currency=row["currency"]),
        told_account=row["told_account"],
        reason=row["reason"],
        note=row["note"],
    )


def operations(front: Front) -> Sequence[Operation]:
    """For the table that routes and document are made from."""
    do = Deposits(front)
    top, one = PREFIX + "/deposits", PREFIX + "/deposits/{payment_id}"
    of_account, of_one = ("too_many_requests", "unknown_account"), ("unknown_payment", "not_allowed_now")
    return (
        Operation("deposit", "POST", (top,), do.deposit, "Book a deposit", Payment, 201, body=NewDeposit,
                  access=Access.OPERATOR, problems=(*of_account, "reference_used"), description=_DEPOSIT),
        Operation("deposits", "GET", (top,), do.payments, "Payments that have a reference", Payments,
                  query=PaymentsQuery, access=Access.OPERATOR, problems=of_account),
        Operation("assign_payment", "POST", (one + "/assign",), do.assign, "Book a payment that could not be booked",
                  Payment, body=Assignment, access=Access.OPERATOR, problems=(*of_account, *of_one),
                  description="In the currency it came in."),
        Operation("dismiss_payment", "POST", (one + "/dismiss",), do.dismiss, "Close a payment without booking it",
                  Payment, body=Dismissal, access=Access.OPERATOR, problems=of_one,
                  description="Also refunds and disputes, once they are seen to."),
    )  # fmt: skip


_DEPOSIT = (
    "Once for a reference: the same account and amount get the same answer, anything else is `reference_used`. They are"
    " those of the command line's deposits, too."
)
