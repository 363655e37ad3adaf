"""The table as pages show it, and its place on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tests.conformance.calls import CALLS, GROUPS, Call
from tests.conformance.registry import Client
from tests.conformance.runner import Outcome

BEGIN, END = "<!-- conformance: written by `make conformance` -->", "<!-- /conformance -->"
WORKS, FAILS, NONE, SKIPPED = "✓", "✗", "–", "skipped"


class Notes:
    """Footnotes, numbered as they come; the same text keeps its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    def lines(self) -> list[str]:
        return [f"{number}. {text}" for text, number in self._numbers.items()]


def cell(call: Call, client: Client, outcome: Outcome, notes: Notes) -> str:
    """What a client got of a call."""
    if call.name not in client.calls:
        return NONE
    if outcome.skipped:
        return SKIPPED
    why = outcome.results[call.name]
    if not why:
        return WORKS
    if call.name in client.fails:
        return f"{FAILS} {notes.number(f'{client.title}: {client.fails[call.name]}.')}"
    return f"{FAILS} {notes.number(f'{client.title}, {call.title}: {why}')}"


def whole(clients: Iterable[Client], outcomes: Mapping[str, Outcome]) -> str:
    """Client × call, with the reasons of every cross below."""
    notes = Notes()
    rows = [
        ["Client", "Version", "Path", *(call.title for call in CALLS)],
        ["---"] * (3 + len(CALLS)),
    ]
    for client in clients:
        outcome = outcomes[client.name]
        cells = (cell(call, client, outcome, notes) for call in CALLS)
        rows.append([_name(client), outcome.version or NONE, f"`{client.path}`", *cells])
    asked = [f"* **{call.title}**: {call.actions}{_fivesim(call)}" for call in CALLS]
    moved = [f"* {_name(client)}: {client.moved_by}{_note(client)}" for client in clients if client.package]
    skipped = [f"* {client.title}: skipped: {why}" for client in clients if (why := outcomes[client.name].skipped)]
    return "\n\n".join(
        "\n".join(part)
        for part in (
            [_line(row) for row in rows],
            skipped,
            [f"{WORKS} did what it should. {NONE} the client has no such call. {FAILS}:"],
            notes.lines(),
            ["The columns, by what is asked:"],
            asked,
            ["What is set so that a client goes here; nothing else of it is touched:"],
            moved,
        )
        if part
    )


def short(clients: Iterable[Client], outcomes: Mapping[str, Outcome]) -> str:
    """How many calls of each kind went well, by client."""
    rows = [["Client", "Version", *GROUPS], ["---"] * (2 + len(GROUPS))]
    for client in clients:
        outcome = outcomes[client.name]
        counts = (_count(group, client, outcome) for group in GROUPS)
        rows.append([_name(client), outcome.version or NONE, *counts])
    return "\n".join(_line(row) for row in rows)


def placed(page: str, table: str) -> str:
    """The page with the table between its markers. Raises ValueError where it has none."""
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not found.search(page):
        raise ValueError(f"no place marked {BEGIN}")
    return found.sub(lambda _: f"{BEGIN}\n{table}\n{END}", page)


def between(page: str) -> list[list[str]]:
    """The rows of the first table between the markers, the heading first."""
    inside = page.partition(BEGIN)[2].partition(END)[0]
    lines = inside.strip().partition("\n\n")[0].splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def _count(group: str, client: Client, outcome: Outcome) -> str:
    calls = [call for call in CALLS if call.group == group and call.name in client.calls]
    if not calls:
        return NONE
    if outcome.skipped:
        return SKIPPED
    worked = sum(not outcome.results[call.name] for call in calls)
    return f"{WORKS} {worked}" if worked == len(calls) else f"{worked} of {len(calls)}"


def _name(client: Client) -> str:
    return f"{client.package} ({client.source})" if client.package else client.source


def _fivesim(call: Call) -> str:
    return f" (5sim: {call.fivesim})" if call.fivesim else ""


def _note(client: Client) -> str:
    return f". {client.note[0].upper()}{client.note[1:]}" if client.note else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
