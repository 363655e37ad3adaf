"""The sandbox plays each scenario by the clock alone, and forgets nothing that matters over a restart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from pydantic import ValidationError

from adapters.sandbox import Options, Sandbox, build
from gateway.errors import (
    CallerBarred,
    HasSms,
    NotAllowed,
    NotReached,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
)
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Watched
from gateway.money import Money
from gateway.upstream import AsksAgain, Context, Finds, ReadsMany, SellsByRule, Upstream

NOW = 1_700_000_000.0
SCENARIOS = ("xnone", "xmute", "xtwo", "xslow", "xban", "xlock")


class Names:
    service_names: Mapping[str, str] = MappingProxyType(
        {"tg": "Telegram", "wa": "WhatsApp", **dict.fromkeys(SCENARIOS, "Sandbox: …")}
    )
    country_iso2: Mapping[int, str] = MappingProxyType({6: "ID", 187: "US", 203: "XK"})
    country_prefix: Mapping[int, str] = MappingProxyType({6: "62", 187: "1", 203: "383"})


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def started(clock: Clock, **options: float) -> Upstream:
    return build(Context("sandbox", "USD", Names(), clock), Options(**options))


@pytest.fixture
def sandbox(clock: Clock) -> Upstream:
    return started(clock)


async def buy(upstream: Upstream, service: str, country: int = 6, **changes: object) -> Lease:
    values = {"operator": "", "cost_max": Money(50_000, "USD"), "timeout_seconds": 9.0, **changes}
    return await upstream.buy(BuyOrder(service, country, **values))  # type: ignore[arg-type]


async def read(upstream: Upstream, lease: Lease, wanted_round: int = 1) -> Progress:
    return await upstream.read(Watched(lease.reference, wanted_round))


async def test_a_purchase_whose_reply_was_lost_left_nothing_open(sandbox: Upstream) -> None:
    assert isinstance(sandbox, Finds)
    await buy(sandbox, "tg")
    assert await sandbox.find(0.0) == ()


async def ask_again(upstream: Upstream, lease: Lease) -> None:
    assert isinstance(upstream, AsksAgain)
    await upstream.ask_again(lease.reference)


# --- What it sells ---------------------------------------------------------------------------------------------------


async def test_everything_in_the_catalogue_is_sold_by_rule(sandbox: Upstream) -> None:
    assert isinstance(sandbox, SellsByRule)
    (offer,) = sandbox.offers_for("tg", 6)
    assert (offer.cost, offer.count) == (Money(50_000, "USD"), 1000)
    assert len(sandbox.offers_for("xnone", 187)) == 1
    assert not sandbox.offers_for("zz", 6)
    assert not sandbox.offers_for("tg", 999)
    assert len(await sandbox.offers()) == 0


async def test_number_has_the_countrys_prefix_and_belongs_to_no_numbering_plan(sandbox: Upstream) -> None:
    for country, prefix in Names().country_prefix.items():
        number = (await buy(sandbox, "tg", country)).number
        assert re.fullmatch(rf"{prefix}00\d{{8}}", number)
        assert 10 <= len(number) <= 13


async def test_numbers_and_references_are_unique_within_one_instant(sandbox: Upstream) -> None:
    leases = [await buy(sandbox, "tg") for _ in range(2000)]
    assert len({lease.number for lease in leases}) == len({lease.reference for lease in leases}) == 2000


async def test_lease_tells_cost_and_end_of_life(sandbox: Upstream) -> None:
    lease = await buy(sandbox, "tg", operator="telkomsel")
    assert (lease.cost, lease.expires_at, lease.operator) == (Money(50_000, "USD"), NOW + 1200, "telkomsel")


async def test_purchase_below_cost_finds_nothing(sandbox: Upstream) -> None:
    with pytest.raises(SoldOut):
        await buy(sandbox, "tg", cost_max=Money(49_999, "USD"))


async def test_excluded_prefix_is_respected(sandbox: Upstream) -> None:
    with pytest.raises(SoldOut):
        await buy(sandbox, "tg", phone_exceptions=("62001", "6200"))
    assert await buy(sandbox, "tg", phone_exceptions=("62812",))


async def test_unknown_service_is_refused(sandbox: Upstream) -> None:
    with pytest.raises(Refused):
        await buy(sandbox, "zz")


async def test_balance_is_play_money(sandbox: Upstream) -> None:
    assert await sandbox.balance() == Money(1_000_000_000, "USD")
    await sandbox.aclose()


# --- Codes -----------------------------------------------------------------------------------------------------------


async def test_telegram_code_comes_after_one_second(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "tg")
    clock.advance(0.9)
    assert await read(sandbox, lease) == Progress(LeaseState.OPEN)
    clock.advance(0.1)
    (sms,) = (await read(sandbox, lease)).messages
    assert re.fullmatch(r"[1-9]\d{4}", sms.code)
    assert sms.text == f"Your Telegram code is {sms.code}"
    assert sms.received_at == NOW + 1


async def test_any_other_code_comes_within_eight_seconds(sandbox: Upstream, clock: Clock) -> None:
    leases = [await buy(sandbox, "wa") for _ in range(50)]
    clock.advance(0.9)
    assert not any([(await read(sandbox, lease)).messages for lease in leases])
    clock.advance(7.2)
    found = [(await read(sandbox, lease)).messages for lease in leases]
    assert all(re.fullmatch(r"[1-9]\d{4,5}", messages[0].code) for messages in found)


async def test_reading_twice_shows_the_same_message(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "tg")
    clock.advance(5)
    first = await read(sandbox, lease)
    clock.advance(5)
    assert await read(sandbox, lease) == first


async def test_many_leases_are_read_at_once(sandbox: Upstream, clock: Clock) -> None:
    leases = [await buy(sandbox, "tg"), await buy(sandbox, "xmute")]
    clock.advance(5)
    assert isinstance(sandbox, ReadsMany)
    found = await sandbox.read_many([Watched(lease.reference, 1) for lease in leases])
    assert [len(found[lease.reference].messages) for lease in leases] == [1, 0]


async def test_asking_again_brings_another_code(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "tg")
    clock.advance(2)
    await ask_again(sandbox, lease)
    clock.advance(1)
    await ask_again(sandbox, lease)  # a repeat while it is on its way changes nothing
    clock.advance(9)
    first, second = (await read(sandbox, lease, 2)).messages
    assert first.code != second.code
    assert first.identity != second.identity
    await ask_again(sandbox, lease)
    clock.advance(2)
    assert len((await read(sandbox, lease, 3)).messages) == 3


async def test_asking_again_before_the_first_code_is_not_allowed(sandbox: Upstream) -> None:
    lease = await buy(sandbox, "tg")
    with pytest.raises(NotAllowed):
        await ask_again(sandbox, lease)


# --- Scenarios -------------------------------------------------------------------------------------------------------


async def test_xnone_is_sold_out_although_shown(sandbox: Upstream) -> None:
    with pytest.raises(SoldOut):
        await buy(sandbox, "xnone")


async def test_xmute_never_brings_a_code(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "xmute")
    clock.advance(1199)
    assert await read(sandbox, lease, 3) == Progress(LeaseState.OPEN)


async def test_xtwo_brings_a_second_code_unasked(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "xtwo")
    clock.advance(11)
    first, second = (await read(sandbox, lease)).messages
    assert first.code != second.code
    assert second.text == f"Your sandbox code is {second.code}"


async def test_xslow_takes_its_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    lease = await buy(started(clock), "xslow")
    assert slept == [4.0]
    assert lease.expires_at == NOW + 4 + 1200


async def test_xslow_beyond_the_orders_time_takes_nothing(clock: Clock) -> None:
    with pytest.raises(NotReached):
        await buy(started(clock, slow_seconds=5), "xslow", timeout_seconds=0.01)


async def test_xban_bars_the_caller_for_an_hour(sandbox: Upstream) -> None:
    with pytest.raises(CallerBarred) as caught:
        await buy(sandbox, "xban")
    assert caught.value.until == NOW + 3600


async def test_xlock_refuses_an_early_cancel_and_says_when(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "xlock")
    clock.advance(50)
    with pytest.raises(TooEarly) as caught:
        await sandbox.close(lease.reference, Outcome.CANCELLED)
    assert caught.value.retry_seconds == pytest.approx(70)
    clock.advance(70)
    await sandbox.close(lease.reference, Outcome.CANCELLED)
    assert await read(sandbox, lease) == Progress(LeaseState.CANCELLED)


# --- Endings ---------------------------------------------------------------------------------------------------------


async def test_cancelled_lease_brings_no_code(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "tg")
    await sandbox.close(lease.reference, Outcome.CANCELLED)
    await sandbox.close(lease.reference, Outcome.CANCELLED)
    clock.advance(60)
    assert await read(sandbox, lease) == Progress(LeaseState.CANCELLED)


async def test_cancel_after_sms_is_refused(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "tg")
    clock.advance(2)
    with pytest.raises(HasSms):
        await sandbox.close(lease.reference, Outcome.CANCELLED)


async def test_finished_lease_keeps_its_code_and_takes_no_other_end(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "xtwo")
    clock.advance(9)
    had = (await read(sandbox, lease)).messages
    await sandbox.close(lease.reference, Outcome.FINISHED)
    await sandbox.close(lease.reference, Outcome.FINISHED)
    clock.advance(60)
    assert await read(sandbox, lease) == Progress(LeaseState.FINISHED, had)
    with pytest.raises(NotAllowed):
        await ask_again(sandbox, lease)
    with pytest.raises(HasSms):
        await sandbox.close(lease.reference, Outcome.CANCELLED)


async def test_finish_after_cancel_is_not_allowed(sandbox: Upstream) -> None:
    lease = await buy(sandbox, "tg")
    await sandbox.close(lease.reference, Outcome.CANCELLED)
    with pytest.raises(NotAllowed):
        await sandbox.close(lease.reference, Outcome.FINISHED)


async def test_life_ends_by_itself(sandbox: Upstream, clock: Clock) -> None:
    with_code, without = await buy(sandbox, "tg"), await buy(sandbox, "xmute")
    clock.advance(1201)
    assert (await read(sandbox, with_code)).state is LeaseState.FINISHED
    assert (await read(sandbox, without)).state is LeaseState.CANCELLED


@pytest.mark.parametrize("reference", ["", "tg", "12345", "tg-6-x-00000000", "TG-6-1-00000000"])
async def test_foreign_reference_is_unknown(sandbox: Upstream, reference: str) -> None:
    assert await sandbox.read(Watched(reference, 1)) == Progress(LeaseState.UNKNOWN)
    with pytest.raises(UnknownLease):
        await sandbox.close(reference, Outcome.CANCELLED)


# --- Restart ---------------------------------------------------------------------------------------------------------


async def test_code_is_the_same_after_a_restart(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "wa")
    clock.advance(10)
    assert await read(started(clock), lease) == await read(sandbox, lease)


async def test_code_asked_for_before_a_restart_still_comes(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "tg")
    clock.advance(2)
    await ask_again(sandbox, lease)
    restarted = started(clock)
    assert len((await read(restarted, lease, 2)).messages) == 1
    clock.advance(2)
    assert [sms.identity for sms in (await read(restarted, lease, 2)).messages] == [
        sms.identity for sms in (await read(sandbox, lease, 2)).messages
    ]


async def test_cancel_after_a_restart_works(sandbox: Upstream, clock: Clock) -> None:
    lease = await buy(sandbox, "xmute")
    restarted = started(clock)
    await restarted.close(lease.reference, Outcome.CANCELLED)
    assert (await read(restarted, lease)).state is LeaseState.CANCELLED


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"quik_seconds": 1})


# Rentals, and numbers for more


def rent_order(service: str = "tg", hours: int = 24, **changes: object) -> BuyOrder:
    given: dict[str, object] = {"cost_max": Money(10_000 * hours, "USD"), "timeout_seconds": 5.0, **changes}
    return BuyOrder(service, 6, "", hours=hours, **given)  # type: ignore[arg-type]


def code_order(service: str, **lease: str) -> BuyOrder:
    return BuyOrder(service, 6, "", Money(50_000, "USD"), 5.0, **lease)  # type: ignore[arg-type]


def renting(clock: Clock) -> Sandbox:
    there = started(clock, usual_seconds_max=1)
    assert isinstance(there, Sandbox)
    return there


async def messages_of(there: Sandbox, lease: Lease) -> int:
    return len((await there.read(Watched(lease.reference, 1))).messages)


async def test_a_rental_gets_messages_by_itself(clock: Clock) -> None:
    there = renting(clock)
    offers = {one.service: one for one in await there.rent_offers(6, 24)}
    assert (offers["tg"].hours, offers["tg"].cost) == (24, Money(240_000, "USD"))
    assert (await there.rent_offers(6, 1))[0].hours == 2
    assert list(await there.rent_offers(6, 1345)) == list(await there.rent_offers(5, 24)) == []
    lease = await there.rent(rent_order())
    assert lease.expires_at == pytest.approx(NOW + 86_400)
    counts = []
    for seconds in (0, 1, 10, 20, 3600, 23 * 3600, 400 * 3600):
        clock.advance(seconds)
        counts.append(await messages_of(there, lease))
    assert counts == [0, 1, 2, 3, 4, 27, 27]
    progress = await there.read(Watched(lease.reference, 1))
    assert len({sms.identity for sms in progress.messages}) == 27
    assert progress.state is LeaseState.OPEN, "the house ends it"


@pytest.mark.parametrize(("service", "count"), [("xmute", 0), ("xlock", 0), ("xtwo", 6)])
async def test_scenarios_hold_for_rentals(clock: Clock, service: str, count: int) -> None:
    there = renting(clock)
    lease = await there.rent(rent_order(service))
    clock.advance(60)
    assert await messages_of(there, lease) == count
    if service == "xlock":
        with pytest.raises(TooEarly):
            await there.close(lease.reference, Outcome.CANCELLED)


@pytest.mark.parametrize(("service", "error"), [("xnone", SoldOut), ("xban", CallerBarred)])
async def test_scenarios_that_refuse_refuse_rentals(clock: Clock, service: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await renting(clock).rent(rent_order(service))


async def test_a_rental_is_prolonged_up_to_the_longest(clock: Clock) -> None:
    there = renting(clock)
    lease = await there.rent(rent_order(hours=1300))
    assert await there.extension_cost(lease.reference, 1) == (Money(20_000, "USD"), 2)
    more = rent_order(hours=44, lease_reference=lease.reference)
    assert await there.extend(more) == pytest.approx(NOW + 1344 * 3600)
    assert (await there.read(Watched(lease.reference, 1))).expires_at == pytest.approx(NOW + 1344 * 3600)
    with pytest.raises(Refused):
        await there.extend(more)
    await there.close(lease.reference, Outcome.FINISHED)
    with pytest.raises(NotAllowed):
        await there.extension_cost(lease.reference, 2)


async def test_what_a_restart_forgets_of_a_rental_is_not_its_end(clock: Clock) -> None:
    lease = await renting(clock).rent(rent_order(hours=2))
    clock.advance(3 * 3600)
    progress = await renting(clock).read(Watched(lease.reference, 1))
    assert (progress.state, len(progress.messages)) == (LeaseState.OPEN, 5)


async def test_a_number_again_and_for_more(clock: Clock) -> None:
    there = renting(clock)
    first = await there.buy(code_order("tg"))
    of_first = {"lease_reference": first.reference, "lease_number": first.number}
    beside = await there.add_service(code_order("wa", **of_first))
    assert (beside.number, beside.reference != first.reference) == (first.number, True)
    clock.advance(2)
    await there.close(first.reference, Outcome.FINISHED)
    with pytest.raises(Refused):
        await there.add_service(code_order("wa", **of_first))
    assert await there.reuse_cost(first.reference, first.number, "tg", 6) == Money(50_000, "USD")
    again = await there.reuse(code_order("tg", **of_first))
    assert again.number == first.number
    await there.close(again.reference, Outcome.CANCELLED)
    with pytest.raises(Refused):
        await there.reuse(code_order("tg", lease_reference=again.reference, lease_number=again.number))
