"""requests; the address is spelt out in every call, so nothing in the client moves it.

package: daisy-sms
from: PyPI
path: /daisy/stubs/handler_api.php
host: daisysms.com
moved by: nothing of its own. requests takes a proxy and a certificate from the environment; a hosts entry and a certificate do the same
calls: balance prices number waiting code finish cancel bad_key no_numbers more
fails bad_key: takes the word for the number behind the colon (`client.py`, get_balance); the refusals it looks for begin with `ACCESS_BALANCE`
fails more: `rent_multiple_numbers` calls `/stubs/multi/reserve`, which is outside the protocol and not served here
"""

from __future__ import annotations

from typing import Any

from daisy_sms import DaisySmsClient
from daisy_sms.exceptions import InvalidApiKeyError, MaxPriceExceededError, NoNumbersLeftError
from daisy_sms.models import ActivationStatus
from daisy_sms.service import Service

from tests.conformance.driver import WRONG_KEY, Driver, main, raises, same, true, until


class DaisySms(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client: Any = DaisySmsClient(key)

    def balance(self) -> None:
        same(self.client.get_balance(), self.available())

    def prices(self) -> None:
        true([row for row in self.client.get_prices() if row.code == "wa" and row.cost > 0])

    def number(self) -> None:
        self.bought = self.client.rent_number(Service.WHATSAPP, 10)
        true(str(self.bought.number).startswith("1"), self.bought.number)

    def waiting(self) -> None:
        same(self.client.get_code(self.bought.id).status, ActivationStatus.STATUS_WAIT_CODE)

    def code(self) -> None:
        code = until(lambda: self.client.get_code(self.bought.id).code)
        same(code, int(self.last_code(self.bought.id)))

    def finish(self) -> None:
        self.client.mark_rental_as_done(self.bought.id)
        true(self.is_over(self.bought.id, "6"))

    def cancel(self) -> None:
        before = self.available()
        self.client.cancel_rental(self.client.rent_number(Service.WHATSAPP, 10).id)
        same(self.available(), before)

    def more(self) -> None:
        true(self.client.rent_multiple_numbers(Service.WHATSAPP, 1, 10))

    def bad_key(self) -> None:
        raises(InvalidApiKeyError, DaisySmsClient(WRONG_KEY).get_balance)

    def no_numbers(self) -> None:
        raises(NoNumbersLeftError, lambda: self.client.rent_number(Service.AOL, 10))
        raises(MaxPriceExceededError, lambda: self.client.rent_number(Service.WHATSAPP, 0.01))


if __name__ == "__main__":
    main(DaisySms)
