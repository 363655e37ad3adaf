"""What every adapter promises, told over real sockets against the simulator of its upstream.

A new pair is a module in `pairs/`: how to start the simulator, how to build the adapter, what the two call a service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import pytest

from adapters import load
from gateway.errors import (
    HasSms,
    InDoubt,
    NotReached,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Watched
from gateway.money import Money, to_micros
from gateway.snapshots import HEAD_BYTES, read_head, seal, unpack
from gateway.upstream import AsksAgain, Finds, Learns, MovesLeases, ReadsMany, Upstream
from tests.adapters._context import Observed, context
from tests.contract._pair import PRICE, STOCK, Pair, discovered
from tests.contract._relay import relayed
from tests.simulators._serve import serve

PAIRS = discovered()


@dataclass
class Bench:
    """An adapter, the simulator it talks to, and what was reported of their talk."""

    pair: Pair
    there: Upstream
    sim: Any
    observed: Observed

    async def buy(self, cost_max: str = "0.50", timeout_seconds: float = 5.0) -> Lease:
        order = BuyOrder(self.pair.service, self.pair.country, "", self.money(cost_max), timeout_seconds)
        return await self.there.buy(order)

    def told(self, text: str) -> str:
        """What the upstream tells of a message's text."""
        return text if self.pair.tells_text else ""

    def stock(self, count: int) -> int:
        """What the list says of so many numbers in stock."""
        return count if self.pair.tells_stock else 1

    def money(self, amount: str) -> Money:
        """So much in this upstream's currency."""
        return Money(to_micros(amount), self.pair.currency)

    async def read(self, lease: Lease, round_: int = 1) -> Progress:
        return await self.there.read(Watched(lease.reference, round_))

    async def ask_again(self, lease: Lease) -> Lease:
        """The lease as it goes on."""
        moved_to = await self.there.ask_again(lease.reference) if isinstance(self.there, AsksAgain) else None
        return lease if moved_to is None else replace(lease, reference=moved_to)


@pytest.fixture(params=list(PAIRS.values()), ids=list(PAIRS))
def pair(request: pytest.FixtureRequest) -> Pair:
    chosen: Pair = request.param
    return chosen


@contextmanager
def simulated(pair: Pair, cancel_wait: float = 0.0) -> Iterator[tuple[Any, str]]:
    """The simulator with its one shelf filled, and its address."""
    simulator_options: dict[str, Any] = {"stock": 3, "sms_delay_seconds": None}
    if pair.cancel_wait_option is not None:
        simulator_options[pair.cancel_wait_option] = cancel_wait
    app = pair.simulator(**simulator_options, **pair.simulator_options)
    sim = app.state.sim
    sim.set_stock(**pair.shelf, price=PRICE, count=STOCK)
    for shelf in pair.others:
        sim.set_stock(**shelf, count=0)
    with serve(app) as address:
        yield sim, address


@asynccontextmanager
async def talking(pair: Pair, sim: Any, address: str, key: str | None = None) -> AsyncIterator[Bench]:
    """The adapter, pointed at an address."""
    observed, module = Observed(), load(pair.adapter)
    options = module.Options(base_url=address + pair.path, **pair.options)
    secret = pair.key if key is None else key
    given = context(secret=secret, secrets=pair.secrets, currency=pair.currency, observe=observed, clock=time.time)
    there = module.build(given, options)
    try:
        yield Bench(pair, there, sim, observed)
    finally:
        await there.aclose()


@asynccontextmanager
async def opened(pair: Pair, *, key: str | None = None, cancel_wait: float = 0.0) -> AsyncIterator[Bench]:
    with simulated(pair, cancel_wait) as (sim, address):
        async with talking(pair, sim, address, key) as made:
            yield made


@pytest.fixture
async def bench(pair: Pair) -> AsyncIterator[Bench]:
    async with opened(pair) as made:
        yield made


# --- a whole life ---


async def test_number_is_bought_waited_for_received_and_finished(bench: Bench) -> None:
    lease = await bench.buy()
    assert lease.number.isdigit()
    assert lease.cost == (bench.money("0.40") if bench.pair.tells_cost else None)
    assert await bench.read(lease) == Progress(LeaseState.OPEN)
    bench.sim.deliver(lease.reference, "Your code is 12345")
    progress = await bench.read(lease)
    (sms,) = progress.messages
    assert progress.state is LeaseState.OPEN
    assert (sms.code, sms.text) == ("12345", bench.told("Your code is 12345"))
    assert sms.identity
    await bench.there.close(lease.reference, Outcome.FINISHED)
    state = (await bench.read(lease)).state
    if bench.pair.tells_finish:
        assert bench.sim.order_views()[0]["state"].lower() == "finished"
        assert state in (LeaseState.FINISHED, LeaseState.CANCELLED)
    else:
        assert state is not LeaseState.UNKNOWN


async def test_cancelled_number_gives_the_money_back(bench: Bench) -> None:
    before = await bench.there.balance()
    lease = await bench.buy()
    assert (await bench.there.balance()).micros == before.micros - 400_000
    await bench.there.close(lease.reference, Outcome.CANCELLED)
    assert await bench.there.balance() == before
    assert (await bench.read(lease)).state is LeaseState.CANCELLED


async def test_second_sms_comes_after_asking_again(bench: Bench) -> None:
    if not bench.pair.gives_second_sms:
        pytest.skip("this upstream gives one SMS a number")
    lease = await bench.buy()
    bench.sim.deliver(lease.reference, "Your code is 12345")
    first = (await bench.read(lease)).messages
    lease = await bench.ask_again(lease)
    assert await bench.ask_again(lease) == lease
    waiting = (await bench.read(lease, 2)).messages
    assert {sms.identity for sms in waiting} <= {sms.identity for sms in first}
    bench.sim.deliver(lease.reference, "Your code is 67890")
    second = (await bench.read(lease, 2)).messages
    assert second[-1].code == "67890"
    assert second[-1].text == bench.told("Your code is 67890")
    assert second[-1].identity not in {sms.identity for sms in first}


async def test_lease_that_goes_on_under_another_reference_is_read_found_and_closed_by_any_process(
    pair: Pair,
) -> None:
    """Nothing is to be remembered of it but its reference."""
    with simulated(pair) as (sim, address):
        async with talking(pair, sim, address) as before:
            if not isinstance(before.there, MovesLeases):
                pytest.skip("its references stay what they are")
            first = await before.buy()
            sim.deliver(first.reference, "Your code is 12345")
            lease = await before.ask_again(first)
        async with talking(pair, sim, address) as bench:
            assert isinstance(bench.there, Finds)
            found = await bench.there.find(0)
            assert {(one.lease.reference, one.lease.number, one.service) for one in found} == {
                (reference, first.number, pair.service) for reference in {first.reference, lease.reference}
            }
            assert await bench.ask_again(lease) == lease
            assert (await bench.read(lease, 2)).messages == ()
            sim.deliver(lease.reference, "Your code is 67890")
            assert [sms.code for sms in (await bench.read(lease, 2)).messages] == ["67890"]
            if isinstance(bench.there, ReadsMany):
                rows = await bench.there.read_many([Watched(lease.reference, 2)])
                assert [sms.code for sms in rows[lease.reference].messages] == ["67890"]
            await bench.there.close(lease.reference, Outcome.FINISHED)


async def test_same_code_twice_is_two_messages_when_it_was_asked_for_twice(bench: Bench) -> None:
    if not bench.pair.gives_second_sms:
        pytest.skip("this upstream gives one SMS a number")
    lease = await bench.buy()
    bench.sim.deliver(lease.reference, "Your code is 12345")
    first = (await bench.read(lease)).messages[-1]
    lease = await bench.ask_again(lease)
    bench.sim.skip(1.0)
    bench.sim.deliver(lease.reference, "Your code is 12345")
    assert (await bench.read(lease, 2)).messages[-1].identity != first.identity


async def test_repeated_sms_has_one_identity(bench: Bench) -> None:
    lease = await bench.buy()
    bench.sim.fault("repeat_sms", 1)
    bench.sim.deliver(lease.reference, "Your code is 12345")
    seen = [sms for _ in range(2) for sms in (await bench.read(lease)).messages]
    if isinstance(bench.there, ReadsMany):
        rows = await bench.there.read_many([Watched(lease.reference, 1)])
        seen += [sms for progress in rows.values() for sms in progress.messages]
    assert len({sms.identity for sms in seen}) == 1


async def test_order_that_ran_out_is_over(bench: Bench) -> None:
    lease = await bench.buy()
    bench.sim.skip(3600)
    # Where what is over is not found, no more is known of it: one denial may be a mistake.
    is_forgotten = bench.pair.adapter == "vaksms"
    assert (await bench.read(lease)).state is (LeaseState.UNKNOWN if is_forgotten else LeaseState.CANCELLED)


# --- closing ---


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_close_may_be_repeated(bench: Bench, outcome: Outcome) -> None:
    lease = await bench.buy()
    if outcome is Outcome.FINISHED:
        bench.sim.deliver(lease.reference, "Your code is 12345")
    await bench.there.close(lease.reference, outcome)
    await bench.there.close(lease.reference, outcome)


async def test_cancel_after_an_sms_says_so(bench: Bench) -> None:
    lease = await bench.buy()
    bench.sim.deliver(lease.reference, "Your code is 12345")
    with pytest.raises(HasSms):
        await bench.there.close(lease.reference, Outcome.CANCELLED)


async def test_cancel_that_meets_an_sms_says_so_and_the_sms_can_be_read(bench: Bench) -> None:
    lease = await bench.buy()
    bench.sim.fault("sms_on_cancel", 1)
    with pytest.raises(HasSms):
        await bench.there.close(lease.reference, Outcome.CANCELLED)
    assert [sms.code for sms in (await bench.read(lease)).messages] == ["24680"]


async def test_early_cancel_is_told_when_to_come_back(pair: Pair) -> None:
    if pair.cancel_wait_option is None:
        pytest.skip("this upstream takes a number back at once")
    async with opened(pair, cancel_wait=120.0) as bench:
        lease = await bench.buy()
        with pytest.raises(TooEarly) as caught:
            await bench.there.close(lease.reference, Outcome.CANCELLED)
        assert caught.value.retry_seconds is not None
        assert 0 < caught.value.retry_seconds <= 120
        bench.sim.skip(121)
        await bench.there.close(lease.reference, Outcome.CANCELLED)


async def test_unknown_reference_is_a_state_to_read_and_an_error_to_close(bench: Bench) -> None:
    unknown = Lease(bench.pair.unknown_reference, "447700900123")
    assert await bench.read(unknown) == Progress(LeaseState.UNKNOWN)
    for outcome in Outcome:
        with pytest.raises(UnknownLease):
            await bench.there.close(unknown.reference, outcome)
    if isinstance(bench.there, AsksAgain):
        with pytest.raises(UnknownLease):
            await bench.there.ask_again(unknown.reference)


# --- refusals ---


async def test_nothing_in_stock_is_sold_out(bench: Bench) -> None:
    bench.sim.set_stock(**bench.pair.shelf, count=0)
    with pytest.raises(SoldOut):
        await bench.buy()
    assert bench.sim.purchases == 0


async def test_price_above_the_cap_is_sold_out(bench: Bench) -> None:
    with pytest.raises(SoldOut):
        await bench.buy(cost_max="0.39")
    assert bench.sim.purchases == 0
    await bench.buy(cost_max="0.40")
    assert bench.sim.purchases == 1


async def test_number_above_the_cap_is_returned_at_its_cost_and_can_be_cancelled(bench: Bench) -> None:
    bench.sim.fault("overpriced", 1, price="0.90")
    lease = await bench.buy(cost_max="0.50")
    assert lease.cost == (bench.money("0.90") if bench.pair.tells_cost else None)
    await bench.there.close(lease.reference, Outcome.CANCELLED)


@pytest.mark.parametrize("fault", ["no_balance", "buy.rate_limit"])
async def test_faults_of_the_account_are_told_from_those_of_the_order(bench: Bench, fault: str) -> None:
    bench.sim.fault(fault, 1)
    with pytest.raises(Refused) as caught:
        await bench.buy()
    assert caught.value.is_fault
    assert bench.sim.purchases == 0


async def test_bad_key_is_a_fault_and_never_a_state(pair: Pair) -> None:
    async with opened(pair, key="wrong") as bench:
        for verb in (bench.buy, bench.there.balance):
            with pytest.raises(Refused) as caught:
                await verb()
            assert caught.value.is_fault
        unknown = pair.unknown_reference
        for call in (bench.read(Lease(unknown, "1")), bench.there.close(unknown, Outcome.CANCELLED)):
            with pytest.raises(Unwell):
                await call
        if not pair.tells_prices_without_key:
            with pytest.raises(Unwell):
                await bench.there.offers()


async def test_server_that_is_gone_was_not_reached(pair: Pair) -> None:
    async with opened(pair) as bench:
        lease = await bench.buy()
        module = load(pair.adapter)
        options = module.Options(base_url="http://127.0.0.1:1/x", **pair.options)
        gone = module.build(context(secrets=pair.secrets, currency=pair.currency), options)
        order = BuyOrder(pair.service, pair.country, "", Money(1, pair.currency), 1.0)
        with pytest.raises(NotReached):
            await gone.buy(order)
        with pytest.raises(Unwell):
            await gone.read(Watched(lease.reference, 1))
        await gone.aclose()


# --- purchases whose answer is lost ---


@pytest.mark.parametrize("fault", ["drop", "error", "bad_gateway", "html", "truncated", "wrong_types", "slow"])
async def test_lost_answer_is_in_doubt_sent_once_and_found(bench: Bench, fault: str) -> None:
    for kept_alive in (False, True):
        bought = bench.sim.purchases
        since = time.time()
        bench.sim.fault(f"buy.{fault}", 1)
        with pytest.raises(InDoubt):
            await bench.buy(timeout_seconds=0.5 if fault == "slow" else 5.0)
        assert bench.sim.purchases == bought + 1, f"kept alive: {kept_alive}"
        await found_again(bench, since, bench.sim.order_views()[-1])
        await bench.there.close((await bench.buy()).reference, Outcome.CANCELLED)


@pytest.mark.parametrize("is_abrupt", [False, True], ids=["closed", "reset"])
async def test_purchase_whose_reply_is_lost_on_the_wire_is_one_request(pair: Pair, is_abrupt: bool) -> None:
    """Counted where the bytes pass, whatever the libraries in between think of repeating."""
    with simulated(pair) as (sim, address):
        async with relayed(address, lambda: sim.purchases) as relay, talking(pair, sim, relay.url) as bench:
            await bench.there.close((await bench.buy()).reference, Outcome.CANCELLED)
            relay.cut(is_abrupt=is_abrupt)
            with pytest.raises(InDoubt):
                await bench.buy()
            await asyncio.sleep(0.2)
            assert (sim.purchases, relay.cuts) == (2, 1)
            assert relay.after_cut == []


async def found_again(bench: Bench, since: float, order: Mapping[str, str]) -> None:
    if not isinstance(bench.there, Finds):
        return
    found = {one.lease.reference: one for one in await bench.there.find(since)}[order["id"]]
    assert (found.service, found.country) == (bench.pair.service, bench.pair.country)
    assert found.lease.number == order["phone"].lstrip("+")
    assert found.created_at == pytest.approx(since, abs=5)
    await bench.there.close(found.lease.reference, Outcome.CANCELLED)
    assert order["id"] not in {one.lease.reference for one in await bench.there.find(since)}


async def test_find_leaves_out_what_is_older(bench: Bench) -> None:
    if not isinstance(bench.there, Finds):
        pytest.skip("this upstream lists no open orders")
    await bench.buy()
    assert await bench.there.find(time.time() + 60) == []


# --- lists ---


async def test_many_are_read_as_each_would_be(bench: Bench) -> None:
    if not isinstance(bench.there, ReadsMany):
        pytest.skip("this upstream has no bulk call")
    leases = [await bench.buy() for _ in range(3)]
    bench.sim.deliver(leases[1].reference, "Your code is 12345")
    watched = [Watched(lease.reference, 1) for lease in leases]
    many = await bench.there.read_many([*watched, Watched(bench.pair.unknown_reference, 1)])
    assert set(many) == {lease.reference for lease in leases}
    for lease in leases:
        assert many[lease.reference] == await bench.read(lease)


async def test_closed_lease_is_missing_from_the_bulk_answer_or_reported_closed(bench: Bench) -> None:
    if not isinstance(bench.there, ReadsMany):
        pytest.skip("this upstream has no bulk call")
    lease = await bench.buy()
    await bench.there.close(lease.reference, Outcome.CANCELLED)
    progress = (await bench.there.read_many([Watched(lease.reference, 1)])).get(lease.reference)
    assert progress is None or progress.state is LeaseState.CANCELLED


async def test_offers_match_what_is_in_stock(bench: Bench) -> None:
    service, country = bench.pair.service, bench.pair.country
    before = (await bench.there.offers()).at(service, country)
    assert [(offer.cost, offer.count) for offer in before] == [(bench.money("0.40"), bench.stock(STOCK))]
    await bench.buy()
    table = await bench.there.offers()
    assert [offer.count for offer in table.at(service, country)] == [bench.stock(STOCK - 1)]
    assert len(set(table.pairs())) > 3


async def test_who_took_the_list_from_another_process_buys_as_who_read_it(pair: Pair) -> None:
    with simulated(pair) as (sim, address):
        async with talking(pair, sim, address) as reader, talking(pair, sim, address) as taker:
            table = await reader.there.offers()
            knowledge = reader.there.knowledge() if isinstance(reader.there, Learns) else {}
            data = seal(table, knowledge, time.time(), lambda words: sha256(words).digest())
            head = read_head(data[:HEAD_BYTES], lambda words: sha256(words).digest())
            taken, told = unpack(head, data[HEAD_BYTES:], taker.there.name, pair.currency)
            if isinstance(taker.there, Learns):
                taker.there.learn(told)
            assert taken.columns() == table.columns()
            assert (await taker.buy()).number
            # Nothing of what the list tells had to be asked for again.
            assert {verb for verb, _ in taker.observed.calls} <= {"auth", "buy", "price", "read"}
            assert (await taker.there.offers()).at(pair.service, pair.country)[0].cost == taker.money(PRICE)


@pytest.mark.parametrize("nonsense", [{}, {"services": 7}, {"services": {"tg": 7}, "sold": ["x"], "book": {"x": [1]}}])
async def test_nonsense_is_not_learnt(bench: Bench, nonsense: Mapping[str, Any]) -> None:
    if not isinstance(bench.there, Learns):
        pytest.skip("this upstream's list tells nothing but prices")
    await bench.there.offers()
    before = bench.there.knowledge()
    with pytest.raises((ValueError, TypeError, KeyError)):
        bench.there.learn(nonsense)
    assert bench.there.knowledge() == before


async def test_what_sells_nothing_is_not_offered(bench: Bench) -> None:
    bench.sim.set_stock(**bench.pair.shelf, count=0)
    assert (await bench.there.offers()).at(bench.pair.service, bench.pair.country) == ()


# --- errors ---


def verbs(bench: Bench, lease: Lease) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every verb this upstream has, ready to be called."""
    there, reference = bench.there, lease.reference
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "offers": there.offers,
        "buy": bench.buy,
        "read": lambda: bench.read(lease),
        "finish": lambda: there.close(reference, Outcome.FINISHED),
        "cancel": lambda: there.close(reference, Outcome.CANCELLED),
        "balance": there.balance,
    }
    if isinstance(there, ReadsMany):
        calls["read_many"] = lambda: there.read_many([Watched(reference, 1)])
    if isinstance(there, AsksAgain):
        calls["ask_again"] = lambda: there.ask_again(reference)
    if isinstance(there, Finds):
        calls["find"] = lambda: there.find(0)
    return calls


@pytest.mark.parametrize("effect", ["drop", "error", "bad_gateway", "html", "truncated", "rate_limit"])
async def test_every_verb_raises_upstream_errors_only_and_reports_each_request(bench: Bench, effect: str) -> None:
    lease = await bench.buy()
    asked, told = sum(bench.sim.requests.values()), len(bench.observed.calls)
    for verb, call in verbs(bench, lease).items():
        bench.sim.fault(f"any.{effect}")
        with pytest.raises(UpstreamError) as caught:
            await call()
        assert isinstance(caught.value, (Unwell, InDoubt, Refused)), verb
        assert lease.number not in str(caught.value)
    assert len(bench.observed.calls) - told == sum(bench.sim.requests.values()) - asked


async def test_values_of_other_types_are_never_taken_for_an_answer(bench: Bench) -> None:
    """Not for an empty list either: it would take everything off sale, or say that a lost purchase never was."""
    lease = await bench.buy()
    for verb, call in verbs(bench, lease).items():
        bench.sim.fault("any.wrong_types")
        if verb == "read_many":
            with suppress(Unwell):
                assert lease.reference not in await call(), "an unreadable row has to be asked for singly"
            continue
        with pytest.raises((Unwell, InDoubt, Refused)):
            await call()
