"""httpx or aiohttp, pydantic models; it wants `application/json` to the letter.

package: pyfivesim
from: PyPI
path: /v1
moved by: the argument `base_url`
calls: balance prices countries services operators number waiting code text finish cancel history more bad_key no_numbers bad_service
note: renting is there and raises NotImplementedError
"""

from __future__ import annotations

from typing import Any

from pyfivesim import PyFiveSimAsync, PyFiveSimSync
from pyfivesim.exceptions import FiveSimInvalidAPIKey, FiveSimInvalidProduct, FiveSimNoFreePhones

from tests.conformance.driver import WRONG_KEY, Driver, main, raises, same, true, until

PRODUCT, COUNTRY = "telegram", "indonesia"


class PyFiveSim(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str, kind: Any = PyFiveSimSync) -> Any:
        return kind(api_key=key, base_url=self.url)

    def balance(self) -> None:
        same(self.client.get_user_profile().balance, self.available())

    def prices(self) -> None:
        [leaf, *_] = self.client.get_prices(country=COUNTRY, product=PRODUCT)
        true(leaf.operator_info.price > 0, leaf)

    def countries(self) -> None:
        same([row.prefix for row in self.client.get_countries_list() if row.name == COUNTRY], ["+62"])

    def services(self) -> None:
        true(PRODUCT in [row.name for row in self.client.get_available_products(COUNTRY, "any")])

    def operators(self) -> None:
        [row] = [row for row in self.client.get_countries_list() if row.name == COUNTRY]
        true("telkomsel" in row.available_operators, row)

    def number(self) -> None:
        before = self.available()
        self.order = self.client.buy_number(PRODUCT, country=COUNTRY, max_price=10)
        same(self.available(), round(before - self.order.price, 4))

    def waiting(self) -> None:
        same(self.client.get_order_info(self.order.id).status, "PENDING")

    def code(self) -> None:
        self.message = until(lambda: self.client.get_order_info(self.order.id).sms)
        same(self.message.code, self.last_code(self.order.id))

    def text(self) -> None:
        true(self.message.code in self.message.text, self.message)

    def finish(self) -> None:
        same(self.client.action_with_order("finish", self.order.id).status, "FINISHED")
        true(self.is_over(self.order.id, "6"))

    async def cancel(self) -> None:
        """With the asynchronous half."""
        before, client = self.available(), self.new(self.key, PyFiveSimAsync)
        order = await client.buy_number(PRODUCT, country=COUNTRY)
        same((await client.action_with_order("cancel", order.id)).status, "CANCELED")
        same(self.available(), before)

    def history(self) -> None:
        """One order at a time: its model of a page holds one."""
        true(self.client.get_user_orders("activation", limit=1, reverse=True).total >= 2)
        same(self.client.get_user_payments().total, 1)

    def more(self) -> None:
        """A number sold again, or the refusal that says it is not."""
        same(self.client.reuse_number(PRODUCT, "6281234567890"), False)
        same(self.client.get_user_price_limits(), [])

    def bad_key(self) -> None:
        raises(FiveSimInvalidAPIKey, self.new(WRONG_KEY).get_user_profile)

    def no_numbers(self) -> None:
        raises(FiveSimNoFreePhones, lambda: self.client.buy_number("aol", country=COUNTRY))

    def bad_service(self) -> None:
        raises(FiveSimInvalidProduct, lambda: self.client.buy_number("nonsense", country=COUNTRY))


if __name__ == "__main__":
    main(PyFiveSim)
