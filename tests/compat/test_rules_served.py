"""Rules as clients meet them: what is listed, what is sold, from where and by which way a key may be used."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import accounts
from gateway.accounts import Issued
from gateway.model import BuyOrder, Lease
from tests.harness import PATH, SANDBOX, House, config_directory, environment, house

PRICING = (Path(__file__).parents[2] / "config" / "pricing.toml").read_text()
"""wa 0.15, tg 0.12, ds 0.10, all else 0.08."""

GATEWAY = '[server]\ntrusted_proxies = ["10.0.0.0/8", "2001:db8:ffff::/48"]\n'
SEES = "192.0.2.7"


@dataclass
class Served:
    """A gateway with a reseller (alice), a customer of hers (carol), and whoever stands beside (bob)."""

    house: House

    async def sub_key(self, account: str, name: str, **changes: Any) -> Issued:
        """A key with rules, to be called by its name from then on."""
        database = self.house.database
        made = await database.store.run(
            accounts.new_key, database.vault, account, 0.0, label=name, changes=changes or None
        )
        self.house.keys[name] = made.key
        return made

    async def rules(self, account: str, **changes: Any) -> None:
        await self.house.database.store.run(accounts.set_rules, account, changes, 0.0)
        await self.house.gateway.callers.refresh()

    async def number(self, key: str, service: str = "tg", country: int = 6, **more: object) -> str:
        """What getNumber says, without the id and the number."""
        answer = await self.house.call("getNumber", key, service=service, country=country, **more)
        return answer.partition(":")[0]

    async def prices(self, key: str, **more: object) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = json.loads(await self.house.call("getPrices", key, **more))
        return found

    def at(self, address: str) -> httpx.AsyncClient:
        """A client whose connections come from there."""
        transport = httpx.ASGITransport(app=self.house.gateway.app, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://gateway")


@pytest.fixture
async def served(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Served]:
    directory = config_directory(tmp_path, SANDBOX, GATEWAY, PRICING)
    async with house(directory, environment(sqlite_url), balances={"alice": "10.00", "bob": "10.00"}) as running:
        found = Served(running)
        await running.database.store.run(accounts.create, "carol", "USD", 0.0, is_demo=True, parent="alice")
        await found.sub_key("carol", "carol")
        yield found
        assert await running.problems() == []


# What is listed and sold


async def test_a_key_is_shown_and_sold_only_what_it_may_buy(served: Served) -> None:
    await served.sub_key("alice", "narrow", services=frozenset({"tg", "ds"}), countries=frozenset({6, 12}))
    assert {code: set(found) for code, found in (await served.prices("narrow")).items()} == {
        "6": {"tg", "ds"},
        "12": {"tg", "ds"},
    }
    assert [await served.number("narrow", *place) for place in (("tg", 6), ("tg", 7), ("wa", 6))] == [
        "ACCESS_NUMBER",
        "NO_NUMBERS",
        "NO_NUMBERS",
    ]
    counts = json.loads(await served.house.call("getNumbersStatus", "narrow", country=6))
    assert set(counts) == {"tg", "ds"}
    assert json.loads(await served.house.call("getOperators", "narrow")).get("countryOperators", {}).keys() <= {
        "6",
        "12",
    }


async def test_a_key_rents_only_where_it_may_buy(served: Served) -> None:
    await served.sub_key("alice", "local", countries=frozenset({6}))
    told = {key: json.loads(await served.house.call("getCountries", key)) for key in ("alice", "local")}
    assert {number for number, row in told["local"].items() if row["rent"]} == {"6"}
    assert sum(row["rent"] for row in told["alice"].values()) > 1
    offers = json.loads(await served.house.call("getRentServicesAndCountries", "local", country=6))
    assert list(offers["countries"].values()) == [6]


async def test_keys_of_one_account_do_not_see_each_others_lists(served: Served) -> None:
    """Lists are kept and shared; two keys under different rules must not get each other's."""
    await served.sub_key("alice", "one", services=frozenset({"tg"}))
    await served.sub_key("alice", "other", denied_services=frozenset({"tg"}))
    for _ in range(2):
        assert set((await served.prices("one", country=6))["6"]) == {"tg"}
        assert "tg" not in (await served.prices("other", country=6))["6"]
        assert {"tg", "wa"} <= set((await served.prices("alice", country=6))["6"])
        for name, services in (("one", {"tg"}), ("alice", {"tg", "wa"})):
            listed = (await rest(served, "GET", "/prices", name, params={"country": "6"})).json()["prices"]
            assert services <= {row["service"] for row in listed}
            assert (len(listed) == 1) is (name == "one")
            products = await served.house.client.get(
                "/v1/guest/products/indonesia/any", headers={"authorization": f"Bearer {served.house.keys[name]}"}
            )
            assert (set(products.json()) == {"telegram"}) is (name == "one")


async def test_what_costs_more_than_the_highest_price_is_not_there(served: Served) -> None:
    await served.sub_key("alice", "thrifty", price_max=100_000)
    shown = (await served.prices("thrifty", country=6))["6"]
    assert "ds" in shown
    assert not {"tg", "wa"} & set(shown)
    assert {leaf["cost"] for leaf in shown.values()} <= {0.1, 0.08}
    assert await served.number("thrifty", "ds") == "ACCESS_NUMBER"
    assert await served.number("thrifty", "tg") == "NO_NUMBERS"
    # A higher cap of the order's own lifts nothing.
    assert await served.number("thrifty", "tg", maxPrice="5.00") == "NO_NUMBERS"
    assert await served.number("thrifty", "ds", maxPrice="0.05") == "WRONG_MAX_PRICE"


async def test_a_customer_may_buy_no_more_than_its_reseller(served: Served) -> None:
    await served.rules("carol", services=frozenset({"tg", "wa"}))
    await served.rules("alice", services=frozenset({"wa", "ds"}))
    assert set((await served.prices("carol", country=6))["6"]) == {"wa"}
    assert await served.number("carol", "tg") == "NO_NUMBERS"
    assert await served.number("carol", "wa") == "NO_BALANCE"
    assert await served.number("bob", "tg") == "ACCESS_NUMBER"


async def test_services_denied_to_an_account_are_denied_to_its_customers(served: Served) -> None:
    await served.rules("alice", denied_services=frozenset({"tg"}))
    assert "tg" not in (await served.prices("carol", country=6))["6"]
    assert await served.number("carol", "tg") == "NO_NUMBERS"


async def rest(served: Served, method: str, path: str, key: str, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {served.house.keys[key]}"}
    return await served.house.client.request(method, f"/api/v1{path}", headers=headers, **more)


# Caps, in the words of each dialect


async def test_a_spend_cap_sounds_like_an_empty_purse_everywhere(served: Served) -> None:
    await served.sub_key("alice", "small", spend_day=120_000)
    assert [await served.number("small") for _ in range(2)] == ["ACCESS_NUMBER", "NO_BALANCE"]
    purchase = {"service": "tg", "country": "6"}
    refused = await rest(served, "POST", "/purchase", "small", json=purchase)
    assert (refused.status_code, refused.json()["code"]) == (402, "no_balance")
    five = await served.house.client.get(
        "/v1/user/buy/activation/indonesia/any/telegram",
        headers={"authorization": f"Bearer {served.house.keys['small']}"},
    )
    assert (five.status_code, five.text) == (400, "not enough user balance")


async def test_a_number_given_back_can_be_bought_again_under_the_cap(served: Served) -> None:
    await served.sub_key("alice", "small", spend_day=150_000, open_max=1)
    for _ in range(3):
        answer = await served.house.call("getNumber", "small", service="xmute", country=6)
        assert answer.startswith("ACCESS_NUMBER:")
        assert await served.number("small", "xmute") == "CHANNELS_LIMIT"
        assert await served.house.call("setStatus", "small", id=answer.split(":")[1], status=8) == "ACCESS_CANCEL"


async def test_a_suspended_account_reads_and_gives_back_but_does_not_buy(served: Served) -> None:
    answer = await served.house.call("getNumber", "alice", service="xmute", country=6)
    activation_id = answer.split(":")[1]
    store = served.house.database.store
    await store.run(accounts.suspend, "alice", 0.0)
    # At once, though this process still remembers alice as she was.
    assert await served.number("alice") == "ACCOUNT_INACTIVE"
    await served.house.gateway.callers.refresh()
    for name in ("alice", "carol"):
        assert await served.number(name) == "ACCOUNT_INACTIVE"
        refused = await rest(served, "POST", "/purchase", name, json={"service": "tg", "country": "6"})
        assert (refused.status_code, refused.json()["code"]) == (403, "suspended")
    assert await served.house.call("getStatus", "alice", id=activation_id) == "STATUS_WAIT_CODE"
    assert await served.house.call("setStatus", "alice", id=activation_id, status=8) == "ACCESS_CANCEL"
    await store.run(accounts.resume, "alice", 0.0)
    await served.house.gateway.callers.refresh()
    assert await served.number("alice") == "ACCESS_NUMBER"


async def test_a_purchase_under_way_when_its_account_is_suspended_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its money is held and the upstream has been asked: what comes of it is the account's, and can be given back."""
    upstream = served.house.gateway.house.upstreams["sandbox"]
    buy = upstream.buy

    async def suspended_meanwhile(order: BuyOrder) -> Lease:
        await served.house.database.store.run(accounts.suspend, "alice", 0.0)
        return await buy(order)

    monkeypatch.setattr(upstream, "buy", suspended_meanwhile)
    await served.rules("alice", spend_day=100_000)
    answer = await served.house.call("getNumber", "alice", service="xmute", country=6)
    assert answer.startswith("ACCESS_NUMBER:")
    assert await served.number("alice", "xmute") == "ACCOUNT_INACTIVE"
    assert await served.house.call("setStatus", "alice", id=answer.split(":")[1], status=8) == "ACCESS_CANCEL"
    assert await served.house.balance("alice") == (10_000_000, 0)


async def test_a_key_that_ended_a_moment_ago_buys_nothing(served: Served) -> None:
    made = await served.sub_key("alice", "leaked")
    assert await served.number("leaked") == "ACCESS_NUMBER"
    await served.house.database.store.run(accounts.revoke_key, made.id, 0.0)
    assert await served.number("leaked") == "BAD_KEY"


# From where, and by which way


async def balance(client: httpx.AsyncClient, key: str, forwarded: str = "") -> str:
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    answer = await client.get(PATH, params={"api_key": key, "action": "getBalance"}, headers=headers)
    return answer.text.partition(":")[0]


@pytest.mark.parametrize(
    ("address", "forwarded", "is_in"),
    [
        (SEES, "", True),
        ("192.0.2.8", "", False),
        ("::ffff:192.0.2.7", "", True),
        ("2001:db8:1::5", "", True),
        ("2001:db8:2::5", "", False),
        # Behind a proxy that is trusted, what it says; the last address that is no such proxy's.
        ("10.1.2.3", SEES, True),
        ("10.1.2.3", f"198.51.100.1, {SEES}", True),
        ("10.1.2.3", f"{SEES}, 198.51.100.1", False),
        ("10.1.2.3", f"{SEES}, 10.9.9.9", True),
        ("2001:db8:ffff::1", SEES, True),
        ("10.1.2.3", f"{SEES}:5678", True),
        ("10.1.2.3", "[2001:db8:1::5]:5678", True),
        ("10.1.2.3", "[2001:db8:1::5]", True),
        ("10.1.2.3", f"{SEES}, 10.9.9.9:443", True),
        ("10.1.2.3", "[2001:db8:2::5]:5678", False),
        ("10.1.2.3", "", False),
        ("10.1.2.3", "nonsense", False),
        # Anybody can write such a header.
        ("192.0.2.8", SEES, False),
    ],
)
async def test_a_key_is_used_from_its_addresses_only(
    served: Served, address: str, forwarded: str, *, is_in: bool
) -> None:
    made = await served.sub_key("alice", "fixed", ip_ranges=("192.0.2.7/32", "2001:db8:1::/48"))
    async with served.at(address) as client:
        assert await balance(client, made.key, forwarded) == ("ACCESS_BALANCE" if is_in else "BAD_KEY")
        assert await balance(client, served.house.keys["bob"], forwarded) == "ACCESS_BALANCE"
        headers = {"authorization": f"Bearer {made.key}", **({"x-forwarded-for": forwarded} if forwarded else {})}
        assert (await client.get("/api/v1/balance", headers=headers)).status_code == (200 if is_in else 401)
        assert (await client.get("/v1/user/profile", headers=headers)).status_code == (200 if is_in else 401)


async def test_addresses_have_to_please_every_level(served: Served) -> None:
    made = await served.sub_key("carol", "fixed", ip_ranges=("192.0.2.0/24",))
    await served.rules("alice", ip_ranges=("192.0.2.0/28",))
    for address, word in ((SEES, "ACCESS_BALANCE"), ("192.0.2.77", "BAD_KEY"), ("198.51.100.1", "BAD_KEY")):
        async with served.at(address) as client:
            assert await balance(client, made.key) == word


async def test_a_key_kept_to_a_dialect_is_none_elsewhere(served: Served) -> None:
    made = await served.sub_key("alice", "herald", dialects=frozenset({"hero", "rest"}))
    client = served.house.client
    query = {"api_key": made.key, "action": "getBalance"}
    headers = {"authorization": f"Bearer {made.key}"}
    assert (await client.get(f"/hero{PATH}", params=query)).text.startswith("ACCESS_BALANCE:")
    assert (await client.get("/api/v1/balance", headers=headers)).status_code == 200
    assert (await client.get(PATH, params=query)).text == "BAD_KEY"
    assert (await client.get(f"/daisy{PATH}", params=query)).text == "BAD_KEY"
    assert (await client.get("/v1/user/profile", headers=headers)).status_code == 401


async def test_a_key_that_may_not_come_this_way_is_a_guest_to_5sims_price_lists(served: Served) -> None:
    made = await served.sub_key("alice", "away", ip_ranges=("192.0.2.7/32",), services=frozenset({"tg"}))
    answer = await served.house.client.get(
        "/v1/guest/products/indonesia/any", headers={"authorization": f"Bearer {made.key}"}
    )
    assert len(answer.json()) > 1
