"""sms-man as an upstream: `/control/<call>`, JSON, refusals as `error_code`, with status 200.

Wire facts: the notes on other upstreams (§3) and what the published client `smsmanpy` demands: lists as objects that
hold the id 1, `error_msg` beside each `error_code`. What is said of a request that is over is UNCERTAIN.
"""

import time
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from starlette.applications import Starlette
from starlette.responses import Response

from tests.simulators import _serve
from tests.simulators._common import Amount, Clock, json_reply, money
from tests.simulators._shop_engine import NoFunds, NoneLeft, Order, Refusal, Shop, application

DEFAULT_KEY = "simulator-token"
LIFE_SECONDS = 1200.0

COUNTRIES = {
    "1": ("Russia", "RU", "7"),
    "5": ("USA", "US", "1"),
    "14": ("India", "IN", "91"),
    "100": ("United Kingdom", "GB", "44"),
    "123": ("Germany", "", "49"),
    "190": ("Sealand", "XS", "999"),
}
"""Id -> title, code (which some rows lack), prefix."""

APPLICATIONS = {
    "1": ("Vkontakte", "vk", "15.00"),
    "2": ("Whatsapp", "wa", "55.00"),
    "3": ("Telegram", "tg", "42.00"),
    "16": ("Instagram", "ig", "13.00"),
    "122": ("Google", "go", "33.00"),
    "297": ("Amazon", "", "19.00"),
    "2001": ("Somebody's", "zzzz", "9.00"),
}
"""Id -> title, code, price."""

STATUSES = ("ready", "close", "reject", "used")

MESSAGES = {
    "wrong_token": "Wrong token!",
    "balance": "Insufficient balance",
    "no_numbers": "No numbers available",
    "wait_sms": "Still waiting...",
    "wrong_application_id": "Wrong application ID!",
    "wrong_country_id": "Wrong country ID!",
    "wrong_request_id": "Wrong request ID!",
    "wrong_status": "Wrong status!",
    "sms_received": "The code has been received",
    "too_many_requests": "Too many requests",
    "canceled": "The request is canceled",
    "expired": "The request is over",
    "closed": "The request is closed",
}
OVER = {"cancelled": "canceled", "expired": "expired", "finished": "closed"}

CALLS = {
    "get-balance": "balance",
    "countries": "prices",
    "applications": "prices",
    "limits": "prices",
    "get-prices": "prices",
    "get-number": "buy",
    "get-sms": "status",
    "set-status": "close",
}
"""Call -> the target its faults are named after."""


class SmsMan(Shop):
    """One account. Shelves are named by ids: service `3`, country `100`."""

    first_id = 500_000_000

    def answer_to(self, name: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        try:
            if params.get("token") not in self.keys or self.faults.take("bad_key"):
                raise Refusal("wrong_token")
            return json_reply(self._act(name, params))
        except Refusal as refusal:
            return refused(refusal.word)

    def _act(self, name: str, params: Mapping[str, str]) -> Any:
        match name:
            case "get-balance":
                return {"balance": str(self.balance)}
            case "countries":
                return {number: _named(number, title, code) for number, (title, code, _) in COUNTRIES.items()}
            case "applications":
                return {number: _named(number, title, code) for number, (title, code, _) in APPLICATIONS.items()}
            case "limits":
                return self._limits(params)
            case "get-prices":
                return self._prices(params.get("country_id"))
            case "get-number":
                return self._number(params)
            case "get-sms":
                return self._sms(self._request(params))
            case "set-status":
                return self._set_status(self._request(params), params.get("status", ""))
        raise AssertionError(name)

    def _limits(self, params: Mapping[str, str]) -> list[dict[str, str]]:
        return [
            {"application_id": service, "country_id": country, "numbers": str(shelf.count)}
            for (service, country), shelf in self.shelves.items()
            if params.get("application_id", service) == service and params.get("country_id", country) == country
        ]

    def _prices(self, country: str | None) -> dict[str, Any]:
        """By country and service, or by service alone where a country is named."""
        if country is None:
            return {number: self._country_prices(number) for number in COUNTRIES}
        if country not in COUNTRIES:
            raise Refusal("wrong_country_id")
        return {
            service: {**leaf, "country_id": country, "application_id": service}
            for service, leaf in self._country_prices(country).items()
        }

    def _country_prices(self, country: str) -> dict[str, dict[str, Any]]:
        return {
            service: {"cost": str(shelf.price), "count": shelf.count}
            for (service, place), shelf in self.shelves.items()
            if place == country
        }

    def _number(self, params: Mapping[str, str]) -> dict[str, Any]:
        service, country = params.get("application_id", ""), params.get("country_id", "")
        if service not in APPLICATIONS:
            raise Refusal("wrong_application_id")
        if country not in COUNTRIES:
            raise Refusal("wrong_country_id")
        try:
            return self._facts(self.buy(service, country, _price_max(params)))
        except NoneLeft:
            raise Refusal("no_numbers") from None
        except NoFunds:
            raise Refusal("balance") from None

    def _facts(self, order: Order) -> dict[str, Any]:
        return {
            "request_id": int(order.id),
            "country_id": int(order.country),
            "application_id": int(order.service),
            "number": order.phone,
        }

    def _request(self, params: Mapping[str, str]) -> Order:
        order = self.orders.get(params.get("request_id", ""))
        if order is None:
            raise Refusal("wrong_request_id")
        return order

    def _sms(self, order: Order) -> dict[str, Any]:
        """One code: the last that came since another was asked for."""
        if not order.is_open:
            raise Refusal(OVER[order.state])
        if not order.new_sms:
            raise Refusal("wait_sms")
        sms = order.new_sms[-1]
        return {**self._facts(order), "sms_code": sms.code or sms.text}

    def _set_status(self, order: Order, status: str) -> dict[str, Any]:
        if status not in STATUSES:
            raise Refusal("wrong_status")
        if not order.is_open:
            raise Refusal(OVER[order.state])
        if status == "ready":
            self.ask_again(order)
        elif status == "close":
            self.finish(order)
        elif order.sms or self.met_by_sms(order):
            raise Refusal("sms_received")
        else:
            self.give_back(order)
        return {"request_id": int(order.id), "success": True}

    def server_error(self) -> Response:
        return Response("Internal Server Error", 500, media_type="text/html")

    def rate_limited(self) -> Response:
        return refused("too_many_requests", 429)


def refused(word: str, status: int = 200) -> Response:
    return json_reply({"success": False, "error_code": word, "error_msg": MESSAGES[word]}, status)


def _named(number: str, title: str, code: str) -> dict[str, str]:
    return {"id": number, "title": title, **({"code": code} if code else {})}


def _price_max(params: Mapping[str, str]) -> Decimal | None:
    return money(params["maxPrice"]) if params.get("maxPrice") else None


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "100000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    life_seconds: float = LIFE_SECONDS,
    requests_per_second: int | None = None,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself.
    """
    sim = SmsMan(
        keys=keys,
        balance=balance,
        goods={number: price for number, (_, _, price) in APPLICATIONS.items()},
        countries={number: prefix for number, (_, _, prefix) in COUNTRIES.items()},
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        cancel_wait_seconds=0.0,
        life_seconds=life_seconds,
        requests_per_second=requests_per_second,
        clock=clock,
    )
    return application(sim, CALLS, lambda name: (f"/control/{name}",))


def main() -> None:
    given = _serve.parser("sms-man as an upstream.").parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
