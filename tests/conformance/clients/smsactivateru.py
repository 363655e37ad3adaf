"""One class per action, over requests. It looks for error words anywhere in an answer.

package: smsactivateru
from: PyPI
path: /stubs/handler_api.php
moved by: `client.url`
calls: balance stock number waiting ready code finish cancel bad_key no_numbers
fails stock: wants every service it knows, with `_0` behind: `int(service_list['vk_0'])` is a KeyError where one is not sold (`actions.py`, GetFreeSlots)
note: it has no way to ask for another code by itself: `wait_code(not_end=True)` makes the request and does not send it
"""

from __future__ import annotations

from typing import Any

import smsactivateru
from smsactivateru.models import ErrorsModel

from tests.conformance.driver import COUNTRY, WRONG_KEY, Driver, main, raises, same, true


class SmsActivateRu(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)
        self.services: Any = smsactivateru.SmsService()

    def new(self, key: str) -> Any:
        client = smsactivateru.Sms(key)
        client.url = self.url
        return client

    def buy(self, service: Any, country: int = COUNTRY) -> Any:
        return smsactivateru.GetNumber(service=service, country=str(country)).request(self.client)

    def refused(self, call: Any) -> str:
        error: Any = raises(ErrorsModel, call)
        return str(error.code)

    def balance(self) -> None:
        same(smsactivateru.GetBalance().request(self.client), self.available())

    def stock(self) -> None:
        true(smsactivateru.GetFreeSlots(country=str(COUNTRY)).request(self.client).Telegram.count > 0)

    def number(self) -> None:
        self.bought = self.buy(self.services.Telegram)
        true(self.bought.phone_number.startswith("62"), self.bought.phone_number)

    def waiting(self) -> None:
        found = smsactivateru.GetStatus(id=self.bought.id).request(self.client)
        same(found, {"status": "STATUS_WAIT_CODE", "code": None})

    def ready(self) -> None:
        same(self.bought.was_sent(), {"status": "ACCESS_READY"})

    def code(self) -> None:
        code = self.bought.wait_code(timeout=20, not_end=True)
        same(code, self.last_code(self.bought.id))

    def finish(self) -> None:
        done = smsactivateru.SetStatus(id=self.bought.id, status=smsactivateru.SmsTypes.Status.End)
        same(done.request(self.client), {"status": "ACCESS_ACTIVATION"})
        true(self.is_over(self.bought.id, "6"))

    def cancel(self) -> None:
        before = self.available()
        same(self.buy(self.services.Telegram).cancel(), {"status": "ACCESS_CANCEL"})
        same(self.buy(self.services.Telegram).mark_as_used(), {"status": "ACCESS_CANCEL"})
        same(self.available(), before)

    def bad_key(self) -> None:
        same(self.refused(lambda: smsactivateru.GetBalance().request(self.new(WRONG_KEY))), "BAD_KEY")

    def no_numbers(self) -> None:
        same(self.refused(lambda: self.buy(self.services.Telegram, 203)), "NO_NUMBERS")


if __name__ == "__main__":
    main(SmsActivateRu)
