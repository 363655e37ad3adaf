"""The crowd: clients as people write them, on raw HTTP. They repeat blindly what failed, and write down what they hear.

Each has a random source of its own, so that a seed fixes what each of them would do, whatever the others do.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.harness import PATH

SERVICES = ("tg", "wa", "fb", "ds", "am")
COUNTRIES = (43, 16, 187)
"""Sold by all upstreams, at prices close to each other."""

MAX_PRICE = "1.50"
POLL_SECONDS = 0.5
GIVE_UP_SECONDS = 6.0
"""How long a client waits for a code before it cancels."""

ANSWER_SECONDS = 12.0
HANG_UP_SHARE = 0.15
HASTE_SECONDS_MIN = 0.005
HASTE_SPREAD = 200
"""How soon some hang up: after five milliseconds to a second, many before a purchase that goes well is over."""

REST = "/api/v1"

WORDS = re.compile(
    r"ACCESS_NUMBER:\d+:\d+|ACCESS_(CANCEL|ACTIVATION|RETRY_GET|READY)|STATUS_(CANCEL|WAIT_CODE|OK:\S+|WAIT_RETRY:\S+)"
    r"|NO_NUMBERS|NO_BALANCE|NO_ACTIVATION|ERROR_SQL|BAD_STATUS|EARLY_CANCEL_DENIED|CHANNELS_LIMIT|WRONG_MAX_PRICE:\S+"
)
"""What may be answered to what these clients ask."""

REST_STATUSES = frozenset({200, 201, 409, 429, 503})


class Lost(Exception):
    """No whole answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str


async def ask(port: int, method: str, target: str, headers: Sequence[str], body: str, seconds: float) -> Answer:
    """One request on a connection of its own. Raises Lost."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            lines = [f"{method} {target} HTTP/1.1", "host: gateway", "connection: close", *headers]
            lines.append(f"content-length: {len(body)}")
            writer.write("\r\n".join([*lines, "", body]).encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            answer = await reader.readexactly(int(length.group(1)) if length else 0)
            return Answer(int(head.split(" ", 2)[1]), answer.decode())
    except (OSError, EOFError, TimeoutError) as error:
        raise Lost(type(error).__name__) from None
    finally:
        if writer is not None:
            writer.close()


@dataclass
class Deal:
    """A number as its client knows it."""

    id: int
    number: str
    codes: list[str] = field(default_factory=list)
    is_cancelled: bool = False
    """The client was told that it gave the number back, or that it was over without a code."""

    is_finishing: bool = False
    """Its client has said that it is done with it, whether or not it heard the answer."""

    former: str = ""
    """The newest code it had when its client was told that another one comes, until that has come."""

    shown_again: list[str] = field(default_factory=list)
    """What was shown then, as if it were the new one, although it was the former."""


@dataclass
class Journal:
    """What one client asked and heard. `surprises` are answers that no client should get."""

    account: str
    deals: dict[int, Deal] = field(default_factory=dict)
    bought_by: dict[str, set[int]] = field(default_factory=dict)
    """Which activations an Idempotency-Key was answered with."""

    surprises: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    asked: int = 0
    lost: int = 0

    def note(self, what: str, heard: str) -> None:
        self.lines.append(f"{time.time():.2f} {what} -> {heard}")

    def deal(self, activation_id: int, number: str) -> Deal:
        known = self.deals.setdefault(activation_id, Deal(activation_id, number))
        if known.number != number:
            self.surprises.append(f"activation {activation_id} changed its number")
        return known


@dataclass
class Client:
    """What every client is: a key, a journal, a random source, and the ports of the gateways it may go to."""

    key: str
    journal: Journal
    chance: random.Random
    ports: Sequence[int]
    is_over: Callable[[], bool]
    """Whether the market has closed: what is open is seen through, and nothing more is bought."""

    async def trade(self) -> None:
        """Buys number after number, until the market closes."""
        while not self.is_over():
            deal = await self.buy()
            if deal is not None:
                await self.see_through(deal, self.chance.choices(("wait", "again", "cancel", "leave"), (6, 2, 3, 1))[0])
            await self.pause(0.1, 1.0)

    async def buy(self) -> Deal | None:
        raise NotImplementedError

    async def look(self, deal: Deal) -> str:
        """`wait`, `code`, or `over`; what is heard is written into the deal."""
        raise NotImplementedError

    async def change(self, deal: Deal, what: str) -> bool:
        """`again`, `finish` or `cancel`; whether there is an answer that settles it."""
        raise NotImplementedError

    async def see_through(self, deal: Deal, intent: str) -> None:
        """Polls until there is a code or an end, and does with it what the client is minded to."""
        if intent == "leave":
            return
        patience = self.chance.uniform(0.0, 3.0) if intent == "cancel" else GIVE_UP_SECONDS
        began, rounds = time.monotonic(), 1 if intent == "again" else 0
        while time.monotonic() < began + GIVE_UP_SECONDS * 4:
            state = await self.look(deal)
            if state == "over":
                return
            if state == "code" and rounds and len(deal.codes) == 1:
                rounds -= await self.change(deal, "again")
            elif state == "code" and await self.change(deal, "finish"):
                return
            elif state == "wait" and time.monotonic() > began + patience and not deal.codes:
                await self.change(deal, "cancel")
                if deal.is_cancelled:
                    return
            elif state == "wait" and deal.codes and time.monotonic() > began + GIVE_UP_SECONDS:
                await self.change(deal, "finish")
                return
            await self.pause(POLL_SECONDS * 0.8, POLL_SECONDS * 1.2)

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))

    async def send(
        self, what: str, method: str, target: str, headers: Sequence[str] = (), body: str = "", seconds: float = 0.0
    ) -> Answer | None:
        """One request; None where its answer was lost."""
        self.journal.asked += 1
        try:
            answer = await ask(self.chance.choice(self.ports), method, target, headers, body, seconds or ANSWER_SECONDS)
        except Lost as error:
            self.journal.lost += 1
            self.journal.note(what, f"lost: {error}")
            return None
        self.journal.note(what, f"{answer.status} {answer.body[:160]}")
        return answer


class HandlerClient(Client):
    """Speaks the SMS-Activate protocol."""

    hears_of_rounds = True
    """Whether its way to ask for a status tells a code that is the former one from one that is new."""

    async def call(self, action: str, seconds: float = 0.0, **parameters: object) -> str:
        """The words of the answer; empty where it was lost."""
        query = urlencode({"api_key": self.key, "action": action, **parameters})
        shown = " ".join([action, *(f"{name}={value}" for name, value in parameters.items())])
        answer = await self.send(shown, "GET", f"{PATH}?{query}", seconds=seconds)
        if answer is None:
            return ""
        if answer.status != 200 or not WORDS.fullmatch(answer.body):
            self.journal.surprises.append(f"{shown}: {answer.status} {answer.body[:100]}")
        return answer.body

    async def buy(self) -> Deal | None:
        wish = {"service": self.chance.choice(SERVICES), "country": self.chance.choice(COUNTRIES)}
        more = {"maxPrice": MAX_PRICE} if self.chance.random() < 0.7 else {}
        while not self.is_over():
            # Some hang up in the middle, and most of those ask again.
            is_hasty = self.chance.random() < HANG_UP_SHARE
            seconds = HASTE_SECONDS_MIN * HASTE_SPREAD ** self.chance.random() if is_hasty else ANSWER_SECONDS
            answer = await self.call("getNumber", seconds, **wish, **more)
            if answer.startswith("ACCESS_NUMBER:"):
                _, activation_id, number = answer.split(":")
                return self.journal.deal(int(activation_id), number)
            if answer == "NO_NUMBERS" or (is_hasty and self.chance.random() < 0.3):
                return None
            await self.pause(0.1, 0.6)
        return None

    async def look(self, deal: Deal) -> str:
        answer = await self.call("getStatus", id=deal.id)
        word, _, code = answer.partition(":")
        if word == "STATUS_OK":
            if code == deal.former and not deal.is_finishing:
                deal.shown_again.append(code)
            deal.former = ""
            if code not in deal.codes[-1:]:
                deal.codes.append(code)
            return "code"
        if word == "STATUS_CANCEL":
            if deal.codes and not deal.is_finishing:
                self.journal.surprises.append(f"activation {deal.id} had a code and is cancelled")
            deal.is_cancelled = not deal.codes
            return "over"
        if word == "NO_ACTIVATION":
            self.journal.surprises.append(f"activation {deal.id} is forgotten")
            return "over"
        return "wait"

    async def change(self, deal: Deal, what: str) -> bool:
        number = {"again": 3, "finish": 6, "cancel": 8}[what]
        deal.is_finishing |= what == "finish"
        answer = await self.call("setStatus", id=deal.id, status=number)
        deal.is_cancelled |= what == "cancel" and answer == "ACCESS_CANCEL"
        if answer == "ACCESS_RETRY_GET" and self.hears_of_rounds:
            deal.former = deal.codes[-1] if deal.codes else ""
        return answer not in ("", "ERROR_SQL")


class RestClient(Client):
    """Speaks our JSON, and names each purchase."""

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of the answer; None where it was lost or says to come again."""
        lines = [f"authorization: Bearer {self.key}", "content-type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        text = "" if body is None else json.dumps(body)
        answer = await self.send(f"{method} {path}", method, REST + path, lines, text)
        if answer is None:
            return None
        if answer.status not in REST_STATUSES:
            self.journal.surprises.append(f"{method} {path}: {answer.status} {answer.body[:200]}")
        with suppress(ValueError):
            return json.loads(answer.body) if answer.status in (200, 201, 409) else None
        self.journal.surprises.append(f"{method} {path}: no JSON")
        return None

    async def buy(self) -> Deal | None:
        name = str(uuid.UUID(int=self.chance.getrandbits(128)))
        wish = {"service": self.chance.choice(SERVICES), "country": self.chance.choice(COUNTRIES)}
        while not self.is_over():
            answer = await self.call("POST", "/purchase", {**wish, "max_price": MAX_PRICE}, idempotency_key=name)
            if answer and "id" in answer:
                activation_id = int(answer["id"].removeprefix("ver_"))
                self.journal.bought_by.setdefault(name, set()).add(activation_id)
                if self.chance.random() < 0.3:
                    continue  # it asks again although it was answered
                return self.journal.deal(activation_id, answer["phone_number"].removeprefix("+"))
            if answer:
                return None
            await self.pause(0.1, 0.6)
        return None

    async def look(self, deal: Deal) -> str:
        answer = await self.call("GET", f"/activations/ver_{deal.id}")
        if answer is None:
            return "wait"
        codes = [message["code"] for message in answer["messages"]]
        if answer["status"] == "received":
            if codes[-1:] == [deal.former]:
                deal.shown_again.append(deal.former)
            deal.former = ""
        deal.codes[:] = codes or deal.codes
        deal.is_cancelled |= answer["status"] in ("cancelled", "expired")
        if answer["status"] in ("finished", "cancelled", "expired", "failed"):
            return "over"
        return "code" if answer["status"] == "received" else "wait"

    async def change(self, deal: Deal, what: str) -> bool:
        path = {"again": "another-sms", "finish": "finish", "cancel": "cancel"}[what]
        answer = await self.call("POST", f"/activations/ver_{deal.id}/{path}")
        deal.is_cancelled |= bool(answer) and answer.get("status") == "cancelled"
        if answer and answer.get("status") == "retrying":
            deal.former = answer["messages"][-1]["code"]
        return answer is not None

    async def messages(self, activation_id: int) -> list[str] | None:
        """The codes that the account can read of an activation; None where it is not told."""
        answer = await self.call("GET", f"/activations/ver_{activation_id}/messages")
        return None if answer is None else [message["code"] for message in answer.get("messages", ())]
