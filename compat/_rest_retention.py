"""For how long an account's numbers and messages are kept, as it and those above it may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from compat._rest_access import Access
from compat._rest_http import PREFIX, Call, Operation, Reply, show
from compat._rest_models import Model, NoBody, Wrong
from compat._rest_problems import Refused
from compat._rest_resellers import Resellers, manager_of, refusals
from compat._rest_shared import require_turn
from gateway import retention
from gateway.front import Front
from gateway.retention import RetentionError, Term

DAYS_MAX = 3650


class NewRetention(Model):
    """How long numbers and messages are to be kept after their activation has ended."""

    days: Annotated[StrictInt, Field(ge=1, le=DAYS_MAX)]


class Retention(Model):
    """How long an account's numbers and messages are kept after their activation has ended."""

    account: str
    days: int | None = Field(description="What holds: the least of all below. Null for ever.", examples=[7])
    own_days: int | None = Field(description="What the account itself is told; null for what holds above.")
    house_days: int | None = Field(description="What holds for everybody. Null for ever.", examples=[30])


class Keeping(Resellers):
    """The operations."""

    async def retention(self, call: Call) -> Reply:
        require_turn(call)
        house, name = self._front.house, _account(call)
        with refusals():
            found = await house.store.read(
                retention.term, manager_of(call), name, house.settings.gateway.retention.days
            )
        return _shown(name, found)

    async def set_retention(self, call: Call) -> Reply:
        return _shown(_account(call), await self._set(call, call.body.days))

    async def end_retention(self, call: Call) -> Reply:
        await self._set(call, None)
        return Reply(status=204)

    async def _set(self, call: Call, days: int | None) -> Term:
        manager, at = await self._change(call)
        house = self._front.house
        with refusals():
            try:
                return await house.store.run(
                    retention.set_term, manager, _account(call), days, house.settings.gateway.retention.days, at
                )
            except RetentionError as error:
                raise Refused("invalid", errors=[Wrong(pointer="/days", detail=str(error))]) from None


def _account(call: Call) -> str:
    return str(call.scope["path_params"]["account"])


def _shown(name: str, found: Term) -> Reply:
    return show(Retention(account=name, days=found.days, own_days=found.own_days, house_days=found.house_days))


def operations(front: Front) -> tuple[Operation, ...]:
    """All of them, in the order of the document."""
    do, may = Keeping(front), Access.MANAGER
    place = PREFIX + "/accounts/{account}/retention"
    problems = ("too_many_requests", "unknown_account")
    return (
        Operation("retention", "GET", (place,), do.retention, "How long numbers and messages are kept", Retention,
                  access=may, problems=problems),
        Operation("set_retention", "PUT", (place,), do.set_retention, "Keep numbers and messages for less", Retention,
                  body=NewRetention, access=may, problems=(*problems, "suspended"),
                  description="Of the account and all below it, never for longer than holds above."),
        Operation("end_retention", "DELETE", (place,), do.end_retention, "Keep them for as long as holds above", NoBody,
                  204, access=may, problems=(*problems, "suspended"), description="Safe to repeat."),
    )  # fmt: skip
