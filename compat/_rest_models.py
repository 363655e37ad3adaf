"""What goes over the wire, as models: they check requests, render answers, and describe both in the document.

Amounts are decimals in text, times RFC 3339 in UTC, phone numbers begin with `+`, ids with `ver_`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, WithJsonSchema

from gateway.live import Live, Shown
from gateway.model import Status
from gateway.money import Money, plain

WAIT_SECONDS_MAX = 60
PAGE_MAX = 100
AMOUNT = r"^-?[0-9]{1,12}\.[0-9]{2,6}$"
PRICE = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
LINE = r"^[^\x00-\x1f\x7f]+$"
"""One line of text: PostgreSQL stores no NUL, and no operator's name has a control character."""

ACTIVATION_ID = r"^(ver_)?[1-9][0-9]{0,18}$"

Word = Literal["opening", "waiting", "received", "retrying", "finished", "cancelled", "expired", "failed"]


def _country_word(value: Any) -> Any:
    """An id as JSON number is as good as one in text; true and false are no numbers here."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


CountryWord = Annotated[
    StrictStr,
    BeforeValidator(_country_word),
    Field(pattern=r"^([0-9]{1,6}|[A-Za-z]{2})$"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 999999},
                {"type": "string", "pattern": r"^([0-9]{1,6}|[A-Za-z]{2})$"},
            ],
            "description": "SMS-Activate id (`6`) or ISO 3166 letters (`ID`); where they have several ids, the last.",
            "examples": ["ID", 6],
        }
    ),
]
ServiceCode = Annotated[
    StrictStr, Field(pattern=r"^[a-z0-9]{1,5}$", description="SMS-Activate code of the service.", examples=["tg"])
]
PhonePrefix = Annotated[StrictStr, Field(pattern=r"^\+?[0-9]{4,9}$", examples=["7918"])]


class Model(BaseModel):
    """Shared by all: immutable, and a member nobody knows is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    may_be_absent: ClassVar[bool] = False
    """Of a body: nothing at all is as good as an empty object."""


# Requests


class NoQuery(Model):
    """No parameters."""


class NoBody(Model):
    """Nothing, or an empty object."""

    may_be_absent = True


class ActivationQuery(Model):
    """How long the answer may be put off."""

    wait: int = Field(
        default=0,
        ge=0,
        le=WAIT_SECONDS_MAX,
        description="Seconds to wait for a code while none is there. The answer comes as soon as there is one, or the"
        " activation ends, or the time is up.",
    )


class ListQuery(Model):
    """Which part of the list."""

    state: Literal["open", "past"] | None = Field(default=None, description="Only these; without it, all.")
    limit: int = Field(default=50, ge=1, le=PAGE_MAX, description="How many at most.")
    cursor: str | None = Field(
        default=None, min_length=1, max_length=64, description="`next_cursor` of the page before, as it came."
    )


class PricesQuery(Model):
    """Which part of the price list; without a parameter, all of it."""

    service: ServiceCode | None = None
    country: CountryWord | None = None


class Purchase(Model):
    """What is wanted."""

    service: ServiceCode
    country: CountryWord
    operator: Annotated[StrictStr, Field(min_length=1, max_length=100, pattern=LINE)] | None = Field(
        default=None, description="Operators that will do, by comma. Without it, any."
    )
    max_price: Annotated[StrictStr, Field(pattern=PRICE)] | None = Field(
        default=None,
        description="The most this number may cost, in the account's currency. Without it, the listed price.",
        examples=["0.15"],
    )
    phone_exceptions: Annotated[list[PhonePrefix], Field(max_length=20)] = Field(
        default=[], description="Beginnings of numbers that are not wanted: country code and more."
    )


class Again(Model):
    """Nothing, or the most it may cost."""

    may_be_absent = True

    max_price: Annotated[StrictStr, Field(pattern=PRICE)] | None = Field(
        default=None, description="The most this may cost, in the account's currency. Without it, the price asked."
    )


class Beside(Model):
    """What is wanted on the number."""

    service: ServiceCode
    max_price: Annotated[StrictStr, Field(pattern=PRICE)] | None = Field(
        default=None, description="The most this may cost, in the account's currency. Without it, the listed price."
    )


# Answers


class Amount(Model):
    """Money."""

    amount: str = Field(pattern=AMOUNT, description="A decimal.", examples=["0.12"])
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217.", examples=["USD"])


class Message(Model):
    """One SMS."""

    code: str = Field(description="The code found in it.", examples=["123456"])
    text: str = Field(description="The text as it came.", examples=["Your code is 123456"])
    received_at: datetime


class Activation(Model):
    """A number for one service, from its purchase to its end."""

    id: str = Field(pattern=ACTIVATION_ID, examples=["ver_123456"])
    status: Word = Field(
        description="`waiting` for the first message, `received`, `retrying` (waiting for another); then `finished`,"
        " `cancelled` or `expired` (no message, nothing charged), or `failed` (no number was had)."
    )
    service: str = Field(examples=["tg"])
    country: int = Field(examples=[6])
    phone_number: str | None = Field(pattern=r"^\+[0-9]+$", examples=["+6281234567890"])
    price: Amount
    opened_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    code: str | None = Field(description="The newest code.", examples=["123456"])
    messages: list[Message] = Field(description="Oldest first.")


class ActivationList(Model):
    """One page, newest first."""

    activations: list[Activation]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class AgainOffer(Model):
    """What another code on the number of an activation would cost."""

    price: Amount
    service: str = Field(examples=["tg"])
    country: int = Field(examples=[6])


class Messages(Model):
    """The messages of one activation."""

    id: str = Field(pattern=ACTIVATION_ID, examples=["ver_123456"])
    status: Word
    messages: list[Message] = Field(description="Oldest first.")


class Balance(Model):
    """What the account has."""

    balance: Amount = Field(description="What can be spent: what is held is not in it.")
    held: Amount = Field(description="Held for numbers that have no message yet.")
    open_activations: int


class Service(Model):
    """A service."""

    code: str = Field(examples=["tg"])
    name: str = Field(examples=["Telegram"])


class Services(Model):
    """What can be named in a purchase; prices say what is for sale."""

    services: list[Service]


class Country(Model):
    """A country."""

    id: int = Field(examples=[6])
    iso2: str = Field(examples=["ID"])
    name: str = Field(examples=["Indonesia"])
    prefix: str = Field(description="Dialling code.", examples=["62"])


class Countries(Model):
    """What can be named in a purchase; prices say what is for sale."""

    countries: list[Country]


class Price(Model):
    """`count` numbers can be had at `price` or below."""

    service: str
    country: int
    price: str = Field(pattern=AMOUNT, examples=["0.12"])
    count: int


class Prices(Model):
    """What is for sale to this account."""

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    prices: list[Price]


class Event(Model):
    """One event of a stream."""

    id: str = Field(description="How many messages have been told.", examples=["1"])
    event: Literal["message", "status"]
    data: str = Field(description="A Message or an Activation, as JSON.")


class Page(Model):
    """A document."""


class Wrong(Model):
    """One thing wrong with the request: a member of the body or a parameter of the address."""

    pointer: str | None = Field(default=None, description="JSON Pointer (RFC 6901) into the body.")
    parameter: str | None = Field(default=None, description="Name of a parameter of the query.")
    detail: str


class Problem(BaseModel):
    """Why not (RFC 9457). `code` is stable; the words beside it may change."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    errors: list[Wrong] | None = None
    minimum: Amount | None = Field(default=None, description="With `price_too_low`: the least `max_price` to get one.")
    until: datetime | None = Field(default=None, description="With `barred`: when the account may buy again.")


# From ours to theirs


def amount(money: Money) -> Amount:
    return Amount(amount=plain(money.micros), currency=money.currency)


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def name_of(activation_id: int) -> str:
    return f"ver_{activation_id}"


def message(shown: Shown) -> Message:
    return Message(code=shown.code, text=shown.text, received_at=moment(shown.received_at))


def messages(live: Live) -> Messages:
    return Messages(id=name_of(live.id), status=live.status.value, messages=[message(one) for one in live.messages])


def activation(live: Live) -> Activation:
    """An activation as it stands."""
    return Activation(
        id=name_of(live.id),
        status=live.status.value,
        service=live.service,
        country=live.country,
        phone_number=f"+{live.number}" if live.number else None,
        price=Amount(amount=plain(live.price_micros), currency=live.currency),
        opened_at=moment(live.opened_at),
        expires_at=moment(live.expires_at) if live.expires_at else None,
        ended_at=moment(live.ended_at) if live.ended_at is not None else None,
        code=live.code or None,
        messages=[message(one) for one in live.messages],
    )


def as_bought(live: Live) -> Activation:
    """An activation as it was when it was bought, whatever has happened since: a repeated purchase is told the same."""
    shown = activation(live)
    return shown.model_copy(
        update={"status": Status.WAITING.value, "ended_at": None, "code": None, "messages": []},
    )
