"""The wiring: the one place that knows every part."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from enum import Enum
from multiprocessing import get_context
from pathlib import Path
from secrets import token_hex
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import adapters
import compat
from compat import desk, fivesim, payments, pushes, rest
from gateway.accounts import Callers
from gateway.activations import Activations
from gateway.alerts import Alerts
from gateway.archivist import Archivist
from gateway.bus import Bus
from gateway.catalog import Catalog
from gateway.database import Database
from gateway.desk import Desk
from gateway.errors import Unavailable
from gateway.feed import Feed, has_looked, take_asked
from gateway.front import Front
from gateway.guard import LOOK_SECONDS, Guard
from gateway.handovers import Handovers
from gateway.health import Health
from gateway.host_alerts import HostAlerts
from gateway.house import House
from gateway.inbox import Inbox
from gateway.leases import AllMine, Leases
from gateway.limits import Limits
from gateway.metrics import Metrics
from gateway.model import Clock
from gateway.notify import Notifier, addresses
from gateway.numbers import Numbers
from gateway.offers import Market, view_of
from gateway.overseer import Overseer
from gateway.payments import Payments
from gateway.pricelists import PriceLists
from gateway.purchases import Purchases
from gateway.readers import Readers
from gateway.recharger import Recharger
from gateway.rentals import Rentals
from gateway.retention import Keeper
from gateway.sessions import Sessions
from gateway.settings import Settings, SettingsError, Stanza, config_stamp, load_settings
from gateway.settling import Settling
from gateway.shared_lists import SharedLists
from gateway.store import Tx
from gateway.upstream import Context, Upstream
from gateway.webhook_watch import WebhookWatch
from gateway.webhooks import Courier, Trials
from gateway.worker import Worker

OFFLOAD_BYTES = 256 * 1024
"""Price lists above this size are parsed in a process of their own: JSON holds the interpreter while it is read."""

WATCH_SECONDS = 1.0
HEALTH_SECONDS = 1.0

log = structlog.get_logger()


def read_settings(directory: Path, environment: Mapping[str, str]) -> Settings:
    """The settings in a directory, with the adapters' own options checked. Raises SettingsError."""
    return load_settings(
        directory,
        environment,
        lambda name: adapters.load(name).Options,
        lambda name: adapters.secrets(adapters.load(name)),
    )


class Duty(Enum):
    """What a process is for. One that only serves leaves the upstreams and the clock to others."""

    BOTH = "serve and work"
    SERVE = "serve"
    WORK = "work"


def is_shareable(database: Database, redis_url: str | None) -> bool:
    """Whether several processes can serve from this database: from PostgreSQL, with Redis between them."""
    return database.directory is None and bool(redis_url)


class Offloader:
    """Runs big parsing jobs in one helper process, started when first needed."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    async def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        if sum(len(arg) for arg in args if isinstance(arg, bytes)) < OFFLOAD_BYTES:
            return function(*args)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        except BrokenProcessPool:
            self._pool = None
            raise Unavailable from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


class Gateway:
    """One running gateway: built, started, stopped. `app` is what a server runs."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        database: Database,
        clock: Clock = time.time,
        duty: Duty = Duty.BOTH,
    ) -> None:
        """Raises SettingsError."""
        self._duty = duty
        self.name = f"{socket.gethostname()}/{os.getpid()}/{token_hex(3)}"
        """This gateway among all that share a database, for people, too."""
        self._directory = directory
        self._environment = environment
        self._database = database
        self._stamp = config_stamp(directory)
        settings = read_settings(directory, environment)
        self._offload = Offloader()
        self._clock = clock
        self._metrics = metrics = Metrics()
        self._notifier = Notifier(addresses(settings.environment.notify_urls or ""), metrics.count_notification)
        health = Health(clock, settings.gateway.health)
        enabled = [stanza for stanza in settings.upstreams.values() if stanza.enabled]
        upstreams = {stanza.name: self._build(stanza, settings.catalog) for stanza in enabled}
        market = Market(clock, health, view_of(settings, upstreams))
        self.house = House(
            database.store, database.vault, clock, settings, upstreams, market, health, metrics,
            guard=Guard(database.directory),
        )  # fmt: skip
        redis_url = settings.environment.redis_url
        self._bus = self._join(redis_url) if redis_url and is_shareable(database, redis_url) else None
        self.callers = Callers(
            database.store, database.vault, clock, lambda: self.house.settings.gateway.lawful.denied_services
        )
        self.readers = Readers(database.store, clock)
        self.activations = Activations(self.house)
        self.handovers = Handovers(self.house)
        self.settling = Settling(self.house, self.handovers)
        self.purchases = Purchases(self.house, self.handovers, self.settling)
        self.rentals = Rentals(self.house, self.activations, self.purchases, self.handovers)
        self._courier = Courier(self.house)
        self._trials = Trials(self.house)
        self._alerts = alerts = Alerts(database.store, metrics, clock, self._notifier.send)
        self._host_alerts = HostAlerts(
            database.store, metrics, clock, self._notifier.send, socket.gethostname(),
            is_shared=self._bus is not None,
        )  # fmt: skip
        self._overseer = Overseer(self.house, alerts)
        self._recharger = Recharger(self.house, alerts)
        self.sessions = Sessions(self.house, self.callers)
        self.leases = AllMine() if self._bus is None else Leases(
            database.store, self.name, is_eager=duty is Duty.WORK
        )  # fmt: skip
        shared_lists = SharedLists(redis_url, self._channel(), self.name) if self._bus and redis_url else None
        self.price_lists = PriceLists(self.house, self.leases, self._overseer.note_unmapped, shared_lists)
        self._feed = Feed(self.house, self._bus, self.handovers.offer) if self._bus is not None else None
        self.worker = Worker(
            self.house,
            self.leases,
            self._feed,
            self.callers,
            self.sessions,
            self.activations,
            self.purchases,
            self.handovers,
            self.settling,
            self._courier,
            self._overseer,
            self.price_lists,
            self.readers,
            self._recharger,
            WebhookWatch(self.house, alerts),
            Keeper(self.house, alerts),
            Archivist(self.house, database.url, alerts),
        )
        self.limits = Limits(settings.environment.redis_url, clock)
        self.inbox = Inbox(self.house, self.activations, self.settling)
        self.front = Front(
            self.house,
            self.callers,
            self.activations,
            self.purchases,
            self.handovers,
            self.rentals,
            self.limits,
            self.inbox,
            self.sessions,
            self.readers,
            self._trials,
        )
        self.is_stopping: Callable[[], bool] = lambda: False
        """Whether the server is about to stop: whoever waits for a code is then answered at once."""
        status = [
            Route("/health", self._health),
            Route("/health/live", _alive),
            Route("/health/ready", self._health),
            Route("/metrics", self._show_metrics),
        ]
        inside = Route("/process", self._show_process)
        self.status_app = Starlette(routes=[*status, inside])
        """What a process answers those who run it, where it serves no clients."""
        pages = Starlette(
            routes=[
                *status,
                *pushes.routes(self.front),
                *payments.routes(Payments(self.house)),
                *desk.routes(lambda: self.house.upstreams, self._typed),
                *rest.routes(
                    self.front,
                    origins=settings.gateway.server.cors_origins,
                    is_stopping=lambda: self.is_stopping(),
                ),
            ],
        )
        pages.router.redirect_slashes = False
        self.five = fivesim.FiveSim(self.front)
        secured = compat.Secured(pages, settings.gateway.server.hsts_seconds)
        self.app = compat.Dialects(self.front, secured, {fivesim.PREFIX: self.five})
        self._watcher: asyncio.Task[None] | None = None
        self._guard: asyncio.Task[None] | None = None
        self._host_watch: asyncio.Task[None] | None = None
        self._checked_at = 0.0
        self._is_well = True
        self._check: asyncio.Task[None] | None = None

    def _join(self, redis_url: str) -> Bus:
        """Among the processes that share the database."""
        house = self.house

        def on_delivered(place: tuple[str, int, str], is_delivered: bool) -> None:
            (house.health.delivered if is_delivered else house.health.undelivered)(*place)

        bus = Bus(
            redis_url, self._channel(), self.name, lambda ids: take_asked(house, ids), on_delivered, house.health.turn,
            lambda upstream: self.price_lists.heard(upstream), lambda ids: self.handovers.has_left(ids),
            lambda: has_looked(house),
        )  # fmt: skip
        house.health.on_turn = bus.turned
        house.bus, house.is_shared, house.live.on_put = bus, True, bus.changed
        return bus

    def _channel(self) -> str:
        """What this deployment's words begin with, on a Redis that others may use."""
        return "simroute:" + self._database.vault.index_digest("bus", "channel").rpartition(":")[2][:16]

    def _build(self, stanza: Stanza, catalog: Catalog) -> Upstream:
        name = stanza.name

        def observe(verb: str, outcome: str, seconds: float) -> None:
            self._metrics.observe_upstream(name, verb, outcome, seconds)
            if verb != "buy":
                self.house.status_calls[name] += 1

        context = Context(
            name=name,
            currency=stanza.currency,
            names=catalog,
            clock=self._clock,
            secret=stanza.secret,
            secrets=stanza.secrets,
            proxy=stanza.proxy or None,
            observe=observe,
            offload=self._offload,
            pool=Numbers(self._database.store, self._database.vault, self._clock, name),
            desk=Desk(self._database.store, self._database.vault, self._clock, name, self._notifier.send),
        )
        return adapters.load(stanza.adapter).build(context, stanza.parsed)

    async def start(self) -> None:
        """Restores what was open, settles what a crash left behind, and starts the loops. Raises Unavailable."""
        if self._feed is not None:
            await self._feed.begin()
        await self.activations.restore()
        await self.settling.recover()
        if self._feed is None:
            await self._overseer.restore()
        else:
            await self._overseer.follow_switches()  # its alerts come to whoever holds that lease
        self._notifier.start()
        await self._look_for_room()
        self._guard = asyncio.create_task(self._keep_room())
        self._host_watch = asyncio.create_task(self._tell_of_room())
        if self._bus is not None:
            self._bus.start()
        self.worker.start(works=self._duty is not Duty.SERVE)
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the loops, settles what is in flight, closes everything."""
        watching = [task for task in (self._watcher, self._guard, self._host_watch) if task is not None]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await self.inbox.drain()
        await self.five.drain()
        await self.worker.stop()
        if self._bus is not None:
            await self._bus.aclose()
        await self.price_lists.aclose()
        await self._courier.aclose()
        await self._trials.aclose()
        await self._recharger.aclose()
        for upstream in self.house.upstreams.values():
            await upstream.aclose()
        await self.limits.aclose()
        self._offload.close()
        await asyncio.to_thread(self._notifier.close)
        await self._database.store.close()

    async def _typed(self, upstream: str, reference: str) -> None:
        """A person has typed something for a lease: its caller need not wait for the next poll."""
        self.inbox.look(upstream, reference)

    async def _keep_room(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look_for_room()
            except Exception:
                log.exception("guard.failed")

    async def _look_for_room(self) -> None:
        guard, store = self.house.guard, self.house.store
        await asyncio.to_thread(guard.look, self.house.settings.gateway.guard, store.full_at, self._metrics)
        self._host_alerts.notice(guard.trouble)

    async def _tell_of_room(self) -> None:
        """Beside the looking, which no database is to hold up."""
        while True:
            try:
                await self._host_alerts.round()
            except Exception:
                log.exception("host_alerts.failed")
            await asyncio.sleep(LOOK_SECONDS)

    # Configuration

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            stamp = config_stamp(self._directory)
            if stamp != self._stamp:
                self._stamp = stamp
                await self.reload()

    async def reload(self) -> bool:
        """Reads the files again: all of it takes effect, or nothing does and the log says why."""
        try:
            settings = await asyncio.to_thread(read_settings, self._directory, self._environment)
        except SettingsError as error:
            log.warning("settings.refused", problems=list(error.problems))
            return False
        except Exception:
            log.exception("settings.refused")
            return False
        if settings.version != self.house.settings.version:
            await self._apply(settings)
            log.info("settings.applied", version=settings.version)
        return True

    async def _apply(self, settings: Settings) -> None:
        house, before = self.house, self.house.settings
        wanted = {name: stanza for name, stanza in settings.upstreams.items() if stanza.enabled}
        kept = {
            name: upstream
            for name, upstream in house.upstreams.items()
            if name in wanted and wanted[name] == before.upstreams.get(name) and settings.catalog == before.catalog
        }
        selling = {
            name: kept[name] if name in kept else self._build(stanza, settings.catalog)
            for name, stanza in wanted.items()
        }
        # Numbers still open at an upstream that was switched off are seen through to their end.
        leaving = {
            name: upstream
            for name, upstream in house.upstreams.items()
            if name not in selling and house.live.at_upstream(name)
        }
        replaced = [
            upstream
            for name, upstream in house.upstreams.items()
            if kept.get(name) is not upstream and name not in leaving
        ]
        house.settings = settings
        house.former = {**house.former, **before.upstreams}
        house.upstreams = {**selling, **leaving}
        house.health.settings = settings.gateway.health
        house.market.apply(view_of(settings, selling))
        self.worker.follow_upstreams()
        for upstream in replaced:
            await upstream.aclose()

    # Seen from outside

    async def _health(self, _request: Request) -> Response:
        """Ready: the database takes a write, and there is room to buy.

        Database and Redis are asked once a second at most, however often this is called.
        """
        if time.monotonic() - self._checked_at >= HEALTH_SECONDS:
            if self._check is None or self._check.done():
                self._check = asyncio.create_task(self._check_database())
            await asyncio.shield(self._check)
        trouble = self.house.guard.trouble
        is_ready = self._is_well and not trouble
        facts = {"status": "ok" if is_ready else "unavailable", "database": "ok" if self._is_well else "unavailable"}
        if trouble:
            facts["buying"] = f"stopped: {', '.join(trouble)}"
        if self.house.settings.environment.redis_url:
            is_away = self.limits.is_redis_away or (self._bus is not None and self._bus.is_away)
            facts["redis"] = "unavailable" if is_away else "ok"
        return JSONResponse(facts, 200 if is_ready else 503)

    async def _show_process(self, _request: Request) -> Response:
        """Which process this is, and what it does for all of them."""
        held = self.leases.held() if isinstance(self.leases, Leases) else ["everything"]
        return JSONResponse({"process": self.name, "work": held})

    async def _check_database(self) -> None:
        await self.limits.look()
        try:
            await self.house.store.run(_probe)
            self._is_well = True
        except Unavailable:
            self._is_well = False
        self._checked_at = time.monotonic()

    async def _show_metrics(self, _request: Request) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _alive(_request: Request) -> Response:
    """The process answers, whatever the state of the rest."""
    return JSONResponse({"status": "ok"})


def _probe(tx: Tx) -> None:
    tx.execute("update revisions set value = value where name = 'accounts'")
