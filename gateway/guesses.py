"""Passwords can be guessed at only so fast: by e-mail and by address, for e-mails that nobody has as well.

An attempt is counted before it is looked at, and taken back when it succeeds, so that a hundred at once can't pass
together. Pauses double up to a few minutes and are forgotten: nobody can be kept out for ever by somebody else. And
where a person has signed in before, only guesses from there count against that person.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from gateway import manage
from gateway.manage import Manager
from gateway.store import Row, Tx
from gateway.users import find
from gateway.vault import Vault

FREE_PER_EMAIL = 5
FREE_PER_ADDRESS = 20
PAUSE_SECONDS_MAX = 300.0
FORGET_SECONDS = 1800.0

_FIRST_PAUSE_SECONDS = 2.0


class TooManyGuesses(Exception):
    """No attempt is taken before `seconds` have passed, at that address or for that person."""

    def __init__(self, seconds: float, *, is_of_address: bool) -> None:
        super().__init__()
        self.seconds = seconds
        self.is_of_address = is_of_address


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that was let through: whose it would be, and under which digests it was counted."""

    row: Row | None
    of_person: str
    of_address: str


def begin(tx: Tx, vault: Vault, email: str, place: str, at: float) -> Attempt:
    """Counts an attempt to prove to be whoever has a folded e-mail address. Raises TooManyGuesses, having counted none.

    `place` is the `network` it comes from. All of it is the same whether or not somebody has that address.
    """
    row = find(tx, email)
    of_address = vault.index_digest("sign-in-address", place)
    is_known = row is not None and row["seen_from"] == of_address
    of_person = _of_person_there(vault, email, of_address) if is_known else vault.index_digest("sign-in", email)
    if not _count(tx, of_person, FREE_PER_EMAIL, at):
        raise TooManyGuesses(_left(tx, of_person, at), is_of_address=False)
    if not _count(tx, of_address, FREE_PER_ADDRESS, at):
        raise TooManyGuesses(_left(tx, of_address, at), is_of_address=True)
    tx.execute("delete from sign_in_attempts where last_at <= :long_ago", long_ago=at - FORGET_SECONDS)
    return Attempt(row, of_person, of_address)


def failed(tx: Tx, attempt: Attempt, at: float) -> None:
    """Writes down that an attempt failed, and whom it was about where that is somebody: what was typed is not kept."""
    manage.note_person(tx, at, "unproven", "session.refuse", attempt.row["id"] if attempt.row is not None else None)


def succeeded(tx: Tx, attempt: Attempt, user_id: int, at: float, *, is_sign_in: bool) -> int | None:
    """Takes a counted attempt back; the epoch that a session is made under, None where the person is kept out by now.

    The address keeps the failures of others, or its owner could wipe them out with an account of its own.
    """
    tx.execute("delete from sign_in_attempts where digest = :digest", digest=attempt.of_person)
    tx.execute(
        "update sign_in_attempts set failed_count = failed_count - 1, locked_until = 0"
        " where digest = :digest and failed_count > 0",
        digest=attempt.of_address,
    )
    row = tx.one(
        "update users set seen_from = :address where id = :id and disabled_at is null and password_hash = :hash"
        " returning session_epoch",
        address=attempt.of_address,
        id=user_id,
        hash=attempt.row["password_hash"] if attempt.row else "",
    )
    if row is None:
        return None
    if is_sign_in:
        manage.note_person(tx, at, f"user:{user_id}", "session.open", user_id)
    return int(row["session_epoch"])


def switch_user(
    tx: Tx, vault: Vault, manager: Manager, user_id: int, at: float, *, is_disabled: bool, is_forced: bool = False
) -> Row:
    """As `manage.switch_user`; who is let in again is so without the pauses of wrong passwords."""
    row = manage.switch_user(tx, manager, user_id, at, is_disabled=is_disabled, is_forced=is_forced)
    if not is_disabled:
        forget(tx, vault, row["email"])
    return row


def forget(tx: Tx, vault: Vault, email: str) -> None:
    """Takes no failure against an e-mail address into account any more, wherever it was made."""
    digests = [vault.index_digest("sign-in", email)]
    row = find(tx, email)
    if row is not None and row["seen_from"]:
        digests.append(_of_person_there(vault, email, row["seen_from"]))
    for digest in digests:
        tx.execute("delete from sign_in_attempts where digest = :digest", digest=digest)


def _of_person_there(vault: Vault, email: str, of_address: str) -> str:
    """What failures are counted under where the person has signed in before, by the digest of that place."""
    return vault.index_digest("sign-in", f"{email} {of_address}")


def network(address: str) -> str:
    """Whom an address belongs to: of IPv6, one customer has a whole /64."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _count(tx: Tx, digest: str, free: int, at: float) -> bool:
    """Whether an attempt is let through; then it is counted, and the next one may have to wait."""
    counted = tx.one(
        "insert into sign_in_attempts (digest, failed_count, locked_until, last_at) values (:digest, 1, 0, :at)"
        " on conflict (digest) do update set last_at = :at, failed_count ="
        " case when sign_in_attempts.last_at <= :long_ago then 1 else sign_in_attempts.failed_count + 1 end"
        " where sign_in_attempts.locked_until <= :at returning failed_count",
        digest=digest,
        at=at,
        long_ago=at - FORGET_SECONDS,
    )
    if counted is None:
        return False
    pause = pause_seconds(counted["failed_count"], free)
    if pause:
        tx.execute(
            "update sign_in_attempts set locked_until = :until where digest = :digest", until=at + pause, digest=digest
        )
    return True


def _left(tx: Tx, digest: str, at: float) -> float:
    row = tx.one("select locked_until from sign_in_attempts where digest = :digest", digest=digest)
    return max(row["locked_until"] - at, 1.0) if row is not None else 1.0


def pause_seconds(failed_count: int, free: int) -> float:
    """How long nothing more is taken after so many failures in a row, of which some are free."""
    beyond = failed_count - free
    return min(PAUSE_SECONDS_MAX, _FIRST_PAUSE_SECONDS ** min(beyond, 20)) if beyond > 0 else 0.0
