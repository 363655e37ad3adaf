"""requests, and an enumeration of everything 5sim has.

package: fivesim
from: PyPI
path: /v1
moved by: `client.user._APIRequest__endpoint`, and the same of `client.guest`
calls: balance prices countries services operators number waiting code text again finish cancel history more rent rent_status rent_end bad_key no_numbers bad_service
"""

from __future__ import annotations

from typing import Any

from fivesim import (
    ActivationProduct,
    Category,
    Country,
    ErrorType,
    FiveSim,
    FiveSimError,
    HostingProduct,
    Operator,
    OrderAction,
    Status,
)

from tests.conformance.driver import WRONG_KEY, Driver, main, raises, same, true, until

WHERE = (Country.INDONESIA, Operator.ANY_OPERATOR)
PRODUCT = ActivationProduct.TELEGRAM


class FiveSimDriver(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        client: Any = FiveSim(key)
        client.user._APIRequest__endpoint = f"{self.url}/user/"
        client.guest._APIRequest__endpoint = f"{self.url}/guest/"
        return client

    def refused(self, call: Any) -> ErrorType:
        error: Any = raises(FiveSimError, call)
        kind: ErrorType = error.get_error()
        return kind

    def check(self) -> Any:
        return self.client.user.order(OrderAction.CHECK, self.order)

    def balance(self) -> None:
        same(self.client.user.get_profile_data().balance, self.available())

    def prices(self) -> None:
        found = self.client.guest.get_prices(country=Country.INDONESIA, product=PRODUCT)
        true(found[Country.INDONESIA][PRODUCT][Operator.ANY_OPERATOR].price > 0)

    def countries(self) -> None:
        same(self.client.guest.get_countries()[Country.INDONESIA].prefix, "+62")

    def services(self) -> None:
        true(self.client.guest.get_products(*WHERE)[PRODUCT].price > 0)

    def operators(self) -> None:
        found = self.client.guest.get_prices(country=Country.INDONESIA, product=ActivationProduct.VIBER)
        true(found[Country.INDONESIA][ActivationProduct.VIBER])

    def number(self) -> None:
        before = self.available()
        self.order = self.client.user.buy_number(*WHERE, PRODUCT)
        true(self.order.phone.startswith("+62"), self.order.phone)
        same(self.available(), round(before - self.order.price, 4))

    def waiting(self) -> None:
        same(self.check().status, Status.PENDING)

    def code(self) -> None:
        self.received = until(lambda: found if (found := self.check()).sms else None)
        same(self.received.sms[0].activation_code, self.last_code(self.order.id))

    def text(self) -> None:
        message = self.received.sms[0]
        true(message.activation_code in message.text, message)

    def again(self) -> None:
        """Nobody asks: with 5sim it simply comes, here once the reference dialect has asked for it."""
        same(self.raw("setStatus", id=self.order.id, status=3), "ACCESS_RETRY_GET")
        found = until(lambda: found if len((found := self.check()).sms) > 1 else None)
        same(found.sms[1].activation_code, self.last_code(self.order.id))

    def finish(self) -> None:
        same(self.client.user.order(OrderAction.FINISH, self.order).status, Status.FINISHED)
        true(self.is_over(self.order.id, "6"))

    def cancel(self) -> None:
        before = self.available()
        for action, status in ((OrderAction.CANCEL, Status.CANCELED), (OrderAction.BAN, Status.BANNED)):
            order = self.client.user.buy_number(*WHERE, PRODUCT)
            same(self.client.user.order(action, order).status, status)
        same(self.available(), before)

    def history(self) -> None:
        listed = self.client.user.get_orders_history(Category.ACTIVATION, results_per_page=10)
        true(self.order.id in [row.id for row in listed.data])
        same(self.client.user.get_payments_history().data[0].type, "charge")

    def more(self) -> None:
        """A number sold again, or the refusal that says it is not."""
        error = raises(FiveSimError, lambda: self.client.user.reuse_number(PRODUCT, "6281234567890"))
        true("reuse not possible" in str(error), error)

    def rent(self) -> None:
        self.rental = self.client.user.buy_number(*WHERE, HostingProduct.ONE_DAY)
        true(self.rental.phone.startswith("+62"), self.rental.phone)

    def rent_status(self) -> None:
        self.client.user.get_sms_inbox_list(self.rental)
        same(self.client.user.order(OrderAction.CHECK, self.rental).id, self.rental.id)

    def rent_end(self) -> None:
        true(self.client.user.order(OrderAction.FINISH, self.rental).status in (Status.FINISHED, Status.CANCELED))

    def bad_key(self) -> None:
        same(self.refused(self.new(WRONG_KEY).user.get_profile_data), ErrorType.INVALID_API_KEY)

    def no_numbers(self) -> None:
        same(self.refused(lambda: self.client.user.buy_number(*WHERE, ActivationProduct.AOL)), ErrorType.NO_FREE_PHONES)

    def bad_service(self) -> None:
        unknown = self.refused(
            lambda: self.client.guest.get_prices(country=Country.INDONESIA, product=ActivationProduct.AOL)
        )
        same(unknown, ErrorType.INCORRECT_PRODUCT)


if __name__ == "__main__":
    main(FiveSimDriver)
