"""Prices down the tree as clients meet them: every list shows what is held, and a code pays every level."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import accounts, ledger, markups
from gateway.ladders import Markup
from gateway.money import Money
from gateway.store import Tx
from tests.harness import SANDBOX, House, config_directory, environment, house

PRICING = '[default]\nfixed = "0.08"\n[[rule]]\naccounts = ["dave"]\nfixed = "0.90"\n'
PAID_IN = 10_000_000


@pytest.fixture
async def served(tmp_path: Path, database_url: str) -> AsyncIterator[House]:
    """alice sells on to carol with a quarter on top, carol to dave and erin with a cent on wa and 0.05 steps on tg."""
    directory = config_directory(tmp_path, SANDBOX, "", PRICING)
    async with house(directory, environment(database_url), balances={"alice": "10.00", "bob": "10.00"}) as running:

        def grow(tx: Tx) -> None:
            for name, parent in (("carol", "alice"), ("dave", "carol"), ("erin", "carol")):
                account_id = accounts.create(tx, name, "USD", 0.0, is_demo=True, parent=parent)
                ledger.deposit(tx, account_id, Money(PAID_IN, "USD"), 0.0, actor="test")
                running.keys[name] = accounts.issue_key(tx, running.database.vault, name, 0.0)
            put(tx, "alice", Markup(percent_millionths=250_000))
            put(tx, "carol", Markup(services=frozenset({"wa"}), add_micros=10_000))
            put(tx, "carol", Markup(services=frozenset({"tg"}), step_micros=150_000))

        await running.database.store.run(grow)
        await running.gateway.callers.refresh()
        yield running
        assert await running.problems() == []


def put(tx: Tx, name: str, markup: Markup) -> None:
    markups.put(tx, accounts.find(tx, name)["id"], markup)


async def rest(served: House, path: str, name: str, **more: Any) -> Any:
    headers = {"authorization": f"Bearer {served.keys[name]}"}
    return (await served.client.get(path, headers=headers, **more)).json()


EXPECTED = {"alice": (0.08, 0.08), "bob": (0.08, 0.08), "carol": (0.1, 0.1), "dave": (0.15, 0.11)}
"""What tg and wa cost."""


@pytest.mark.parametrize("name", EXPECTED)
async def test_every_list_shows_an_account_its_own_price(served: House, name: str) -> None:
    for service, price in zip(("tg", "wa"), EXPECTED[name], strict=True):
        prices = json.loads(await served.call("getPrices", name, service=service, country=6))
        assert prices["6"][service]["cost"] == price
        top = json.loads(await served.call("getTopCountriesByService", name, service=service))
        assert {row["price"] for row in top.values()} == {price}
        (row,) = (await rest(served, "/api/v1/prices", name, params={"service": service, "country": "6"}))["prices"]
        assert float(row["price"]) == price
        product = {"tg": "telegram", "wa": "whatsapp"}[service]
        products = await rest(served, "/v1/guest/products/indonesia/any", name)
        assert products[product]["Price"] == price


async def test_customers_who_see_the_same_share_a_list_and_others_do_not(
    served: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[str]()
    market = served.gateway.house.market
    listing = market.listing

    def counted(buyer: Any, *more: Any) -> Any:
        made.append(buyer.account_name)
        return listing(buyer, *more)

    monkeypatch.setattr(market, "listing", counted)
    for name in ("alice", "bob", "carol", "erin"):
        await served.call("getPrices", name)
    assert made == ["alice", "carol", "erin"]
    await served.call("getPrices", "dave")
    assert made == ["alice", "carol", "erin"]


async def test_a_sale_to_the_leaf_pays_every_level(served: House) -> None:
    answer = await served.call("getNumber", "dave", service="tg", country=6)
    activation = answer.split(":")[1]
    assert await served.balance("dave") == (PAID_IN - 150_000, 150_000)
    assert await served.call("getBalance", "dave") == "ACCESS_BALANCE:9.85"
    deadline = time.monotonic() + 20
    while not (await served.call("getStatus", "dave", id=activation)).startswith("STATUS_OK"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert await served.balance("dave") == (PAID_IN - 150_000, 0)
    assert await served.balance("carol") == (PAID_IN + 50_000, 0)
    assert await served.balance("alice") == (PAID_IN + 20_000, 0)
    # A parent's margin is all it sees of the sale: the activation is its customer's.
    assert await served.call("getStatus", "carol", id=activation) == "NO_ACTIVATION"


async def test_a_cancelled_number_pays_nobody_and_a_cap_is_the_leafs_own_price(served: House) -> None:
    assert await served.call("getNumber", "dave", service="tg", country=6, maxPrice="0.14") == "WRONG_MAX_PRICE:0.15"
    answer = await served.call("getNumber", "dave", service="xmute", country=6, maxPrice="0.10")
    activation = answer.split(":")[1]
    assert await served.balance("dave") == (PAID_IN - 100_000, 100_000)
    await served.call("setStatus", "dave", id=activation, status=8)
    assert [(await served.balance(name))[0] for name in ("alice", "carol", "dave")] == [PAID_IN] * 3


async def test_a_changed_markup_is_in_the_next_list(served: House) -> None:
    await served.call("getPrices", "carol")
    await served.database.store.run(put, "alice", Markup(percent_millionths=500_000))
    await served.gateway.callers.refresh()
    prices = json.loads(await served.call("getPrices", "carol", service="wa", country=6))
    assert prices["6"]["wa"]["cost"] == 0.12
