"""A gateway whose time stands still with our JSON API in front, and a client of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from compat import rest
from tests.harness import config_directory
from tests.wire import StillHouse, still_house

ONE = "/api/v1/activations/{}"


@dataclass
class Switch:
    """Whether the house is being shut down."""

    is_on: bool = False

    def __call__(self) -> bool:
        return self.is_on


@dataclass
class RestHouse:
    """Alice and bob have money; `stop` shuts waiting clients out."""

    house: StillHouse
    app: Starlette
    client: httpx.AsyncClient
    stop: Switch = field(default_factory=Switch)

    async def ask(
        self, method: str, path: str, body: Any = None, *, who: str = "alice", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request with somebody's key; nobody's where `who` is empty."""
        key = {"authorization": f"Bearer {self.house.keys[who]}"} if who else {}
        return await self.client.request(method, path, json=body, headers={**key, **(headers or {})})

    async def get(self, path: str, who: str = "alice") -> Any:
        """The JSON of a GET that succeeds."""
        response = await self.ask("GET", path, who=who)
        assert response.status_code == 200, response.text
        return response.json()

    async def buy(self, service: str = "tg", who: str = "alice", **more: Any) -> str:
        """Buys a number in Indonesia; the activation's id."""
        response = await self.ask("POST", "/purchase", {"service": service, "country": "ID", **more}, who=who)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def do(self, activation_id: str, what: str, who: str = "alice") -> httpx.Response:
        return await self.ask("POST", f"{ONE.format(activation_id)}/{what}", who=who)

    async def hang_up(
        self, method: str, path: str, body: Any = None, *, who: str = "alice", headers: Mapping[str, str] | None = None
    ) -> None:
        """One request whose client is gone before its answer."""
        raw = b"" if body is None else json.dumps(body).encode()
        messages = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(_message: Any) -> None:
            raise OSError

        await self.app(self.scope(method, path, who, headers), receive, send)

    def scope(self, method: str, path: str, who: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A request as ASGI has it."""
        given = {"x-api-key": self.house.keys[who], "content-type": "application/json", **(headers or {})}
        target, _, query = path.partition("?")
        return {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "path": target,
            "raw_path": target.encode(), "method": method, "query_string": query.encode(), "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip


@asynccontextmanager
async def rest_house(
    tmp_path: Path, values: dict[str, str], *, gateway: str = "", origins: Collection[str] = (), is_new: bool = True
) -> AsyncIterator[RestHouse]:
    """The house; `is_new` is False where its database has alice and bob already."""
    async with still_house(config_directory(tmp_path, gateway=gateway), values) as house:
        if is_new:
            await house.open_account("alice", "10.00")
            await house.open_account("bob", "10.00")
        else:
            await house.gateway.activations.restore()
            await house.gateway.settling.recover()
        stop = Switch()
        app = Starlette(routes=rest.routes(house.gateway.front, origins=origins, is_stopping=stop))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield RestHouse(house, app, client, stop)


async def soon(check: Any, seconds: float = 5.0) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 — there is no event for whatever it is
            await asyncio.sleep(0.01)
