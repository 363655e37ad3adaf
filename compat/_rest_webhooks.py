"""An account's webhook in our own JSON: where notices go, its secret, a test, the log, and what was given up."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from compat._rest_cursor import cursor, id_of
from compat._rest_http import PREFIX, Call, Operation, Reply, show
from compat._rest_models import NoBody
from compat._rest_problems import Refused
from compat._rest_resellers import manager_of, refusals
from compat._rest_shared import require_turn
from compat._rest_webhook_models import (
    NOTICE_ID,
    AttemptsQuery,
    Notice,
    Notices,
    NoticesQuery,
    Replay,
    Replayed,
    Webhook,
    WebhookAddress,
    WebhookAttempts,
    WebhookRotation,
    WebhookSecret,
    WebhookTest,
    attempt,
    notice,
    webhook,
    webhook_secret,
    webhook_test,
)
from gateway import webhook_endpoints, webhook_log
from gateway.accounts import ID_MAX
from gateway.front import Front

_ID = re.compile(NOTICE_ID)


class Webhooks:
    """The operations. All are for the account that asks, and no other."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def _change(self, call: Call) -> tuple[int, float, str]:
        """Counts a change; whose account, when, and who does it. Raises TooManyRequests."""
        await self._front.count_change(call.caller)
        return call.caller.account_id, self._front.house.clock(), call.caller.actor

    # The address

    async def webhook(self, call: Call) -> Reply:
        require_turn(call)
        return await self._shown(call.caller.account_id)

    async def set_webhook(self, call: Call) -> Reply:
        account_id, at, actor = await self._change(call)
        given: WebhookAddress = call.body
        house = self._front.house
        await house.store.run(
            webhook_endpoints.set_address,
            house.vault,
            house.settings.gateway.webhooks,
            account_id,
            given.url,
            given.format,
            at,
            actor,
        )
        return await self._shown(account_id)

    async def enable(self, call: Call) -> Reply:
        account_id, at, actor = await self._change(call)
        house = self._front.house
        await house.store.run(webhook_endpoints.enable, house.settings.gateway.webhooks, account_id, at, actor)
        return await self._shown(account_id)

    async def test(self, call: Call) -> Reply:
        account_id, _, _ = await self._change(call)
        return show(webhook_test(await self._front.trials.send(account_id, f"test_{secrets.token_hex(8)}")))

    async def _shown(self, account_id: int) -> Reply:
        house = self._front.house
        return show(webhook(await house.store.read(webhook_endpoints.shown, house.vault, account_id, house.clock())))

    # The secret

    async def secret(self, call: Call) -> Reply:
        account_id, at, _ = await self._change(call)
        house = self._front.house
        with refusals():
            found = await house.store.run(webhook_endpoints.reveal, manager_of(call), account_id, at)
        return show(webhook_secret(house.vault, account_id, found))

    async def rotate(self, call: Call) -> Reply:
        account_id, at, _ = await self._change(call)
        given: WebhookRotation = call.body
        house = self._front.house
        with refusals():
            found = await house.store.run(
                webhook_endpoints.rotate, manager_of(call), account_id, at, float(given.grace_seconds)
            )
        return show(webhook_secret(house.vault, account_id, found))

    # What was sent, and what was not

    async def attempts(self, call: Call) -> Reply:
        require_turn(call)
        query: AttemptsQuery = call.query
        found = await self._front.house.store.read(
            webhook_log.attempts,
            call.caller.account_id,
            before=id_of("attempt", query.cursor, ID_MAX),
            limit=query.limit + 1,
        )
        shown = found[: query.limit]
        next_cursor = cursor("attempt", shown[-1]["id"]) if len(found) > len(shown) else None
        return show(WebhookAttempts(attempts=[attempt(row) for row in shown], next_cursor=next_cursor))

    async def notices(self, call: Call) -> Reply:
        require_turn(call)
        query: NoticesQuery = call.query
        found = await self._front.house.store.read(
            webhook_log.notices,
            call.caller.account_id,
            state=query.state,
            before=id_of("notice", query.cursor, ID_MAX),
            limit=query.limit + 1,
        )
        shown = found[: query.limit]
        next_cursor = cursor("notice", shown[-1]["id"]) if len(found) > len(shown) else None
        return show(Notices(notices=[notice(row) for row in shown], next_cursor=next_cursor))

    async def replay_one(self, call: Call) -> Reply:
        account_id, at, actor = await self._change(call)
        notice_id = int(call.path_id.removeprefix("msg_")) if _ID.fullmatch(call.path_id) else 0
        if not 0 < notice_id <= ID_MAX:
            notice_id = 0  # nobody's
        row = await self._front.house.store.run(webhook_log.replay, account_id, notice_id, at, actor)
        if row is None:
            raise Refused("unknown_notice")
        return show(notice(row))

    async def replay_dead(self, call: Call) -> Reply:
        account_id, at, actor = await self._change(call)
        given: Replay = call.body
        since = given.since.timestamp() if given.since is not None else 0.0
        count = await self._front.house.store.run(webhook_log.replay_dead, account_id, since, at, actor)
        return show(Replayed(count=count, is_more=count == webhook_log.REPLAYED_MAX))


def operations(front: Front) -> Sequence[Operation]:
    """For the table that routes and document are made from."""
    do = Webhooks(front)
    top = PREFIX + "/webhook"
    reads = ("too_many_requests",)
    addresses = ("bad_webhook_url", "webhook_not_https", "webhook_url_too_long")
    manages = ("too_many_requests", "may_not_manage", "suspended")
    return (
        Operation("webhook", "GET", (top, "/webhook"), do.webhook, "Where notices go", Webhook, problems=reads),
        Operation("set_webhook", "POST", (top, "/webhook"), do.set_webhook, "Say where notices go", Webhook,
                  body=WebhookAddress, problems=addresses, description=_SET),
        Operation("test_webhook", "POST", (top + "/test", "/webhook/test"), do.test, "Send a test there", WebhookTest,
                  body=NoBody, problems=("not_allowed_now",), description=_TEST),
        Operation("enable_webhook", "POST", (top + "/enable",), do.enable, "End a pause, and what disabled it",
                  Webhook, body=NoBody, description="Rentals' own addresses as well. Safe to repeat."),
        Operation("webhook_secret", "GET", (top + "/secret",), do.secret, "What signs notices", WebhookSecret,
                  problems=manages, description="For a key that may manage, or a session."),
        Operation("rotate_webhook_secret", "POST", (top + "/secret/rotate",), do.rotate,
                  "Replace what signs notices", WebhookSecret, body=WebhookRotation, problems=manages,
                  description=_ROTATE),
        Operation("webhook_attempts", "GET", (top + "/attempts",), do.attempts, "What was sent, newest first",
                  WebhookAttempts, query=AttemptsQuery, problems=reads),
        Operation("webhook_notices", "GET", (top + "/notices",), do.notices, "Messages told, or to be told",
                  Notices, query=NoticesQuery, problems=reads),
        Operation("replay_notice", "POST", (top + "/notices/{id}/replay",), do.replay_one, "Send one once more",
                  Notice, body=NoBody, problems=("unknown_notice", "not_allowed_now"), description=_REPLAY,
                  id_pattern=NOTICE_ID, id_example="msg_17"),
        Operation("replay_notices", "POST", (top + "/replay",), do.replay_dead, "Send what was given up once more",
                  Replayed, body=Replay, problems=("not_allowed_now",), description=_REPLAY),
    )  # fmt: skip


_SET = "What waits to be sent goes there at once, also where the address before was paused or disabled."
_TEST = "Signed, in the account's form, and marked as a test: its `webhook-id` begins with `test_`."
_ROTATE = (
    "The new one counts at once. The former goes on signing beside it in `webhook-signature` for the grace;"
    " `X-Signature` is made with the new one."
)
_REPLAY = "Under the same `webhook-id`. Not while the address is disabled, or none is set."
