"""The loops behind the answers: poll, expire, settle, tell, refresh. Each survives whatever one round of it meets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from gateway import caps, handed, usage
from gateway.accounts import Callers
from gateway.activations import Activations
from gateway.archivist import Archivist
from gateway.errors import CallerError, NotAllowedNow, Unavailable, UpstreamError
from gateway.house import House
from gateway.inbox import drop_pushes
from gateway.overseer import Overseer
from gateway.poller import Poller
from gateway.purchases import Purchases
from gateway.readers import WRITE_SECONDS, Readers
from gateway.recharger import Recharger
from gateway.seals import ROUND_SECONDS as SEAL_SECONDS
from gateway.seals import Sealer
from gateway.sessions import Sessions
from gateway.store import Row, Tx
from gateway.upstream import Tidies
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
OFFERS_RETRY_SECONDS = 10.0
OFFERS_DEADLINE_SECONDS = 120.0
FAILED_ROUND_SECONDS = 1.0
UPSTREAM_LOOPS = ("poll", "offers", "balance")

Round = Callable[[], Awaitable[float]]
"""One round of a loop; returns how many seconds to wait before the next."""

log = structlog.get_logger()


class Worker:
    """Runs the loops of one gateway until it is stopped."""

    def __init__(
        self,
        house: House,
        callers: Callers,
        sessions: Sessions,
        activations: Activations,
        purchases: Purchases,
        courier: Courier,
        overseer: Overseer,
        readers: Readers,
        recharger: Recharger,
        archivist: Archivist,
    ) -> None:
        self._house = house
        self._callers = callers
        self._sessions = sessions
        self._activations = activations
        self._purchases = purchases
        self._courier = courier
        self._overseer = overseer
        self._readers = readers
        self._recharger = recharger
        self._archivist = archivist
        self._sealer = Sealer(house.store, house.vault)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.is_database_well = True

    def start(self) -> None:
        """Starts every loop, and those of each upstream."""
        self._begin("answered", self._note_answered)
        self._begin("tick", self._tick)
        self._begin("settle", self._settle)
        self._begin("strangers", self._sweep_strangers)
        self._begin("notices", self._courier.round)
        self._begin("report", self._overseer.report)
        self._begin("tidy", self._tidy)
        self._begin("seal", self._seal)
        self._begin("readers", self._note_readers)
        self._begin("recharge", self._recharger.round)
        self._begin("payment hook", self._recharger.call)
        self._begin("usage", self._roll_up)
        self._begin("backup", self._archivist.round)
        self._begin("queues", self._overseer.look_at_queues)
        self._begin("pulse", self._overseer.feel_pulse)
        self.follow_upstreams()

    def follow_upstreams(self) -> None:
        """Starts the loops of upstreams that are new, ends those of upstreams that are gone. Called after a reload."""
        wanted = {f"{kind}:{name}" for name in self._house.upstreams for kind in UPSTREAM_LOOPS}
        running = {key for key in self._tasks if ":" in key}
        for key in running - wanted:
            self._tasks.pop(key).cancel()
        for name in self._house.upstreams:
            if f"poll:{name}" not in running:
                self._begin(f"poll:{name}", Poller(self._house, self._activations, name).sweep)
                self._begin(f"offers:{name}", partial(self._refresh_offers, name))
                self._begin(f"balance:{name}", partial(self._overseer.look_at_balance, name))

    async def stop(self) -> None:
        """Ends the loops, then settles what is in flight."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._purchases.drain()
        if not tasks:
            return  # never started: a command line that looks on must not act upstream
        try:
            await self._purchases.note_answered()
            await self._activations.close_upstream()
            await self._readers.write()
        except Unavailable:
            log.warning("stop.database_away")

    def _begin(self, name: str, one_round: Round) -> None:
        self._tasks[name] = asyncio.create_task(self._loop(name, one_round), name=name)

    async def _loop(self, name: str, one_round: Round) -> None:
        while True:
            try:
                seconds = await one_round()
            except Unavailable:
                self._database(is_well=False)
                seconds = FAILED_ROUND_SECONDS
            except Exception:
                log.exception("loop.failed", loop=name)
                seconds = FAILED_ROUND_SECONDS
            await asyncio.sleep(seconds)

    def _database(self, *, is_well: bool) -> None:
        if is_well is not self.is_database_well:
            self.is_database_well = is_well
            self._house.metrics.database_up.set(is_well)
            log.warning("database.changed", is_well=is_well)

    async def _note_answered(self) -> float:
        await self._purchases.note_answered()
        return ANSWERED_SECONDS

    async def _tick(self) -> float:
        await self._callers.refresh()
        await self._sessions.refresh()
        await self._overseer.follow_switches()
        await self._activations.keep_rentals()
        await self._activations.expire()
        for live in self._purchases.overdue():
            try:
                await self._activations.give_back(live)
            except NotAllowedNow:
                pass  # its code came after all, and was paid for
            except CallerError:
                self._purchases.abandon(live, "")
        await self._activations.close_upstream()
        await self._measure()
        self._database(is_well=True)
        return TICK_SECONDS

    async def _measure(self) -> None:
        house = self._house
        house.metrics.open_activations.set(len(house.live.all_open()))
        house.metrics.holds_open.clear()
        house.metrics.holds_amount.clear()
        for row in await house.store.read(_holds):
            house.metrics.holds_open.labels(row["currency"]).set(row["holds"])
            house.metrics.holds_amount.labels(row["currency"]).set(int(row["amount"]) / 1e6)

    async def _settle(self) -> float:
        await self._purchases.settle()
        return SETTLE_SECONDS

    async def _sweep_strangers(self) -> float:
        await self._purchases.sweep_strangers()
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

    async def _refresh_offers(self, name: str) -> float:
        house = self._house
        upstream, stanza = house.upstreams.get(name), house.stanza(name)
        if upstream is None or stanza is None:
            return OFFERS_RETRY_SECONDS
        try:
            async with asyncio.timeout(OFFERS_DEADLINE_SECONDS):
                table = await upstream.offers()
        except (UpstreamError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            house.market.failed(name, reason)
            log.warning("offers.failed", upstream=name, reason=reason)
            return min(OFFERS_RETRY_SECONDS, stanza.offers_seconds)
        house.market.put(name, table)
        house.metrics.offers_at.labels(name).set(house.clock())
        self._overseer.note_unmapped(name, upstream)
        log.debug("offers.refreshed", upstream=name, rows=len(table))
        return stanza.offers_seconds


def _holds(tx: Tx) -> list[Row]:
    return list(
        tx.all(
            "select currency, count(*) as holds, sum(amount) as amount from holds where state = 'open'"
            " group by currency"
        )
    )
