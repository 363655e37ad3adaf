"""httpx; GET alone, nine error words, the rest handed on.

package: smsbower
from: PyPI
path: /bower
moved by: the argument `base_url`, to which it adds the path
calls: balance prices countries services top number number_v2 waiting ready code again finish cancel bad_key no_numbers bad_service
"""

from __future__ import annotations

from typing import Any

from smsbower import SmsBowerClient, SmsBowerError

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


class SmsBower(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client: Any = SmsBowerClient(key, base_url=url)

    def refused(self, call: Any) -> str:
        return str(raises(SmsBowerError, call))

    def balance(self) -> None:
        same(self.client.get_balance(), self.available())

    def prices(self) -> None:
        true(self.client.get_prices(SERVICE, COUNTRY)[str(COUNTRY)][SERVICE]["cost"] > 0)
        true(self.client.get_prices_v2(SERVICE, COUNTRY)[str(COUNTRY)][SERVICE])
        true(self.client.get_prices_v3(SERVICE, COUNTRY)[str(COUNTRY)][SERVICE]["1"]["count"] > 0)

    def countries(self) -> None:
        same(self.client.get_countries()[str(COUNTRY)].eng, "Indonesia")

    def services(self) -> None:
        true("wa" in [row.code for row in self.client.get_services_list()])

    def top(self) -> None:
        true(self.client.get_top_countries_by_service(SERVICE))

    def number(self) -> None:
        self.bought = self.client.get_number(SERVICE, country=COUNTRY, max_price=10)
        true(self.bought.number.startswith("62"), self.bought)

    def number_v2(self) -> None:
        before = self.available()
        bought = self.client.get_number_v2(SERVICE, country=COUNTRY, max_price=10, min_price=0.01)
        same(self.available(), round(before - float(bought["activationCost"]), 4))

    def waiting(self) -> None:
        same(self.client.get_status(self.bought.id).status, "STATUS_WAIT_CODE")

    def ready(self) -> None:
        same(self.client.set_status(self.bought.id, 1), "ACCESS_READY")

    def next_code(self) -> str:
        def read() -> str | None:
            found = self.client.get_status(self.bought.id)
            return str(found.code) if found.status == "STATUS_OK" else None

        return until(read)

    def code(self) -> None:
        same(self.next_code(), self.last_code(self.bought.id))

    def again(self) -> None:
        same(self.client.set_status(self.bought.id, 3), "ACCESS_RETRY_GET")
        same(self.next_code(), self.last_code(self.bought.id))

    def finish(self) -> None:
        same(self.client.set_status(self.bought.id, 6), "ACCESS_ACTIVATION")
        true(self.is_over(self.bought.id, "6"))

    def cancel(self) -> None:
        before = self.available()
        other = self.client.get_number(SERVICE, country=COUNTRY)
        same(self.client.set_status(other.id, 8), "ACCESS_CANCEL")
        same(self.available(), before)

    def bad_key(self) -> None:
        stranger: Any = SmsBowerClient(WRONG_KEY, base_url=self.url)
        true("401" in self.refused(stranger.get_balance))

    def no_numbers(self) -> None:
        service, country = UNSOLD
        true("NO_NUMBERS" in self.refused(lambda: self.client.get_number(service, country=country)))

    def bad_service(self) -> None:
        true("WRONG_SERVICE" in self.refused(lambda: self.client.get_number(UNKNOWN_SERVICE, country=COUNTRY)))


if __name__ == "__main__":
    main(SmsBower)
