"""What adapters promise that rent out, hand a number out again, or add a service to one; as `test_upstreams.py` does.

A pair takes part with its members `rented`, `reused` and `beside` (`_pair.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    NothingTaken,
    Refused,
    SoldOut,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import BuyOrder, Lease, LeaseState, LostExtension, Outcome, Progress, Watched
from gateway.upstream import AddsServices, AsksAgain, CountsExtensions, Finds, ReadsMany, Rents, Reuses
from tests.contract._pair import PRICE, RENT_PRICE, RENT_STOCK, STOCK, Beside, Pair, Rented, Reused, discovered
from tests.contract._relay import relayed
from tests.contract.test_upstreams import Bench, simulated, talking

PAIRS = discovered()
RENTING = {name: pair for name, pair in PAIRS.items() if pair.rented is not None}
REUSING = {name: pair for name, pair in PAIRS.items() if pair.reused is not None}
ADDING = {name: pair for name, pair in PAIRS.items() if pair.beside is not None}

LOST = ["drop", "error", "bad_gateway", "html", "truncated", "wrong_types", "slow"]
CODE = "Your code is 12345"


class Renting(Bench):
    """A bench whose adapter rents out, hands numbers out again, or adds services."""

    there: Any

    @property
    def rented(self) -> Rented:
        assert self.pair.rented is not None
        return self.pair.rented

    @property
    def reused(self) -> Reused:
        assert self.pair.reused is not None
        return self.pair.reused

    @property
    def beside(self) -> Beside:
        assert self.pair.beside is not None
        return self.pair.beside

    @property
    def rent_service(self) -> str:
        return self.rented.service or self.pair.service

    # rentals

    def order(self, cost_max: str, timeout_seconds: float = 5.0, **changes: Any) -> BuyOrder:
        given = {"service": self.pair.service, "country": self.pair.country, "operator": "", **changes}
        return BuyOrder(cost_max=self.money(cost_max), timeout_seconds=timeout_seconds, **given)

    async def rent(self, cost_max: str = "3.00", timeout_seconds: float = 5.0) -> Lease:
        wanted = self.order(cost_max, timeout_seconds, service=self.rent_service, hours=self.rented.hours)
        lease: Lease = await self.there.rent(wanted)
        return lease

    async def extend(self, lease: Lease, cost_max: str = "9.00", timeout_seconds: float = 5.0) -> float:
        hours = self.rented.extension_hours
        wanted = self.order(
            cost_max,
            timeout_seconds,
            hours=hours,
            lease_reference=lease.reference,
            lease_number=lease.number,
            lease_expires_at=lease.expires_at,
        )
        end: float = await self.there.extend(wanted)
        return end

    async def lost(self, lease: Lease) -> LostExtension:
        """An extension that is about to be lost, as the house writes it down before."""
        hours, counts = self.rented.extension_hours, isinstance(self.there, CountsExtensions)
        assert lease.expires_at is not None
        made_before = await self.there.extensions_made(lease.reference, hours) if counts else 0
        return LostExtension(hours, lease.expires_at, made_before)

    async def end(self, lease: Lease, lost: LostExtension) -> float | None:
        """When a rental ends, read for the sake of an extension that was lost."""
        progress: Progress = await self.there.read(Watched(lease.reference, 1, extension=lost))
        return progress.expires_at

    def set_stock(self, count: int) -> None:
        self.sim.set_rent_stock(**self.rented.shelf, price=RENT_PRICE, count=count)

    def text(self, lease: Lease, text: str) -> None:
        """A message comes for a rental."""
        self.sim.deliver_rental(sim_id(lease), text)

    @property
    def rentals(self) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = self.sim.rental_views()
        return made

    # a number again, a service beside

    async def reuse(self, lease: Lease, cost_max: str = "0.50", timeout_seconds: float = 5.0) -> Lease:
        wanted = self.order(cost_max, timeout_seconds, lease_reference=lease.reference, lease_number=lease.number)
        again: Lease = await self.there.reuse(wanted)
        return again

    async def reuse_cost(self, reference: str, number: str) -> Any:
        return await self.there.reuse_cost(reference, number, self.pair.service, self.pair.country)

    async def used(self) -> Lease:
        """A number whose activation had its code and is over."""
        lease = await self.buy()
        self.sim.deliver(lease.reference, CODE)
        await self.read(lease)
        await self.there.close(lease.reference, Outcome.FINISHED)
        return lease

    async def add(self, lease: Lease, cost_max: str = "0.50", timeout_seconds: float = 5.0) -> Lease:
        given = {"service": self.beside.service, "lease_reference": lease.reference, "lease_number": lease.number}
        added: Lease = await self.there.add_service(self.order(cost_max, timeout_seconds, **given))
        return added


def sim_id(lease: Lease) -> str:
    """The simulator's own id of a rental."""
    return lease.reference.removeprefix("rent:")


@contextmanager
def stocked(pair: Pair) -> Iterator[tuple[Any, str]]:
    with simulated(pair) as (sim, address):
        if pair.rented is not None:
            sim.set_rent_stock(**pair.rented.shelf, price=RENT_PRICE, count=RENT_STOCK)
        if pair.beside is not None:
            sim.set_stock(**pair.beside.shelf, price=PRICE, count=STOCK)
        yield sim, address


@asynccontextmanager
async def opened(pair: Pair, *, key: str | None = None) -> AsyncIterator[Renting]:
    with stocked(pair) as (sim, address):
        async with talking(pair, sim, address, key) as made:
            yield Renting(made.pair, made.there, made.sim, made.observed)


def over(pairs: dict[str, Pair]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", list(pairs.values()), ids=list(pairs))


@pytest.fixture
async def bench(pair: Pair) -> AsyncIterator[Renting]:
    async with opened(pair) as made:
        yield made


@over(PAIRS)
async def test_abilities_are_those_the_pair_is_tested_for(pair: Pair) -> None:
    with simulated(pair) as (sim, address):
        async with talking(pair, sim, address) as made:
            assert isinstance(made.there, Rents) is (pair.rented is not None)
            assert isinstance(made.there, Reuses) is (pair.reused is not None)
            assert isinstance(made.there, AddsServices) is (pair.beside is not None)


# --- a rental's life ---


@over(RENTING)
async def test_what_is_listed_can_be_rented_for_its_price_and_its_time(bench: Renting) -> None:
    pair, hours = bench.pair, bench.rented.hours
    assert pair.country in await bench.there.rent_countries()
    offers = await bench.there.rent_offers(pair.country, hours)
    (offer,) = [offer for offer in offers if offer.service == bench.rent_service]
    assert (offer.country, offer.hours) == (pair.country, hours)
    assert offer.cost == bench.money(RENT_PRICE)
    assert offer.count == bench.stock(RENT_STOCK)
    before = await bench.there.balance()
    lease = await bench.rent(RENT_PRICE)
    assert lease.number.isdigit()
    assert lease.cost == (bench.money(RENT_PRICE) if bench.rented.tells_cost else None)
    assert lease.expires_at == pytest.approx(time.time() + hours * 3600, abs=120)
    assert before.micros - (await bench.there.balance()).micros == bench.money(RENT_PRICE).micros
    assert await bench.read(lease) == Progress(LeaseState.OPEN, (), (await bench.read(lease)).expires_at)


@over(RENTING)
async def test_shorter_wish_is_answered_with_what_there_is(bench: Renting) -> None:
    offers = await bench.there.rent_offers(bench.pair.country, 1)
    assert offers
    assert all(offer.hours >= 1 for offer in offers)


@over(RENTING)
async def test_every_message_is_read_once_in_its_order_though_two_read_alike(bench: Renting) -> None:
    lease = await bench.rent()
    bench.text(lease, CODE)
    bench.text(lease, CODE)
    first = (await bench.read(lease)).messages
    assert len({sms.identity for sms in first}) == len(first) == 2
    bench.sim.skip(60)
    bench.text(lease, "Your code is 67890")
    progress = await bench.read(lease)
    assert progress.state is LeaseState.OPEN
    assert [sms.text for sms in progress.messages] == [bench.told(text) for text in (CODE, CODE, "Your code is 67890")]
    assert [sms.identity for sms in progress.messages[:2]] == [sms.identity for sms in first]
    assert "" not in {sms.identity for sms in progress.messages}
    assert (await bench.read(lease)).messages == progress.messages


@over(RENTING)
async def test_many_messages_are_all_read(bench: Renting) -> None:
    lease = await bench.rent()
    texts = [f"Message {number} of many" for number in range(230)]
    for text in texts:
        bench.text(lease, text)
    bench.sim.skip(1)
    messages = (await bench.read(lease)).messages
    assert {sms.text for sms in messages} == {bench.told(text) for text in texts}
    assert len({sms.identity for sms in messages}) == len(texts)


@over(RENTING)
async def test_rental_needs_no_asking_for_another_message(bench: Renting) -> None:
    lease = await bench.rent()
    bench.text(lease, CODE)
    await bench.ask_again(lease)
    bench.text(lease, "Your code is 67890")
    assert len((await bench.read(lease, 2)).messages) == 2


@over(RENTING)
async def test_rental_ends_when_its_time_is_over(bench: Renting) -> None:
    lease = await bench.rent()
    bench.sim.skip(bench.rented.hours * 3600 + 60)
    if bench.rented.tells_finish:
        assert (await bench.read(lease)).state in (LeaseState.FINISHED, LeaseState.CANCELLED)
    await bench.there.close(lease.reference, Outcome.FINISHED)


# --- closing a rental ---


@over(RENTING)
async def test_finished_rental_stays_paid_and_can_not_be_cancelled(bench: Renting) -> None:
    if not bench.rented.tells_finish:
        pytest.skip("this upstream is not told that a rental is finished")
    lease = await bench.rent()
    paid = await bench.there.balance()
    await bench.there.close(lease.reference, Outcome.FINISHED)
    assert bench.rentals[0]["state"] == "finished"
    assert (await bench.read(lease)).state in (LeaseState.FINISHED, LeaseState.CANCELLED)
    with pytest.raises((NotAllowed, HasSms)):
        await bench.there.close(lease.reference, Outcome.CANCELLED)
    assert await bench.there.balance() == paid


def returnable(pair: Pair) -> None:
    if pair.rented is None or not pair.rented.is_returnable:
        pytest.skip("this upstream takes no rental back")


@over(RENTING)
async def test_rental_that_is_not_taken_back_says_so(bench: Renting) -> None:
    if bench.rented.is_returnable:
        pytest.skip("this upstream takes rentals back")
    lease = await bench.rent()
    with pytest.raises(NotAllowed):
        await bench.there.close(lease.reference, Outcome.CANCELLED)
    assert (await bench.read(lease)).state is LeaseState.OPEN


@over(RENTING)
async def test_cancelled_rental_gives_the_money_back(bench: Renting) -> None:
    returnable(bench.pair)
    before = await bench.there.balance()
    lease = await bench.rent()
    await bench.there.close(lease.reference, Outcome.CANCELLED)
    assert await bench.there.balance() == before
    assert (await bench.read(lease)).state is LeaseState.CANCELLED


@over(RENTING)
@pytest.mark.parametrize("outcome", list(Outcome))
async def test_closing_a_rental_may_be_repeated(bench: Renting, outcome: Outcome) -> None:
    if outcome is Outcome.CANCELLED:
        returnable(bench.pair)
    lease = await bench.rent()
    await bench.there.close(lease.reference, outcome)
    await bench.there.close(lease.reference, outcome)


@over(RENTING)
async def test_rental_with_a_message_is_not_cancelled(bench: Renting) -> None:
    lease = await bench.rent()
    bench.text(lease, CODE)
    with pytest.raises(HasSms if bench.rented.is_returnable else NotAllowed):
        await bench.there.close(lease.reference, Outcome.CANCELLED)
    assert (await bench.read(lease)).state is LeaseState.OPEN


@over(RENTING)
async def test_rental_is_not_cancelled_after_its_window(bench: Renting) -> None:
    if bench.rented.cancel_seconds is None:
        pytest.skip("this upstream takes rentals back at any time")
    lease = await bench.rent()
    bench.sim.skip(bench.rented.cancel_seconds + 1)
    with pytest.raises(NotAllowed):
        await bench.there.close(lease.reference, Outcome.CANCELLED)
    await bench.there.close(lease.reference, Outcome.FINISHED)


@over(RENTING)
async def test_unknown_rental_is_a_state_to_read_and_an_error_to_close(bench: Renting) -> None:
    unknown = Lease(bench.rented.unknown_reference, "447700900123")
    assert await bench.read(unknown) == Progress(LeaseState.UNKNOWN)
    for outcome in Outcome:
        with pytest.raises(UnknownLease):
            await bench.there.close(unknown.reference, outcome)


# --- refusals ---


@over(RENTING)
async def test_nothing_to_rent_is_sold_out_and_not_listed(bench: Renting) -> None:
    bench.set_stock(0)
    listed = await bench.there.rent_offers(bench.pair.country, bench.rented.hours)
    assert bench.rent_service not in {offer.service for offer in listed}
    with pytest.raises(SoldOut):
        await bench.rent()
    assert bench.rentals == []


@over(RENTING)
async def test_rental_above_the_cap_is_sold_out(bench: Renting) -> None:
    with pytest.raises(SoldOut):
        await bench.rent(cost_max="2.39")
    assert bench.rentals == []
    await bench.rent(cost_max="2.40")


@over(RENTING)
async def test_rental_that_became_dearer_is_returned_at_its_cost_and_can_be_cancelled(bench: Renting) -> None:
    bench.sim.fault("overpriced", 1, price="2.90")
    lease = await bench.rent(cost_max="2.50")
    assert lease.cost == (bench.money("2.90") if bench.rented.tells_cost else None)
    if bench.rented.is_returnable:
        await bench.there.close(lease.reference, Outcome.CANCELLED)


@over(RENTING)
@pytest.mark.parametrize("fault", ["no_balance", "rent.rate_limit"])
async def test_faults_of_the_account_are_told_when_renting(bench: Renting, fault: str) -> None:
    bench.sim.fault(fault, 1)
    with pytest.raises(Refused) as caught:
        await bench.rent()
    assert caught.value.is_fault
    assert bench.rentals == []


@over(RENTING)
async def test_bad_key_rents_nothing_and_is_a_fault(pair: Pair) -> None:
    async with opened(pair, key="wrong") as bench:
        with pytest.raises(Refused) as caught:
            await bench.rent()
        assert caught.value.is_fault
        if not pair.tells_prices_without_key:
            with pytest.raises((Refused, Unwell)):
                await bench.there.rent_offers(pair.country, bench.rented.hours)
        with pytest.raises(Unwell):
            await bench.read(Lease(bench.rented.unknown_reference, "1"))
        with pytest.raises(Unwell):
            await bench.there.close(bench.rented.unknown_reference, Outcome.CANCELLED)


# --- rentals whose answer is lost ---


@over(RENTING)
@pytest.mark.parametrize("fault", LOST)
async def test_lost_rental_is_in_doubt_sent_once_and_found(bench: Renting, fault: str) -> None:
    since = time.time()
    bench.sim.fault(f"rent.{fault}", 1)
    with pytest.raises(InDoubt):
        await bench.rent(timeout_seconds=1.0 if fault == "slow" else 5.0)
    (made,) = bench.rentals
    if isinstance(bench.there, Finds):
        await found_again(bench, since, made)


async def found_again(bench: Renting, since: float, made: dict[str, Any]) -> None:
    (found,) = await bench.there.find(since)
    assert found.is_rental
    assert (sim_id(found.lease), found.lease.number) == (made["id"], made["phone"].lstrip("+"))
    if bench.rented.tells_goods:
        assert (found.service, found.country) == (bench.rent_service, bench.pair.country)
    assert (await bench.read(found.lease)).state is LeaseState.OPEN
    if not bench.rented.is_returnable:
        return
    await bench.there.close(found.lease.reference, Outcome.CANCELLED)
    assert await bench.there.find(since) == []


@over(RENTING)
@pytest.mark.parametrize("is_abrupt", [False, True], ids=["closed", "reset"])
async def test_rental_whose_reply_is_lost_on_the_wire_is_one_request(pair: Pair, is_abrupt: bool) -> None:
    with stocked(pair) as (sim, address):
        async with relayed(address, lambda: len(sim.rental_views())) as relay, talking(pair, sim, relay.url) as made:
            bench = Renting(made.pair, made.there, made.sim, made.observed)
            relay.cut(is_abrupt=is_abrupt)
            with pytest.raises(InDoubt):
                await bench.rent()
            await asyncio.sleep(0.2)
            assert (len(bench.rentals), relay.cuts, relay.after_cut) == (1, 1, [])


@over(RENTING)
async def test_rentals_and_activations_are_told_apart(bench: Renting) -> None:
    since = time.time()
    rental, plain = await bench.rent(), await bench.buy()
    bench.text(rental, CODE)
    bench.sim.deliver(plain.reference, "Your code is 67890")
    assert [sms.text for sms in (await bench.read(rental)).messages] == [bench.told(CODE)]
    assert [sms.code for sms in (await bench.read(plain)).messages] == ["67890"]
    if isinstance(bench.there, Finds):
        found = {one.lease.reference: one.is_rental for one in await bench.there.find(since)}
        assert found == {rental.reference: True, plain.reference: False}
    if isinstance(bench.there, ReadsMany):
        many = await bench.there.read_many([Watched(rental.reference, 1), Watched(plain.reference, 1)])
        assert many[plain.reference] == await bench.read(plain)
        assert many.get(rental.reference, await bench.read(rental)) == await bench.read(rental)
    await bench.there.close(rental.reference, Outcome.FINISHED)
    assert (await bench.read(plain)).state is LeaseState.OPEN


# --- more time ---


def extensible(pair: Pair) -> None:
    if pair.rented is None or not pair.rented.is_extensible:
        pytest.skip("this upstream extends no rental")


@over(RENTING)
async def test_extension_costs_what_was_told_and_ends_later(bench: Renting) -> None:
    extensible(bench.pair)
    lease = await bench.rent()
    assert lease.expires_at is not None
    cost, hours = await bench.there.extension_cost(lease.reference, bench.rented.extension_hours)
    assert (cost, hours) == (bench.money(bench.rented.extension_cost), bench.rented.extension_hours)
    before = await bench.there.balance()
    end = await bench.extend(lease, cost_max=bench.rented.extension_cost)
    assert end == pytest.approx(lease.expires_at + hours * 3600, abs=120)
    assert before.micros - (await bench.there.balance()).micros == cost.micros
    assert bench.rentals[0]["extensions"] == 1
    told = (await bench.read(lease)).expires_at
    assert told is None or told == pytest.approx(end, abs=120)


@over(RENTING)
async def test_extension_above_the_cap_takes_nothing(bench: Renting) -> None:
    extensible(bench.pair)
    lease = await bench.rent()
    with pytest.raises(NothingTaken):
        await bench.extend(lease, cost_max="0.01")
    assert bench.rentals[0]["extensions"] == 0


@over(RENTING)
async def test_rental_that_is_over_or_unknown_is_not_extended(bench: Renting) -> None:
    extensible(bench.pair)
    lease, hours = await bench.rent(), bench.rented.extension_hours
    await bench.there.close(lease.reference, Outcome.CANCELLED)
    with pytest.raises((NotAllowed, UnknownLease)):
        await bench.there.extension_cost(lease.reference, hours)
    with pytest.raises(UnknownLease):
        await bench.there.extension_cost(bench.rented.unknown_reference, hours)
    for reference in (lease.reference, bench.rented.unknown_reference):
        with pytest.raises(NothingTaken):
            await bench.extend(Lease(reference, lease.number))
    assert [rental["extensions"] for rental in bench.rentals] == [0]


@over(RENTING)
@pytest.mark.parametrize("fault", LOST)
async def test_lost_extension_is_in_doubt_made_once_and_told_by_reading(bench: Renting, fault: str) -> None:
    extensible(bench.pair)
    lease = await bench.rent()
    lost = await bench.lost(lease)
    bench.sim.fault(f"extend.{fault}", 1)
    with pytest.raises(InDoubt):
        await bench.extend(lease, timeout_seconds=1.0 if fault == "slow" else 5.0)
    assert bench.rentals[0]["extensions"] == 1
    if bench.rented.tells_end:
        assert await bench.end(lease, lost) == pytest.approx(lost.ends_at + lost.hours * 3600, abs=120)


@over(RENTING)
async def test_extension_that_never_was_is_not_taken_for_one_that_was(bench: Renting) -> None:
    extensible(bench.pair)
    lease = await bench.rent()
    end = await bench.extend(lease)
    lease = replace(lease, expires_at=end)
    lost = await bench.lost(lease)
    bench.sim.fault("extend.drop", 1, commit=False)
    with pytest.raises(InDoubt):
        await bench.extend(lease)
    assert bench.rentals[0]["extensions"] == 1
    if bench.rented.tells_end:
        assert await bench.end(lease, lost) == pytest.approx(end, abs=120)


@over(RENTING)
async def test_faults_of_the_account_are_told_when_extending(bench: Renting) -> None:
    extensible(bench.pair)
    lease = await bench.rent()
    bench.sim.fault("extend.rate_limit", 1)
    with pytest.raises(Refused) as caught:
        await bench.extend(lease)
    assert caught.value.is_fault
    assert bench.rentals[0]["extensions"] == 0


# --- errors ---


def verbs(bench: Renting, lease: Lease, effect: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every verb of a rental that can fail so."""
    there, rented = bench.there, bench.rented
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "rent_offers": lambda: there.rent_offers(bench.pair.country, rented.hours),
        "rent": bench.rent,
        "read": lambda: bench.read(lease),
    }
    if rented.asks_countries:
        calls["rent_countries"] = there.rent_countries
    if effect not in ("truncated", "wrong_types") or not rented.closes_silently:
        calls["cancel"] = lambda: there.close(lease.reference, Outcome.CANCELLED)
        calls["finish"] = lambda: there.close(lease.reference, Outcome.FINISHED)
    if rented.is_extensible:
        calls["extension_cost"] = lambda: there.extension_cost(lease.reference, rented.extension_hours)
        calls["extend"] = lambda: bench.extend(lease)
    return calls


@over(RENTING)
@pytest.mark.parametrize("effect", ["drop", "error", "bad_gateway", "html", "truncated", "rate_limit"])
async def test_rent_verbs_raise_upstream_errors_only_and_report_each_request(bench: Renting, effect: str) -> None:
    lease = await bench.rent()
    asked, told = sum(bench.sim.requests.values()), len(bench.observed.calls)
    for verb, call in verbs(bench, lease, effect).items():
        bench.sim.fault(f"any.{effect}")
        with pytest.raises(UpstreamError) as caught:
            await call()
        assert isinstance(caught.value, (Unwell, InDoubt, Refused)), verb
        assert lease.number not in str(caught.value)
    assert len(bench.observed.calls) - told == sum(bench.sim.requests.values()) - asked
    assert len(bench.rentals) == 1, "a price that could not be asked is no reason to rent"


@over(RENTING)
async def test_rent_values_of_other_types_are_never_taken_for_an_answer(bench: Renting) -> None:
    lease = await bench.rent()
    bench.text(lease, CODE)
    for verb, call in verbs(bench, lease, "wrong_types").items():
        bench.sim.fault("any.wrong_types")
        with pytest.raises((Unwell, InDoubt, Refused)) as caught:
            await call()
        assert caught, verb


# --- a number again ---


@over(REUSING)
async def test_used_number_is_had_again_for_what_was_told(bench: Renting) -> None:
    lease = await bench.used()
    cost = await bench.reuse_cost(lease.reference, lease.number)
    assert cost == bench.money(bench.reused.cost)
    before = await bench.there.balance()
    again = await bench.reuse(lease, cost_max=bench.reused.cost)
    assert (again.number, again.reference != lease.reference) == (lease.number, True)
    assert again.cost == (cost if bench.reused.tells_cost else None)
    assert before.micros - (await bench.there.balance()).micros == cost.micros
    assert await bench.read(again) == Progress(LeaseState.OPEN)
    bench.sim.deliver(again.reference, "Your code is 67890")
    assert [sms.code for sms in (await bench.read(again)).messages] == ["67890"]
    await bench.there.close(again.reference, Outcome.FINISHED)


@over(REUSING)
async def test_number_that_had_no_code_or_is_unknown_is_not_had_again(bench: Renting) -> None:
    lease = await bench.buy()
    await bench.there.close(lease.reference, Outcome.CANCELLED)
    with pytest.raises(NotAllowed):
        await bench.reuse_cost(lease.reference, lease.number)
    with pytest.raises((UnknownLease, NotAllowed)):
        await bench.reuse_cost(bench.pair.unknown_reference, lease.number)
    bought = bench.sim.purchases
    for reference in (lease.reference, bench.pair.unknown_reference):
        with pytest.raises(NothingTaken):
            await bench.reuse(Lease(reference, lease.number))
    assert bench.sim.purchases == bought


@over(REUSING)
async def test_used_number_above_the_cap_is_sold_out(bench: Renting) -> None:
    lease = await bench.used()
    bought = bench.sim.purchases
    with pytest.raises(SoldOut):
        await bench.reuse(lease, cost_max="0.01")
    assert bench.sim.purchases == bought


@over(REUSING)
@pytest.mark.parametrize("fault", LOST)
async def test_lost_answer_for_a_used_number_is_in_doubt_and_sent_once(bench: Renting, fault: str) -> None:
    lease, since = await bench.used(), time.time()
    bought = bench.sim.purchases
    bench.sim.fault(f"reuse.{fault}", 1)
    with pytest.raises(InDoubt):
        await bench.reuse(lease, timeout_seconds=1.0 if fault == "slow" else 5.0)
    assert bench.sim.purchases == bought + 1
    if isinstance(bench.there, Finds):
        assert [one.lease.number for one in await bench.there.find(since)] == [lease.number]


@over(REUSING)
@pytest.mark.parametrize("fault", ["no_balance", "reuse.rate_limit"])
async def test_faults_of_the_account_are_told_for_a_used_number(bench: Renting, fault: str) -> None:
    lease = await bench.used()
    bench.sim.fault(fault, 1)
    with pytest.raises(Refused) as caught:
        await bench.reuse(lease)
    assert caught.value.is_fault


@over(REUSING)
@pytest.mark.parametrize("effect", ["drop", "error", "bad_gateway", "html", "truncated", "rate_limit", "wrong_types"])
async def test_cost_of_a_used_number_is_known_or_unwell(bench: Renting, effect: str) -> None:
    lease = await bench.used()
    bought = bench.sim.purchases
    bench.sim.fault(f"any.{effect}")
    with pytest.raises(Unwell):
        await bench.reuse_cost(lease.reference, lease.number)
    with pytest.raises(NothingTaken):
        await bench.reuse(lease)
    assert bench.sim.purchases == bought


# --- a service beside another ---


@over(ADDING)
async def test_service_is_added_to_a_number_in_use_and_lives_by_itself(bench: Renting) -> None:
    lease = await bench.buy()
    before = await bench.there.balance()
    added = await bench.add(lease, cost_max=PRICE)
    assert (added.number, added.reference != lease.reference) == (lease.number, True)
    assert added.cost == (bench.money(PRICE) if bench.beside.tells_cost else None)
    assert before.micros - (await bench.there.balance()).micros == bench.money(PRICE).micros
    bench.sim.deliver(added.reference, "Your code is 67890")
    assert [sms.code for sms in (await bench.read(added)).messages] == ["67890"]
    assert await bench.read(lease) == Progress(LeaseState.OPEN)
    await bench.there.close(added.reference, Outcome.FINISHED)
    await bench.there.close(lease.reference, Outcome.CANCELLED)


@over(ADDING)
async def test_service_is_added_once_and_to_a_number_in_use_only(bench: Renting) -> None:
    lease, closed = await bench.buy(), await bench.buy()
    await bench.there.close(closed.reference, Outcome.CANCELLED)
    await bench.add(lease)
    bought = bench.sim.purchases
    for reference in (lease.reference, closed.reference, bench.pair.unknown_reference):
        with pytest.raises(Refused) as caught:
            await bench.add(Lease(reference, lease.number))
        assert not caught.value.is_fault
    assert bench.sim.purchases == bought


@over(ADDING)
async def test_service_that_is_too_dear_or_not_there_is_sold_out(bench: Renting) -> None:
    lease = await bench.buy()
    with pytest.raises(SoldOut):
        await bench.add(lease, cost_max="0.39")
    bench.sim.set_stock(**bench.beside.shelf, count=0)
    with pytest.raises(SoldOut):
        await bench.add(lease)
    assert bench.sim.purchases == 1


@over(ADDING)
@pytest.mark.parametrize("fault", LOST)
async def test_lost_answer_for_an_added_service_is_in_doubt_and_sent_once(bench: Renting, fault: str) -> None:
    lease = await bench.buy()
    bench.sim.fault(f"beside.{fault}", 1)
    with pytest.raises(InDoubt):
        await bench.add(lease, timeout_seconds=1.0 if fault == "slow" else 5.0)
    assert bench.sim.purchases == 2
    if isinstance(bench.there, Finds):
        found = {one.lease.reference: one for one in await bench.there.find(0)}
        (added,) = [one for reference, one in found.items() if reference != lease.reference]
        assert (added.service, added.lease.number) == (bench.beside.service, lease.number)


@over(ADDING)
@pytest.mark.parametrize("fault", ["no_balance", "beside.rate_limit"])
async def test_faults_of_the_account_are_told_for_an_added_service(bench: Renting, fault: str) -> None:
    lease = await bench.buy()
    bench.sim.fault(fault, 1)
    with pytest.raises(Refused) as caught:
        await bench.add(lease)
    assert caught.value.is_fault


@over(RENTING)
async def test_rental_is_nothing_to_use_again_or_to_add_to(bench: Renting) -> None:
    lease = await bench.rent()
    if isinstance(bench.there, Reuses):
        with pytest.raises((NotAllowed, UnknownLease)):
            await bench.reuse_cost(lease.reference, lease.number)
        with pytest.raises(NothingTaken):
            await bench.reuse(lease)
    if isinstance(bench.there, AddsServices):
        with pytest.raises(NothingTaken):
            await bench.add(lease)
    if isinstance(bench.there, AsksAgain):
        with suppress(NotAllowed):
            await bench.there.ask_again(lease.reference)
