"""The roster of numbers of one's own: what an administrator adds, changes, takes out and looks at.

Everything here is a unit of work, or made for one. `gateway.numbers` leases what stands in the roster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.numbers import DAY_SECONDS, among, number_digest, open_leases
from gateway.store import Row, Tx
from gateway.vault import Vault

INSERTED_TOGETHER = 50
ID_LENGTH_MAX = 6
"""Fewer digits than any number has: what is so short is the id that lists show."""


class NumbersError(ValueError):
    """What an administrator asked for can't be done; the message says why, one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class NumberSpec:
    """A number to be put into a pool, or changed there. `values` has what was given; the rest stays as it is.

    Keys: `country`, `carrier`, `source`, `services` (see `services_column`), `device`, `daily_cap`, `is_enabled`.
    `place` is where it was given, for problems.
    """

    place: str
    digest: str
    sealed: str = field(repr=False)
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Put:
    """What came of putting numbers into a pool."""

    added: int
    changed: int
    unchanged: int


_DEFAULTS: Mapping[str, Any] = {
    "country": None,
    "carrier": "",
    "source": "",
    "services": "",
    "device": None,
    "daily_cap": None,
    "is_enabled": 1,
}


def specify(vault: Vault, number: str, place: str, values: Mapping[str, Any]) -> NumberSpec:
    """Digest and seal are made here, before there is a transaction that others wait for."""
    return NumberSpec(place, number_digest(vault, number), vault.seal(number), values)


def services_column(codes: Iterable[str], *, is_except: bool) -> str:
    """Allowed services as a row keeps them, or with `is_except` those that are not."""
    words = sorted(set(codes))
    return f"{'-' if is_except else '+'} {' '.join(words)} " if words else ""


def put(tx: Tx, upstream: str, specs: Sequence[NumberSpec], at: float) -> Put:
    """Adds numbers, and changes those that are there. All or nothing: raises NumbersError with every problem."""
    known = {row["digest"]: row for row in _rows_of(tx, [spec.digest for spec in specs])}
    problems = [*_clashes(upstream, specs, known), *_device_clashes(tx, upstream, specs)]
    if problems:
        raise NumbersError(problems)
    new = [spec for spec in specs if spec.digest not in known]
    revived = [spec for spec in specs if spec.digest in known and known[spec.digest]["removed_at"] is not None]
    changed = [
        spec
        for spec in specs
        if spec.digest in known and spec not in revived and _differs(spec.values, known[spec.digest])
    ]
    for spec in (*revived, *changed):
        # Two numbers may change places: neither is in the other's way
        if "device" in spec.values:
            tx.execute("update numbers set device = null where digest = :digest", digest=spec.digest)
    for spec in (*revived, *changed):
        # A number that was taken out and comes back is as it would be if it were new, but for its history.
        # Its number may have been deleted meanwhile.
        defaults = {**_DEFAULTS, "number_sealed": spec.sealed} if spec in revived else {}
        _change(tx, known[spec.digest]["id"], {**defaults, **spec.values})
    _insert(tx, upstream, new, at)
    return Put(len(new) + len(revived), len(changed), len(specs) - len(new) - len(revived) - len(changed))


def _rows_of(tx: Tx, digests: Sequence[str]) -> list[Row]:
    return among(
        tx, "select id, upstream, digest, country, carrier, source, services, device, daily_cap, is_enabled, removed_at"
        " from numbers where digest", digests,
    )  # fmt: skip


def _clashes(upstream: str, specs: Sequence[NumberSpec], known: Mapping[str, Row]) -> Iterator[str]:
    first: dict[str, str] = {}
    for spec in specs:
        row = known.get(spec.digest)
        is_here = row is not None and row["removed_at"] is None
        if spec.digest in first:
            yield f"{spec.place}: the same number as {first[spec.digest]}"
        if row is not None and row["upstream"] != upstream:
            yield f"{spec.place}: the number is in the pool of {row['upstream']}"
        if not is_here and spec.values.get("country") is None:
            yield f"{spec.place}: a new number needs a country"
        first.setdefault(spec.digest, spec.place)


def _device_clashes(tx: Tx, upstream: str, specs: Sequence[NumberSpec]) -> Iterator[str]:
    moved = {spec.digest: spec for spec in specs if "device" in spec.values}
    if not any(spec.values["device"] for spec in moved.values()):
        return
    rows = tx.all("select digest, device from numbers where upstream = :u and device is not null", u=upstream)
    holders = {row["device"]: "another number" for row in rows if row["digest"] not in moved}
    for spec in moved.values():
        device = spec.values["device"]
        if device and device in holders:
            yield f"{spec.place}: the device {device!r} is that of {holders[device]}"
        if device:
            holders.setdefault(device, spec.place)


def _differs(values: Mapping[str, Any], row: Row) -> bool:
    return any(row[name] != value for name, value in values.items())


def _change(tx: Tx, number_id: int, values: Mapping[str, Any]) -> None:
    columns = ", ".join(f"{name} = :{name}" for name in values)
    tx.execute(
        f"update numbers set {columns}, removed_at = null, version = version + 1 where id = :number_id",  # noqa: S608 — constant text
        number_id=number_id,
        **values,
    )


def _insert(tx: Tx, upstream: str, specs: Sequence[NumberSpec], at: float) -> None:
    names = ("digest", "sealed", *_DEFAULTS)
    for start in range(0, len(specs), INSERTED_TOGETHER):
        rows, values = [], {}
        for place, spec in enumerate(specs[start : start + INSERTED_TOGETHER]):
            given = {**_DEFAULTS, **spec.values, "digest": spec.digest, "sealed": spec.sealed}
            values.update({f"{name}_{place}": given[name] for name in names})
            rows.append("(:upstream, :at, 0, 0, 0, " + ", ".join(f":{name}_{place}" for name in names) + ")")
        tx.execute(
            "insert into numbers (upstream, created_at, quarantined_until, used_at, version, digest, number_sealed,"  # noqa: S608 — constant text
            f" {', '.join(_DEFAULTS)}) values {', '.join(rows)}",
            upstream=upstream,
            at=at,
            **values,
        )


def pick(tx: Tx, vault: Vault, words: Sequence[str]) -> list[Row]:
    """The numbers meant: each word is a number, or the id that lists show. Raises NumbersError naming the others."""
    found = {word: _picked(tx, vault, word.strip().removeprefix("+")) for word in words}
    missing = [word for word, row in found.items() if row is None]
    if missing:
        raise NumbersError([f"there is no number {word} in a pool" for word in missing])
    return list({row["id"]: row for row in found.values() if row is not None}.values())


def _picked(tx: Tx, vault: Vault, digits: str) -> Row | None:
    if not (digits.isascii() and digits.isdigit()):
        return None
    if len(digits) <= ID_LENGTH_MAX:
        return tx.one(f"select {_SHOWN} from numbers n where id = :id and removed_at is null", id=int(digits))  # noqa: S608 — constant text
    digest = number_digest(vault, digits)
    return tx.one(f"select {_SHOWN} from numbers n where digest = :digest and removed_at is null", digest=digest)  # noqa: S608 — constant text


_SHOWN = (
    "n.id, n.upstream, n.number_sealed, n.country, n.carrier, n.source, n.services, n.device, n.daily_cap,"
    " n.is_enabled, n.quarantined_until, n.used_at, n.created_at"
)


def overview(tx: Tx, upstream: str | None, country: int | None, at: float) -> Sequence[Row]:
    """Numbers with how many leases each has open (`open_count`) and had in the last 24 hours (`day_count`)."""
    return tx.all(
        f"select {_SHOWN},"  # noqa: S608 — constant text
        " (select count(*) from number_leases o where o.number_id = n.id and o.ended_at is null"
        "  and o.expires_at > :now) as open_count,"
        " (select count(*) from number_leases d where d.number_id = n.id and d.opened_at > :day) as day_count"
        " from numbers n where n.removed_at is null and (:upstream = '' or n.upstream = :upstream)"
        " and (:country = -1 or n.country = :country) order by n.upstream, n.country, n.id",
        now=at,
        day=at - DAY_SECONDS,
        upstream=upstream or "",
        country=-1 if country is None else country,
    )


def history(tx: Tx, number_id: int, limit: int) -> Sequence[Row]:
    """A number's leases, the newest first."""
    return tx.all(
        "select id, service, state, messages, opened_at, expires_at, ended_at, cool_until from number_leases"
        " where number_id = :id order by id desc limit :most",
        id=number_id,
        most=limit,
    )


def set_enabled(tx: Tx, vault: Vault, words: Sequence[str], *, is_enabled: bool) -> int:
    """Leases that are open go on either way. How many numbers that changed. Raises NumbersError."""
    return sum(
        tx.execute(
            "update numbers set is_enabled = :enabled, version = version + 1 where id = :id and is_enabled <> :enabled",
            enabled=int(is_enabled),
            id=row["id"],
        )
        for row in pick(tx, vault, words)
    )


def quarantine(tx: Tx, vault: Vault, words: Sequence[str], until: float) -> int:
    """Keeps numbers from new leases until then, or lets them be leased (0). How many. Raises NumbersError."""
    return sum(
        tx.execute(
            "update numbers set quarantined_until = :until, version = version + 1 where id = :id",
            until=until,
            id=row["id"],
        )
        for row in pick(tx, vault, words)
    )


def end_cooldowns(tx: Tx, vault: Vault, words: Sequence[str], at: float) -> int:
    """Lets numbers be leased again for services they had. How many cool-downs ended. Raises NumbersError."""
    return sum(
        tx.execute(
            "update number_leases set cool_until = :now"
            " where number_id = :id and ended_at is not null and cool_until > :now",
            now=at,
            id=row["id"],
        )
        for row in pick(tx, vault, words)
    )


def remove(tx: Tx, vault: Vault, words: Sequence[str], at: float) -> int:
    """Takes numbers out of their pools. Their history stays, so that a number that comes back keeps its cool-downs.

    Raises NumbersError, also where a number has an open lease.
    """
    rows = pick(tx, vault, words)
    for row in rows:
        # Before the leases are looked at: a purchase that comes now finds that the number has changed.
        tx.execute(
            "update numbers set removed_at = :at, device = null, version = version + 1 where id = :id",
            at=at,
            id=row["id"],
        )
    busy = [row["id"] for row in rows if open_leases(tx, row["id"], at)]
    if busy:
        raise NumbersError([f"number {one} is leased: disable it, and remove it when it is free" for one in busy])
    return len(rows)


def messages(tx: Tx, upstream: str | None, limit: int, *, only_unmatched: bool) -> Sequence[Row]:
    """What came in, the newest first; texts and numbers are sealed."""
    return tx.all(
        "select m.id, m.upstream, m.source, m.number_id, n.number_sealed, m.to_sealed, m.device, m.sender_sealed,"
        " m.text_sealed, m.reason, m.received_at, m.recorded_at, m.lease_id, l.service from number_messages m"
        " left join numbers n on n.id = m.number_id left join number_leases l on l.id = m.lease_id"
        " where (:upstream = '' or m.upstream = :upstream) and (:unmatched = 0 or m.lease_id is null)"
        " order by m.id desc limit :most",
        upstream=upstream or "",
        unmatched=int(only_unmatched),
        most=limit,
    )
