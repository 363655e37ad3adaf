"""What payments and vouchers say, held against the rows of the ledger. Units of work that only read."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.store import Tx

AVAILABLE = ":available"
"""How the name of what an account can spend ends (`ledger.available`). In the text of a statement it would read as a
parameter."""


def verify(tx: Tx) -> Iterable[str]:
    """A sentence for each payment, batch or voucher that is not what the ledger says."""
    yield from _payments(tx)
    yield from _batches(tx)
    yield from _vouchers(tx)


def _payments(tx: Tx) -> Iterable[str]:
    for row in tx.all(
        "select p.id, p.state, p.ledger_id from payments p left join ledger l on l.id = p.ledger_id"
        " where (p.state = 'booked') <> (p.ledger_id is not null) or (p.state = 'booked' and (l.id is null"
        " or l.kind <> 'deposit' or l.credit <> 'account:' || p.account_id || :tail or l.amount <> p.amount"
        " or l.currency <> p.currency))",
        tail=AVAILABLE,
    ):
        yield f"payments: {row['id']} is {row['state']}, which is not what its ledger row says"


def _batches(tx: Tx) -> Iterable[str]:
    for row in tx.all(
        "select b.id, b.amount, b.voucher_count, coalesce(v.total, 0) as total, coalesce(v.still, 0) as still,"
        " coalesce(i.total, 0) as paid_in, coalesce(o.total, 0) as paid_out"
        " from voucher_batches b"
        " left join (select batch_id, count(*) as total, sum(case when state = 'open' then 1 else 0 end) as still"
        "  from vouchers group by batch_id) v on v.batch_id = b.id"
        " left join (select credit, currency, sum(amount) as total from ledger where credit like 'batch:%'"
        "  group by credit, currency) i on i.credit = 'batch:' || b.id and i.currency = b.currency"
        " left join (select debit, currency, sum(amount) as total from ledger where debit like 'batch:%'"
        "  group by debit, currency) o on o.debit = 'batch:' || b.id and o.currency = b.currency"
    ):
        if row["total"] != row["voucher_count"]:
            yield f"voucher_batches: {row['id']} was for {row['voucher_count']} vouchers, there are {row['total']}"
        purse, worth = int(row["paid_in"]) - int(row["paid_out"]), int(row["still"]) * row["amount"]
        if purse != worth:
            yield f"voucher_batches: batch:{row['id']} holds {purse}, its open vouchers are worth {worth}"
    for row in tx.all(
        "select distinct l.credit from ledger l where l.credit like 'batch:%'"
        " and not exists (select 1 from voucher_batches b where l.credit = 'batch:' || b.id)"
    ):
        yield f"ledger: rows name {row['credit']}, which was never issued"


def _vouchers(tx: Tx) -> Iterable[str]:
    for row in tx.all(
        "select v.id from vouchers v join voucher_batches b on b.id = v.batch_id"
        " left join ledger l on l.id = v.ledger_id"
        " where (v.state = 'redeemed') <> (v.ledger_id is not null) or (v.state = 'redeemed' and (l.id is null"
        " or l.kind <> 'voucher' or l.debit <> 'batch:' || b.id or l.amount <> b.amount or l.currency <> b.currency"
        " or l.credit <> 'account:' || v.redeemed_by || :tail))",
        tail=AVAILABLE,
    ):
        yield f"vouchers: {row['id']} is not what its ledger row says"
    for row in tx.all(
        "select l.id from ledger l left join vouchers v on v.ledger_id = l.id where l.kind = 'voucher' and v.id is null"
    ):
        yield f"ledger: row {row['id']} redeems a voucher that nobody did"
