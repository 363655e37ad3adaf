"""`simroute key fuse`: how far a key is from being slowed and stopped, and what it may do before it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from gateway import fuse, manage
from gateway.manage import COMMAND_LINE, Fused
from gateway.settings import FuseSettings
from gateway.store import Row, Tx
from gateway.terminal import Context, common, moment, show, tell, with_database

DEFAULT = "default"
STOP_COLUMNS = ("at", "until", "misses")


class _Own(click.ParamType[Any]):
    """A number within bounds, or `default`."""

    name = "number"

    def __init__(self, bounds: click.ParamType[Any]) -> None:
        self._bounds = bounds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == DEFAULT else self._bounds.convert(value, param, ctx)


_COUNT = _Own(click.IntRange(0, 1_000_000_000))
_SECONDS = _Own(click.FloatRange(0, 30 * 86_400))
_WHILE = _Own(click.FloatRange(0, 30 * 86_400, min_open=True))


@click.command("fuse")
@click.argument("key_id", metavar="ID", type=int)
@click.option("--slow-after", type=_COUNT, help="Purchases without a code before it is slowed; 0 never, or `default`.")
@click.option("--slow-seconds", type=_SECONDS, help="By so much more for each further one.")
@click.option("--stop-after", type=_COUNT, help="Purchases without a code before it is stopped; 0 never.")
@click.option("--cooldown-seconds", type=_WHILE, help="For how long.")
@click.option("--window-seconds", type=_WHILE, help="After so long without a miss it is counted anew.")
@click.option("--reset", "is_reset", is_flag=True, help="End a stop, and count from here.")
@common
@click.pass_obj
def key_fuse(context: Context, /, key_id: int, is_reset: bool, **given: Any) -> None:
    """A key that buys and never receives: how many it has missed, when it was stopped. Sets what is given."""
    changes = {name: None if value == DEFAULT else value for name, value in given.items() if value is not None}
    settings, now = context.settings().gateway.fuse, time.time()

    def change(tx: Tx) -> Fused:
        return manage.set_fuse(tx, COMMAND_LINE, key_id, settings, now, changes=changes, is_reset=is_reset)

    def read(tx: Tx) -> Fused:
        return manage.fuse_of(tx, None, key_id, settings, now)

    is_change = bool(changes) or is_reset
    found = with_database(
        context, lambda database: database.store.run(change) if is_change else database.store.read(read)
    )
    _tell(context, key_id, found.state, found.stops)


def _tell(context: Context, key_id: int, state: fuse.State, stops: Sequence[Row]) -> None:
    effective: FuseSettings = state.settings
    past = [{"at": moment(row["at"]), "until": moment(row["until"]), "misses": row["misses"]} for row in stops]
    facts = {
        "id": key_id,
        "missed": state.missed,
        "waiting": state.waiting,
        "stopped_until": moment(state.stopped_until),
        "settings": {name: getattr(effective, name) for name in fuse.OWN},
        "own": sorted(state.own),
        "stops": past,
    }
    if state.stopped_until is not None:
        words = f"stopped until {moment(state.stopped_until)} UTC"
    elif fuse.pause_seconds(effective, state.misses):
        words = f"slowed by {fuse.pause_seconds(effective, state.misses):.2f} s a purchase"
    else:
        words = "free to buy"
    limit = f"of {effective.stop_after}" if effective.stop_after else "and no end"
    counted = f"{state.missed} ended and {state.waiting} wait without a code, {limit}"
    tell(context, facts, f"key {key_id} is {words}: {counted}")
    if past and not context.is_json:
        click.echo()
        show(context, past, STOP_COLUMNS)
