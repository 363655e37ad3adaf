"""Keeps an eye on the upstreams: what our account there holds, what is wrong, and a report for whoever asks.

The report is a row per upstream in the database, so that the command line, which is another process, can tell what the
server sees. Everything in it is for people; no decision is made from it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence, Set
from typing import Any

import structlog

from gateway import attempts, drift, fuse, refunds, revisions, switches
from gateway.alerts import Alerts
from gateway.errors import Refused, UpstreamError
from gateway.health import Phase
from gateway.house import House
from gateway.money import MICROS, Money
from gateway.offers import UpstreamEntry
from gateway.pricing import rates_trouble_seconds
from gateway.refunds import TOLD_SECONDS
from gateway.restoring import RESTORED
from gateway.settings import Stanza
from gateway.store import Row, Tx
from gateway.upstream import HasUnmapped, KeptByUs, Upstream

REPORT_SECONDS = 2.0
HEARTBEAT_SECONDS = 15.0
"""A report is written anew this often even where nothing changed: an older one tells of a server that is gone."""

BALANCE_DEADLINE_SECONDS = 20.0
BALANCE_RETRY_SECONDS = 60.0
EXAMPLES = 5
QUEUES_SECONDS = 15.0
CAPTURES_SECONDS = 60.0
CAPTURES_SPAN_SECONDS = 3600.0
LATE_SECONDS = 600.0
"""A purchase in doubt so much longer than any may stay there is one that nobody settles."""

DEAD_SECONDS = 3600.0
PULSE_SECONDS = 0.5

NO_WEBHOOK = "no webhook set"
"""The last result of a notice that was given up although no receiver refused it."""

log = structlog.get_logger()


class Overseer:
    """One per process that works."""

    def __init__(self, house: House, alerts: Alerts) -> None:
        self._house = house
        self._alerts = alerts
        self._balances: dict[str, tuple[Money, float]] = {}
        self._unmapped: dict[str, frozenset[str]] = {}
        self._reported: dict[str, str] = {}
        self._reported_at = 0.0
        self._switches_seen = -1

    async def restore(self) -> None:
        """Recalls standing alerts and obeys the switches, before the first order. Raises Unavailable."""
        await self._alerts.restore()
        await self.follow_switches()

    def let_go(self) -> None:
        """Another process looks after all this from now on: what this one has seen is not to be taken for the state."""
        self._alerts.let_go()
        self._house.metrics.forget_overseen()

    async def follow_switches(self) -> None:
        """Does what operators have switched, by whatever process. Raises Unavailable."""
        revision = await self._house.store.read(revisions.value, switches.REVISION)
        if revision == self._switches_seen:
            return
        drained, before = set(await self._house.store.read(switches.drained)), self._house.market.drained
        self._switches_seen = revision
        if drained == before:
            return
        if drained - before:
            log.warning("upstream.drained", upstreams=sorted(drained - before))
        if before - drained:
            log.warning("upstream.resumed", upstreams=sorted(before - drained))
        self._house.market.drain(drained)

    async def look_at_balance(self, name: str) -> float:
        """Asks for our balance at an upstream; how many seconds to wait before the next time. Raises Unavailable."""
        upstream, stanza = self._house.upstreams.get(name), self._house.stanza(name)
        if upstream is None or stanza is None:
            return BALANCE_RETRY_SECONDS
        try:
            async with asyncio.timeout(BALANCE_DEADLINE_SECONDS):
                balance = await upstream.balance()
        except Refused as error:
            words = f"{name} refuses our account ({error}): check {name.upper()}_API_KEY, or write to the provider"
            self._alerts.show("account_refused", name, words)
            return min(BALANCE_RETRY_SECONDS, stanza.balance_seconds)
        except (UpstreamError, TimeoutError):
            return min(BALANCE_RETRY_SECONDS, stanza.balance_seconds)
        self._balances[name] = (balance, self._house.clock())
        if not isinstance(upstream, KeptByUs):
            await self._house.store.run(drift.note_balance, name, balance, self._house.clock())
        self._house.metrics.upstream_balance.labels(name, balance.currency).set(balance.micros / MICROS)
        self._alerts.show("account_refused", name, "")
        self._alerts.show("balance_low", name, _low(name, balance, stanza))
        return stanza.balance_seconds

    def note_unmapped(self, name: str, upstream: Upstream) -> None:
        """After a price list came: says which words in it we have no code for, once per change of them."""
        words = upstream.unmapped if isinstance(upstream, HasUnmapped) else {}
        known = frozenset(words)
        if known == self._unmapped.get(name, frozenset()):
            return
        self._unmapped[name] = known
        if known:
            log.warning(
                "offers.unmapped",
                upstream=name,
                words=len(known),
                most=most_stocked(words, EXAMPLES),
                todo="name them in the catalogue or the stanza: simroute catalog coverage lists them",
            )

    async def report(self) -> float:
        """Shows what is wrong and writes the reports that changed; seconds to the next round. Raises Unavailable."""
        house, now = self._house, self._house.clock()
        blown = await house.store.read(fuse.stopped, now)
        await self._show_refunds()
        self._show_circuits(await self._recovered())
        self._alert({f"key {row['key_id']} of {row['account']}" for row in blown})
        await self._alerts.write()
        reports = {name: json.dumps(self._report(name), sort_keys=True) for name in house.upstreams}
        is_due = now - self._reported_at >= HEARTBEAT_SECONDS
        changed = {name: text for name, text in reports.items() if is_due or self._reported.get(name) != text}
        if changed:
            await house.store.run(_write, changed, now)
            self._reported, self._reported_at = reports, now if is_due else self._reported_at
        return REPORT_SECONDS

    async def write(self) -> None:
        """Writes down what was told: it is not to be told again. Raises Unavailable."""
        await self._alerts.write()

    async def _show_refunds(self) -> None:
        gauges = self._house.metrics
        gauges.refunds_open.clear()
        gauges.refunds_open_amount.clear()
        for row in await self._house.store.read(refunds.not_given_back):
            names = (row["upstream"], row["currency"])
            gauges.refunds_open.labels(*names).set(row["numbers"])
            gauges.refunds_open_amount.labels(*names).set(int(row["amount"]) / MICROS)

    async def look_at_queues(self) -> float:
        """Raises the alerts about what waits too long or was given up; seconds to the next look. Raises Unavailable."""
        house, now = self._house, self._house.clock()
        doubts = await house.store.read(attempts.unsettled)
        oldest = {row["upstream"]: row["started_at"] for row in sorted(doubts, key=lambda row: -row["started_at"])}
        house.metrics.in_doubt_since.clear()
        for name, since in oldest.items():
            house.metrics.in_doubt_since.labels(name).set(since)
        late = {
            row["upstream"] for row in doubts if now - row["started_at"] > attempts.doubt_seconds(row) + LATE_SECONDS
        }
        self._alerts.replace("in_doubt_old", {f"upstream:{name}": _late(name) for name in late})
        dead = await house.store.read(_dead_notices, now - DEAD_SECONDS)
        self._alerts.replace("notices_failing", {"webhooks:dead": _dead(dead)} if dead else {})
        return QUEUES_SECONDS

    async def measure_captures(self) -> float:
        """Shows how many of the last hour's numbers got a code; seconds to the next time. Raises Unavailable."""
        rows = await self._house.store.read(_captures, self._house.clock() - CAPTURES_SPAN_SECONDS)
        self._house.metrics.capture_rate.clear()
        for row in rows:
            self._house.metrics.capture_rate.labels(row["upstream"]).set(int(row["captured"]) / int(row["ended"]))
        return CAPTURES_SECONDS

    async def feel_pulse(self) -> float:
        """Notes how late the event loop wakes whoever sleeps: that late comes every answer, too."""
        due = time.monotonic() + PULSE_SECONDS
        await asyncio.sleep(PULSE_SECONDS)
        self._house.metrics.loop_lag.observe(max(0.0, time.monotonic() - due))
        return 0.0

    def _report(self, name: str) -> Mapping[str, Any]:
        house = self._house
        circuit = house.health.state(name)
        rows, fetched_at, error = house.market.list_of(name)
        balance = self._balances.get(name)
        return {
            "circuit": circuit.phase.value,
            "fault": circuit.reason,
            "fault_at": circuit.fault_at,
            "overexposed": name in house.market.overexposed,
            "balance_micros": balance[0].micros if balance else None,
            "balance_currency": balance[0].currency if balance else None,
            "balance_at": balance[1] if balance else None,
            "offers": rows,
            "offers_at": fetched_at,
            "offers_error": error,
            "sells_by_rule": any(entry.name == name and entry.seller for entry in house.market.view.entries),
        }

    def _alert(self, blown: Set[str]) -> None:
        house, now = self._house, self._house.clock()
        for entry in house.market.view.entries:
            name = entry.name
            self._show_prices(entry)
            exposed = f"purchases in doubt at {name} may have cost more than in_doubt_exposure: it takes no orders"
            self._alerts.show("exposure", name, exposed if name in house.market.overexposed else "")
        for name in house.upstreams.keys() - {entry.name for entry in house.market.view.entries}:
            for alert in ("upstream_down", "prices_stale", "exposure"):  # it only sees its open numbers through
                self._alerts.show(alert, name, "")
        self._alerts.show("rates_stale", "exchange rates", self._rates(now))
        lost = self._alerts.sentences("refund_lost", now - TOLD_SECONDS)  # another process's, or before the start
        self._alerts.replace("refund_lost", {**lost, **house.losses.sentences(now)})
        for subject in blown:
            self._alerts.show("fuse_blown", subject, f"{subject} buys and receives no codes: it is stopped for a while")
        self._alerts.forget({*house.upstreams, "exchange rates", *blown})

    async def _recovered(self) -> set[str]:
        """Upstreams whose trouble is known to be over: they answered since it was told, here or to another process.

        A circuit that is closed says nothing by itself: a start forgets, and another process's may be open.
        """
        house, unknown, recovered = self._house, dict[str, float](), set[str]()
        for name in house.upstreams:
            since = self._alerts.since("upstream_down", name)
            if since is None or house.health.state(name).phase is not Phase.CLOSED:
                continue
            if house.health.answered_at(name) >= since:
                recovered.add(name)
            else:
                unknown[name] = since
        return recovered | await house.store.read(_sold_since, unknown) if unknown else recovered

    def _show_circuits(self, recovered: Set[str]) -> None:
        for entry in self._house.market.view.entries:
            circuit = self._house.health.state(entry.name)
            down = f"{entry.name} is left out after {circuit.faults} faults in a row, the last: {circuit.reason}"
            if circuit.phase is not Phase.CLOSED:
                self._alerts.show("upstream_down", entry.name, down)
            elif entry.name in recovered:
                self._alerts.show("upstream_down", entry.name, "")

    def _show_prices(self, entry: UpstreamEntry) -> None:
        """Nothing, while a list may still come that was never read since the start."""
        age_seconds = self._house.market.list_age_seconds(entry.name)
        _, fetched_at, error = self._house.market.list_of(entry.name)
        if fetched_at is None and entry.seller is not None:
            self._alerts.show("prices_stale", entry.name, "")  # it sells without
        elif age_seconds > entry.list_age_max_seconds:
            self._alerts.show("prices_stale", entry.name, _stale(entry.name, age_seconds, error, fetched_at))
        elif fetched_at is not None:
            self._alerts.show("prices_stale", entry.name, "")

    def _rates(self, now: float) -> str:
        rates, exchange = self._house.settings.rates, self._house.settings.pricing.exchange
        age_seconds = rates_trouble_seconds(rates.as_of_seconds, exchange.alert_hours * 3600, now)
        if age_seconds is None:
            return ""
        if age_seconds < 0:
            return "as_of in rates.toml lies in the future: nothing is sold by these rates"
        hours = age_seconds / 3600
        return (
            f"the rates in rates.toml are {hours:.0f} h old; from {exchange.max_hours:.0f} h on nothing is sold by them"
        )


def most_stocked(words: Mapping[str, int], most: int) -> list[str]:
    """Words with the most numbers behind them first."""
    return sorted(words, key=lambda word: (-words[word], word))[:most]


def _low(name: str, balance: Money, stanza: Stanza) -> str:
    limit = round(stanza.balance_low * MICROS)
    if balance.micros >= limit:
        return ""
    return f"{balance} left at {name}, less than the {stanza.balance_low} of balance_low: top it up there"


def _stale(name: str, age_seconds: float, error: str, fetched_at: float | None) -> str:
    minutes = f"{age_seconds / 60:.0f} min"
    if fetched_at is None:
        return f"no price list of {name} was read in {minutes} ({error or 'no answer yet'}): nothing is sold there"
    return f"the price list of {name} is {minutes} old ({error}): nothing is sold from it"


def _late(name: str) -> str:
    return f"a purchase at {name} is still in doubt, longer than any should be: look for it there, see the log"


def _dead(rows: Sequence[Row]) -> str:
    notices = sum(row["notices"] for row in rows)
    most = ", ".join(row["name"] for row in rows[:EXAMPLES])
    return f"webhooks given up within an hour: {notices}, of {most}: their receivers refuse them or do not answer"


def _dead_notices(tx: Tx, since: float) -> Sequence[Row]:
    """By account, most first. Those given up for want of an address or a message were nobody's failure."""
    return tx.all(
        "select a.name, count(*) as notices from notices n join accounts a on a.id = n.account_id"
        " where n.state = 'dead' and n.ended_at > :since and n.last_result not in"
        " (:unset, :restored, 'deleted', 'message deleted')"
        " group by a.name order by notices desc, a.name",
        since=since,
        unset=NO_WEBHOOK,
        restored=RESTORED,
    )


def _sold_since(tx: Tx, since: Mapping[str, float]) -> set[str]:
    """The upstreams that sold a number that was asked for since, each by its own time."""
    return {
        name
        for name, at in since.items()
        if tx.one(
            "select 1 as x from activations where upstream = :name and opened_at >= :at limit 1", name=name, at=at
        )
    }


def _write(tx: Tx, reports: Mapping[str, str], at: float) -> None:
    for name, text in reports.items():
        tx.execute(
            "insert into upstream_reports (upstream, report, reported_at) values (:name, :text, :at)"
            " on conflict (upstream) do update set report = :text, reported_at = :at",
            name=name,
            text=text,
            at=at,
        )


def _captures(tx: Tx, since: float) -> list[Row]:
    """By upstream: numbers for codes that ended since then, and how many of them were paid for."""
    return list(
        tx.all(
            "select upstream, count(*) as ended, sum(case when status = 'finished' then 1 else 0 end) as captured"
            " from activations where number_sealed is not null and ended_at > :since"
            " and product in ('sms', 'again', 'beside') and upstream is not null group by upstream",
            since=since,
        )
    )
