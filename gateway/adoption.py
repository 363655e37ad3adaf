"""A number that an upstream handed over: made the caller's, or turned down and given back.

What is turned down is written down first, as nobody's (`orphan`), so that it is given back whatever happens next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn, TypeVar

from gateway import attempts, handed, ladders, refunds
from gateway.accounts import Caller
from gateway.attempts import Intent
from gateway.errors import InDoubt, NothingTaken
from gateway.house import House
from gateway.live import Live
from gateway.model import Lease, Order, Product, Quote, Status
from gateway.money import Money
from gateway.settling import Settling
from gateway.store import Conflict
from gateway.upstream import KeptByUs

DAY_SECONDS = 86_400.0

T = TypeVar("T", int, float)


class AttemptEnded(NothingTaken):
    """Nothing came of the attempt, and its row says so already."""


class Adoption:
    """Makes leases activations. One per process."""

    def __init__(self, house: House, settling: Settling) -> None:
        self._house = house
        self._settling = settling

    async def adopt(
        self, caller: Caller, order: Order, intent: Intent, quote: Quote, lease: Lease, cost_max: Money
    ) -> Live:
        """Makes the lease the caller's. One that costs more than allowed is given back.

        Raises NothingTaken, and whatever kept it from being written: then `settle` writes it down as soon as it can.
        """
        try:
            return await self._adopt(caller, order, intent, quote, lease, cost_max)
        except AttemptEnded:
            raise
        except Exception:
            self._settling.note_unwritten(intent, lease.reference)
            raise

    async def turn_back(self, intent: Intent, upstream: str, error: InDoubt) -> NoReturn:
        """Gives back a lease that was had in place of what was asked for. Raises as `adopt`."""
        house = self._house
        try:
            await house.store.run(
                attempts.end_unattached, intent.attempt_id, upstream, error.reference, house.clock(), str(error)
            )
        except Exception:
            self._settling.note_unwritten(intent, error.reference)
            raise
        self._settling.give_back_soon()
        raise AttemptEnded(str(error))

    async def _adopt(
        self, caller: Caller, order: Order, intent: Intent, quote: Quote, lease: Lease, cost_max: Money
    ) -> Live:
        house, now = self._house, self._house.clock()
        cost = lease.cost or quote.offer.cost
        if cost.currency != cost_max.currency or cost.micros > cost_max.micros:
            raise await self._turned_down(
                intent, quote.offer.upstream, lease, "the number handed over costs more than allowed"
            )
        is_chosen = order.product not in (Product.AGAIN, Product.BESIDE)
        if is_chosen and order.phone_exceptions and lease.number.startswith(order.phone_exceptions):
            raise await self._turned_down(
                intent, quote.offer.upstream, lease, "the number handed over begins as the caller wants none to"
            )
        # Numbers kept by us cool down for a service by rules of their own.
        is_pool = isinstance(house.upstreams.get(quote.offer.upstream), KeptByUs)
        charged = self._charged(caller, order, quote, cost)
        expires_at, refundable_until = self._life(order, quote, lease, intent.opened_at, now)
        webhook_sealed = house.vault.seal(order.webhook_url) if order.webhook_url else None
        sealed = house.vault.seal(lease.number)
        operator = lease.operator or quote.offer.operator
        try:
            await house.store.run(
                attempts.attach,
                intent,
                quote.offer.upstream,
                lease,
                sealed,
                operator=operator,
                price=charged.price,
                shares=charged.shares,
                cost=cost,
                expires_at=expires_at,
                at=now,
                hours=quote.offer.hours,
                refundable_until=refundable_until,
                webhook_sealed=webhook_sealed,
                number_digest=self._number_digest(caller, order, lease),
                known_since=now - self._memory_seconds() if is_chosen and not is_pool else float("inf"),
                claim_until=now + house.settings.gateway.activations.claim_seconds,
            )
        except handed.Repeated:
            raise await self._turned_down(
                intent, quote.offer.upstream, lease, "the account was handed this number before"
            ) from None
        except Conflict:
            raise await self._unattached(intent, quote.offer.upstream, lease) from None
        live = Live(
            id=intent.activation_id, account_id=caller.account_id, service=order.service, country=order.country,
            operator=operator, status=Status.WAITING, price_micros=charged.price.micros,
            currency=charged.price.currency, opened_at=intent.opened_at, number=lease.number,
            upstream=quote.offer.upstream, reference=lease.reference, expires_at=expires_at, product=order.product,
            hours=quote.offer.hours, parent_id=order.parent_id, refundable_until=refundable_until,
        )  # fmt: skip
        house.live.put(live)
        house.metrics.count(live.product, live.upstream, "opened")
        return live

    async def _unattached(self, intent: Intent, upstream: str, lease: Lease) -> AttemptEnded:
        """A lease for an order that is over, or one that we have; what to raise. Raises Unavailable."""
        store, now = self._house.store, self._house.clock()
        is_ours = await store.run(attempts.end_unattached, intent.attempt_id, upstream, lease.reference, now)
        return AttemptEnded("the order was given up meanwhile" if is_ours else "handed out a lease we have")

    async def _turned_down(self, intent: Intent, upstream: str, lease: Lease, reason: str) -> AttemptEnded:
        """A number nobody here wants goes back, unless it is one that we have; what to raise. Raises Unavailable."""
        store, now = self._house.store, self._house.clock()
        is_ours = await store.run(attempts.end_unattached, intent.attempt_id, upstream, lease.reference, now, reason)
        if not is_ours:
            return AttemptEnded("handed out a lease we have")
        self._settling.give_back_soon()
        return AttemptEnded(reason)

    def _memory_seconds(self) -> float:
        return self._house.settings.gateway.limits.number_memory_days * DAY_SECONDS

    def _number_digest(self, caller: Caller, order: Order, lease: Lease) -> str:
        """What the number is remembered by; empty where it is not to be."""
        if not self._memory_seconds():
            return ""
        return self._house.vault.index_digest(f"handed:{caller.account_id}", f"{order.service}:{lease.number}")

    def _life(
        self, order: Order, quote: Quote, lease: Lease, opened_at: float, now: float
    ) -> tuple[float, float | None]:
        """When it ends and, of a rental, until when it can be given back."""
        settings = self._house.settings.gateway
        if order.product is Product.RENTAL:
            ends_at = lease.expires_at or opened_at + quote.offer.hours * 3600.0
            # Never nought, which says that it is kept.
            return ends_at, max(1.0, min(now + settings.rentals.refund_seconds, ends_at))
        ends_at = now + least(settings.activations.life_seconds, order.life_seconds)
        ends_at = ends_at if lease.expires_at is None else min(ends_at, lease.expires_at)
        return refunds.life_ends_at(self._house.stanza(quote.offer.upstream), opened_at, ends_at), None

    def _charged(self, caller: Caller, order: Order, quote: Quote, cost: Money) -> Quote:
        """The lower of what was quoted and what the number really cost, priced the same way: so at every level."""
        pricing = self._house.market.view.pricing.of(order.product)
        real = ladders.quote(pricing, replace(quote.offer, cost=cost), caller)
        return quote if real is None or real.top_micros > quote.top_micros else real


def least(setting: T, promised: T | None) -> T:
    """The setting, or what was promised in its place where that is less."""
    return setting if promised is None else min(setting, promised)
