"""An account's activations as a list, past ones too, and those behind a caller's own reference: units of work.

Rentals have a list of their own, their extensions none; a reference is used once, whatever it was for.

Numbers and messages are opened within the unit, so on its thread: a page of a hundred would hold up the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.live import Live, Shown
from gateway.model import Product, Status
from gateway.store import Row, Tx
from gateway.vault import Vault

ID_MAX = 2**63 - 1

MESSAGES_MAX = 20
"""How many messages of one activation a list has: a rental may have thousands, and its own page shows them all."""

KINDS = ("product not in ('rental', 'extension')", "product = 'rental'")
"""Which rows are activations, and which are rentals."""


def page(
    tx: Tx,
    vault: Vault,
    account_id: int,
    *,
    before: int = ID_MAX,
    limit: int = 50,
    only_ended: bool = False,
    of_rentals: bool = False,
) -> list[Live]:
    """The account's activations, or its rentals, with ids below `before`, newest first.

    Orders still `opening` have nothing to show. Each comes with its newest messages, `MESSAGES_MAX` at most.
    """
    rows = tx.all(
        "select id, account_id, service, country, operator, status, price, currency, opened_at, number_sealed,"  # noqa: S608 — constant text
        " expires_at, ended_at, product, hours from activations"
        f" where account_id = :account and id < :before and status <> 'opening' and {KINDS[of_rentals]}"
        " and (:all = 1 or ended_at is not null) order by id desc limit :limit",
        account=account_id,
        before=before,
        all=int(not only_ended),
        limit=limit,
    )
    messages = _messages(tx, vault, [row["id"] for row in rows]) if rows else {}
    return [_entry(vault, row, messages.get(row["id"], ())) for row in rows]


def referred(tx: Tx, account_id: int, reference: str) -> Row | None:
    """The id, status and fingerprint of the account's order with that reference, or None."""
    return tx.one(
        "select id, status, fingerprint from activations where account_id = :account and order_reference = :reference",
        account=account_id,
        reference=reference,
    )


def _messages(tx: Tx, vault: Vault, ids: Sequence[int]) -> dict[int, list[Shown]]:
    """The newest messages shown for each of these activations, oldest first."""
    places = {f"id_{place}": activation_id for place, activation_id in enumerate(ids)}
    found: dict[int, list[Shown]] = {}
    for row in tx.all(
        "select activation_id, round, code_sealed, text_sealed, sender_sealed, received_at from"  # noqa: S608 — names of parameters
        " (select m.*, row_number() over (partition by activation_id order by id desc) as place from messages m"
        f" where is_shown = 1 and activation_id in ({', '.join(f':{name}' for name in places)})) newest"
        " where place <= :most order by id",
        most=MESSAGES_MAX,
        **places,
    ):
        code, text = vault.open(row["code_sealed"]), vault.open(row["text_sealed"])
        sender = vault.open(row["sender_sealed"]) if row["sender_sealed"] else ""
        shown = Shown(code, text, row["received_at"], row["round"], sender)
        found.setdefault(row["activation_id"], []).append(shown)
    return found


def _entry(vault: Vault, row: Row, messages: Sequence[Shown]) -> Live:
    """As far as an owner sees it; not for the live map."""
    return Live(
        id=row["id"],
        account_id=row["account_id"],
        service=row["service"],
        country=row["country"],
        operator=row["operator"],
        status=Status(row["status"]),
        price_micros=row["price"],
        currency=row["currency"],
        opened_at=row["opened_at"],
        number=vault.open(row["number_sealed"]) if row["number_sealed"] else "",
        expires_at=row["expires_at"] or 0.0,
        ended_at=row["ended_at"],
        messages=tuple(messages),
        product=Product(row["product"]),
        hours=row["hours"] or 0,
    )
