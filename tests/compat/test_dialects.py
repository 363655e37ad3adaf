"""What the transcripts of the dialects can't show: limits, settings, headers, and who may see what in each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from compat import DIALECTS, Dialects
from compat._reply import in_header
from gateway import accounts, limits
from gateway.accounts import AccountError
from gateway.catalog import load_catalog
from gateway.ds_words import service_words
from gateway.model import Sms
from gateway.store import Tx
from tests.harness import ROOT, config_directory, environment, run_cli
from tests.wire import Answer, StillHouse, exchange, on_a_socket, still_house

NOBODYS = "100999999"


@asynccontextmanager
async def asked(directory: Path, url: str) -> AsyncIterator[tuple[StillHouse, int]]:
    async with still_house(directory, environment(url)) as house, on_a_socket(house.gateway) as port:
        await house.open_account("alice", "50.00")
        await house.open_account("bob", "50.00")
        yield house, port


@pytest.fixture
async def here(tmp_path: Path, database_url: str) -> AsyncIterator[tuple[StillHouse, int]]:
    async with asked(config_directory(tmp_path), database_url) as found:
        yield found


async def ask(house: StillHouse, port: int, dialect: str, who: str = "alice", **parameters: str) -> Answer:
    query = "&".join(f"{name}={value}" for name, value in {"api_key": house.keys[who], **parameters}.items())
    prefix = f"/{dialect}" if dialect else ""
    request = f"GET {prefix}/stubs/handler_api.php?{query} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
    return await exchange(port, request.encode())


async def said(house: StillHouse, port: int, dialect: str, who: str = "alice", **parameters: str) -> str:
    return (await ask(house, port, dialect, who, **parameters)).body.decode()


# Limits


@pytest.mark.parametrize("dialect", ["ds", "daisy"])
async def test_an_account_has_at_most_twenty_open_however_fast_it_asks(
    here: tuple[StillHouse, int], dialect: str
) -> None:
    house, port = here
    wanted = {"action": "getNumber", "service": "xmute", "country": "US"}
    answers = await asyncio.gather(*(said(house, port, dialect, **wanted, n=str(n)) for n in range(24)))
    bought = [answer for answer in answers if answer.startswith("ACCESS_NUMBER:")]
    assert (len(bought), set(answers) - set(bought)) == (20, {"TOO_MANY_ACTIVE_RENTALS"})
    # Somebody else's are not counted, and neither are those that are over.
    assert (await said(house, port, dialect, "bob", **wanted)).startswith("ACCESS_NUMBER:")
    assert await said(house, port, dialect, action="setStatus", id=bought[0].split(":")[1], status="8") == (
        "ACCESS_CANCEL"
    )
    assert (await said(house, port, dialect, **wanted)).startswith("ACCESS_NUMBER:")
    assert await said(house, port, dialect, **wanted) == "TOO_MANY_ACTIVE_RENTALS"
    # The limit is the dialect's, not the account's.
    assert (await said(house, port, "sms_activate", **wanted | {"country": "6"})).startswith("ACCESS_NUMBER:")


@pytest.mark.parametrize(("dialect", "seconds"), [("ds", 300.0), ("daisy", 900.0), ("hero", 1200.0)])
async def test_a_life_is_as_long_as_the_dialect_says_after_a_restart_too(
    here: tuple[StillHouse, int], dialect: str, seconds: float
) -> None:
    house, port = here
    answer = await said(house, port, dialect, action="getNumber", service="xmute", country="187" * (dialect != "ds"))
    activation_id = int(answer.split(":")[1])

    def read(tx: Tx) -> float:
        row = tx.one("select expires_at - opened_at as life from activations where id = :id", id=activation_id)
        assert row is not None
        return float(row["life"])

    assert await house.database.store.read(read) == pytest.approx(seconds)
    live = house.gateway.house.live.get(activation_id)
    assert live is not None
    assert live.expires_at - live.opened_at == pytest.approx(seconds)


# Conditions

SOLD_ELSEWHERE = {
    "providerIds=7": {"tiger": "BAD_PROVIDER_IDS"},
    "exceptProviderIds=1": {"tiger": "NO_PROVIDERS"},
    "minPrice=0.09": {},
    "minPrice=dear": {},
    "maxPrice=0.09%26fixedPrice=true": {"tiger": "BAD_FIXED_PRICE"},
}
KEPT = "providerIds=1,7&exceptProviderIds=9&minPrice=0.08&maxPrice=0.08&fixedPrice=1"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_condition_that_cant_be_kept_is_refused_wherever_something_is_bought(
    tmp_path: Path, sqlite_url: str, dialect: str
) -> None:
    async with asked(config_directory(tmp_path), sqlite_url) as (house, port):
        wanted = {"action": "getNumber", "service": "xmute", "country": "US" if dialect == "ds" else "187"}
        for condition, words in SOLD_ELSEWHERE.items():
            more = dict(pair.split("=") for pair in condition.split("%26"))
            assert await said(house, port, dialect, **wanted, **more) == words.get(dialect, "NO_NUMBERS")
        assert await house.balance("alice") == (50_000_000, 0, 0)
        kept = dict(pair.split("=") for pair in KEPT.split("&"))
        assert (await said(house, port, dialect, **wanted, **kept)).startswith("ACCESS_NUMBER:")


@pytest.mark.parametrize("dialect", ["sms_activate", "hero", "grizzly"])
async def test_a_condition_that_a_rental_cant_keep_is_refused(tmp_path: Path, sqlite_url: str, dialect: str) -> None:
    async with asked(config_directory(tmp_path), sqlite_url) as (house, port):
        hours = "duration" if dialect == "hero" else "rent_time"
        wanted = {"action": "getRentNumber", "service": "xmute", "country": "6", hours: "4"}
        for condition in (*SOLD_ELSEWHERE, "phoneException=6200"):
            more = dict(pair.split("=") for pair in condition.split("%26"))
            assert "NO_NUMBERS" in await said(house, port, dialect, **wanted, **more), condition
        bad = await said(house, port, dialect, **wanted, phoneException="x")
        assert ("UNPROCESSABLE_ENTITY" if dialect == "hero" else "WRONG_EXCEPTION_PHONE") in bad
        assert await house.balance("alice") == (50_000_000, 0, 0)
        rented = await said(house, port, dialect, **wanted, phoneException="7700", providerIds="1", minPrice="0.01")
        assert "NO_NUMBERS" not in rented
        assert (await house.balance("alice"))[2] == 1


async def test_what_builds_on_a_number_keeps_conditions_too(here: tuple[StillHouse, int]) -> None:
    house, port = here
    activation_id = (await said(house, port, "", action="getNumber", service="tg", country="6")).split(":")[1]
    beside = {"action": "getAdditionalService", "id": activation_id, "service": "xmute"}
    again = {"action": "getExtraActivation", "activationId": activation_id}
    for condition in (*SOLD_ELSEWHERE, "phoneException=6200"):
        more = dict(pair.split("=") for pair in condition.split("%26"))
        assert await said(house, port, "", **beside, **more) == "NO_NUMBERS"
    assert (await said(house, port, "", **beside, minPrice="0.08")).startswith("ADDITIONAL:")
    await house.passes(20.0)
    assert await said(house, port, "", action="setStatus", id=activation_id, status="6") == "ACCESS_ACTIVATION"
    for more in ({"providerIds": "7"}, {"minPrice": "99"}, {"phoneException": "6200"}):
        assert await said(house, port, "", **again, **more) == "NEW_ACTIVATION_IMPOSSIBLE"
    assert (await said(house, port, "", **again, minPrice="0.01")).startswith("ACCESS_NUMBER:")


async def test_an_order_id_is_used_once_whatever_is_bought(here: tuple[StillHouse, int]) -> None:
    house, port = here
    used = "ORDER_ALREADY_EXISTS"
    goods = {"service": "tg", "country": "6"}
    activation_id = (await said(house, port, "", action="getNumber", **goods, orderId="one")).split(":")[1]
    spent = await house.balance("alice")
    multi = {"action": "getMultiServiceNumber", "multiService": "xmute,wa", "country": "6"}
    beside = {"action": "getAdditionalService", "id": activation_id, "service": "xmute"}
    again = {"action": "getExtraActivation", "activationId": activation_id}
    rent = {"action": "getRentNumber", **goods}
    for dialect in DIALECTS:
        place = {"ds": {"country": "US", "service": "telegram"}}.get(dialect, goods)
        assert used in await said(house, port, dialect, action="getNumber", **place, orderId="one"), dialect
    for wanted in (multi, beside):
        assert await said(house, port, "", **wanted, orderId="one") == used
    assert json.loads(await said(house, port, "", **rent, orderId="one")) == {"status": "error", "message": used}
    assert json.loads(await said(house, port, "grizzly", **rent, orderId="one")) == {"status": "error", "error": used}
    assert (await ask(house, port, "hero", **rent, duration="4", orderId="one")).status == 409
    assert await house.balance("alice") == spent
    await house.passes(20.0)
    await said(house, port, "", action="setStatus", id=activation_id, status="6")
    assert await said(house, port, "", **again, orderId="one") == used
    assert (await said(house, port, "", **again, orderId="two")).startswith("ACCESS_NUMBER:")
    assert (await said(house, port, "", **multi, orderId="three")).startswith("[")
    assert await said(house, port, "", **multi, orderId="three") == used


# Settings


async def test_the_waiting_word_of_ds_is_a_setting(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path, gateway='[server]\nds_waiting_word = "STATUS_WAIT_CODE"\n')
    async with asked(directory, sqlite_url) as (house, port):
        activation_id = (await said(house, port, "ds", action="getNumber", service="xmute")).split(":")[1]
        assert await said(house, port, "ds", action="getStatus", id=activation_id) == "STATUS_WAIT_CODE"


async def test_a_key_s_dialect_is_set_taken_back_and_refused_where_there_is_none(
    here: tuple[StillHouse, int],
) -> None:
    house, port = here
    store, vault = house.database.store, house.database.vault
    house.keys["hers"] = await store.run(accounts.issue_key, vault, "alice", 0.0, "ds")
    hers = next(row for row in await store.read(accounts.keys, "alice") if row["dialect"] == "ds")
    assert (await ask(house, port, "", "hers", action="getStatus", id=NOBODYS)).status == 400
    assert (await ask(house, port, "", "alice", action="getStatus", id=NOBODYS)).status == 200
    await store.run(accounts.set_dialect, hers["id"], "hero")
    await house.gateway.callers.refresh()
    assert (await ask(house, port, "", "hers", action="getStatus", id=NOBODYS)).status == 404
    await store.run(accounts.set_dialect, hers["id"], None)
    await house.gateway.callers.refresh()
    assert (await ask(house, port, "", "hers", action="getStatus", id=NOBODYS)).status == 200
    with pytest.raises(AccountError, match="there is no dialect nonsense"):
        await store.run(accounts.set_dialect, hers["id"], "nonsense")
    with pytest.raises(AccountError, match="there is no dialect nonsense"):
        await store.run(accounts.issue_key, vault, "alice", 0.0, "nonsense")
    with pytest.raises(AccountError, match="there is no key 77"):
        await store.run(accounts.set_dialect, 77, "ds")


@pytest.mark.parametrize(("deployment", "of_key"), [("sms_activate", "bower"), ("bower", "sms_activate")])
async def test_a_key_decides_how_what_is_refused_unheard_is_worded(
    tmp_path: Path, sqlite_url: str, deployment: str, of_key: str
) -> None:
    directory = config_directory(tmp_path, gateway=f'[server]\ndialect = "{deployment}"\n')
    async with asked(directory, sqlite_url) as (house, port):
        store, vault = house.database.store, house.database.vault
        house.keys["hers"] = await store.run(accounts.issue_key, vault, "alice", 0.0, of_key)
        house.keys["smshub"] = await store.run(accounts.issue_key, vault, "alice", 0.0, "smshub")
        house.keys["hero"] = await store.run(accounts.issue_key, vault, "alice", 0.0, "hero")
        house.keys["nobody"] = "0" * 32

        async def posted(who: str) -> int:
            body = f"api_key={house.keys[who]}&action=getBalance"
            head = f"Host: gateway\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
            head += "Content-Type: application/x-www-form-urlencoded\r\n"
            return (await exchange(port, f"POST /stubs/handler_api.php HTTP/1.1\r\n{head}\r\n{body}".encode())).status

        refuses = {"bower": 405}
        assert await posted("hers") == refuses.get(of_key, 200)
        assert await posted("alice") == await posted("nobody") == refuses.get(deployment, 200)
        assert await said(house, port, "", "smshub") == "NO_ACTION"
        assert await said(house, port, "", "nobody") == "BAD_ACTION"
        assert await said(house, port, "", "alice", action="nonsense") == "BAD_ACTION"
        wrong = await ask(house, port, "", "hero", action="nonsense")
        assert (wrong.status, json.loads(wrong.body)["title"]) == (404, "BAD_ACTION")
        assert await said(house, port, "daisy", "hero", action="nonsense") == "BAD_ACTION"


def test_the_command_line_gives_a_key_its_dialect(tmp_path: Path, sqlite_url: str) -> None:
    values, directory = environment(sqlite_url), config_directory(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        done = run_cli(values, directory, *arguments)
        return done.returncode, done.stdout + done.stderr

    def listed() -> list[str | None]:
        return [row["dialect"] for row in json.loads(run("key", "list", "--json")[1])]

    assert run("account", "create", "alice")[0] == 0
    assert run("key", "issue", "alice", "--dialect", "ds")[0] == 0
    assert run("key", "issue", "alice")[0] == 0
    assert listed() == ["ds", None]
    assert run("key", "dialect", "2", "hero") == (0, "key 2 is answered in hero\n")
    assert run("key", "dialect", "1", "default") == (0, "key 1 is answered in the default dialect\n")
    assert listed() == [None, "hero"]
    for wrong in (("key", "dialect", "1", "nonsense"), ("key", "issue", "alice", "--dialect", "nonsense")):
        code, said = run(*wrong)
        assert (code, "there is no dialect nonsense" in said) == (1, True)
    assert run("key", "dialect", "77", "ds")[0] == 1
    assert listed() == [None, "hero"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_more_changes_than_a_key_may_make_are_refused_in_the_dialect_s_word_and_polls_go_on(
    tmp_path: Path, sqlite_url: str, dialect: str
) -> None:
    directory = config_directory(tmp_path, gateway="[limits]\nchanges_per_minute = 1\n")
    async with asked(directory, sqlite_url) as (house, port):
        wanted = {"action": "getNumber", "service": "xmute", "country": "US" if dialect == "ds" else "187"}
        activation_id = (await said(house, port, dialect, **wanted)).split(":")[1]
        for change in (wanted, {"action": "setStatus", "id": activation_id, "status": "8"}):
            refused = await ask(house, port, dialect, **change)
            assert (refused.status, refused.body.decode()) == OVER_THE_LIMIT.get(dialect, (200, "ERROR_SQL"))
            after = refused.headers.get("retry-after")
            assert after == ("60" if refused.status == 429 else None)  # the clock stands still at noon
        waiting = "WAITING" if dialect == "ds" else "STATUS_WAIT_CODE"
        assert await said(house, port, dialect, action="getStatus", id=activation_id) == waiting


OVER_THE_LIMIT = {
    "hero": (429, '{"title":"RATE_LIMIT","details":"Too many requests."}'),
    "tiger": (429, "Too Many Requests"),
    "ds": (500, "BACKEND_ERROR"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_poll_above_the_limit_gets_the_state_known_last(
    tmp_path: Path, sqlite_url: str, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far above it, also once the number is over; and nobody else waits for it."""
    monkeypatch.setattr(limits, "HELD_SECONDS_MAX", 0.05)
    directory = config_directory(tmp_path, gateway="[limits]\npolls_per_minute = 2\n")
    async with asked(directory, sqlite_url) as (house, port):
        wanted = {"action": "getNumber", "service": "tg", "country": "US" if dialect == "ds" else "187"}
        activation_id = (await said(house, port, dialect, **wanted)).split(":")[1]
        poll = {"action": "getStatus", "id": activation_id}
        waiting = "WAITING" if dialect == "ds" else "STATUS_WAIT_CODE"
        assert [await said(house, port, dialect, **poll) for _ in range(4)] == [waiting] * 4
        await house.passes(1.5)
        code = await said(house, port, dialect, **poll)
        assert code.startswith("ACCESS_SMS:" if dialect == "ds" else "STATUS_OK:")
        assert (await said(house, port, dialect, "bob", action="getBalance")).startswith("ACCESS_BALANCE:")


async def test_a_key_s_own_limits_go_before_the_deployment_s(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path, gateway="[limits]\nchanges_per_minute = 1\n")
    async with asked(directory, sqlite_url) as (house, port):
        wanted = {"action": "getNumber", "service": "xmute", "country": "6"}
        store = house.database.store
        row = await store.run(accounts.set_limits, 1, {"changes_per_minute": 3})
        assert (row["changes_per_minute"], row["polls_per_minute"]) == (3, None)
        await house.gateway.callers.refresh()
        for who, most in (("alice", 3), ("bob", 1)):
            answers = [(await said(house, port, "", who, **wanted, n=str(n)))[:9] for n in range(5)]
            assert answers == ["ACCESS_NU"] * most + ["ERROR_SQL"] * (5 - most)
        with pytest.raises(AccountError, match="there is no key 77"):
            await store.run(accounts.set_limits, 77, {"changes_per_minute": 3})


async def test_keys_of_one_account_share_its_limit_but_for_those_with_one_of_their_own(
    tmp_path: Path, sqlite_url: str
) -> None:
    directory = config_directory(tmp_path, gateway="[limits]\nchanges_per_minute = 2\n")
    async with asked(directory, sqlite_url) as (house, port):
        store, vault = house.database.store, house.database.vault
        for name in ("second", "own"):
            house.keys[name] = await store.run(accounts.issue_key, vault, "alice", 0.0)
        own = max(row["id"] for row in await store.read(accounts.keys, "alice"))
        await store.run(accounts.set_limits, own, {"changes_per_minute": 1})
        await house.gateway.callers.refresh()
        wanted = {"action": "getNumber", "service": "xmute", "country": "6"}
        answers = [(await said(house, port, "", who, **wanted, n=who))[:9] for who in ("alice", "second", "second")]
        assert answers == ["ACCESS_NU", "ACCESS_NU", "ERROR_SQL"]
        assert [(await said(house, port, "", "own", **wanted, n=n))[:9] for n in "ab"] == ["ACCESS_NU", "ERROR_SQL"]
        assert (await said(house, port, "", "bob", **wanted)).startswith("ACCESS_NUMBER:")


async def test_one_number_for_several_services_is_as_many_changes(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path, gateway="[limits]\nchanges_per_minute = 3\n")
    async with asked(directory, sqlite_url) as (house, port):
        wanted = {"action": "getMultiServiceNumber", "country": "6"}
        assert (await said(house, port, "", **wanted, multiService="tg,wa")).startswith("[")
        assert await said(house, port, "", **wanted, multiService="ds,xmute") == "ERROR_SQL"
        assert (await house.balance("alice"))[2] == 2
        assert await said(house, port, "", "bob", **wanted, multiService="tg,wa,ds,xmute") == "ERROR_SQL"
        assert await house.balance("bob") == (50_000_000, 0, 0)


def test_the_command_line_gives_a_key_its_limits(tmp_path: Path, sqlite_url: str) -> None:
    values, directory = environment(sqlite_url), config_directory(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        done = run_cli(values, directory, *arguments)
        return done.returncode, done.stdout + done.stderr

    def listed() -> list[tuple[int | None, int | None]]:
        return [(row["changes"], row["polls"]) for row in json.loads(run("key", "list", "--json")[1])]

    assert run("account", "create", "alice")[0] == 0
    assert run("key", "issue", "alice", "--changes-per-minute", "300")[0] == 0
    assert run("key", "issue", "alice", "--polls-per-minute", "60000")[0] == 0
    assert listed() == [(300, None), (None, 60000)]
    assert run("key", "limits", "1", "--polls-per-minute", "7") == (0, "key 1: 300 changes and 7 polls a minute\n")
    assert run("key", "limits", "1", "--changes-per-minute", "default") == (
        0, "key 1: default changes and 7 polls a minute\n",
    )  # fmt: skip
    assert run("key", "limits", "2") == (0, "key 2: default changes and 60000 polls a minute\n")
    assert listed() == [(None, 7), (None, 60000)]
    for wrong in ("0", "-1", "1.5", "many"):
        assert run("key", "limits", "1", "--changes-per-minute", wrong)[0] != 0
    assert run("key", "limits", "77", "--changes-per-minute", "5")[0] == 1
    assert listed() == [(None, 7), (None, 60000)]


# Headers


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("Your code is 123456", b"Your code is 123456"),
        ("50% off\r\nSet-Cookie: a=b\n\n1234", b"50% off Set-Cookie: a=b 1234"),
        ("Код 123\x00\x1b", b"%D0%9A%D0%BE%D0%B4 123%00%1B"),
        ("100% ✓", b"100%25 %E2%9C%93"),
        ("\ud800", b"%3F"),
        ("", b""),
    ],
)
def test_a_text_in_a_header_is_one_line_of_ascii(text: str, header: bytes) -> None:
    assert in_header(text) == header


async def test_a_text_of_many_lines_comes_whole_in_the_body_and_on_one_line_in_the_header(
    here: tuple[StillHouse, int],
) -> None:
    house, port = here
    text = "Код: 123456\nне говорите: никому"
    activation_id = (await said(house, port, "ds", action="getNumber", service="xmute")).split(":")[1]
    live = house.gateway.house.live.get(int(activation_id))
    assert live is not None
    await house.gateway.activations.deliver(live, 1, [Sms("123456", text, identity="1")])
    answer = await ask(house, port, "ds", action="getStatus", id=activation_id, text="1")
    assert answer.body.decode() == f"ACCESS_SMS:{text}"
    assert unquote(answer.headers["x-text"]) == text.replace("\n", " ")
    assert "x-text" not in (await ask(house, port, "ds", action="getStatus", id=activation_id)).headers
    daisy = await ask(house, port, "daisy", action="getStatus", id=activation_id, text="1")
    assert (daisy.body, unquote(daisy.headers["x-text"])) == (b"STATUS_OK:123456", text.replace("\n", " "))


# Names


def test_every_service_has_one_word_of_its_own_in_ds() -> None:
    catalog = load_catalog(ROOT / "config" / "catalog")
    words = service_words(catalog)
    assert set(words) == set(catalog.services)
    assert len(set(words.values())) == len(words)
    assert (words["go"], words["fb"], words["wa"], words["tg"]) == ("google", "facebook", "whatsapp", "telegram")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_numbers_of_countries_lead_there_and_back(dialect: str, here: tuple[StillHouse, int]) -> None:
    spoken: Any = DIALECTS[dialect](here[0].gateway.front, None)  # type: ignore[arg-type] # no list is made
    for country in here[0].gateway.house.settings.catalog.countries:
        if spoken.sole_country is None and dialect != "ds":
            assert spoken.country({"country": spoken.country_number(country)}) == country


# Isolation

ACTIONS: list[dict[str, str]] = [
    {"action": "getStatus"},
    {"action": "getStatus", "text": "1"},
    {"action": "getStatusV2"},
    {"action": "getFullSms"},
    {"action": "finishActivation"},
    {"action": "cancelActivation"},
    {"action": "getAllSms"},
    {"action": "getAdditionalService", "service": "tg"},
    {"action": "checkExtraActivation"},
    {"action": "getExtraActivation"},
    {"action": "getIncomingCallStatus"},
    {"action": "parseCall"},
    {"action": "getRentStatus"},
    *({"action": "setRentStatus", "status": status} for status in ("1", "2", "nonsense")),
    {"action": "continueRentNumber", "rent_time": "4"},
    {"action": "getContinueRentPriceNumber", "rent_time": "4"},
    {"action": "continueRentInfo", "hours": "4", "needHistory": "true"},
    {"action": "prolong", "duration": "24"},
    {"action": "prolongOptions"},
    {"action": "prolongHistory"},
    {"action": "reactivate"},
    {"action": "reactivateOptions"},
    {"action": "reactivationPrice"},
    *({"action": "setStatus", "status": status} for status in ("1", "3", "6", "8", "-1", "nonsense")),
]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_anothers_activation_is_one_that_nobody_has(here: tuple[StillHouse, int], dialect: str) -> None:
    house, port = here
    bought = [
        (await said(house, port, "sms_activate", action="getNumber", service=service, country="187")).split(":")[1]
        for service in ("tg", "xmute")
    ]
    for service in ("tg", "xmute"):
        rented = await said(house, port, "sms_activate", action="getRentNumber", service=service, country="187")
        bought.append(str(json.loads(rented)["phone"]["id"]))
    await house.passes(1.5)
    for parameters in ACTIONS:
        wanted = await ask(house, port, dialect, "bob", id=NOBODYS, **parameters)
        for activation_id in bought:
            got = await ask(house, port, dialect, "bob", id=activation_id, **parameters)
            assert (got.status, got.body) == (wanted.status, wanted.body), parameters
            assert "x-text" not in got.headers
    assert (await said(house, port, "sms_activate", action="getStatus", id=bought[0])).startswith("STATUS_OK:")
    assert await said(house, port, "sms_activate", action="getStatus", id=bought[1]) == "STATUS_WAIT_CODE"
    assert '"quantity":"1"' in await said(house, port, "sms_activate", action="getRentStatus", id=bought[2])
    assert "STATUS_WAIT_CODE" in await said(house, port, "sms_activate", action="getRentStatus", id=bought[3])


# Paths


async def test_a_path_goes_to_its_dialect_then_to_the_longest_prefix_then_to_the_rest(
    here: tuple[StillHouse, int],
) -> None:
    reached: list[str] = []

    def application(name: str) -> Any:
        async def app(_scope: object, _receive: object, _send: object) -> None:
            reached.append(name)

        return app

    prefixes = {"/v1/": application("v1"), "/v1/user/": application("user")}
    dialects = Dialects(here[0].gateway.front, application("rest"), prefixes)
    for path in ("/v1/guest", "/v1/user/profile", "/v1", "/ds/stubs/other", "/nobody/stubs/handler_api.php"):
        await dialects({"type": "http", "path": path}, None, None)  # type: ignore[arg-type] # nothing is read
    await dialects({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert reached == ["v1", "user", "rest", "rest", "rest", "rest"]


# Webhooks


async def test_the_form_of_notices_follows_from_how_their_address_was_set(tmp_path: Path, sqlite_url: str) -> None:
    async with asked(config_directory(tmp_path), sqlite_url) as (house, port):
        forms = {}
        for dialect in DIALECTS:
            url = "https://example.com/hook"
            assert await said(house, port, dialect, action="setWebhook", webhook_url=url) == "ACCESS_WEBHOOK_SET"
            forms[dialect] = await _webhook_format(house)
        own = {"ds": "ds", "hero": "hero", "daisy": "daisy"}
        assert forms == dict.fromkeys(DIALECTS, "sms_activate") | own
        body = b'{"url":"https://example.com/hook"}'
        head = f"POST /webhook HTTP/1.1\r\nHost: gateway\r\nX-Api-Key: {house.keys['alice']}\r\nConnection: close\r\n"
        answer = await exchange(port, head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (answer.status, await _webhook_format(house)) == (200, "native")


async def _webhook_format(house: StillHouse) -> str:
    row = await house.database.store.read(
        lambda tx: tx.one("select webhook_format as form from accounts where name = 'alice'")
    )
    assert row is not None
    return str(row["form"])
