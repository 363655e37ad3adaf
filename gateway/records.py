"""Activations as the database has them, made into the form a poll reads."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.live import Live, Shown
from gateway.model import Product, Status
from gateway.store import Row, Store, Tx
from gateway.vault import Vault

_COLUMNS = (
    "id, account_id, service, country, operator, status, price, currency, opened_at, number_sealed, upstream,"
    " reference, expires_at, ended_at, round, product, hours, parent_id, refundable_until, is_banned"
)


async def load(store: Store, vault: Vault, activation_id: int) -> Live | None:
    """One activation, or None. An order still `opening` has nothing to show and counts as none. Raises Unavailable."""
    row, messages = await store.read(_one, activation_id)
    return _live(vault, row, messages) if row is not None and row["status"] != Status.OPENING else None


async def load_many(store: Store, vault: Vault, ids: Sequence[int]) -> list[Live]:
    """Those of the activations that have a number. Raises Unavailable."""
    rows, messages = await store.read(_many, ids)
    return _lives(vault, rows, messages)


async def load_open(store: Store, vault: Vault) -> list[Live]:
    """Every activation that is open and has a number. Raises Unavailable."""
    rows, messages = await store.read(_all_open)
    return _lives(vault, rows, messages)


def _lives(vault: Vault, rows: Sequence[Row], messages: Sequence[Row]) -> list[Live]:
    by_activation: dict[int, list[Row]] = {}
    for message in messages:
        by_activation.setdefault(message["activation_id"], []).append(message)
    return [_live(vault, row, by_activation.get(row["id"], ())) for row in rows]


def _one(tx: Tx, activation_id: int) -> tuple[Row | None, Sequence[Row]]:
    row = tx.one(f"select {_COLUMNS} from activations where id = :id", id=activation_id)  # noqa: S608 — constant columns
    return row, tx.all(
        "select activation_id, identity, round, code_sealed, text_sealed, sender_sealed, received_at from messages"
        " where activation_id = :id and is_shown = 1 order by id",
        id=activation_id,
    )


def _all_open(tx: Tx) -> tuple[Sequence[Row], Sequence[Row]]:
    rows = tx.all(
        f"select {_COLUMNS} from activations where ended_at is null and status <> 'opening' order by id"  # noqa: S608 — constant columns
    )
    return rows, tx.all(
        "select m.activation_id, m.identity, m.round, m.code_sealed, m.text_sealed, m.sender_sealed, m.received_at"
        " from messages m"
        " join activations a on a.id = m.activation_id and a.ended_at is null where m.is_shown = 1 order by m.id"
    )


def _many(tx: Tx, ids: Sequence[int]) -> tuple[Sequence[Row], Sequence[Row]]:
    listed = ", ".join(str(int(one)) for one in ids)
    rows = tx.all(f"select {_COLUMNS} from activations where id in ({listed}) and status <> 'opening' order by id")  # noqa: S608 — whole numbers
    return rows, tx.all(
        "select activation_id, identity, round, code_sealed, text_sealed, sender_sealed, received_at from messages"  # noqa: S608 — whole numbers
        f" where activation_id in ({listed}) and is_shown = 1 order by id"
    )


def _live(vault: Vault, row: Row, messages: Sequence[Row]) -> Live:
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
        upstream=row["upstream"] or "",
        reference=row["reference"] or "",
        expires_at=row["expires_at"] or 0.0,
        ended_at=row["ended_at"],
        round=row["round"],
        messages=tuple(_shown(vault, message) for message in messages),
        identities={message["identity"] for message in messages},
        product=Product(row["product"]),
        hours=row["hours"] or 0,
        parent_id=row["parent_id"],
        refundable_until=row["refundable_until"],
        is_banned=bool(row["is_banned"]),
    )


def _shown(vault: Vault, message: Row) -> Shown:
    code, text = vault.open(message["code_sealed"]), vault.open(message["text_sealed"])
    sender = vault.open(message["sender_sealed"]) if message["sender_sealed"] else ""
    return Shown(code, text, message["received_at"], message["round"], sender)
