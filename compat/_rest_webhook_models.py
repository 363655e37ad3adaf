"""What goes over the wire about an account's webhook, as models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, StrictStr

from compat._rest_models import Model, moment
from compat._rest_reseller_models import Cursor, Limit, Moment
from gateway.accounts import GRACE_SECONDS_MAX
from gateway.model import Product
from gateway.vault import Vault
from gateway.webhook_endpoints import DEPLOYMENT, GRACE_SECONDS, Endpoint, Versions, secret_text
from gateway.webhooks import Tested

NOTICE_ID = r"^(msg_)?[1-9][0-9]{0,18}$"

Format = Literal["native", "standard", "sms_activate", "ds", "hero", "daisy"]
NoticeState = Literal["pending", "sent", "dead"]


# Requests


class WebhookAddress(Model):
    """Where notices of new messages are sent."""

    url: StrictStr = Field(
        min_length=1, max_length=2048, description="An `https://` address of at most 255 characters."
    )
    format: Format = Field(
        default="native", description="The form of the body: simroute's own, Standard Webhooks', or a protocol's push."
    )


class WebhookRotation(Model):
    """How a secret is replaced."""

    may_be_absent = True

    grace_seconds: Annotated[StrictInt, Field(ge=0, le=GRACE_SECONDS_MAX)] = Field(
        default=int(GRACE_SECONDS), description="How long the former one goes on signing beside the new one."
    )


class AttemptsQuery(Model):
    """Which part of the log."""

    limit: Limit = 50
    cursor: Cursor | None = None


class NoticesQuery(AttemptsQuery):
    """Which notices."""

    state: NoticeState | None = Field(default=None, description="Only these; without it, all.")


class Replay(Model):
    """Which of those that were given up."""

    may_be_absent = True

    since: Moment | None = Field(default=None, description="Of messages from then on; without it, all.")


# Answers


class Webhook(Model):
    """Where notices go, and how it fares."""

    url: str | None
    format: Format | None = Field(description="The form of the body.")
    state: Literal["none", "active", "paused", "disabled"] = Field(
        description="`paused`: it kept failing, and is tried again by itself. `disabled`: it gets nothing until it is"
        " set anew or enabled."
    )
    since: datetime | None = Field(description="When it began to fail, or was disabled.")
    paused_until: datetime | None
    failures: int = Field(description="In a row.")
    last_failure: str | None
    secret: Literal["own", "deployment"] = Field(
        description="`deployment`: notices are signed with a secret that others may know; rotate it."
    )
    former_secret_until: datetime | None = Field(description="Until when the former secret signs as well.")


class WebhookSecret(Model):
    """What signs the account's notices."""

    secret: str | None = Field(
        description="`whsec_` and the key in base64. Null while it is the deployment's, which is not shown.",
        examples=["whsec_YOUR_SECRET"],
    )
    version: int
    former_secret_until: datetime | None = Field(description="Until when the former secret signs as well.")


class WebhookTest(Model):
    """What came of a test."""

    id: str = Field(description="Its `webhook-id`.", examples=["test_5f2c6f3e9a1b4d70"])
    is_delivered: bool
    result: str = Field(examples=["http 200"])
    status: int | None = Field(description="What was answered.")
    seconds: float


class WebhookAttempt(Model):
    """One attempt to deliver a notice."""

    notice_id: str | None = Field(description="The `webhook-id`; null for a test.")
    at: datetime
    format: str = Field(description="The form of the body; `rent` is that of a rental's own address.")
    result: str = Field(examples=["http 200", "timed out"])
    status: int | None
    seconds: float
    payload_digest: str | None = Field(
        description="The same for the same body; only our key computes it. Null once its message is deleted."
    )
    signature: str | None = Field(description="The `X-Signature` that was sent. Null once its message is deleted.")


class WebhookAttempts(Model):
    """A page of the log, newest first."""

    attempts: list[WebhookAttempt]
    next_cursor: str | None


class Notice(Model):
    """One message to be told."""

    id: str = Field(description="The `webhook-id`.", examples=["msg_17"])
    activation_id: str = Field(description="Of an activation, or a rental.", examples=["ver_123456"])
    format: str
    state: NoticeState = Field(description="`dead`: given up.")
    tries: int
    created_at: datetime
    next_attempt_at: datetime | None
    ended_at: datetime | None
    last_result: str | None


class Notices(Model):
    """A page of notices, newest first."""

    notices: list[Notice]
    next_cursor: str | None


class Replayed(Model):
    """What is sent once more."""

    count: int
    is_more: bool = Field(description="Whether there may be more: ask again.")


# From ours to theirs


def webhook(found: Endpoint) -> Webhook:
    return Webhook.model_validate(
        {
            "url": found.url or None,
            "format": found.format if found.url else None,
            "state": found.state,
            "since": _moment(found.since),
            "paused_until": _moment(found.paused_until),
            "failures": found.failures,
            "last_failure": found.last_failure or None if found.failures or found.state == "disabled" else None,
            "secret": "deployment" if found.versions.current == DEPLOYMENT else "own",
            "former_secret_until": _moment(found.versions.former_until),
        }
    )


def webhook_secret(vault: Vault, account_id: int, found: Versions) -> WebhookSecret:
    return WebhookSecret(
        secret=secret_text(vault, account_id, found.current),
        version=found.current,
        former_secret_until=_moment(found.former_until),
    )


def webhook_test(found: Tested) -> WebhookTest:
    return WebhookTest(
        id=found.message_id,
        is_delivered=found.is_delivered,
        result=found.words,
        status=found.status,
        seconds=round(found.seconds, 3),
    )


def attempt(row: Mapping[str, Any]) -> WebhookAttempt:
    return WebhookAttempt(
        notice_id=None if row["notice_id"] is None else f"msg_{row['notice_id']}",
        at=moment(row["at"]),
        format=row["format"],
        result=row["result"],
        status=row["status"],
        seconds=round(row["seconds"], 3),
        payload_digest=row["body_digest"] or None,
        signature=row["signature"] or None,
    )


def notice(row: Mapping[str, Any]) -> Notice:
    return Notice(
        id=f"msg_{row['id']}",
        activation_id=f"{'rent' if row['product'] == Product.RENTAL else 'ver'}_{row['activation_id']}",
        format=row["format"],
        state=row["state"],
        tries=row["tries"],
        created_at=moment(row["created_at"]),
        next_attempt_at=moment(row["next_at"]) if row["state"] == "pending" else None,
        ended_at=_moment(row["ended_at"]),
        last_result=row["last_result"] or None,
    )


def _moment(at: float | None) -> datetime | None:
    return None if at is None else moment(at)
