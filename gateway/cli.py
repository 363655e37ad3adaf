"""The `simroute` command: a thin face over the same use-cases the server has.

A person reads aligned tables; `--json` gives a program the same facts. Problems go to standard error, exit status 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import uvicorn

from gateway import accounts, connections, forward, guard, leases, ledger, logs
from gateway.accounts import Caller
from gateway.app import Duty, Gateway, is_shareable
from gateway.cli_accounts import account_group, is_sandbox, key_group, sells_sandbox_only, transfer
from gateway.cli_activations import activation_group
from gateway.cli_backups import list_backups, restore_backup, take_backup
from gateway.cli_desk import desk_group
from gateway.cli_fuse import key_fuse
from gateway.cli_ledger import audit_group, ledger_group
from gateway.cli_markups import markup_group, price_steps
from gateway.cli_money import deposit_group, recharge_group, voucher_group
from gateway.cli_numbers import numbers_group
from gateway.cli_retention import retention_group
from gateway.cli_secrets import secrets_group
from gateway.cli_upstreams import catalog_group, upstreams_group
from gateway.cli_usage import show_usage
from gateway.cli_users import users_group
from gateway.cli_webhooks import webhook_group
from gateway.database import Database, Lock, Unreachable, lock_for_serving, open_database
from gateway.edge import Edge, bounded
from gateway.errors import UpstreamError
from gateway.model import Order
from gateway.money import parse, plain
from gateway.rules import EVERYTHING, without
from gateway.settings import Settings
from gateway.store import Tx
from gateway.supervisor import Supervisor
from gateway.terminal import Context, Group, common, complain, show, tell, with_database, with_gateway
from gateway.vault import write_private

DEMO_ACCOUNT = "demo"
DEMO_KEY_FILE = "demo-key"
DEMO_BALANCE = "100.00"
KEEP_ALIVE_SECONDS = 75
"""Longer than any client's pause between polls: a connection closed under a poll looks like an error to it."""

DATABASE_SECONDS = 10.0
DATABASE_PAUSE_SECONDS = 1.0
"""How long, and how often, a server tries for a database that does not answer when it starts."""

STOP_SECONDS = 15
GUARD_SECONDS = 5.0
PARENT_SECONDS = 1.0
ANSWER_SECONDS = 2.0
"""How long a client waits for a database that answers nothing before it is told to come again."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "directory", type=click.Path(path_type=Path), default=Path("config"), help="Directory of files."
)
@click.option("--json", "is_json", is_flag=True, help="Facts for a program instead of a table.")
@click.version_option(package_name="simroute")
@click.pass_context
def main(ctx: click.Context, directory: Path, is_json: bool) -> None:
    """A self-hosted gateway that speaks the SMS-Activate protocol."""
    ctx.obj = Context(directory, os.environ, is_json)


# Serving


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, help="Processes. More than one need PostgreSQL and Redis."
)
@click.option("--no-work", is_flag=True, help="Leave upstreams, expiry and webhooks to `simroute worker`.")
@click.option(
    "--status-port",
    type=click.IntRange(1, 65535),
    help="/health, /metrics and /process of this one, on 127.0.0.1; of the next worker one higher.",
)
@click.option("--listener", "descriptor", type=int, hidden=True)
@click.option("--ready", type=int, hidden=True)
@common
@click.pass_obj
def serve(
    context: Context,
    host: str | None,
    port: int | None,
    workers: int,
    no_work: bool,
    status_port: int | None,
    descriptor: int | None,
    ready: int | None,
) -> None:
    """Serve clients, and do the work behind it."""
    server = context.settings().gateway.server
    logs.configure(server.log_level, server.log_format)
    if descriptor is not None:
        listener = socket.socket(fileno=descriptor)
    else:
        listener = _listen(host or server.host, server.port if port is None else port)
    if workers > 1:
        _require_shareable(context, "--workers above 1 needs")
        arguments = ("--no-work",) if no_work else ()
        sys.exit(asyncio.run(_supervise(context, listener, workers, arguments, status_port)))
    _run(context, listener, Duty.SERVE if no_work else Duty.BOTH, ready, status_port)


@main.command()
@click.option("--host", help="Address to answer /health and /metrics on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port of /health and /metrics; a free one by default."
)
@common
@click.pass_obj
def worker(context: Context, host: str | None, port: int) -> None:
    """Only work: read upstreams, expire, settle, send webhooks. Shares it with all others on the database."""
    _require_shareable(context, "a worker beside others needs")
    server = context.settings().gateway.server
    logs.configure(server.log_level, server.log_format)
    _run(context, _listen(host or server.host, port), Duty.WORK, None, None)


@main.command()
@common
@click.pass_obj
def processes(context: Context) -> None:
    """Which process does which work, and for how long yet unless it says so again."""
    _require_shareable(context, "several processes need")
    rows = with_database(context, lambda database: database.store.read(leases.overview))
    facts = [{**row, "seconds": round(row["seconds"], 1)} for row in rows]
    show(context, facts, ("name", "holder", "seconds"))


def _require_shareable(context: Context, what: str) -> None:
    url = context.environment.get("DATABASE_URL", "")
    if url.partition(":")[0] not in ("postgresql", "postgres") or not context.environment.get("REDIS_URL"):
        raise click.ClickException(
            f"{what} PostgreSQL and Redis: set DATABASE_URL=postgresql://… and REDIS_URL=redis://…"
            " (one `simroute serve` without either does all the work itself)"
        )


async def _supervise(
    context: Context, listener: socket.socket, workers: int, arguments: Sequence[str], status_port: int | None
) -> int:
    listener.set_inheritable(True)

    def command(number: int, ready: int) -> Sequence[str]:
        status = () if status_port is None else ("--status-port", str(status_port + number))
        options = ("--listener", str(listener.fileno()), "--ready", str(ready), *status, *arguments)
        return (sys.executable, "-m", "gateway.cli", "--config", str(context.directory), "serve", *options)

    return await Supervisor(command, workers, listener.fileno()).run(lambda: _announce(listener, ""))


def _run(context: Context, listener: socket.socket, duty: Duty, ready: int | None, status_port: int | None) -> None:
    """Serves until a signal ends it. `ready` is written to once it serves: what started it waits for that."""
    guard.raise_limit()
    database = _open_patiently(context)
    lock = lock_for_serving(database, is_shared=is_shareable(database, context.environment.get("REDIS_URL")))
    # Shared for a moment with the process that this one replaces.
    status = None if status_port is None else _listen("127.0.0.1", status_port, is_shared=True)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            is_taken_over = runner.run(_serve(context, database, listener, lock, duty, ready, status))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        return
    finally:
        lock.close()
    if is_taken_over:
        sys.exit(1)  # whoever keeps it running starts it again: the other one may be gone by then


def _open_patiently(context: Context) -> Database:
    """The database, which may only be starting, as we are. Raises as `open_database`."""
    until = time.monotonic() + DATABASE_SECONDS
    while True:
        try:
            return open_database(context.environment, answer_seconds=ANSWER_SECONDS, tell=complain)
        except Unreachable as error:
            if time.monotonic() > until:
                raise
            complain(f"{error}. Trying again")
            time.sleep(DATABASE_PAUSE_SECONDS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, which is everywhere but on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Inherited by every connection: what leaves in several writes must not wait for a receipt of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise click.ClickException(f"can't listen on {host}:{port}: {error.strerror or error}") from None
    listener.listen(2048)
    return listener


async def _serve(
    context: Context,
    database: Database,
    listener: socket.socket,
    lock: Lock,
    duty: Duty,
    ready: int | None,
    status: socket.socket | None,
) -> bool:
    """Serves until it is ended; whether that was because another process has taken over."""
    gateway = Gateway(context.directory, context.environment, database, duty=duty)
    key = await _demo_key(gateway.house.settings, database)
    config = uvicorn.Config(
        gateway.app if duty is not Duty.WORK else gateway.status_app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # it would believe whatever a local process says of addresses
        http=connections.protocol(gateway.house.guard, bounded(Edge.of(gateway.house.settings.gateway.server))),
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )

    def on_ready() -> None:
        if ready is not None:
            with suppress(BrokenPipeError):  # whoever waited for it is ending us already
                os.write(ready, b"1")
        elif duty is Duty.WORK:
            _announce_worker(listener)
        else:
            _announce(listener, key)

    server = _Server(config, gateway, on_ready)
    gateway.is_stopping = lambda: server.should_exit
    guarding = asyncio.create_task(_guard(server, lock))
    beside = [
        guarding,
        asyncio.create_task(connections.keep_room(server, gateway.house.guard)),
    ]
    if ready is not None:
        beside.append(asyncio.create_task(_guard_parent(server)))
    if status is not None:
        inside = _Beside(uvicorn.Config(gateway.status_app, log_config=None, access_log=False, lifespan="off"))
        beside.append(asyncio.create_task(inside.serve([status])))
    try:
        await server.serve([listener])
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return not guarding.cancelled() and guarding.exception() is None


async def _guard(server: uvicorn.Server, lock: Lock) -> None:
    """Stops serving as soon as another process serves from the same database."""
    while True:
        if not await asyncio.to_thread(lock.renew):
            break
        await asyncio.sleep(GUARD_SECONDS)
    click.echo("another simroute has taken over this database: stopping", err=True)
    server.should_exit = True


async def _guard_parent(server: uvicorn.Server) -> None:
    """Stops serving when whoever started this process is gone: nobody would stop it."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 — nothing tells of it but looking
        await asyncio.sleep(PARENT_SECONDS)
    server.should_exit = True


class _Beside(uvicorn.Server):
    """A second server of a process: the signals are the first one's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server(uvicorn.Server):
    """A server whose gateway starts before it and stops after it, and that says when it is ready.

    Not by the ASGI lifespan: what keeps a gateway from starting has to reach whoever says it in one sentence.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._gateway.start()
            await super().startup(sockets)
            if self.started:
                self._on_ready()
        except BaseException:
            await self._gateway.stop()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if not self.force_exit:
            await self._gateway.stop()


def _announce(listener: socket.socket, key: str) -> None:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    click.echo(banner(f"http://{shown}:{port}/stubs/handler_api.php", key))


def _announce_worker(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    click.echo(f"\n  simroute works. Its state: http://{host}:{port}/process\n")


def banner(base: str, key: str) -> str:
    """What a person sees first: where it is, with which key, and three lines to paste."""
    if not key:
        return f"\n  simroute is ready at {base}\n"
    curl = f"curl '{base}?api_key={key}&action="
    return "\n".join(
        [
            "",
            "  simroute is ready. Point a client at it:",
            "",
            f"    base URL  {base}",
            f"    API key   {key}   (demo account, sandbox numbers)",
            "",
            "  Or paste these. The number's code comes within three seconds:",
            "",
            f"    {curl}getBalance'",
            f"    {curl}getNumber&service=tg&country=6'",
            f"    {curl}getActiveActivations'",
            "",
        ]
    )


async def _demo_key(settings: Settings, database: Database) -> str:
    """The demo account's key on an embedded database, made at the first start; empty elsewhere."""
    if database.directory is None or not any(is_sandbox(stanza) for stanza in settings.upstreams.values()):
        return ""
    path = database.directory / DEMO_KEY_FILE
    if path.exists():
        return path.read_text().strip()
    now, currency = time.time(), settings.pricing.currency

    def create(tx: Tx) -> str:
        if any(row["name"] == DEMO_ACCOUNT for row in accounts.overview(tx)):
            return ""
        account_id = accounts.create(tx, DEMO_ACCOUNT, currency, now, is_demo=True)
        ledger.deposit(tx, account_id, parse(DEMO_BALANCE, currency), now, actor="first start")
        return accounts.issue_key(tx, database.vault, DEMO_ACCOUNT, now)

    key = await database.store.run(create)
    if key:
        write_private(path, key + "\n")
    return key


# Configuration


@main.command("check-config")
@common
@click.pass_obj
def check_config(context: Context) -> None:
    """Read every file and say what is wrong with them."""
    settings = context.settings()
    upstreams = [name for name, stanza in settings.upstreams.items() if stanza.enabled]
    facts = {"version": settings.version, "upstreams": upstreams}
    tell(context, facts, f"ok: version {settings.version}, upstreams {', '.join(upstreams) or 'none'}")


@main.command()
@common
@click.pass_obj
def doctor(context: Context) -> None:
    """Ask every upstream: is the key good, what is the balance there, what does it sell that we can't name."""
    rows = with_gateway(context, _examine)
    show(context, rows, ("upstream", "state", "balance", "offers", "unmapped", "note"))
    if any(row["state"] != "ok" for row in rows):
        sys.exit(1)


async def _examine(gateway: Gateway) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_examine_one(gateway, name) for name in gateway.house.upstreams)))


async def _examine_one(gateway: Gateway, name: str) -> dict[str, Any]:
    upstream = gateway.house.upstreams[name]
    row: dict[str, Any] = {
        "upstream": name,
        "state": "ok",
        "balance": None,
        "offers": None,
        "unmapped": None,
        "note": "",
    }
    try:
        row["balance"] = str(await upstream.balance())
        row["offers"] = len(await upstream.offers())
    except UpstreamError as error:
        row["state"], row["note"] = type(error).__name__, str(error)
    unmapped = getattr(upstream, "unmapped", None)
    if unmapped:
        row["unmapped"] = len(unmapped)
        row["note"] = row["note"] or "e.g. " + ", ".join(str(word) for word in list(unmapped)[:3])
    return row


# The books


@main.group()
def db() -> None:
    """The database."""


@db.command("upgrade")
@common
@click.pass_obj
def db_upgrade(context: Context) -> None:
    """Bring the schema up to date; a server does this at its start as well."""

    async def nothing(database: Database) -> str:
        return "SQLite" if database.is_embedded else "PostgreSQL"

    kind = with_database(context, nothing)
    tell(context, {"database": kind, "state": "up to date"}, f"{kind}: up to date")


# What is for sale


@main.command()
@click.option("--service", help="Service code, such as tg.")
@click.option("--country", type=int, help="Country id, such as 6.")
@click.option("--account", "name", help="Whose prices; unless given, a customer of the default rules.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Rows at most; JSON has them all.")
@common
@click.pass_obj
def offers(context: Context, service: str | None, country: int | None, name: str | None, limit: int) -> None:
    """What can be bought now, and at which price."""

    async def read(gateway: Gateway) -> list[dict[str, Any]]:
        buyer = await _buyer(gateway, name)
        await _fetch_offers(gateway)
        return _offer_rows(gateway, buyer, service, country)

    rows = with_gateway(context, read)
    show(
        context, rows if context.is_json else rows[:limit], ("service", "country", "name", "price", "currency", "count")
    )
    if len(rows) > limit and not context.is_json:
        click.echo(f"… and {len(rows) - limit} more", err=True)


def _offer_rows(gateway: Gateway, buyer: Caller, service: str | None, country: int | None) -> list[dict[str, Any]]:
    catalog = gateway.house.settings.catalog
    if (service and service not in catalog.services) or (country is not None and country not in catalog.countries):
        raise click.ClickException("no such service or country in config/catalog")
    countries = catalog.countries
    return [
        {
            "service": row.service,
            "country": row.country,
            "name": countries[row.country].eng if row.country in countries else "",
            "price": plain(row.price.micros),
            "currency": row.price.currency,
            "count": row.count,
        }
        for row in gateway.house.market.listing_now(buyer, service, country)
    ]


async def _buyer(gateway: Gateway, name: str | None) -> Caller:
    """The account named, or a customer the enabled upstreams would serve."""
    settings = gateway.house.settings
    if name is None:
        allowed = without(EVERYTHING, settings.gateway.lawful.denied_services)
        return Caller(0, 0, "", settings.pricing.currency, sells_sandbox_only(settings), None, allowed=allowed)
    return await gateway.house.store.read(accounts.buyer, name, settings.gateway.lawful.denied_services)


async def _fetch_offers(gateway: Gateway) -> None:
    """Brings in every price list, the one the servers share where there is one, saying which could not be had."""

    async def fetch(name: str) -> None:
        if await gateway.price_lists.take(name):
            return
        try:
            gateway.house.market.put(name, await gateway.house.upstreams[name].offers())
        except UpstreamError as error:
            gateway.house.market.failed(name, str(error))
            click.echo(f"{name}: no price list: {error}", err=True)

    await asyncio.gather(*(fetch(name) for name in gateway.house.upstreams))


@main.command()
@click.argument("service")
@click.argument("country", type=int)
@click.option("--account", "name", help="Who would buy.")
@click.option("--max-price", help="Their highest price.")
@click.option("--operator", default="", help="The operator they name.")
@common
@click.pass_obj
def explain(
    context: Context, service: str, country: int, name: str | None, max_price: str | None, operator: str
) -> None:
    """Which upstreams would be tried, in which order, at which price, and why each other one is out."""

    async def read(gateway: Gateway) -> dict[str, Any]:
        buyer = await _buyer(gateway, name)
        cap = parse(max_price, buyer.currency) if max_price else None
        await _fetch_offers(gateway)
        return _explanation(gateway, buyer, Order(service, country, operator, cap))

    facts = with_gateway(context, read)
    if context.is_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo(f"{service} in {country}: listed {facts['listed'] or '-'}, ceiling {facts['ceiling'] or '-'}\n")
    show(context, facts["tried"], ("place", "upstream", "price", "cost", "count", "operator", "why"))
    if facts["excluded"]:
        click.echo()
        show(context, facts["excluded"], ("upstream", "price", "why"))
    if facts["tried"]:
        first = facts["tried"][0]
        click.echo(f"\nThe price at {first['upstream']}:")
        show(context, first["steps"], ("step", "rule", "amount"))


def _explanation(gateway: Gateway, buyer: Caller, order: Order) -> dict[str, Any]:
    settings = gateway.house.settings
    if order.service not in settings.catalog.services or order.country not in settings.catalog.countries:
        raise click.ClickException("no such service or country in config/catalog")
    found = gateway.house.market.shortlist(buyer, order)
    return {
        "service": order.service,
        "country": order.country,
        "config_version": settings.version,
        "listed": str(found.listed.price) if found.listed else None,
        "ceiling": str(found.ceiling) if found.ceiling else None,
        "tried": [
            {
                "place": place,
                "upstream": ranked.quote.offer.upstream,
                "price": str(ranked.quote.price),
                "cost": str(ranked.quote.offer.cost),
                "count": ranked.quote.offer.count,
                "operator": ranked.quote.offer.operator or None,
                "why": ranked.reason,
                "steps": price_steps(gateway.house.market.view.pricing, ranked.quote, buyer),
            }
            for place, ranked in enumerate(found.ranked, start=1)
        ],
        "excluded": [
            {"upstream": out.upstream, "price": str(out.price) if out.price else None, "why": out.reason}
            for out in found.excluded
        ],
    }


@main.command("forward", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def forward_command(arguments: Sequence[str]) -> None:
    """Hand a modem's message to the gateway: for gammu-smsd and SMS Server Tools (`simroute forward --help`)."""
    sys.exit(forward.run(forward.parser("simroute forward").parse_args(arguments)))


key_group.add_command(key_fuse)
main.add_command(account_group)
main.add_command(key_group)
main.add_command(deposit_group)
main.add_command(transfer)
main.add_command(voucher_group)
main.add_command(recharge_group)
main.add_command(numbers_group)
main.add_command(desk_group)
main.add_command(upstreams_group)
main.add_command(catalog_group)
main.add_command(ledger_group)
main.add_command(audit_group)
main.add_command(users_group)
main.add_command(retention_group)
main.add_command(secrets_group)
main.add_command(markup_group)
main.add_command(webhook_group)
main.add_command(show_usage)
main.add_command(activation_group)
main.add_command(take_backup)
main.add_command(list_backups)
main.add_command(restore_backup)

if __name__ == "__main__":
    main()
