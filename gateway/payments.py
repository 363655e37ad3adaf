"""What payment providers call back with: proven, read, and booked by reference (`deposits`).

Stripe's own package checks its signature. The generic form is HMAC-SHA-256 under `PAYMENT_SECRET` over the time, a dot
and the body, and says `{reference, account, amount, currency}`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import structlog

from gateway import deposits
from gateway.deposits import DepositError, Outcome, Told
from gateway.house import House
from gateway.money import MAX_MICROS, MICROS, Money, MoneyError, parse

TOLERANCE_SECONDS = 300
"""How far the time of a callback may be from ours."""

ZERO_DECIMALS = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF")
)
"""Stripe counts these in whole units. ISK and UGX have no cents either, and it counts them in hundredths all the same:
https://docs.stripe.com/currencies"""

THREE_DECIMALS = frozenset(("BHD", "JOD", "KWD", "OMR", "TND"))

PAID = frozenset({"checkout.session.completed", "checkout.session.async_payment_succeeded", "payment_intent.succeeded"})
REVERSED: Mapping[str, str] = {"charge.refunded": "refund", "charge.dispute.created": "dispute"}

_CURRENCY = re.compile(r"[A-Z]{3}")
_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")
_TIME = re.compile(r"\d{1,12}", re.ASCII)

log = structlog.get_logger()


class CallbackRefused(Exception):
    """Not proven to come from whom it says."""


class CallbackUnreadable(Exception):
    """Proven, and makes no sense; the message says what is wrong with it."""


class CallbackContradicts(Exception):
    """Proven, and its reference stands for another payment already."""


class Payments:
    """Takes callbacks. Each answers what came of it, or None where it tells of nothing to be booked.

    Raises CallbackRefused, CallbackUnreadable, CallbackContradicts, Unavailable.
    """

    def __init__(self, house: House) -> None:
        self._house = house

    @property
    def takes_stripe(self) -> bool:
        return bool(self._house.settings.environment.stripe_webhook_secret)

    @property
    def takes_generic(self) -> bool:
        return bool(self._house.settings.environment.payment_secret)

    async def take_stripe(self, body: bytes, signature: str) -> Outcome | None:
        """One event, with its `Stripe-Signature`."""
        secret = self._house.settings.environment.stripe_webhook_secret or ""
        # On a thread: the first time it imports a package that takes its time.
        await asyncio.to_thread(_require_stripe, body, signature, secret)
        event = _object(body)
        kind = str(event.get("type"))
        if kind in REVERSED:
            await self._reversed(REVERSED[kind], _member(event, "data", "object"))
            return None
        payment = _stripe_payment(event, _member(event, "data", "object")) if kind in PAID else None
        return None if payment is None else await self._receive(payment)

    async def take_generic(self, body: bytes, told_at: str, signature: str) -> Outcome:
        """One payment in the generic form."""
        secret = (self._house.settings.environment.payment_secret or "").encode()
        _require_generic(body, told_at, signature, secret, self._house.clock())
        return await self._receive(_generic_payment(_object(body)))

    async def _receive(self, told: Told) -> Outcome:
        try:
            outcome = await self._house.store.run(deposits.receive, told, self._house.clock())
        except deposits.ReferenceUsed as error:
            log.warning("payment.contradicts", source=told.source)
            raise CallbackContradicts(str(error)) from None
        except DepositError as error:
            raise CallbackUnreadable(str(error)) from None
        log.info(f"payment.{outcome}", source=told.source)
        return outcome

    async def _reversed(self, what: str, told: Mapping[str, Any]) -> None:
        money = _stripe_money(told.get("amount_refunded" if what == "refund" else "amount"), told.get("currency"))
        # A charge can be refunded in parts: each event tells of all of them so far.
        part = f":{money.micros}" if what == "refund" else ""
        reference = _reference(f"{what}:{_text(told, 'id')}{part}")
        payment = _printable(told.get("payment_intent"))
        await self._house.store.run(deposits.reverse, "stripe", reference, money, what, payment, self._house.clock())
        log.warning("payment.reversed", source="stripe", what=what)


# Proofs


def _require_stripe(body: bytes, signature: str, secret: str) -> None:
    from stripe import SignatureVerificationError, WebhookSignature  # a fifth of a second: not for every command

    try:
        WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS)
    except (SignatureVerificationError, ValueError, TypeError):
        # From None: the error carries the body.
        raise CallbackRefused("the signature does not fit, or is too old") from None


def _require_generic(body: bytes, told_at: str, signature: str, secret: bytes, now: float) -> None:
    found = _SIGNATURE.fullmatch(signature)
    if not found or not _TIME.fullmatch(told_at):
        raise CallbackRefused("no signature")
    right = hmac.new(secret, told_at.encode() + b"." + body, "sha256").hexdigest()
    if not hmac.compare_digest(found[1], right):
        raise CallbackRefused("the signature does not fit")
    if abs(now - int(told_at)) > TOLERANCE_SECONDS:
        raise CallbackRefused("too old, or from the future")


# Bodies


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise CallbackUnreadable("the body is not JSON") from None
    if not isinstance(found, dict):
        raise CallbackUnreadable("the body is not a JSON object")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(word)


def _generic_payment(body: Mapping[str, Any]) -> Told:
    amount, currency = body.get("amount"), body.get("currency")
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise CallbackUnreadable("amount: a decimal in text, or a number")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise CallbackUnreadable("currency: three capital letters")
    try:
        money = parse(amount, currency)
    except MoneyError as error:
        raise CallbackUnreadable(f"amount: {error}") from None
    return Told("generic", _reference(_text(body, "reference")), _text(body, "account"), money)


def _stripe_payment(event: Mapping[str, Any], told: Mapping[str, Any]) -> Told | None:
    """The payment an event tells of; None where nothing was paid."""
    is_session = str(event["type"]).startswith("checkout.")
    if is_session and told.get("payment_status") != "paid":
        return None
    amount = told.get("amount_total" if is_session else "amount_received")
    if amount == 0:
        return None
    # A checkout's payment is told of twice, once by each kind of event: what they share is the payment's id.
    reference = (told.get("payment_intent") if is_session else None) or told.get("id")
    metadata = told.get("metadata")
    names = metadata if isinstance(metadata, dict) else {}
    return Told(
        source="stripe",
        reference=_reference(reference if isinstance(reference, str) else ""),
        account=_printable(names.get("account")),
        money=_stripe_money(amount, told.get("currency")),
        is_test=event.get("livemode") is not True,
        recharge=_printable(names.get("recharge")),
    )


def _stripe_money(amount: Any, currency: Any) -> Money:
    """Minor units of a currency as money."""
    code = currency.upper() if isinstance(currency, str) else ""
    if not _CURRENCY.fullmatch(code):
        raise CallbackUnreadable("currency: three letters")
    if not isinstance(amount, int) or isinstance(amount, bool) or amount < 0:
        raise CallbackUnreadable("the amount is not a whole number of minor units")
    decimals = 0 if code in ZERO_DECIMALS else 3 if code in THREE_DECIMALS else 2
    micros = amount * (MICROS // 10**decimals)
    if micros > MAX_MICROS:
        raise CallbackUnreadable("the amount is too large")
    return Money(micros, code)


def _member(outer: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    found: Any = outer
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise CallbackUnreadable(f"{'.'.join(names)}: missing")
    return found


def _text(body: Mapping[str, Any], name: str) -> str:
    found = body.get(name)
    if not isinstance(found, str) or not 0 < len(found) <= deposits.REFERENCE_LENGTH_MAX or not found.isprintable():
        raise CallbackUnreadable(f"{name}: 1 to {deposits.REFERENCE_LENGTH_MAX} printable characters")
    return found


def _reference(text: str) -> str:
    return _text({"reference": text}, "reference")


def _printable(value: Any) -> str:
    """A text that may be stored; empty where there is none."""
    is_fit = isinstance(value, str) and len(value) <= deposits.REFERENCE_LENGTH_MAX and value.isprintable()
    return value if is_fit else ""
