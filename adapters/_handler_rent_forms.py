"""The two forms of the rent family: SMS-Activate's, and that of HeroSMS, which renamed nearly all of it. Pure.

Facts: `protocol/handler_api.md` §8. A form says what is asked, and reads what is answered; `_handler_rents` asks. What
no source tells of HeroSMS is taken to be as its nearest relative: `prolongOptions` as `reactivateOptions`, the answer
of `prolong` as that of getRentNumber.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from adapters._handler_rent_rows import (
    NOTHING_TO_RENT,
    PREFIX,
    Moment,
    Page,
    Shown,
    data_of,
    extension_error,
    history,
    renting_countries,
    shown,
    state_page,
    values,
)
from adapters._handler_words import Answer, purchase_error
from adapters._values import Unreadable, cost, digits, mapping, micros, reference, whole
from gateway.errors import InDoubt
from gateway.model import Found, Lease, Outcome

Params = dict[str, str]
PriceAction = Literal["continueRentInfo", "getContinueRentPriceNumber"]


class RentForm(Protocol):
    """What is asked and how the answer is read. Readers of harmless answers raise Unwell, Unreadable and what they say;
    those of answers that cost raise as purchases do."""

    @property
    def lists_rentals(self) -> bool:
        """It has a list of its own for them, getRentList. Otherwise they are rows of the open list."""
        ...

    @property
    def messages_action(self) -> str: ...

    def countries_question(self) -> tuple[str, Params]: ...

    def countries(self, answer: Answer) -> list[str] | None:
        """The upstream's words, None where getCountries has to tell. Raises Refused too."""
        ...

    def list_terms(self, country: str, hours: int) -> Params: ...

    def rent_terms(self, hours: int) -> Params: ...

    def rented(self, answer: Answer, moment: Moment, currency: str) -> Lease: ...

    def cost_question(self, rental: str, hours: int) -> tuple[str, Params]: ...

    def extension_cost(self, answer: Answer, hours: int) -> tuple[int, int]:
        """Micro-units and hours. Raises NotAllowed, UnknownLease too."""
        ...

    def extension(self, rental: str, hours: int) -> tuple[str, str, Params]:
        """Method, action, parameters."""
        ...

    def extended(self, answer: Answer, rental: str, moment: Moment) -> float | None:
        """When it ends now, None where that is not told."""
        ...

    def history_question(self, rental: str, hours: int) -> tuple[str, Params]: ...

    def history(self, answer: Answer) -> list[int]:
        """The hours of each extension there was. Raises Refused too."""
        ...

    def page(self, answer: Answer) -> Page: ...

    def oldest_first(self, rows: list[Shown]) -> list[Shown]:
        """All rows of all pages in the order they came to be, as far as their place tells."""
        ...

    def closing(self, rental: str, outcome: Outcome) -> tuple[str, Params]: ...


@dataclass(frozen=True, slots=True)
class RentRules:
    """How, and for how long, a member rents out.

    `hours` are all the times there are; empty: any number of hours up to a day and of days above that, from
    `hours_min` to `hours_max`.
    """

    form: RentForm
    hours: tuple[int, ...] = ()
    hours_min: int = 2
    hours_max: int = 1344

    def at_least(self, hours: int) -> int | None:
        """The shortest time there is that is no shorter."""
        if self.hours:
            return min((length for length in self.hours if length >= hours), default=None)
        wanted = max(hours, self.hours_min)
        length = wanted if wanted <= 24 else -(-wanted // 24) * 24
        return length if length <= self.hours_max else None

    def extension_at_least(self, hours: int) -> int | None:
        """What to ask for: where times are fixed, those of an extension are told with its price."""
        return hours if self.hours else self.at_least(hours)


@dataclass(frozen=True, slots=True)
class ActivateRents:
    """SMS-Activate's. A rental that is over already is rented anew by an extension, under another id."""

    price_action: PriceAction = "continueRentInfo"
    currency_number: str = ""
    lists_rentals: bool = True
    messages_action: str = "getRentStatus"

    def countries_question(self) -> tuple[str, Params]:
        return "getRentServicesAndCountries", {}

    def countries(self, answer: Answer) -> list[str] | None:
        """The list is of one country, Kazakhstan where none is named; with nothing there it tells of no other."""
        if answer.word in NOTHING_TO_RENT:
            return None
        listed = values(mapping(data_of(answer)).get("countries"))
        return [reference(country) for country in listed]

    def list_terms(self, country: str, hours: int) -> Params:
        currency = {"currency": self.currency_number} if self.currency_number else {}
        return {"country": country, "rent_time": str(hours), **currency}

    def rent_terms(self, hours: int) -> Params:
        return {"rent_time": str(hours)}

    def rented(self, answer: Answer, moment: Moment, currency: str) -> Lease:
        phone = _phone(answer)
        return Lease(
            PREFIX + reference(phone.get("id")), digits(phone.get("number")), expires_at=moment(phone.get("endDate"))
        )

    def cost_question(self, rental: str, hours: int) -> tuple[str, Params]:
        name = "hours" if self.price_action == "continueRentInfo" else "rent_time"
        currency = {"currency": self.currency_number} if self.currency_number and name == "rent_time" else {}
        return self.price_action, {"id": rental, name: str(hours), **currency}

    def extension_cost(self, answer: Answer, hours: int) -> tuple[int, int]:
        if answer.word or answer.status != 200:
            raise extension_error(answer)
        data = mapping(answer.data)
        if self.currency_number and str(data.get("currency") or self.currency_number) != self.currency_number:
            raise Unreadable("a price in another currency")
        return micros(data.get("price")), hours

    def extension(self, rental: str, hours: int) -> tuple[str, str, Params]:
        return "GET", "continueRentNumber", {"id": rental, "rent_time": str(hours)}

    def extended(self, answer: Answer, rental: str, moment: Moment) -> float | None:
        phone = _phone(answer)
        named = reference(phone.get("id"))
        if named != rental:
            raise InDoubt("rented anew instead of extended", reference=PREFIX + named)
        return moment(phone.get("endDate"))

    def history_question(self, rental: str, hours: int) -> tuple[str, Params]:
        return "continueRentInfo", {"id": rental, "hours": str(hours), "needHistory": "true"}

    def history(self, answer: Answer) -> list[int]:
        return history(values(mapping(data_of(answer)).get("history")))

    def page(self, answer: Answer) -> Page:
        told = state_page(answer)
        if told is not None:
            return told
        data = mapping(answer.data)
        return Page(tuple(map(shown, values(data.get("values")))), _total(data.get("quantity")))

    def oldest_first(self, rows: list[Shown]) -> list[Shown]:
        return rows[::-1]

    def closing(self, rental: str, outcome: Outcome) -> tuple[str, Params]:
        return "setRentStatus", {"id": rental, "status": "1" if outcome is Outcome.FINISHED else "2"}


def _phone(answer: Answer) -> Mapping[str, Any]:
    """Of `{"status": "success", "phone": {"id", "endDate", "number"}}`. Raises as a purchase does."""
    phone = answer.data.get("phone") if isinstance(answer.data, dict) else None
    if answer.word or answer.status != 200 or not isinstance(phone, dict):
        raise purchase_error(answer)
    return phone


def _total(value: object) -> int:
    total = whole(value)
    if total is None:
        raise Unreadable("no count of messages")
    return total


@dataclass(frozen=True, slots=True)
class RenamedRents:
    """HeroSMS's: a rental is an activation of subtype 2, for certain numbers of hours only."""

    extend_method: Literal["POST", "GET"] = "POST"
    lists_rentals: bool = False
    messages_action: str = "getAllSms"

    def countries_question(self) -> tuple[str, Params]:
        return "getCountries", {}

    def countries(self, answer: Answer) -> list[str] | None:
        return renting_countries(answer)

    def list_terms(self, country: str, hours: int) -> Params:
        return {"country": country, "duration": str(hours)}

    def rent_terms(self, hours: int) -> Params:
        return {"duration": str(hours)}

    def rented(self, answer: Answer, moment: Moment, currency: str) -> Lease:
        data = _activation(answer)
        return Lease(
            reference=PREFIX + reference(data["activationId"]),
            number=digits(data.get("phoneNumber")),
            cost=cost(data.get("activationCost"), currency),
            operator=str(data.get("activationOperator") or ""),
            expires_at=moment(data.get("activationEndTime")),
        )

    def cost_question(self, rental: str, hours: int) -> tuple[str, Params]:
        return "prolongOptions", {"id": rental}

    def extension_cost(self, answer: Answer, hours: int) -> tuple[int, int]:
        """The shortest of `{"data": {"options": [{"price", "duration": {"unit": "hour", "value"}}]}}` long enough."""
        if answer.word or answer.status != 200:
            raise extension_error(answer)
        data = mapping(answer.data).get("data")
        options = [_option(row) for row in values(mapping(data).get("options") if isinstance(data, dict) else data)]
        long_enough = [(length, price) for length, price in options if length >= hours]
        if not long_enough:
            raise extension_error(Answer(200, "BAD_DURATION"))
        length, price = min(long_enough)
        return price, length

    def extension(self, rental: str, hours: int) -> tuple[str, str, Params]:
        return self.extend_method, "prolong", {"id": rental, "duration": str(hours)}

    def extended(self, answer: Answer, rental: str, moment: Moment) -> float | None:
        """No source has the answer: the rental as it is now, or success without a word of it."""
        if answer.status == 204:
            return None
        data = _activation(answer)
        end = moment(data.get("activationEndTime"))
        if reference(data["activationId"]) != rental or end is None:
            raise InDoubt("perhaps extended, perhaps not")
        return end

    def history_question(self, rental: str, hours: int) -> tuple[str, Params]:
        return "prolongHistory", {"id": rental}

    def history(self, answer: Answer) -> list[int]:
        return history(values(mapping(data_of(answer)).get("data")))

    def page(self, answer: Answer) -> Page:
        told = state_page(answer)
        if told is not None:
            return told
        data = mapping(answer.data)
        return Page(tuple(map(shown, values(data.get("data")))), _total(mapping(data.get("meta")).get("total")))

    def oldest_first(self, rows: list[Shown]) -> list[Shown]:
        return rows

    def closing(self, rental: str, outcome: Outcome) -> tuple[str, Params]:
        return "finishActivation" if outcome is Outcome.FINISHED else "cancelActivation", {"id": rental}


def _activation(answer: Answer) -> Mapping[str, Any]:
    """The V2 object of a purchase. Raises as a purchase does."""
    if answer.word or answer.status != 200 or not isinstance(answer.data, dict) or "activationId" not in answer.data:
        raise purchase_error(answer)
    return answer.data


def _option(row: object) -> tuple[int, int]:
    """Whole hours and micro-units; minutes that are no whole hour round down, so that nothing is promised."""
    option = mapping(row)
    duration = mapping(option.get("duration"))
    number = whole(duration.get("value"))
    if number is None:
        raise Unreadable("not a time")
    return number // 60 if duration.get("unit") == "minute" else number, micros(option.get("price"))


def rent_list(answer: Answer) -> list[Found]:
    """One page of getRentList, which names neither service nor country nor time.

    Raises Refused, Unwell, Unreadable: an unreadable row may be the one that is looked for.
    """
    if answer.word in NOTHING_TO_RENT:
        return []
    rows = map(mapping, values(mapping(data_of(answer)).get("values")))
    leases = [Lease(PREFIX + reference(row.get("id")), digits(row.get("phone"))) for row in rows]
    return [Found(lease, "", -1, None, is_rental=True) for lease in leases]
