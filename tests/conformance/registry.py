"""The rows of the table: every driver in `clients/`, with what the comment at its head says about the client.

package: smsactivate               as its registry calls it; absent for a script of our own
from: PyPI                         PyPI, npm, or what the script is written in
path: /stubs/handler_api.php       where on the gateway it is pointed at
host: daisysms.com                 where it is compiled in (`compiled_in.py`); absent for nearly all
moved by: client.base_url          what is set so that it goes there
calls: balance prices              what it can ask (`calls.py`)
fails history: reads an array …    what it can ask and does not understand, by a fault of its own; may be repeated
note: …                            what a reader should know besides
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.calls import NAMES

HERE = Path(__file__).parent
TOOLS = {
    ".py": (),
    ".js": ("node",),
    ".php": ("php",),
    ".sh": ("sh", "curl"),
    ".java": ("java", "javac"),
    ".c": ("cc",),
}
"""What a driver needs on the machine, by its suffix."""

_FIELD = re.compile(r"^[\s*#]*(package|from|path|host|moved by|calls|note|fails (\w+)): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Client:
    """A driver and the client it drives."""

    driver: Path
    package: str
    source: str
    path: str
    moved_by: str
    calls: tuple[str, ...]
    fails: dict[str, str] = field(default_factory=dict)
    note: str = ""
    host: str = ""

    @property
    def name(self) -> str:
        return self.driver.stem

    @property
    def title(self) -> str:
        return self.package or f"a script in {self.source}"

    def missing(self, installed: Mapping[str, str]) -> str:
        """What the machine lacks to run it, given the versions of what is installed; empty where it lacks nothing."""
        for tool in TOOLS[self.driver.suffix]:
            if shutil.which(tool) is None:
                return f"no {tool} here"
        if self.package and self.key not in installed:
            return f"{self.package} is not installed"
        return ""

    @property
    def key(self) -> str:
        """What its package goes by in a table of versions: `PyPI:name` or `npm:name`, in lower case."""
        return f"{self.source}:{self.package}".lower()


def clients() -> tuple[Client, ...]:
    """All of them: PyPI's, then npm's, then the scripts, each by name."""
    order = {"PyPI": 0, "npm": 1}
    drivers = [path for path in sorted((HERE / "clients").iterdir()) if path.suffix in TOOLS and path.name[0] != "_"]
    found = [read(path) for path in drivers]
    return tuple(sorted(found, key=lambda client: (order.get(client.source, 2), client.name)))


def read(driver: Path) -> Client:
    """The head of a driver. Raises ValueError where it lacks something or names a call there is not."""
    values: dict[str, str] = {}
    fails: dict[str, str] = {}
    for word, failing, text in _FIELD.findall(driver.read_text(encoding="utf-8")):
        if failing:
            fails[failing] = text.strip()
        else:
            values[word] = text.strip()
    if missing := {"from", "path", "calls"} - values.keys():
        raise ValueError(f"{driver.name} says nothing about {', '.join(sorted(missing))}")
    calls = tuple(values["calls"].split())
    if unknown := ({*calls} - {*NAMES}) | (fails.keys() - {*calls}):
        raise ValueError(f"{driver.name} names {', '.join(sorted(unknown))}, which is no call of its")
    return Client(
        driver,
        values.get("package", ""),
        values["from"],
        values["path"],
        values.get("moved by", "its first argument"),
        calls,
        fails,
        values.get("note", ""),
        values.get("host", ""),
    )
