"""What the official Python client and its descendants have in common: one set of methods, results as dictionaries."""

from __future__ import annotations

from typing import Any

from tests.conformance.driver import COUNTRY, SERVICE, UNKNOWN_SERVICE, UNSOLD, WRONG_KEY, Driver, code_of, same, true
from tests.conformance.driver import until as wait


class Official(Driver):
    """A subclass makes the client."""

    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.client = self.new(key)

    def new(self, key: str) -> Any:
        raise NotImplementedError

    def balance(self) -> None:
        same(float(self.client.getBalance()["balance"]), self.available())
        same(float(self.client.getBalanceAndCashBack()["balance"]), self.available())

    def prices(self) -> None:
        true(self.client.getPrices(service=SERVICE, country=COUNTRY)[str(COUNTRY)][SERVICE]["cost"] > 0)

    def countries(self) -> None:
        same(self.client.getCountries()["6"]["eng"], "Indonesia")

    def services(self) -> None:
        listed = self.client.getServicesList(country=COUNTRY, lang="en")["services"]
        same([row["code"] for row in listed if row["code"] == "wa"], ["wa"])

    def operators(self) -> None:
        true("telkomsel" in self.client.getOperators(country=COUNTRY)["countryOperators"][str(COUNTRY)])

    def stock(self) -> None:
        true(int(self.client.getNumbersStatus(country=COUNTRY)[SERVICE]) > 0)

    def top(self) -> None:
        true(self.client.getTopCountriesByService(service=SERVICE)["0"]["price"] > 0)

    def number(self) -> None:
        bought = self.client.getNumber(service=SERVICE, country=COUNTRY, maxPrice=10)
        true(str(bought["phone"]).startswith("62"), bought)
        self.id = bought["activation_id"]

    def number_v2(self) -> None:
        before = self.available()
        bought = self.client.getNumberV2(service=SERVICE, country=COUNTRY, maxPrice=10)
        same(self.available(), round(before - bought["activationCost"], 4))
        self.other = bought["activationId"]

    def waiting(self) -> None:
        same(self.client.getStatus(self.id), "STATUS_WAIT_CODE")

    def ready(self) -> None:
        same(self.client.setStatus(self.id, status=1), "ACCESS_READY")

    def code(self) -> None:
        self.first = wait(lambda: code_of(self.client.getStatus(self.id)))
        same(self.first, self.last_code(self.id))

    def text(self) -> None:
        true(self.first in self.client.getFullSms(self.id).removeprefix("FULL_SMS:"))

    def again(self) -> None:
        same(self.client.setStatus(self.id, status=3), "ACCESS_RETRY_GET")
        second = wait(lambda: code if (code := code_of(self.client.getStatus(self.id))) != self.first else None)
        same(second, self.last_code(self.id))

    def open(self) -> None:
        listed = self.client.getActiveActivations()["activeActivations"]
        same([row["activationId"] for row in listed], [str(self.id), str(self.other)])

    def finish(self) -> None:
        same(self.client.setStatus(self.id, status=6), "ACCESS_ACTIVATION")
        true(self.is_over(self.id, "6"))

    def cancel(self) -> None:
        before = self.available()
        other = self.client.getNumberV2(service=SERVICE, country=COUNTRY)["activationId"]
        same(self.client.setStatus(other, status=8), "ACCESS_CANCEL")
        same(self.available(), before)

    def more(self) -> None:
        """A number, or the original's word for none; no number here takes calls."""
        added = self.client.getAdditionalService(service="go", id=self.other)
        true("phone" in added or added.get("error") == "WRONG_ADDITIONAL_SERVICE", added)
        same(self.client.getIncomingCallStatus(self.id)["error"], "NOT_INCOMING")

    def rent_offers(self) -> None:
        offered = self.client.getRentServicesAndCountries(time=4, country=COUNTRY)["services"]
        self.rentable = SERVICE if SERVICE in offered else next(iter(offered))

    def rent(self) -> None:
        rented = self.client.getRentNumber(service=self.rentable, time=4, country=COUNTRY)
        self.rental = rented["phone"]["id"]

    def rent_status(self) -> None:
        read = self.client.getRentStatus(self.rental)
        true(read["status"] == "success" or read["message"] == "STATUS_WAIT_CODE", read)

    def rent_list(self) -> None:
        listed = self.client.getRentList()["values"].values()
        true(str(self.rental) in [str(row["id"]) for row in listed])

    def rent_longer(self) -> None:
        true(float(self.client.getContinueRentPriceNumber(self.rental)["price"]) > 0)
        same(self.client.continueRentNumber(self.rental, time=4)["status"], "success")

    def rent_end(self) -> None:
        same(self.client.setRentStatus(self.rental, status=1)["status"], "success")

    def bad_key(self) -> None:
        same(self.new(WRONG_KEY).getBalance()["error"], "BAD_KEY")

    def no_numbers(self) -> None:
        service, country = UNSOLD
        same(self.client.getNumber(service=service, country=country)["error"], "NO_NUMBERS")

    def bad_service(self) -> None:
        same(self.client.getNumber(service=UNKNOWN_SERVICE, country=COUNTRY)["error"], "BAD_SERVICE")
