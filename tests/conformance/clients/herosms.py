"""httpx and pydantic; it wants the envelope of errors with its HTTP status, and waits by getStatusV2.

package: herosms
from: PyPI
path: /hero/stubs/handler_api.php
moved by: the argument `base_url`
calls: balance prices countries services operators top number_v2 waiting code text again open finish cancel history more rent_offers rent bad_key no_numbers bad_service
fails services: takes the members of the answer for services: it wants them bare, the shop it is for wraps them (`client.py`, get_services)
fails no_numbers: takes a word with 200 for the number, and the shop it is for says this one so (`_http.py`)
fails bad_service: the same
"""

from __future__ import annotations

from typing import Any

from herosms import HeroSMSClient
from herosms.exceptions import APIError, AuthenticationError, HeroSMSError, NoNumbersAvailableError

from tests.conformance.driver import (
    COUNTRY,
    SERVICE,
    UNKNOWN_SERVICE,
    UNSOLD,
    WRONG_KEY,
    Driver,
    main,
    same,
    true,
    until_async,
)


class HeroSms(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        return HeroSMSClient(key, base_url=self.url, poll_interval=0.1, retry_attempts=1)

    async def refused(self, kind: type[Exception], call: Any) -> None:
        try:
            found = await call
        except kind:
            return
        raise AssertionError(f"{found!r} where a refusal was due")

    async def balance(self) -> None:
        same((await self.client.get_balance()).amount, self.available())

    async def prices(self) -> None:
        found = await self.client.get_prices(service=SERVICE, country=COUNTRY)
        true(found[str(COUNTRY)][SERVICE].cost > 0, found)

    async def countries(self) -> None:
        same([row.eng for row in await self.client.get_countries() if row.id == COUNTRY], ["Indonesia"])

    async def services(self) -> None:
        true("wa" in [row.code for row in await self.client.get_services()])

    async def operators(self) -> None:
        true("telkomsel" in (await self.client.get_operators(country=COUNTRY))[str(COUNTRY)])

    async def top(self) -> None:
        true((await self.client.get_top_countries(service=SERVICE))["0"]["price"] > 0)
        true((await self.client.get_top_countries(service=SERVICE, by_rank=True))["0"]["price"] > 0)

    async def number_v2(self) -> None:
        before = self.available()
        self.bought = await self.client.activations.create(service=SERVICE, country=COUNTRY, max_price=10)
        same(self.available(), round(before - self.bought.cost, 4))

    async def waiting(self) -> None:
        same(await self.client.get_status_v1(self.bought.id), "STATUS_WAIT_CODE")

    async def code(self) -> None:
        self.first = str((await self.bought.wait_for_sms(timeout=20)).code)
        same(self.first, self.last_code(self.bought.id))

    async def text(self) -> None:
        [message] = await self.bought.get_all_sms()
        true(self.first in message.text, message)

    async def again(self) -> None:
        await self.bought.request_sms()

        async def read() -> str | None:
            found = str(await self.client.get_status_v1(self.bought.id))
            return found.split(":")[1] if found.startswith("STATUS_OK:") else None

        same(await until_async(read), self.last_code(self.bought.id))

    async def open(self) -> None:
        same([str(row.activation_id) for row in await self.client.get_active_activations()], [str(self.bought.id)])

    async def finish(self) -> None:
        await self.bought.complete()
        true(self.is_over(self.bought.id, "6"))

    async def cancel(self) -> None:
        before = self.available()
        await (await self.client.activations.create(service=SERVICE, country=COUNTRY)).cancel()
        other = await self.client.activations.create(service=SERVICE, country=COUNTRY)
        await self.client.activations.cancel(other.id)
        same(self.available(), before)

    async def history(self) -> None:
        same(len(await self.client.get_history()), 3)

    async def more(self) -> None:
        """A number sold again, or the refusal that says it is not."""
        try:
            true(await self.bought.get_reactivation_price() > 0)
        except APIError as error:
            true(error.title, error)

    async def rent_offers(self) -> None:
        true(await self.client.get_rent_availability(SERVICE, country=COUNTRY))

    async def rent(self) -> None:
        self.rental = await self.client.rent_number(SERVICE, COUNTRY, 4)
        true(self.rental.phone_number.startswith("62"), self.rental)

    async def bad_key(self) -> None:
        async with self.new(WRONG_KEY) as stranger:
            await self.refused(AuthenticationError, stranger.get_balance())

    async def no_numbers(self) -> None:
        service, country = UNSOLD
        await self.refused(NoNumbersAvailableError, self.client.activations.create(service=service, country=country))

    async def bad_service(self) -> None:
        await self.refused(HeroSMSError, self.client.activations.create(service=UNKNOWN_SERVICE, country=COUNTRY))

    async def close(self) -> None:
        await self.client.close()


if __name__ == "__main__":
    main(HeroSms)
