"""Every dialect has a word for everything a caller can be told, and the transcripts have heard all of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import compat
from compat.handler_api import HandlerApi
from gateway.errors import CallerError
from tests.harness import ROOT, config_directory, environment
from tests.wire import still_house

TRANSCRIPTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests" / "transcripts").glob("*.txt")))


def caller_errors(above: type[CallerError] = CallerError) -> Iterator[type[CallerError]]:
    """Every kind of caller error, however deep in the tree."""
    for error in above.__subclasses__():
        yield error
        yield from caller_errors(error)


def dialects() -> list[str]:
    """The modules that speak to clients."""
    return [found.name for found in pkgutil.iter_modules(compat.__path__) if not found.name.startswith("_")]


def words(dialect: str) -> dict[str, str]:
    module: Any = importlib.import_module(f"compat.{dialect}")
    return cast("dict[str, str]", module.WORDS)


def test_every_caller_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in caller_errors()]
    assert all(codes)
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("dialect", dialects())
def test_every_caller_error_has_a_word(dialect: str) -> None:
    assert {error.code for error in caller_errors()} - words(dialect).keys() == set()


@pytest.mark.parametrize("dialect", dialects())
def test_no_word_is_for_an_error_that_does_not_exist(dialect: str) -> None:
    assert words(dialect).keys() - {error.code for error in caller_errors()} == set()


@pytest.mark.parametrize("dialect", dialects())
def test_words_are_whole_and_short_and_say_nothing_of_the_inside(dialect: str) -> None:
    for word in words(dialect).values():
        assert re.fullmatch(r'[A-Z_]+|\{"status":"error","error":"[A-Z_]+"\}', word), word


def test_every_word_of_the_reference_dialect_is_in_a_transcript() -> None:
    heard = set(re.findall(r"^([A-Z_]+|\{\"status\":\"error\".*)(?=:|$)", TRANSCRIPTS, re.MULTILINE))
    assert set(words("handler_api").values()) - heard == set()


async def test_every_action_of_the_reference_dialect_is_in_a_transcript(tmp_path: Path, sqlite_url: str) -> None:
    async with still_house(config_directory(tmp_path), environment(sqlite_url)) as house:
        actions = set(HandlerApi(house.gateway.front).actions)
    asked = set(re.findall(r"action=(\w+)", TRANSCRIPTS))
    assert actions - asked == set()
