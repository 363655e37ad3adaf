"""aiohttp, one provider class for several shops, with an address of one's own.

package: accxus
from: PyPI
path: /stubs/handler_api.php
moved by: the setting `base_url`
calls: balance prices number waiting code finish cancel bad_key no_numbers bad_service
fails prices: takes the list for service → country, where the original has country → service (`sms_activate.py`, list_services)
"""

from __future__ import annotations

from typing import Any

from accxus.core.sms.providers.sms_activate import SmsActivateProvider
from accxus.types.core import SmsProviderConfig
from accxus.types.sms import ActivationStatus

from tests.conformance.driver import COUNTRY, SERVICE, UNKNOWN_SERVICE, UNSOLD, WRONG_KEY, Driver, main, same, true


class Accxus(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        return SmsActivateProvider(SmsProviderConfig(api_key=key, base_url=self.url, timeout=20, poll=1))

    async def refused(self, word: str, call: Any) -> None:
        try:
            found = await call
        except RuntimeError as error:
            true(word in str(error), error)
            return
        raise AssertionError(f"{found!r} where a refusal was due")

    async def balance(self) -> None:
        same((await self.client.get_balance()).balance, self.available())

    async def prices(self) -> None:
        true(SERVICE in [row.code for row in await self.client.list_services(COUNTRY)])

    async def number(self) -> None:
        self.bought = await self.client.get_number(SERVICE, COUNTRY)
        true(self.bought.phone.startswith("62"), self.bought)

    async def waiting(self) -> None:
        same(await self.client.get_status(self.bought.id), (ActivationStatus.PENDING, None))

    async def code(self) -> None:
        same(await self.client.wait_for_code(self.bought.id), self.last_code(self.bought.id))

    async def finish(self) -> None:
        true(await self.client.confirm(self.bought.id))
        true(self.is_over(self.bought.id, "6"))

    async def cancel(self) -> None:
        before = self.available()
        other = await self.client.get_number(SERVICE, COUNTRY)
        true(await self.client.cancel(other.id))
        same(await self.client.get_status(other.id), (ActivationStatus.CANCELLED, None))
        same(self.available(), before)

    async def bad_key(self) -> None:
        await self.refused("BAD_KEY", self.new(WRONG_KEY).get_balance())

    async def no_numbers(self) -> None:
        service, country = UNSOLD
        await self.refused("NO_NUMBERS", self.client.get_number(service, country))

    async def bad_service(self) -> None:
        await self.refused("BAD_SERVICE", self.client.get_number(UNKNOWN_SERVICE, COUNTRY))


if __name__ == "__main__":
    main(Accxus)
