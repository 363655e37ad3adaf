"""The catalogue and price lists in the `handler_api.php` dialects.

Price lists are rendered row by row while the market lets the loop run in between, and kept (`compat._lists`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Hashable, Mapping
from functools import partial
from typing import Any, ClassVar

from cachetools import LRUCache

from compat._core import Core
from compat._lists import Lists
from compat._reply import Call, Reply, as_json, dumps
from compat._wire import JSON, TEXT
from gateway.accounts import Caller
from gateway.catalog import Country
from gateway.errors import BadCountry, BadService, NoOperators
from gateway.front import Front
from gateway.offers import SLICE_SECONDS, Row

Printer = Callable[[Row], str]
"""One row of a price list as a piece of JSON."""

Render = Callable[[Caller, str | None, int | None, Printer], Coroutine[Any, Any, bytes]]
"""A whole list for a caller, one service (None: all) and one country."""


def quoted_count(row: Row) -> str:
    """As SMS-Activate counted since 2022."""
    return f'"{row.count}"'


def plain_count(row: Row) -> str:
    """As everybody else counts."""
    return str(row.count)


class Catalogue(Core):
    """What there is, and what it costs."""

    count_suffix: ClassVar[str] = ""
    """Behind each service of getNumbersStatus."""

    counts_are_text: ClassVar[bool] = True
    counts_type: ClassVar[bytes] = TEXT

    def __init__(self, front: Front, lists: Lists) -> None:
        super().__init__(front, lists)
        self._catalogues: LRUCache[tuple[str, ...], bytes] = LRUCache(16)

    # Price lists

    async def get_prices(self, call: Call) -> Reply:
        return await self.listed(call, self.by_country, self.price_leaf)

    def price_leaf(self, row: Row) -> str:
        """What a price list says of one service in one country."""
        return f'{{"cost":{row.price.micros / 1_000_000},"count":{row.count},"physicalCount":{row.count}}}'

    async def get_numbers_status(self, call: Call) -> Reply:
        """How many numbers there are, of certain operators where the call names some."""
        try:
            service, country = self.narrowed(call.values, is_country_needed=True)
        except (BadService, BadCountry) as error:
            return self.nothing_listed(error, call)
        is_old, operator = call.caller.has_old_counts, call.values.get("operator", "").lower()
        render = partial(self._counts, is_old=is_old, operator=operator)
        leaf = plain_count if is_old or not self.counts_are_text else quoted_count
        body = await self.rendered(call, service, country, render, leaf, variant=(is_old, operator))
        return Reply(body, self.counts_type)

    async def _counts(
        self,
        caller: Caller,
        service: str | None,
        country: int | None,
        leaf: Printer,
        *,
        is_old: bool,
        operator: str,
    ) -> bytes:
        suffix = self.count_suffix or ("_0" if is_old else "")
        listing = self.front.house.market.listing(caller, service, country, operator)
        rows = [f'"{self.service_word(row.service)}{suffix}":{leaf(row)}' async for row in listing]
        return f"{{{','.join(rows)}}}".encode()

    async def listed(self, call: Call, render: Render, leaf: Printer, *, variant: Hashable = False) -> Reply:
        """A list of everything the call asks for, as JSON. `variant` tells two forms of one action apart."""
        try:
            service, country = self.narrowed(call.values)
        except (BadService, BadCountry) as error:
            return self.nothing_listed(error, call)
        return Reply(await self.rendered(call, service, country, render, leaf, variant=variant), JSON)

    def nothing_listed(self, error: BadService | BadCountry, call: Call) -> Reply:
        """Where there is no such service or country there is nothing to list: the original had no error word here,
        and clients read the answer as JSON."""
        return Reply(b"{}", self.counts_type if call.action == "getNumbersStatus" else JSON)

    def narrowed(self, values: Mapping[str, str], *, is_country_needed: bool = False) -> tuple[str | None, int | None]:
        """Service and country a list is for, None for all. Raises BadService, BadCountry."""
        service = self.service(values) if "service" in values else None
        is_named = is_country_needed or "country" in values or self.sole_country is not None
        return service, self.country(values) if is_named else None

    async def rendered(
        self,
        call: Call,
        service: str | None,
        country: int | None,
        render: Render,
        leaf: Printer,
        *,
        variant: Hashable = False,
    ) -> bytes:
        """The list's bytes, from `render`; made once for everybody who asks for it at the same time."""
        market = self.front.house.market
        caller = call.caller
        key = (self.name, call.action, market.list_key(caller), service, country, variant, market.generation)
        return await self.lists.get(key, lambda: render(caller, service, country, leaf))

    async def by_country(self, caller: Caller, service: str | None, country: int | None, leaf: Printer) -> bytes:
        """`{country: {service: leaf}}`."""
        countries: dict[int, list[str]] = {}
        async for row in self.front.house.market.listing(caller, service, country):
            countries.setdefault(row.country, []).append(f'"{self.service_word(row.service)}":{leaf(row)}')
        return await nested({self.country_number(number): rows for number, rows in countries.items()})

    async def of_one_country(self, caller: Caller, service: str | None, country: int | None, leaf: Printer) -> bytes:
        """`{service: leaf}`."""
        rows = [
            f'"{self.service_word(row.service)}":{leaf(row)}'
            async for row in self.front.house.market.listing(caller, service, country)
        ]
        return f"{{{','.join(rows)}}}".encode()

    async def by_service(self, caller: Caller, service: str | None, country: int | None, leaf: Printer) -> bytes:
        """`{service: {country: leaf}}`."""
        services: dict[str, list[str]] = {}
        async for row in self.front.house.market.listing(caller, service, country):
            services.setdefault(row.service, []).append(f'"{self.country_word(row.country)}":{leaf(row)}')
        return await nested({self.service_word(code): rows for code, rows in services.items()})

    def service_word(self, service: str) -> str:
        """The dialect's name for one of our services."""
        return service

    def country_id(self, country: int) -> int:
        """The dialect's number for one of our countries, as a number."""
        return int(self.country_number(country))

    def country_word(self, country: int) -> str:
        """The dialect's name for one of our countries, in lists by service."""
        return self.country_number(country)

    # Names

    async def get_countries(self, call: Call) -> Reply:
        settings = self.front.house.settings
        renting = await self.renting(call)
        key = ("countries", settings.version, ",".join(map(str, sorted(renting))))
        body = self._catalogues.get(key)
        if body is None:
            known = settings.catalog.countries.values()
            rows = [self.country_row(country, rents=country.id in renting) for country in known]
            body = self._catalogues[key] = dumps(self.countries(rows))
        return Reply(body, JSON)

    async def renting(self, call: Call) -> Collection[int]:
        """Countries that are shown as those where numbers are rented out."""
        return ()

    def countries(self, rows: list[dict[str, object]]) -> object:
        return {str(row["id"]): row for row in rows}

    def country_row(self, country: Country, *, rents: bool) -> dict[str, object]:
        return {
            "id": self.country_id(country.id), "rus": country.rus, "eng": country.eng, "chn": country.chn,
            "visible": 1, "retry": 1, "rent": int(rents), "multiService": 0,
        }  # fmt: skip

    async def get_services_list(self, call: Call) -> Reply:
        settings = self.front.house.settings
        denied = settings.gateway.lawful.denied_services
        key = ("services", settings.version, str(call.caller.is_demo))
        body = self._catalogues.get(key)
        if body is None:
            hidden = denied if call.caller.is_demo else denied | settings.catalog.sandbox_services
            rows = [
                {"code": code, "name": name} for code, name in settings.catalog.services.items() if code not in hidden
            ]
            body = self._catalogues[key] = dumps({"status": "success", "services": rows})
        return Reply(body, JSON)

    async def get_operators(self, call: Call) -> Reply:
        market = self.front.house.market
        try:
            countries = [self.country(call.values)] if "country" in call.values else list(self.catalog.countries)
        except BadCountry:
            raise NoOperators from None  # the one error this action has: clients read its answer as JSON
        found = {self.country_number(country): market.operators(country, call.caller) for country in countries}
        found = {country: operators for country, operators in found.items() if operators}
        if not found:
            raise NoOperators
        return as_json({"status": "success", "countryOperators": found})


async def nested(members: dict[str, list[str]]) -> bytes:
    """`{name: {…}}`, empties `members`, and lets the loop run in between: a list may have tens of megabytes."""
    parts, pause_at = [], time.perf_counter() + SLICE_SECONDS
    for name in list(members):
        parts.append(f'"{name}":{{{",".join(members.pop(name))}}}'.encode())
        if time.perf_counter() >= pause_at:
            await asyncio.sleep(0)
            pause_at = time.perf_counter() + SLICE_SECONDS
    return b"{%b}" % b",".join(parts)
