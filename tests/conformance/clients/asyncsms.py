"""Coroutines around smsactivate; blocking all the same.

package: asyncsms
from: PyPI
path: /stubs/handler_api.php
moved by: `client._SMSActivateAPI__api_url`
calls: balance number_v2 code finish open bad_key
note: getting a number without a country asks a list of countries as if it were a pandas frame; with a country it buys
"""

from __future__ import annotations

from typing import Any

from asyncsms.asyncsms import AsyncSMS

from tests.conformance.driver import COUNTRY, SERVICE, WRONG_KEY, Driver, main, same, true


class AsyncSms(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        client: Any = AsyncSMS(key)
        client._SMSActivateAPI__api_url = self.url
        return client

    async def balance(self) -> None:
        same(float((await self.client.get_balance())["balance"]), self.available())

    async def number_v2(self) -> None:
        self.id = (await self.client.get_number(service=SERVICE, country=COUNTRY))["activationId"]

    async def code(self) -> None:
        same(await self.client.get_code(self.id), self.last_code(self.id))

    async def open(self) -> None:
        [row] = (await self.client.get_active_activations())["activeActivations"]
        same(row["activationId"], str(self.id))

    async def finish(self) -> None:
        same(await self.client.set_status(self.id, 6), "ACCESS_ACTIVATION")
        true(self.is_over(self.id, "6"))

    async def bad_key(self) -> None:
        same((await self.new(WRONG_KEY).get_balance())["error"], "BAD_KEY")


if __name__ == "__main__":
    main(AsyncSms)
