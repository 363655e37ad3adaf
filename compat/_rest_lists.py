"""Lists that many ask for and few things change: rendered once, kept as bytes with their ETag."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from cachetools import LRUCache

from compat._lists import MadeOnce
from compat._rest_models import Countries, Country, Service, Services
from gateway.accounts import Caller
from gateway.errors import TooManyRequests
from gateway.front import Front
from gateway.money import plain

PRICES_BYTES_MAX = 64 * 2**20
HASHED_AT_ONCE_BYTES = 2**20
"""What is hashed on the loop; more goes to a thread, where hashing does not hold the interpreter."""

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A rendered list."""

    body: bytes
    etag: str

    def __len__(self) -> int:
        return len(self.body)


class Lists:
    """Prices by what they depend on, services and countries by configuration."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._prices: MadeOnce[Sheet] = MadeOnce(_hashed, len, bytes_max=PRICES_BYTES_MAX)
        self._catalogues: LRUCache[Key, Sheet] = LRUCache(16)

    async def prices(self, caller: Caller, service: str | None, country: int | None, *, may_build: bool) -> Sheet:
        """Made once for everybody who asks for the same one at the same time.

        Raises TooManyRequests where it would have to be made and the caller `may_build` none.
        """
        market = self._front.house.market
        key = (market.list_key(caller), service, country, market.generation)
        if not may_build and self._prices.kept(key) is None:
            raise TooManyRequests
        return await self._prices.get(key, lambda: self._made(caller, service, country))

    async def _made(self, caller: Caller, service: str | None, country: int | None) -> bytes:
        """Put together as text: a model for each of a million rows would take a hundred times as long."""
        rows = [
            f'{{"service":"{row.service}","country":{row.country},"price":"{plain(row.price.micros)}",'
            f'"count":{row.count}}}'
            async for row in self._front.house.market.listing(caller, service, country)
        ]
        return f'{{"currency":"{caller.currency}","prices":[{",".join(rows)}]}}'.encode()

    def services(self, caller: Caller) -> Sheet:
        """Every service but those that nobody may buy here; the sandbox's scenarios for demo accounts alone."""
        settings = self._front.house.settings
        key: Key = ("services", settings.version, caller.is_demo)
        if key not in self._catalogues:
            catalog = settings.catalog
            denied = settings.gateway.lawful.denied_services
            hidden = denied if caller.is_demo else denied | catalog.sandbox_services
            rows = [Service(code=code, name=name) for code, name in catalog.services.items() if code not in hidden]
            self._catalogues[key] = sheet_of(Services(services=rows).model_dump_json().encode())
        return self._catalogues[key]

    def countries(self) -> Sheet:
        """Every country."""
        settings = self._front.house.settings
        key: Key = ("countries", settings.version)
        if key not in self._catalogues:
            rows = [
                Country(id=one.id, iso2=one.iso2, name=one.eng, prefix=one.prefix)
                for one in settings.catalog.countries.values()
            ]
            self._catalogues[key] = sheet_of(Countries(countries=rows).model_dump_json().encode())
        return self._catalogues[key]


def sheet_of(body: bytes) -> Sheet:
    """A body with its ETag: weak, since the same list goes out gzipped or not."""
    return Sheet(body, f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')


async def _hashed(body: bytes) -> Sheet:
    return await asyncio.to_thread(sheet_of, body) if len(body) > HASHED_AT_ONCE_BYTES else sheet_of(body)
