"""The loops behind the answers: poll, expire, settle, tell, refresh. Each survives whatever one round of it meets."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from gateway import caps, handed, usage
from gateway.accounts import Callers
from gateway.activations import Activations
from gateway.apart import note_unexpected
from gateway.archivist import Archivist
from gateway.errors import CallerError, NotAllowedNow, Unavailable, UpstreamError
from gateway.feed import Feed
from gateway.handovers import Handovers
from gateway.house import House
from gateway.inbox import drop_pushes
from gateway.leases import AllMine, Leases
from gateway.live import Live
from gateway.overseer import Overseer
from gateway.poller import Poller
from gateway.pricelists import PriceLists
from gateway.purchases import Purchases
from gateway.readers import WRITE_SECONDS, Readers
from gateway.recharger import Recharger
from gateway.reencryption import Resealer
from gateway.retention import ROUND_SECONDS as FORGET_SECONDS
from gateway.retention import Keeper
from gateway.seals import ROUND_SECONDS as SEAL_SECONDS
from gateway.seals import Sealer
from gateway.sessions import Sessions
from gateway.settling import Settling
from gateway.store import Row, Tx
from gateway.upstream import Tidies
from gateway.webhook_watch import WebhookWatch
from gateway.webhooks import Courier

ANSWERED_SECONDS = 0.25
TICK_SECONDS = 1.0
SETTLE_SECONDS = 5.0
STRANGERS_SECONDS = 60.0
TIDY_SECONDS = 60.0
USAGE_SECONDS = 30.0
USAGE_PAUSE_SECONDS = 0.05
"""Between two batches while there are more: whoever buys meanwhile does not wait behind all of them."""

DAY_SECONDS = 86_400.0
PUSHES_KEPT_SECONDS = 30 * 86_400.0
LEASED_PAUSE_SECONDS = 0.25
"""How often a loop looks whether its work has become this process's."""

LAST_CLOSINGS_SECONDS = 3.0
"""How long a stop waits for what is being told to upstreams."""

FAILED_ROUND_SECONDS = 1.0
ENDS = "ends"
"""What time does to activations, as work that is leased."""

REPORT = "report"
TOGETHER = 25
UPSTREAM_LOOPS = ("poll", "ends", "offers", "balance")

Round = Callable[[], Awaitable[float]]
"""One round of a loop; returns how many seconds to wait before the next."""

log = structlog.get_logger()


class Worker:
    """Runs the loops of one gateway until it is stopped.

    Some belong to every process. The others do work for all of them, and run where the lease of that work is held.
    """

    def __init__(
        self,
        house: House,
        leases: Leases | AllMine,
        feed: Feed | None,
        callers: Callers,
        sessions: Sessions,
        activations: Activations,
        purchases: Purchases,
        handovers: Handovers,
        settling: Settling,
        courier: Courier,
        overseer: Overseer,
        price_lists: PriceLists,
        readers: Readers,
        recharger: Recharger,
        webhook_watch: WebhookWatch,
        keeper: Keeper,
        archivist: Archivist,
    ) -> None:
        self._house = house
        self._leases = leases
        self._feed = feed
        self._callers = callers
        self._sessions = sessions
        self._activations = activations
        self._purchases = purchases
        self._handovers = handovers
        self._settling = settling
        self._courier = courier
        self._overseer = overseer
        self._price_lists = price_lists
        self._readers = readers
        self._recharger = recharger
        self._webhook_watch = webhook_watch
        self._keeper = keeper
        self._resealer = Resealer(house.store, house.vault, house.clock, house.metrics)
        self._archivist = archivist
        self._sealer = Sealer(house.store, house.vault)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leased: set[str] = set()
        self._works = True
        self._oversees = isinstance(leases, AllMine)
        """Whether this process knows of the alerts that stand, and so may show some."""
        self.is_database_well = True

    def start(self, *, works: bool = True) -> None:
        """Starts every loop, and those of each upstream; without work only those that serving needs."""
        self._works = works
        self._begin("answered", self._note_answered)
        self._begin("tick", self._tick)
        self._begin("abandoned", self._give_back_abandoned)
        self._begin("readers", self._note_readers)
        # In every process: each notes under which key it seals, and how late its loop is.
        self._begin("reencryption", self._resealer.round)
        self._begin("pulse", self._overseer.feel_pulse)
        self._begin("forget", self._forget)
        if self._feed is not None:
            self._begin("feed", self._feed.round)
            self._begin("asked", self._feed.tell_asked)
            self._begin("watch", self._watch)
        if works:
            self._begin("notices", self._courier.round)
            for name, one_round in self._shared_work().items():
                self._begin(name, one_round, lease=name)
            for name, one_round in self._alerting_work().items():
                self._begin(name, one_round, lease=REPORT)
        if works and isinstance(self._leases, Leases):
            self._leased.add(ENDS)
            self._begin("leases", self._renew)
        self.follow_upstreams()

    def _shared_work(self) -> dict[str, Round]:
        return {
            "strangers": self._sweep_strangers,
            REPORT: self._overseer.report,
            "tidy": self._tidy,
            "seal": self._seal,
            "usage": self._roll_up,
        }

    def _alerting_work(self) -> dict[str, Round]:
        """What shows alerts, done where they are written down: so each is told of once."""
        return {
            "close": self._close_upstream,
            "settle": self._settle,
            "recharge": self._recharger.round,
            "payment hook": self._recharger.call,
            "webhook watch": self._webhook_watch.round,
            "retention": self._keeper.round,
            "backup": self._archivist.round,
            "queues": self._overseer.look_at_queues,
            "captures": self._overseer.measure_captures,
        }

    def follow_upstreams(self) -> None:
        """Starts the loops of upstreams that are new, ends those of upstreams that are gone. Called after a reload."""
        wanted = {f"{kind}:{name}" for name in self._house.upstreams for kind in UPSTREAM_LOOPS}
        running = {key for key in self._tasks if ":" in key}
        for key in running - wanted:
            self._tasks.pop(key).cancel()
            self._leased.discard(key)
            kind, _, name = key.partition(":")
            if kind == "offers":
                self._house.metrics.forget_offers(name)
        for name in self._house.upstreams:
            if f"offers:{name}" in running:
                continue
            self._house.metrics.await_offers(name)
            self._begin(f"offers:{name}", partial(self._price_lists.round, name))
            if self._works:
                self._begin(f"poll:{name}", Poller(self._house, self._activations, name).sweep, lease=f"poll:{name}")
                self._begin(f"ends:{name}", partial(self._end_due, name), lease=ENDS)
                self._begin(f"balance:{name}", partial(self._overseer.look_at_balance, name), lease=REPORT)

    async def stop(self) -> None:
        """Ends the loops, then settles what is in flight."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._purchases.drain()
        await self._settling.let_go()
        if not tasks:
            return  # never started: a command line that looks on must not act upstream
        try:
            await self._handovers.note_answered()
            if self._reports():
                await self._overseer.write()
            await self._readers.write()
            if self._reports():
                await self._activations.close_upstream(waits=False)
                await self._activations.leave_upstreams(LAST_CLOSINGS_SECONDS)
            if isinstance(self._leases, Leases):
                await self._leases.give_back()
        except Unavailable:
            log.warning("stop.database_away")

    def _begin(self, name: str, one_round: Round, *, lease: str = "") -> None:
        """With a lease the loop runs only while this process holds that."""
        if lease:
            self._leased.add(lease)
        self._tasks[name] = asyncio.create_task(self._loop(name, one_round, lease), name=name)

    async def _loop(self, name: str, one_round: Round, lease: str) -> None:
        while True:
            if lease and not self._leases.holds(lease):
                if name == REPORT and self._oversees:
                    self._oversees = False
                    self._overseer.let_go()
                await asyncio.sleep(LEASED_PAUSE_SECONDS)
                continue
            try:
                if lease == REPORT and not self._oversees:
                    if name != REPORT:
                        await asyncio.sleep(LEASED_PAUSE_SECONDS)
                        continue
                    await self._take_over()
                seconds = await one_round()
            except Unavailable:
                self._database(is_well=False)
                seconds = FAILED_ROUND_SECONDS
            except Exception:
                log.exception("loop.failed", loop=name)
                seconds = FAILED_ROUND_SECONDS
            await asyncio.sleep(seconds)

    async def _take_over(self) -> None:
        """Another process has told of what was wrong until now: goes on from there, by what is so by now."""
        await self._settling.watch()
        await self._overseer.restore()
        self._oversees = True

    def _database(self, *, is_well: bool) -> None:
        if is_well is not self.is_database_well:
            self.is_database_well = is_well
            self._house.metrics.database_up.set(is_well)
            log.warning("database.changed", is_well=is_well)

    async def _note_answered(self) -> float:
        await self._handovers.note_answered()
        return ANSWERED_SECONDS

    async def _tick(self) -> float:
        """What is quick, and can't wait for anything. Each part is done whatever happened to another."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "keys": self._callers.refresh,
            "sessions": self._sessions.refresh,
            "switches": self._overseer.follow_switches,
            "ends": self._end_removed,
            "measures": self._measure,
        }
        is_away = False
        for name, part in parts.items():
            try:
                await part()
            except Unavailable:
                is_away = True
            except Exception:
                log.exception("loop.failed", loop="tick", part=name)
        if is_away:
            raise Unavailable
        self._database(is_well=True)
        return TICK_SECONDS

    async def _end_due(self, upstream: str) -> float:
        """What time does to the numbers of one upstream: one that hangs keeps no other's waiting."""
        await self._activations.keep_rentals(upstream)
        await self._activations.expire(upstream)
        return TICK_SECONDS

    async def _end_removed(self) -> None:
        """As `_end_due`, for upstreams that are out of the configuration: nobody is asked there."""
        if self._works and self._leases.holds(ENDS):
            for name in self._house.live.upstreams():
                if name not in self._house.upstreams:
                    await self._end_due(name)

    async def _give_back_abandoned(self) -> float:
        overdue = await self._handovers.overdue()
        by_upstream = defaultdict[str, list[Live]](list)
        for live in overdue:
            by_upstream[live.upstream].append(live)
        await asyncio.gather(*map(self._give_back_each, by_upstream.values()))
        return TICK_SECONDS

    async def _give_back_each(self, lives: Sequence[Live]) -> None:
        for start in range(0, len(lives), TOGETHER):
            await asyncio.gather(*map(self._give_back, lives[start : start + TOGETHER]))

    async def _give_back(self, live: Live) -> None:
        try:
            await self._activations.give_back(live)
        except NotAllowedNow:
            pass  # its code came after all, and was paid for
        except Exception as error:
            self._handovers.abandon(live, "")
            if not isinstance(error, CallerError):
                note_unexpected(live, "give back", error)

    async def _close_upstream(self) -> float:
        await self._activations.close_upstream(waits=False)
        return TICK_SECONDS

    async def _watch(self) -> float:
        if not self._reports():  # whoever settles looks then
            await self._settling.watch()
        return SETTLE_SECONDS

    async def _forget(self) -> float:
        if self._reports():  # whoever deletes forgets then
            return FORGET_SECONDS
        return await self._keeper.forget()

    def _reports(self) -> bool:
        """Whether this process does the work that shows alerts."""
        return self._works and self._leases.holds(REPORT)

    async def _renew(self) -> float:
        leases = self._leases
        return await leases.round(self._leased) if isinstance(leases, Leases) else TICK_SECONDS

    async def _measure(self) -> None:
        house = self._house
        house.metrics.open_activations.set(len(house.live.all_open()))
        house.metrics.holds_open.clear()
        house.metrics.holds_amount.clear()
        for row in await house.store.read(_holds):
            house.metrics.holds_open.labels(row["currency"]).set(row["holds"])
            house.metrics.holds_amount.labels(row["currency"]).set(int(row["amount"]) / 1e6)

    async def _settle(self) -> float:
        await self._settling.settle()
        return SETTLE_SECONDS

    async def _sweep_strangers(self) -> float:
        await self._settling.sweep_strangers()
        return STRANGERS_SECONDS

    async def _tidy(self) -> float:
        for name, upstream in list(self._house.upstreams.items()):
            if isinstance(upstream, Tidies):
                try:
                    await upstream.tidy()
                except UpstreamError as error:
                    log.warning("tidy.failed", upstream=name, reason=str(error))
        await self._house.store.run(drop_pushes, self._house.clock() - PUSHES_KEPT_SECONDS)
        await self._house.store.run(caps.tidy, self._house.clock())
        days = self._house.settings.gateway.limits.number_memory_days
        await self._house.store.run(handed.forget, self._house.clock() - days * DAY_SECONDS)
        return TIDY_SECONDS

    async def _seal(self) -> float:
        await self._sealer.round(self._house.clock())
        return SEAL_SECONDS

    async def _roll_up(self) -> float:
        counted = await self._house.store.run(usage.roll_up)
        return USAGE_PAUSE_SECONDS if counted == usage.BATCH else USAGE_SECONDS

    async def _note_readers(self) -> float:
        await self._readers.write()
        return WRITE_SECONDS


def _holds(tx: Tx) -> list[Row]:
    return list(
        tx.all(
            "select currency, count(*) as holds, sum(amount) as amount from holds where state = 'open'"
            " group by currency"
        )
    )
