"""Payment callbacks over the gateway's own application, signed here by hand as their senders document it."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway import deposits
from gateway.store import Row
from tests.harness import House, config_directory, environment, house

STRIPE_SECRET = "whsec_not-a-real-secret"
GENERIC_SECRET = "not-a-real-secret-payments-00000000"
LIVE = '[one]\nadapter = "handler_api"\nbase_url = "http://127.0.0.1:9/"\n'


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """alice in dollars, with nothing yet."""
    values = environment(
        database_url, ONE_API_KEY="k" * 32, STRIPE_WEBHOOK_SECRET=STRIPE_SECRET, PAYMENT_SECRET=GENERIC_SECRET
    )
    async with house(config_directory(tmp_path, LIVE), values, balances={"alice": "0"}, is_demo=False) as found:
        yield found


def sign_stripe(body: bytes, at: float, secret: str = STRIPE_SECRET) -> str:
    content = f"{int(at)}.".encode() + body
    return f"t={int(at)},v1={hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()}"


async def stripe(made: House, event: object, headers: Mapping[bytes, bytes] | None = None) -> httpx.Response:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    given = {b"Stripe-Signature": sign_stripe(body, time.time()).encode()} if headers is None else headers
    return await made.client.post("/webhooks/payments/stripe", content=body, headers=given)


def session(amount: object = 500, currency: str = "usd", account: str | None = "alice", **more: Any) -> dict[str, Any]:
    metadata = {} if account is None else {"account": account}
    told = {
        "id": "cs_1", "object": "checkout.session", "payment_intent": "pi_1", "payment_status": "paid",
        "amount_total": amount, "currency": currency, "metadata": metadata, **more,
    }  # fmt: skip
    return event("checkout.session.completed", told)


def event(kind: str, told: dict[str, Any], *, is_live: bool = True) -> dict[str, Any]:
    return {"id": "evt_1", "object": "event", "type": kind, "livemode": is_live, "data": {"object": told}}


def intent(amount: int = 500, **more: Any) -> dict[str, Any]:
    told = {"id": "pi_1", "amount_received": amount, "currency": "usd", "metadata": {"account": "alice"}, **more}
    return event("payment_intent.succeeded", told)


async def generic(
    made: House, content: object, *, at: float | None = None, secret: str = GENERIC_SECRET, signature: str | None = None
) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    moment = str(int(time.time() if at is None else at))
    proof = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "X-Payment-Timestamp": moment,
        "X-Payment-Signature": f"sha256={proof}" if signature is None else signature,
    }
    return await made.client.post("/webhooks/payments/generic", content=body, headers=headers)


def payment(**more: Any) -> dict[str, Any]:
    return {"reference": "r-1", "account": "alice", "amount": "5.00", "currency": "USD", **more}


def said(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.text


async def kept(made: House) -> list[Row]:
    return list(await made.database.store.read(deposits.payments, is_open=True))


async def available(made: House) -> int:
    return (await made.balance())[0]


# Stripe


async def test_a_paid_checkout_is_booked_once(made: House) -> None:
    answers = [said(await stripe(made, session())) for _ in range(3)]
    assert answers == [(200, "booked"), (200, "repeated"), (200, "repeated")]
    assert await available(made) == 5_000_000
    assert await made.problems() == []


async def test_both_kinds_of_event_are_one_payment(made: House) -> None:
    assert said(await stripe(made, intent())) == (200, "booked")
    assert said(await stripe(made, session(account=None))) == (200, "repeated")
    assert await available(made) == 5_000_000


async def test_the_kind_that_names_nobody_may_come_first(made: House) -> None:
    assert said(await stripe(made, intent(metadata={}))) == (422, "kept, not booked")
    assert said(await stripe(made, session())) == (200, "booked")
    assert await available(made) == 5_000_000
    assert await kept(made) == []


@pytest.mark.parametrize(
    "told",
    [
        session(payment_status="unpaid"),
        session(payment_status="no_payment_required"),
        session(amount=0),
        {"object": "v2.core.event", "type": "v2.core.event_destination.ping"},
        event("payment_intent.created", {"id": "pi_1", "amount": 500, "currency": "usd"}),
        event("payment_intent.payment_failed", {"id": "pi_1", "amount": 500, "currency": "usd"}),
    ],
)
async def test_what_is_not_paid_is_not_booked(made: House, told: dict[str, Any]) -> None:
    assert said(await stripe(made, told)) == (200, "nothing to book")
    assert await available(made) == 0
    assert await kept(made) == []


async def test_a_delayed_payment_is_booked_when_it_succeeds(made: House) -> None:
    await stripe(made, session(payment_status="unpaid"))
    late = {**session(), "type": "checkout.session.async_payment_succeeded"}
    assert said(await stripe(made, late)) == (200, "booked")


@pytest.mark.parametrize(
    ("currency", "amount", "micros"),
    [("jpy", 500, 500_000_000), ("kwd", 5120, 5_120_000), ("eur", 1, 10_000), ("isk", 500, 5_000_000)],
)
async def test_minor_units_are_those_of_the_currency(made: House, currency: str, amount: int, micros: int) -> None:
    assert (await stripe(made, session(amount, currency))).status_code == 422  # alice is kept in dollars
    (row,) = await kept(made)
    assert (row["amount"], row["currency"]) == (micros, currency.upper())


@pytest.mark.parametrize("told", [session(account="nobody"), session(account=None), session(currency="eur")])
async def test_money_that_cant_be_booked_is_kept_and_an_alert(made: House, told: dict[str, Any]) -> None:
    assert said(await stripe(made, told)) == (422, "kept, not booked")
    (row,) = await kept(made)
    await made.gateway._recharger.round()
    assert ("payment_unbooked", f"payment:{row['id']}") in made.gateway._overseer._alerts._on
    await made.gateway._overseer.report()
    assert ("payment_unbooked", f"payment:{row['id']}") in made.gateway._overseer._alerts._on
    await made.database.store.run(deposits.dismiss, row["id"], time.time(), "test")
    await made.gateway._recharger.round()
    assert made.gateway._overseer._alerts._on == {}


async def test_test_payments_do_not_fund_real_accounts(made: House) -> None:
    assert said(await stripe(made, {**session(), "livemode": False})) == (422, "kept, not booked")
    assert await available(made) == 0


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (event("charge.refunded", {"id": "ch_1", "amount_refunded": 200, "currency": "usd"}), "refund of 2.00 USD"),
        (event("charge.dispute.created", {"id": "dp_1", "amount": 500, "currency": "usd"}), "dispute of 5.00 USD"),
    ],
)
async def test_money_taken_back_is_an_alert_and_no_booking(made: House, told: dict[str, Any], what: str) -> None:
    await stripe(made, session())
    for _ in range(2):
        assert said(await stripe(made, told)) == (200, "nothing to book")
    (row,) = await kept(made)
    assert what in deposits.sentence(row)
    assert await available(made) == 5_000_000
    await made.gateway._recharger.round()
    assert [name for name, _ in made.gateway._overseer._alerts._on] == ["payment_reversed"]


async def test_stripe_unproven_is_refused(made: House) -> None:
    body = json.dumps(session()).encode()
    now = time.time()
    right = sign_stripe(body, now)
    wrong = [
        b"",
        sign_stripe(body, now, "whsec_other").encode(),
        sign_stripe(body + b" ", now).encode(),
        sign_stripe(body, now - 3600).encode(),
        right.replace("v1", "v0").encode(),
        b"t=soon,v1=abc",
        f"t={int(now)},v1=".encode() + b"\xe9" * 64,
    ]
    with capture_logs() as logs:
        for headers in ({}, *({b"Stripe-Signature": value} for value in wrong)):
            assert said(await stripe(made, body, headers)) == (401, "not proven to come from whom it says")
        assert (await stripe(made, b"\xff\xfe", {b"Stripe-Signature": right.encode()})).status_code == 401
    assert "alice" not in str(logs)
    assert await available(made) == 0


@pytest.mark.parametrize(
    "told",
    [
        b"[]", b"{}x", b"null", {"type": "checkout.session.completed"}, session(currency="dollars"),
        session(amount=-1), session(amount="5"), session(amount=10**30), session(payment_intent=None, id="a\u0000b"),
        session(amount=True), event("charge.refunded", {"amount_refunded": 1, "currency": "usd"}),
    ],
)  # fmt: skip
async def test_stripe_nonsense_is_refused_and_nothing_moves(made: House, told: object) -> None:
    assert (await stripe(made, told)).status_code == 400
    assert await available(made) == 0
    assert await kept(made) == []


# The generic form


async def test_a_generic_payment_is_booked_once(made: House) -> None:
    assert [said(await generic(made, payment())) for _ in range(2)] == [(200, "booked"), (200, "repeated")]
    assert await available(made) == 5_000_000
    assert said(await generic(made, payment(amount="6.00")))[0] == 409
    assert await available(made) == 5_000_000
    assert await made.problems() == []


async def test_an_amount_may_be_a_number_and_is_exact(made: House) -> None:
    assert said(await generic(made, b'{"reference":"a","account":"alice","amount":0.1,"currency":"USD"}'))[0] == 200
    assert said(await generic(made, payment(reference="b", amount=3)))[0] == 200
    assert await available(made) == 3_100_000


@pytest.mark.parametrize("change", [{"account": "nobody"}, {"currency": "EUR"}, {"currency": "XXX"}])
async def test_generic_money_that_cant_be_booked_is_kept(made: House, change: dict[str, str]) -> None:
    for _ in range(2):
        assert said(await generic(made, payment(**change))) == (422, "kept, not booked")
    assert len(await kept(made)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"[" * 100_000, payment(amount="0"), payment(amount="-1"), payment(amount="NaN"),
        payment(amount="Infinity"), payment(amount="1e9999"), payment(amount="0.0000001"), payment(amount="1" * 40),
        payment(amount=True), payment(amount=None), payment(amount=[1]), payment(currency="usd"), payment(currency=5),
        payment(reference=""), payment(reference="x" * 256), payment(reference="a\u0000"), payment(reference="\ud800"),
        payment(account=7), payment(account="a\u0000"),
        b'{"reference":"a","account":"alice","amount":NaN,"currency":"USD"}',
        {"reference": "r-1", "amount": "5", "currency": "USD"},
    ],
)  # fmt: skip
async def test_generic_nonsense_is_refused_and_nothing_moves(made: House, content: object) -> None:
    assert (await generic(made, content)).status_code == 400
    assert await available(made) == 0
    assert await kept(made) == []


async def test_generic_unproven_is_refused(made: House) -> None:
    now = time.time()
    for response in (
        await generic(made, payment(), secret="x" * 32),
        await generic(made, payment(), at=now - 301),
        await generic(made, payment(), at=now + 310),
        await generic(made, payment(), signature=""),
        await generic(made, payment(), signature="sha256=" + "0" * 64),
        await made.client.post("/webhooks/payments/generic", json=payment()),
    ):
        assert said(response) == (401, "not proven to come from whom it says")
    assert await available(made) == 0


@pytest.mark.parametrize("path", ["stripe", "generic"])
async def test_a_body_without_end_is_cut_off(made: House, path: str) -> None:
    answer = await made.client.post(f"/webhooks/payments/{path}", content=b"x" * 300_000)
    assert said(answer) == (413, "too large")


async def test_without_their_secrets_they_are_not_there(sqlite_url: str, tmp_path: Path) -> None:
    async with house(config_directory(tmp_path), environment(sqlite_url)) as found:
        nothing = await found.client.post("/webhooks/payments/nothing", json={})
        for path in ("stripe", "generic"):
            answer = await found.client.post(f"/webhooks/payments/{path}", json={})
            assert (answer.status_code, answer.content) == (404, nothing.content)


async def test_a_database_that_is_away_is_asked_again(made: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.errors import Unavailable

    async def away(*_args: object, **_more: object) -> None:
        raise Unavailable

    monkeypatch.setattr(made.gateway.house.store, "run", away)
    assert said(await generic(made, payment())) == (503, "not now")
    monkeypatch.undo()
    assert said(await generic(made, payment())) == (200, "booked")
