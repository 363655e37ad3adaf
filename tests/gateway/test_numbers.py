"""The pool on both databases: what may be leased, whose a message is, and what two at the same time make of it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from gateway import numbers, roster
from gateway.database import Database, open_database
from gateway.errors import HasSms, NotAllowed, Unavailable, UnknownLease
from gateway.inhouse import PoolLease, PoolMessage, PoolTerms, Recorded
from gateway.model import BuyOrder, Lease, LeaseState, Outcome
from gateway.money import Money
from gateway.numbers import Numbers
from gateway.roster import NumbersError, services_column, specify
from tests.harness import environment

START = 1_790_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
FIRST, SECOND, THIRD = "447700900101", "447700900102", "447700900103"


def oldest(leases: Sequence[PoolLease], message: PoolMessage) -> PoolLease | str:
    """The lease whose service the text begins with, else the oldest; nobody's where the text says so."""
    if message.text.startswith("nobody"):
        return "told so"
    named = [lease for lease in leases if message.text.startswith(f"{lease.service} ")]
    return (named or list(leases))[0]


TERMS = PoolTerms(
    price=Money(50_000, "USD"),
    choose=oldest,
    lease_seconds=20 * MINUTE,
    cooldown_seconds=30 * DAY,
    cancelled_cooldown_seconds=30 * MINUTE,
    quarantine_seconds=MINUTE,
    daily_cap=20,
    shared=1,
    parts_seconds=MINUTE,
    skew_seconds=2,
    keep_seconds=30 * DAY,
    strangers_daily_max=5,
)


@dataclass
class Bench:
    """A pool with a clock of its own."""

    database: Database
    now: float = START
    terms: PoolTerms = TERMS
    sent: int = 0

    def __post_init__(self) -> None:
        self.pool = Numbers(self.database.store, self.database.vault, lambda: self.now, "mine")

    async def add(self, *numbers: str, upstream: str = "mine", **values: Any) -> roster.Put:
        given = {"country": 16, **values}
        specs = [specify(self.database.vault, number, f"line {n}", given) for n, number in enumerate(numbers, 2)]
        return await self.database.store.run(roster.put, upstream, specs, self.now)

    async def buy(self, service: str = "tg", country: int = 16, **changes: Any) -> Lease | None:
        order = BuyOrder(service, country, "", Money(1_000_000, "USD"), 5.0)
        return await self.pool.lease(dataclasses.replace(order, **changes), self.terms)

    async def bought(self, service: str = "tg", **changes: Any) -> Lease:
        lease = await self.buy(service, **changes)
        assert lease is not None
        return lease

    async def send(self, to: str, text: str = "code 12345", **changes: Any) -> Sequence[Recorded]:
        self.sent += 1
        given = {"source": "generic", "identity": f"m{self.sent}", "to": to, "sender": "Example", "text": text}
        return await self.pool.record(PoolMessage(**{**given, **changes}), self.terms)

    async def texts(self, lease: Lease) -> list[str]:
        progress = await self.pool.progress([lease.reference], self.terms)
        return [sms.text for sms in progress[lease.reference].messages]

    async def state(self, lease: Lease) -> LeaseState:
        return (await self.pool.progress([lease.reference], self.terms))[lease.reference].state

    async def close(self, lease: Lease, outcome: Outcome = Outcome.CANCELLED) -> None:
        await self.pool.close(lease.reference, outcome, self.terms)

    async def free(self, service: str = "tg") -> int:
        kinds = await self.pool.free(self.terms)
        return sum(
            kind.count - kind.taken.get(service, 0)
            for kind in kinds
            if not kind.services or (service in kind.services) is not kind.is_except
        )

    async def all(self, sql: str) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.database.store.read(lambda tx: tx.all(sql))]

    async def unmatched(self) -> list[str]:
        return [row["reason"] for row in await self.all("select reason from number_messages where lease_id is null")]


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[Bench]:
    database = open_database(environment(database_url))
    yield Bench(database)
    await database.store.close()


# Leasing


async def test_number_is_leased_with_what_was_agreed(bench: Bench) -> None:
    await bench.add(FIRST, carrier="examplecell")
    lease = await bench.bought()
    assert dataclasses.replace(lease, reference="") == Lease(
        "", FIRST, Money(50_000, "USD"), "examplecell", START + 20 * MINUTE
    )
    assert await bench.state(lease) is LeaseState.OPEN
    assert await bench.buy() is None


async def test_number_used_longest_ago_comes_first(bench: Bench) -> None:
    await bench.add(FIRST, SECOND, THIRD)
    order = []
    for service in ("tg", "wa", "go", "fb", "ig", "vk"):
        bench.now += 5 * MINUTE
        lease = await bench.bought(service)
        order.append(lease.number)
        await bench.close(lease)
    assert order == [FIRST, SECOND, THIRD] * 2


async def test_only_numbers_of_the_country_the_operator_and_the_service_are_leased(bench: Bench) -> None:
    await bench.add(FIRST, carrier="one", services=services_column(["tg", "wa"], is_except=False))
    await bench.add(SECOND, carrier="two", services=services_column(["tg"], is_except=True))
    assert await bench.buy("tg", country=6) is None
    assert await bench.buy("tg", operator="two") is None
    assert await bench.buy("go", operator="one") is None
    assert [(await bench.bought("go")).number, (await bench.bought("tg")).number] == [SECOND, FIRST]


async def test_code_that_is_part_of_an_allowed_one_is_not_allowed(bench: Bench) -> None:
    await bench.add(FIRST, services=services_column(["abc"], is_except=False))
    assert await bench.buy("ab") is None
    assert await bench.buy("bc") is None
    assert await bench.buy("abc") is not None


async def test_excepted_prefixes_are_passed_over_however_many_there_are(bench: Bench) -> None:
    await bench.add(*(f"4477009{number:05}" for number in range(45)), "447800900999")
    assert (await bench.bought(phone_exceptions=("4477", "4479"))).number == "447800900999"
    assert await bench.buy(phone_exceptions=("4477", "4478")) is None


async def test_number_is_not_leased_twice_for_a_service_within_its_cooldown(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await bench.send(FIRST)
    await bench.close(lease, Outcome.FINISHED)
    bench.now += 30 * DAY - 1
    assert await bench.buy("tg") is None
    assert await bench.free("tg") == 0
    assert await bench.free("wa") == 1
    bench.now += 2
    assert await bench.buy("tg") is not None


async def test_number_given_back_without_a_message_cools_down_for_a_short_time(bench: Bench) -> None:
    await bench.add(FIRST)
    await bench.close(await bench.bought())
    bench.now += 30 * MINUTE - 1
    assert await bench.buy("tg") is None
    bench.now += 2
    assert await bench.buy("tg") is not None


async def test_number_rests_after_use_for_every_service(bench: Bench) -> None:
    await bench.add(FIRST)
    await bench.close(await bench.bought("tg"))
    bench.now += MINUTE - 1
    assert await bench.buy("wa") is None
    assert await bench.free("wa") == 0
    bench.now += 1
    assert await bench.buy("wa") is not None


async def test_number_has_a_daily_cap_of_its_own_or_that_of_all(bench: Bench) -> None:
    bench.terms = dataclasses.replace(TERMS, daily_cap=2)
    await bench.add(FIRST)
    await bench.add(SECOND, daily_cap=1)
    leased = []
    for service in ("tg", "wa", "go", "fb"):
        bench.now += HOUR
        lease = await bench.buy(service)
        if lease is not None:
            leased.append(lease.number)
            await bench.close(lease)
    assert Counter(leased) == {FIRST: 2, SECOND: 1}
    bench.now += HOUR
    assert await bench.free("vk") == 0
    bench.now = START + 25 * HOUR + 1
    assert await bench.free("vk") == 1


async def test_shared_number_is_leased_for_several_services_and_once_for_each(bench: Bench) -> None:
    bench.terms = dataclasses.replace(TERMS, shared=2)
    await bench.add(FIRST)
    assert await bench.buy("tg") is not None
    assert await bench.buy("tg") is None
    assert await bench.buy("wa") is not None
    assert await bench.buy("go") is None


@pytest.mark.parametrize("shared", [1, 3])
async def test_parallel_purchases_never_lease_a_number_twice(bench: Bench, shared: int) -> None:
    bench.terms = dataclasses.replace(TERMS, shared=shared)
    await bench.add(FIRST, SECOND, THIRD)
    services = ("tg", "wa", "go", "fb")
    leases = await asyncio.gather(*(bench.buy(services[n % 4]) for n in range(40)))
    rows = await bench.all("select number_id, service from number_leases where ended_at is null")
    assert len(rows) == len([lease for lease in leases if lease is not None]) == 3 * shared
    assert max(Counter((row["number_id"], row["service"]) for row in rows).values()) == 1
    assert max(Counter(row["number_id"] for row in rows).values()) == shared


async def test_parallel_purchases_that_except_prefixes_never_lease_a_number_twice(bench: Bench) -> None:
    await bench.add(FIRST, "447800900101", "447800900102")
    leases = await asyncio.gather(*(bench.buy(phone_exceptions=("4477",)) for _ in range(12)))
    leased = [lease.number for lease in leases if lease is not None]
    assert sorted(leased) == ["447800900101", "447800900102"]


async def test_parallel_purchases_keep_to_the_daily_cap(bench: Bench) -> None:
    bench.terms = dataclasses.replace(TERMS, shared=10, daily_cap=4)
    await bench.add(FIRST)
    services = ("tg", "wa", "go", "fb", "ig", "vk", "ds", "mm")
    leases = await asyncio.gather(*(bench.buy(service) for service in services))
    assert len([lease for lease in leases if lease is not None]) == 4


async def test_what_is_counted_can_be_leased(bench: Bench) -> None:
    await bench.add(FIRST, SECOND)
    await bench.add(THIRD, services=services_column(["tg"], is_except=True), carrier="other")
    assert (await bench.free("tg"), await bench.free("wa")) == (2, 3)
    await bench.bought("tg")
    assert (await bench.free("tg"), await bench.free("wa")) == (1, 2)
    for count in (1, 0):
        assert await bench.free("tg") == count
        assert (await bench.buy("tg") is not None) is bool(count)


# The life of a lease


async def test_finished_lease_is_finished_and_stays_so(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await bench.send(FIRST)
    for _ in range(2):
        await bench.close(lease, Outcome.FINISHED)
    assert await bench.state(lease) is LeaseState.FINISHED
    assert await bench.texts(lease) == ["code 12345"]
    with pytest.raises(HasSms):
        await bench.close(lease)


async def test_lease_with_a_message_is_not_cancelled(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await bench.send(FIRST)
    with pytest.raises(HasSms):
        await bench.close(lease)
    assert await bench.state(lease) is LeaseState.OPEN
    # The quarantine of a number that was to be cancelled went with the rest of the transaction
    (row,) = await bench.all("select quarantined_until from numbers")
    assert row["quarantined_until"] == 0


async def test_cancelled_lease_stays_cancelled_and_can_not_be_finished(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    for _ in range(2):
        await bench.close(lease)
    assert await bench.state(lease) is LeaseState.CANCELLED
    with pytest.raises(NotAllowed):
        await bench.close(lease, Outcome.FINISHED)
    with pytest.raises(NotAllowed):
        await bench.pool.ask_again(lease.reference)


@pytest.mark.parametrize("reference", ["999", "", "tg-1", "９９", "9" * 40])
async def test_unknown_reference_is_a_state_and_an_error_to_close(bench: Bench, reference: str) -> None:
    found = await bench.pool.progress([reference], TERMS)
    assert found[reference].state is LeaseState.UNKNOWN
    for outcome in Outcome:
        with pytest.raises(UnknownLease):
            await bench.pool.close(reference, outcome, TERMS)
    with pytest.raises(UnknownLease):
        await bench.pool.ask_again(reference)


async def test_lease_of_another_pool_is_unknown(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    other = Numbers(bench.database.store, bench.database.vault, lambda: bench.now, "other")
    assert (await other.progress([lease.reference], TERMS))[lease.reference].state is LeaseState.UNKNOWN
    with pytest.raises(UnknownLease):
        await other.close(lease.reference, Outcome.CANCELLED, TERMS)
    assert await other.find(0) == []
    assert await other.lease(BuyOrder("wa", 16, "", TERMS.price, 5.0), TERMS) is None


@pytest.mark.parametrize("has_message", [True, False])
async def test_lease_whose_time_is_over_ends_by_itself(bench: Bench, has_message: bool) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    if has_message:
        await bench.send(FIRST)
    bench.now += 20 * MINUTE
    assert await bench.state(lease) is (LeaseState.FINISHED if has_message else LeaseState.CANCELLED)
    assert await bench.pool.find(0) == []
    bench.now += 2 * MINUTE
    assert await bench.buy("wa") is not None
    await bench.close(lease, Outcome.FINISHED if has_message else Outcome.CANCELLED)
    bench.now = START + 49 * MINUTE
    assert await bench.free("tg") == 0
    bench.now += 20 * MINUTE
    assert await bench.free("tg") == (0 if has_message else 1)


async def test_open_leases_are_found_so_that_a_lost_purchase_can_be_settled(bench: Bench) -> None:
    await bench.add(FIRST, SECOND)
    await bench.bought("tg")
    bench.now += MINUTE
    lease = await bench.bought("wa")
    (found,) = await bench.pool.find(START + 1)
    assert found.lease == lease
    assert (found.service, found.country, found.created_at) == ("wa", 16, START + MINUTE)


async def test_many_leases_are_read_at_once(bench: Bench) -> None:
    many = [f"4477009{number:05}" for number in range(230)]
    await bench.add(*many)
    leases = [await bench.bought() for _ in many]
    await bench.send(leases[0].number, "the first")
    await bench.send(leases[-1].number, "the last")
    found = await bench.pool.progress([lease.reference for lease in leases], TERMS)
    assert {progress.state for progress in found.values()} == {LeaseState.OPEN}
    texts = {reference: [sms.text for sms in progress.messages] for reference, progress in found.items()}
    assert {reference: told for reference, told in texts.items() if told} == {
        leases[0].reference: ["the first"],
        leases[-1].reference: ["the last"],
    }


# Messages


async def test_message_is_its_leases_and_is_the_same_at_every_reading(bench: Bench) -> None:
    await bench.add(FIRST, SECOND)
    lease, other = await bench.bought(), await bench.bought("wa")
    bench.now += 10
    (recorded,) = await bench.send(FIRST, received_at=START + 8.0)
    assert recorded.reference == lease.reference
    progress = await bench.pool.progress([lease.reference, other.reference], TERMS)
    assert progress[lease.reference].messages == (recorded.sms,)
    assert progress[other.reference].messages == ()
    assert (recorded.sms.text, recorded.sms.sender, recorded.sms.received_at) == ("code 12345", "Example", START + 8)


async def test_message_sent_again_is_one_message(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    first = await bench.send(FIRST, identity="same")
    bench.now += HOUR
    assert await bench.send(FIRST, identity="same") == first
    assert await bench.texts(lease) == ["code 12345"]
    (row,) = await bench.all("select messages from number_leases")
    assert row["messages"] == 1


async def test_same_identity_of_another_source_is_another_message(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await bench.send(FIRST, "one", identity="same")
    await bench.send(FIRST, "two", identity="same", source="twilio")
    assert await bench.texts(lease) == ["one", "two"]


async def test_message_pushed_many_times_at_once_is_one_message(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    recorded = await asyncio.gather(*(bench.send(FIRST, identity="same") for _ in range(12)))
    assert {one.reference for some in recorded for one in some} == {lease.reference}
    (row,) = await bench.all("select messages from number_leases")
    assert row["messages"] == 1
    assert len(await bench.all("select id from number_messages")) == 1


async def test_cancel_and_message_at_the_same_time_agree(bench: Bench) -> None:
    """Either the message is there and the cancel refused, or the lease is over and the message nobody's."""
    many = [f"4477009{number:05}" for number in range(12)]
    await bench.add(*many)
    leases = [await bench.bought() for _ in many]
    works = [work for lease in leases for work in (bench.send(lease.number), bench.close(lease))]
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    for lease, sent, closed in zip(leases, outcomes[::2], outcomes[1::2], strict=True):
        assert sent is not None
        assert not isinstance(sent, BaseException)
        is_matched = sent[0].reference == lease.reference
        assert isinstance(closed, HasSms) if is_matched else closed is None
        assert await bench.state(lease) is (LeaseState.OPEN if is_matched else LeaseState.CANCELLED)


async def test_message_that_came_before_the_lease_is_not_its(bench: Bench) -> None:
    await bench.add(FIRST)
    (before,) = await bench.send(FIRST)
    bench.now += 3
    lease = await bench.bought()
    (late,) = await bench.send(FIRST, received_at=START)
    (repeated,) = await bench.send(FIRST, identity="m1")
    assert [one.reason for one in (before, late, repeated)] == ["no lease", "early", "no lease"]
    assert await bench.texts(lease) == []
    (in_time,) = await bench.send(FIRST, received_at=START + 1.5)
    assert in_time.reference == lease.reference


async def test_message_after_the_end_is_nobodys(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await bench.close(lease)
    await bench.send(FIRST)
    bench.now += HOUR
    lease = await bench.bought("wa")
    bench.now += 20 * MINUTE
    await bench.send(FIRST)
    assert await bench.texts(lease) == []
    assert await bench.unmatched() == ["no lease", "no lease"]


async def test_choice_among_several_leases_is_what_the_rules_say(bench: Bench) -> None:
    bench.terms = dataclasses.replace(TERMS, shared=3)
    await bench.add(FIRST)
    first, second = await bench.bought("tg"), await bench.bought("wa")
    await bench.send(FIRST, "wa 1")
    await bench.send(FIRST, "something")
    (refused,) = await bench.send(FIRST, "nobody's")
    assert (await bench.texts(first), await bench.texts(second)) == (["something"], ["wa 1"])
    assert refused.reason == "told so"


async def test_rules_are_told_who_waits(bench: Bench) -> None:
    seen: list[list[bool]] = []

    def note(leases: Sequence[PoolLease], _message: PoolMessage) -> PoolLease | str:
        seen.append([lease.is_waiting for lease in leases])
        return leases[0]

    bench.terms = dataclasses.replace(TERMS, shared=2, choose=note)
    await bench.add(FIRST)
    first, _second = await bench.bought("tg"), await bench.bought("wa")
    await bench.send(FIRST)
    await bench.send(FIRST)
    await bench.pool.ask_again(first.reference)
    await bench.send(FIRST)
    assert seen == [[True, True], [False, True], [True, True]]


async def test_number_is_found_by_its_device_where_the_source_does_not_tell_it(bench: Bench) -> None:
    await bench.add(FIRST, device="phone:1")
    lease = await bench.bought()
    await bench.send("", "by device", device="phone:1")
    await bench.send("0812345", "national", device="phone:1")
    await bench.send("00" + FIRST, "with two noughts")
    await bench.send("", "elsewhere", device="phone:2")
    assert await bench.texts(lease) == ["by device", "national", "with two noughts"]
    assert await bench.unmatched() == ["not ours"]


async def test_card_that_moved_takes_its_number_along(bench: Bench) -> None:
    await bench.add(FIRST, device="phone:1")
    await bench.add(SECOND, source="smsgate")
    assert await bench.pool.place({"phone:1": SECOND, "phone:9": "447700900999"}, "generic") == 0
    assert await bench.pool.place({"phone:1": SECOND}, "smsgate") == 1
    assert await bench.pool.place({"phone:1": SECOND}, "smsgate") == 0
    rows = await bench.all("select device from numbers order by id")
    assert [row["device"] for row in rows] == [None, "phone:1"]


async def test_source_speaks_for_its_own_numbers_only(bench: Bench) -> None:
    await bench.add(FIRST, source="twilio")
    lease = await bench.bought()
    await bench.send(FIRST, source="generic")
    await bench.send(FIRST, "genuine", source="twilio")
    assert await bench.texts(lease) == ["genuine"]
    assert await bench.unmatched() == ["other source"]


async def test_messages_for_strangers_are_kept_up_to_a_cap(bench: Bench) -> None:
    await bench.add(FIRST)
    recorded = [(await bench.send("447700900999"))[0] for _ in range(7)]
    assert [one.is_kept for one in recorded] == [True] * 5 + [False] * 2
    assert (await bench.send("447700900999", identity="m1"))[0].is_kept
    assert (await bench.send(FIRST))[0].is_kept
    assert len(await bench.unmatched()) == 6
    bench.now += DAY + 1
    assert (await bench.send("447700900999"))[0].is_kept


# Parts


async def send_part(bench: Bench, place: int, total: int, reference: str = "r", **changes: Any) -> Sequence[Recorded]:
    return await bench.send(FIRST, f"<{place}>", part=(reference, total, place), **changes)


@pytest.mark.parametrize("places", [(1, 2, 3), (3, 1, 2)])
async def test_parts_are_one_message_in_whatever_order_they_come(bench: Bench, places: Sequence[int]) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    for place in places[:-1]:
        assert await send_part(bench, place, 3) == []
    assert await bench.texts(lease) == []
    (recorded,) = await send_part(bench, places[-1], 3)
    assert recorded.reference == lease.reference
    assert await bench.texts(lease) == ["<1><2><3>"]


async def test_parts_that_come_at_the_same_time_are_joined(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    look, together = numbers._waiting, threading.Barrier(4)

    def meet() -> None:
        """Where nothing keeps them, all have written before any looks, and looked before any commits."""
        with suppress(threading.BrokenBarrierError):
            together.wait(1.0)

    def looked_at_together(*args: Any) -> Any:
        meet()
        found = look(*args)
        meet()
        return found

    monkeypatch.setattr(numbers, "_waiting", looked_at_together)
    await asyncio.gather(*(send_part(bench, place, 4) for place in (4, 2, 1, 3)))
    assert await bench.texts(lease) == ["<1><2><3><4>"]


async def test_repeated_part_changes_nothing(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await send_part(bench, 1, 2, identity="a")
    assert await send_part(bench, 1, 2, identity="a") == []
    joined = await send_part(bench, 2, 2, identity="b")
    assert await send_part(bench, 1, 2, identity="a") == joined
    assert await bench.texts(lease) == ["<1><2>"]


async def test_parts_nobody_completes_are_taken_as_they_are(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await send_part(bench, 1, 4)
    await send_part(bench, 2, 4)
    await send_part(bench, 4, 4)
    bench.now += MINUTE - 1
    assert await bench.texts(lease) == []
    bench.now += 1
    assert await bench.texts(lease) == ["<1><2> … <4>"]
    await send_part(bench, 3, 4)
    bench.now += MINUTE
    await bench.pool.tidy(TERMS)
    assert await bench.texts(lease) == ["<1><2> … <4>", " … <3>"]


async def test_reference_used_again_is_another_message(bench: Bench) -> None:
    await bench.add(FIRST)
    lease = await bench.bought()
    await send_part(bench, 1, 2)
    await send_part(bench, 1, 2)
    await send_part(bench, 2, 2)
    assert await bench.texts(lease) == ["<1>", "<1><2>"]


async def test_parts_for_a_stranger_are_kept_as_they_are(bench: Bench) -> None:
    (recorded,) = await bench.send("447700900999", part=("r", 2, 1))
    assert recorded.reason == "not ours"


# What is kept, and what is sealed


async def test_old_messages_are_dropped_but_not_those_of_open_leases(bench: Bench) -> None:
    bench.terms = dataclasses.replace(TERMS, lease_seconds=40 * DAY, shared=2)
    await bench.add(FIRST)
    kept = await bench.bought("tg")
    over = await bench.bought("wa")
    await bench.send(FIRST, "tg 1")
    await bench.send(FIRST, "wa 1")
    for place in (1, 2):
        await bench.send(FIRST, "wa ", part=("r", 2, place))
    await bench.close(over, Outcome.FINISHED)
    await bench.send("447700900999")
    bench.now += 31 * DAY
    await bench.send(FIRST, "nobody new")
    await bench.pool.tidy(bench.terms)
    assert await bench.texts(kept) == ["tg 1"]
    assert len(await bench.all("select id from number_messages")) == 2
    assert await bench.all("select id from number_parts") == []


async def test_numbers_senders_and_texts_are_sealed(bench: Bench) -> None:
    await bench.add(FIRST)
    await bench.bought()
    await bench.send(FIRST, "very secret", sender="Confidential")
    await send_part(bench, 1, 2, sender="Confidential")
    for table in ("numbers", "number_messages", "number_parts", "number_leases"):
        shown = str(await bench.all(f"select * from {table}"))  # noqa: S608 — constant names
        assert not any(plain in shown for plain in (FIRST, "secret", "Confidential", "<1>"))


async def test_database_that_is_away_is_unavailable(bench: Bench) -> None:
    await bench.add(FIRST)
    await bench.database.store.close()
    with pytest.raises(Unavailable):
        await bench.buy()
    with pytest.raises(Unavailable):
        await bench.send(FIRST)


# The roster


async def test_putting_a_number_again_changes_what_is_given_and_only_that(bench: Bench) -> None:
    assert await bench.add(FIRST, carrier="one", device="d1") == roster.Put(1, 0, 0)
    assert await bench.add(FIRST, carrier="two") == roster.Put(0, 1, 0)
    assert await bench.add(FIRST, carrier="two") == roster.Put(0, 0, 1)
    (row,) = await bench.all("select carrier, device, country from numbers")
    assert row == {"carrier": "two", "device": "d1", "country": 16}


async def test_every_problem_is_told_and_nothing_is_put(bench: Bench) -> None:
    await bench.add(FIRST, upstream="other")
    await bench.add(SECOND, device="taken")
    vault = bench.database.vault
    specs = [
        specify(vault, FIRST, "line 2", {"country": 16}),
        specify(vault, THIRD, "line 3", {"country": 16, "device": "taken"}),
        specify(vault, "447700900104", "line 4", {}),
        specify(vault, THIRD, "line 5", {"country": 16}),
    ]
    with pytest.raises(NumbersError) as caught:
        await bench.database.store.run(roster.put, "mine", specs, START)
    assert set(caught.value.problems) == {
        "line 2: the number is in the pool of other",
        "line 3: the device 'taken' is that of another number",
        "line 4: a new number needs a country",
        "line 5: the same number as line 3",
    }
    assert len(await bench.all("select id from numbers")) == 2


async def test_one_source_moves_no_number_of_another_out_of_its_device(bench: Bench) -> None:
    await bench.add(FIRST, device="modem:1", source="generic")
    await bench.add(SECOND)
    assert await bench.pool.place({"modem:1": SECOND}, "smsgate") == 0
    rows = await bench.all("select device from numbers order by id")
    assert [row["device"] for row in rows] == ["modem:1", None]


async def test_two_numbers_may_change_places(bench: Bench) -> None:
    await bench.add(FIRST, device="a")
    await bench.add(SECOND, device="b")
    vault = bench.database.vault
    specs = [specify(vault, FIRST, "line 2", {"device": "b"}), specify(vault, SECOND, "line 3", {"device": "a"})]
    assert await bench.database.store.run(roster.put, "mine", specs, START) == roster.Put(0, 2, 0)
    rows = await bench.all("select device from numbers order by id")
    assert [row["device"] for row in rows] == ["b", "a"]


async def test_removed_number_that_comes_back_keeps_its_cooldowns(bench: Bench) -> None:
    await bench.add(FIRST, daily_cap=3)
    run, vault = bench.database.store.run, bench.database.vault
    lease = await bench.bought()
    with pytest.raises(NumbersError, match="is leased"):
        await run(roster.remove, vault, [FIRST], bench.now)
    await bench.send(FIRST)
    await bench.close(lease, Outcome.FINISHED)
    bench.now += HOUR
    await run(roster.remove, vault, [FIRST], bench.now)
    assert await bench.free("wa") == 0
    assert (await bench.send(FIRST))[0].reason == "not ours"
    assert await bench.add(FIRST) == roster.Put(1, 0, 0)
    assert (await bench.free("tg"), await bench.free("wa")) == (0, 1)
    await run(roster.end_cooldowns, vault, ["+" + FIRST], bench.now)
    assert await bench.free("tg") == 1


async def test_switches_hold_for_the_next_purchase(bench: Bench) -> None:
    await bench.add(FIRST)
    run, vault = bench.database.store.run, bench.database.vault

    def switch(is_enabled: bool) -> Any:
        return run(lambda tx: roster.set_enabled(tx, vault, ["1"], is_enabled=is_enabled))

    assert (await switch(False), await switch(False)) == (1, 0)
    assert await bench.buy() is None
    await switch(True)
    await run(roster.quarantine, vault, [FIRST], bench.now + HOUR)
    assert await bench.buy() is None
    await run(roster.quarantine, vault, [FIRST], 0.0)
    assert await bench.buy() is not None
    with pytest.raises(NumbersError, match="no number 447700900999"):
        await run(roster.quarantine, vault, [FIRST, "447700900999"], 0.0)
