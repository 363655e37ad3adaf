"""OnlineSim as an upstream: `/api/<method>.php`, status 200, words in `response`.

Wire facts: the notes on other upstreams (§2) and what the published client `onlinesimru` demands: purchases by POST
with a JSON body, lists without `response`, countries by dialling prefix.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.responses import Response

from tests.simulators import _serve
from tests.simulators._common import Amount, Clock, Dropped, json_reply
from tests.simulators._shop_engine import NoFunds, NoneLeft, Order, Refusal, Shop, application

DEFAULT_KEY = "simulator-key"
LIFE_SECONDS = 900.0

COUNTRIES = {
    "44": "England",
    "1": "USA",
    "7": "Russia",
    "49": "Germany",
    "62": "Indonesia",
    "31": "Netherlands",
    "77": "Kazakhstan",
}
SERVICES = {
    "telegram": ("Telegram", "0.42"),
    "whatsapp": ("WhatsApp", "0.55"),
    "google": ("Google", "0.33"),
    "facebook": ("Facebook", "0.16"),
    "discord": ("Discord", "0.11"),
    "amazon": ("Amazon", "0.19"),
    "drugvokrug": ("DrugVokrug", "0.08"),
}

CALLS = {
    "getBalance": "balance",
    "getPrice": "prices",
    "getNumbersStats": "prices",
    "getNum": "buy",
    "getState": "status",
    "setOperationRevise": "close",
    "setOperationOk": "close",
}
"""Method -> the target its faults are named after."""

PREFIXES = {"77": "7"}
"""Countries that are not their own prefix."""


class OnlineSim(Shop):
    """One account. What is held shows as `zbalance`."""

    first_id = 70_000_000

    def answer_to(self, name: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        try:
            self._check_key(params, headers)
            return json_reply(self._act(name, params))
        except Refusal as refusal:
            return json_reply({"response": refusal.word})

    def _check_key(self, params: Mapping[str, str], headers: Mapping[str, str]) -> None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = params.get("apikey") or (bearer if scheme.lower() == "bearer" else "")
        if not key:
            raise Refusal("ERROR_NO_KEY")
        if key not in self.keys or self.faults.take("bad_key"):
            raise Refusal("ERROR_WRONG_KEY")

    def _act(self, name: str, params: Mapping[str, str]) -> Any:
        match name:
            case "getBalance":
                income = {"income": 0} if "income" in params else {}
                return {"response": "1", "balance": str(self.balance), "zbalance": float(self.held), **income}
            case "getPrice":
                service = self._service(params)
                return {"response": "1", "price": str(min(self.shelves[service, to].price for to in COUNTRIES))}
            case "getNumbersStats":
                return self._stats(params.get("country", "7"))
            case "getNum":
                return self._buy(params)
            case "getState":
                return self._states(params)
            case "setOperationRevise":
                self.ask_again(self._open_operation(params))
            case "setOperationOk":
                self._close(self._open_operation(params))
        return {"response": 1, "tzid": int(params["tzid"])}

    def _service(self, params: Mapping[str, str]) -> str:
        if not params.get("service"):
            raise Refusal("ERROR_NO_SERVICE")
        service = params["service"].lower()
        if service not in SERVICES:
            raise Refusal("NO_NUMBER")
        return service

    def _stats(self, country: str) -> dict[str, Any]:
        if country == "all":
            return {code: self._country_stats(code) for code in COUNTRIES}
        if country not in COUNTRIES:
            raise Refusal("UNDEFINED_COUNTRY")
        return self._country_stats(country)

    def _country_stats(self, code: str) -> dict[str, Any]:
        services = {
            f"service_{slug}": {
                "count": self.shelves[slug, code].count,
                "popular": slug == "telegram",
                "code": int(code),
                "price": str(self.shelves[slug, code].price),
                "id": place,
                "service": title,
                "slug": slug,
            }
            for place, (slug, (title, _)) in enumerate(SERVICES.items(), 1)
        }
        return {
            "name": COUNTRIES[code],
            "position": list(COUNTRIES).index(code),
            "code": int(code),
            "other": False,
            "new": False,
            "enabled": True,
            "services": services,
        }

    def _buy(self, params: Mapping[str, str]) -> dict[str, Any]:
        country = params.get("country", "7")
        if country not in COUNTRIES:
            raise Refusal("UNDEFINED_COUNTRY")
        try:
            order = self.buy(self._service(params), country)
        except NoneLeft:
            raise Refusal("NO_NUMBER") from None
        except NoFunds:
            raise Refusal("WARNING_LOW_BALANCE") from None
        number = {"number": f"+{order.phone}"} if _is_true(params.get("number")) else {}
        return {"response": 1, "tzid": int(order.id), **number}

    def _states(self, params: Mapping[str, str]) -> list[dict[str, Any]]:
        """All that are open, or one of them, ended or not."""
        if "tzid" in params:
            orders = [self._operation(params)]
        else:
            orders = [order for order in self.orders.values() if order.is_open]
        if not orders:
            raise Refusal("ERROR_NO_OPERATIONS")
        rows = [self._row(order, params) for order in orders]
        return rows[::-1] if params.get("orderby", "").lower() == "desc" else rows

    def _row(self, order: Order, params: Mapping[str, str]) -> dict[str, Any]:
        as_codes = _is_true(params.get("message_to_code"))
        words = [sms.code or sms.text if as_codes else sms.text for sms in order.sms]
        if _is_true(params.get("msg_list")):
            msg: Any = [{"service": order.service, "msg": word} for word in words] or False
        else:
            msg = words[-1] if order.new_sms else False
        return {
            "tzid": int(order.id),
            "country": int(order.country),
            "number": f"+{order.phone}",
            "service": order.service,
            "response": _state(order),
            "msg": msg,
            "time": max(0, int(order.ends_at - self.now())),
            "form": "index",
            "sum": float(order.price),
        }

    def _operation(self, params: Mapping[str, str]) -> Order:
        if "tzid" not in params:
            raise Refusal("ERROR_NO_TZID")
        order = self.orders.get(params["tzid"])
        if order is None:
            raise Refusal("ERROR_WRONG_TZID")
        return order

    def _open_operation(self, params: Mapping[str, str]) -> Order:
        order = self._operation(params)
        if not order.is_open:
            raise Refusal("NO_COMPLETE_TZID")
        return order

    def _close(self, order: Order) -> None:
        """Paid for where a code is there; given back where none is, though not in its first minutes."""
        if order.sms or (not self.is_early(order) and self.met_by_sms(order)):
            self.finish(order)
        elif self.is_early(order):
            raise Refusal("NO_COMPLETE_TZID")
        else:
            self.give_back(order)

    def server_error(self) -> Response:
        return Response("Server Error", 500, media_type="text/html")

    def rate_limited(self) -> Response:
        return json_reply({"response": "INTERVAL_CONCURRENT_REQUESTS_ERROR"})

    def over_the_limit(self) -> Response:
        """Whoever asks too fast gets no answer at all."""
        return Dropped()


def _state(order: Order) -> str:
    if order.is_open:
        return "TZ_NUM_ANSWER" if order.new_sms else "TZ_NUM_WAIT"
    return "TZ_OVER_OK" if order.state == "finished" else "TZ_OVER_EMPTY"


def _is_true(given: str | None) -> bool:
    return (given or "").lower() in ("1", "true")


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "1000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    cancel_wait_seconds: float = 120.0,
    life_seconds: float = LIFE_SECONDS,
    requests_per_second: int | None = None,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself; an operation without a code can't be closed
    within `cancel_wait_seconds`; above `requests_per_second` connections are dropped.
    """
    sim = OnlineSim(
        keys=keys,
        balance=balance,
        goods={slug: price for slug, (_, price) in SERVICES.items()},
        countries={code: PREFIXES.get(code, code) for code in COUNTRIES},
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        cancel_wait_seconds=cancel_wait_seconds,
        life_seconds=life_seconds,
        requests_per_second=requests_per_second,
        clock=clock,
    )
    return application(sim, CALLS, lambda name: (f"/api/{name}.php",))


def main() -> None:
    flags = _serve.parser("OnlineSim as an upstream.")
    flags.add_argument("--cancel-wait-seconds", type=float, help="closing without a code is refused for so long")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
