"""What the owner of keys has to know: which of them the fuse slows or stops, and how to let one go on.

To be polled: the address an account has for webhooks gets messages in the form of the dialect that set it, and whoever
reads those would not understand anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from compat._rest_access import Access
from compat._rest_http import PREFIX, Call, Operation, Reply, show
from compat._rest_models import Model, NoBody, moment
from compat._rest_resellers import manager_of, path_number, refusals
from compat._rest_shared import require_turn
from gateway import manage
from gateway.front import Front
from gateway.fuse import Hurt
from gateway.manage import Fused

ALERTS_MAX = 1_000


class Alert(Model):
    """A key that buys and receives no codes."""

    alert: Literal["key_stopped", "key_slowed"]
    key: int = Field(description="The first of those that replaced each other.", examples=[17])
    account: str
    name: str = Field(description="What the key is called.")
    since: datetime | None
    until: datetime | None = Field(
        description="When it is over if nothing more is bought; a code ends it at once. Null while numbers that wait"
        " are enough to slow it."
    )
    misses: int = Field(description="Numbers without a code since its last one, those that wait included.")
    pause_seconds: float = Field(description="How long its next purchase waits.")


class Stop(Model):
    """A time for which a key was stopped."""

    id: int = Field(description="Grows with each stop.")
    key: int = Field(examples=[17])
    account: str
    at: datetime
    until: datetime = Field(description="At the latest: a code ends it.")
    misses: int


class Alerts(Model):
    """What stands now, the worst first, and the latest stops, also those that are over."""

    alerts: list[Alert]
    stops: list[Stop]


class Fuse(Model):
    """How far a key is from being slowed and stopped."""

    key: int = Field(examples=[17])
    account: str
    name: str
    state: Literal["free", "slowed", "stopped"]
    since: datetime | None
    until: datetime | None
    ended: int = Field(description="Numbers that ended without a code since the key's last one.")
    waiting: int = Field(description="Those that may get their first code yet.")
    slow_after: int = Field(description="With so many it is slowed; 0 for never.")
    stop_after: int = Field(description="With so many it is stopped; 0 for never.")
    pause_seconds: float
    stops: list[Stop] = Field(description="The latest ones, newest first.")


class Fuses:
    """The operations."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def alerts(self, call: Call) -> Reply:
        require_turn(call)
        house = self._front.house
        found, stops = await house.store.read(
            manage.blown, manager_of(call).account_id, house.settings.gateway.fuse, house.clock()
        )
        return show(Alerts(alerts=[_alert(one) for one in found[:ALERTS_MAX]], stops=[_stop(row) for row in stops]))

    async def fuse(self, call: Call) -> Reply:
        require_turn(call)
        house, within = self._front.house, manager_of(call).account_id
        with refusals():
            found = await house.store.read(
                manage.fuse_of, within, path_number(call, "key_id"), house.settings.gateway.fuse, house.clock()
            )
        return show(_fuse(found))

    async def reset(self, call: Call) -> Reply:
        await self._front.count_change_of(call.caller_or_none, call.session_or_none)
        house, manager = self._front.house, manager_of(call)
        with refusals():
            found = await house.store.run(
                manage.set_fuse,
                manager,
                path_number(call, "key_id"),
                house.settings.gateway.fuse,
                house.clock(),
                is_reset=True,
            )
        return show(_fuse(found))


def _alert(found: Hurt) -> Alert:
    state = found.state
    return Alert(
        alert="key_stopped" if state.word == "stopped" else "key_slowed",
        key=found.key_id,
        account=found.account,
        name=found.name,
        since=_time(state.since),
        until=_time(state.until),
        misses=state.misses,
        pause_seconds=state.pause_seconds,
    )


def _stop(row: Mapping[str, Any]) -> Stop:
    return Stop(
        id=row["id"],
        key=row["key_id"],
        account=row["account"],
        at=moment(row["at"]),
        until=moment(row["until"]),
        misses=row["misses"],
    )


def _fuse(found: Fused) -> Fuse:
    state = found.state
    return Fuse(
        key=found.key_id,
        account=found.account,
        name=found.name,
        state=state.word,
        since=_time(state.since),
        until=_time(state.until),
        ended=state.missed,
        waiting=state.waiting,
        slow_after=state.settings.slow_after,
        stop_after=state.settings.stop_after,
        pause_seconds=state.pause_seconds,
        stops=[_stop(row) for row in found.stops],
    )


def _time(at: float | None) -> datetime | None:
    return None if at is None else moment(at)


def operations(front: Front) -> Sequence[Operation]:
    """For the table that routes and document are made from."""
    do = Fuses(front)
    one_key = PREFIX + "/keys/{key_id}/fuse"
    of_key = ("too_many_requests", "unknown_key")
    return (
        Operation("alerts", "GET", (PREFIX + "/alerts",), do.alerts, "Keys that buy and receive no codes", Alerts,
                  access=Access.MANAGER, problems=("too_many_requests",), description=_ALERTS),
        Operation("fuse", "GET", (one_key,), do.fuse, "How far a key is from being stopped", Fuse,
                  access=Access.MANAGER, problems=of_key),
        Operation("reset_fuse", "POST", (one_key + "/reset",), do.reset, "Let a stopped key go on", Fuse, body=NoBody,
                  access=Access.MANAGER, problems=(*of_key, "suspended"),
                  description="It is counted anew from here. Safe to repeat."),
    )  # fmt: skip


_ALERTS = (
    "Of one's own account and all below it; an operator gets those of everybody. To be asked for now and then: `stops`"
    " has what came and went in between."
)
