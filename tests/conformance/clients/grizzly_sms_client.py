"""httpx; JSON by content type, words by their beginning.

package: grizzly-sms-client
from: PyPI
path: /grizzly
moved by: the argument `base_url`, to which it adds the path
calls: balance prices countries services number number_v2 waiting ready code text again open finish cancel bad_key no_numbers bad_service
"""

from __future__ import annotations

from typing import Any

from grizzly_sms import GrizzlySms, GrizzlySmsError

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


class Grizzly(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client: Any = GrizzlySms(key, base_url=url)

    def refused(self, call: Any) -> str:
        error: Any = raises(GrizzlySmsError, call)
        return str(error.code)

    def balance(self) -> None:
        same(self.client.get_balance(), self.available())

    def prices(self) -> None:
        [quote] = self.client.find_prices(service=SERVICE, country=COUNTRY)
        true(quote.cost > 0, quote)
        true(self.client.get_prices_v2(service=SERVICE, country=COUNTRY)[str(COUNTRY)][SERVICE])
        true(self.client.get_prices_v3(service=SERVICE, country=COUNTRY)[str(COUNTRY)][SERVICE])

    def countries(self) -> None:
        same([row.eng for row in self.client.get_countries() if row.id == COUNTRY], ["Indonesia"])

    def services(self) -> None:
        true("wa" in [row.code for row in self.client.get_services()])

    def number(self) -> None:
        self.bought = self.client.get_number(SERVICE, country=COUNTRY, max_price=10)
        true(self.bought.phone_number.startswith("62"), self.bought)

    def number_v2(self) -> None:
        before = self.available()
        self.other = self.client.get_number_v2(SERVICE, country="any", max_price=10)
        same(self.available(), round(before - self.other.activation_cost, 4))

    def waiting(self) -> None:
        same(self.client.get_status(self.bought.activation_id).code, None)

    def ready(self) -> None:
        same(self.client.ready(self.bought.activation_id), "ACCESS_READY")

    def code(self) -> None:
        received = self.client.wait_for_code(self.bought.activation_id, interval_ms=100, timeout_ms=20_000)
        self.first = received.code
        same(self.first, self.last_code(self.bought.activation_id))

    def text(self) -> None:
        true(self.first in self.client.get_status_v2(self.bought.activation_id)["sms"]["text"])

    def again(self) -> None:
        same(self.client.request_another_code(self.bought.activation_id), "ACCESS_RETRY_GET")

        def read() -> str | None:
            found = self.client.get_status(self.bought.activation_id)
            return str(found.code) if found.code and found.code != self.first else None

        same(until(read), self.last_code(self.bought.activation_id))

    def open(self) -> None:
        listed = {str(row.activation_id) for row in self.client.get_active_activations()}
        same(listed, {str(self.bought.activation_id), str(self.other.activation_id)})

    def finish(self) -> None:
        same(self.client.complete(self.bought.activation_id), "ACCESS_ACTIVATION")
        true(self.is_over(self.bought.activation_id, "6"))

    def cancel(self) -> None:
        before = self.available()
        other = self.client.get_number(SERVICE, country=COUNTRY)
        same(self.client.cancel(other.activation_id), "ACCESS_CANCEL")
        same(self.available(), before)

    def bad_key(self) -> None:
        stranger: Any = GrizzlySms(WRONG_KEY, base_url=self.url)
        same(self.refused(stranger.get_balance), "BAD_KEY")

    def no_numbers(self) -> None:
        service, country = UNSOLD
        same(self.refused(lambda: self.client.get_number(service, country=country)), "NO_NUMBERS")

    def bad_service(self) -> None:
        same(self.refused(lambda: self.client.get_number(UNKNOWN_SERVICE, country=COUNTRY)), "BAD_SERVICE")


if __name__ == "__main__":
    main(Grizzly)
