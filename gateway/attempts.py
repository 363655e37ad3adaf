"""Orders and their attempts, as rows: every step of a purchase that has to be durable, each one unit of work.

attempt:  pending ─► leased                              the activation's own
             ├─────► refused                             nothing was taken
             └─────► in_doubt ─► orphan ─► cancelled     found upstream, given back
                          └────► gone                    nothing was there, or its time is over; a rental whose
                                                         time is over unseen is booked as lost
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway import drift, fuse, handed, ledger, moves, tree
from gateway.accounts import Caller
from gateway.caps import TAKES_NO_PLACE
from gateway.errors import NoBalance, NotAllowedNow, OrderExists, Unavailable
from gateway.model import BuyOrder, Found, Lease, Order, Product, Quote
from gateway.money import Money
from gateway.routing import Ranked
from gateway.settings import FuseSettings
from gateway.store import Conflict, Row, Tx

CLOCK_SKEW_SECONDS = 5.0
"""How far an upstream's clock may be behind ours when its list is searched for a lost purchase."""

SURELY_LATE_SECONDS = 120.0
"""A purchase that an upstream's own list does not show after this long never happened."""

NEVER_LISTED_SECONDS = 1500.0
"""Where an upstream has no list, a lost purchase is over when its own life (twenty minutes and some) is."""

RENTAL_IN_DOUBT_SECONDS = 86_400.0
"""How long a lost rental is looked for, where it does not end sooner: it is dear, and lasts."""

ANYBODY = ""
"""In place of a process's name: whichever it is."""


@dataclass(slots=True)
class Intent:
    activation_id: int
    attempt_id: int
    held: Money
    quotes: Sequence[Ranked]
    opened_at: float
    shares: tuple[int, ...] = ()
    """What is held of each level (`Quote.shares`)."""
    pace: fuse.Pace = field(default_factory=fuse.Pace)
    """How long this order has to have waited, and the key's next one will, by its fuse."""


def intend(
    tx: Tx,
    caller: Caller,
    order: Order,
    quotes: Sequence[Ranked],
    at: float,
    open_max: int | None,
    version: str,
    limits: FuseSettings,
    me: str = "",
) -> Intent:
    """The activation, its first attempt and its hold, committed before anybody is asked.

    `me` is the process that the order's client waits at. Where balance or spend caps do not reach for the dearest
    quote, the order is for those they reach for. Raises as `ledger.hold`, and Blown.
    """
    ceiling = max(ranked.quote.price.micros for ranked in quotes)
    try:
        activation_id = tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " opened_at, fingerprint, order_reference, config_version, product, hours, parent_id, served_by)"
            " values (:account, :key, :service, :country, :operator, 'opening', :price, :currency,"
            " :at, :fingerprint, :reference, :version, :product, :hours, :parent, :me) returning id",
            account=caller.account_id, key=caller.key_id, service=order.service, country=order.country,
            operator=order.operator, price=ceiling, currency=caller.currency, at=at, fingerprint=order.fingerprint,
            reference=order.reference or None, version=version, product=order.product.value,
            hours=quotes[0].quote.offer.hours or None, parent=order.parent_id, me=me,
        )  # fmt: skip
    except Conflict:
        raise OrderExists from None
    held = _hold_dearest(tx, caller, activation_id, quotes, at, open_max)
    quotes = [ranked for ranked in quotes if ranked.quote.top_micros <= held.top_micros]
    if held.price.micros != ceiling:
        tx.execute("update activations set price = :price where id = :id", price=held.price.micros, id=activation_id)
    # More time for a number that one has brings in no further one.
    pace = fuse.Pace() if order.product is Product.EXTENSION else fuse.take(tx, caller.key_id, limits, at)
    first = quotes[0].quote
    attempt_id = begin(tx, activation_id, first, first.offer.cost, at, order.product)
    return Intent(activation_id, attempt_id, held.price, quotes, at, held.shares, pace)


def _hold_dearest(
    tx: Tx, caller: Caller, activation_id: int, quotes: Sequence[Ranked], at: float, open_max: int | None
) -> Quote:
    """Holds the highest of the prices that balance and spend caps reach for, at every level. Raises as `hold`."""
    by_price = {ranked.quote.top_micros: ranked.quote for ranked in quotes}
    left = [by_price[micros] for micros in sorted(by_price, reverse=True)]
    while True:
        try:
            _hold(tx, caller, activation_id, left[0], at, open_max)
        except NoBalance:
            available = ledger.balance(tx, caller.account_id).available.micros
            left = [quote for quote in left[1:] if quote.price.micros <= available]
            if not left:
                raise
        else:
            return left[0]


def _hold(tx: Tx, caller: Caller, activation_id: int, quote: Quote, at: float, open_max: int | None) -> None:
    actor = f"key:{caller.key_id}"
    ledger.hold(
        tx, caller.account_id, activation_id, quote.price, at, open_max=open_max, actor=actor, shares=quote.shares
    )


def intend_extension(
    tx: Tx,
    caller: Caller,
    order: Order,
    quotes: Sequence[Ranked],
    at: float,
    _open_max: int,
    version: str,
    limits: FuseSettings,
    me: str = "",
) -> Intent:
    """As `intend`, for more time of an open rental; its row keeps the end that the rental had before.

    It takes no place among the open ones. One at a time: raises Unavailable while another one is under way or in doubt,
    NotAllowedNow where it is over.
    """
    # An update that changes nothing takes the rental's lock: of two extensions at once the second sees the first.
    rental = tx.one(
        "update activations set round = round where id = :id and account_id = :account and product = 'rental'"
        " and status in ('waiting', 'received') returning id, expires_at, cancelling_until",
        id=order.parent_id,
        account=caller.account_id,
    )
    if rental is None:
        raise NotAllowedNow
    if is_prolonging(tx, rental["id"]) or (rental["cancelling_until"] or 0.0) > at:
        raise Unavailable
    intent = intend(tx, caller, order, quotes, at, None, version, limits, me)
    tx.execute(
        "update activations set expires_at = :had where id = :id", had=rental["expires_at"], id=intent.activation_id
    )
    return intent


def begin(tx: Tx, activation_id: int, quote: Quote, cost_max: Money, at: float, product: Product = Product.SMS) -> int:
    return tx.insert(
        "insert into attempts (activation_id, upstream, service, country, cost_max, currency, state, started_at,"
        " product)"
        " values (:activation, :upstream, :service, :country, :cost, :currency, 'pending', :at, :product) returning id",
        activation=activation_id, upstream=quote.offer.upstream, service=quote.offer.service,
        country=quote.offer.country, cost=cost_max.micros, currency=cost_max.currency, at=at, product=product.value,
    )  # fmt: skip


def end(tx: Tx, attempt_id: int, state: str, reason: str, at: float, reference: str | None = None) -> None:
    tx.execute(
        "update attempts set state = :state, reason = :reason, ended_at = :at,"
        " reference = coalesce(:reference, reference) where id = :id",
        state=state,
        reason=reason[:200],
        at=at,
        reference=reference,
        id=attempt_id,
    )


def attach(
    tx: Tx,
    intent: Intent,
    upstream: str,
    lease: Lease,
    sealed: str,
    *,
    operator: str,
    price: Money,
    shares: tuple[int, ...] = (),
    cost: Money,
    expires_at: float,
    at: float,
    hours: int = 0,
    refundable_until: float | None = None,
    webhook_sealed: str | None = None,
    number_digest: str = "",
    known_since: float = float("inf"),
    claim_until: float | None = None,
) -> None:
    """Opening to waiting, the hold down to the price. Raises Conflict on a lease we have or an order given up.

    `shares` is what each level pays of the price. `hours`, `refundable_until` and `webhook_sealed` are a rental's: how
    long it lasts, until when it can be given back, where its messages are told. With a digest, its number is
    remembered; raises Repeated where the account was handed it for the service later than `known_since`. Where the
    order is put up for whoever repeats its request, it is so until `claim_until` from now on.
    """
    if price.micros < intent.held.micros or shares != intent.shares:
        ledger.shrink(tx, intent.activation_id, price, at, actor="purchase", shares=shares)
    # Raises Conflict where there is no such row: the order was given up meanwhile.
    tx.insert(
        "update activations set status = 'waiting', upstream = :upstream, reference = :reference,"
        " number_sealed = :sealed, price = :price, cost = :cost, cost_currency = :currency, expires_at = :expires_at,"
        " operator = :operator, hours = :hours, refundable_until = :refundable, webhook_url_sealed = :webhook,"
        " claim_until = case when claim_until is null then claim_until else :claim_until end"
        " where id = :id and status = 'opening' returning id",
        upstream=upstream, reference=lease.reference, sealed=sealed, price=price.micros, cost=cost.micros,
        currency=cost.currency, expires_at=expires_at, operator=operator, hours=hours or None,
        refundable=refundable_until, webhook=webhook_sealed, claim_until=claim_until, id=intent.activation_id,
    )  # fmt: skip
    if number_digest:
        # After the lease: one that we have is not to be given back, whatever its number.
        handed.remember(tx, intent.activation_id, number_digest, at, known_since)
    end(tx, intent.attempt_id, "leased", "", at, lease.reference)


def is_prolonging(tx: Tx, rental_id: int) -> bool:
    """Whether an extension of the rental is under way or in doubt. In a unit that changes, only under its lock."""
    busy = tx.one(
        "select 1 as x from activations a join attempts t on t.activation_id = a.id"
        " where a.parent_id = :id and a.product = 'extension' and t.state in ('pending', 'in_doubt')",
        id=rental_id,
    )
    return busy is not None


def begin_cancel(tx: Tx, rental_id: int, until: float) -> bool:
    """Says that a rental is being given back, to be heard by every process until then.

    False while an extension of it is under way or in doubt: then nothing is said.
    """
    if lock_open_rental(tx, rental_id) is not None and is_prolonging(tx, rental_id):
        return False
    tx.execute("update activations set cancelling_until = :until where id = :id", until=until, id=rental_id)
    return True


def end_cancel(tx: Tx, rental_id: int) -> None:
    tx.execute("update activations set cancelling_until = null where id = :id", id=rental_id)


def lock_open_rental(tx: Tx, rental_id: int) -> int | None:
    """Takes the lock of a rental that is not over; whose it is. An update that changes nothing does it."""
    row = tx.one(
        "update activations set round = round where id = :id and product = 'rental' and ended_at is null"
        " returning account_id",
        id=rental_id,
    )
    return None if row is None else int(row["account_id"])


def prolong(
    tx: Tx, intent: Intent, rental_id: int, quote: Quote, ends_at: float, at: float, actor: str = "extension"
) -> bool:
    """The extension is paid for and over, and its rental ends later. Raises Conflict on an order given up.

    Whoever prolongs a rental keeps it: its own money is captured with the extension's. False where the rental is over:
    then nobody pays for the extension, and its cost is the operator's loss.
    """
    # Both activations before anybody's money, as everywhere: two that take them in turn would wait for each other.
    account_id = lock_open_rental(tx, rental_id)
    if account_id is None:
        fail_order(tx, intent.activation_id, at, NotAllowedNow.code)
        _lose_extension(tx, intent.attempt_id, quote.offer.cost, quote.offer.upstream, "made, its rental is over", at)
        return False
    upstream, cost = quote.offer.upstream, quote.offer.cost
    tx.insert(
        "update activations set status = 'finished', upstream = :upstream, price = :price, cost = :cost,"
        " cost_currency = :currency, hours = :hours, ended_at = :at where id = :id and status = 'opening' returning id",
        upstream=upstream, price=quote.price.micros, cost=cost.micros, currency=cost.currency,
        hours=quote.offer.hours, at=at, id=intent.activation_id,
    )  # fmt: skip
    # Root to leaf, before two captures pay them.
    tree.lock(tx, tree.line(tx, account_id))
    move_end(tx, rental_id, ends_at)
    keep(tx, rental_id, at, actor=actor)
    ledger.shrink(tx, intent.activation_id, quote.price, at, actor=actor, shares=quote.shares)
    ledger.capture(tx, intent.activation_id, cost, upstream, at, actor=actor)
    end(tx, intent.attempt_id, "leased", "", at)
    return True


def _lose_extension(tx: Tx, attempt_id: int, cost: Money, upstream: str, reason: str, at: float) -> bool:
    """Ends an extension that was made and that nobody pays for; whether this call did, and booked its cost."""
    ended = tx.execute(
        "update attempts set state = 'gone', reason = :reason, ended_at = :at"
        " where id = :id and state in ('pending', 'in_doubt')",
        reason=reason,
        at=at,
        id=attempt_id,
    )
    if ended:
        note = f"attempt {attempt_id}"
        ledger.spend(tx, "loss", cost, upstream, at, activation=None, actor="settle", note=note)
    return bool(ended)


def move_end(tx: Tx, rental_id: int, ends_at: float) -> bool:
    """A rental ends later than was known; it never comes to end sooner. Whether this call moved it."""
    return bool(
        tx.execute(
            "update activations set expires_at = :ends where id = :id and product = 'rental' and ended_at is null"
            " and expires_at < :ends",
            ends=ends_at,
            id=rental_id,
        )
    )


def keep(tx: Tx, rental_id: int, at: float, *, actor: str) -> bool:
    """Captures a rental that waits for its first message: it can't be given back any more. Whether this call did.

    What only time keeps (`actor` is "time") is not kept while it is being given back: that was asked for in time.
    """
    row = tx.one(
        "update activations set refundable_until = 0 where id = :id and product = 'rental' and status = 'waiting'"
        " and refundable_until <> 0 and (:spares = 0 or cancelling_until is null or cancelling_until <= :at)"
        " returning upstream, cost, cost_currency",
        spares=int(actor == "time"),
        at=at,
        id=rental_id,
    )
    if row is None:
        return False
    is_kept = ledger.capture(tx, rental_id, Money(row["cost"], row["cost_currency"]), row["upstream"], at, actor=actor)
    fuse.missed(tx, rental_id, at)
    return is_kept


def end_unattached(
    tx: Tx, attempt_id: int, upstream: str, reference: str, at: float, reason: str = "the order was given up meanwhile"
) -> bool:
    """Ends an attempt whose lease could not be attached; whether that lease is ours, to be given back."""
    if moves.activation_of(tx, upstream, reference) is not None:
        end(tx, attempt_id, "refused", "handed out a lease we have", at)
        return False
    end(tx, attempt_id, "orphan", reason, at, reference)
    return True


def fail_order(tx: Tx, activation_id: int, at: float, failure: str | None = None) -> bool:
    """Ends an order that got no number; whether this call did it. `failure` is what its client is told."""
    row = tx.one(
        "update activations set status = 'failed', ended_at = :at, failure = :failure"
        " where id = :id and status = 'opening' returning account_id, product",
        at=at,
        failure=failure,
        id=activation_id,
    )
    if row is None:
        return False
    ledger.release(tx, activation_id, at, actor="purchase")
    if row["product"] != TAKES_NO_PLACE:
        ledger.leave(tx, row["account_id"], activation_id)
    return True


def give_up_order(tx: Tx, activation_id: int, at: float) -> bool:
    if not fail_order(tx, activation_id, at):
        return False
    tx.execute(
        "update attempts set state = case when reference is null then 'in_doubt' else 'orphan' end,"
        " reason = 'left behind', ended_at = :at where activation_id = :id and state = 'pending'",
        at=at,
        id=activation_id,
    )
    return True


def orphan_unless_leased(tx: Tx, activation_id: int, attempt_id: int, reference: str, at: float) -> str:
    """Marks the lease as nobody's, unless its activation was written after all: then the fingerprint of that.

    One that is another activation's stays that one's.
    """
    row = tx.one("select fingerprint from activations where id = :id and status = 'waiting'", id=activation_id)
    if row is not None:
        return str(row["fingerprint"])
    attempt = tx.one(
        "select upstream from attempts where id = :id"
        " and (state in ('pending', 'in_doubt') or reference is null or reference <> :reference)",
        id=attempt_id,
        reference=reference,
    )
    if attempt is not None:  # else it was written after all, and is perhaps given back
        end_unattached(tx, attempt_id, attempt["upstream"], reference, at, "could not be written down")
    fail_order(tx, activation_id, at)
    return ""


def doubt_forgotten(tx: Tx, before: float, at: float) -> int:
    """Puts in doubt what was asked before then and never ended, though its order has: how many there were."""
    return tx.execute(
        "update attempts set state = 'in_doubt', reason = 'never ended', ended_at = :at"
        " where state = 'pending' and reference is null and started_at <= :before"
        " and activation_id in (select id from activations where ended_at is not null and ended_at <= :before)",
        before=before,
        at=at,
    )


def settle_doubt(tx: Tx, row: Row, found: Sequence[Found] | None, at: float, *, is_ours_alone: bool) -> str:
    """Ends an attempt in doubt to get a number, if by now it can be told what came of it: its state, or nothing.

    While another order of ours is being bought in the same place, what the list shows may be that one's. A rental that
    is listed without its goods may be any rental of ours, and is taken for this one only where it can be no other's.
    A rental whose time is over unsettled may have been paid for: that is booked (`lost`).
    """
    place = {**_place(row), "upstream": row["upstream"]}
    # An update that changes nothing takes its lock: two that settle at once must not both book what it cost.
    still = tx.one("update attempts set state = state where id = :id and state = 'in_doubt' returning id", id=row["id"])
    busy = tx.one(
        f"select 1 as x from attempts where upstream = :upstream and {_SAME_PLACE} and state = 'pending'",  # noqa: S608 — constant text
        **place,
    )
    if still is None or busy is not None:
        return ""
    candidates = unknown_among(tx, row["upstream"], _fitting(found or (), row))
    unnamed = unknown_among(tx, row["upstream"], _unnamed(found or (), row))
    if len(candidates) == 1 or (candidates and is_ours_alone):
        end(tx, row["id"], "orphan", "found in the upstream's list", at, candidates[0].lease.reference)
        return "orphan"
    if len(unnamed) == 1 and not candidates and is_ours_alone and not _is_renting(tx, row["upstream"]):
        end(tx, row["id"], "orphan", "the only stranger in the upstream's list", at, unnamed[0].lease.reference)
        return "orphan"
    age = at - row["started_at"]
    if found is not None and not candidates and not unnamed and age > SURELY_LATE_SECONDS:
        end(tx, row["id"], "gone", "never seen upstream", at)
        return "gone"
    if age <= doubt_seconds(row):
        return ""
    cost, note = Money(row["cost_max"], row["currency"]), f"attempt {row['id']}"
    # Without a list, only the balance there can tell; by now a number that was taken has ended by itself.
    told = "" if found is not None else f"; {drift.said_of(tx, row['upstream'], row['started_at'], cost, at)}"
    end(tx, row["id"], "gone", f"never seen upstream{told}", at)
    if row["product"] != Product.RENTAL:
        return "gone"
    ledger.spend(tx, "loss", cost, row["upstream"], at, activation=None, actor="settle", note=note)
    return "lost"


def doubt_seconds(row: Row) -> float:
    """How long after it was asked for a lost lease may still turn up, or be given back."""
    if row["product"] != Product.RENTAL:
        return NEVER_LISTED_SECONDS
    return min(RENTAL_IN_DOUBT_SECONDS, (row["hours"] or 24) * 3600.0)


def _is_renting(tx: Tx, upstream: str) -> bool:
    """Whether a rental is being bought there, whatever of."""
    pending = "select 1 as x from attempts where upstream = :upstream and product = 'rental' and state = 'pending'"
    return tx.one(pending, upstream=upstream) is not None


def settle_extension(tx: Tx, row: Row, ends_at: float | None, at: float) -> bool:
    """Ends an extension in doubt, if the end its rental has by now tells what came of it; whether this call did.

    Where it was made after all the caller, whose money was given back, keeps the time, and the cost is our loss.
    """
    if ends_at is not None and has_moved(row["had_until"], ends_at, row["hours"]):
        move_end(tx, row["parent_id"], ends_at)
        cost, reason = Money(row["cost_max"], row["currency"]), "made, and the caller was not charged"
        return _lose_extension(tx, row["id"], cost, row["upstream"], reason, at)
    if at - row["started_at"] <= (SURELY_LATE_SECONDS if ends_at is not None else NEVER_LISTED_SECONDS):
        return False
    ended = tx.execute(
        "update attempts set state = 'gone', reason = 'never made upstream', ended_at = :at"
        " where id = :id and state = 'in_doubt'",
        at=at,
        id=row["id"],
    )
    return bool(ended)


def note_made_before(tx: Tx, attempt_id: int, made_before: int) -> None:
    """What an upstream told of a rental's extensions, before it is asked for a further one."""
    tx.execute("update attempts set made_before = :made where id = :id", made=made_before, id=attempt_id)


def has_moved(had_until: float, ends_at: float, hours: int) -> bool:
    """Whether an end moved by about so many hours: upstreams tell it to the minute or so."""
    return ends_at - had_until >= hours * 1800.0


def lose(tx: Tx, attempt_id: int, cost: Money, upstream: str, at: float) -> bool:
    """Books a lease that nobody has and that can't be given back; whether this call did.

    It is no activation's: its order may have another.
    """
    if not tx.execute("update attempts set state = 'gone' where id = :id and state = 'orphan'", id=attempt_id):
        return False
    end(tx, attempt_id, "gone", "could not be given back", at)
    ledger.spend(tx, "loss", cost, upstream, at, activation=None, actor="settle", note=f"attempt {attempt_id}")
    return True


def mark_answered(tx: Tx, ids: Sequence[int]) -> None:
    for activation_id in ids:
        tx.execute("update activations set answered = 1, claim_until = null where id = :id", id=activation_id)


def put_up(tx: Tx, until: Mapping[int, float], handed_over: Collection[int], me: str) -> None:
    """Nobody was told of these: whoever repeats the request may have them until then, from any process.

    What somebody has claimed is put up again only by who had it, which `handed_over` names. Only what is `me`'s is put
    up, for another process may have taken it meanwhile; with `ANYBODY`, whoever's it is.
    """
    for activation_id in sorted(until):
        tx.execute(
            "update activations set answered = 0, claim_until = :until where id = :id"
            " and (status = 'waiting' or product = 'extension') and (answered <> 1 or :was_ours = 1)"
            " and (:me = '' or served_by in ('', :me))",
            until=until[activation_id],
            me=me,
            was_ours=int(activation_id in handed_over),
            id=activation_id,
        )


def claim(tx: Tx, activation_id: int, me: str) -> bool:
    """Takes what was put up, to hand it over at `me`: whether this call did, and no other one."""
    return bool(
        tx.execute(
            "update activations set answered = 1, claim_until = null, served_by = :me where id = :id and answered = 0"
            " and claim_until is not null and (ended_at is null or product = 'extension')",
            me=me,
            id=activation_id,
        )
    )


def claim_to_give_back(tx: Tx, activation_id: int, at: float, until: float, me: str) -> bool:
    """Takes what nobody has claimed in time to `me`; should it not be given back by `until`, it is put up again."""
    return bool(
        tx.execute(
            "update activations set answered = 2, claim_until = :until, served_by = :me where id = :id"
            " and answered = 0 and claim_until <= :at and ended_at is null",
            until=until,
            me=me,
            at=at,
            id=activation_id,
        )
    )


def _known(tx: Tx, upstream: str, reference: str) -> bool:
    return (
        moves.activation_of(tx, upstream, reference) is not None
        or tx.one("select 1 as x from attempts where upstream = :u and reference = :r", u=upstream, r=reference)
        is not None
    )


def unknown_among(tx: Tx, upstream: str, found: Sequence[Found]) -> list[Found]:
    return [one for one in found if not _known(tx, upstream, one.lease.reference)]


def sole_unknown(
    tx: Tx,
    upstream: str,
    attempt_id: int,
    found: Sequence[Found],
    wanted: BuyOrder,
    asked_at: float,
    *,
    is_rental: bool = False,
) -> Found | None:
    """The one open order upstream that can only be this attempt's, claimed for it; else None."""
    product = Product.RENTAL if is_rental else Product.SMS
    row = {"service": wanted.service, "country": wanted.country, "started_at": asked_at, "product": product.value}
    others = tx.one(
        f"select count(*) as n from attempts where upstream = :upstream and {_SAME_PLACE}"  # noqa: S608 — constant text
        " and state in ('pending', 'in_doubt') and id <> :id",
        upstream=upstream,
        id=attempt_id,
        **_place(row),
    )
    candidates = unknown_among(tx, upstream, _fitting(found, row))
    if len(candidates) != 1 or (others and others["n"]):
        return None
    tx.execute(
        "update attempts set state = 'pending', reference = :r where id = :id",
        r=candidates[0].lease.reference,
        id=attempt_id,
    )
    return candidates[0]


def unsettled(tx: Tx) -> Sequence[Row]:
    """Attempts in doubt. For those to prolong a rental: which one, by how many hours, and when it ended before."""
    return tx.all(
        "select t.id, t.activation_id, t.upstream, t.service, t.country, t.cost_max, t.currency, t.state,"
        " t.started_at, t.product, t.made_before, a.parent_id, a.hours, a.expires_at as had_until, a.status,"
        " a.opened_at"
        " from attempts t join activations a on a.id = t.activation_id where t.state = 'in_doubt' order by t.id"
    )


_SAME_PLACE = (
    "service = :service and country = :country and product <> 'extension'"
    " and (case when product = 'rental' then 1 else 0 end) = :rental"
)
"""Attempts that may have got the same number; an extension gets none."""


def _place(row: Row) -> dict[str, Any]:
    is_rental = row["product"] == Product.RENTAL
    return {"service": row["service"], "country": row["country"], "rental": int(is_rental)}


def orphaned_at(tx: Tx) -> list[str]:
    """The upstreams at which there are orphans."""
    # The set is that of an index: in other words SQLite does not find it.
    rows = tx.all("select distinct upstream from attempts where state in ('in_doubt', 'orphan') and state = 'orphan'")
    return [row["upstream"] for row in rows]


def orphans(tx: Tx, upstream: str, after: int, most: int) -> Sequence[Row]:
    """The oldest of an upstream's orphans, so many of those that came after that attempt."""
    return tx.all(
        "select t.id, t.activation_id, t.upstream, t.reference, t.cost_max, t.currency, t.started_at, t.product,"
        " a.hours from attempts t join activations a on a.id = t.activation_id"
        " where t.state in ('in_doubt', 'orphan') and t.state = 'orphan' and t.upstream = :upstream"
        " and t.id > :after order by t.id limit :most",
        upstream=upstream,
        after=after,
        most=most,
    )


def left_behind(tx: Tx, before: float) -> Sequence[Row]:
    return tx.all(
        "select id from activations where status = 'opening' and ended_at is null and opened_at <= :before",
        before=before,
    )


def unanswered(tx: Tx, before: float, unclaimed_since: float) -> Sequence[Row]:
    """Open ones ordered before then that nobody was told of, as far as is written down.

    Neither are they up for claim, unless that has been over since `unclaimed_since` and nobody has given them back.
    """
    return tx.all(
        "select id, fingerprint from activations where ended_at is null and status = 'waiting' and answered <> 1"
        " and (claim_until is null or claim_until <= :since) and opened_at <= :before",
        before=before,
        since=unclaimed_since,
    )


def exposures(tx: Tx) -> Sequence[Row]:
    return tx.all(
        "select upstream, currency, count(*) as attempts, sum(cost_max) as amount from attempts"
        " where state in ('in_doubt', 'orphan') group by upstream, currency"
    )


def _fitting(found: Iterable[Found], row: Row) -> list[Found]:
    """Those that can be the attempt's: same kind, service and country, made after it was asked for."""
    return [
        one
        for one in found
        if one.service == row["service"]
        and one.is_rental is (row["product"] == Product.RENTAL)
        and one.country == row["country"]
        and (one.created_at is None or one.created_at >= row["started_at"] - CLOCK_SKEW_SECONDS)
    ]


def _unnamed(found: Iterable[Found], row: Row) -> list[Found]:
    """Rentals in a list that names neither service nor country, where the attempt is for a rental."""
    is_rental = row["product"] == Product.RENTAL
    return [one for one in found if is_rental and one.is_rental and not one.service and one.country == -1]
