"""The desk as an upstream: what an order gets while a person types, late, never, or in advance."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.manual_entry import ManualEntry, Options, build
from gateway.database import Database, open_database
from gateway.desk import Desk
from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    NotReached,
    Refused,
    SoldOut,
    Unavailable,
    UnknownLease,
    Unwell,
)
from gateway.inhouse import DeskState, TypedIn
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Watched
from gateway.money import Money
from gateway.store import Unit
from gateway.upstream import AsksAgain, Finds, HasUnmapped, ReadsMany
from tests.adapters._context import SECRET, SmallCatalog, context, order
from tests.harness import environment

NUMBER, OTHER_NUMBER = "447700900001", "447700900002"
SOLD: dict[str, Any] = {"services": ["tg", "wa"], "countries": [16, 6], "price": "0.40"}


@dataclass
class Away:
    """A store that can be told to fail: before a unit ran, or after, when nobody learns of it."""

    database: Database
    fails: str = ""
    dialect: str = ""
    full_at: float = -math.inf

    async def run(self, unit: Unit[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.fails == "before":
            raise Unavailable
        result = await self.database.store.run(unit, *args, **kwargs)
        if self.fails == "after":
            raise Unavailable
        return result

    async def read(self, unit: Unit[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.fails:
            raise Unavailable
        return await self.database.store.read(unit, *args, **kwargs)

    async def close(self) -> None: ...


@dataclass
class Office:
    """A desk with one person, its store, and what the person was told."""

    database: Database
    store: Away
    ahead: float = 0.0
    told: list[tuple[str, str]] = field(default_factory=list)

    def clock(self) -> float:
        return time.time() + self.ahead

    def there(self, name: str = "manual_entry", **options: Any) -> ManualEntry:
        """An upstream like this one in another process: nothing is shared but the rows."""
        desk = Desk(self.store, self.database.vault, self.clock, name, lambda *words: self.told.append(words))
        return build(context(name=name, clock=self.clock, desk=desk), Options(**{**SOLD, **options}))

    async def wanted(self, count: int = 1) -> list[str]:
        """Waits until so many numbers are wanted; the tasks."""
        for _ in range(100):
            tasks = [task.id for task in await self.there().waiting() if task.wants == "number"]
            if len(tasks) >= count:
                return tasks
            await asyncio.sleep(0.05)
        raise AssertionError("fewer numbers were wanted")

    async def type_when_wanted(self, number: str = NUMBER) -> str:
        """A person in another process, who sees that a number is wanted and types it; the task."""
        (task,) = await self.wanted()
        return (await self.there().supply(task, number=number)).id

    async def lease(self, number: str = NUMBER, **changes: Any) -> Lease:
        await self.there().offer("tg", 16, number)
        return await self.there().buy(wish(**changes))


def wish(**changes: Any) -> BuyOrder:
    """An order with time for one or two looks."""
    return order(**{"timeout_seconds": 1.0, **changes})


@pytest.fixture
async def office(database_url: str) -> AsyncIterator[Office]:
    database = await asyncio.to_thread(open_database, environment(database_url))
    yield Office(database, Away(database))
    await database.store.close()


@pytest.fixture
async def embedded(sqlite_url: str) -> AsyncIterator[Office]:
    """Where one kind of database is as good as the other."""
    database = await asyncio.to_thread(open_database, environment(sqlite_url))
    yield Office(database, Away(database))
    await database.store.close()


# A life


async def test_number_is_typed_while_the_order_waits_then_its_code_then_another(office: Office) -> None:
    there, person = office.there(), office.there()
    typing = asyncio.create_task(office.type_when_wanted())
    lease = await there.buy(wish(timeout_seconds=6.0))
    assert await typing == lease.reference
    assert (lease.number, lease.cost) == (NUMBER, Money(400_000, "USD"))
    assert lease.expires_at == pytest.approx(time.time() + 1200, abs=5)
    watched = Watched(lease.reference, 1)
    assert await there.read(watched) == Progress(LeaseState.OPEN)
    await person.supply(lease.reference, code=" 012345 ", text="Your code is 012345\n")
    progress = await there.read(watched)
    assert [(sms.code, sms.text) for sms in progress.messages] == [("012345", "Your code is 012345")]
    await there.ask_again(lease.reference)
    await there.ask_again(lease.reference)
    await person.supply(lease.reference, code="012345")
    both = (await there.read(watched)).messages
    assert [sms.code for sms in both] == ["012345", "012345"]
    assert both[0] == progress.messages[0]
    assert both[1].identity != both[0].identity
    await there.close(lease.reference, Outcome.FINISHED)
    await there.close(lease.reference, Outcome.FINISHED)
    assert await there.read(watched) == Progress(LeaseState.FINISHED, both)
    assert [title for title, _ in office.told] == [
        "manual_entry: number wanted",
        "manual_entry: code wanted",
        "manual_entry: another code wanted",
    ]


async def test_notices_name_the_task_and_what_is_wanted_and_nothing_secret(office: Office) -> None:
    typing = asyncio.create_task(office.type_when_wanted())
    lease = await office.there().buy(wish(timeout_seconds=6.0, operator="vodafone"))
    await typing
    await office.there().supply(lease.reference, code="975312")
    await office.there().ask_again(lease.reference)
    bodies = [body for _, body in office.told]
    assert all(body.startswith(f"Task {lease.reference}, Telegram (tg), GB (16): ") for body in bodies)
    assert bodies[0].endswith("an order waits for a number of vodafone, at 0.40 USD.")
    assert not [body for body in bodies if NUMBER in body or NUMBER[2:] in body or "975312" in body]


async def test_it_has_every_ability_of_its_kind(embedded: Office) -> None:
    there = embedded.there()
    for ability in (ReadsMany, AsksAgain, Finds, HasUnmapped, TypedIn):
        assert isinstance(there, ability)


# Buying


async def test_order_nobody_answers_is_sold_out_in_time_and_its_task_stays(office: Office) -> None:
    started = time.monotonic()
    with pytest.raises(SoldOut):
        await office.there().buy(wish(timeout_seconds=1.2))
    assert 0.5 < time.monotonic() - started < 1.2
    (task,) = await office.there().waiting()
    assert (task.state, task.leased_at) == (DeskState.WANTED, None)
    assert await office.there().find(0) == []


async def test_order_with_no_time_left_asks_for_the_one_that_comes_back(embedded: Office) -> None:
    started = time.monotonic()
    with pytest.raises(SoldOut):
        await embedded.there().buy(wish(timeout_seconds=0.2))
    assert time.monotonic() - started < 0.2
    assert len(await embedded.wanted()) == len(embedded.told) == 1


async def test_number_typed_late_goes_to_the_order_asked_again(office: Office) -> None:
    with pytest.raises(SoldOut):
        await office.there().buy(wish())
    task = await office.type_when_wanted()
    lease = await office.there().buy(wish(timeout_seconds=0.1))
    assert (lease.reference, lease.number) == (task, NUMBER)


async def test_order_asked_again_and_again_is_one_task_and_one_notice(office: Office) -> None:
    for _ in range(3):
        with pytest.raises(SoldOut):
            await office.there().buy(wish(timeout_seconds=0.7))
    assert len(await office.there().waiting()) == 1
    assert len(office.told) == 1


async def test_orders_at_the_same_time_get_a_number_each(office: Office) -> None:
    there = office.there()
    orders = [asyncio.create_task(there.buy(wish(timeout_seconds=6.0))) for _ in range(3)]
    wanted = await office.wanted(3)
    for place, task in enumerate(wanted):
        await there.supply(task, number=f"44770090010{place}")
    leases = await asyncio.gather(*orders)
    assert {lease.reference for lease in leases} == set(wanted)
    assert len({lease.number for lease in leases}) == 3


async def test_number_put_up_in_advance_is_sold_at_once_and_once(office: Office) -> None:
    await office.there().offer("tg", 16, "+44 7700 900001")
    done = await asyncio.gather(*(office.there(on_call=False).buy(wish()) for _ in range(5)), return_exceptions=True)
    leases = [one for one in done if isinstance(one, Lease)]
    assert [lease.number for lease in leases] == [NUMBER]
    assert sum(isinstance(one, SoldOut) for one in done) == 4


async def test_nobody_on_call_is_asked_for_nothing(embedded: Office) -> None:
    with pytest.raises(SoldOut):
        await embedded.there(on_call=False).buy(wish())
    assert await embedded.there().waiting() == []
    assert embedded.told == []


async def test_person_who_has_no_such_number_ends_the_wait_and_those_that_follow(office: Office) -> None:
    there = office.there()
    buying = asyncio.create_task(there.buy(wish(timeout_seconds=8.0)))
    (wanted,) = await office.wanted()
    started = time.monotonic()
    await there.fail(wanted)
    with pytest.raises(SoldOut):
        await buying
    with pytest.raises(SoldOut, match="there is none"):
        await there.buy(wish(timeout_seconds=8.0))
    assert time.monotonic() - started < 2
    assert len(office.told) == 1
    assert (await there.offers()).at("tg", 16) == ()
    await there.offer("tg", 16, NUMBER)
    assert (await there.buy(wish())).number == NUMBER


async def test_excluded_number_stays_for_somebody_else(office: Office) -> None:
    await office.there().offer("tg", 16, NUMBER)
    with pytest.raises(SoldOut):
        await office.there().buy(wish(phone_exceptions=("4477",)))
    assert (await office.there().buy(wish())).number == NUMBER


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"service": "go"}, Refused),
        ({"country": 43}, Refused),
        ({"cost_max": 399_999}, SoldOut),
    ],
)
async def test_what_is_not_sold_at_that_price_opens_no_task(
    embedded: Office, change: dict[str, Any], error: type[Exception]
) -> None:
    await embedded.there().offer("tg", 16, NUMBER)
    with pytest.raises(error):
        await embedded.there().buy(wish(**change))
    assert [task.state for task in await embedded.there().waiting()] == [DeskState.READY]
    assert embedded.told == []


# Purchases whose answer is lost


async def test_lease_nobody_learnt_of_is_in_doubt_and_found(office: Office) -> None:
    since = time.time()
    task = await office.there().offer("tg", 16, NUMBER)
    office.store.fails = "after"
    with pytest.raises(InDoubt):
        await office.there().buy(wish())
    office.store.fails = ""
    (found,) = await office.there().find(since)
    assert (found.lease.reference, found.lease.number, found.service, found.country) == (task.id, NUMBER, "tg", 16)
    assert found.created_at == pytest.approx(since, abs=5)
    assert await office.there().find(time.time() + 60) == []
    await office.there().close(found.lease.reference, Outcome.CANCELLED)
    assert await office.there().find(since) == []


async def test_wait_that_the_database_ends_took_nothing(office: Office) -> None:
    buying = asyncio.create_task(office.there().buy(wish(timeout_seconds=5.0)))
    await office.wanted()
    office.store.fails = "before"
    with pytest.raises(NotReached):
        await buying
    office.store.fails = ""
    assert await office.there().find(0) == []


async def test_order_that_dies_waiting_leaves_its_number_to_the_next(office: Office) -> None:
    buying = asyncio.create_task(office.there().buy(wish(timeout_seconds=1.5)))
    await office.wanted()
    buying.cancel()
    await asyncio.gather(buying, return_exceptions=True)
    task = await office.type_when_wanted()
    assert (await office.there().buy(wish(timeout_seconds=3.0))).reference == task


async def test_every_other_verb_says_when_the_database_is_away(embedded: Office) -> None:
    lease = await embedded.lease()
    embedded.store.fails = "before"
    there = embedded.there()
    calls = [
        there.offers(), there.read(Watched(lease.reference, 1)), there.read_many([Watched(lease.reference, 1)]),
        there.find(0), there.ask_again(lease.reference), there.close(lease.reference, Outcome.CANCELLED),
        there.tidy(), there.waiting(), there.supply(lease.reference, code="1"), there.fail(lease.reference),
        there.offer("tg", 16, OTHER_NUMBER),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unwell):
            await call


async def test_without_a_desk_nothing_is_reached(embedded: Office) -> None:
    bare = build(context(name="bare"), Options(**SOLD))
    with pytest.raises(NotReached):
        await bare.buy(wish())
    with pytest.raises(Unwell):
        await bare.offers()
    await bare.aclose()


# Reading and closing


async def test_unknown_reference_is_a_state_to_read_and_an_error_to_close(office: Office) -> None:
    with pytest.raises(SoldOut):
        await office.there().buy(wish(timeout_seconds=0.7))
    (wanted,) = await office.there().waiting()
    for reference in ("99999", "x", wanted.id):
        assert await office.there().read(Watched(reference, 1)) == Progress(LeaseState.UNKNOWN)
        assert await office.there().read_many([Watched(reference, 1)]) == {}
        for outcome in Outcome:
            with pytest.raises(UnknownLease):
                await office.there().close(reference, outcome)
        with pytest.raises(UnknownLease):
            await office.there().ask_again(reference)


async def test_many_are_read_as_each_would_be(office: Office) -> None:
    there = office.there()
    leases = [await office.lease(f"44770090010{place}") for place in range(4)]
    await there.supply(leases[0].reference, code="12345")
    await there.fail(leases[1].reference)
    await there.close(leases[2].reference, Outcome.CANCELLED)
    watched = [Watched(lease.reference, 1) for lease in leases]
    many = await there.read_many([*watched, Watched("99999", 1)])
    assert many == {one.reference: await there.read(one) for one in watched}
    states = [many[one.reference].state for one in watched]
    assert states == [LeaseState.OPEN, LeaseState.CANCELLED, LeaseState.CANCELLED, LeaseState.OPEN]


async def test_cancel_gives_the_number_back_unless_a_code_is_there(office: Office) -> None:
    there = office.there()
    lease = await office.lease()
    for _ in range(2):
        await there.close(lease.reference, Outcome.CANCELLED)
    assert await there.read(Watched(lease.reference, 1)) == Progress(LeaseState.CANCELLED)
    with pytest.raises(NotAllowed):
        await there.supply(lease.reference, code="12345")
    kept = await office.lease(OTHER_NUMBER)
    await there.supply(kept.reference, code="12345")
    with pytest.raises(HasSms):
        await there.close(kept.reference, Outcome.CANCELLED)


@pytest.mark.parametrize(("code", "state"), [("", LeaseState.CANCELLED), ("12345", LeaseState.FINISHED)])
async def test_lease_that_ran_out_is_over(office: Office, code: str, state: LeaseState) -> None:
    lease = await office.lease()
    if code:
        await office.there().supply(lease.reference, code=code)
    office.ahead = 1201
    assert (await office.there().read(Watched(lease.reference, 1))).state is state
    await office.there().close(lease.reference, Outcome.FINISHED if code else Outcome.CANCELLED)
    with pytest.raises(NotAllowed):
        await office.there().ask_again(lease.reference)


async def test_tidying_keeps_what_was_over_lately(office: Office) -> None:
    lease = await office.lease()
    await office.there().close(lease.reference, Outcome.CANCELLED)
    office.ahead = 29 * 86_400
    await office.there().tidy()
    assert (await office.there().read(Watched(lease.reference, 1))).state is LeaseState.CANCELLED
    office.ahead = 31 * 86_400
    await office.there().tidy()
    assert (await office.there().read(Watched(lease.reference, 1))).state is LeaseState.UNKNOWN


# Offers


async def test_offers_are_what_lies_ready_and_one_more_where_somebody_answers(office: Office) -> None:
    await office.there().offer("tg", 16, NUMBER)
    await office.there().offer("tg", 16, OTHER_NUMBER)
    table = await office.there().offers()
    assert {pair: table.at(*pair)[0].count for pair in table.pairs()} == {
        ("tg", 16): 3,
        ("tg", 6): 1,
        ("wa", 16): 1,
        ("wa", 6): 1,
    }
    assert table.at("tg", 16)[0].cost == Money(400_000, "USD")
    ready_only = await office.there(on_call=False).offers()
    assert {pair: ready_only.at(*pair)[0].count for pair in ready_only.pairs()} == {("tg", 16): 2}
    await office.there().buy(wish())
    assert (await office.there(on_call=False).offers()).at("tg", 16)[0].count == 1


async def test_no_countries_named_is_every_country_and_unknown_codes_are_told(embedded: Office) -> None:
    there = embedded.there(services=["tg", "zz"], countries=[])
    assert set((await there.offers()).pairs()) == {("tg", country) for country in SmallCatalog().country_iso2}
    assert there.unmapped == {"service zz": 0}
    assert embedded.there(countries=[16, 999]).unmapped == {"country 999": 0}


async def test_balance_never_runs_dry(embedded: Office) -> None:
    assert (await embedded.there().balance()).micros > 0


# The person


@pytest.mark.parametrize(
    ("token", "is_right"), [(SECRET, True), (SECRET[:-1], False), (SECRET + "x", False), ("", False), ("ключ", False)]
)
async def test_key_admits_its_owner(embedded: Office, token: str, is_right: bool) -> None:
    assert embedded.there().admits(token) is is_right


async def test_desk_without_a_key_admits_nobody() -> None:
    bare = build(context(secret=""), Options(**SOLD))
    assert not bare.admits("")


@pytest.mark.parametrize(
    "typed",
    [
        {},
        {"number": "  "},
        {"number": NUMBER, "code": "12345"},
        {"number": "12"},
        {"number": "not a number"},
        {"number": "07700900001"},
        {"code": "1" * 33},
        {"text": "x" * 2001},
        {"code": "12\x0045"},
        {"text": "half a \ud83d character"},
    ],
)
async def test_what_makes_no_sense_is_told_and_changes_nothing(embedded: Office, typed: dict[str, str]) -> None:
    with pytest.raises(SoldOut):
        await embedded.there().buy(wish(timeout_seconds=0.7))
    (before,) = await embedded.there().waiting()
    with pytest.raises(ValueError, match=r"number|code|text") as caught:
        await embedded.there().supply(before.id, **typed)
    assert not [value for value in typed.values() if len(value) > 3 and value in str(caught.value)]
    assert await embedded.there().waiting() == [before]


async def test_text_of_several_lines_and_any_script_is_kept(office: Office) -> None:
    lease = await office.lease()
    text = "Ваш код: 12345\n\tДействует 5 минут 👩‍💻"
    await office.there().supply(lease.reference, text=text)
    ((sms,)) = (await office.there().read(Watched(lease.reference, 1))).messages
    assert (sms.code, sms.text) == ("", text)


async def test_number_is_put_up_only_for_what_is_sold_and_with_its_prefix(embedded: Office) -> None:
    for service, country, number in (("go", 16, NUMBER), ("tg", 43, "4915112345678"), ("tg", 6, NUMBER)):
        with pytest.raises(ValueError, match=r"sell|begins"):
            await embedded.there().offer(service, country, number)
    assert await embedded.there().waiting() == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"services": [], "price": "0.40"},
        {"services": ["tg"]},
        {"services": ["tg"], "price": "0"},
        {"services": ["tg"], "price": "-1"},
        {"services": ["tg"], "price": 0.4},
        {"services": ["TG"], "price": "0.40"},
        {"services": ["tg"], "price": "0.40", "countries": ["16"]},
        {"services": ["tg"], "price": "0.40", "life_seconds": 0},
    ],
)
def test_stanza_says_what_is_sold_and_at_which_price(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**options)
