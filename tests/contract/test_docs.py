"""The reference page and the shipped files say what the code says."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from adapters import sandbox
from gateway.settings import Described, Settings, describe, load_settings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
FILES = ("gateway.toml", "upstreams.toml", "routing.toml", "pricing.toml", "rates.toml")


def chapter(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/configuration.md has no chapter {title}"
    return found[1]


def load(directory: Path) -> Settings:
    return load_settings(directory, {}, lambda _adapter: sandbox.Options, lambda _adapter: {})


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def stated(file: str) -> dict[str, Any]:
    """Settings a shipped file states, by the key they are described under. Rules are examples, not defaults."""
    data = tomllib.loads((CONFIG / file).read_text(encoding="utf-8"), parse_float=Decimal)
    found = {key: value for key, value in leaves(data) if key != "rule"}
    return {re.sub(r"^sandbox\.", "<name>.", key) if file == "upstreams.toml" else key: v for key, v in found.items()}


@pytest.mark.parametrize("setting", [one for one in describe() if one.file in FILES], ids=lambda one: str(one.key))
def test_setting_is_documented_with_type_default_and_meaning(setting: Described) -> None:
    row = f"| `{setting.key}` | {setting.type} | `{setting.default}` | {setting.sentence} |"
    assert row in chapter(setting.file)


@pytest.mark.parametrize("setting", [one for one in describe() if one.file == "environment"], ids=lambda one: one.key)
def test_variable_is_documented(setting: Described) -> None:
    assert f"| `{setting.key}` | {setting.sentence} |" in chapter("Environment")


@pytest.mark.parametrize("key", sandbox.Options.model_fields)
def test_option_of_the_sandbox_is_documented(key: str) -> None:
    option = sandbox.Options.model_fields[key]
    assert f"| `<name>.{key}` | number | `{option.default}` | {option.description} |" in chapter("upstreams.toml")


@pytest.mark.parametrize("file", FILES)
def test_page_documents_no_setting_that_does_not_exist(file: str) -> None:
    known = {setting.key for setting in describe()} | {f"<name>.{key}" for key in sandbox.Options.model_fields}
    assert set(re.findall(r"^\| `([^`]+)` \|", chapter(file), re.MULTILINE)) <= known


def test_shipped_files_load() -> None:
    settings = load(CONFIG)
    assert list(settings.upstreams) == ["sandbox"]
    assert settings.upstreams["sandbox"].early_cancel == "deny"


def test_shipped_files_equal_the_defaults(tmp_path: Path) -> None:
    shutil.copytree(CONFIG / "catalog", tmp_path / "catalog")
    shipped, default = load(CONFIG), load(tmp_path)
    # What is denied is the operator's to choose; the shipped file shows how, and is on the careful side.
    assert shipped.gateway.lawful.denied_services >= {"md", "afe"}
    assert shipped.gateway.model_copy(update={"lawful": default.gateway.lawful}) == default.gateway
    assert shipped.gateway.lawful.terms_version == ""
    assert shipped.upstreams == default.upstreams
    assert shipped.routing == default.routing
    assert shipped.pricing.model_copy(update={"rule": ()}) == default.pricing


def test_shipped_prices_are_the_retail_table() -> None:
    pricing = load(CONFIG).pricing
    rules = {code: rule.fixed for rule in pricing.rule for code in rule.services}
    assert rules == {"wa": Decimal("0.15"), "tg": Decimal("0.12"), "ds": Decimal("0.10")}
    assert pricing.default.fixed == Decimal("0.08")


@pytest.mark.parametrize("file", FILES)
def test_shipped_file_mentions_every_setting(file: str) -> None:
    text = (CONFIG / file).read_text(encoding="utf-8")
    keys = {setting.key.rpartition(".")[2] for setting in describe() if setting.file == file} - {"<CURRENCY>"}
    assert {key for key in keys if not re.search(rf"^(# )?{key} = ", text, re.MULTILINE)} == set()


@pytest.mark.parametrize("file", FILES)
def test_shipped_file_states_only_what_is_described(file: str) -> None:
    assert set(stated(file)) <= {setting.key for setting in describe() if setting.file == file}
