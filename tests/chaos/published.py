"""A part of the crowd speaks through published clients, unmodified: what they make of answers is what users get."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable
from typing import Any

import aiohttp
import requests
from aiosmsactivate import SmsActivate
from aiosmsactivate.exceptions import SmsActivateException
from pysmshub import AsyncSmsHubApi
from pysmshub import Status as HubStatus
from pysmshub.exceptions import ConnectionErrorException, SmsHubApiException
from smsactivate.api import SMSActivateAPI

from tests.chaos.clients import ANSWER_SECONDS, WORDS, HandlerClient
from tests.harness import PATH

LOST = (TimeoutError, OSError, aiohttp.ClientError, requests.RequestException, ConnectionErrorException)


class PublishedClient(HandlerClient):
    """Lives as a `HandlerClient` does; what a library made of an answer is turned into the protocol's words again."""

    name: str

    async def call(self, action: str, seconds: float = 0.0, **parameters: object) -> str:
        """The words of the answer; empty where it was lost."""
        shown = " ".join([self.name, action, *(f"{name}={value}" for name, value in parameters.items())])
        self.journal.asked += 1
        base = f"http://127.0.0.1:{self.chance.choice(self.ports)}{PATH}"
        try:
            async with asyncio.timeout(seconds or ANSWER_SECONDS):
                words = await self.ask(base, action, parameters)
        except LOST as error:
            self.journal.lost += 1
            self.journal.note(shown, f"lost: {type(error).__name__}")
            return ""
        except Exception as error:  # whatever a client can't read is a finding, its own errors included
            words = f"{type(error).__name__} {error}"
        self.journal.note(shown, words)
        if not WORDS.fullmatch(words):
            self.journal.surprises.append(f"{shown}: {words[:100]}")
        return words

    async def ask(self, base: str, action: str, parameters: dict[str, Any]) -> str:
        """What the library says, as words. Raises whatever it raises."""
        if action == "getNumber":
            return await self.bought(base, parameters)
        if action == "getStatus":
            return await self.status(base, parameters["id"])
        return await self.changed(base, parameters["id"], parameters["status"])

    @abstractmethod
    def bought(self, base: str, wish: dict[str, Any]) -> Awaitable[str]: ...

    @abstractmethod
    def status(self, base: str, activation_id: int) -> Awaitable[str]: ...

    @abstractmethod
    def changed(self, base: str, activation_id: int, status: int) -> Awaitable[str]: ...


class SmsActivateClient(PublishedClient):
    """smsactivate: `requests` in a thread, without a time-out of its own."""

    name = "smsactivate"

    def _at(self, base: str) -> Any:
        client = SMSActivateAPI(self.key)
        client._SMSActivateAPI__api_url = base
        return client

    async def bought(self, base: str, wish: dict[str, Any]) -> str:
        answer = await asyncio.to_thread(self._at(base).getNumber, **wish)
        return answer["error"] if "error" in answer else f"ACCESS_NUMBER:{answer['activation_id']}:{answer['phone']}"

    async def status(self, base: str, activation_id: int) -> str:
        return _said(await asyncio.to_thread(self._at(base).getStatus, id=activation_id))

    async def changed(self, base: str, activation_id: int, status: int) -> str:
        return _said(await asyncio.to_thread(self._at(base).setStatus, id=activation_id, status=status))


class AioSmsActivateClient(PublishedClient):
    """aiosmsactivate: POST with an empty body, the second versions of the actions, answers checked by models."""

    name = "aiosmsactivate"
    hears_of_rounds = False  # getStatusV2 shows the newest message, whatever is waited for

    async def ask(self, base: str, action: str, parameters: dict[str, Any]) -> str:
        try:
            return await super().ask(base, action, parameters)
        except SmsActivateException as error:
            return str(error.message).partition(" - ")[0]

    async def bought(self, base: str, wish: dict[str, Any]) -> str:
        number = await SmsActivate(self.key, base_url=base).purchase(**wish)
        return number if isinstance(number, str) else f"ACCESS_NUMBER:{number.activation_id}:{number.phone_number}"

    async def status(self, base: str, activation_id: int) -> str:
        seen = await SmsActivate(self.key, base_url=base).get_activation_status(activation_id)
        if isinstance(seen, str):
            return seen
        return "STATUS_WAIT_CODE" if seen.sms is None else f"STATUS_OK:{seen.sms.code}"

    async def changed(self, base: str, activation_id: int, status: int) -> str:
        answer = await SmsActivate(self.key, base_url=base).set_activation_status(activation_id, status)
        return str(answer.value)


class SmsHubClient(PublishedClient):
    """pysmshub: expressions that look for a word anywhere in the answer, and no highest price."""

    name = "pysmshub"

    def _at(self, base: str) -> AsyncSmsHubApi:
        client = AsyncSmsHubApi(self.key)
        client.base_url = base
        return client

    async def ask(self, base: str, action: str, parameters: dict[str, Any]) -> str:
        try:
            return await super().ask(base, action, parameters)
        except SmsHubApiException as error:
            return str(error.response)

    async def bought(self, base: str, wish: dict[str, Any]) -> str:
        activation_id, number = await self._at(base).get_number(wish["service"], country=wish["country"])
        return f"ACCESS_NUMBER:{activation_id}:{number}"

    async def status(self, base: str, activation_id: int) -> str:
        state, code = await self._at(base).get_status(activation_id)
        if state == HubStatus.SENT:
            return f"STATUS_OK:{code}"
        if state == HubStatus.REPEAT:
            return f"STATUS_WAIT_RETRY:{code}"
        return "STATUS_CANCEL" if state == HubStatus.CANCEL else "STATUS_WAIT_CODE"

    async def changed(self, base: str, activation_id: int, status: int) -> str:
        return str(await self._at(base).set_status(activation_id, status))


def _said(answer: Any) -> str:
    return str(answer["error"] if isinstance(answer, dict) else answer)
