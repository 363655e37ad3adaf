"""README and docs show commands, settings and links that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import adapters
from gateway.cli import main
from gateway.settings import describe

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"(?:`|^\$ |^\.venv/bin/)simroute ([a-z-][^`\n]*)", re.MULTILINE)
SETTING = re.compile(r"`((?:server|limits|activations|health|webhooks)\.[a-z_]+)`")


def shown_commands() -> list[tuple[str, str]]:
    """Each command with its arguments, and the page it is on. Prose has them in backticks, sessions behind a `$`."""
    return sorted({(name, found[1].strip()) for name, text in PAGES.items() for found in SHOWN.finditer(text)})


def stanzas() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Stanzas of upstreams.toml, by page and name."""
    for page, text in PAGES.items():
        for block in (found[2] for found in FENCE.finditer(text) if found[1] == "toml"):
            for name, table in tomllib.loads(block).items():
                if isinstance(table, dict) and name in {*adapters.known(), "examplesms", "sms_activate"}:
                    yield page, name, table


def test_readme_names_both_commands() -> None:
    assert re.search(r"^make run\b", PAGES["README.md"], re.MULTILINE)
    assert re.search(r"^make test\b", PAGES["README.md"], re.MULTILINE)


@pytest.mark.parametrize(("page", "line"), shown_commands(), ids=lambda part: part)
def test_command_exists_with_its_options(page: str, line: str) -> None:
    command: click.Command = main
    options = {option for parameter in main.params for option in parameter.opts}
    words = line.split()
    while isinstance(command, click.Group) and words:
        if words[0] not in command.commands and hasattr(command, "default"):
            words.insert(0, command.default)
        assert words[0] in command.commands, f"{page}: simroute {line}"
        command = command.commands[words.pop(0)]
        options |= {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    is_whole = not isinstance(command, click.Group) or command.invoke_without_command
    assert is_whole, f"{page}: simroute {line} is half a command"
    assert {word for word in words if word.startswith("--")} <= options, f"{page}: simroute {line}"


@pytest.mark.parametrize("page", PAGES)
def test_setting_exists(page: str) -> None:
    # These look like settings: an event in the log, a column.
    others = {"limits.redis_away", "activations.changed"}
    assert set(SETTING.findall(PAGES[page])) - others <= {setting.key for setting in describe()}


def test_stanza_has_keys_that_exist() -> None:
    common = {setting.key.removeprefix("<name>.") for setting in describe() if setting.key.startswith("<name>.")}
    for page, name, table in stanzas():
        adapter = str(table.get("adapter", name))
        own = set(adapters.load(adapter).Options.model_fields) if adapter in adapters.known() else set()
        assert set(table) <= common | own, f"{page}: [{name}]"


@pytest.mark.parametrize("page", PAGES)
def test_link_leads_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGES[page])
    assert [link for link in links if not (folder / link).exists()] == []
