"""Where an account's notices go, under which secret, and how the endpoints fare. Units of work.

An endpoint is an account's address, or that of one rental (`rental_id`; 0 for the account's). One that keeps failing is
paused, then disabled:

    active ──failures in a row──> paused ──a success──> active
       └──410, or failing for long──> disabled ──address set anew, or enabled──> active
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway import accounts, audit, manage
from gateway.accounts import GRACE_SECONDS_MAX, AccountError
from gateway.errors import NotAllowedNow
from gateway.manage import Manager
from gateway.settings import WebhooksSettings
from gateway.store import Row, Tx
from gateway.vault import Vault
from gateway.webhook_addresses import check_url

DEPLOYMENT = 0
"""The version of a secret that is the deployment's own."""

FIRST = 1
GRACE_SECONDS = 86_400.0
LEASE_EXTRA_SECONDS = 5.0
"""How long, beyond the time-out, an attempt may take to be written down before another process may repeat it."""

ENDPOINT = "case when n.format = 'rent' then n.activation_id else 0 end"
"""The `rental_id` of a notice's endpoint, in SQL with the notices as `n`."""

DISABLED = (
    "e.disabled_at is not null and (e.rental_id = 0 or exists"
    " (select 1 from activations v where v.id = e.rental_id and v.ended_at is null))"
)
"""In SQL, of endpoints as `e`."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Which of an account's secrets sign now: the current one, and the former for as long as it does."""

    current: int = FIRST
    former: int | None = None
    former_until: float | None = None

    @property
    def signing(self) -> Sequence[int]:
        """The newest first."""
        return (self.current,) if self.former is None else (self.current, self.former)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An account's webhook as its owner sees it. `state` is none, active, paused or disabled; `since` when it began."""

    url: str = field(repr=False)  # such addresses tend to carry secrets
    format: str
    state: str
    since: float | None
    paused_until: float | None
    failures: int
    last_failure: str
    versions: Versions


def lease_seconds(settings: WebhooksSettings) -> float:
    """How long a claimed notice is its claimant's."""
    return settings.timeout_seconds + LEASE_EXTRA_SECONDS


# The address


def set_address(
    tx: Tx,
    vault: Vault,
    settings: WebhooksSettings,
    account_id: int,
    url: str,
    body_format: str,
    at: float,
    actor: str,
) -> None:
    """Sends the account's notices there from now on; those that wait are tried at once. Raises as `check_url`."""
    check_url(url, settings)
    accounts.set_webhook(tx, vault, account_id, url, body_format)
    _resume(tx, settings, account_id, at, with_rentals=False)
    audit.note(tx, at, actor, "webhook.set", f"account:{account_id}", account_id=account_id, format=body_format)


def enable(tx: Tx, settings: WebhooksSettings, account_id: int, at: float, actor: str) -> None:
    """Ends every pause and disabling of the account's endpoints, rentals' included. Safe to repeat."""
    _resume(tx, settings, account_id, at, with_rentals=True)
    audit.note(tx, at, actor, "webhook.enable", f"account:{account_id}", account_id=account_id)


def shown(tx: Tx, vault: Vault, account_id: int, now: float) -> Endpoint:
    """The account's own endpoint."""
    row = tx.one(
        "select a.webhook_url_sealed, coalesce(a.webhook_format, 'sms_activate') as format, e.failures,"
        " e.failing_since, e.paused_until, e.disabled_at, e.last_failure from accounts a"
        " left join webhook_endpoints e on e.account_id = a.id and e.rental_id = 0 where a.id = :id",
        id=account_id,
    )
    sealed = row["webhook_url_sealed"] if row else None
    state, since = state_of(row, now) if row and sealed else ("none", None)
    return Endpoint(
        url=vault.open(sealed) if sealed else "",
        format=row["format"] if row else "",
        state=state,
        since=since,
        paused_until=row["paused_until"] if row and state == "paused" else None,
        failures=(row["failures"] or 0) if row else 0,
        last_failure=(row["last_failure"] or "") if row else "",
        versions=versions(tx, account_id, now),
    )


def overview(tx: Tx) -> Sequence[Row]:
    """Every account that has an address, by name: its form, how it fares (as `state_of`), and what waits or is dead."""
    return tx.all(
        "select a.name, coalesce(a.webhook_format, 'sms_activate') as format, e.failures, e.failing_since,"
        " e.paused_until, e.disabled_at, e.last_failure, coalesce(s.version, :first) as version,"
        " (select count(*) from notices n where n.account_id = a.id and n.state = 'pending') as pending,"
        " (select count(*) from notices n where n.account_id = a.id and n.state = 'dead') as dead"
        " from accounts a left join webhook_endpoints e on e.account_id = a.id and e.rental_id = 0"
        " left join webhook_secrets s on s.account_id = a.id where a.webhook_url_sealed is not null order by a.name",
        first=FIRST,
    )


def state_of(row: Row, now: float) -> tuple[str, float | None]:
    """Active, paused or disabled, and since when it is not well."""
    if row["disabled_at"] is not None:
        return "disabled", row["disabled_at"]
    if row["paused_until"] is not None and row["paused_until"] > now:
        return "paused", row["failing_since"]
    return "active", None


def disabled(tx: Tx, limit: int) -> Sequence[Row]:
    """Endpoints that get nothing any more, with their accounts' names: accounts' own first, the oldest first.

    Those of rentals that are over are nobody's concern any more.
    """
    return tx.all(
        "select e.rental_id, e.disabled_at, e.last_failure, a.name from webhook_endpoints e"  # noqa: S608 — a constant
        f" join accounts a on a.id = e.account_id where {DISABLED}"
        " order by case when e.rental_id = 0 then 0 else 1 end, e.disabled_at, e.account_id, e.rental_id limit :limit",
        limit=limit,
    )


# How an endpoint fares


def require_usable(tx: Tx, account_id: int, rental_id: int) -> None:
    """Raises NotAllowedNow where nothing would be sent there."""
    table = "activations" if rental_id else "accounts"
    row = tx.one(
        f"select t.webhook_url_sealed, e.disabled_at from {table} t"  # noqa: S608 — one of two names
        " left join webhook_endpoints e on e.account_id = :account and e.rental_id = :rental where t.id = :id",
        account=account_id,
        rental=rental_id,
        id=rental_id or account_id,
    )
    if row is None or row["webhook_url_sealed"] is None or row["disabled_at"] is not None:
        raise NotAllowedNow


def note_success(tx: Tx, account_id: int, rental_id: int) -> None:
    """Ends a pause; one that is disabled stays so."""
    tx.execute(
        "update webhook_endpoints set failures = 0, failing_since = null, paused_until = null"
        " where account_id = :account and rental_id = :rental and failures > 0 and disabled_at is null",
        account=account_id,
        rental=rental_id,
    )


def note_failure(
    tx: Tx,
    account_id: int,
    rental_id: int,
    words: str,
    at: float,
    settings: WebhooksSettings,
    *,
    is_gone: bool = False,
    hold_seconds: float = 0.0,
) -> None:
    """Counts a failed attempt, and pauses or disables the endpoint where it was one too many.

    `hold_seconds` is how long the receiver asked to be left alone, `is_gone` whether it asked for good.
    """
    row = tx.one(
        "insert into webhook_endpoints (account_id, rental_id, failures, failing_since, last_failure)"
        " values (:account, :rental, 1, :at, :words) on conflict (account_id, rental_id) do update set"
        " failures = webhook_endpoints.failures + 1, last_failure = excluded.last_failure,"
        " failing_since = coalesce(webhook_endpoints.failing_since, excluded.failing_since)"
        " returning failures, failing_since, paused_until, disabled_at",
        account=account_id,
        rental=rental_id,
        at=at,
        words=words,
    )
    if row is None or row["disabled_at"] is not None:
        return
    is_paused = row["paused_until"] is not None and row["paused_until"] > at
    breaker_seconds = 0.0 if is_paused else pause_seconds(row["failures"], settings)
    is_long = row["failures"] >= settings.pause_after and (
        at - row["failing_since"] >= settings.disable_after_hours * 3600
    )
    tx.execute(
        "update webhook_endpoints set paused_until = :paused, disabled_at = :disabled"
        " where account_id = :account and rental_id = :rental",
        paused=max(row["paused_until"] or 0.0, at + max(breaker_seconds, hold_seconds)),
        disabled=at if is_gone or is_long else None,
        account=account_id,
        rental=rental_id,
    )


def pause_seconds(failures: int, settings: WebhooksSettings) -> float:
    """How long an endpoint is left alone after so many failures in a row: doubled each time, up to a most."""
    beyond = failures - settings.pause_after
    return 0.0 if beyond < 0 else min(settings.pause_seconds * 2.0 ** min(beyond, 30), settings.pause_seconds_max)


def _resume(tx: Tx, settings: WebhooksSettings, account_id: int, at: float, *, with_rentals: bool) -> None:
    """Notices first, as whoever writes an attempt down does: two that lock in one order do not wait for each other.

    What falls due as soon as an attempt's claim may end is left as it is: it could be under way, and be sent twice.
    """
    tx.execute(
        "update notices set next_at = :at where account_id = :account and state = 'pending' and next_at > :leased"
        " and (format <> 'rent' or :rentals = 1)",
        at=at,
        account=account_id,
        leased=at + lease_seconds(settings),
        rentals=int(with_rentals),
    )
    tx.execute(
        "update webhook_endpoints set failures = 0, failing_since = null, paused_until = null, disabled_at = null"
        " where account_id = :account and (rental_id = 0 or :rentals = 1)",
        account=account_id,
        rentals=int(with_rentals),
    )


# Secrets


def versions(tx: Tx, account_id: int, now: float) -> Versions:
    """Which secrets sign the account's notices now."""
    row = tx.one(
        "select version, former_version, former_until from webhook_secrets where account_id = :id", id=account_id
    )
    return versions_of(row, now) if row else Versions()


def versions_of(row: Row, now: float) -> Versions:
    """The same from a row with `version` (null for an account that never had another), `former_version` and so on."""
    current = FIRST if row["version"] is None else row["version"]
    if row["former_until"] is None or row["former_until"] <= now:
        return Versions(current)
    return Versions(current, row["former_version"], row["former_until"])


def secrets_of(vault: Vault, account_id: int, found: Versions) -> Sequence[bytes]:
    """What signs the account's notices, the newest first."""
    return [vault.account_webhook_secret(account_id, version) for version in found.signing]


def secret_text(vault: Vault, account_id: int, version: int) -> str | None:
    """A secret as its owner is shown it, in the form of standardwebhooks.com. The deployment's is shown to nobody."""
    if version == DEPLOYMENT:
        return None
    return "whsec_" + base64.b64encode(vault.account_webhook_secret(account_id, version)).decode()


def reveal(tx: Tx, manager: Manager, account_id: int, at: float) -> Versions:
    """As `versions`, for whoever is about to be shown the secret: the audit log has it. Raises as `manage.require`."""
    manage.require(tx, manager, at)
    audit.note(tx, at, manager.actor, "webhook.secret", f"account:{account_id}", account_id=account_id)
    return versions(tx, account_id, at)


def rotate(tx: Tx, manager: Manager, account_id: int, at: float, grace_seconds: float = GRACE_SECONDS) -> Versions:
    """A new secret; the former one signs beside it for the grace, and no other does.

    Raises AccountError, and as `manage.require`.
    """
    manage.require(tx, manager, at)
    if not 0 <= grace_seconds <= GRACE_SECONDS_MAX:
        raise AccountError(f"the grace is 0 to {GRACE_SECONDS_MAX} seconds")
    tx.execute(
        "insert into webhook_secrets (account_id, version) values (:id, :first) on conflict (account_id) do nothing",
        id=account_id,
        first=FIRST,
    )
    row = tx.one(
        "update webhook_secrets set former_version = version, version = version + 1, rotated_at = :at,"
        " former_until = :until where account_id = :id returning version, former_version, former_until",
        id=account_id,
        at=at,
        until=at + grace_seconds,
    )
    assert row is not None  # noqa: S101 — it was just written
    audit.note(
        tx, at, manager.actor, "webhook.rotate", f"account:{account_id}", account_id=account_id, version=row["version"],
        grace_seconds=grace_seconds,
    )  # fmt: skip
    return versions_of(row, at)
