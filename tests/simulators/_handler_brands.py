"""The `handler_api.php` family as data: what differs from brand to brand, what is sold, how a refusal is worded.

Wire facts: the family notes, matrix §2 and HeroSMS §3; the reference dialect for `generic`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.responses import Response

from tests.simulators._common import compact_json

# --- what differs from provider to provider ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Brand:
    """The differences of one provider, as data."""

    name: str
    statuses: Mapping[str, int]
    """Refusals sent as an envelope, with their HTTP status; any other token is bare text with 200."""
    words: Mapping[str, str]
    """The engine's token -> this provider's word, where it has another one."""
    id_digits: int = 9
    price_leaf: Literal["physical", "plain", "ladder"] = "plain"
    cost_as_string: bool = False
    empty_prices: str = "[]"
    """PHP prints an empty map as a list."""
    names_wrong_prices: bool = False
    """A wrong name in the price list is answered with a message, not with an empty list."""
    counts_as_text: bool = True
    operators_not_found: bool = True
    """An unknown country's operators are an error, not an empty list."""
    number_v2: Literal["reference", "hero"] = "reference"
    active_list: Literal["reference", "hero", "array"] = "reference"
    active_page_max: int | None = None
    numbers_status_type: str = "application/json"
    missing_actions: frozenset[str] = frozenset()
    keyless_actions: frozenset[str] = frozenset()
    post_allowed: bool = True
    ready_allowed: bool = True
    minus_one_cancels: bool = True
    default_country: str | None = "0"
    absent_countries: frozenset[str] = frozenset()
    early_cancel_seconds: float = 120.0


HERO_STATUSES = {
    "WRONG_MAX_PRICE": 400,
    "BAD_STATUS": 400,
    "BAD_KEY": 401,
    "NO_BALANCE": 402,
    "BANNED": 403,
    "CHANNELS_LIMIT": 403,
    "NOT_FOUND": 404,
    "BAD_ACTION": 404,
    "EARLY_CANCEL_DENIED": 409,
    "OTP_RECEIVED": 409,
    "FREE_CANCELLATION_EXPIRED": 409,
    "ACTIVATION_NOT_ACTIVE": 409,
    "UNPROCESSABLE_ENTITY": 422,
    "RATE_LIMIT": 429,
    "SERVER_ERROR": 500,
}

BRANDS = {
    "herosms": Brand(
        name="herosms",
        statuses=HERO_STATUSES,
        words={
            "NO_ACTIVATION": "NOT_FOUND",
            "WRONG_ACTIVATION_ID": "UNPROCESSABLE_ENTITY",
            "BAD_SERVICE": "UNPROCESSABLE_ENTITY",
            "BAD_COUNTRY": "UNPROCESSABLE_ENTITY",
            "BAD_VALUES": "UNPROCESSABLE_ENTITY",
        },
        id_digits=10,
        price_leaf="physical",
        empty_prices="{}",
        names_wrong_prices=True,
        counts_as_text=False,
        operators_not_found=False,
        number_v2="hero",
        active_list="hero",
        active_page_max=100,
        missing_actions=frozenset({"getFullSms"}),
        keyless_actions=frozenset({"getCountries", "getServicesList", "getOperators"}),
        post_allowed=False,
        ready_allowed=False,
        minus_one_cancels=False,
        default_country=None,
        absent_countries=frozenset({"0", "12"}),
    ),
    "generic": Brand(
        name="generic",
        statuses={},
        words={
            "OTP_RECEIVED": "BAD_STATUS",
            "ACTIVATION_NOT_ACTIVE": "BAD_STATUS",
            "FREE_CANCELLATION_EXPIRED": "BAD_STATUS",
            "RATE_LIMIT": "Too Many Requests",
            "SERVER_ERROR": "ERROR_SQL",
            "NO_KEY": "BAD_KEY",
        },
        # Captured replies of the reference label this JSON as HTML; grizzly's client never asks for it.
        numbers_status_type="text/html; charset=UTF-8",
        missing_actions=frozenset({"getAllSms", "finishActivation", "cancelActivation"}),
    ),
}


# --- what it sells ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Country:
    rus: str
    eng: str
    dial: str
    operators: tuple[str, ...]


COUNTRIES = {
    "0": Country("Россия", "Russia", "7", ("mts", "beeline", "megafon")),
    "2": Country("Казахстан", "Kazakhstan", "7", ("beeline", "altel", "tele2")),
    "6": Country("Индонезия", "Indonesia", "62", ("telkomsel", "axis", "three")),
    "16": Country("Англия", "United Kingdom", "44", ("vodafone", "o2", "lycamobile")),
    "22": Country("Индия", "India", "91", ("airtel", "jio", "vodafone")),
    "36": Country("Канада", "Canada", "1", ("rogers", "cellular")),
    "43": Country("Германия", "Germany", "49", ("telekom", "vodafone", "o2")),
    "48": Country("Нидерланды", "Netherlands", "31", ("kpn", "lebara", "vodafone")),
    "73": Country("Бразилия", "Brazil", "55", ("claro", "tim", "vivo")),
    "78": Country("Франция", "France", "33", ("orange", "sfr", "free")),
    "187": Country("США (физические)", "USA", "1", ("tmobile", "verizon", "att")),
}

SERVICES = {
    "tg": ("Telegram", "0.40"),
    "wa": ("WhatsApp", "0.50"),
    "vi": ("Viber", "0.20"),
    "go": ("Google,youtube,Gmail", "0.30"),
    "fb": ("facebook", "0.15"),
    "ig": ("Instagram+Threads", "0.12"),
    "ds": ("Discord", "0.10"),
    "tw": ("Twitter", "0.08"),
    "am": ("Amazon", "0.18"),
    "dr": ("OpenAI", "0.14"),
    "mm": ("Microsoft", "0.09"),
    "ot": ("Any other", "0.25"),
}


# --- refusals --------------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """The provider says no: a token, what the envelope adds, what the bare token carries after a colon."""

    def __init__(self, token: str, info: Mapping[str, Any] | None = None, suffix: str = "") -> None:
        super().__init__(token)
        self.token = token
        self.info = dict(info or {})
        self.suffix = suffix


def unprocessable(token: str, member: str, code: str = "INVALID") -> Refusal:
    info = {"field": member, "code": code, "message": f"The {member} is invalid."}
    return Refusal(token, info)


def text(token: str) -> Response:
    """The bare token: no newline, and the content type of the reference."""
    return Response(token, media_type="text/html; charset=UTF-8")


def json_reply(value: Any) -> Response:
    return Response(compact_json(value), media_type="application/json")


def refused(brand: Brand, refusal: Refusal, *, status: int | None = None) -> Response:
    """A refusal in this provider's words: an envelope with its HTTP status, or a bare token (with 200, or `status`)."""
    word = brand.words.get(refusal.token, refusal.token)
    if word in brand.statuses:
        return _envelope(word, refusal.info, brand.statuses[word])
    answer = text(f"{word}:{refusal.suffix}" if refusal.suffix else word)
    answer.status_code = status or 200
    return answer


def _envelope(title: str, info: Mapping[str, Any], status: int) -> Response:
    body: dict[str, Any] = {"title": title, "details": title.replace("_", " ").capitalize()}
    if info:
        body["info"] = dict(info)
    return Response(compact_json(body), status, media_type="application/json")
