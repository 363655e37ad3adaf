"""`simroute desk`: what waits for a person, and what the person types. It works beside a running server.

The server finds what was typed here by looking: a number at once, a code with its next poll.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import click

from gateway.app import Gateway
from gateway.errors import NotAllowed, UnknownLease, UpstreamError
from gateway.inhouse import DeskTask, TypedIn
from gateway.terminal import Context, Group, common, moment, show, tell, with_gateway

COLUMNS = ("upstream", "task", "wants", "state", "service", "country", "operator", "number", "messages", "until")


@click.group("desk", cls=Group)
def desk_group() -> None:
    """Numbers and codes that a person types."""


@desk_group.command("list")
@common
@click.pass_obj
def desk_list(context: Context) -> None:
    """What is open: numbers wanted, numbers ready, codes wanted."""

    async def read(gateway: Gateway) -> list[dict[str, Any]]:
        return [_row(name, task) for name, desk in _desks(gateway).items() for task in await _told(desk.waiting())]

    show(context, with_gateway(context, read), COLUMNS)


@desk_group.command("supply")
@click.argument("task")
@click.option("--number", default="", help="The number, with its country's prefix.")
@click.option("--code", default="", help="The code that came.")
@click.option("--text", default="", help="The message that came, as far as it is known.")
@common
@click.pass_obj
def desk_supply(context: Context, task: str, number: str, code: str, text: str) -> None:
    """Type the number a task wants, or the message that came for it."""

    async def supply(desk: TypedIn) -> DeskTask:
        return await desk.supply(task, number=number, code=code, text=text)

    name, done = _at_its_desk(context, supply)
    what = "has its number" if number else f"has {len(done.messages)} message{'s' if len(done.messages) > 1 else ''}"
    tell(context, _row(name, done), f"task {task} {what}")


@desk_group.command("fail")
@click.argument("task")
@common
@click.pass_obj
def desk_fail(context: Context, task: str) -> None:
    """Say that there is no such number, or one of no use. Without a code, the client gets the money back."""

    async def fail(desk: TypedIn) -> DeskTask:
        return await desk.fail(task)

    name, done = _at_its_desk(context, fail)
    tell(context, _row(name, done), f"task {task} has failed")


@desk_group.command("offer")
@click.argument("service")
@click.argument("country", type=int)
@click.argument("number")
@click.option("--upstream", "name", help="Which desk, where there are several.")
@common
@click.pass_obj
def desk_offer(context: Context, service: str, country: int, number: str, name: str | None) -> None:
    """Put a number on the desk before anybody asks for one."""

    async def offer(gateway: Gateway) -> tuple[str, DeskTask]:
        found, desk = _only_desk(gateway, name)
        return found, await _told(desk.offer(service, country, number))

    found, task = with_gateway(context, offer)
    sentence = f"task {task.id}: ready for {service} in country {country} until {moment(task.until)} UTC"
    tell(context, _row(found, task), sentence)


def _desks(gateway: Gateway) -> dict[str, TypedIn]:
    return {name: one for name, one in gateway.house.upstreams.items() if isinstance(one, TypedIn)}


def _only_desk(gateway: Gateway, name: str | None) -> tuple[str, TypedIn]:
    desks = _desks(gateway)
    if name is not None and name in desks:
        return name, desks[name]
    if name is None and len(desks) == 1:
        return next(iter(desks.items()))
    if not desks:
        raise click.ClickException("no upstream in config/upstreams.toml is worked by a person")
    raise click.ClickException(f"name the desk with --upstream: {', '.join(sorted(desks))}")


def _at_its_desk(context: Context, call: Callable[[TypedIn], Awaitable[DeskTask]]) -> tuple[str, DeskTask]:
    """Asks one desk after the other until one knows the task; ids are of all desks together."""

    async def find(gateway: Gateway) -> tuple[str, DeskTask]:
        for name, desk in _desks(gateway).items():
            try:
                return name, await call(desk)
            except UnknownLease:
                continue
            except UpstreamError as error:
                raise click.ClickException(_sentence(error)) from None
        raise click.ClickException("no such task; `simroute desk list` shows what is open")

    return with_gateway(context, find)


async def _told(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except UpstreamError as error:
        raise click.ClickException(_sentence(error)) from None


def _sentence(error: UpstreamError) -> str:
    return str(error) if isinstance(error, NotAllowed) else f"{error}; nothing may have been done"


def _row(name: str, task: DeskTask) -> dict[str, Any]:
    return {
        "upstream": name,
        "task": task.id,
        "wants": task.wants or None,
        "state": task.state.value,
        "service": task.service,
        "country": task.country,
        "operator": task.operator or None,
        "price": str(task.cost),
        "number": task.number or None,
        "messages": len(task.messages),
        "created": moment(task.created_at),
        "until": moment(task.until),
    }
