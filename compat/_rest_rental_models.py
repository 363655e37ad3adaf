"""Rentals over the wire, as models: see `_rest_models`. Their ids begin with `rent_`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr

from compat._rest_models import (
    AMOUNT,
    LINE,
    PAGE_MAX,
    PRICE,
    WAIT_SECONDS_MAX,
    Amount,
    CountryWord,
    Model,
    ServiceCode,
    Word,
    amount,
    moment,
)
from gateway.live import Live, Shown
from gateway.model import Status
from gateway.money import Money, plain
from gateway.rentals import Extension, RentRow

RENTAL_ID = r"^(rent_)?[1-9][0-9]{0,18}$"
HOURS_MIN = 1
HOURS_MAX = 8760

Operator = Annotated[StrictStr, Field(min_length=1, max_length=100, pattern=LINE)]
MaxPrice = Annotated[
    StrictStr | None,
    Field(
        default=None,
        pattern=PRICE,
        description="The most this may cost, in the account's currency. Without it, the listed price.",
        examples=["5.00"],
    ),
]


# Requests


class RentalOffersQuery(Model):
    """Where, and for how long."""

    country: CountryWord
    hours: int = Field(default=24, ge=HOURS_MIN, le=HOURS_MAX, description="At least so many hours.")
    operator: Annotated[str, Field(min_length=1, max_length=100, pattern=LINE)] | None = None


class RentalQuery(Model):
    """How long the answer may be put off."""

    wait: int = Field(
        default=0,
        ge=0,
        le=WAIT_SECONDS_MAX,
        description="Seconds to wait for a message beyond those in `seen`. The answer comes as soon as there is one, or"
        " the rental ends, or the time is up.",
    )
    seen: int = Field(default=0, ge=0, le=1_000_000, description="How many messages the client knows already.")


class RentalListQuery(Model):
    """Which part of the list."""

    state: Literal["open", "past"] | None = Field(default=None, description="Only these; without it, all.")
    limit: int = Field(default=50, ge=1, le=PAGE_MAX, description="How many at most.")
    cursor: str | None = Field(
        default=None, min_length=1, max_length=64, description="`next_cursor` of the page before, as it came."
    )


class ExtensionsQuery(Model):
    """What else to tell."""

    hours: int | None = Field(
        default=None, ge=HOURS_MIN, le=HOURS_MAX, description="Tells what so many hours more would cost now."
    )


class RentalPurchase(Model):
    """What is wanted."""

    service: ServiceCode = Field(description="SMS-Activate code of the service; `full` for messages of all of them.")
    country: CountryWord
    hours: StrictInt = Field(ge=HOURS_MIN, le=HOURS_MAX, description="At least so many hours.", examples=[24])
    operator: Operator | None = Field(default=None, description="Operators that will do, by comma. Without it, any.")
    max_price: MaxPrice = None
    webhook_url: StrictStr | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="Where this rental's messages are told, beside the account's address: an `https://` address of at"
        " most 255 characters.",
    )


class MoreTime(Model):
    """How much."""

    hours: StrictInt = Field(ge=HOURS_MIN, le=HOURS_MAX, description="At least so many hours more.", examples=[24])
    max_price: MaxPrice = None


# Answers


class RentalOffer(Model):
    """`count` numbers can be rented for `hours` hours at `price` or below, the whole time."""

    service: str = Field(examples=["tg"])
    country: int = Field(examples=[6])
    hours: int
    price: str = Field(pattern=AMOUNT, examples=["1.20"])
    count: int
    operators: list[str]


class RentalOffers(Model):
    """What this account can rent there, one row a service."""

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    offers: list[RentalOffer]


class RentalMessage(Model):
    """One SMS."""

    code: str = Field(description="The code found in it; empty where there is none.", examples=["123456"])
    text: str = Field(description="The text as it came.", examples=["Your code is 123456"])
    sender: str = Field(description="Who sent it; empty where that is not told.")
    received_at: datetime


class Rental(Model):
    """A number for a time, with every message that comes."""

    id: str = Field(pattern=RENTAL_ID, examples=["rent_123456"])
    status: Word = Field(
        description="`waiting` for the first message, `received`; then `finished`, or `cancelled` or `expired` (nothing"
        " charged), or `failed` (no number was had)."
    )
    service: str = Field(examples=["tg"])
    country: int = Field(examples=[6])
    hours: int = Field(description="For how long it was rented, extensions not counted.")
    phone_number: str | None = Field(pattern=r"^\+[0-9]+$", examples=["+6281234567890"])
    price: Amount = Field(description="Of the rental, extensions not counted.")
    opened_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    messages: list[RentalMessage] = Field(description="Oldest first; in a list the newest 20.")


class RentalList(Model):
    """One page, newest first."""

    rentals: list[Rental]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class RentalExtension(Model):
    """More time a rental was given."""

    bought_at: datetime
    hours: int
    price: Amount


class ExtensionOffer(Model):
    """More time it could be given."""

    hours: int
    price: Amount


class Extensions(Model):
    """What a rental was prolonged by, oldest first, and what it could be."""

    extensions: list[RentalExtension]
    offer: ExtensionOffer | None = Field(description="Where `hours` were asked for.")


# From ours to theirs


def rental_name(rental_id: int) -> str:
    return f"rent_{rental_id}"


def rental_offers(currency: str, rows: Sequence[RentRow]) -> RentalOffers:
    return RentalOffers(
        currency=currency,
        offers=[
            RentalOffer(
                service=row.service,
                country=row.country,
                hours=row.hours,
                price=plain(row.price.micros),
                count=row.count,
                operators=list(row.operators),
            )
            for row in rows
        ],
    )


def rental(live: Live, newest: int | None = None) -> Rental:
    """A rental as it stands, with all its messages or so many of them."""
    return Rental(
        id=rental_name(live.id),
        status=live.status.value,
        service=live.service,
        country=live.country,
        hours=live.hours,
        phone_number=f"+{live.number}" if live.number else None,
        price=Amount(amount=plain(live.price_micros), currency=live.currency),
        opened_at=moment(live.opened_at),
        expires_at=moment(live.expires_at) if live.expires_at else None,
        ended_at=moment(live.ended_at) if live.ended_at is not None else None,
        messages=[_message(one) for one in live.messages[-newest if newest else 0 :]],
    )


def rental_as_bought(live: Live) -> Rental:
    """A rental as it was when it was bought, but for its end: a repeated purchase is told the same."""
    return rental(live).model_copy(update={"status": Status.WAITING.value, "ended_at": None, "messages": []})


def _message(shown: Shown) -> RentalMessage:
    return RentalMessage(code=shown.code, text=shown.text, sender=shown.sender, received_at=moment(shown.received_at))


def extension(one: Extension) -> RentalExtension:
    return RentalExtension(bought_at=moment(one.bought_at), hours=one.hours, price=amount(one.price))


def extension_offer(price: Money, hours: int) -> ExtensionOffer:
    return ExtensionOffer(hours=hours, price=amount(price))
