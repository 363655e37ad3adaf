"""A desk's rows, on both databases: who gets a number, what a task takes, and what nobody else sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway import desk as desk_module
from gateway.database import Database, open_database
from gateway.desk import MESSAGES_MAX, Desk
from gateway.errors import HasSms, NotAllowed, UnknownLease
from gateway.inhouse import DeskOrder, DeskState, DeskTask
from gateway.money import Money
from gateway.store import Tx
from tests.harness import environment

NOW = 1_750_000_000.0
COST = Money(400_000, "USD")
NUMBER, OTHER_NUMBER = "447700900001", "447700900002"


@dataclass
class Office:
    """A desk, the time there, and what its people were told."""

    database: Database
    now: float = NOW
    told: list[tuple[str, str]] = field(default_factory=list)

    def desk(self, name: str = "manual_entry") -> Desk:
        return Desk(
            self.database.store, self.database.vault, lambda: self.now, name, lambda *words: self.told.append(words)
        )

    def order(self, **changes: Any) -> DeskOrder:
        """One that waits for eight seconds."""
        given: dict[str, Any] = {"service": "tg", "country": 16, "operator": "", "cost": COST}
        return DeskOrder(**{**given, "waits_until": self.now + 8, "life_seconds": 1200.0, **changes})

    async def want(self, order: DeskOrder | None = None) -> tuple[DeskTask | None, bool]:
        return await self.desk().want(order or self.order(), self.now + 600, self.now - 600)

    async def wanted(self, order: DeskOrder | None = None) -> DeskTask:
        task, _ = await self.want(order)
        assert task is not None
        return task

    async def offer(self, number: str = NUMBER, service: str = "tg") -> DeskTask:
        return await self.desk().offer(service, 16, COST, number, self.now + 900)

    async def leased(self, number: str = NUMBER) -> DeskTask:
        await self.offer(number)
        task = await self.desk().take(self.order())
        assert task is not None
        return task

    async def typed(self, task: DeskTask, number: str = NUMBER) -> DeskTask:
        return await self.desk().type_number(task.id, number, self.now + 900)

    async def stored(self) -> str:
        """Everything in both tables, as text."""

        def read(tx: Tx) -> str:
            rows = [*tx.all("select * from desk_tasks"), *tx.all("select * from desk_messages")]
            return "\n".join(str(dict(row)) for row in rows)

        return await self.database.store.read(read)


@pytest.fixture
async def office(database_url: str) -> AsyncIterator[Office]:
    database = await asyncio.to_thread(open_database, environment(database_url))
    yield Office(database)
    await database.store.close()


# Numbers


async def test_number_typed_for_a_waiting_order_is_leased_to_it(office: Office) -> None:
    task, is_new = await office.want()
    assert task is not None
    assert (task.state, task.wants, is_new) == (DeskState.WANTED, "number", True)
    assert not await office.desk().has_news(office.order(), task.id)
    assert await office.desk().take(office.order(), task.id) is None
    ready = await office.typed(task)
    assert (ready.state, ready.wants, ready.number) == (DeskState.READY, "", NUMBER)
    assert await office.desk().has_news(office.order(), task.id)
    leased = await office.desk().take(office.order(), task.id)
    assert leased is not None
    assert (leased.id, leased.state, leased.number) == (task.id, DeskState.LEASED, NUMBER)
    assert (leased.leased_at, leased.until, leased.wants) == (NOW, NOW + 1200, "code")


async def test_number_belongs_to_the_order_it_was_typed_for_while_that_one_waits(office: Office) -> None:
    first, second = await office.wanted(), await office.wanted()
    assert first.id != second.id
    await office.typed(second)
    assert not await office.desk().has_news(office.order(), first.id)
    assert await office.desk().take(office.order(), first.id) is None
    taken = await office.desk().take(office.order(), second.id)
    assert taken is not None
    assert taken.id == second.id


async def test_number_typed_too_late_waits_for_the_next_order_and_not_for_ever(office: Office) -> None:
    task = await office.wanted()
    office.now += 9
    await office.typed(task)
    assert (await office.desk().shelves(office.now)).ready == {("tg", 16): 1}
    for elsewhere in ({"service": "wa"}, {"country": 6}, {"operator": "any"}, {"phone_exceptions": ("4477",)}):
        assert await office.desk().take(office.order(**elsewhere)) is None
    office.now += 899
    assert await office.desk().has_news(office.order(), (await office.wanted()).id)
    office.now += 1
    assert await office.desk().take(office.order()) is None
    assert (await office.desk().shelves(office.now)).ready == {}


async def test_order_that_comes_back_takes_its_task_up_and_one_beside_it_gets_its_own(office: Office) -> None:
    first = await office.wanted()
    office.now += 8
    again, is_new = await office.want()
    assert again is not None
    assert (again.id, is_new, again.until) == (first.id, False, office.now + 600)
    beside, is_new = await office.want()
    assert beside is not None
    assert beside.id != first.id
    assert is_new
    for change in ({"operator": "vodafone"}, {"service": "wa"}, {"country": 6}):
        assert (await office.want(office.order(**change)))[1]


async def test_numbers_wanted_are_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "WANTED_MAX", 2)
    for _ in range(2):
        await office.wanted()
    assert await office.want() == (None, False)
    office.now += 8
    assert (await office.want())[0] is not None
    office.now += 600
    assert (await office.want())[1]


async def test_task_nobody_came_for_lapses(office: Office) -> None:
    task = await office.wanted()
    office.now += 600
    assert await office.desk().tasks() == []
    with pytest.raises(NotAllowed, match="over"):
        await office.typed(task)
    assert (await office.wanted()).id != task.id
    assert (await office.desk().task(task.id)).state is DeskState.LAPSED


async def test_order_served_with_another_number_withdraws_its_own_task(office: Office) -> None:
    own = await office.wanted()
    await office.offer()
    assert await office.desk().has_news(office.order(), own.id)
    taken = await office.desk().take(office.order(), own.id)
    assert taken is not None
    assert taken.id != own.id
    assert (await office.desk().task(own.id)).state is DeskState.LAPSED


async def test_task_for_one_operator_serves_orders_that_name_none(office: Office) -> None:
    task = await office.wanted(office.order(operator="vodafone"))
    await office.typed(task)
    office.now += 8
    assert await office.desk().take(office.order(operator="orange")) is None
    assert await office.desk().take(office.order()) is not None


async def test_price_of_a_lease_is_that_of_its_order(office: Office) -> None:
    await office.offer()
    task = await office.desk().take(office.order(cost=Money(500_000, "USD")))
    assert task is not None
    assert task.cost == Money(500_000, "USD")


async def test_no_number_is_leased_twice_however_many_ask_at_once(office: Office) -> None:
    for place in range(10):
        await office.offer(f"4477009001{place:02d}")
    desks = [office.desk() for _ in range(5)]
    taken = await asyncio.gather(*(desk.take(office.order()) for desk in desks for _ in range(5)))
    numbers = [task.number for task in taken if task is not None]
    assert len(numbers) == len(set(numbers)) == 10
    assert (await office.desk().shelves(office.now)).ready == {}


async def test_orders_that_come_back_together_take_up_a_task_each(office: Office) -> None:
    first, second = await office.wanted(), await office.wanted()
    office.now += 8
    again = await asyncio.gather(*(office.wanted() for _ in range(5)))
    assert len({task.id for task in again}) == 5
    assert {first.id, second.id} <= {task.id for task in again}


async def test_number_lies_on_a_desk_once(office: Office) -> None:
    ready = await office.offer()
    for service in ("tg", "wa"):
        with pytest.raises(NotAllowed, match="on the desk already"):
            await office.offer(service=service)
    wanted = await office.wanted()
    with pytest.raises(NotAllowed, match="on the desk already") as caught:
        await office.typed(wanted)
    assert NUMBER not in str(caught.value)
    assert (await office.desk().task(wanted.id)).state is DeskState.WANTED
    taken = await office.desk().take(office.order())
    assert taken is not None
    assert taken.id == ready.id
    with pytest.raises(NotAllowed, match="on the desk already"):
        await office.typed(wanted)


async def test_same_number_put_up_by_two_people_at_once_lies_there_once(office: Office) -> None:
    done = await asyncio.gather(*(office.offer() for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(one, DeskTask) for one in done) == 1
    assert all(isinstance(one, DeskTask | NotAllowed) for one in done)


async def test_number_that_got_a_code_is_not_sold_for_that_service_again(office: Office) -> None:
    task = await office.leased()
    await office.desk().type_message(task.id, "12345", "")
    await office.desk().finish(task.id)
    with pytest.raises(NotAllowed, match="before"):
        await office.offer()
    with pytest.raises(NotAllowed, match="before"):
        await office.typed(await office.wanted())
    assert (await office.offer(service="wa")).state is DeskState.READY


async def test_number_given_back_without_a_code_may_be_typed_again(office: Office) -> None:
    task = await office.leased()
    await office.desk().cancel(task.id)
    assert (await office.offer()).state is DeskState.READY
    office.now += 900
    assert (await office.offer()).state is DeskState.READY


async def test_typing_the_same_number_again_changes_nothing(office: Office) -> None:
    task = await office.wanted()
    ready = await office.typed(task)
    office.now += 5
    assert await office.typed(task) == ready
    with pytest.raises(NotAllowed, match="another number"):
        await office.typed(task, OTHER_NUMBER)
    leased = await office.desk().take(office.order(), task.id)
    assert await office.typed(task) == leased


# Messages


async def test_message_is_typed_for_a_number_that_an_order_has(office: Office) -> None:
    wanted = await office.wanted()
    with pytest.raises(NotAllowed, match="number first"):
        await office.desk().type_message(wanted.id, "12345", "")
    ready = await office.typed(wanted)
    with pytest.raises(NotAllowed, match="no order has this number"):
        await office.desk().type_message(ready.id, "12345", "")
    await office.desk().take(office.order(), ready.id)
    office.now += 30
    done = await office.desk().type_message(ready.id, "012345", "Your code is 012345")
    (sms,) = done.messages
    assert (sms.code, sms.text, sms.received_at) == ("012345", "Your code is 012345", NOW + 30)
    assert (done.wants, done.state) == ("", DeskState.LEASED)
    assert (await office.desk().task(done.id)).messages[0].identity == sms.identity


async def test_code_typed_twice_is_one_message_and_asked_for_twice_is_two(office: Office) -> None:
    task, desk = await office.leased(), office.desk()
    await desk.type_message(task.id, "12345", "")
    assert len((await desk.type_message(task.id, "12345", "with its text")).messages) == 1
    assert len((await desk.type_message(task.id, "", "only a text")).messages) == 2
    assert len((await desk.type_message(task.id, "", "only a text")).messages) == 2
    again = await desk.ask_again(task.id)
    assert again is not None
    assert (again.round, again.wants) == (2, "code")
    assert await desk.ask_again(task.id) is None
    second = await desk.type_message(task.id, "12345", "")
    assert [sms.code for sms in second.messages] == ["12345", "", "12345"]
    assert len({sms.identity for sms in second.messages}) == 3


async def test_first_code_is_awaited_without_being_asked_for(office: Office) -> None:
    task = await office.leased()
    assert await office.desk().ask_again(task.id) is None


async def test_messages_of_a_task_are_bounded(office: Office) -> None:
    task = await office.leased()
    for place in range(MESSAGES_MAX):
        await office.desk().type_message(task.id, str(place), "")
    with pytest.raises(NotAllowed, match="too many"):
        await office.desk().type_message(task.id, "one more", "")


async def test_nothing_is_typed_once_a_task_is_over_but_a_repeat_is_answered(office: Office) -> None:
    task = await office.leased()
    done = await office.desk().type_message(task.id, "12345", "")
    office.now += 1200
    with pytest.raises(NotAllowed, match="over"):
        await office.desk().type_message(task.id, "67890", "")
    assert (await office.desk().type_message(task.id, "12345", "")).messages == done.messages
    with pytest.raises(NotAllowed, match="over"):
        await office.desk().ask_again(task.id)
    with pytest.raises(NotAllowed, match="over"):
        await office.desk().fail(task.id)


# Ends


async def test_ends_may_be_repeated(office: Office) -> None:
    desk = office.desk()
    cancelled = await office.leased()
    for _ in range(2):
        await desk.cancel(cancelled.id)
    finished = await office.leased()
    await desk.type_message(finished.id, "12345", "")
    for _ in range(2):
        await desk.finish(finished.id)
    failed = await office.leased(OTHER_NUMBER)
    for _ in range(2):
        assert (await desk.fail(failed.id)).state is DeskState.FAILED
    states = [(await desk.task(task.id)).state for task in (cancelled, finished, failed)]
    assert states == [DeskState.CANCELLED, DeskState.FINISHED, DeskState.FAILED]
    await desk.cancel(failed.id)
    with pytest.raises(NotAllowed):
        await desk.finish(cancelled.id)


async def test_lease_with_a_message_is_not_cancelled(office: Office) -> None:
    task, desk = await office.leased(), office.desk()
    await desk.type_message(task.id, "12345", "")
    with pytest.raises(HasSms):
        await desk.cancel(task.id)
    await desk.finish(task.id)
    with pytest.raises(HasSms):
        await desk.cancel(task.id)


async def test_cancel_and_code_at_the_same_moment_never_both_win(office: Office) -> None:
    for place in range(8):
        task = await office.leased(f"44770090020{place}")
        cancel, code = await asyncio.gather(
            office.desk().cancel(task.id), office.desk().type_message(task.id, "12345", ""), return_exceptions=True
        )
        assert (cancel is None, isinstance(code, DeskTask)) in ((True, False), (False, True))
        assert isinstance(cancel, HasSms) or isinstance(code, NotAllowed)


async def test_what_no_order_ever_had_is_no_lease(office: Office) -> None:
    for task in (await office.wanted(), await office.offer()):
        for call in (office.desk().finish, office.desk().cancel, office.desk().ask_again):
            with pytest.raises(UnknownLease):
                await call(task.id)


async def test_what_the_person_declined_is_not_asked_for_again_for_a_while(office: Office) -> None:
    task = await office.wanted()
    failed = await office.desk().fail(task.id)
    assert failed.state is DeskState.FAILED
    assert await office.desk().has_news(office.order(), task.id)
    assert await office.want() == (None, False)
    assert (await office.desk().shelves(office.now - 600)).declined == {("tg", 16)}
    assert (await office.want(office.order(country=6)))[1]
    office.now += 601
    assert (await office.want())[1]
    assert (await office.desk().shelves(office.now - 600)).declined == frozenset()


async def test_number_that_was_no_use_is_not_a_declined_order(office: Office) -> None:
    task = await office.leased()
    await office.desk().fail(task.id)
    assert (await office.want())[1]


async def test_time_ends_a_lease_by_what_it_got(office: Office) -> None:
    with_code, without = await office.leased(), await office.leased(OTHER_NUMBER)
    await office.desk().type_message(with_code.id, "12345", "")
    office.now += 1200
    await office.desk().tidy(NOW)
    assert (await office.desk().task(with_code.id)).state is DeskState.FINISHED
    assert (await office.desk().task(without.id)).state is DeskState.CANCELLED
    await office.desk().finish(with_code.id)
    await office.desk().cancel(without.id)


async def test_old_tasks_are_dropped_with_their_messages(office: Office) -> None:
    old = await office.leased()
    await office.desk().type_message(old.id, "12345", "")
    await office.desk().finish(old.id)
    office.now += 100
    young = await office.leased(OTHER_NUMBER)
    await office.desk().tidy(NOW + 50)
    with pytest.raises(UnknownLease):
        await office.desk().task(old.id)
    assert "12345" not in await office.stored()
    assert [task.id for task in await office.desk().tasks()] == [young.id]


# Seen from outside


async def test_list_has_what_is_open_and_what_ended_lately(office: Office) -> None:
    leased = await office.leased()
    ready = await office.offer(OTHER_NUMBER)
    wanted = await office.wanted(office.order(service="wa"))
    await office.desk().type_message(leased.id, "12345", "")
    found = await office.desk().tasks()
    assert [task.id for task in found] == [leased.id, ready.id, wanted.id]
    assert [sms.code for task in found for sms in task.messages] == ["12345"]
    await office.desk().finish(leased.id)
    assert [task.id for task in await office.desk().tasks()] == [ready.id, wanted.id]
    assert leased.id in [task.id for task in await office.desk().tasks(office.now - 1)]


async def test_a_desk_knows_no_task_of_another(office: Office) -> None:
    task, other = await office.leased(), office.desk("another")
    calls = [
        other.task(task.id),
        other.type_message(task.id, "12345", ""),
        other.type_number(task.id, NUMBER, office.now + 900),
        other.fail(task.id),
        other.finish(task.id),
        other.cancel(task.id),
        other.ask_again(task.id),
    ]
    for call in calls:
        with pytest.raises(UnknownLease):
            await call
    assert await other.tasks(0) == []
    await office.offer(OTHER_NUMBER)
    assert await other.take(office.order()) is None
    assert (await other.shelves(0)).ready == {}


@pytest.mark.parametrize("reference", ["", "x", "-1", "1.0", "9" * 19, "²", "1 or 1"])
async def test_what_is_no_id_is_no_task(office: Office, reference: str) -> None:
    with pytest.raises(UnknownLease):
        await office.desk().task(reference)


async def test_numbers_and_messages_are_sealed_and_never_in_a_repr(office: Office) -> None:
    task = await office.leased()
    done = await office.desk().type_message(task.id, "975312", "the text of it")
    stored = await office.stored()
    for secret in (NUMBER, "975312", "the text of it"):
        assert secret not in stored
        assert secret not in repr(done)


async def test_notices_go_where_they_were_told_to(office: Office) -> None:
    office.desk().notify("title", "body")
    assert office.told == [("title", "body")]


async def test_values_of_a_task_are_what_was_ordered(office: Office) -> None:
    order = office.order(operator="vodafone")
    task = await office.wanted(order)
    assert replace(task, id="", number="") == DeskTask("", DeskState.WANTED, "tg", 16, "vodafone", COST, NOW, NOW + 600)
