"""A tree of accounts on a database, and orders without upstreams: what the tests of caps and rules drive."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway import accounts, ledger
from gateway.database import Database
from gateway.errors import CallerError
from gateway.money import Money
from gateway.store import Store, Tx

AT = 1_750_000_000.0
"""2025-06-15 15:06:40 UTC: a Sunday in the middle of the month, six minutes into the hour."""

OPEN_MAX = 10_000
COST = Money(60_000, "USD")


def usd(micros: int) -> Money:
    return Money(micros, "USD")


@dataclass
class Branches:
    """Accounts and keys by name; a key is called by its account's name unless it has one of its own."""

    database: Database
    ids: dict[str, int] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    plain: dict[str, str] = field(default_factory=dict)
    _fingerprints: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def store(self) -> Store:
        return self.database.store

    async def grow(self, name: str, parent: str | None = None, micros: int = 10_000_000) -> int:
        """An account with money and a key."""

        def create(tx: Tx) -> int:
            account_id = accounts.create(tx, name, "USD", AT, is_demo=False, parent=parent)
            if micros:
                ledger.deposit(tx, account_id, usd(micros), AT, actor="test")
            return account_id

        self.ids[name] = await self.store.run(create)
        await self.key(name, name)
        return self.ids[name]

    async def key(self, account: str, name: str, **changes: Any) -> int:
        """A key of an account; its id."""
        made = await self.store.run(
            accounts.new_key, self.database.vault, account, AT, label=name, changes=changes or None
        )
        self.keys[name], self.plain[name] = made.id, made.key
        return made.id

    async def rules(self, account: str, *, at: float = AT, force: Any = False, **changes: Any) -> accounts.Ruled:
        return await self.store.run(accounts.set_rules, account, changes, at, force=force)

    async def key_rules(self, key: str, *, at: float = AT, force: Any = False, **changes: Any) -> accounts.Ruled:
        return await self.store.run(accounts.set_key_rules, self.keys[key], changes, at, force=force)

    async def buy(self, key: str, micros: int = 100_000, *, at: float = AT, service: str = "tg") -> int:
        """An activation `opening` with its hold, as a purchase begins; its id. Raises what the hold raises."""
        return await self.store.run(self._buy, self.keys[key], micros, at, service)

    def _buy(self, tx: Tx, key_id: int, micros: int, at: float, service: str) -> int:
        activation_id, account_id = order(tx, key_id, micros, at, service, str(next(self._fingerprints)))
        ledger.hold(tx, account_id, activation_id, usd(micros), at, open_max=OPEN_MAX, actor="test")
        return activation_id

    async def tries(self, key: str, micros: int = 100_000, **more: Any) -> str:
        """As `buy`; `ok`, or the code of what it raised."""
        try:
            await self.buy(key, micros, **more)
        except CallerError as error:
            return error.code
        return "ok"

    async def capture(self, activation_id: int) -> None:
        """As the first message does it."""

        def deliver(tx: Tx) -> None:
            ledger.capture(tx, activation_id, COST, "one", AT, actor="test")
            tx.execute(
                "update activations set status = 'received', cost = 60000, cost_currency = 'USD' where id = :id",
                id=activation_id,
            )

        await self.store.run(deliver)

    async def shrink(self, activation_id: int, micros: int) -> None:
        """As a lease does it that costs less."""

        def attach(tx: Tx) -> None:
            ledger.shrink(tx, activation_id, usd(micros), AT, actor="test")
            tx.execute("update activations set price = :price where id = :id", price=micros, id=activation_id)

        await self.store.run(attach)

    async def end(self, activation_id: int) -> None:
        """As a cancel does it, or a finish where the code was paid for."""

        def end(tx: Tx) -> None:
            row = tx.one("select account_id, status from activations where id = :id", id=activation_id)
            assert row is not None
            status = "finished" if row["status"] == "received" else "cancelled"
            if status == "cancelled":
                ledger.release(tx, activation_id, AT, actor="test")
            ledger.leave(tx, row["account_id"], activation_id)
            tx.execute(
                "update activations set status = :status, ended_at = :at where id = :id",
                status=status,
                at=AT,
                id=activation_id,
            )

        await self.store.run(end)

    async def counters(self) -> Mapping[tuple[str, str, int], int]:
        rows = await self.store.read(lambda tx: tx.all("select subject, period, starts_at, amount from counters"))
        return {(row["subject"], row["period"], row["starts_at"]): row["amount"] for row in rows}

    async def counter(self, subject: str, period: str) -> int:
        """The sole counter of a subject for a period."""
        (amount,) = [
            value for (owner, kind, _), value in (await self.counters()).items() if (owner, kind) == (subject, period)
        ]
        return amount

    async def balance(self, name: str) -> tuple[int, int, int]:
        found = await self.store.read(ledger.balance, self.ids[name])
        return found.available.micros, found.held.micros, found.open_count

    async def problems(self) -> list[str]:
        return await self.store.read(ledger.verify)

    async def run(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self.store.run(unit, *args, **kwargs)


def order(tx: Tx, key_id: int, micros: int, at: float, service: str, fingerprint: str) -> tuple[int, int]:
    """An activation `opening`, without its hold; its id and its account's."""
    key = tx.one("select account_id from api_keys where id = :id", id=key_id)
    assert key is not None
    activation_id = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
        " opened_at, fingerprint, config_version)"
        " values (:account, :key, :service, 6, '', 'opening', :price, 'USD', :at, :print, '1') returning id",
        account=key["account_id"], key=key_id, service=service, price=micros, at=at, print=fingerprint,
    )  # fmt: skip
    return activation_id, key["account_id"]
