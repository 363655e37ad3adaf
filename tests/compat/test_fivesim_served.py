"""5sim's protocol as its clients meet it: bytes on a socket, what they do to money, and what is never asked for."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from compat._fivesim_orders import AGAIN_SECONDS
from compat._fivesim_words import HOSTING, slug, words_of
from compat.fivesim import PREFIX, STATUSES, WORDS, FiveSim
from gateway import accounts
from gateway import limits as gateway_limits
from gateway.catalog import Catalog, Country, load_catalog
from gateway.errors import CallerError, NotAllowed, SoldOut, Unwell
from gateway.fivesim_words import COUNTRIES, PRODUCTS
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Sms, Status, Watched
from gateway.money import Money, to_micros
from gateway.offers import view_of
from gateway.store import Tx
from gateway.upstream import OfferTable
from tests.harness import ROOT, SANDBOX, add_account, config_directory, environment
from tests.wire import Answer, StillHouse, exchange, on_a_socket, still_house

PRICING = (ROOT / "config" / "pricing.toml").read_text()
NOBODYS = "100999999"
TELEGRAM = "/v1/user/buy/activation/indonesia/any/telegram"
MUTE = "/v1/user/buy/activation/indonesia/any/xmute"


@dataclass
class Client:
    """Sends requests as a client of 5sim's does, each on a connection of its own."""

    house: StillHouse
    port: int
    five: FiveSim

    async def ask(
        self, path: str, who: str = "alice", *, method: str = "GET", lines: Sequence[str] = (), body: bytes = b""
    ) -> Answer:
        key = self.house.keys.get(who, who)
        head = [f"{method} {path} HTTP/1.1", "Host: gateway", "Connection: close", *lines]
        if key:
            head.append(f"Authorization: Bearer {key}")
        if body:
            head.append(f"Content-Length: {len(body)}")
        return await exchange(self.port, "\r\n".join([*head, "", ""]).encode() + body)

    async def json(self, path: str, who: str = "alice") -> Any:
        """The answer to a request that goes well, amounts as they were written."""
        answer = await self.ask(path, who)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer
        return json.loads(answer.body, parse_float=Decimal)

    async def said(self, path: str, who: str = "alice") -> tuple[int, str]:
        """Status and sentence of a request that does not."""
        answer = await self.ask(path, who)
        assert answer.headers["content-type"] == "text/plain", answer
        return answer.status, answer.body.decode()

    async def buy(self, path: str = TELEGRAM, who: str = "alice") -> int:
        return int((await self.json(path, who))["id"])

    async def check(self, order: int, who: str = "alice") -> Any:
        return await self.json(f"/v1/user/check/{order}", who)


@asynccontextmanager
async def served(directory: Path, url: str) -> AsyncIterator[Client]:
    values = environment(url, STALL_API_KEY="x" * 32)
    async with still_house(directory, values) as house, on_a_socket(house.gateway) as port:
        yield Client(house, port, house.gateway.five)


on_both_databases = pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"], indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty database: SQLite, unless the test runs on both kinds."""
    return str(request.getfixturevalue(getattr(request, "param", "sqlite_url")))


@pytest.fixture
async def client(tmp_path: Path, url: str) -> AsyncIterator[Client]:
    """A gateway with the sandbox, at noon; alice has ten dollars, and so has bob."""
    async with served(config_directory(tmp_path, SANDBOX, pricing=PRICING), url) as found:
        for name in ("alice", "bob"):
            await found.house.open_account(name, "10.00")
        yield found
        assert await found.house.problems() == []


# The words


def caller_errors(above: type[CallerError] = CallerError) -> Iterator[type[CallerError]]:
    for error in above.__subclasses__():
        yield error
        yield from caller_errors(error)


def test_every_caller_error_has_a_word_and_no_word_is_for_none() -> None:
    codes = {error.code for error in caller_errors()}
    assert WORDS.keys() == codes
    assert STATUSES.keys() <= codes


def test_words_are_sentences_of_the_original() -> None:
    facts = {
        "no free phones": 200, "not enough user balance": 400, "not enough rating": 400, "bad country": 400,
        "no product": 400, "server offline": 400, "internal error": 500, "order not found": 400, "order expired": 400,
        "you need to wait time": 400, "api limit is 100 requests per second": 429,
    }  # fmt: skip
    for code, word in WORDS.items():
        assert STATUSES.get(code, 400) == facts.get(word, {"bad_key": 401}.get(code, 302)), code


def test_every_word_is_on_its_page() -> None:
    page = (ROOT / "docs" / "fivesim.md").read_text(encoding="utf-8")
    assert {word for word in WORDS.values() if f"`{word}`" not in page} == {""}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(ROOT / "config" / "catalog")


def test_every_service_and_country_has_a_word_of_its_own(catalog: Catalog) -> None:
    words = words_of(catalog)
    assert words.product_of.keys() == catalog.services.keys()
    assert words.country_of.keys() == catalog.countries.keys()
    assert {words.service_of[word]: word for word in words.service_of} == words.product_of
    assert {words.number_of[word]: word for word in words.number_of} == words.country_of
    for word in (*words.service_of, *words.number_of):
        assert re.fullmatch(r"[a-z0-9]+", word), word
    assert "any" not in words.service_of.keys() | words.number_of.keys()
    assert not words.service_of.keys() & HOSTING.keys()


def test_words_of_the_original_mean_what_they_mean_there(catalog: Catalog) -> None:
    words = words_of(catalog)
    assert {word: words.service_of[word] for word in PRODUCTS.values()} == {w: code for code, w in PRODUCTS.items()}
    for letters, word in COUNTRIES.items():
        assert catalog.countries[words.number_of[word]].iso2 == letters
    assert (words.number_of["england"], words.number_of["usa"], words.country_of[12]) == (
        16,
        187,
        "unitedstatesvirtual",
    )
    assert words.product_of["aa"] == "probo"  # by its name
    assert words.product_of["big"] == "big"  # by its code, the name is Cyrillic
    assert words.product_of["xmute"] == "xmute"


def test_names_alike_in_any_catalogue_still_get_two_words() -> None:
    services = {"a1": "Any", "b1": "Same one", "b2": "same-one", "c1": "Telegram", "tg": "Telegram", "d1": "1 day"}
    country = {number: Country(number, "XX", "Twice", "", "", "1") for number in (1, 2)}
    words = words_of(Catalog(services, frozenset(), country))
    assert words.product_of == {
        "tg": "telegram", "a1": "anya1", "b1": "sameone", "b2": "sameoneb2", "c1": "telegramc1", "d1": "1dayd1",
    }  # fmt: skip
    assert words.country_of == {1: "twice", 2: "twice2"}


def test_a_slug_has_no_accents_and_is_empty_where_letters_would_be_lost() -> None:
    assert (slug("ZéDelivery"), slug("Guinea-Bissau"), slug("Победа 63"), slug("—")) == (
        "zedelivery",
        "guineabissau",
        "",
        "",
    )


# A life, to the byte

NOON = "2025-06-01T12:00:00.000000000Z"
LATER = "2025-06-01T12:15:00.000000000Z"


@on_both_databases
async def test_an_order_from_purchase_to_end(client: Client) -> None:
    bought = await client.ask(TELEGRAM)
    found = re.fullmatch(rb'\{"id":(\d+),"phone":"\+(\d+)",.*', bought.body)
    assert found, bought.body
    number, phone = found[1].decode(), found[2].decode()

    def order(status: str, sms: str) -> str:
        return (
            f'{{"id":{number},"phone":"+{phone}","operator":"any","product":"telegram","price":0.12,"status":"{status}",'
            f'"expires":"2025-06-01T12:20:00.000000000Z","sms":{sms},"created_at":"{NOON}","forwarding":false,'
            '"forwarding_number":"","country":"indonesia"}'
        )

    assert bought.headers["content-type"] == "application/json"
    assert bought.body.decode() == order("PENDING", "null")
    assert phone.startswith("62")
    assert (await client.ask(f"/v1/user/check/{number}")).body.decode() == order("PENDING", "[]")
    assert (await client.house.balance("alice"))[:2] == (to_micros("9.88"), to_micros("0.12"))
    await client.house.passes(1.5)
    checked = await client.json(f"/v1/user/check/{number}")
    (sms,) = checked["sms"]
    text = (
        '[{"created_at":"2025-06-01T12:00:01.000000000Z","date":"2025-06-01T12:00:01.000000000Z","sender":"Sandbox",'
        f'"text":"Your Telegram code is {sms["code"]}","code":"{sms["code"]}"}}]'
    )
    assert (await client.ask(f"/v1/user/check/{number}")).body.decode() == order("RECEIVED", text)
    assert (await client.house.balance("alice"))[:2] == (to_micros("9.88"), 0)
    for _ in range(2):  # a repeat is safe
        assert (await client.ask(f"/v1/user/finish/{number}")).body.decode() == order("FINISHED", text)
    assert (await client.ask(f"/v1/user/check/{number}/")).body.decode() == order("FINISHED", text)


@pytest.mark.parametrize(("verb", "status"), [("cancel", "CANCELED"), ("ban", "BANNED")])
async def test_a_number_given_back_costs_nothing(client: Client, verb: str, status: str) -> None:
    order = await client.buy()
    assert (await client.house.balance("alice"))[:2] == (to_micros("9.88"), to_micros("0.12"))
    for _ in range(2):
        assert (await client.json(f"/v1/user/{verb}/{order}"))["status"] == status
    assert (await client.check(order))["status"] == status
    assert (await client.house.balance("alice"))[:2] == (to_micros("10.00"), 0)
    other = "ban" if verb == "cancel" else "cancel"
    assert await client.said(f"/v1/user/{other}/{order}") == (400, "order not found")


@on_both_databases
async def test_a_ban_is_told_from_a_cancel_by_a_process_that_was_started_after_it(tmp_path: Path, url: str) -> None:
    directory, values = config_directory(tmp_path, SANDBOX, pricing=PRICING), environment(url)
    async with still_house(directory, values) as before, on_a_socket(before.gateway) as port:
        await before.open_account("alice", "10.00")
        client = Client(before, port, before.gateway.five)
        orders = {verb: await client.buy(MUTE) for verb in ("ban", "cancel")}
        for verb, order in orders.items():
            await client.json(f"/v1/user/{verb}/{order}")
    async with still_house(directory, values) as after, on_a_socket(after.gateway) as port:
        after.keys.update(before.keys)
        client = Client(after, port, after.gateway.five)
        for _ in range(2):
            assert [(await client.check(order))["status"] for order in orders.values()] == ["BANNED", "CANCELED"]
            assert (await client.json(f"/v1/user/ban/{orders['ban']}"))["status"] == "BANNED"
            assert await client.said(f"/v1/user/cancel/{orders['ban']}") == (400, "order not found")
            assert await client.said(f"/v1/user/ban/{orders['cancel']}") == (400, "order not found")
        listed = await client.json("/v1/user/orders?category=activation")
        assert [order["status"] for order in listed["Data"]] == ["BANNED", "CANCELED"]
        query = f"api_key={after.keys['alice']}&action=getStatus&id={orders['ban']}"
        answer = await client.ask(f"/stubs/handler_api.php?{query}", "")
        assert answer.body == b"STATUS_CANCEL"


TABLE = """
state      check     finish                cancel                     ban
waiting    PENDING   400 order no sms      CANCELED                   BANNED
young      PENDING   400 order no sms      400 you need to wait time  400 you need to wait time
received   RECEIVED  FINISHED              400 order has sms          400 order has sms
again      RECEIVED  FINISHED              400 order has sms          400 order has sms
finished   FINISHED  FINISHED              400 order not found        400 order not found
timed_out  FINISHED  FINISHED              400 order not found        400 order not found
cancelled  CANCELED  400 order not found   CANCELED                   400 order not found
banned     BANNED    400 order not found   400 order not found        BANNED
expired    TIMEOUT   400 order expired     400 order expired          400 order expired
"""

STEPS: dict[str, tuple[str, list[str | float]]] = {
    "waiting": ("xmute", []),
    "young": ("xlock", []),
    "received": ("telegram", [1.5]),
    "again": ("telegram", [1.5, "check", AGAIN_SECONDS, "check"]),
    "finished": ("telegram", [1.5, "finish"]),
    "timed_out": ("telegram", [1.5, 1200.0]),
    "cancelled": ("xmute", ["cancel"]),
    "banned": ("xmute", ["ban"]),
    "expired": ("xmute", [1201.0]),
}
"""Product, then the seconds that pass and the calls that lead there."""


async def reach(client: Client, state: str) -> int:
    product, steps = STEPS[state]
    order = await client.buy(f"/v1/user/buy/activation/indonesia/any/{product}")
    for step in steps:
        if isinstance(step, float):
            await client.house.passes(step)
        else:
            await client.json(f"/v1/user/{step}/{order}")
            await client.five.drain()
    client.house.clock.now += 0.001  # the sandbox's references tell the milliseconds apart
    return order


async def test_every_verb_in_every_state(tmp_path: Path, sqlite_url: str) -> None:
    head, *rows = [re.split(r"  +", line) for line in TABLE.strip().splitlines()]
    wrong = []
    async with served(config_directory(tmp_path, SANDBOX), sqlite_url) as client:
        await client.house.open_account("alice", "100.00")
        for state, *wanted in rows:
            for verb, want in zip(head[1:], wanted, strict=True):
                answer = await client.ask(f"/v1/user/{verb}/{await reach(client, state)}")
                is_order = answer.status == 200
                got = json.loads(answer.body)["status"] if is_order else f"{answer.status} {answer.body.decode()}"
                if got != want:
                    wrong.append(f"{state}, {verb}: {got}, not {want}")
        assert wrong == []
        assert await client.house.problems() == []


async def test_an_order_keeps_its_messages_after_its_end(client: Client) -> None:
    order = await reach(client, "timed_out")
    client.house.gateway.house.live._ended.clear()
    checked = await client.check(order)
    assert (checked["status"], len(checked["sms"])) == ("FINISHED", 1)


# Numbers for a time, and numbers again

HOSTED = "/v1/user/buy/hosting/indonesia/any/1day"


@on_both_databases
async def test_hosting_from_purchase_to_end(client: Client) -> None:
    bought = await client.ask(HOSTED)
    found = re.fullmatch(rb'\{"id":(\d+),"phone":"\+(\d+)",.*', bought.body)
    assert found, bought.body
    number, phone = found[1].decode(), found[2].decode()

    def order(status: str, sms: str) -> str:
        return (
            f'{{"id":{number},"phone":"+{phone}","operator":"any","product":"1day","price":0.312,"status":"{status}",'
            f'"expires":"2025-06-02T12:00:00.000000000Z","sms":{sms},"created_at":"{NOON}","forwarding":false,'
            '"forwarding_number":"","country":"indonesia"}'
        )

    assert bought.body.decode() == order("PENDING", "null")
    assert (await client.ask(f"/v1/user/check/{number}")).body.decode() == order("PENDING", "[]")
    assert await client.json(f"/v1/user/sms/inbox/{number}") == {"Data": [], "Total": 0}
    assert (await client.house.balance("alice"))[:2] == (to_micros("9.688"), to_micros("0.312"))
    await client.house.passes(60.0)
    inbox = await client.json(f"/v1/user/sms/inbox/{number}")
    assert inbox["Total"] == len(inbox["Data"]) == 3
    assert all(sms["sender"] and sms["code"] in sms["text"] for sms in inbox["Data"])
    newest = await client.json(f"/v1/user/sms/inbox/{number}?limit=1&reverse=true")
    assert (newest["Data"], newest["Total"]) == (inbox["Data"][2:], 3)
    checked = await client.json(f"/v1/user/check/{number}")
    assert (checked["status"], checked["sms"]) == ("RECEIVED", inbox["Data"])
    listed = await client.json("/v1/user/orders?category=hosting")
    assert (listed["Data"], listed["Total"]) == ([checked], 1)
    assert (await client.json("/v1/user/orders?category=activation"))["Total"] == 0
    for verb in ("cancel", "ban"):
        assert await client.said(f"/v1/user/{verb}/{number}") == (400, "hosting order")
    for _ in range(2):
        assert (await client.json(f"/v1/user/finish/{number}"))["status"] == "FINISHED"
    assert (await client.json(f"/v1/user/sms/inbox/{number}"))["Total"] == 3
    ended = (await client.json("/v1/user/orders?category=hosting"))["Data"]
    assert [(one["status"], len(one["sms"]), one["sms"][0]["sender"]) for one in ended] == [
        ("FINISHED", 3, inbox["Data"][0]["sender"])
    ]
    assert (await client.house.balance("alice"))[:2] == (to_micros("9.688"), 0)


async def test_hosting_is_listed_to_whoever_has_a_key(client: Client) -> None:
    listed = await client.json("/v1/guest/products/indonesia/any")
    hosting = {product: row for product, row in listed.items() if row["Category"] == "hosting"}
    prices = {"3hours": "0.039", "1day": "0.312", "10days": "3.12", "1month": "9.36"}
    assert {product: str(row["Price"]) for product, row in hosting.items()} == prices
    assert await client.json("/v1/guest/prices?country=indonesia&product=1day") == {
        "indonesia": {"1day": {"any": {"cost": Decimal("0.312"), "count": 20}}}
    }
    # Upstreams are asked for rentals, so nobody without a key makes us ask.
    assert not set(await client.json("/v1/guest/products/indonesia/any", "")) & HOSTING.keys()
    assert (await client.ask("/v1/guest/prices?country=indonesia&product=1day", "")).body == b"null"


async def test_hosting_in_any_country_is_rented_where_it_is_cheapest(client: Client) -> None:
    order = await client.json("/v1/user/buy/hosting/any/any/3hours")
    assert (order["product"], order["price"]) == ("3hours", Decimal("0.039"))
    assert await client.said("/v1/user/buy/hosting/any/any/3hours?maxPrice=0.01") == (200, "no free phones")


async def test_anothers_hosting_is_one_that_nobody_has(client: Client) -> None:
    order = await client.json(HOSTED)
    for verb, status in (("check", 404), ("finish", 400), ("cancel", 400), ("ban", 400)):
        assert await client.said(f"/v1/user/{verb}/{order['id']}", "bob") == (status, "order not found")
    assert await client.said(f"/v1/user/sms/inbox/{order['id']}", "bob") == (400, "hosting order not found")
    assert (await client.json("/v1/user/orders?category=hosting", "bob"))["Total"] == 0
    bought = await client.buy()
    assert await client.said(f"/v1/user/sms/inbox/{bought}") == (400, "hosting order not found")


async def test_a_rental_of_another_protocol_is_a_hosting_order_too(client: Client) -> None:
    key = client.house.keys["alice"]
    path = f"/stubs/handler_api.php?api_key={key}&action=getRentNumber&service=tg&country=6&rent_time=30"
    rented = json.loads((await client.ask(path)).body)["phone"]
    assert (await client.json(f"/v1/user/check/{rented['id']}"))["product"] == "1day"


@on_both_databases
async def test_a_number_is_bought_again_once_its_order_is_over(client: Client) -> None:
    first = await client.json(TELEGRAM)
    path = f"/v1/user/reuse/telegram/{first['phone'][1:]}"
    assert await client.said(path) == (400, "reuse not possible")
    await client.house.passes(1.5)
    await client.json(f"/v1/user/finish/{first['id']}")
    again = await client.json(path)
    assert (again["phone"], again["product"], again["status"], again["sms"]) == (
        first["phone"], "telegram", "PENDING", None,
    )  # fmt: skip
    assert again["id"] != first["id"]
    await client.house.passes(1.5)
    assert len((await client.check(again["id"]))["sms"]) == 1
    assert await client.said(path.replace("telegram", "whatsapp")) == (400, "reuse not possible")
    assert await client.said(path, "bob") == (400, "reuse not possible")
    assert (await client.house.balance("bob"))[:2] == (to_micros("10.00"), 0)


async def test_a_hang_up_in_the_middle_of_hosting_is_kept_for_the_repetition(client: Client) -> None:
    with patch.object(FiveSim, "__call__", autospec=True, side_effect=_gone(FiveSim.__call__)):
        await client.ask(HOSTED)
    order = await client.json(HOSTED)
    assert (await client.json("/v1/user/orders?category=hosting"))["Total"] == 1
    assert (await client.house.balance("alice"))[:2] == (to_micros("9.688"), to_micros("0.312"))
    assert order["product"] == "1day"


def _gone(serve: Any) -> Any:
    """Serves a request whose client is not there any more when it is answered."""

    async def served_to_nobody(five: FiveSim, scope: Any, receive: Any, send: Any) -> None:
        async def unsent(_message: Any) -> None:
            raise OSError

        await serve(five, scope, receive, unsent)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return served_to_nobody


# Another message


async def test_a_client_that_reads_on_gets_the_next_message_without_asking(client: Client) -> None:
    order = await client.buy()
    await client.house.passes(1.5)
    await client.check(order)
    await client.house.passes(AGAIN_SECONDS)
    await client.check(order)
    await client.five.drain()
    assert (await client.check(order))["status"] == "RECEIVED"
    await client.house.passes(2.5)
    codes = [sms["code"] for sms in (await client.check(order))["sms"]]
    assert len(codes) == 2
    assert len(set(codes)) == 2


async def test_one_round_is_asked_for_once_however_often_it_is_read(client: Client) -> None:
    order = await client.buy()
    await client.house.passes(1.5)
    live = client.house.gateway.house.live.get(order)
    assert live is not None
    await client.check(order)
    await client.check(order)
    await client.five.drain()
    assert (live.round, live.status) == (1, Status.RECEIVED)  # shown just now
    client.house.clock.now += AGAIN_SECONDS
    await asyncio.gather(*(client.check(order) for _ in range(5)))
    await client.five.drain()
    assert (live.round, live.status) == (2, Status.RETRYING)


async def test_a_page_of_the_history_shows_messages_like_a_check_does(client: Client) -> None:
    order = await client.buy()
    await client.house.passes(1.5)
    for _ in range(2):
        await client.json("/v1/user/orders?category=activation")
        client.house.clock.now += AGAIN_SECONDS
    await client.five.drain()
    live = client.house.gateway.house.live.get(order)
    assert live is not None
    assert live.round == 2


# Who may


async def test_without_a_good_key_there_is_an_empty_401(client: Client) -> None:
    long_token = ".".join(["eyJhbGciOiJSUzUxMiJ9", "x" * 300, "y" * 600])
    for path in (TELEGRAM, "/v1/user/profile", "/v1/user/check/1", "/v1/user/max-prices"):
        for key in ("", "None", "wrong", "0" * 32, long_token):
            answer = await client.ask(path, key)
            assert (answer.status, answer.body) == (401, b""), (path, key)
    lines = [f"Authorization: Basic {client.house.keys['alice']}"]
    assert (await client.ask("/v1/user/profile", "", lines=lines)).status == 401
    lines = [f"authorization: bearer  {client.house.keys['alice']} "]
    assert (await client.ask("/v1/user/profile", "", lines=lines)).status == 200


async def test_a_key_in_the_query_is_none(client: Client) -> None:
    assert (await client.ask(f"/v1/user/profile?api_key={client.house.keys['alice']}", "")).status == 401


async def test_what_cannot_be_routed_is_sent_to_the_404_page(client: Client) -> None:
    for path in (
        "/v1/", "/v1//", "/v1/user", "/v1/user/", "/v1/user/nothing", "/v1/user/check", "/v1/user/check/x",
        "/v1/user/check/-1", "/v1/user/check/1/2", "/v1/user/check/%D9%A3", "/v1/user/buy/activation/indonesia/any",
        "/v1/user/buy/other/indonesia/any/telegram", "/v1/guest/nothing", "/v1/guest/flash/xx", "/v1/vendor/wallets",
        "/v1/user/sms/inbox/x", "/v1/user//profile",
    ):  # fmt: skip
        answer = await client.ask(path)
        assert (answer.status, answer.headers["location"], answer.body) == (302, "/404.html", b""), path


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_another_method_does_nothing(client: Client, method: str) -> None:
    order = await client.buy(MUTE)
    before = await client.house.balance("alice")
    for path in (TELEGRAM, f"/v1/user/cancel/{order}", "/v1/user/profile", "/v1/guest/countries"):
        answer = await client.ask(path, method=method)
        assert (answer.status, answer.headers["location"]) == (302, "/404.html")
    assert await client.house.balance("alice") == before


@on_both_databases
async def test_somebody_elses_order_is_not_there(client: Client) -> None:
    orders = [await reach(client, state) for state in STEPS]
    for verb, status in (("check", 404), ("finish", 400), ("cancel", 400), ("ban", 400)):
        for order in (*orders, NOBODYS, "2147483648", "9" * 400):
            assert await client.said(f"/v1/user/{verb}/{order}", "bob") == (status, "order not found"), (verb, order)
    with client.house.database_away():  # neither does an outage tell
        known = {await client.said(f"/v1/user/check/{order}", "bob") for order in (*orders, NOBODYS)}
    assert known == {(400, "server offline")}
    assert (await client.json("/v1/user/orders?category=activation", "bob"))["Total"] == 0


@on_both_databases
async def test_an_order_that_got_no_number_is_not_there_either(client: Client) -> None:
    assert await client.said("/v1/user/buy/activation/indonesia/any/xnone") == (200, "no free phones")
    rows = await client.house.database.store.read(lambda tx: tx.all("select id, status from activations"))
    (failed,) = [row["id"] for row in rows if row["status"] == "failed"]
    assert await client.said(f"/v1/user/check/{failed}") == (404, "order not found")
    assert (await client.json("/v1/user/orders?category=activation"))["Data"] == []


# What a poll costs


async def test_a_check_reads_memory_only(client: Client) -> None:
    order = await client.buy()
    await client.house.passes(1.5)
    await client.check(order)  # the key is looked up, once in a while
    calls = Counter(client.house.gateway.house.status_calls)
    with client.house.database_away():
        assert len((await client.check(order))["sms"]) == 1
        assert await client.said("/v1/user/check/" + NOBODYS) == (400, "server offline")
        assert await client.said("/v1/user/profile") == (400, "server offline")
        assert await client.said(TELEGRAM) == (400, "server offline")
    assert client.house.gateway.house.status_calls == calls


async def test_over_the_limit_is_said_in_its_own_words(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_limits, "HELD_SECONDS_MAX", 0.05)
    limits = "[limits]\nchanges_per_minute = 2\npolls_per_minute = 3\n"
    async with served(config_directory(tmp_path, SANDBOX, gateway=limits), sqlite_url) as client:
        await client.house.open_account("alice", "10.00")
        order = await client.buy(MUTE)
        assert (await client.json(f"/v1/user/cancel/{order}"))["status"] == "CANCELED"
        told = (429, "api limit is 100 requests per second")
        assert (await client.ask(TELEGRAM)).headers["retry-after"] == "60"  # the clock stands still at noon
        assert await client.said(TELEGRAM) == told
        assert await client.said(f"/v1/user/finish/{order}") == told
        for _ in range(3):
            assert (await client.check(order))["status"] == "CANCELED"  # known in memory, so it is told all the same
        assert await client.said(f"/v1/user/check/{NOBODYS}") == told
        assert await client.said("/v1/user/profile") == told
        assert await client.said("/v1/user/orders?category=activation") == told
        assert await client.said("/v1/user/payments") == told


async def test_no_more_places_and_no_more_money(tmp_path: Path, sqlite_url: str) -> None:
    limits = "[limits]\nopen_activations = 1\n"
    async with served(config_directory(tmp_path, SANDBOX, gateway=limits), sqlite_url) as client:
        await client.house.open_account("alice", "10.00")
        await client.house.open_account("poor", "0.01")
        await client.buy(MUTE)
        assert await client.said(TELEGRAM) == (429, "api limit is 100 requests per second")
        assert await client.said(TELEGRAM, "poor") == (400, "not enough user balance")
        await client.house.database.store.run(accounts.bar, "poor", client.house.clock() + 3600)
        await client.house.gateway.callers.refresh()
        assert await client.said(TELEGRAM, "poor") == (400, "not enough rating")


async def test_a_defect_is_an_internal_error_and_logged(client: Client) -> None:
    order = await client.buy(MUTE)
    with patch("compat._fivesim_render.moment", side_effect=RuntimeError), capture_logs() as logs:
        assert await client.said(f"/v1/user/check/{order}") == (500, "internal error")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["request.failed"]


# Buying


async def test_refusals_of_a_purchase(client: Client) -> None:
    buy = "/v1/user/buy/activation"
    for path, told in {
        f"{buy}/atlantis/any/telegram": (400, "bad country"),
        f"{buy}//any/telegram": (400, "select country"),
        f"{buy}/indonesia//telegram": (400, "select operator"),
        f"{buy}/indonesia/telkomsel/telegram": (400, "bad operator"),
        f"{buy}/indonesia/any/nothing": (400, "no product"),
        f"{buy}/indonesia/any/tg": (400, "no product"),
        f"{buy}/indonesia/any/xnone": (200, "no free phones"),
        f"{TELEGRAM}?maxPrice=0.11": (200, "no free phones"),
        f"{TELEGRAM}?maxPrice=nonsense": (200, "no free phones"),
        f"{TELEGRAM}?forwarding=true&number=79161234567": (200, "no free phones"),
        f"{TELEGRAM}?forwarding=1&number=79161234567": (200, "no free phones"),
        f"{TELEGRAM}?reuse=1": (400, "reuse not possible"),
        "/v1/user/buy/hosting/indonesia/any/telegram": (200, "no free phones"),
        "/v1/user/buy/hosting/indonesia/any/1day?maxPrice=0.01": (200, "no free phones"),
        "/v1/user/buy/hosting/indonesia/nobody/1day": (400, "bad operator"),
        "/v1/user/buy/hosting/atlantis/any/1day": (400, "bad country"),
        "/v1/user/reuse/telegram/6281234567890": (400, "reuse not possible"),
        "/v1/user/reuse/nonsense/6281234567890": (400, "reuse not possible"),
        "/v1/user/reuse/1day/x": (400, "reuse not possible"),
        "/v1/guest/prices?product=1day": (400, "select country"),
        "/v1/user/sms/inbox/100000001": (400, "hosting order not found"),
    }.items():
        assert await client.said(path) == told, path
    assert (await client.house.balance("alice"))[:2] == (to_micros("10.00"), 0)


async def test_flags_that_change_nothing_are_taken(client: Client) -> None:
    for query in (
        "maxPrice=0.12",
        "maxPrice=5",
        "ref=abc",
        "voice=1",
        "reuse=0&voice=0",
        "forwarding=false",
        "maxPrice=",
    ):
        assert (await client.json(f"{TELEGRAM}?{query}"))["price"] == Decimal("0.12"), query


async def test_any_country_is_one_that_sells_it(client: Client) -> None:
    bought = await client.json("/v1/user/buy/activation/any/any/telegram")
    assert bought["country"] in words_of(client.house.gateway.house.settings.catalog).number_of
    assert await client.said("/v1/user/buy/activation/any/any/telegram?maxPrice=0.01") == (200, "no free phones")
    assert await client.said("/v1/user/buy/activation/any/telkomsel/telegram") == (200, "no free phones")


async def test_whoever_hangs_up_gets_the_number_by_asking_again(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path, SANDBOX + "slow_seconds = 0.3\n")
    async with served(directory, sqlite_url) as client:
        await client.house.open_account("alice", "10.00")
        path = "/v1/user/buy/activation/indonesia/any/xslow"
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        key = client.house.keys["alice"]
        writer.write(f"GET {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.5)
        lives = client.house.gateway.activations.open_of(await client.house.gateway.callers.caller(key))
        assert [live.id for live in lives] == [await client.buy(path)]
        assert await client.buy(path) != lives[0].id
        assert await client.house.problems() == []


# An upstream with operators


@dataclass
class Stall:
    """An upstream with a price list by operator. It sells what is asked for, at its price."""

    name: str
    rows: Sequence[tuple[str, int, int, int, str, float | None]]
    sold: list[BuyOrder] = field(default_factory=list)
    sold_out: set[int] = field(default_factory=set)
    messages: list[Sms] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    is_well: bool = True
    slow_seconds: float = 0.0
    given_seconds: list[float] = field(default_factory=list)
    passes: Callable[[float], None] = lambda _: None

    @property
    def table(self) -> OfferTable:
        return OfferTable(self.name, "USD", self.rows)

    async def offers(self) -> OfferTable:
        return self.table

    async def buy(self, order: BuyOrder) -> Lease:
        self.given_seconds.append(order.timeout_seconds)
        self.passes(self.slow_seconds)
        if order.country in self.sold_out:
            raise SoldOut("none")
        self.sold.append(order)
        costs = [
            row[2] for row in self.rows if (row[0], row[1], row[4]) == (order.service, order.country, order.operator)
        ]
        number = f"62800{len(self.sold):07d}"
        return Lease(f"{self.name}-{len(self.sold)}", number, Money(min(costs), "USD"), order.operator)

    async def read(self, watched: Watched) -> Progress:
        return Progress(LeaseState.OPEN, tuple(self.messages[: watched.round]))

    async def ask_again(self, reference: str) -> None:
        self.asked.append(reference)
        if not self.is_well:
            raise Unwell("not now")
        if len(self.asked) > 3:
            raise NotAllowed("enough")

    async def close(self, reference: str, outcome: Outcome) -> None:
        """As it is told."""

    async def balance(self) -> Money:
        return Money(0, "USD")

    async def aclose(self) -> None:
        """Nothing to close."""


STANZA = '[stall]\nadapter = "handler_api"\nbase_url = "http://127.0.0.1:9/"\n'
ROWS = [
    ("tg", 6, 300_000, 10, "telkomsel", None),
    ("tg", 6, 200_000, 5, "axis", None),
    ("tg", 6, 200_000, 7, "indosat", None),
    ("wa", 6, 500_000, 3, "telkomsel", None),
    ("tg", 16, 150_000, 4, "o2", None),
    ("tg", 187, 100_000, 9, "Verizon", None),
    ("aa", 6, 10_000, 1, "", None),
]  # fmt: skip


@dataclass
class Market(Client):
    stall: Stall = field(default_factory=lambda: Stall("stall", ROWS))


@pytest.fixture
async def market(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Market]:
    """A gateway that buys from one upstream with operators, prices as they are; alice has ten dollars."""
    directory = config_directory(tmp_path, STANZA, pricing="[default]\npercent = 0\n")
    async with served(directory, sqlite_url) as client:
        found = Market(client.house, client.port, client.five)
        house = client.house.gateway.house
        house.upstreams = {"stall": cast("Any", found.stall)}
        house.market.apply(view_of(house.settings, house.upstreams))
        house.market.put("stall", found.stall.table)
        client.house.keys["alice"] = await add_account(client.house.database, "alice", "10.00", is_demo=False)
        yield found
        assert await client.house.problems() == []


async def test_prices_nest_by_what_is_asked_for(market: Market) -> None:
    cheap = {"any": {"cost": Decimal("0.20"), "count": 12}}
    usa, england = {"any": {"cost": Decimal("0.10"), "count": 9}}, {"any": {"cost": Decimal("0.15"), "count": 4}}
    for who in ("", "alice", "wrong"):
        assert await market.json("/v1/guest/prices?country=indonesia&product=telegram", who) == {
            "indonesia": {"telegram": cheap}
        }
        assert await market.json("/v1/guest/prices?product=telegram", who) == {
            "telegram": {"indonesia": cheap, "england": england, "usa": usa}
        }
    whole = await market.json("/v1/guest/prices")
    assert (whole["usa"], whole["england"]) == ({"telegram": usa}, {"telegram": england})
    assert await market.json("/v1/guest/prices?country=indonesia") == {"indonesia": whole["indonesia"]}
    assert whole["indonesia"].keys() == {"telegram", "whatsapp", "probo"}
    assert await market.json("/v1/guest/prices?country=any&product=telegram") == await market.json(
        "/v1/guest/prices?product=telegram"
    )


async def test_what_nobody_sells_is_null_and_what_is_unknown_is_said(market: Market) -> None:
    for query in ("country=england&product=whatsapp", "product=viber"):
        assert (await market.ask(f"/v1/guest/prices?{query}")).body == b"null"
    assert await market.json("/v1/guest/prices?country=france") == {"france": {}}
    assert await market.said("/v1/guest/prices?country=atlantis") == (400, "country is incorrect")
    assert await market.said("/v1/guest/prices?product=nothing") == (400, "product is incorrect")
    assert await market.said("/v1/guest/products/atlantis/any") == (400, "country is incorrect")
    assert await market.said("/v1/guest/products/indonesia/nobody") == (400, "bad operator")
    assert await market.said("/v1/guest/products/any/axis") == (400, "select country")


async def test_products_are_by_country_and_operator(market: Market) -> None:
    assert await market.json("/v1/guest/products/indonesia/any", "") == {
        "telegram": {"Category": "activation", "Qty": 12, "Price": Decimal("0.20")},
        "whatsapp": {"Category": "activation", "Qty": 3, "Price": Decimal("0.50")},
        "probo": {"Category": "activation", "Qty": 1, "Price": Decimal("0.01")},
    }
    assert await market.json("/v1/guest/products/indonesia/telkomsel", "") == {
        "telegram": {"Category": "activation", "Qty": 10, "Price": Decimal("0.30")},
        "whatsapp": {"Category": "activation", "Qty": 3, "Price": Decimal("0.50")},
    }
    assert (await market.json("/v1/guest/products/any/any", ""))["telegram"] == {
        "Category": "activation", "Qty": 25, "Price": Decimal("0.10"),
    }  # fmt: skip


async def test_countries_name_their_operators_after_everything_else(market: Market) -> None:
    countries = await market.json("/v1/guest/countries", "")
    assert list(countries["indonesia"].items()) == [
        ("iso", {"id": 1}), ("prefix", {"+62": 1}), ("text_en", "Indonesia"), ("text_ru", "Индонезия"),
        ("axis", {"activation": 1}), ("indosat", {"activation": 1}), ("telkomsel", {"activation": 1}),
    ]  # fmt: skip
    assert len(countries) == len(market.house.gateway.house.settings.catalog.countries)


async def test_a_named_operator_is_what_is_bought_at_its_own_price(market: Market) -> None:
    buy = "/v1/user/buy/activation/indonesia"
    bought = await market.json(f"{buy}/telkomsel/telegram")
    assert (bought["operator"], bought["price"]) == ("telkomsel", Decimal("0.30"))
    assert market.stall.sold[-1].operator == "telkomsel"
    assert (await market.json(f"{buy}/any/telegram"))["price"] == Decimal("0.20")
    assert (await market.json("/v1/user/buy/activation/usa/VERIZON/telegram"))["operator"] == "Verizon"
    count = len(market.stall.sold)
    assert await market.said(f"{buy}/telkomsel/telegram?maxPrice=0.25") == (200, "no free phones")
    assert await market.said(f"{buy}/axis/whatsapp") == (200, "no free phones")
    assert await market.said(f"{buy}/o2/telegram") == (400, "bad operator")
    assert len(market.stall.sold) == count


async def test_any_country_means_the_cheapest_and_then_the_next(market: Market) -> None:
    any_country = "/v1/user/buy/activation/any"
    assert (await market.json(f"{any_country}/any/telegram"))["country"] == "usa"
    assert (await market.json(f"{any_country}/axis/telegram"))["country"] == "indonesia"
    market.stall.sold_out.add(187)
    bought = await market.json(f"{any_country}/any/telegram")
    assert (bought["country"], bought["price"]) == ("england", Decimal("0.15"))
    assert await market.said(f"{any_country}/any/telegram?maxPrice=0.12") == (200, "no free phones")


async def test_all_countries_that_any_may_mean_share_one_deadline(market: Market) -> None:
    """The clock runs while the upstream thinks: an attempt is given what those before it have left of nine seconds."""
    clock, stall = market.house.clock, market.stall

    def passes(seconds: float) -> None:
        clock.now += seconds

    stall.passes, stall.slow_seconds = passes, 3.0
    stall.sold_out |= {187, 16, 6}
    began = clock.now
    assert await market.said("/v1/user/buy/activation/any/any/telegram") == (200, "no free phones")
    first, *others = stall.given_seconds
    assert others == pytest.approx([first - 3.0])
    assert clock.now - began <= 9.0
    # One that takes nearly all of its time leaves none for another.
    stall.given_seconds.clear()
    stall.slow_seconds = 7.9
    assert await market.said("/v1/user/buy/activation/any/any/telegram") == (200, "no free phones")
    assert len(stall.given_seconds) == 1


async def test_an_upstream_that_is_unwell_is_asked_for_another_message_later(market: Market) -> None:
    order = await market.buy("/v1/user/buy/activation/indonesia/any/telegram")
    market.stall.messages = [Sms("11111", "code 11111", identity="1"), Sms("22222", "code 22222", identity="2")]
    market.stall.is_well = False
    await market.house.passes(3.0)
    await market.check(order)
    market.house.clock.now += AGAIN_SECONDS
    await market.check(order)
    await market.five.drain()
    assert len(market.stall.asked) == 1
    await market.check(order)
    await market.five.drain()
    assert len(market.stall.asked) == 1  # it is left alone for a while
    market.stall.is_well = True
    market.house.clock.now += AGAIN_SECONDS
    await market.check(order)
    await market.five.drain()
    assert len(market.stall.asked) == 2
    await market.house.passes(10.0)
    assert [sms["code"] for sms in (await market.check(order))["sms"]] == ["11111", "22222"]


async def test_guests_see_the_sandbox_where_there_is_nothing_else(client: Client) -> None:
    listed = await client.json("/v1/guest/prices?country=indonesia&product=telegram", "")
    assert listed == {"indonesia": {"telegram": {"any": {"cost": Decimal("0.12"), "count": 1000}}}}


async def test_a_good_key_sees_its_own_prices(tmp_path: Path, sqlite_url: str) -> None:
    pricing = '[default]\nfixed = 0.5\n[[rule]]\naccounts = ["alice"]\nfixed = 0.25\n'
    async with served(config_directory(tmp_path, SANDBOX, pricing=pricing), sqlite_url) as client:
        await client.house.open_account("alice", "10.00")
        path = "/v1/guest/prices?country=indonesia&product=telegram"
        for who, cost in {"": "0.5", "alice": "0.25", "wrong": "0.5"}.items():
            leaf = (await client.json(path, who))["indonesia"]["telegram"]["any"]
            assert leaf["cost"] == Decimal(cost), who


async def test_a_list_is_made_once_for_everybody_and_packed_once(market: Market) -> None:
    house = market.house.gateway.house
    with patch.object(house.market, "listing", wraps=house.market.listing) as listing:
        await asyncio.gather(*(market.ask("/v1/guest/prices", "") for _ in range(5)))
        await market.ask("/v1/guest/prices", "")
        assert listing.call_count == 1
        house.market.put("stall", OfferTable("stall", "USD", ROWS[:1]))
        assert (await market.json("/v1/guest/prices", "")).keys() == {"indonesia"}
        assert listing.call_count == 2
    plain = await market.ask("/v1/guest/countries", "")
    with patch("compat._wire.gzip.compress", side_effect=AssertionError("packed for one client")):
        packed = await market.ask("/v1/guest/countries", "", lines=["Accept-Encoding: gzip, deflate"])
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    refused = await market.ask("/v1/guest/countries", "", lines=["Accept-Encoding: gzip;q=0, identity"])
    assert refused.body == plain.body


async def test_news_are_none(client: Client) -> None:
    assert await client.json("/v1/guest/flash/en", "") == {"text": ""}


# The account


@on_both_databases
async def test_a_profile_has_what_strict_clients_read(client: Client) -> None:
    fresh = await client.ask("/v1/user/profile")
    (account,) = {json.loads(fresh.body)["id"]}
    assert fresh.body.decode() == (
        f'{{"id":{account},"email":"account{account}@example.com","vendor":"alice","default_forwarding_number":"",'
        '"balance":10.00,"rating":96,"default_country":{"name":"russia","iso":"ru","prefix":"+7"},'
        '"default_operator":{"name":"any"},"frozen_balance":0.00,"did_order":false,"last_order":"russia:other:any:0:0",'
        '"last_top_orders":"[russia:other:any:0:0]","last_top_idx":0,"total_active_orders":0}'
    )
    order = await client.buy(MUTE)
    profile = await client.json("/v1/user/profile")
    assert (profile["balance"], profile["frozen_balance"]) == (Decimal("9.92"), Decimal("0.08"))
    assert (profile["did_order"], profile["total_active_orders"]) == (True, 1)
    assert profile["last_order"] == f"indonesia:xmute:any:{order}:0.08"
    assert (await client.json("/v1/user/profile", "bob"))["did_order"] is False


@on_both_databases
async def test_the_history_is_paged_and_says_how_much_there_is(client: Client) -> None:
    orders = [await reach(client, state) for state in ("received", "cancelled", "expired", "waiting")]
    await client.said("/v1/user/buy/activation/indonesia/any/xnone")
    client.house.gateway.house.live._ended.clear()  # some of them only the database has
    path = "/v1/user/orders?category=activation"
    page = await client.json(path)
    assert [order["id"] for order in page["Data"]] == orders
    assert [order["status"] for order in page["Data"]] == ["FINISHED", "CANCELED", "TIMEOUT", "PENDING"]
    assert len(page["Data"][0]["sms"]) == 1
    assert (page["Total"], page["ProductNames"], page["Statuses"]) == (4, [], [])
    newest = await client.json(f"{path}&limit=2&offset=1&order=id&reverse=true")
    assert [order["id"] for order in newest["Data"]] == [orders[2], orders[1]]
    assert newest["Total"] == 4
    assert (await client.json(f"{path}&limit=0&offset=9&order=nonsense"))["Data"] == []
    assert await client.json("/v1/user/orders?category=hosting") == {
        "Data": [], "ProductNames": [], "Statuses": [], "Total": 0,
    }  # fmt: skip
    assert await client.said("/v1/user/orders") == (400, "bad category")


@on_both_databases
async def test_payments_are_what_was_paid_in(client: Client) -> None:
    await client.buy(MUTE)
    answer = await client.ask("/v1/user/payments")
    found = json.loads(answer.body, parse_float=str)
    (payment,) = found["Data"]
    assert (payment["TypeName"], payment["ProviderName"]) == ("charge", "admin")
    assert (payment["Amount"], payment["Balance"], found["Total"]) == ("10.00", "10.00", 1)
    assert (found["PaymentTypes"], found["PaymentProviders"]) == ([{"Name": "charge"}], [{"Name": "admin"}])
    assert found["PaymentStatuses"] is None


async def test_no_price_limits_are_kept_and_none_seem_to_be(client: Client) -> None:
    assert await client.json("/v1/user/max-prices") == []
    for body, told in {
        b'{"product_name":"telegram","price":0.5}': "record not found",
        b'{"product_name":"nothing"}': "product is incorrect",
        b'{"product_name":7}': "product_name is empty",
        b"[" * 60_000: "product_name is empty",
        b"x" * 100_000: "product_name is empty",
        b"\xff": "product_name is empty",
        b"": "product_name is empty",
    }.items():
        for method in ("POST", "DELETE"):
            answer = await client.ask("/v1/user/max-prices", method=method, body=body)
            assert (answer.status, answer.body.decode()) == (400, told)


async def test_a_service_that_left_the_catalogue_is_called_by_its_code(client: Client) -> None:
    order = await client.buy(MUTE)
    live = client.house.gateway.house.live.get(order)
    assert live is not None
    live.service, live.country = "gone", 4242
    checked = await client.check(order)
    assert (checked["product"], checked["country"]) == ("gone", "4242")


# Anything at all

FUZZ = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
GATEWAY = "[limits]\nchanges_per_minute = 1000000\npolls_per_minute = 1000000\nopen_activations = 1000000\n"


@dataclass
class Target:
    """The dialect as an ASGI application, asked synchronously; what must always hold is checked each time."""

    house: StillHouse
    five: FiveSim
    loop: asyncio.AbstractEventLoop

    def ask(self, method: str, path: str, query: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> int:
        return self.loop.run_until_complete(self._ask(method, path, query, headers, body))

    async def _ask(
        self, method: str, path: str, query: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> int:
        scope: dict[str, Any] = {
            "type": "http", "path": path, "method": method, "query_string": query, "headers": list(headers),
        }  # fmt: skip
        waiting = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Mapping[str, Any]] = []

        async def receive() -> Any:
            if waiting:
                return waiting.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        before = await self.house.balance("alice")
        with capture_logs() as logs:
            await self.five(cast("Any", scope), receive, send)
        after = await self.house.balance("alice")
        assert [line for line in logs if line["log_level"] in ("error", "critical")] == []
        assert sum(before[:2]) == sum(after[:2]), "money appeared or went away"
        status, headers_sent = sent[0]["status"], dict(sent[0]["headers"])
        self._is_known(int(status), headers_sent, bytes(sent[1]["body"]))
        return int(status)

    def _is_known(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        assert status in (200, 302, 400, 401, 404), (status, body)
        assert headers[b"content-length"] == b"%d" % len(body)
        if headers[b"content-type"] == b"application/json":
            json.loads(body)
        else:
            assert re.fullmatch(rb"|[a-z_]+( [a-z0-9]+)*", body), body
            assert bool(body) is (status not in (302, 401)), (status, body)


@pytest.fixture
def target(tmp_path: Path, sqlite_url: str) -> Iterator[Target]:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        directory = config_directory(tmp_path, SANDBOX + "slow_seconds = 0\n", GATEWAY)
        entered = still_house(directory, environment(sqlite_url))
        house = loop.run_until_complete(entered.__aenter__())
        try:
            loop.run_until_complete(house.open_account("alice", "1000.00"))
            yield Target(house, FiveSim(house.gateway.front), loop)
            assert loop.run_until_complete(house.problems()) == []
        finally:
            loop.run_until_complete(entered.__aexit__(None, None, None))


WORDS_OF_PATHS = (
    "user guest v1 buy activation hosting check finish cancel ban profile orders payments max-prices sms inbox reuse"
    " countries products prices flash any england telegram xmute xban en 100000001 100000002 % -1"
)
SEGMENT = st.one_of(
    st.sampled_from([*WORDS_OF_PATHS.split(), "", "9" * 5000, "\x00", "\ud800", "٣"]), st.text(max_size=10)
)
PATH = st.one_of(
    st.lists(SEGMENT, max_size=7).map("/".join),
    st.tuples(st.sampled_from(["any", "england", "usa"]), SEGMENT, st.sampled_from(["telegram", "xmute", "xban"])).map(
        lambda parts: "user/buy/activation/" + "/".join(parts)
    ),
    st.tuples(st.sampled_from(["check", "finish", "cancel", "ban"]), st.integers(100_000_001, 100_000_009)).map(
        lambda parts: f"user/{parts[0]}/{parts[1]}"
    ),
    st.sampled_from(["user/orders", "user/payments", "user/max-prices"]),
    st.just("guest/prices"),
)
VALUE = st.one_of(
    st.sampled_from(
        [b"", b"null", b"0", b"1", b"-1", b"1e400", b"NaN", b"Infinity", b"0.5", b"9" * 400, b"\x00", b"\xff",
         b"\xed\xa0\x80", b"telegram", b"england", b"activation", b"hosting", b"true", b"'; drop table accounts; --"]
    ),
    st.binary(max_size=20),
)  # fmt: skip
NAME = st.sampled_from(
    [b"maxPrice", b"reuse", b"voice", b"forwarding", b"number", b"ref", b"category", b"limit", b"offset", b"order",
     b"reverse", b"country", b"product"]
)  # fmt: skip


@FUZZ
@given(
    method=st.sampled_from(["GET", "GET", "GET", "POST", "DELETE", "HEAD"]),
    path=PATH,
    pairs=st.lists(st.tuples(NAME, VALUE), max_size=4),
    has_key=st.booleans() | st.just(True),
    body=st.binary(max_size=60),
)
def test_whatever_is_sent_gets_a_known_answer(
    target: Target, method: str, path: str, pairs: list[tuple[bytes, bytes]], has_key: bool, body: bytes
) -> None:
    # The whole list of a sandbox is 2000 services in 205 countries: not here.
    narrowed = [*pairs, (b"product", b"telegram")] if path.startswith("guest") else pairs
    query = "&".join(f"{quote_from_bytes(name)}={quote_from_bytes(value)}" for name, value in narrowed).encode()
    headers = [(b"authorization", b"Bearer " + target.house.keys["alice"].encode())] if has_key else []
    if "products/any" not in path:
        target.ask(method, PREFIX + path, query, headers, body)
    target.house.clock.now += 0.25
    if target.house.clock.now % 5 == 0:
        target.loop.run_until_complete(target.house.passes(0.0))


@FUZZ
@given(key=st.binary(max_size=60), query=st.binary(max_size=100))
def test_any_bytes_in_key_and_query_get_a_known_answer(target: Target, key: bytes, query: bytes) -> None:
    assert target.ask("GET", "/v1/user/profile", query, [(b"authorization", b"Bearer " + key)], b"") == 401
    headers = [(b"authorization", b"bearer " + target.house.keys["alice"].encode())]
    target.ask("GET", "/v1/user/buy/activation/england/any/xmute", query, headers, b"")
    target.ask("GET", "/v1/user/orders", b"category=activation&" + query, headers, b"")


async def test_two_keys_of_one_account_see_the_same(client: Client) -> None:
    store, vault = client.house.database.store, client.house.database.vault

    def issue(tx: Tx) -> str:
        return accounts.issue_key(tx, vault, "alice", 0.0)

    client.house.keys["also alice"] = await store.run(issue)
    order = await client.buy(MUTE)
    assert (await client.check(order, "also alice"))["id"] == order
