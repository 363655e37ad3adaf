"""aiohttp, a request each; three errors known by equality.

package: sms-hub-api
from: PyPI
path: /smshub/stubs/handler_api.php
moved by: `client.API_URL`
calls: balance prices stock number waiting ready code again finish cancel bad_key no_numbers bad_service
fails bad_service: an unknown service is `WRONG_SERVICE`, which it has an exception for and never raises (`client.py`, _check_result)
"""

from __future__ import annotations

from typing import Any

from sms_hub_api import SmsHub
from sms_hub_api.exceptions import InvalidToken, NoNumbers, WrongService

from tests.conformance.driver import (
    COUNTRY,
    SERVICE,
    UNKNOWN_SERVICE,
    UNSOLD,
    WRONG_KEY,
    Driver,
    code_of,
    main,
    same,
    true,
    until_async,
)


class SmsHubApi(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        client = SmsHub(key)
        client.API_URL = self.url
        return client

    async def refused(self, kind: type[Exception], call: Any) -> None:
        try:
            await call
        except kind:
            return
        raise AssertionError("no refusal")

    async def balance(self) -> None:
        same(await self.client.get_balance(), self.available())

    async def prices(self) -> None:
        true((await self.client.get_prices(SERVICE, COUNTRY))[str(COUNTRY)][SERVICE])

    async def stock(self) -> None:
        true((await self.client.get_numbers_status(COUNTRY))[f"{SERVICE}_0"] > 0)

    async def number(self) -> None:
        bought = await self.client.get_number(SERVICE, country=COUNTRY)
        true(str(bought.number).startswith("62"), bought.number)
        self.id = bought.activation_id

    async def waiting(self) -> None:
        same(await self.client.get_status(self.id), "STATUS_WAIT_CODE")

    async def ready(self) -> None:
        same(await self.client.set_status(self.id, 1), "ACCESS_READY")

    async def next_code(self) -> str:
        async def read() -> str | None:
            return code_of(await self.client.get_status(self.id))

        return str(await until_async(read))

    async def code(self) -> None:
        same(await self.next_code(), self.last_code(self.id))

    async def again(self) -> None:
        same(await self.client.set_status(self.id, 3), "ACCESS_RETRY_GET")
        same(await self.next_code(), self.last_code(self.id))

    async def finish(self) -> None:
        same(await self.client.set_status(self.id, 6), "ACCESS_ACTIVATION")
        true(self.is_over(self.id, "6"))

    async def cancel(self) -> None:
        before = self.available()
        other = await self.client.get_number(SERVICE, country=COUNTRY)
        same(await self.client.set_status(other.activation_id, 8), "ACCESS_CANCEL")
        same(self.available(), before)

    async def bad_key(self) -> None:
        await self.refused(InvalidToken, self.new(WRONG_KEY).get_balance())

    async def no_numbers(self) -> None:
        service, country = UNSOLD
        await self.refused(NoNumbers, self.client.get_number(service, country=country))

    async def bad_service(self) -> None:
        await self.refused(WrongService, self.client.get_number(UNKNOWN_SERVICE, country=COUNTRY))


if __name__ == "__main__":
    main(SmsHubApi)
