"""What the page on adding an upstream promises: new files, and no change to any that stands."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapters
from tests.contract import pairs
from tests.contract._pair import discovered
from tests.harness import ROOT, config_directory, environment, house
from tests.simulators._serve import serve

PAGE = (ROOT / "docs" / "adding-an-upstream.md").read_text(encoding="utf-8")
NAMED = re.compile(r"^`([\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A block of code behind the name of the file it is in."""


def blocks() -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in NAMED.finditer(PAGE)]


def example(path: str) -> str:
    """The page's own example, which is a file nowhere else."""
    (code,) = [code for name, code in blocks() if name == path]
    assert not (ROOT / path).exists()
    return code


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's two files, put where a new upstream's go; the tree itself is not touched."""
    for package, path in ((adapters, "adapters/examplesms.py"), (pairs, "tests/contract/pairs/examplesms.py")):
        place = tmp_path / path
        place.parent.mkdir(parents=True)
        place.write_text(example(path))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(place.parent)])
    importlib.invalidate_caches()
    yield
    for name in ("adapters.examplesms", "tests.contract.pairs.examplesms"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("installed")
async def test_a_new_upstream_is_new_files_only_and_sells(tmp_path: Path, sqlite_url: str) -> None:
    assert "examplesms" in adapters.known()
    pair = discovered()["examplesms"]
    app = pair.simulator(stock=3, sms_delay_seconds=None, **pair.simulator_options)
    app.state.sim.set_stock(**pair.shelf, price="0.06", count=7)
    with serve(app) as address:
        stanza = f'[examplesms]\nbase_url = "{address}{pair.path}"\npoll_seconds = 0.1\noffers_seconds = 0.3\n'
        values = environment(sqlite_url, EXAMPLESMS_API_KEY=pair.key)
        async with house(config_directory(tmp_path, stanza), values, is_demo=False) as made:
            assert await made.call("getBalance") == "ACCESS_BALANCE:10.00"
            activation = ""
            while not activation:
                answer = await made.call("getNumber", service="tg", country=16)
                activation = answer.split(":")[1] if answer.startswith("ACCESS_NUMBER") else ""
            app.state.sim.deliver(str(app.state.sim.order_views()[-1]["id"]), "Your code is 12345")
            assert await made.until(activation, "STATUS_OK") == "STATUS_OK:12345"
            assert await made.problems() == []


@pytest.mark.parametrize(("path", "code"), blocks(), ids=[path for path, _ in blocks()])
def test_code_shown_of_a_file_stands_in_that_file(path: str, code: str) -> None:
    """A page that quotes what is no longer there leads astray; `…` stands for what is left out."""
    file = ROOT / path
    if not file.exists():
        assert "examplesms" in path
        compile(code, path, "exec")
        return
    source = file.read_text(encoding="utf-8")
    for part in re.split(r"^ *…\n", code, flags=re.MULTILINE):
        shown = part.strip("\n")
        assert shown in source or textwrap.indent(shown, "    ") in source, f"{path} has no such lines:\n{shown}"
