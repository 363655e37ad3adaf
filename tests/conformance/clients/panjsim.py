"""requests; answers as dictionaries, and any status but 200 is one error.

package: PanjSim
from: PyPI
path: /v1
moved by: the class's attribute `HttpClient._HttpClient__BASE_URL`
calls: balance prices countries services operators number history more rent bad_key no_numbers bad_service
note: it buys and lists, and has no call that reads or ends an order
"""

from __future__ import annotations

from typing import Any

from PanjSim import PanjSim
from PanjSim.errors import ErrorJSONDecode, ServerError
from PanjSim.http_client import HttpClient

from tests.conformance.driver import WRONG_KEY, Driver, main, raises, same, true

PRODUCT, COUNTRY = "telegram", "indonesia"


class PanjSimDriver(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        library: Any = HttpClient
        library._HttpClient__BASE_URL = base
        self.client: Any = PanjSim(key)

    def buy(self, product: str) -> Any:
        return self.client.Purchase().buy_activation_number(COUNTRY, "any", product)

    def balance(self) -> None:
        same(self.client.User().get_balance()["balance"], self.available())

    def prices(self) -> None:
        true(self.client.Products().get_prices(COUNTRY, PRODUCT)[COUNTRY][PRODUCT])
        true(self.client.find_low_price(PRODUCT)[0]["cost"] > 0)

    def countries(self) -> None:
        same(self.client.get_countries_list()[COUNTRY]["prefix"], {"+62": 1})

    def services(self) -> None:
        true(self.client.Products().get_products(COUNTRY, "any")[PRODUCT]["Price"] > 0)

    def operators(self) -> None:
        true("telkomsel" in self.client.get_countries_list()[COUNTRY])

    def number(self) -> None:
        before = self.available()
        self.order = self.buy(PRODUCT)
        same(self.available(), round(before - self.order["price"], 4))

    def history(self) -> None:
        same([row["id"] for row in self.client.User().get_orders_history()["Data"]], [self.order["id"]])
        same(self.client.User().get_payments_history()["Total"], 1)

    def more(self) -> None:
        """A number sold again, or the refusal that says it is not."""
        error = raises(ServerError, lambda: self.client.Purchase().rebuy_number(PRODUCT, "6281234567890"))
        true("reuse not possible" in str(error), error)

    def rent(self) -> None:
        true(self.client.Purchase().buy_hosting_number(COUNTRY, "any", "1day")["phone"].startswith("+62"))

    def bad_key(self) -> None:
        error: Any = raises(ServerError, PanjSim(WRONG_KEY).User().get_balance)
        same(error.error_code, 401)

    def no_numbers(self) -> None:
        """5sim says it with 200 and text; its error of a body that is no JSON has the text."""
        same(str(raises(ErrorJSONDecode, lambda: self.buy("aol"))), "no free phones")

    def bad_service(self) -> None:
        raises(ServerError, lambda: self.buy("nonsense"))


if __name__ == "__main__":
    main(PanjSimDriver)
