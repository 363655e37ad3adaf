"""vak-sms as an upstream: `/api/<call>`, with or without a slash at the end, JSON, refusals as `error`.

Wire facts: the notes on other upstreams (§4) and what the published clients `aiovaksms` and `vaksms` demand: `cost`,
`quantity`, `icon` and `private` in the price list, `all` in any spelling for every code. What is said of an order that
is over is UNCERTAIN.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.responses import Response

from tests.simulators import _serve
from tests.simulators._common import Amount, Clock, json_reply
from tests.simulators._shop_engine import BEHAVIOURS, NoFunds, NoneLeft, Order, Refusal, Shop, application

DEFAULT_KEY = "simulator-key"
LIFE_SECONDS = 1200.0

COUNTRIES = {
    "ru": ("Russia", "7", ("beeline", "mts", "tele2")),
    "gb": ("United Kingdom", "44", ("o2", "three")),
    "us": ("USA", "1", ("tmobile",)),
    "de": ("Germany", "49", ("o2",)),
    "xk": ("Kosovo", "383", ("ipko",)),
}
"""Code -> name, prefix, operators."""

SERVICES = {
    "tg": ("Telegram", "42"),
    "wa": ("WhatsApp", "55"),
    "gl": ("Google", "33"),
    "fb": ("Facebook", "16"),
    "dc": ("Discord", "11"),
    "am": ("Amazon", "19"),
    "zzz": ("Nobody knows", "8"),
}
"""Code -> name, price."""

CALLS = {
    "getBalance": "balance",
    "getCountryList": "prices",
    "getCountNumbersList": "prices",
    "getCountNumber": "prices",
    "getNumber": "buy",
    "getSmsCode": "status",
    "setStatus": "close",
}
"""Call -> the target its faults are named after."""

WITHOUT_KEY = frozenset({"getCountryList", "getCountNumbersList"})


class VakSms(Shop):
    """One account. Denied, an order is told of as one that is over: there is one word for both."""

    behaviours = BEHAVIOURS | {"denied"}

    def order_id(self, serial: int) -> str:
        return f"{1_790_000_000_000 + serial * 7919:x}"

    def answer_to(self, name: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        try:
            if name not in WITHOUT_KEY and (params.get("apiKey") not in self.keys or self.faults.take("bad_key")):
                raise Refusal("apiKeyNotFound")
            return json_reply(self._act(name, params))
        except Refusal as refusal:
            return json_reply({"error": refusal.word})

    def _act(self, name: str, params: Mapping[str, str]) -> Any:
        match name:
            case "getBalance":
                return {"balance": float(self.balance)}
            case "getCountryList":
                return [
                    {"countryName": title, "countryCode": code, "operatorList": list(operators)}
                    for code, (title, _, operators) in COUNTRIES.items()
                ]
            case "getCountNumbersList":
                return self._price_list(self._country(params))
            case "getCountNumber":
                return self._count(params)
            case "getNumber":
                return self._numbers(params)
            case "getSmsCode":
                return {"smsCode": self._codes(self._told(params), "all" in params)}
            case "setStatus":
                return {"status": self._set_status(self._order(params), params.get("status", ""))}
        raise AssertionError(name)

    def _country(self, params: Mapping[str, str]) -> str:
        country = params.get("country", "ru").lower()
        if country not in COUNTRIES:
            raise Refusal("noCountry")
        if params.get("operator", "") not in ("", *COUNTRIES[country][2]):
            raise Refusal("noOperator")
        return country

    def _services(self, params: Mapping[str, str]) -> list[str]:
        services = params.get("service", "").split(",")
        if not set(services) <= set(SERVICES):
            raise Refusal("badService")
        return services

    def _price_list(self, country: str) -> dict[str, Any]:
        return {
            code: [
                {
                    "name": title,
                    "icon": f"/static/service/{code}.png",
                    "info": "",
                    "cost": float(self.shelves[code, country].price),
                    "rent": False,
                    "quantity": self.shelves[code, country].count,
                    "private": False,
                }
            ]
            for code, (title, _) in SERVICES.items()
        }

    def _count(self, params: Mapping[str, str]) -> dict[str, Any]:
        country, (service, *_) = self._country(params), self._services(params)
        shelf = self.shelves[service, country]
        price = {"price": float(shelf.price)} if "price" in params else {}
        return {service: shelf.count, **price}

    def _numbers(self, params: Mapping[str, str]) -> Any:
        """One number, or a list of them for several services."""
        country, services = self._country(params), self._services(params)
        bought = [self._bought(service, country) for service in services]
        if len(bought) == 1:
            return bought[0]
        return [{**number, "service": service} for number, service in zip(bought, services, strict=True)]

    def _bought(self, service: str, country: str) -> dict[str, Any]:
        try:
            order = self.buy(service, country)
        except NoneLeft:
            raise Refusal("noNumber") from None
        except NoFunds:
            raise Refusal("noMoney") from None
        return {"tel": int(order.phone), "idNum": order.id}

    def _order(self, params: Mapping[str, str]) -> Order:
        """An order that is open, or was finished with a code."""
        order = self.orders.get(params.get("idNum", ""))
        if order is None or not (order.is_open or order.state == "finished"):
            raise Refusal("idNumNotFound")
        return order

    def _told(self, params: Mapping[str, str]) -> Order:
        """The order as it is told of: denied while it waits, in lies."""
        order = self._order(params)
        if order.state == "waiting" and not order.sms and self.faults.take("denied"):
            raise Refusal("idNumNotFound")
        return order

    def _codes(self, order: Order, wants_all: bool) -> Any:
        shown = order.sms if wants_all else order.new_sms
        codes = [sms.code or sms.text for sms in shown]
        if not codes:
            return None
        return codes if wants_all else codes[-1]

    def _set_status(self, order: Order, status: str) -> str:
        if status not in ("send", "end", "bad"):
            raise Refusal("badStatus")
        if status == "send":
            if not order.is_open:
                raise Refusal("badStatus")
            self.ask_again(order)
            return "ready"
        if not order.sms and self.is_early(order):
            return "waitSMS"
        if order.sms or self.met_by_sms(order):
            if order.is_open:
                self.finish(order)
            return "smsReceived"
        self.give_back(order)
        return "update"

    def server_error(self) -> Response:
        return Response("<h1>Server Error (500)</h1>", 500, media_type="text/html")

    def rate_limited(self) -> Response:
        return Response("Too Many Requests", 429, media_type="text/html")


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "100000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    cancel_wait_seconds: float = 0.0,
    life_seconds: float = LIFE_SECONDS,
    requests_per_second: int | None = None,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself; within `cancel_wait_seconds` a number is not
    taken back.
    """
    sim = VakSms(
        keys=keys,
        balance=balance,
        goods={code: price for code, (_, price) in SERVICES.items()},
        countries={code: prefix for code, (_, prefix, _) in COUNTRIES.items()},
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        cancel_wait_seconds=cancel_wait_seconds,
        life_seconds=life_seconds,
        requests_per_second=requests_per_second,
        clock=clock,
    )
    return application(sim, CALLS, lambda name: (f"/api/{name}", f"/api/{name}/"))


def main() -> None:
    flags = _serve.parser("vak-sms as an upstream.")
    flags.add_argument("--cancel-wait-seconds", type=float, help="a number is not taken back for so long")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
