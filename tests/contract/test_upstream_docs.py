"""docs/upstreams.md has a chapter for every adapter, and what stands there is what the code says."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import adapters
from gateway.settings import Stanza, load_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "upstreams.md").read_text(encoding="utf-8")
OTHER_PAGES = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("own-numbers", "manual-entry")]

CHAPTER = re.compile(r"^## ([a-z0-9_]+) — [^\n]+\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
CHAPTERS = {found[1]: found[2] for found in CHAPTER.finditer(PAGE)}
TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `([a-z0-9_]+)` \| (?:`([^`]*)`|(needed|unset)) \| \S", re.MULTILINE)

EXPLAINED_ONCE = {"base_url", "services", "countries"}
KNOWN = adapters.known()


def options_of(adapter: str) -> Any:
    return adapters.load(adapter).Options


def tables(text: str) -> Iterator[dict[str, Any]]:
    """What each block of TOML says, as upstreams.toml would be read; lists of numbers are none of it."""
    blocks = (tomllib.loads(block, parse_float=Decimal) for block in TOML.findall(text))
    yield from (block for block in blocks if "number" not in block)


def stanzas() -> list[tuple[str, str]]:
    """(chapter, block) of each block on any of the three pages."""
    found = [(name, block) for name, text in CHAPTERS.items() for block in TOML.findall(text)]
    others = (block for page in OTHER_PAGES for block in TOML.findall(page))
    return found + [("another page", block) for block in others if "number" not in tomllib.loads(block)]


def environment(block: str) -> dict[str, str]:
    """Every secret of every stanza in a block."""
    return {
        f"{name}_{secret}".upper(): "k" * 32
        for name, table in tomllib.loads(block).items()
        for secret in adapters.secrets(adapters.load(table.get("adapter", name)))
    }


def loaded(block: str, directory: Path) -> Mapping[str, Stanza]:
    """The block's stanzas as the gateway reads them. Raises SettingsError."""
    shutil.copytree(ROOT / "config" / "catalog", directory / "catalog")
    (directory / "upstreams.toml").write_text(block, encoding="utf-8")
    rates = 'as_of = 2026-11-22T08:00:00Z\n[rates]\nNGN = "0.00065"\nRUB = "0.0125"\n'
    (directory / "rates.toml").write_text(rates, encoding="utf-8")
    secrets = {adapter: adapters.secrets(adapters.load(adapter)) for adapter in KNOWN}
    return load_settings(directory, environment(block), options_of, secrets.__getitem__).upstreams


def test_every_adapter_has_a_chapter_and_a_line_in_the_first_table() -> None:
    assert sorted(CHAPTERS) == KNOWN
    assert sorted(re.findall(r"^\| \[`(\w+)`\]\(#", PAGE, re.MULTILINE)) == KNOWN


def test_first_table_leads_to_the_chapters() -> None:
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


@pytest.mark.parametrize("adapter", KNOWN)
def test_chapter_names_every_key_of_the_stanza(adapter: str) -> None:
    keys = set(options_of(adapter).model_fields) - EXPLAINED_ONCE
    assert {key for key in keys if f"`{key}`" not in CHAPTERS[adapter]} == set()


@pytest.mark.parametrize("adapter", KNOWN)
def test_chapter_has_no_key_that_does_not_exist(adapter: str) -> None:
    rows = {found[1] for found in ROW.finditer(CHAPTERS[adapter])}
    assert rows <= set(options_of(adapter).model_fields)
    assert len(rows) == CHAPTERS[adapter].count("\n| `"), "a row that is not `key`, default, meaning"


@pytest.mark.parametrize("adapter", KNOWN)
def test_chapter_tells_the_defaults(adapter: str) -> None:
    """Each as TOML: a stanza that says it is the same as one that leaves it out."""
    options = options_of(adapter)
    stanza = next(iter(next(tables(CHAPTERS[adapter])).values()))
    needed = {key: stanza[key] for key, field in options.model_fields.items() if field.is_required()}
    for key, default, word in (found.groups() for found in ROW.finditer(CHAPTERS[adapter])):
        field = options.model_fields[key]
        if word:
            assert (word == "needed") == field.is_required(), key
            assert word == "needed" or field.default is None, key
            continue
        stated = tomllib.loads(f"value = {default}", parse_float=Decimal)["value"]
        assert getattr(options(**needed, **{key: stated}), key) == getattr(options(**needed), key), key


@pytest.mark.parametrize("adapter", KNOWN)
def test_chapter_names_every_secret(adapter: str) -> None:
    """The key by the stanza's own variable or in general, further ones by their part behind the name."""
    secrets = adapters.secrets(adapters.load(adapter))
    further = [secret for secret in secrets if secret != "api_key"]
    assert {secret for secret in further if f"`<NAME>_{secret.upper()}`" not in CHAPTERS[adapter]} == set()
    assert "_API_KEY" in CHAPTERS[adapter] or not secrets["api_key"]


@pytest.mark.parametrize("adapter", KNOWN)
def test_chapter_shows_a_stanza(adapter: str) -> None:
    shown = [table.get("adapter", name) for block in tables(CHAPTERS[adapter]) for name, table in block.items()]
    assert adapter in shown


@pytest.mark.parametrize(("chapter", "block"), stanzas(), ids=lambda part: part.split()[0])
def test_stanza_is_taken_as_it_stands(chapter: str, block: str, tmp_path: Path) -> None:
    assert set(loaded(block, tmp_path)) == set(tomllib.loads(block)), chapter
