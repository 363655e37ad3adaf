"""Rows of the lists of open orders in the `handler_api.php` family."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from adapters._handler_states import coded_sms
from adapters._handler_words import Answer, call_error
from adapters._values import Digits, Reference, Unreadable
from gateway.model import LeaseState, Progress


def _texts(value: object) -> tuple[str, ...]:
    """`smsCode` and `smsText` come as null, text or a list."""
    values = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in values if item not in (None, ""))


class Row(BaseModel):
    """One order: names of SMS-Activate's getActiveActivations first, of SMSHub's getCurrentActivations second."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: Reference = Field(validation_alias=AliasChoices("activationId", "id"))
    phone: Digits = Field(validation_alias=AliasChoices("phoneNumber", "phone"))
    status: str = Field(default="", validation_alias=AliasChoices("activationStatus", "status"))
    service: str = Field(default="", validation_alias=AliasChoices("serviceCode", "service"))
    country: str = Field(default="", validation_alias=AliasChoices("countryCode", "country"))
    cost: str | None = Field(default=None, validation_alias=AliasChoices("activationCost", "cost"))
    subtype: str = ""
    """HeroSMS: 2 for a rental."""
    created: str = Field(default="", validation_alias=AliasChoices("activationTime", "createDate"))
    codes: Annotated[tuple[str, ...], BeforeValidator(_texts)] = Field(
        default=(), validation_alias=AliasChoices("smsCode", "code")
    )
    texts: Annotated[tuple[str, ...], BeforeValidator(_texts)] = Field(default=(), validation_alias="smsText")

    @property
    def is_plain(self) -> bool:
        """Whether an open row says all that getStatus would; a text without a code has to be asked for."""
        return bool(self.codes) or not self.texts

    def progress(self) -> Progress:
        """In the first round. Texts are told apart only where there is one for each code."""
        matched = len(self.texts) == len(self.codes)
        texts = self.texts if matched else ("",) * max(0, len(self.codes) - 1) + (self.texts[-1:] or ("",))
        messages = {code: coded_sms(code, 1, text) for code, text in zip(self.codes, texts, strict=False)}
        return Progress(LeaseState.OPEN, tuple(messages.values()))


def rows_of(answer: Answer) -> tuple[list[Row], int]:
    """Readable rows of one page, and how many there were in all. Raises Unwell, Unreadable."""
    if answer.word.startswith("NO_ACTIVATION"):
        return [], 0
    if answer.word or answer.status != 200:
        raise call_error(answer)
    raw = _raw_rows(answer.data)
    return [row for row in map(_row, raw) if row is not None], len(raw)


def _raw_rows(data: Any) -> list[Any]:
    """A bare array (Grizzly), `data` (HeroSMS, Tiger), `activeActivations` (SMS-Activate) or `array` (SMSHub)."""
    if isinstance(data, list):
        return data
    members = [data.get(name) for name in ("data", "activeActivations", "array")] if isinstance(data, dict) else []
    for member in members:
        if isinstance(member, list):
            return member
    raise Unreadable("no list of orders")


def _row(raw: Any) -> Row | None:
    """None where the row is unreadable: its lease is then missing, and read singly."""
    try:
        return Row.model_validate(raw)
    except ValidationError:
        return None
