"""The recorded conversations in `tests/transcripts`, held against the gateway byte for byte, over a real socket.

    # a comment
    @ account alice 10.00         an account of that name; its key is then {alice}
    @ config [limits] x = 1       a line of gateway.toml; before anything else
    @ pass 1.5                    seconds that pass: codes come, lives end
    @ wait 1.5                    seconds in which the gateway notices nothing
    @ bar alice 3600              the account may not buy for so many seconds
    @ suspend alice               the account may not buy until it is resumed
    @ resume alice                and may again
    @ dialect alice daisy         what her key is answered in, where the path names no dialect
    @ database away | back        nothing can be read or written
    @ balance alice 9.88 0.12     what must be available and held
    >> GET /path?query HTTP/1.1   what is sent: the request line, then headers, an empty line and a body
    << 200 text/html; …           status and content type of the answer
    << x-price: 0.12              a header it must have; `no x-price`, one it must not have
    body                          everything else up to an empty line: the exact body, no newline at its end
    ~ part                        or parts that must be in it

`{name}` in a body stands for digits, and for the same digits from then on. gzip is unpacked before the comparison.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway import accounts
from gateway.money import to_micros
from tests.harness import ROOT, SANDBOX, config_directory, environment
from tests.wire import Answer, StillHouse, exchange, on_a_socket, still_house

TRANSCRIPTS = ROOT / "tests" / "transcripts"
PRICING = (ROOT / "config" / "pricing.toml").read_text()
_NAME = re.compile(r"\{([a-z]+[0-9]?)\}")
_CONFIG = re.compile(r"@ config \[(\w+)\] (.+)")


@dataclass
class Exchange:
    """One request with the answer it must get. `line` is where it stands."""

    line: int
    request: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)


def exchanges(text: str) -> Iterator[Exchange | str]:
    """Directives and exchanges of a transcript, in order."""
    found: Exchange | None = None
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.startswith(">>"):
            found = found or Exchange(number)
            found.request.append(line[2:].removeprefix(" "))
        elif found is None:
            if line.startswith("@"):
                yield line
        elif line.startswith("<<"):
            found.answer.append(line[3:])
        elif line or not found.answer:
            found.body.append(line)
        else:
            yield found
            found = None


@dataclass
class Player:
    """Plays one transcript."""

    house: StillHouse
    port: int
    away: ExitStack = field(default_factory=ExitStack)
    known: dict[str, str] = field(default_factory=dict)

    async def play(self, text: str) -> None:
        for step in exchanges(text):
            if isinstance(step, str):
                await self._direct(step.removeprefix("@").split())
            else:
                answer = await exchange(self.port, self._request(step))
                self._compare(step, answer)

    async def _direct(self, words: list[str]) -> None:
        match words:
            case ["account", name, balance]:
                await self.house.open_account(name, balance)
                self.known[name] = self.house.keys[name]
            case ["pass", seconds]:
                await self.house.passes(float(seconds))
            case ["wait", seconds]:
                self.house.clock.now += float(seconds)
            case ["bar", name, seconds]:
                until = self.house.clock() + float(seconds)
                await self.house.database.store.run(accounts.bar, name, until)
                await self.house.gateway.callers.refresh()
            case ["suspend" | "resume" as verb, name]:
                change = accounts.suspend if verb == "suspend" else accounts.resume
                await self.house.database.store.run(change, name, self.house.clock())
                await self.house.gateway.callers.refresh()
            case ["dialect", name, dialect]:
                await self.house.database.store.run(
                    accounts.set_dialect, self._key_id(name), None if dialect == "default" else dialect
                )
                await self.house.gateway.callers.refresh()
            case ["database", "away"]:
                self.away.enter_context(self.house.database_away())
            case ["database", "back"]:
                self.away.close()
            case ["balance", name, available, held]:
                assert (await self.house.balance(name))[:2] == (to_micros(available), to_micros(held)), words
            case ["config", *_]:
                pass
            case _:
                raise AssertionError(f"no such directive: {words}")

    def _key_id(self, name: str) -> int:
        """The one key of an account: they are numbered as the accounts were opened."""
        return list(self.house.keys).index(name) + 1

    def _request(self, step: Exchange) -> bytes:
        lines = [_NAME.sub(lambda found: self.known.get(found[1], found[0]), line) for line in step.request]
        head, body = (lines[: lines.index("")], lines[lines.index("") + 1 :]) if "" in lines else (lines, [])
        content = "\r\n".join(body).encode()
        head += ["Host: gateway", "Connection: close"]
        if content or head[0].startswith("POST"):
            head.append(f"Content-Length: {len(content)}")
        return "\r\n".join([*head, "", ""]).encode() + content

    def _compare(self, step: Exchange, answer: Answer) -> None:
        where = f"line {step.line}: {step.request[0]}"
        status, _, content_type = step.answer[0].partition(" ")
        assert (answer.status, answer.headers.get("content-type", "")) == (int(status), content_type), where
        for wanted in step.answer[1:]:
            name, colon, value = wanted.partition(": ")
            if colon:
                self._match(value, answer.headers.get(name, ""), where)
            else:
                assert name.removeprefix("no ") not in answer.headers, where
        _is_plain(answer, where)
        body = gzip.decompress(answer.body) if answer.headers.get("content-encoding") == "gzip" else answer.body
        if step.body and all(line.startswith("~ ") for line in step.body):
            for line in step.body:
                assert line[2:] in body.decode(), where
        else:
            self._match("\n".join(step.body), body.decode(), where)

    def _match(self, wanted: str, body: str, where: str) -> None:
        """The body is what was wanted; digits met for the first time get the name they have there."""
        pattern, after, new = "", 0, set[str]()
        for found in _NAME.finditer(wanted):
            known, name = self.known.get(found[1]), found[1]
            group = re.escape(known) if known else f"(?P={name})" if name in new else f"(?P<{name}>[0-9]+)"
            new.add(name)
            pattern += re.escape(wanted[after : found.start()]) + group
            after = found.end()
        matched = re.fullmatch(pattern + re.escape(wanted[after:]), body)
        assert matched, f"{where}\nwanted {wanted!r}\ngot    {body!r}"
        self.known.update(matched.groupdict())


def _is_plain(answer: Answer, where: str) -> None:
    """What every answer of this protocol is: whole, without cookies, redirects or anything else a script trips over."""
    assert answer.headers.get("content-length") == (None if answer.status == 204 else str(len(answer.body))), where
    for name in ("transfer-encoding", "set-cookie", "location", "server"):
        assert name not in answer.headers, where


def configured(text: str) -> str:
    """The gateway.toml a transcript asks for."""
    sections: dict[str, list[str]] = {}
    for section, line in _CONFIG.findall(text):
        sections.setdefault(section, []).append(line)
    return "\n".join("\n".join([f"[{section}]", *lines]) for section, lines in sections.items())


@pytest.mark.parametrize("name", sorted(path.stem for path in TRANSCRIPTS.glob("*.txt")))
async def test_transcript(name: str, tmp_path: Path, database_url: str) -> None:
    text = (TRANSCRIPTS / f"{name}.txt").read_text(encoding="utf-8")
    upstreams = SANDBOX + "slow_seconds = 0\n"
    directory = config_directory(tmp_path, upstreams, gateway=configured(text), pricing=PRICING)
    async with still_house(directory, environment(database_url)) as house, on_a_socket(house.gateway) as port:
        await Player(house, port).play(text)
        assert await house.problems() == []


TABLE = """
state      1             3                 6                  8                    -1                   2, 10, x, none
waiting    ACCESS_READY  BAD_STATUS        BAD_STATUS         ACCESS_CANCEL        ACCESS_CANCEL        BAD_STATUS
young      ACCESS_READY  BAD_STATUS        BAD_STATUS         EARLY_CANCEL_DENIED  EARLY_CANCEL_DENIED  BAD_STATUS
received   ACCESS_READY  ACCESS_RETRY_GET  ACCESS_ACTIVATION  BAD_STATUS           BAD_STATUS           BAD_STATUS
retrying   ACCESS_READY  ACCESS_RETRY_GET  ACCESS_ACTIVATION  BAD_STATUS           BAD_STATUS           BAD_STATUS
again      ACCESS_READY  ACCESS_RETRY_GET  ACCESS_ACTIVATION  BAD_STATUS           BAD_STATUS           BAD_STATUS
finished   BAD_STATUS    BAD_STATUS        ACCESS_ACTIVATION  BAD_STATUS           BAD_STATUS           BAD_STATUS
timed_out  BAD_STATUS    BAD_STATUS        ACCESS_ACTIVATION  BAD_STATUS           BAD_STATUS           BAD_STATUS
cancelled  BAD_STATUS    BAD_STATUS        BAD_STATUS         ACCESS_CANCEL        ACCESS_CANCEL        BAD_STATUS
expired    BAD_STATUS    BAD_STATUS        BAD_STATUS         ACCESS_CANCEL        ACCESS_CANCEL        BAD_STATUS
"""
"""What setStatus answers, by the state it finds and the code it is sent. `young` is too young to be cancelled, `again`
has a second code, `timed_out` ended by time with a code."""


def cases() -> Iterator[tuple[str, list[str], str]]:
    """(state, codes, answer) of every cell."""
    head, *rows = [re.split(r"  +", line) for line in TABLE.strip().splitlines()]
    for state, *answers in rows:
        for codes, answer in zip(head[1:], answers, strict=True):
            yield state, codes.split(", "), answer


STEPS: dict[str, list[str | float]] = {
    "waiting": [],
    "young": [],
    "received": [1.5],
    "retrying": [1.5, "3"],
    "again": [1.5, "3", 2.5],
    "finished": [1.5, "6"],
    "timed_out": [1.5, 1200.0],
    "cancelled": ["8"],
    "expired": [1201.0],
}
"""How a fresh activation gets there: seconds that pass, codes that are sent."""
SERVICES = {"young": "xlock", "waiting": "xmute", "cancelled": "xmute", "expired": "xmute"}


@dataclass
class Asker:
    house: StillHouse
    port: int

    async def ask(self, action: str, **parameters: str) -> str:
        pairs = {"api_key": self.house.keys["alice"], "action": action, **parameters}
        query = "&".join(f"{name}={value}" for name, value in pairs.items())
        target = f"GET /stubs/handler_api.php?{query} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
        return (await exchange(self.port, target.encode())).body.decode()

    async def reach(self, state: str) -> str:
        """A new activation in that state; its id."""
        answer = await self.ask("getNumber", service=SERVICES.get(state, "tg"), country="6")
        activation_id = answer.split(":")[1]
        for step in STEPS[state]:
            if isinstance(step, float):
                await self.house.passes(step)
            else:
                assert (await self.ask("setStatus", id=activation_id, status=step)).startswith("ACCESS_")
        self.house.clock.now += 0.001  # the sandbox's references tell the milliseconds apart
        return activation_id


@pytest.fixture
async def asker(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Asker]:
    directory = config_directory(tmp_path)
    async with still_house(directory, environment(sqlite_url)) as house, on_a_socket(house.gateway) as port:
        await house.open_account("alice", "100.00")
        yield Asker(house, port)


async def test_every_set_status_code_from_every_state(asker: Asker) -> None:
    wrong = []
    for state, codes, wanted in cases():
        for code in codes:
            activation_id = await asker.reach(state)
            before = await asker.ask("getStatus", id=activation_id)
            parameters = {} if code == "none" else {"status": code}
            answer = await asker.ask("setStatus", id=activation_id, **parameters)
            after = await asker.ask("getStatus", id=activation_id)
            if answer != wanted:
                wrong.append(f"{state}, status={code}: {answer}, not {wanted}")
            if not answer.startswith("ACCESS_") and after != before:
                wrong.append(f"{state}, status={code}: refused, and yet {before} became {after}")
    assert wrong == []
    assert await asker.house.problems() == []
