"""What every part of a `handler_api.php` dialect leans on: its words, and how it reads services, countries and ids.

The class attributes are the reference dialect's; another dialect is a subclass that says what differs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

from compat._lists import Lists
from compat._reply import Call, Reply
from compat._wire import JSON, TEXT
from gateway.catalog import Catalog, Country
from gateway.errors import (
    BadActivationId,
    BadCountry,
    BadKey,
    BadService,
    Barred,
    CallerError,
    PriceTooLow,
    TooManyRequests,
    UnknownActivation,
)
from gateway.front import Front
from gateway.live import Live
from gateway.money import plain

ID_MAX = 2**31 - 1

WORDS = {
    "bad_key": "BAD_KEY",
    "bad_action": "BAD_ACTION",
    "barred": "BANNED",
    "suspended": "ACCOUNT_INACTIVE",
    "bad_service": "BAD_SERVICE",
    "bad_country": "BAD_COUNTRY",
    "bad_phone_exception": "WRONG_EXCEPTION_PHONE",
    "price_too_low": "WRONG_MAX_PRICE",
    "too_many_open": "CHANNELS_LIMIT",
    "no_balance": "NO_BALANCE",
    "no_numbers": "NO_NUMBERS",
    "order_exists": "ORDER_ALREADY_EXISTS",
    "bad_activation_id": "WRONG_ACTIVATION_ID",
    "unknown_activation": "NO_ACTIVATION",
    "not_allowed_now": "BAD_STATUS",
    "cancel_too_early": "EARLY_CANCEL_DENIED",
    "no_operators": '{"status":"error","error":"OPERATORS_NOT_FOUND"}',
    "no_activations": '{"status":"error","error":"NO_ACTIVATIONS"}',
    "bad_webhook_url": "INVALID_WEBHOOK_URL",
    "webhook_not_https": "HTTPS_REQUIRED",
    "webhook_url_too_long": "WEBHOOK_URL_TOO_LONG",
    # No word for these in the dialect; this is the one token every client takes as "again, later".
    "too_many_requests": "ERROR_SQL",
    "unavailable": "ERROR_SQL",
    "internal": "ERROR_SQL",
}

_DIGITS = re.compile(r"[0-9]+")

Handler = Callable[[Call], Awaitable[Reply]]


class Core:
    """A dialect's words and its reading of what a request names."""

    name: ClassVar[str] = "sms_activate"
    """As a key's setting and a path's first part say it."""

    words: ClassVar[Mapping[str, str]] = WORDS
    """The word for each kind of caller error. One that begins with a brace is JSON."""

    action_words: ClassVar[Mapping[tuple[str, str], str]] = {}
    """(action, kind of error) -> word, where one action says it differently."""

    statuses: ClassVar[Mapping[str, int]] = {}
    """HTTP status by kind of error; 200 for those not named."""

    no_key: ClassVar[str] = ""
    """The word where no key was sent at all; empty for that of a wrong key."""

    no_action: ClassVar[str] = ""
    """The word where no action was sent at all; empty for that of an unknown one."""

    takes_post: ClassVar[bool] = True
    post_refused: ClassVar[Reply] = Reply(b"", status=405)
    """What a POST gets where only GET is taken."""

    key_header: ClassVar[bytes] = b""
    """A header the key may come in, in lower case."""

    needs_country: ClassVar[bool] = False
    sole_country: ClassVar[int | None] = None
    """The one country sold, whatever a request names."""

    own_countries: ClassVar[Mapping[str, str]] = {}
    """ISO letters by the number this dialect gives a country that is another one elsewhere."""

    def __init__(self, front: Front, lists: Lists) -> None:
        self.front = front
        self.lists = lists
        self._numbered: tuple[str, Mapping[str, int], Mapping[int, str]] = ("", {}, {})

    @property
    def catalog(self) -> Catalog:
        return self.front.house.settings.catalog

    # Refusing

    def refusal(self, error: CallerError, action: str, values: Mapping[str, str]) -> Reply:
        """The dialect's answer to what went wrong."""
        word = self.word(error, action, values)
        if word == "WRONG_MAX_PRICE" and isinstance(error, PriceTooLow):
            word = f"{word}:{plain(error.minimum.micros)}"
        elif word == "BANNED" and isinstance(error, Barred):
            # The quotes are part of the bytes, and the time holds dashes: a colon would split it.
            word = f"{word}:'{time.strftime('%Y-%m-%d %H-%M-%S', time.gmtime(error.until))}'"
        is_json = word.startswith("{")
        return Reply(word.encode(), JSON if is_json else TEXT, status=self.statuses.get(error.code, 200))

    def word(self, error: CallerError, action: str, values: Mapping[str, str]) -> str:
        if self.no_key and isinstance(error, BadKey) and not values.get("api_key"):
            return self.no_key
        if self.no_action and error.code == "bad_action" and not action:
            return self.no_action
        return self.action_words.get((action, error.code)) or self.words[error.code]

    # Reading what a request names

    def service(self, values: Mapping[str, str]) -> str:
        """Our code for the service named. Raises BadService."""
        given = values.get("service", "")
        if given not in self.catalog.services:
            raise BadService
        return given

    def country(self, values: Mapping[str, str]) -> int:
        """Our id of the country named, or the default. Raises BadCountry."""
        if self.sole_country is not None:
            return self.sole_country
        given = values.get("country")
        if given is None:
            if self.needs_country:
                raise BadCountry
            return self.front.house.settings.gateway.server.default_country
        own = self._numbers()[0].get(given)
        if own is not None:
            return own
        if not _DIGITS.fullmatch(given) or len(given) > 6 or int(given) not in self.catalog.countries:
            raise BadCountry
        return int(given)

    def country_number(self, country: int) -> str:
        """The dialect's number for one of our countries."""
        return self._numbers()[1].get(country) or str(country)

    def known_country(self, country: int) -> Country | None:
        return self.catalog.countries.get(country)

    def _numbers(self) -> tuple[Mapping[str, int], Mapping[int, str]]:
        """The dialect's own numbers for countries, there and back; made anew when the catalogue may have changed."""
        version = self.front.house.settings.version
        if self._numbered[0] != version:
            found = {
                number: min(ids)
                for number, letters in self.own_countries.items()
                if (ids := self.catalog.countries_of(letters))
            }
            self._numbered = (version, found, {country: number for number, country in found.items()})
        return self._numbered[1:]

    async def find(self, call: Call, name: str = "id") -> Live:
        """The activation the call names. Raises BadActivationId, UnknownActivation, TooManyRequests, Unavailable."""
        return await self.front.find(call.caller, named_id(call, name), may_look=call.is_within)

    # Limits

    async def count_change(self, call: Call, count: int = 1) -> None:
        """Raises TooManyRequests."""
        await self.front.count_change(call.caller, count)

    def count_look(self, call: Call) -> None:
        """For what has to be looked up in the database: not over the limit. Raises TooManyRequests."""
        if not call.is_within:
            raise TooManyRequests


def named_id(call: Call, name: str = "id") -> int:
    """The id in a parameter. Raises BadActivationId, UnknownActivation."""
    given = call.values.get(name, "")
    if not (given.isascii() and given.isdigit()):
        raise BadActivationId
    found = int(given) if len(given) <= 20 else ID_MAX + 1
    if found > ID_MAX:
        raise UnknownActivation
    return found
