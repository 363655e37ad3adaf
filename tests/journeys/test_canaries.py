"""Numbers, texts, keys and addresses of real requests, looked for everywhere they must not be."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import structlog

from gateway import logs, retention
from gateway.activations import Activations
from gateway.inbox import native_signature
from gateway.store import Row, Tx
from tests.canaries import backed_up, cluster, dumped, hashes_of, kept_in_redis, sealed_values
from tests.harness import PATH, House, config_directory, environment, house

GATEWAY = "[webhooks]\nallow_http = true\nallow_private_addresses = true\n"
HOOK_TOKEN = "canary-of-a-hook-address"
DAYS = 30
READABLE = ("opened backup before", "cluster before")


@dataclass
class Planted:
    """What was told to clients, or by them, and what they were answered when something went wrong."""

    keys: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    guessable: set[str] = field(default_factory=set)
    """Too short to be looked for in plain, or told as a whole to nobody."""
    errors: list[httpx.Response] = field(default_factory=list)

    def found_in(self, where: bytes) -> list[str]:
        told = self.keys | self.private
        plain = [one for one in sorted(told) if one.encode() in where]
        hashed = [one for one in sorted(told | self.guessable) if any(h in where for h in hashes_of(one.encode()))]
        return plain + [f"a hash of {one}" for one in hashed]


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """All that anybody logs, on debug, as `simroute serve` would write it."""
    kept = io.StringIO()
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("debug", "json")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(kept))
    root.handlers[0].setStream(kept)  # type: ignore[attr-defined]
    root.setLevel(logging.DEBUG)
    quiet = {name: logging.getLogger(name).level for name in logs.QUIET}
    try:
        yield kept
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, old in quiet.items():
            logging.getLogger(name).setLevel(old)


async def lives(running: House, planted: Planted) -> None:
    """A number by each protocol, its code, and notices that nobody takes."""
    key = running.keys["alice"]
    planted.keys.add(key)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        hook = f"http://127.0.0.1:{nobody.getsockname()[1]}/{HOOK_TOKEN}"
    planted.private.add(HOOK_TOKEN)
    await running.call("setWebhook", url=hook)
    _, activation, number = (await running.call("getNumber", service="tg", country=6)).split(":")
    bearer = {"authorization": f"Bearer {key}", "idempotency-key": "canary-1"}
    body = {"service": "wa", "country": "ID"}
    bought = await running.client.post("/purchase", json=body, headers=bearer)
    again = await running.client.post("/purchase", json=body, headers=bearer)
    assert bought.json()["id"] == again.json()["id"]
    five = await running.client.get(
        "/v1/user/buy/activation/indonesia/any/telegram", headers={"authorization": f"Bearer {key}"}
    )
    planted.private |= {number, bought.json()["phone_number"].lstrip("+"), five.json()["phone"].lstrip("+")}
    await running.until(activation, "STATUS_OK:")
    planted.private.add((await running.call("getFullSms", id=activation)).removeprefix("FULL_SMS:"))
    planted.guessable.add((await running.call("getStatus", id=activation)).removeprefix("STATUS_OK:"))
    await pushed(running, planted, bought.json())
    assert await running.call("setStatus", id=activation, status=6) == "ACCESS_ACTIVATION"
    await asyncio.sleep(0.5)  # for a notice or two to fail


async def pushed(running: House, planted: Planted, bought: dict[str, str]) -> None:
    """A message by the brief's own push, twice, signed inside and with a bare hash beside it."""
    payload = {
        "event": "sms_received",
        "verification_id": bought["id"],
        "phone_number": bought["phone_number"],
        "message": "The pushed canary is 271828",
        "timestamp": "2026-11-22T12:00:00Z",
    }
    signature = native_signature(payload, running.gateway.house.vault.webhook_secret)
    body = json.dumps({**payload, "signature": signature})
    headers = {"x-body-signature": hashlib.sha256(body.encode()).hexdigest()}
    for _ in range(2):
        assert (await running.client.post("/webhooks/sms", content=body, headers=headers)).status_code == 200
    planted.private.add(payload["message"])
    planted.guessable |= {body, "271828"}


async def mistakes(running: House, planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that fail in every way there is, with the key in the address."""
    key = running.keys["alice"]
    number = min(one for one in planted.private if one.isdigit())
    query = f"api_key={key}&phone={number}"
    paths = ("/nowhere", "/docs/x", f"/{key}", "/api/v1/nothing", "/api/v1/activations/x", "/webhooks/sms/x/y", "/desk")
    for path in paths:
        planted.errors.append(await running.client.get(f"{path}?{query}"))
    planted.errors.append(await running.client.get(f"{PATH}?{query}&action=nonsense"))
    planted.errors.append(await running.client.get(f"{PATH}?next={quote(query, safe='')}"))
    planted.errors.append(await running.client.post(f"/purchase?{query}", content=f'{{"x": "{key}'))
    planted.errors.append(
        await running.client.post("/purchase", json={"service": key, "country": number}, headers={"x-api-key": key})
    )

    def broken(self: Activations, account_id: int, activation_id: int, *, is_rental: bool = False) -> None:
        raise RuntimeError(f"a defect with {query}")

    with monkeypatch.context() as defect:
        defect.setattr(Activations, "peek", broken)
        planted.errors.append(await running.client.get(f"{PATH}?{query}&action=getStatus&id=1"))
        planted.errors.append(
            await running.client.get("/api/v1/activations/100000001", headers={"authorization": f"Bearer {key}"})
        )
    for response in planted.errors:
        # An answer says nothing that was asked, but for the path of its own resource.
        assert planted.found_in(response.content + str(response.headers).encode()) == [], response.url.path


def digests(tx: Tx) -> list[tuple[str, str]]:
    """Those of bodies, by table; signatures of what was sent as well."""
    places = {"pushes": "digest", "notices": "body_digest", "webhook_attempts": "body_digest"}
    found = [(place, str(row["value"])) for place, column in places.items() for row in _column(tx, place, column)]
    found += [("webhook_attempts", str(row["value"])) for row in _column(tx, "webhook_attempts", "signature")]
    return found


def _column(tx: Tx, table: str, column: str) -> Sequence[Row]:
    return tx.all(f"select {column} as value from {table} where {column} <> ''")  # noqa: S608 — constant text


async def test_canaries_are_nowhere_in_plain_and_after_their_time_nowhere_at_all(
    database_url: str, redis_url: str, postgres_tools: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted()

    def copies(name: str) -> dict[str, bytes]:
        """Everything a thief may get hold of beside the database."""
        file, opened = backed_up(database_url, running.database.vault, tmp_path / name, postgres_tools)
        found = {"backup": file, "opened backup": opened}
        if not database_url.startswith("sqlite"):
            found["cluster"] = cluster(database_url, postgres_tools)
        return {f"{place} {name}": content for place, content in found.items()}

    values = environment(database_url, REDIS_URL=redis_url)
    with everything_logged() as log:
        async with house(config_directory(tmp_path, gateway=GATEWAY), values) as running:
            await lives(running, planted)
            await mistakes(running, planted, monkeypatch)
            metrics = (await running.client.get("/metrics")).content
            sealed = await asyncio.to_thread(sealed_values, database_url)
            rows = await running.database.store.read(digests)
            written = await asyncio.to_thread(dumped, database_url)
            shared = await asyncio.to_thread(kept_in_redis, redis_url)
            copied = await asyncio.to_thread(copies, "before")
            for live in list(running.gateway.house.live.all_open()):
                await running.until(str(live.id), "STATUS_OK:")
                assert await running.call("setStatus", id=live.id, status=6) == "ACCESS_ACTIVATION"
            await retention.delete_overdue(running.database.store, time.time() + 31 * 86_400, DAYS)
            assert await retention.settle_file(running.database.store)
            left = await asyncio.to_thread(dumped, database_url)
            copied |= await asyncio.to_thread(copies, "after")
    said = log.getvalue().encode()
    assert (len(planted.private), len(planted.guessable)) == (6, 3)
    for event in (b"notice.", b"message.delivered", b"activation.ended", b"request.failed", b"a defect with"):
        assert event in said, "so quiet a log proves nothing"
    places = {"log": said, "metrics": metrics, "Redis": shared, "database": written, "database after": left, **copied}
    assert {name: found for name, content in places.items() if (found := planted.found_in(content))} == {}

    # What is kept of them is sealed, and gone after its time; the hook's address is the account's and stays.
    assert len(sealed) >= 10
    readable = {"database": written} | {place: copied[place] for place in READABLE if place in copied}
    assert {place for place, content in readable.items() for value in sealed if value not in content} == set()
    addresses = await asyncio.to_thread(sealed_values, database_url)
    after = [left, *(content for place, content in copied.items() if place.endswith("after"))]
    assert [value for value in sealed if value not in addresses and any(value in content for content in after)] == []
    assert len(addresses) == 1

    # So are the digests made with our keys: whoever has those could guess a code by them.
    assert {place for place, _ in rows} == {"pushes", "notices", "webhook_attempts"}
    assert all(value.encode() in written for _, value in rows)
    assert [row for row in rows if any(row[1].encode() in content for content in after)] == []
