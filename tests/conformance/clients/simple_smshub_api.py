"""Threads around requests; it remembers the activation itself, and sends None as an absent parameter.

package: simple-smshub-api
from: PyPI
path: /smshub/stubs/handler_api.php
moved by: `client.API_URL`
calls: balance prices stock number waiting ready code again finish cancel more bad_key no_numbers bad_service
"""

from __future__ import annotations

from typing import Any

from SMSHubAPI import SMSHubAPI
from SMSHubAPI.exceptions import (
    BadApiKeyException,
    CurrencyChangeUnavailableException,
    NoNumbersException,
    WrongServiceException,
)

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
)


class SimpleSmsHubApi(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        client = SMSHubAPI(key, raise_for_status=True)
        client.API_URL = self.url
        return client

    def balance(self) -> None:
        same(self.client.get_balance(), self.available())
        same(self.client.get_balance(currency=840), self.available())

    def prices(self) -> None:
        true(self.client.get_prices(SERVICE, COUNTRY)[str(COUNTRY)][SERVICE])

    def stock(self) -> None:
        true(self.client.get_numbers_status(COUNTRY)[f"{SERVICE}_0"] > 0)

    def number(self) -> None:
        true(self.client.get_number(SERVICE, country=COUNTRY, max_price=10).startswith("62"))

    def waiting(self) -> None:
        same(self.client.get_status(), ("STATUS_WAIT_CODE", None))

    def ready(self) -> None:
        same(self.client.sms_sent(), "ACCESS_READY")

    def code(self) -> None:
        same(self.client.wait_for_sms(timeout=20), self.last_code(self.client.activation_id))

    def again(self) -> None:
        same(self.client.sms_retry(), "ACCESS_RETRY_GET")
        same(self.client.wait_for_sms(timeout=20), self.last_code(self.client.activation_id))

    def finish(self) -> None:
        same(self.client.sms_finish(), "ACCESS_ACTIVATION")
        true(self.is_over(self.client.activation_id, "6"))

    def cancel(self) -> None:
        before = self.available()
        self.client.get_number(SERVICE, country=COUNTRY)
        same(self.client.sms_cancel(), "ACCESS_CANCEL")
        same(self.available(), before)

    def more(self) -> None:
        raises(CurrencyChangeUnavailableException, lambda: self.client.update_api_currency(643))

    def bad_key(self) -> None:
        raises(BadApiKeyException, lambda: self.new(WRONG_KEY).get_balance())

    def no_numbers(self) -> None:
        service, country = UNSOLD
        raises(NoNumbersException, lambda: self.client.get_number(service, country=country))

    def bad_service(self) -> None:
        raises(WrongServiceException, lambda: self.client.get_number(UNKNOWN_SERVICE, country=COUNTRY))


if __name__ == "__main__":
    main(SimpleSmsHubApi)
