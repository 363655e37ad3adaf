"""Chains over rows that are never changed: what was written, when, and in which order, can't be altered unnoticed.

A seal covers a range of ids. Its digest is made under `INDEX_KEY` over the seal before it and every row in the range,
so whoever can write to the database but does not have the key can't make a fitting one. Rows are sealed in batches,
some seconds after they were written: no sale waits for it.

Where several transactions write at once, a row with a lower id may be committed after one with a higher id. So a range
is sealed only once every transaction that could still put a row into it is over (`Sealer`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.store import Conflict, Row, Store, Tx
from gateway.vault import Vault

BATCH_ROWS = 2_000
BATCHES_A_ROUND = 20
ROUND_SECONDS = 5.0
BEGINNING = "beginning"
"""Stands for the digest before the first."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A table whose rows are sealed, with the columns that count, `id` first."""

    name: str
    columns: tuple[str, ...]


CHAINS: Mapping[str, Chain] = {
    "ledger": Chain(
        "ledger",
        ("id", "at", "kind", "debit", "credit", "amount", "currency", "activation_id", "actor", "note"),
    ),
    "audit": Chain("audit", ("id", "at", "actor", "action", "subject", "account_id", "detail")),
}


@dataclass(frozen=True, slots=True)
class Seal:
    """The newest seal of a chain: kept elsewhere, it proves later that nothing up to `last_id` was altered."""

    chain: str
    last_id: int
    digest: str
    sealed_at: float


def head(tx: Tx, chain: str) -> Seal | None:
    """The newest seal, or None before the first."""
    row = tx.one(
        "select last_id, digest, sealed_at from seals where chain = :chain order by id desc limit 1", chain=chain
    )
    return None if row is None else Seal(chain, row["last_id"], row["digest"], row["sealed_at"])


def seal(tx: Tx, vault: Vault, chain: str, up_to: int, at: float) -> int:
    """Seals the next batch of rows with ids up to `up_to`; how many. Raises Conflict where another process just did."""
    before = head(tx, chain)
    after, previous = (before.last_id, before.digest) if before else (0, BEGINNING)
    rows = _rows(tx, CHAINS[chain], after, up_to, BATCH_ROWS)
    if rows:
        first_id, last_id = after + 1, rows[-1]["id"]
        tx.insert(
            "insert into seals (chain, first_id, last_id, row_count, digest, sealed_at)"
            " values (:chain, :first, :last, :rows, :digest, :at) returning id",
            chain=chain,
            first=first_id,
            last=last_id,
            rows=len(rows),
            digest=_digest(vault, CHAINS[chain], previous, first_id, last_id, rows),
            at=at,
        )
    return len(rows)


def verify(tx: Tx, vault: Vault) -> Iterator[str]:
    """Walks every chain; a sentence for each range that is not as it was sealed."""
    for chain in CHAINS.values():
        yield from _verify_chain(tx, vault, chain)


def _verify_chain(tx: Tx, vault: Vault, chain: Chain) -> Iterator[str]:
    after, previous, seal_id = 0, BEGINNING, 0
    while batch := tx.all(
        "select id, first_id, last_id, row_count, digest from seals where chain = :chain and id > :after"
        " order by id limit 100",
        chain=chain.name,
        after=seal_id,
    ):
        for sealed in batch:
            span = f"{chain.name}: rows {sealed['first_id']} to {sealed['last_id']}"
            if sealed["first_id"] != after + 1:
                yield f"{chain.name}: the seal for the rows from {after + 1} on is gone"
            rows = _rows(tx, chain, sealed["first_id"] - 1, sealed["last_id"], sealed["row_count"] + 1)
            if len(rows) != sealed["row_count"]:
                yield f"{span} were {sealed['row_count']} when they were sealed, now they are not"
            elif _digest(vault, chain, previous, sealed["first_id"], sealed["last_id"], rows) != sealed["digest"]:
                yield f"{span} are not what was sealed"
            after, previous, seal_id = sealed["last_id"], sealed["digest"], sealed["id"]


def _rows(tx: Tx, chain: Chain, after: int, up_to: int, most: int) -> Sequence[Row]:
    columns = ", ".join(chain.columns)
    return tx.all(
        f"select {columns} from {chain.name} where id > :after and id <= :up_to order by id limit :most",  # noqa: S608 — names of this module
        after=after,
        up_to=up_to,
        most=most,
    )


def _digest(vault: Vault, chain: Chain, previous: str, first_id: int, last_id: int, rows: Sequence[Row]) -> str:
    content = hashlib.sha256()
    for row in rows:
        line = json.dumps([row[column] for column in chain.columns], ensure_ascii=True, separators=(",", ":"))
        content.update(line.encode() + b"\n")
    return vault.index_digest(f"seal:{chain.name}", f"{previous}:{first_id}:{last_id}:{content.hexdigest()}")


@dataclass(frozen=True, slots=True)
class _Mark:
    """The highest id seen, and when, by the database's own clock."""

    last_id: int
    seen_at: float


class Sealer:
    """Seals what can't change any more. One per process that works; two at once do no harm."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._marks: dict[str, _Mark] = {}

    async def round(self, now: float) -> int:
        """Seals what was written by the last round, as far as it is final; how many rows. Raises Unavailable."""
        total = 0
        for chain in CHAINS:
            mark = self._marks.get(chain)
            if mark is not None and await self._is_final(mark):
                total += await self._seal_up_to(chain, mark.last_id, now)
                mark = None
            if mark is None:
                self._marks[chain] = await self._store.read(_mark, chain, self._store.dialect)
        return total

    async def _is_final(self, mark: _Mark) -> bool:
        return self._store.dialect == "sqlite" or await self._store.run(_none_older, mark.seen_at)

    async def _seal_up_to(self, chain: str, last_id: int, now: float) -> int:
        total = 0
        for _ in range(BATCHES_A_ROUND):
            try:
                rows = await self._store.run(seal, self._vault, chain, last_id, now)
            except Conflict:
                break
            total += rows
            if rows < BATCH_ROWS:
                break
        return total


def _mark(tx: Tx, chain: str, dialect: str) -> _Mark:
    """Every id up to the one seen was given out before `seen_at`."""
    newest = tx.one(f"select coalesce(max(id), 0) as id from {CHAINS[chain].name}")  # noqa: S608 — names of this module
    clock = tx.one("select extract(epoch from clock_timestamp()) as at") if dialect != "sqlite" else None
    return _Mark(int(newest["id"]) if newest else 0, float(clock["at"]) if clock else 0.0)


def _none_older(tx: Tx, seen_at: float) -> bool:
    """Whether every transaction that had begun by then is over. Reading ones count too: telling them apart is not
    possible in the moment between an id and its row."""
    row = tx.one(
        "select count(*) as n from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend' and xact_start is not null"
        " and extract(epoch from xact_start) <= :seen_at",
        seen_at=seen_at,
    )
    return row is not None and row["n"] == 0
