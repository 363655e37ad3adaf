"""Which keys a database needs: written down when a key is first used, struck out when nothing is sealed under it.

Keys are named by fingerprints, from which nothing follows. A process whose ring lacks one of them must not serve: it
would answer with errors for whatever it can't open, and nobody would know why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gateway.store import Row, Tx
from gateway.vault import SecretsError, Vault

NOTE_SECONDS = 60.0
"""How often a process says that it seals under its newest key."""

SILENT_SECONDS = 2 * NOTE_SECONDS
"""Nobody seals under a key of which nobody has said so for as long."""

PLACES: Sequence[tuple[str, str]] = (
    ("accounts", "webhook_url_sealed"),
    ("activations", "number_sealed"),
    ("activations", "webhook_url_sealed"),
    ("messages", "code_sealed"),
    ("messages", "text_sealed"),
    ("messages", "sender_sealed"),
    ("numbers", "number_sealed"),
    ("number_messages", "to_sealed"),
    ("number_messages", "sender_sealed"),
    ("number_messages", "text_sealed"),
    ("number_parts", "to_sealed"),
    ("number_parts", "sender_sealed"),
    ("number_parts", "text_sealed"),
    ("desk_tasks", "number_sealed"),
    ("desk_messages", "code_sealed"),
    ("desk_messages", "text_sealed"),
    ("pushes", "signature_sealed"),
)
"""Every table and column with sealed values. Each table has an `id`; what is empty there has been deleted."""


def enter(tx: Tx, vault: Vault, at: float) -> None:
    """Checks that the ring opens what the database holds, and writes down what is new in it.

    Raises SecretsError naming the keys it lacks.
    """
    known = {row["fingerprint"]: row for row in in_use(tx)}
    lacking = sorted(known.keys() - set(vault.fingerprints))
    if lacking:
        raise SecretsError(
            f"DATA_ENCRYPTION_KEYS lacks {', '.join(lacking)}, under which this database has sealed data: put it back,"
            " behind the newest. `simroute secrets status` tells when a key may be removed."
        )
    if not known:
        _try_samples(tx, vault)
    newest = vault.fingerprints[0]
    for fingerprint in (newest,) if known else vault.fingerprints:
        _enter_one(tx, fingerprint, at if fingerprint == newest else 0.0, at)
    if len(known) > 1 and newest in known and known[newest]["used_at"] < at - NOTE_SECONDS:
        note_use(tx, newest, at)


def is_entered(tx: Tx, vault: Vault, at: float) -> bool:
    """Whether `enter` would change nothing, so that nobody who only reads has to wait for a writer."""
    known = {row["fingerprint"]: row for row in in_use(tx)}
    newest = known.get(vault.fingerprints[0])
    is_noted = newest is not None and (len(known) == 1 or newest["used_at"] >= at - NOTE_SECONDS)
    return is_noted and known.keys() <= set(vault.fingerprints)


def in_use(tx: Tx) -> Sequence[Row]:
    """The keys something may be sealed under: `fingerprint`, `since`, `used_at`; the oldest first."""
    return tx.all("select fingerprint, since, used_at from sealing_keys order by since, fingerprint")


def note_use(tx: Tx, fingerprint: str, at: float) -> None:
    """A process seals under that key."""
    _enter_one(tx, fingerprint, at, at)
    tx.execute(
        "update sealing_keys set used_at = :at where fingerprint = :key and used_at < :at", at=at, key=fingerprint
    )


def busy_until(tx: Tx, newest: str) -> float:
    """From when on nobody seals under any other key than that, as far as is known."""
    row = tx.one("select max(used_at) as at from sealing_keys where fingerprint <> :key", key=newest)
    return float(row["at"]) + SILENT_SECONDS if row and row["at"] is not None else 0.0


def strike_out(tx: Tx, newest: str, started_at: float) -> None:
    """Everything was sealed anew since then: no older key is needed, but for one that was in use meanwhile."""
    tx.execute(
        "delete from sealing_keys where fingerprint <> :key and used_at + :silent <= :at",
        key=newest,
        silent=SILENT_SECONDS,
        at=started_at,
    )


def _enter_one(tx: Tx, fingerprint: str, used_at: float, at: float) -> None:
    tx.execute(
        "insert into sealing_keys (fingerprint, since, used_at) values (:key, :at, :used)"
        " on conflict (fingerprint) do nothing",
        key=fingerprint,
        at=at,
        used=used_at,
    )


def _try_samples(tx: Tx, vault: Vault) -> None:
    """A database of a version that wrote no fingerprints: its first and last values tell whether the ring fits."""
    for sealed in _samples(tx):
        if vault.fingerprint_of(sealed) is None:
            raise SecretsError("DATA_ENCRYPTION_KEYS holds no key that opens this database's data")


def _samples(tx: Tx) -> Iterator[str]:
    for table, column in PLACES:
        for order in ("id", "id desc"):
            row = tx.one(f"select {column} as value from {table} where {column} <> '' order by {order} limit 1")  # noqa: S608 — constant text
            if row:
                yield row["value"]


def state(tx: Tx) -> Mapping[str, Row]:
    """By place, how far sealing anew has come."""
    return {
        row["place"]: row
        for row in tx.all("select place, fingerprint, after_id, unreadable, started_at, ended_at from resealings")
    }
