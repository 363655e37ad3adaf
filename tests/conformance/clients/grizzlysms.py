"""requests; it reads every answer as JSON, and there is no text for it.

package: grizzlysms
from: PyPI
path: /grizzly/stubs/handler_api.php
moved by: `client.base_url`
calls: balance number rent_offers rent_status bad_key
fails balance: reads `ACCESS_BALANCE:…` as JSON and answers that it is none (`grizzly.py`, _handle_response)
fails number: reads `ACCESS_NUMBER:…` as JSON; the number is bought and lost to the caller
fails bad_key: reads `BAD_KEY` as JSON
"""

from __future__ import annotations

from typing import Any

from GrizzlySMS import GrizzlySMS
from GrizzlySMS.errors import BadKeyError

from tests.conformance.driver import COUNTRY, SERVICE, WRONG_KEY, Driver, main, raises, same, true


class GrizzlyOfJson(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        client = GrizzlySMS(key)
        client.base_url = self.url
        return client

    def balance(self) -> None:
        found = self.client.get_balance()
        true("error" not in found, found)

    def number(self) -> None:
        found = self.client.get_number(SERVICE, COUNTRY)
        true("error" not in found, found)

    def rent_offers(self) -> None:
        found = self.client.get_rent_prices(SERVICE, COUNTRY, 4)
        true("error" not in found, found)

    def rent_status(self) -> None:
        """A stranger's: its errors become answers."""
        same(self.client.get_rent_status(5), {"error": "Invalid Phone ID Rent."})

    def bad_key(self) -> None:
        raises(BadKeyError, lambda: self.new(WRONG_KEY).get_balance())


if __name__ == "__main__":
    main(GrizzlyOfJson)
