"""Arbitrary interleavings of everything that moves money: after each step, the books balance.

The use-cases are the real ones; the upstreams are scripted, the clock is the machine's, and the database goes away at
times, before a transaction or right after its commit.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.activations import UNKNOWN_TIMES_MAX
from gateway.errors import CallerError, Unavailable
from gateway.live import Live
from tests.scripted import Scripted, World, worlds

T = TypeVar("T")

BUYS = st.sampled_from(
    [
        "lease", "lease", "lease", "cheaper", "dearer", "again", "sold_out", "refused", "not_reached",
        "doubt", "doubt_taken", "doubt_hidden",
    ]
)  # fmt: skip
CLOSES = st.sampled_from(["accept", "accept", "too_early", "sms", "unwell", "deaf"])
VERBS = st.sampled_from(
    ["buy", "abandon", "sms", "poll", "ask_again", "finish", "cancel", "settle", "expire", "close", "overdue",
     "rent", "extend", "keep"]
)  # fmt: skip
EXTENDS = st.sampled_from(["accept", "refused", "not_reached", "doubt", "doubt_made"])
PLACES = st.integers(0, 30)

THOROUGHNESS = int(os.environ.get("STATE_MACHINE_THOROUGHNESS", "1"))
"""At 1 every run tries the same examples; above it, so many times as many, and new ones each time."""


class Machine(RuleBasedStateMachine):
    """One account, two upstreams. Rules call the gateway as its clients and loops do."""

    make: ClassVar[Callable[[], World]]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = type(self).make()
        self.known: list[Live] = []
        self.do(self.world.begin("1.00"))

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        try:
            self.do(self._end())
        finally:
            self.do(self.world.end())
            self.runner.close()

    async def _end(self) -> None:
        self.world.store.disarm()
        await self.world.settle_everything()
        await self.world.check_settled()

    # What happens

    @rule(cents=st.integers(1, 100))
    def deposit(self, cents: int) -> None:
        self.do(self._without_faults(lambda: self.world.deposit(f"{cents / 100:.2f}")))

    @rule(one=BUYS, two=BUYS, price_max=st.sampled_from(["", "", "0.11", "0.5"]))
    def buy(self, one: str, two: str, price_max: str) -> None:
        self._script(one, two)
        self.do(self._buy(price_max))

    @rule(verb=VERBS, place=PLACES, close=CLOSES)
    def act(self, verb: str, place: int, close: str) -> None:
        self._script_close(close)
        self.do(self._act(verb, place))

    @rule(one=BUYS, two=BUYS, price_max=st.sampled_from(["", "", "0.27", "0.5"]))
    def rent(self, one: str, two: str, price_max: str) -> None:
        self._script(one, two)
        self.do(self._rent(price_max))

    @rule(place=PLACES, plan=EXTENDS, is_readable=st.booleans())
    def extend(self, place: int, plan: str, is_readable: bool) -> None:
        for upstream in self.world.upstreams:
            upstream.extends.clear()
            upstream.extends.append(plan)
            upstream.is_readable = is_readable
        self.do(self._act("extend", place))
        for upstream in self.world.upstreams:
            upstream.is_readable = True

    @rule(verbs=st.tuples(VERBS, VERBS), place=PLACES, other=PLACES, buys=st.tuples(BUYS, BUYS), close=CLOSES)
    def two_at_once(self, verbs: tuple[str, str], place: int, other: int, buys: tuple[str, str], close: str) -> None:
        """Mostly on one and the same activation, which is where they can hurt each other."""
        self._script(*buys)
        self._script_close(close)
        self.do(self._together(verbs, place, place if other % 3 else other))

    @rule(seconds=st.sampled_from([1.0, 4.0, 12.0, 61.0, 130.0, 1300.0, 7300.0]))
    def time_passes(self, seconds: float) -> None:
        # An upstream that nobody could ask for so long would be one whose lost numbers are given up.
        self.world.watch.now += seconds if self.world.one.is_well else min(seconds, 1300.0)
        self.do(self.world.round())

    @rule()
    def lists_catch_up(self) -> None:
        self.world.one.show_hidden()

    @rule(place=PLACES, is_passing=st.booleans())
    def upstream_denies_a_number(self, place: int, is_passing: bool) -> None:
        self.do(self._deny(place, is_passing))

    @rule(place=PLACES)
    def upstream_calls_a_number_finished(self, place: int) -> None:
        live = self._number_at(place)
        if live is not None:
            self._upstream_of(live).finish(live.reference)

    @rule(is_well=st.booleans())
    def upstream_falls_ill_or_recovers(self, is_well: bool) -> None:
        self.world.one.is_well = is_well

    @rule(at=st.integers(0, 4), committed=st.booleans())
    def database_goes_away(self, at: int, committed: bool) -> None:
        self.world.store.fail(at, Unavailable, committed=committed)

    @precondition(lambda self: self.known)
    @rule()
    def process_restarts(self) -> None:
        self.do(self._restart())

    async def _restart(self) -> None:
        await self.world.gateway.purchases.drain()
        await self.world.boot()
        house = self.world.gateway.house
        self.known = [house.live.get(live.id) or live for live in self.known]

    # How

    def _script(self, one: str, two: str) -> None:
        for upstream, plan in zip(self.world.upstreams, (one, two), strict=True):
            upstream.buys.clear()
            upstream.buys.append(plan)

    def _script_close(self, plan: str) -> None:
        for upstream in self.world.upstreams:
            upstream.closes.clear()
            upstream.closes.append(plan)

    async def _without_faults(self, work: Callable[[], Awaitable[None]]) -> None:
        self.world.store.disarm()
        await work()

    async def _buy(self, price_max: str = "") -> None:
        listed = max(upstream.cost.micros for upstream in self.world.upstreams)
        try:
            live = await self.world.buy(self.world.order(price_max=price_max))
        except CallerError:
            return
        assert live.price_micros <= (listed if not price_max else int(float(price_max) * 1_000_000))
        assert live.id not in {other.id for other in self.known}
        self.known.append(live)
        self.world.gateway.handovers.answered(live)

    async def _rent(self, price_max: str = "") -> None:
        try:
            live = await self.world.rent(self.world.rental(price_max=price_max))
        except CallerError:
            return
        assert live.id not in {other.id for other in self.known}
        self.known.append(live)
        self.world.gateway.handovers.answered(live)

    async def _act(self, verb: str, place: int) -> None:
        gateway, caller = self.world.gateway, self.world.caller
        live = self.known[place % len(self.known)] if self.known else None
        plain: dict[str, Callable[[], Awaitable[Any]]] = {
            "buy": self._buy,
            "poll": self.world.poll,
            "settle": gateway.settling.settle,
            "expire": gateway.activations.expire,
            "close": gateway.activations.close_upstream,
            "overdue": self.world.tick,
            "rent": self._rent,
            "keep": gateway.activations.keep_rentals,
        }
        try:
            if verb in plain:
                await plain[verb]()
            elif live is None:
                return
            elif verb == "abandon":
                gateway.handovers.abandon(live, f"left-{live.id}")
            elif verb == "sms":
                await self._sms(live)
            elif verb == "extend":
                await self.world.extend(live)
            elif live.is_rental and verb in ("finish", "cancel"):
                await getattr(gateway.rentals, verb)(caller, live.id)
            else:
                await getattr(gateway.activations, verb)(caller, live.id)
        except CallerError:
            pass  # told to the caller; what matters is what it did to the money

    def _number_at(self, place: int) -> Live | None:
        live = self.known[place % len(self.known)] if self.known else None
        return None if live is None or live.is_rental else live

    def _upstream_of(self, live: Live) -> Scripted:
        return next(one for one in self.world.upstreams if one.name == live.upstream)

    async def _deny(self, place: int, is_passing: bool) -> None:
        live = self._number_at(place)
        if live is None:
            return
        denied = self._upstream_of(live).denied
        denied.add(live.reference)
        for _ in range(UNKNOWN_TIMES_MAX):
            with suppress(CallerError):
                await self.world.poll()
        if is_passing:
            denied.clear()

    async def _sms(self, live: Live) -> None:
        """A message arrives and is read at once, also for an activation that is over; not in every case a new one."""
        upstream = self._upstream_of(live)
        if len(upstream.sold[live.reference].messages) <= live.round or live.is_rental:
            upstream.sms(live.reference)
        await self.world.gateway.activations.take(live, live.round, upstream.progress(live.reference))

    async def _together(self, verbs: tuple[str, str], place: int, other: int) -> None:
        await asyncio.gather(self._act(verbs[0], place), self._act(verbs[1], other))

    # What has to be so

    @invariant()
    def the_books_balance(self) -> None:
        self.do(self.world.check())


def _run(make: Callable[[], World], examples: int, steps: int) -> None:
    machine = type("Machine", (Machine,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * THOROUGHNESS,
            stateful_step_count=steps,
            derandomize=THOROUGHNESS == 1,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


pytestmark = pytest.mark.timeout(300)  # hundreds of lives: more than a minute on a busy machine


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of orders are told of in a few seconds: nobody would read that."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


def test_the_books_balance_whatever_happens_on_sqlite(sqlite_url: str, tmp_path: Path) -> None:
    _run(worlds(sqlite_url, tmp_path), examples=100, steps=40)


def test_the_books_balance_whatever_happens_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    _run(worlds(postgres_url, tmp_path), examples=25, steps=30)
