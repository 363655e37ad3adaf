"""Upstreams that do what a test says next, and a gateway in this process that buys from them on a clock of the test's.

No loop runs here: a test calls the rounds itself, and may drop a gateway at any point and build the next one on the
same database, as a machine that loses its power would.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from gateway import accounts, ledger
from gateway.accounts import Caller
from gateway.app import Gateway
from gateway.attempts import RENTAL_IN_DOUBT_SECONDS
from gateway.database import Database, open_database
from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    NotReached,
    Refused,
    SoldOut,
    TooEarly,
    Unavailable,
    UnknownLease,
    Unwell,
)
from gateway.live import Live
from gateway.model import (
    BuyOrder,
    Found,
    Lease,
    LeaseState,
    Order,
    Outcome,
    Product,
    Progress,
    RentOffer,
    Sms,
    Watched,
)
from gateway.money import Money, parse
from gateway.offers import view_of
from gateway.store import Store, Tx, connect, sqlite_path
from gateway.upstream import OfferTable, Upstream
from tests.harness import config_directory, environment

SERVICE, COUNTRY = "tg", 6
START = 1_750_000_000.0

STANZAS = """
[one]
adapter = "handler_api"
base_url = "http://127.0.0.1:9/"
priority = 1
exclusive = true

[two]
adapter = "handler_api"
base_url = "http://127.0.0.1:9/"
priority = 2
"""


class Died(BaseException):
    """The process is gone: nothing below may handle it."""


class Watch:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Sold:
    """A number this upstream handed out, as its own books have it."""

    reference: str
    order: BuyOrder
    cost: Money
    at: float
    is_listed: bool = True
    was_hidden: bool = False
    state: LeaseState = LeaseState.OPEN
    messages: list[Sms] = field(default_factory=list)
    is_rental: bool = False
    ends_at: float | None = None
    extended: list[Money] = field(default_factory=list)
    number: str = ""

    @property
    def is_paid(self) -> bool:
        return self.state is not LeaseState.CANCELLED


class Scripted:
    """An upstream without a list of open orders. `buys` and `closes` say what the next calls do; empty: what is asked.

    buys:   lease, cheaper, dearer, again, slow (sold, and told when `gate` opens), sold_out, refused, not_reached,
            doubt, doubt_taken, doubt_hidden
    closes: accept, too_early, sms, unwell, deaf (done, but the answer is lost), never
    extends: accept, refused, not_reached, doubt, doubt_made, anew (another rental instead), known (a lease we have)

    `numbers` are the ones handed over next; empty: new ones. Leases in `denied` are not known to whoever reads them.

    A rental is bought by the same plans, at `cost` an hour. Numbers are handed out again, and for further services, by
    them too.
    """

    def __init__(self, name: str, clock: Callable[[], float], cost_micros: int) -> None:
        self.name = name
        self.clock = clock
        self.cost = Money(cost_micros, "USD")
        self.buys: deque[str] = deque()
        self.closes: deque[str] = deque()
        self.extends: deque[str] = deque()
        self.numbers: deque[str] = deque()
        self.asked: list[BuyOrder] = []
        self.sold: dict[str, Sold] = {}
        self.is_well = self.is_readable = True
        self.denied: set[str] = set()
        self.has_sold, self.gate = asyncio.Event(), asyncio.Event()
        self._serial = itertools.count(1)

    async def offers(self) -> OfferTable:
        return OfferTable(self.name, "USD", [(SERVICE, COUNTRY, self.cost.micros, 1000, "", None)])

    async def buy(self, order: BuyOrder) -> Lease:
        return await self._by_plan(order, self.cost)

    async def rent_countries(self) -> Collection[int]:
        return {COUNTRY}

    async def rent_offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        if not self.is_well:
            raise Unwell("not now")
        hours = max(hours, 2)
        return [RentOffer(self.name, "full", COUNTRY, hours, self._rent_cost(hours), 10)] if country == COUNTRY else []

    async def rent(self, order: BuyOrder) -> Lease:
        return await self._by_plan(order, self._rent_cost(order.hours))

    def _rent_cost(self, hours: int) -> Money:
        return Money(self.cost.micros * hours, "USD")

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        if not self.is_well:
            raise Unwell("not now")
        sold = self.sold.get(reference)
        if sold is None or sold.state is not LeaseState.OPEN:
            raise NotAllowed("over")
        return self._rent_cost(max(hours, 2)), max(hours, 2)

    async def extend(self, order: BuyOrder) -> float:
        self.asked.append(order)
        plan = self.extends.popleft() if self.extends else "accept"
        await asyncio.sleep(0)
        sold = self.sold[order.lease_reference]
        match plan:
            case "refused":
                raise Refused("not by that")
            case "not_reached":
                raise NotReached("no connection")
            case "doubt":
                raise InDoubt("the reply was lost, and nothing was done")
            case "anew":
                other = self._sell(order, self._rent_cost(order.hours))
                raise InDoubt("rented anew", reference=other.reference)
            case "known":
                raise InDoubt("rented anew", reference=order.lease_reference)
        assert sold.ends_at is not None
        sold.ends_at += order.hours * 3600
        sold.extended.append(self._rent_cost(order.hours))
        if plan == "doubt_made":
            raise InDoubt("the reply was lost")
        return sold.ends_at

    async def reuse_cost(self, reference: str, number: str, service: str, country: int) -> Money:
        if self.sold[reference].state is LeaseState.CANCELLED:
            raise NotAllowed("never had a message")
        return self.cost

    async def reuse(self, order: BuyOrder) -> Lease:
        return await self._by_plan(order, self.cost)

    async def add_service(self, order: BuyOrder) -> Lease:
        return await self._by_plan(order, self.cost)

    async def _by_plan(self, order: BuyOrder, cost: Money) -> Lease:
        self.asked.append(order)
        plan = self.buys.popleft() if self.buys else "lease"
        await asyncio.sleep(0)
        match plan:
            case "sold_out":
                raise SoldOut("none left")
            case "refused":
                raise Refused("not today", is_fault=True)
            case "not_reached":
                raise NotReached("no connection")
            case "doubt":
                raise InDoubt("the reply was lost, and nothing was taken")
            case "doubt_taken" | "doubt_hidden":
                self._sell(order, cost, is_listed=plan == "doubt_taken")
                raise InDoubt("the reply was lost")
            case "slow":
                sold = self._sell(order, cost)
                await self.gate.wait()
                return self._lease(sold)
            case "again" if self.sold:
                return self._lease(next(iter(self.sold.values())))
            case "dearer":
                return self._lease(self._sell(order, Money(order.cost_max.micros + 100, "USD")))
            case "cheaper":
                return self._lease(self._sell(order, Money(cost.micros // 2, "USD")))
        return self._lease(self._sell(order, cost))

    def _sell(self, order: BuyOrder, cost: Money, *, is_listed: bool = True) -> Sold:
        is_rental = order.hours > 0
        reference = f"{'rent:' if is_rental else ''}{self.name}-{next(self._serial)}"
        ends_at = self.clock() + order.hours * 3600 if is_rental else None
        self.sold[reference] = Sold(
            reference, order, cost, self.clock(), is_listed, not is_listed, is_rental=is_rental, ends_at=ends_at,
            number=self.numbers.popleft() if self.numbers else "",
        )  # fmt: skip
        self.has_sold.set()
        return self.sold[reference]

    def _lease(self, sold: Sold) -> Lease:
        number = sold.order.lease_number or sold.number or self._new_number(sold)
        return Lease(sold.reference, number, sold.cost, "telkomsel", sold.ends_at)

    def _new_number(self, sold: Sold) -> str:
        """No two upstreams have the same number, unless told."""
        return ("62810" if self.name == "two" else "62800") + sold.reference.partition("-")[2].rjust(7, "0")

    async def read(self, watched: Watched) -> Progress:
        if not self.is_well or not self.is_readable:
            raise Unwell("not now")
        if watched.reference in self.denied:
            return Progress(LeaseState.UNKNOWN)
        return self.progress(watched.reference)

    def progress(self, reference: str) -> Progress:
        """What the books say of a lease."""
        sold = self.sold.get(reference)
        if sold is None:
            return Progress(LeaseState.UNKNOWN)
        return Progress(sold.state, tuple(sold.messages), sold.ends_at)

    async def ask_again(self, reference: str) -> str | None:
        if not self.sold[reference].messages:
            raise NotAllowed("no code yet")
        return None

    async def close(self, reference: str, outcome: Outcome) -> None:
        plan = self.closes.popleft() if self.closes else "accept"
        await asyncio.sleep(0)
        sold = self.sold.get(reference)
        if sold is None:
            raise UnknownLease("no such lease")
        if plan == "unwell" or not self.is_well:
            raise Unwell("not now")
        if sold.state is LeaseState.OPEN:
            self._close_open(sold, outcome, plan)
        elif (sold.state is LeaseState.CANCELLED) is not (outcome is Outcome.CANCELLED):
            raise NotAllowed("over already")
        if plan == "deaf":
            raise Unwell("the reply was lost")

    def _close_open(self, sold: Sold, outcome: Outcome, plan: str) -> None:
        if outcome is Outcome.FINISHED:
            sold.state = LeaseState.FINISHED
            return
        if plan == "too_early":
            raise TooEarly(10.0)
        if plan == "never":
            raise NotAllowed("not this one")
        if plan == "sms":
            self.sms(sold.reference)
        if sold.messages:
            raise HasSms
        sold.state = LeaseState.CANCELLED

    async def balance(self) -> Money:
        return Money(10**9, "USD")

    async def aclose(self) -> None:
        """Nothing to close."""

    # What a test does to it

    def sms(self, reference: str) -> None:
        """A new message arrives for an open lease."""
        sold = self.sold[reference]
        if sold.state is LeaseState.OPEN:
            count = len(sold.messages) + 1
            sold.messages.append(Sms(str(1000 + count), f"code {1000 + count}", identity=f"{reference}:{count}"))

    def finish(self, reference: str) -> None:
        """It calls an open lease finished of its own accord."""
        sold = self.sold[reference]
        if sold.state is LeaseState.OPEN:
            sold.state = LeaseState.FINISHED

    def show_hidden(self) -> None:
        """Leases that were slow to appear in the list do so now."""
        for sold in self.sold.values():
            sold.is_listed = True


class Listing(Scripted):
    """As `Scripted`, with a list of its open orders. `before_find` happens while the list is on its way."""

    before_find: Callable[[], Awaitable[None]] | None = None

    async def find(self, since: float) -> Sequence[Found]:
        if self.before_find is not None:
            work, self.before_find = self.before_find, None
            await work()
        if not self.is_well:
            raise Unwell("not now")
        return [
            Found(self._lease(sold), sold.order.service, sold.order.country, sold.at, sold.is_rental)
            for sold in self.sold.values()
            if sold.is_listed and sold.state is LeaseState.OPEN and sold.at >= since
        ]


class Moving(Listing):
    """Asked for another SMS, it makes a new order with the same number, at a cost; the one before shows its own still.

    resends: move, stay, refused, lost (made, and the answer is lost), late (as lost, and not listed yet), known (the
    newest lease we have)
    """

    moves_leases = True

    def __init__(self, name: str, clock: Callable[[], float], cost_micros: int) -> None:
        super().__init__(name, clock, cost_micros)
        self.resends: deque[str] = deque()
        self.before_move: Callable[[], Awaitable[None]] | None = None
        """Happens after the new order was made, and before that is told."""

    async def ask_again(self, reference: str) -> str | None:
        plan = self.resends.popleft() if self.resends else "move"
        await super().ask_again(reference)
        if plan == "refused":
            raise NotAllowed("no more of this number")
        if plan in ("stay", "known"):
            return max(self.sold) if plan == "known" else None
        former = self.sold[reference]
        order = replace(former.order, lease_number=self._lease(former).number)
        newer = self._sell(order, self.cost, is_listed=plan != "late")
        if self.before_move is not None:
            work, self.before_move = self.before_move, None
            await work()
        if plan != "move":
            raise Unwell("the reply was lost")
        return newer.reference

    async def close(self, reference: str, outcome: Outcome) -> None:
        """An order that was made for another SMS, and got none, is given back."""
        sold = self.sold.get(reference)
        is_used = sold is None or bool(sold.messages)
        await super().close(reference, outcome if is_used else Outcome.CANCELLED)


class Counting(Listing):
    """Tells the end of no rental, only how often one was extended."""

    async def extensions_made(self, reference: str, hours: int) -> int:
        return len(self.sold[reference].extended)

    async def read(self, watched: Watched) -> Progress:
        lost, progress = watched.extension, await super().read(watched)
        if lost is None:
            return replace(progress, expires_at=None)
        was_made = len(self.sold[watched.reference].extended) > lost.made_before
        return replace(progress, expires_at=lost.ends_at + (lost.hours * 3600 if was_made else 0))


class Faulty:
    """A store that fails at a chosen unit of work: before it, or after it was committed."""

    def __init__(self, store: Store) -> None:
        self.dialect = store.dialect
        self.units: list[str] = []
        self._store = store
        self._plan: tuple[int, bool, type[BaseException]] | None = None
        self._is_dead = False

    def fail(self, at: int, error: type[BaseException], *, committed: bool) -> None:
        """The unit number `at` from now on (0: the next one) raises; after `Died` so does every later one."""
        self._plan = (len(self.units) + at, committed, error)

    def disarm(self) -> bool:
        """Forgets the plan; whether it was still to come."""
        was_armed, self._plan = self._plan is not None, None
        return was_armed

    async def run(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._is_dead:
            raise Died
        number = len(self.units)
        self.units.append(unit.__name__)
        if self._plan is None or self._plan[0] != number:
            return await self._store.run(unit, *args, **kwargs)
        _, committed, error = self._plan
        self._plan, self._is_dead = None, issubclass(error, Died)
        if committed:
            await self._store.run(unit, *args, **kwargs)
        raise error()

    @property
    def full_at(self) -> float:
        return self._store.full_at

    async def read(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._is_dead:
            raise Died
        return await self._store.read(unit, *args, **kwargs)

    async def close(self) -> None:
        await self._store.close()


TABLES = (
    "ended_sessions, users, seals, payments, vouchers, voucher_batches, voucher_tries, recharge_runs, recharges,"
    " notices, messages, transfers, ledger, holds, counters, rules, balances, attempts, activations, api_keys,"
    " account_tree, accounts, fuses, fuse_stops"
)


def worlds(url: str, parent: Path, gateway: str = "") -> Callable[[], World]:
    """Makes worlds one after the other, each with an empty database of this kind: copied or emptied, which is quick."""
    directory = config_directory(parent, STANZAS, gateway)
    values = environment(url, ONE_API_KEY="k" * 32, TWO_API_KEY="k" * 32)
    open_database(values)
    numbers = itertools.count(1)

    def next_sqlite() -> World:
        path = parent / f"world-{next(numbers)}.db"
        shutil.copy(sqlite_path(url), path)
        return World({**values, "DATABASE_URL": f"sqlite:///{path}"}, directory)

    def next_postgres() -> World:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"truncate {TABLES} cascade")
        return World(values, directory)

    return next_sqlite if url.startswith("sqlite") else next_postgres


class World:
    """Two upstreams (`one` can be asked for its open orders, `two` cannot), a database, a gateway, and the time."""

    def __init__(self, values: Mapping[str, str], directory: Path) -> None:
        self.watch = Watch()
        self.one = Listing("one", self.watch, 100_000)
        self.two = Scripted("two", self.watch, 120_000)
        self.deposited = 0
        self._values = values
        self._directory = directory
        self._opened: Database = open_database(values)
        self._orders = itertools.count(1)
        self._stores: list[Store] = [self._opened.store]
        self.caller: Caller
        self.gateway: Gateway
        self.store: Faulty

    async def begin(self, money: str = "10.00") -> None:
        """The first start, with one account."""

        def create(tx: Tx) -> str:
            accounts.create(tx, "alice", "USD", START, is_demo=False)
            return accounts.issue_key(tx, self._opened.vault, "alice", START)

        key = await self._opened.store.run(create)
        await self.boot()
        self.caller = await self.gateway.callers.caller(key)
        await self.deposit(money)

    async def boot(self) -> None:
        """A new process on the same database: whatever was only in memory is gone."""
        inner = connect(self._opened.url)
        self._stores.append(inner)
        self.store = Faulty(inner)
        database = Database(self._opened.url, self.store, self._opened.vault, self._opened.directory)
        self.gateway = gateway = Gateway(self._directory, self._values, database, self.watch)
        built: Sequence[Upstream] = list(gateway.house.upstreams.values())
        for upstream in built:
            await upstream.aclose()
        gateway.house.upstreams = {"one": self.one, "two": self.two}
        gateway.house.market.apply(view_of(gateway.house.settings, gateway.house.upstreams))
        await gateway.activations.restore()
        await gateway.settling.recover()

    async def end(self) -> None:
        """Waits for what is in flight and closes the database."""
        for upstream in self.upstreams:
            upstream.gate.set()
        await self.gateway.purchases.drain()
        for store in self._stores:
            await store.close()

    @property
    def upstreams(self) -> tuple[Scripted, Scripted]:
        return self.one, self.two

    async def deposit(self, amount: str) -> None:
        """Money from outside."""
        money = parse(amount, "USD")
        await self.store.run(ledger.deposit, self.caller.account_id, money, self.watch(), actor="test")
        self.deposited += money.micros

    def order(self, fingerprint: str = "", price_max: str = "") -> Order:
        """An order that no other one is identical to, unless told."""
        cap = parse(price_max, "USD") if price_max else None
        return Order(SERVICE, COUNTRY, price_max=cap, fingerprint=fingerprint or f"order-{next(self._orders)}")

    async def buy(self, order: Order | None = None, is_gone: Callable[[], bool] = lambda: False) -> Live:
        """An order through the real use-case, from fresh price lists."""
        for upstream in self.upstreams:
            self.gateway.house.market.put(upstream.name, await upstream.offers())
        return await self.gateway.purchases.open(self.caller, order or self.order(), is_gone)

    def rental(self, fingerprint: str = "", hours: int = 2, price_max: str = "") -> Order:
        """An order for a rental that no other one is identical to, unless told."""
        order = self.order(fingerprint, price_max)
        return replace(order, service="full", product=Product.RENTAL, hours=hours)

    async def rent(self, order: Order | None = None, is_gone: Callable[[], bool] = lambda: False) -> Live:
        """A rental through the real use-case."""
        return await self.gateway.rentals.open(self.caller, order or self.rental(), is_gone)

    async def extend(self, rental: Live, fingerprint: str = "", hours: int = 2) -> Live:
        """More time for it, likewise."""
        order = replace(self.order(fingerprint), product=Product.EXTENSION, hours=hours, parent_id=rental.id)
        return await self.gateway.rentals.extend(self.caller, order, lambda: False)

    async def poll(self) -> None:
        """One look at every open lease, as the pollers have it."""
        for upstream in self.upstreams:
            for live in list(self.gateway.house.live.at_upstream(upstream.name).values()):
                if not live.is_over_upstream and upstream.is_well:
                    progress = await upstream.read(Watched(live.reference, live.round))
                    await self.gateway.activations.take(live, live.round, progress)

    async def round(self) -> None:
        """What the worker's loops do in one round each; a database that is away costs the round, as there."""
        gateway = self.gateway
        tell = gateway.activations.close_upstream
        for work in (gateway.handovers.note_answered, self.tick, tell, gateway.worker._settle, self.poll):
            try:
                await work()
            except Unavailable:
                continue

    async def tick(self) -> None:
        """What the loops do once a second; what time does to activations at every upstream."""
        gateway = self.gateway
        await gateway.worker._tick()
        await gateway.activations.keep_rentals()
        await gateway.activations.expire()
        await gateway.worker._give_back_abandoned()

    async def settle_everything(self) -> None:
        """Time passes until nothing is left to do: an hour and a half in growing steps, and a day for lost rentals."""
        for upstream in self.upstreams:
            upstream.buys.clear()
            upstream.closes.clear()
            upstream.extends.clear()
            upstream.is_well = upstream.is_readable = True
            upstream.denied.clear()
            upstream.show_hidden()
        for seconds in (0, 1, 3, 6, 35, 61, 100, 130, 400, 700, 900, 1200, 1600, 61, 61):
            self.watch.now += seconds
            await self.round()
        while ends := [live.expires_at for live in self.gateway.house.live.all_open() if live.is_rental]:
            self.watch.now = max(self.watch.now, *ends) + 1
            await self.round()
        self.watch.now += RENTAL_IN_DOUBT_SECONDS
        await self.round()
        await self.round()

    # What is so

    async def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        """What the database holds, asked beside the gateway."""

        def read(tx: Tx) -> list[dict[str, Any]]:
            return [dict(row) for row in tx.all(sql, **values)]

        return await self._opened.store.read(read)

    async def problems(self) -> list[str]:
        """What `ledger verify` finds."""
        return await self._opened.store.read(ledger.verify)

    async def balance(self) -> ledger.Balance:
        """What the account has."""
        return await self._opened.store.read(ledger.balance, self.caller.account_id)

    async def captured(self) -> int:
        """What the account was charged in all."""
        rows = await self.rows("select coalesce(sum(amount), 0) as total from ledger where kind = 'capture'")
        return int(rows[0]["total"])

    async def check(self) -> None:
        """What has to be so at any moment."""
        assert await self.problems() == []
        balance, captured = await self.balance(), await self.captured()
        assert min(balance.available.micros, balance.held.micros, balance.open_count) >= 0
        assert balance.available.micros == self.deposited - captured - balance.held.micros
        closings = "select activation_id from ledger where kind in ('capture', 'release') group by activation_id"
        assert await self.rows(f"{closings} having count(*) > 1") == []

    async def check_attached(self) -> None:
        """Every number sold to us is an activation's, or was given back, or is down as an attempt to settle."""
        rows = await self.rows("select upstream, reference from activations where reference is not null")
        rows += await self.rows("select upstream, reference from attempts where reference is not null")
        named = {(row["upstream"], row["reference"]) for row in rows}
        doubts = await self.rows("select upstream from attempts where state in ('in_doubt', 'gone')")
        for upstream in self.upstreams:
            unnamed = [
                sold
                for sold in upstream.sold.values()
                if sold.state is LeaseState.OPEN and (upstream.name, sold.reference) not in named
            ]
            assert len(unnamed) <= sum(row["upstream"] == upstream.name for row in doubts)

    async def check_settled(self) -> None:
        """What has to be so when nothing is under way any more."""
        await self.check()
        await self.check_attached()
        assert (await self.balance()).held.micros == 0
        assert await self.rows("select id from activations where ended_at is null") == []
        assert list(self.gateway.house.live.all_open()) == []
        assert await self.rows("select id from attempts where state in ('pending', 'in_doubt', 'orphan')") == []
        assert await self.rows("select id from activations where close_outcome is not null") == []
        costs = await self.rows(
            "select a.upstream, a.reference, l.kind, l.amount from ledger l"
            " join activations a on a.id = l.activation_id where l.kind in ('cost', 'loss')"
            " and a.product <> 'extension'"
        )
        booked = {(row["upstream"], row["reference"]): row for row in costs}
        attempts = await self.rows("select upstream, reference, state from attempts where reference is not null")
        states = {(row["upstream"], row["reference"]): row["state"] for row in attempts}
        for upstream in self.upstreams:
            for sold in upstream.sold.values():
                place = (upstream.name, sold.reference)
                row = booked.get(place)
                if not sold.is_paid:
                    assert row is None, f"{place} was given back, and booked all the same"
                elif row is not None:
                    assert row["amount"] == sold.cost.micros
                else:
                    assert self._is_accounted(upstream, sold, states.get(place)), f"{place} was paid for and forgotten"

        await self._check_extensions()

    async def _check_extensions(self) -> None:
        """Each extension made upstream is somebody's, or the operator's loss."""
        rows = await self.rows(
            "select l.amount from ledger l join activations a on a.id = l.activation_id"
            " where a.product = 'extension' and l.kind = 'cost'"
        )
        notes = await self.rows(
            "select amount, note from ledger where kind = 'loss' and actor = 'settle' and note like 'attempt %'"
        )
        made = [cost.micros for upstream in self.upstreams for sold in upstream.sold.values() for cost in sold.extended]
        extensions = await self.rows("select id from attempts where product = 'extension'")
        lost = {f"attempt {row['id']}" for row in extensions}
        booked = [row["amount"] for row in rows] + [row["amount"] for row in notes if row["note"] in lost]
        assert sorted(booked) == sorted(made)

    def _is_accounted(self, upstream: Scripted, sold: Sold, state: str | None) -> bool:
        """Only what no list told us of in time, or what could not be given back, may stay unknown."""
        return state == "gone" or (state is None and (sold.was_hidden or not isinstance(upstream, Listing)))
