"""`simroute upstreams` and `simroute catalog`: how each upstream does, its switch, what it sells that we can not name.

The facts come from the database: what the server reported there, and what its rows say. Nothing is asked upstream,
but for the price lists that `catalog coverage` reads.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import click

from gateway import alerts, attempts, switches
from gateway.accounts import AccountError
from gateway.activations import JUDGED_AFTER_SECONDS
from gateway.app import Gateway
from gateway.database import Database
from gateway.errors import UpstreamError
from gateway.inbox import push_secret
from gateway.money import Money
from gateway.overseer import HEARTBEAT_SECONDS
from gateway.pricing import Pricing
from gateway.settings import Settings, Stanza
from gateway.store import Row, Tx
from gateway.terminal import Context, common, moment, show, tell, with_database, with_gateway
from gateway.upstream import HasPushSources, HasUnmapped, Pushes, Upstream

RATE_WINDOW_SECONDS = 24 * 3600.0

COLUMNS = (
    "upstream",
    "state",
    "balance",
    "house",
    "offers",
    "open",
    "delivery",
    "in_doubt",
    "exposure",
    "last_fault",
)


@click.group("upstreams", invoke_without_command=True)
@common
@click.pass_context
def upstreams_group(ctx: click.Context) -> None:
    """How each upstream does: state, balance there, open numbers, codes delivered, money at risk."""
    if ctx.invoked_subcommand is None:
        _show_overview(ctx.obj)


def _show_overview(context: Context) -> None:
    settings = context.settings()
    rows, standing = with_database(context, lambda database: database.store.read(overview, settings, time.time()))
    show(context, rows, COLUMNS)
    if standing and not context.is_json:
        click.echo()
        for alert in standing:
            click.echo(f"! {alert['sentence']} (since {moment(alert['since'])})")


@upstreams_group.command("drain")
@click.argument("name")
@common
@click.pass_obj
def drain(context: Context, name: str) -> None:
    """Take an upstream out of new orders; its open numbers are seen through. Servers follow within a second."""
    _switch(context, name, is_drained=True)


@upstreams_group.command("resume")
@click.argument("name")
@common
@click.pass_obj
def resume(context: Context, name: str) -> None:
    """Let a drained upstream take orders again."""
    _switch(context, name, is_drained=False)


def _switch(context: Context, name: str, *, is_drained: bool) -> None:
    if name not in context.settings().upstreams:
        raise AccountError(f"there is no upstream {name} in upstreams.toml")

    async def turn(database: Database) -> bool:
        return await database.store.run(switches.set_drained, name, time.time(), "cli", is_drained=is_drained)

    changed = with_database(context, turn)
    words = "takes no new orders" if is_drained else "takes orders"
    tell(
        context,
        {"upstream": name, "drained": is_drained, "changed": changed},
        f"{name} {words}" + ("" if changed else " already"),
    )


@upstreams_group.command("push-urls")
@common
@click.pass_obj
def push_urls(context: Context) -> None:
    """The addresses to enter at providers that push messages. Their last part is a secret."""
    settings = context.settings()
    base = (settings.environment.webhook_url or "https://YOUR-PUBLIC-HOST/webhooks/sms").rstrip("/")

    async def read(gateway: Gateway) -> list[dict[str, Any]]:
        vault = gateway.house.vault
        return [
            {"upstream": name, "url": f"{base}/{name}/{push_secret(vault, name)}{source}"}
            for name, upstream in gateway.house.upstreams.items()
            for source in _push_sources(upstream)
        ]

    show(context, with_gateway(context, read), ("upstream", "url"))


def _push_sources(upstream: Upstream) -> list[str]:
    """What stands behind the address of an upstream, once for each address it has; none where it takes no pushes."""
    if isinstance(upstream, HasPushSources):
        return [f"/{source}" for source in upstream.push_sources]
    return [""] if isinstance(upstream, Pushes) else []


# The overview


def overview(tx: Tx, settings: Settings, now: float) -> tuple[list[dict[str, Any]], list[Row]]:
    """A row for each upstream of the settings, and the alerts that stand."""
    reports = {row["upstream"]: row for row in tx.all("select upstream, report, reported_at from upstream_reports")}
    drained = switches.drained(tx)
    open_numbers = _open_numbers(tx)
    rates = _delivery(tx, now)
    doubts = _doubts(tx)
    pricing = Pricing(settings.pricing, settings.rates.rates)
    rows = []
    for name, stanza in settings.upstreams.items():
        row = reports.get(name)
        report = json.loads(row["report"]) if row is not None else {}
        is_fresh = row is not None and now - row["reported_at"] <= 3 * HEARTBEAT_SECONDS
        balance = _money(report)
        count, exposure = doubts.get(name, (0, ""))
        delivered, judged = rates.get(name, (0, 0))
        rows.append(
            {
                "upstream": name,
                "state": _trouble_with_rates(settings, stanza, now)
                or _state(stanza, report, is_drained=name in drained, is_fresh=is_fresh, now=now),
                "balance": str(balance) if balance else None,
                "house": _in_house(pricing, balance),
                "offers": report.get("offers") if report.get("offers_at") and not report.get("sells_by_rule") else None,
                "open": open_numbers.get(name, 0),
                "delivery": f"{100 * delivered / judged:.0f} % of {judged}" if judged else None,
                "in_doubt": count,
                "exposure": exposure or None,
                "last_fault": _last_fault(report),
            }
        )
    return rows, alerts.standing(tx)


def _state(stanza: Stanza, report: Mapping[str, Any], *, is_drained: bool, is_fresh: bool, now: float) -> str:
    if not stanza.enabled:
        return "switched off"
    if is_drained:
        return "drained"
    if not is_fresh:
        return "no server"
    if report["overexposed"]:
        return "resting: too much in doubt"
    if report["circuit"] != "closed":
        return "resting: faults"
    if report["sells_by_rule"]:
        return "selling"
    fetched_at = report["offers_at"]
    if fetched_at is None:
        return "no price list"
    return "selling" if now - fetched_at <= stanza.offers_max_age_seconds else "price list too old"


def _trouble_with_rates(settings: Settings, stanza: Stanza, now: float) -> str:
    as_of, exchange = settings.rates.as_of_seconds, settings.pricing.exchange
    is_exchanged = stanza.enabled and stanza.currency != settings.pricing.currency and as_of is not None
    return "resting: rates too old" if is_exchanged and now - (as_of or now) > exchange.max_hours * 3600 else ""


def _money(report: Mapping[str, Any]) -> Money | None:
    micros = report.get("balance_micros")
    return None if micros is None else Money(micros, report["balance_currency"])


def _in_house(pricing: Pricing, balance: Money | None) -> str | None:
    converted = pricing.convert(balance, pricing.house_currency) if balance else None
    return str(converted) if converted else None


def _last_fault(report: Mapping[str, Any]) -> str | None:
    at = report.get("fault_at")
    return f"{moment(at)} {report['fault']}" if at else None


def _open_numbers(tx: Tx) -> dict[str, int]:
    rows = tx.all(
        "select upstream, count(*) as numbers from activations where ended_at is null and upstream is not null"
        " group by upstream"
    )
    return {row["upstream"]: int(row["numbers"]) for row in rows}


def _delivery(tx: Tx, now: float) -> dict[str, tuple[int, int]]:
    """Codes delivered, and activations that tell something of it, since a day ago."""
    rows = tx.all(
        "select upstream, sum(case when status in ('received', 'retrying', 'finished') then 1 else 0 end) as delivered,"
        " sum(case when status in ('received', 'retrying', 'finished') then 1"
        " when status in ('cancelled', 'expired') and ended_at - opened_at >= :judged then 1 else 0 end) as judged"
        " from activations where upstream is not null and opened_at >= :since"
        " and product not in ('rental', 'extension') group by upstream",
        judged=JUDGED_AFTER_SECONDS,
        since=now - RATE_WINDOW_SECONDS,
    )
    return {row["upstream"]: (int(row["delivered"]), int(row["judged"])) for row in rows}


def _doubts(tx: Tx) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for row in attempts.exposures(tx):
        count, words = found.get(row["upstream"], (0, ""))
        amount = str(Money(int(row["amount"]), row["currency"]))
        found[row["upstream"]] = (count + int(row["attempts"]), f"{words} + {amount}" if words else amount)
    return found


# What can't be named


@click.group("catalog")
def catalog_group() -> None:
    """Services and countries."""


@catalog_group.command("coverage")
@click.option("--upstream", "name", help="Only this one.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Rows at most; JSON has them all.")
@common
@click.pass_obj
def coverage(context: Context, name: str | None, limit: int) -> None:
    """What upstreams sell under words we have no code for, most stock first. Reads every price list now."""
    if name is not None and name not in context.settings().upstreams:
        raise AccountError(f"there is no upstream {name} in upstreams.toml")

    async def read(gateway: Gateway) -> list[dict[str, Any]]:
        names = [one for one in gateway.house.upstreams if name in (None, one)]
        found = await asyncio.gather(*(_unnamed(gateway, one) for one in names))
        return sorted((row for rows in found for row in rows), key=lambda row: (-row["stock"], row["word"]))

    rows = with_gateway(context, read)
    shown = rows if context.is_json else rows[:limit]
    show(context, shown, ("upstream", "kind", "word", "stock"))
    if context.is_json:
        return
    if len(rows) > limit:
        click.echo(f"… and {len(rows) - limit} more", err=True)
    if rows:
        click.echo(
            "\nTo sell them: add the service or country to config/catalog, and map it in the upstream's table:"
            '\n    services = { ourcode = "their word" }   or   countries = { 6 = "their word" }',
            err=True,
        )


async def _unnamed(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    upstream = gateway.house.upstreams[name]
    try:
        await upstream.offers()
    except UpstreamError as error:
        click.echo(f"{name}: no price list: {error}", err=True)
        return []
    words = upstream.unmapped if isinstance(upstream, HasUnmapped) else {}
    rows = []
    for key, stock in words.items():
        kind, _, word = key.partition(" ")
        rows.append({"upstream": name, "kind": kind if word else "row", "word": word or key, "stock": stock})
    return rows
