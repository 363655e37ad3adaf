"""Patterns over the whole answer, which want a dot in the balance; requests or aiohttp.

package: pysmshub
from: PyPI
path: /smshub/stubs/handler_api.php
moved by: `client.base_url`
calls: balance prices stock number waiting code again finish cancel bad_key no_numbers bad_service
"""

from __future__ import annotations

from typing import Any

from pysmshub import AsyncSmsHubApi, Status, SyncSmsHubApi
from pysmshub.exceptions import SmsHubApiException

from tests.conformance.driver import (
    COUNTRY,
    SERVICE,
    UNKNOWN_SERVICE,
    UNSOLD,
    WRONG_KEY,
    Driver,
    main,
    raises,
    same,
    true,
    until,
)


class PySmsHub(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str, kind: Any = SyncSmsHubApi) -> Any:
        client = kind(key)
        client.base_url = self.url
        return client

    def balance(self) -> None:
        same(self.client.get_balance(), self.available())

    def prices(self) -> None:
        [price] = self.client.get_prices(SERVICE, str(COUNTRY))[str(COUNTRY)][SERVICE]
        true(float(price) > 0, price)

    def stock(self) -> None:
        true(self.client.get_numbers_status(country=str(COUNTRY))[f"{SERVICE}_0"] > 0)

    def number(self) -> None:
        self.id, phone = self.client.get_number(SERVICE, country=COUNTRY, max_price=10)
        true(phone.startswith("62"), phone)

    def waiting(self) -> None:
        same(self.client.get_status(self.id), (Status.WAIT, None))

    def code(self) -> None:
        _, code = until(lambda: found if (found := self.client.get_status(self.id))[0] == Status.SENT else None)
        self.first = str(code)
        same(self.first, self.last_code(self.id))

    def again(self) -> None:
        same(self.client.set_status(self.id, Status.REPEAT), "ACCESS_RETRY_GET")
        _, code = until(lambda: found if (found := self.client.get_status(self.id))[0] == Status.SENT else None)
        same(str(code), self.last_code(self.id))

    def finish(self) -> None:
        same(self.client.set_status(self.id, Status.SUCCESS), "ACCESS_ACTIVATION")
        true(self.is_over(self.id, "6"))

    async def cancel(self) -> None:
        """With the asynchronous half."""
        before, client = self.available(), self.new(self.key, AsyncSmsHubApi)
        number, _ = await client.get_number(SERVICE, country=COUNTRY)
        same(await client.set_status(number, Status.CANCEL), "ACCESS_CANCEL")
        same(await client.get_status(number), (Status.CANCEL, None))
        same(await client.get_balance(), before)

    def bad_key(self) -> None:
        raises(SmsHubApiException, lambda: self.new(WRONG_KEY).get_balance())

    def no_numbers(self) -> None:
        service, country = UNSOLD
        raises(SmsHubApiException, lambda: self.client.get_number(service, country=country))

    def bad_service(self) -> None:
        raises(SmsHubApiException, lambda: self.client.get_number(UNKNOWN_SERVICE, country=COUNTRY))


if __name__ == "__main__":
    main(PySmsHub)
