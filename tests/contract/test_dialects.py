"""Every dialect has a word for everything a caller can be told, and the transcripts have heard all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from compat import DIALECTS
from compat._lists import Lists
from compat._rentals import BARE, RENT_ACTIONS, RENT_WORDS
from compat._unserved import UNSERVED
from gateway import settings
from gateway.errors import Barred, CallerError, PriceTooLow
from gateway.money import Money
from tests.harness import ROOT, config_directory, environment
from tests.wire import NOON, still_house

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
TRANSCRIPTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests" / "transcripts").glob("*.txt")))


def caller_errors(above: type[CallerError] = CallerError) -> Iterator[type[CallerError]]:
    """Every kind of caller error, however deep in the tree."""
    for error in above.__subclasses__():
        yield error
        yield from caller_errors(error)


def words(dialect: str) -> Mapping[str, str]:
    return DIALECTS[dialect].words


def test_dialects_are_those_a_key_or_the_configuration_can_name() -> None:
    assert set(DIALECTS) == set(settings.DIALECTS)


def test_every_caller_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in CallerError.__subclasses__()]
    assert all(error.code for error in caller_errors())
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_caller_error_has_a_word(dialect: str) -> None:
    assert {error.code for error in caller_errors()} - words(dialect).keys() == set()


def test_every_caller_error_has_a_rent_word_and_no_rent_word_is_for_none() -> None:
    assert RENT_WORDS.keys() == {error.code for error in caller_errors()}
    assert all(re.fullmatch(r"[A-Z_]{5,30}", word) for word in RENT_WORDS.values())


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_rent_family_refuses_as_json_but_for_a_wrong_key_or_action(
    dialect: str, tmp_path: Path, sqlite_url: str
) -> None:
    async with still_house(config_directory(tmp_path), environment(sqlite_url)) as house:
        spoken = DIALECTS[dialect](house.gateway.front, Lists())
        for action in spoken.rent_actions & spoken.actions.keys():
            for error in caller_errors():
                reply = spoken.refusal(made(error), action, {"api_key": "x"})
                if error.code in BARE:
                    assert reply.body.decode() == words(dialect)[error.code]
                else:
                    wanted = {"status": "error", spoken.rent_error: RENT_WORDS[error.code]}
                    assert (reply.status, json.loads(reply.body)) == (200, wanted)


def test_every_rent_word_is_documented() -> None:
    assert {word for word in RENT_WORDS.values() if f"`{word}`" not in PROTOCOL} == set()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_word_is_for_an_error_that_does_not_exist(dialect: str) -> None:
    assert words(dialect).keys() - {error.code for error in caller_errors()} == set()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_words_are_whole_and_short_and_say_nothing_of_the_inside(dialect: str) -> None:
    found = {*words(dialect).values(), *DIALECTS[dialect].action_words.values()}
    for word in found - {"Too Many Requests"}:
        if word.startswith("{"):
            word = (
                next(said for said in json.loads(word).values() if said not in ("error", 0)).upper().replace(" ", "_")
            )
        assert re.fullmatch(r"[A-Z_]{5,30}", word), word


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_action_that_words_an_error_otherwise_is_served(dialect: str) -> None:
    codes = {error.code for error in caller_errors()}
    assert {code for _, code in DIALECTS[dialect].action_words} <= codes
    assert set(DIALECTS[dialect].statuses) <= codes


def test_every_word_of_the_reference_dialect_is_in_a_transcript() -> None:
    heard = set(re.findall(r"^([A-Z_]+|\{\"status\":\"error\".*)(?=:|$)", TRANSCRIPTS, re.MULTILINE))
    assert set(words("sms_activate").values()) - heard == set()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_action_is_in_a_transcript_of_its_dialect(dialect: str, tmp_path: Path, sqlite_url: str) -> None:
    async with still_house(config_directory(tmp_path), environment(sqlite_url)) as house:
        actions = set(DIALECTS[dialect](house.gateway.front, Lists()).actions)
        reference = set(DIALECTS["sms_activate"](house.gateway.front, Lists()).actions)
    if dialect == "sms_activate":
        asked = set(re.findall(r"handler_api\S*action=(\w+)", TRANSCRIPTS))
        assert actions - asked == set()
        return
    # What is served as in the reference needs no second hearing.
    asked = set(re.findall(rf"/{dialect}/stubs/handler_api\S*action=(\w+)", TRANSCRIPTS))
    assert actions - reference - asked == set()
    assert {"getBalance", "getNumber", "getStatus", "setStatus", "getPrices"} - asked == set()


def made(error: type[CallerError]) -> CallerError:
    """One of its kind, with whatever that needs."""
    values: dict[type[CallerError], object] = {Barred: NOON + 60, PriceTooLow: Money(120_000, "USD")}
    return error(values[error]) if error in values else error()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_caller_error_of_every_action_is_a_whole_answer(
    dialect: str, tmp_path: Path, sqlite_url: str
) -> None:
    async with still_house(config_directory(tmp_path), environment(sqlite_url)) as house:
        spoken = DIALECTS[dialect](house.gateway.front, Lists())
        for action in ("", "nonsense", *spoken.actions):
            for error in caller_errors():
                for values in ({}, {"api_key": "x"}):
                    reply = spoken.refusal(made(error), action, values)
                    body = reply.body.decode("ascii")
                    is_json = reply.content_type == b"application/json"
                    assert (is_json and json.loads(body)) or re.fullmatch(r"[A-Za-z_:' 0-9.-]+", body), body
                    assert reply.status in (200, 400, 401, 402, 403, 404, 409, 422, 429, 500)


def chapter(title: str) -> dict[str, list[str]]:
    """The rows of a table in the protocol's documentation, by their first cell."""
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert found, title
    lines = re.findall(r"^\| (.+) \|$", found[1], re.MULTILINE)
    rows = [[cell.strip() for cell in re.split(r" ?\| ?", line)] for line in lines]
    return {first: rest for first, *rest in rows}


async def test_the_table_of_actions_is_the_code_s(tmp_path: Path, sqlite_url: str) -> None:
    rows = chapter("Actions")
    assert rows.pop("Action") == list(DIALECTS)
    async with still_house(config_directory(tmp_path), environment(sqlite_url)) as house:
        served = {name: set(dialect(house.gateway.front, Lists()).actions) for name, dialect in DIALECTS.items()}
    shown = {name: {row for row in rows if rows[row][place] == "yes"} for place, name in enumerate(DIALECTS)}
    assert shown == {name: actions - UNSERVED.keys() for name, actions in served.items()}
    assert served["sms_activate"] >= UNSERVED.keys() | RENT_ACTIONS


def test_what_is_not_served_is_documented_with_its_word_and_reason() -> None:
    rows = chapter("What is answered and not served")
    assert rows.pop("Action") == ["Answer", "Why"]
    wanted = {action: [f"`{row.word}`", row.why] for action, row in UNSERVED.items()}
    assert rows == wanted


def test_every_dialect_s_path_is_documented() -> None:
    rows = chapter("Which dialect")
    rows.pop("Dialect")
    assert {word: cells[0] for word, cells in rows.items()} == {
        f"`{name}`": f"`/{name}/stubs/handler_api.php`" for name in DIALECTS
    }


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_word_of_a_dialect_s_own_is_documented(dialect: str) -> None:
    own = set(words(dialect).values()) - set(words("sms_activate").values())
    assert {word for word in own if word not in PROTOCOL and "NO_ACTIVATIONS" not in word} == set()
