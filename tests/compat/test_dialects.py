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
from compat.dssmshub import service_words
from gateway import accounts
from gateway.accounts import AccountError
from gateway.catalog import load_catalog
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
