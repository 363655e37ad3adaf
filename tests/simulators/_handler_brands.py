"""The `handler_api.php` family as data: what differs from brand to brand, what is sold, how a refusal is worded.

Wire facts: the family notes (matrix §2, HeroSMS §3, Tiger §4, SMSBower §5, GrizzlySMS §6, SMSHub §7, others §8); the
reference dialect for `generic`. What no source tells of a brand is as in the reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import Response

from tests.simulators._common import compact_json

# --- what differs from provider to provider ---------------------------------------------------------------------------

USD = 840

Params = Mapping[str, str]
"""The parameters of a request."""

Token = str | tuple[str, str]
"""A refusal of the engine, or (action, refusal) where one action words it differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """How a brand tells of each SMS by itself: its body, the pauses before further tries, what it takes for heard."""

    body: Literal["reference", "hero"] = "reference"
    pauses_seconds: tuple[float, ...]
    timeout_seconds: float = 10.0
    statuses: range = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brand:
    """The differences of one provider, as data."""

    name: str

    # how it refuses
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Refusals sent as an envelope, with their HTTP status; any other token is bare text with 200."""
    envelope_actions: frozenset[str] | None = None
    """The actions that have envelopes at all; None for every one."""
    always_enveloped: frozenset[str] = frozenset()
    text_statuses: Mapping[str, int] = field(default_factory=dict)
    """Bare words with another status than 200."""
    bodies: Mapping[Token, tuple[int, str]] = field(default_factory=dict)
    """Refusals that are JSON of their own, with their status."""
    words: Mapping[Token, str] = field(default_factory=dict)
    """The engine's token -> this provider's word, where it has another one."""
    post_allowed: bool = True
    keyless_actions: frozenset[str] = frozenset()
    missing_actions: frozenset[str] = frozenset()
    extra_actions: frozenset[str] = frozenset()
    """Those of the actions in few dialects that this one has."""
    header_key: bool = False
    """The key may come in the header `X-Api-Key`."""

    # how it sells
    id_digits: int = 9
    default_country: str | None = "0"
    only_country: str | None = None
    """The one it sells, whatever a request says."""
    any_country: bool = False
    """The word `any` is a country: the cheapest."""
    absent_countries: frozenset[str] = frozenset()
    caps_price: bool = True
    price_max_names: tuple[str, ...] = ("maxPrice",)
    chooses_providers: bool = False
    takes_operators: bool = True
    takes_phone_exceptions: bool = True
    currencies: frozenset[str] = frozenset()
    """Numbers of the currencies that may be asked for."""
    open_max: int | None = None
    number_v2: Literal["reference", "hero", "grizzly"] = "reference"
    balance_json: bool = False
    """`format=json` is understood."""
    tells_price: bool = False
    """The price paid is in the header `X-Price` of getNumber."""

    # what it lists
    price_leaf: Literal["physical", "plain", "ladder", "named"] = "plain"
    cost_as_string: bool = False
    is_cumulative: bool = False
    """getPricesV2 counts, at each price, all that is cheaper too, under `prices`."""
    price_v3: Literal["all", "one"] = "all"
    """One service in one country at a time, or everything at once."""
    v3_stale_seconds: float = 0.0
    stock_shown_max: int | None = None
    empty_prices: str = "[]"
    """PHP prints an empty map as a list."""
    wrong_prices: Literal["empty", "message", "refusal"] = "empty"
    """What the price list says to a wrong name."""
    counts_as_text: bool = True
    count_suffix: str = ""
    operators_not_found: bool = True
    """An unknown country's operators are an error, not an empty list."""
    countries: Literal["object", "array", "text ids"] = "object"
    active_list: Literal["reference", "hero", "array", "data"] = "reference"
    active_page: tuple[int, int] | None = None
    """Rows in a page by default, and at most; None for everything at once."""
    active_statuses: Mapping[str, str] = field(default_factory=lambda: {"waiting": "4", "received": "2", "retry": "3"})
    active_code: Literal["list", "text"] = "list"
    numbers_status_type: str = "application/json"

    # the life of an order
    moves: frozenset[str] = frozenset({"1", "3", "6", "8", "-1"})
    """The numbers setStatus knows."""
    ready_once: bool = False
    """After 1 an order can only be cancelled, until a code comes."""
    vain_cancel_is_ready: bool = False
    """A cancel of an order that is unknown, over or has its code answers `ACCESS_READY`."""
    cancelled_word: str = "STATUS_CANCEL"
    text_header: bool = False
    """getStatus with `text=1` has the whole text in the header `X-Text`."""
    early_cancel_seconds: float = 120.0
    webhook: Webhook | None = None

    rents: Literal["no", "reference", "renamed"] = "no"
    """Which form of the rent family it has, together with `extra_actions`."""
    post_actions: frozenset[str] = frozenset()
    """What may be posted where nothing else may."""


HERO_STATUSES = {
    "WRONG_MAX_PRICE": 400,
    "BAD_STATUS": 400,
    "BAD_KEY": 401,
    "NO_BALANCE": 402,
    "BANNED": 403,
    "CHANNELS_LIMIT": 403,
    "NOT_FOUND": 404,
    "BAD_ACTION": 404,
    "BAD_DURATION": 400,
    "WRONG_COUNTRY": 400,
    "WRONG_SERVICE": 400,
    "ACTION_NOT_AVAILABLE": 400,
    "MAX_HOURS_EXCEED": 400,
    "SERVICE_NOT_AVAILABLE": 403,
    "SIM_OFFLINE": 403,
    "EARLY_CANCEL_DENIED": 409,
    "OTP_RECEIVED": 409,
    "FREE_CANCELLATION_EXPIRED": 409,
    "ACTIVATION_NOT_ACTIVE": 409,
    "UNPROCESSABLE_ENTITY": 422,
    "RATE_LIMIT": 429,
    "SERVER_ERROR": 500,
}

REFERENCE_WORDS: dict[Token, str] = {
    "OTP_RECEIVED": "BAD_STATUS",
    "ACTIVATION_NOT_ACTIVE": "BAD_STATUS",
    "FREE_CANCELLATION_EXPIRED": "BAD_STATUS",
    "RATE_LIMIT": "Too Many Requests",
    "SERVER_ERROR": "ERROR_SQL",
    "NO_KEY": "BAD_KEY",
}
HERO_ACTIONS = frozenset({"getAllSms", "finishActivation", "cancelActivation"})
OLDEST_ONLY = frozenset({*HERO_ACTIONS, "getNumberV2", "getStatusV2", "getActiveActivations"})
"""What dialects lack that grew from SMS-Activate before it had a second version of anything."""

REFERENCE_RENTS = frozenset(
    {
        "getRentServicesAndCountries",
        "getRentNumber",
        "getRentStatus",
        "setRentStatus",
        "getRentList",
        "continueRentNumber",
        "getContinueRentPriceNumber",
        "continueRentInfo",
    }
)
REFERENCE_EXTRAS = frozenset({"checkExtraActivation", "getExtraActivation", "getAdditionalService"})
HERO_RENTS = frozenset(
    {
        "getRentServicesAndCountries",
        "serviceCountRent",
        "getRentNumber",
        "prolong",
        "prolongOptions",
        "prolongHistory",
        "reactivate",
        "reactivateOptions",
        "reactivationPrice",
    }
)

FEW_DIALECTS = (
    frozenset({"getPricesV2", "getPricesV3", "getFreePrices", "getPricesVerification"})
    | REFERENCE_RENTS
    | REFERENCE_EXTRAS
    | HERO_RENTS
)
"""Actions nobody has but the brands that say so in `extra_actions`."""

SMSBOWER_KEY_REFUSED = (401, '{"status":0,"message":"No access","data":[]}')

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
            ("getRentNumber", "BAD_SERVICE"): "WRONG_SERVICE",
            ("getRentNumber", "BAD_COUNTRY"): "WRONG_COUNTRY",
            "RENEW_ACTIVATION_NOT_AVAILABLE": "SERVICE_NOT_AVAILABLE",
            "NEW_ACTIVATION_IMPOSSIBLE": "SIM_OFFLINE",
            "INVALID_TIME": "BAD_DURATION",
        },
        rents="renamed",
        extra_actions=HERO_RENTS,
        post_actions=frozenset({"prolong", "reactivate"}),
        id_digits=10,
        price_leaf="physical",
        empty_prices="{}",
        wrong_prices="message",
        counts_as_text=False,
        operators_not_found=False,
        number_v2="hero",
        active_list="hero",
        active_page=(100, 100),
        active_statuses={"waiting": "4", "received": "4", "retry": "4"},
        missing_actions=frozenset({"getFullSms"}),
        keyless_actions=frozenset({"getCountries", "getServicesList", "getOperators"}),
        post_allowed=False,
        moves=frozenset({"3", "6", "8"}),
        default_country=None,
        absent_countries=frozenset({"0", "12"}),
        webhook=Webhook(body="hero", pauses_seconds=(25.0,) * 7, timeout_seconds=3.0),
    ),
    "generic": Brand(
        name="generic",
        words=REFERENCE_WORDS,
        # Captured replies of the reference label this JSON as HTML; grizzly's client never asks for it.
        numbers_status_type="text/html; charset=UTF-8",
        missing_actions=HERO_ACTIONS,
        rents="reference",
        extra_actions=REFERENCE_RENTS | REFERENCE_EXTRAS,
        webhook=Webhook(pauses_seconds=(900.0,) * 7),
    ),
    "tigersms": Brand(
        name="tigersms",
        statuses={token: status for token, status in HERO_STATUSES.items() if token not in ("BAD_KEY", "RATE_LIMIT")},
        envelope_actions=frozenset({"getNumberV2", "getStatusV2", "getPricesV2", "getPricesV3"}),
        always_enveloped=frozenset({"EARLY_CANCEL_DENIED"}),
        text_statuses={"BAD_KEY": 401},
        words={
            **REFERENCE_WORDS,
            "SERVER_ERROR": "SERVER_ERROR",
            ("getStatusV2", "NO_ACTIVATION"): "NOT_FOUND",
            ("getNumberV2", "BAD_SERVICE"): "UNPROCESSABLE_ENTITY",
            ("getNumberV2", "BAD_COUNTRY"): "UNPROCESSABLE_ENTITY",
        },
        id_digits=19,
        balance_json=True,
        default_country=None,
        chooses_providers=True,
        takes_operators=False,
        takes_phone_exceptions=False,
        cost_as_string=True,
        is_cumulative=True,
        price_v3="one",
        v3_stale_seconds=45.0,
        wrong_prices="refusal",
        extra_actions=frozenset({"getPricesV2", "getPricesV3", "getFreePrices"}),
        missing_actions=frozenset({*HERO_ACTIONS, "getNumbersStatus", "getOperators", "getFullSms"}),
        countries="array",
        active_list="data",
        active_page=(50, 100),
        active_statuses={"waiting": "1", "received": "6", "retry": "3"},
        cancelled_word="ACCESS_CANCEL",
    ),
    "smsbower": Brand(
        name="smsbower",
        bodies={
            "BAD_KEY": SMSBOWER_KEY_REFUSED,
            "NO_KEY": SMSBOWER_KEY_REFUSED,
            ("getPrices", "BAD_SERVICE"): (200, '{"error":"Bad service"}'),
            ("getPricesV2", "BAD_SERVICE"): (200, '{"error":"Bad service"}'),
            ("getPrices", "BAD_COUNTRY"): (200, '{"error":"Bad country"}'),
            ("getPricesV2", "BAD_COUNTRY"): (200, '{"error":"Bad country"}'),
        },
        words={
            **REFERENCE_WORDS,
            "WRONG_MAX_PRICE": "NO_NUMBERS",
            ("getNumber", "BAD_SERVICE"): "WRONG_SERVICE",
            ("getNumberV2", "BAD_SERVICE"): "WRONG_SERVICE",
        },
        post_allowed=False,
        default_country=None,
        chooses_providers=True,
        wrong_prices="refusal",
        extra_actions=frozenset({"getPricesV2", "getPricesV3"}),
        missing_actions=frozenset({*HERO_ACTIONS, "getActiveActivations", "getNumbersStatus", "getFullSms"}),
        operators_not_found=False,
        countries="text ids",
        moves=frozenset({"1", "3", "6", "8"}),
        ready_once=True,
        webhook=Webhook(pauses_seconds=(60.0, 300.0), statuses=range(200, 201)),
    ),
    "grizzlysms": Brand(
        name="grizzlysms",
        words=REFERENCE_WORDS,
        post_allowed=False,
        default_country="any",
        any_country=True,
        chooses_providers=True,
        number_v2="grizzly",
        extra_actions=frozenset({"getPricesV2", "getPricesV3"}),
        missing_actions=HERO_ACTIONS,
        active_list="array",
        active_code="text",
    ),
    "smshub": Brand(
        name="smshub",
        words={
            **REFERENCE_WORDS,
            "SERVER_ERROR": "SERVER_ERROR",
            "NO_KEY": "NO_KEY",
            "BAD_SERVICE": "WRONG_SERVICE",
            ("getNumber", "BAD_KEY"): "API_KEY_NOT_VALID",
        },
        post_allowed=False,
        currencies=frozenset({"643", "840"}),
        price_leaf="ladder",
        counts_as_text=False,
        count_suffix="_0",
        missing_actions=OLDEST_ONLY,
        moves=frozenset({"1", "3", "6", "8"}),
    ),
    "daisysms": Brand(
        name="daisysms",
        words={
            **REFERENCE_WORDS,
            "NO_BALANCE": "NO_MONEY",
            "CHANNELS_LIMIT": "TOO_MANY_ACTIVE_RENTALS",
            "WRONG_MAX_PRICE": "MAX_PRICE_EXCEEDED",
        },
        post_allowed=False,
        header_key=True,
        default_country="187",
        only_country="187",
        price_max_names=("max_price", "maxPrice"),
        takes_phone_exceptions=False,
        open_max=20,
        tells_price=True,
        price_leaf="named",
        stock_shown_max=100,
        extra_actions=frozenset({"getPricesVerification"}),
        missing_actions=frozenset({*OLDEST_ONLY, "getFullSms", "getNumbersStatus", "getOperators"}),
        moves=frozenset({"6", "8"}),
        vain_cancel_is_ready=True,
        text_header=True,
        early_cancel_seconds=0.0,
    ),
    "vaksms_stub": Brand(
        name="vaksms_stub",
        words={
            **REFERENCE_WORDS,
            "BAD_KEY": "BAD_ACTION",
            "NO_KEY": "BAD_ACTION",
            ("getStatus", "NO_ACTIVATION"): "BAD_ACTION",
            ("getFullSms", "NO_ACTIVATION"): "BAD_ACTION",
        },
        post_allowed=False,
        keyless_actions=frozenset({"getCountries"}),
        caps_price=False,
        countries="array",
        missing_actions=OLDEST_ONLY,
        moves=frozenset({"1", "3", "6", "8"}),
    ),
    "smsman_stub": Brand(
        name="smsman_stub",
        words=REFERENCE_WORDS,
        post_allowed=False,
        missing_actions=OLDEST_ONLY,
        moves=frozenset({"1", "3", "6", "8"}),
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


def refused(brand: Brand, refusal: Refusal, action: str = "", *, status: int | None = None) -> Response:
    """A refusal in this provider's words: JSON of its own, an envelope with its HTTP status, or a bare token.

    A bare token comes with 200, unless the brand or `status` says otherwise, and with what belongs behind its colon.
    """
    body = brand.bodies.get((action, refusal.token), brand.bodies.get(refusal.token))
    if body is not None:
        return Response(body[1], body[0], media_type="application/json")
    word = brand.words.get((action, refusal.token), brand.words.get(refusal.token, refusal.token))
    if word in brand.statuses and _has_envelope(brand, action, word):
        return _envelope(word, refusal.info, brand.statuses[word])
    answer = text(f"{word}:{refusal.suffix}" if refusal.suffix and word == refusal.token else word)
    answer.status_code = status or brand.text_statuses.get(word, 200)
    return answer


def _has_envelope(brand: Brand, action: str, word: str) -> bool:
    return brand.envelope_actions is None or action in brand.envelope_actions or word in brand.always_enveloped


def _envelope(title: str, info: Mapping[str, Any], status: int) -> Response:
    body: dict[str, Any] = {"title": title, "details": title.replace("_", " ").capitalize()}
    if info:
        body["info"] = dict(info)
    return Response(compact_json(body), status, media_type="application/json")
