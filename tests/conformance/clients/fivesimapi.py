"""aiohttp, a request each; refusals by HTTP status.

package: fivesimapi
from: PyPI
path: /v1
moved by: `client.api_url`
calls: balance prices countries services operators number waiting code text finish cancel history more rent rent_status bad_key no_numbers bad_service
fails no_numbers: 5sim says it with 200 and text, which it reads as JSON (`fivesim.py`, fetch)
note: the key has to be given with `Bearer ` before it
"""

from __future__ import annotations

from typing import Any

from FiveSimApi.fivesim import FiveSim, InvalidApiKey, InvalidInput

from tests.conformance.driver import WRONG_KEY, Driver, main, same, true, until_async

PRODUCT, COUNTRY = "telegram", "indonesia"


class FiveSimApi(Driver):
    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        client: Any = FiveSim(f"Bearer {key}")
        client.api_url = self.url
        return client

    async def refused(self, kind: type[Exception], call: Any) -> None:
        try:
            found = await call
        except kind:
            return
        raise AssertionError(f"{found!r} where a refusal was due")

    async def balance(self) -> None:
        same((await self.client.get_profile())["balance"], self.available())

    async def prices(self) -> None:
        true((await self.client.get_prices_by_country_and_product(COUNTRY, PRODUCT))[COUNTRY][PRODUCT])
        true((await self.client.get_prices_by_product(PRODUCT))[PRODUCT][COUNTRY])
        true((await self.client.get_prices_by_country(COUNTRY))[COUNTRY][PRODUCT])

    async def countries(self) -> None:
        same((await self.client.countries_list())[COUNTRY]["prefix"], {"+62": 1})

    async def services(self) -> None:
        true((await self.client.product_details(COUNTRY, "any"))[PRODUCT]["Price"] > 0)

    async def operators(self) -> None:
        true("telkomsel" in (await self.client.countries_list())[COUNTRY])

    async def number(self) -> None:
        before = self.available()
        self.order = await self.client.buy_activation_number(COUNTRY, "any", PRODUCT)
        same(self.available(), round(before - self.order["price"], 4))

    async def waiting(self) -> None:
        same((await self.client.check_order(self.order["id"]))["status"], "PENDING")

    async def code(self) -> None:
        async def read() -> Any:
            return (await self.client.get_sms(self.order["id"]))["sms"] or None

        [self.message] = await until_async(read)
        same(self.message["code"], self.last_code(self.order["id"]))

    async def text(self) -> None:
        true(self.message["code"] in self.message["text"], self.message)

    async def finish(self) -> None:
        same((await self.client.finish_order(self.order["id"]))["status"], "FINISHED")
        true(self.is_over(self.order["id"], "6"))

    async def cancel(self) -> None:
        before = self.available()
        order = await self.client.buy_activation_number(COUNTRY, "any", PRODUCT)
        same((await self.client.cancel_order(order["id"]))["status"], "CANCELED")
        order = await self.client.buy_activation_number(COUNTRY, "any", PRODUCT)
        same((await self.client.ban_order(order["id"]))["status"], "BANNED")
        same(self.available(), before)

    async def history(self) -> None:
        same(len((await self.client.order_history("activation"))["Data"]), 3)
        same((await self.client.payment_history())["Total"], 1)

    async def more(self) -> None:
        """A number sold again, or the refusal that says it is not."""
        await self.refused(InvalidInput, self.client.re_buy_number(PRODUCT, "6281234567890"))

    async def rent(self) -> None:
        self.rental = await self.client.buy_hosting_number(COUNTRY, "any", "1day")
        true(self.rental["phone"].startswith("+62"), self.rental)

    async def rent_status(self) -> None:
        true("Data" in await self.client.sms_inbox_list(self.rental["id"]))

    async def bad_key(self) -> None:
        await self.refused(InvalidApiKey, self.new(WRONG_KEY).get_profile())

    async def no_numbers(self) -> None:
        await self.refused(InvalidInput, self.client.buy_activation_number(COUNTRY, "any", "aol"))

    async def bad_service(self) -> None:
        await self.refused(InvalidInput, self.client.buy_activation_number(COUNTRY, "any", "nonsense"))


if __name__ == "__main__":
    main(FiveSimApi)
