"""aiohttp; sends `json=1`, `True` and `False`, and buys with getNumberV2 alone.

package: async-sms-activate
from: PyPI
path: /stubs/handler_api.php
moved by: `client.api_url`
calls: balance countries top number_v2 waiting ready code again finish cancel bad_key no_numbers bad_service
fails bad_key: takes the word for the number behind the colon: `float('BAD_KEY')` (`client.py`, get_balance)
fails bad_service: reads the word as JSON (`client.py`, _request); it knows NO_NUMBERS and NO_BALANCE alone
"""

from __future__ import annotations

from async_sms_activate import SmsActivateClient
from async_sms_activate.errors import NoNumbers

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


class AsyncSmsActivate(Driver):
    def new(self, key: str) -> SmsActivateClient:
        client = SmsActivateClient(key)
        client.api_url = self.url
        return client

    async def balance(self) -> None:
        self.client = self.new(self.key)
        same(await self.client.get_balance(), self.available())

    async def countries(self) -> None:
        found = await self.client.get_country_by_country_code(str(COUNTRY))
        same(found and found.english_name, "Indonesia")

    async def top(self) -> None:
        true(await self.client.top_countries_by_service(SERVICE))
        true(COUNTRY in await self.client.get_country_codes_by_service(SERVICE))

    async def number_v2(self) -> None:
        self.bought = await self.client.buy_number_by_country(SERVICE, COUNTRY)
        true(str(self.bought.phone_number).startswith("62"), self.bought.phone_number)
        free = await self.client.buy_number_free_price("wa", 10)
        same(await free.cancel_activation(), "ACCESS_CANCEL")

    async def waiting(self) -> None:
        same(await self.client.get_activation_status(self.bought.activation_id), "STATUS_WAIT_CODE")

    async def ready(self) -> None:
        same(await self.bought.sms_sent(), "ACCESS_READY")

    async def code(self) -> None:
        self.first = await self.bought.wait_for_code(timeout=20)
        same(self.first, self.last_code(self.bought.activation_id))

    async def again(self) -> None:
        """Its own waiting takes `STATUS_WAIT_RETRY` for an answer, so it is asked until a code is there."""
        same(await self.bought.request_another_sms(), "ACCESS_RETRY_GET")

        async def read() -> str | None:
            answer = str(await self.client.get_activation_status(self.bought.activation_id))
            return answer.split(":")[1] if answer.startswith("STATUS_OK:") else None

        same(await until_async(read), self.last_code(self.bought.activation_id))

    async def finish(self) -> None:
        same(await self.bought.complete_activation(), "ACCESS_ACTIVATION")
        true(self.is_over(self.bought.activation_id, "6"))

    async def cancel(self) -> None:
        before = self.available()
        other = await self.client.buy_number_by_country(SERVICE, COUNTRY)
        same(await other.cancel_activation(), "ACCESS_CANCEL")
        same(self.available(), before)

    async def bad_key(self) -> None:
        stranger = self.new(WRONG_KEY)
        try:
            await stranger.get_balance()
        finally:
            await stranger.close()

    async def no_numbers(self) -> None:
        service, country = UNSOLD
        try:
            await self.client.buy_number_by_country(service, country)
        except NoNumbers:
            return
        raise AssertionError("no refusal")

    async def bad_service(self) -> None:
        await self.client.buy_number_by_country(UNKNOWN_SERVICE, COUNTRY)

    async def close(self) -> None:
        await self.client.close()


if __name__ == "__main__":
    main(AsyncSmsActivate)
