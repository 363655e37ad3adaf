"""DS SMS HUB: DaisySMS's words with statuses of its own, services by word, the country `US`, the number with a plus.

Facts: "The DS SMS HUB dialect" of `protocol/brief.md`; where that is silent, `handler_api.md` §12 and the family's
words under its status for a user's error. Amounts are in the account's currency.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compat._core import WORDS, Handler
from compat._dialect import Dialect
from compat._lists import Lists
from compat._reply import Call, Reply, in_header, text
from gateway.ds_words import service_words
from gateway.errors import BadCountry, BadService, UnknownActivation
from gateway.front import Front
from gateway.live import Live
from gateway.model import Status
from gateway.money import plain
from gateway.offers import Row

USA = 187
NAMES_OF_USA = frozenset({"US", "USA", str(USA)})

ACTIONS = frozenset(
    {
        "getBalance", "getNumber", "getPrices", "getPricesVerification", "getStatus", "getWebhook", "setStatus",
        "setWebhook",
    }
)  # fmt: skip


class DsSmsHub(Dialect):
    """As the brief states it."""

    name = "ds"
    webhook_format = "ds"
    words: ClassVar[Mapping[str, str]] = {
        **WORDS,
        "barred": "USER_NOT_FOUND",
        "suspended": "USER_NOT_FOUND",
        "no_balance": "NO_MONEY",
        "too_many_open": "TOO_MANY_ACTIVE_RENTALS",
        "price_too_low": "MAX_PRICE_EXCEEDED",
        "bad_activation_id": "NO_ACTIVATION",
        "no_operators": "BAD_ACTION",
        "no_activations": "NO_ACTIVATION",
        "too_many_requests": "BACKEND_ERROR",
        "unavailable": "DATABASE_ERROR",
        "internal": "INTERNAL_ERROR",
    }
    statuses: ClassVar[Mapping[str, int]] = {
        **dict.fromkeys(WORDS, 400),
        "bad_key": 401,
        "barred": 404,
        "suspended": 404,
        "too_many_requests": 500,
        "unavailable": 500,
        "internal": 500,
    }
    moves: ClassVar[Mapping[str, tuple[str, str]]] = {"6": ("finish", "ACCESS_DONE"), "8": ("cancel", "ACCESS_CANCEL")}
    cap_names = ("max_price", "maxPrice")
    life_seconds = 300.0
    open_max = 20

    def __init__(self, front: Front, lists: Lists) -> None:
        super().__init__(front, lists)
        self._words: tuple[str, Mapping[str, str], Mapping[str, str]] = ("", {}, {})

    def common_actions(self) -> dict[str, Handler]:
        """No more than its page names."""
        return {action: handler for action, handler in super().common_actions().items() if action in ACTIONS}

    # Names

    def service(self, values: Mapping[str, str]) -> str:
        """By its word, or by our code where that is no other service's word."""
        given = values.get("service", "")
        _, codes, _ = self._service_words()
        code = codes.get(given.lower(), given)
        if code not in self.catalog.services:
            raise BadService
        return code

    def service_word(self, service: str) -> str:
        return self._service_words()[2].get(service, service)

    def _service_words(self) -> tuple[str, Mapping[str, str], Mapping[str, str]]:
        version = self.front.house.settings.version
        if self._words[0] != version:
            words = service_words(self.catalog)
            self._words = (version, {word: code for code, word in words.items()}, words)
        return self._words

    def country(self, values: Mapping[str, str]) -> int:
        if values.get("country", "US").upper() not in NAMES_OF_USA:
            raise BadCountry
        return USA

    def country_word(self, country: int) -> str:
        return "US"

    # Numbers

    def number(self, live: Live) -> str:
        return f"+{live.number}"

    async def get_status(self, call: Call) -> Reply:
        live = await self.find(call)
        if live.status in (Status.WAITING, Status.RETRYING):
            return text(self.front.house.settings.gateway.server.ds_waiting_word)
        if live.status is not Status.RECEIVED and not self.is_in_grace(live):
            raise UnknownActivation  # there is no word for a rental that is over
        said = live.messages[-1].text
        self.front.readers.saw(call.caller, live, only_newest=True)
        headers = ((b"x-text", in_header(said)),) if call.values.get("text") == "1" else ()
        return Reply(f"ACCESS_SMS:{said}".encode(), headers=headers)

    # Prices

    async def get_prices(self, call: Call) -> Reply:
        return await self.listed(call, self.by_service, self.price_leaf)

    async def get_prices_verification(self, call: Call) -> Reply:
        return await self.listed(call, self.of_one_country, self.price_leaf)

    def narrowed(self, values: Mapping[str, str], *, is_country_needed: bool = False) -> tuple[str | None, int | None]:
        return super().narrowed(values, is_country_needed=True)

    def price_leaf(self, row: Row) -> str:
        return f'{{"price":{plain(row.price.micros)}}}'
