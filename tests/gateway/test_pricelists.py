"""Price lists of several gateways on one PostgreSQL and one Redis: who reads an upstream, and what the others take."""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from gateway import pricelists, shared_lists, snapshots
from gateway.accounts import Caller
from gateway.app import Gateway
from gateway.bus import Bus
from gateway.database import open_database
from gateway.errors import Unwell
from gateway.money import Money
from gateway.pricelists import PriceLists
from gateway.shared_lists import SharedLists
from gateway.snapshots import HEAD_BYTES, PROOF_BYTES
from gateway.upstream import Columns, OfferTable
from tests.harness import config_directory, environment
from tests.journeys.outages import Redis, private_redis

START = 1_750_000_000.0
OFFERS_SECONDS = 60.0
LATE_SECONDS = 2 * OFFERS_SECONDS
MAX_AGE_SECONDS = 900.0
BUYER = Caller(0, 0, "", "USD", is_demo=False, barred_until=None)
STANZA = """
[one]
adapter = "herosms"
base_url = "http://127.0.0.1:9/"
"""


class Watch:
    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Shop:
    """An upstream: it counts how often its list is read, and does what a test says next."""

    name = "one"

    def __init__(self) -> None:
        self.asked = 0
        self.price = 100_000
        self.currency = "USD"
        self.trouble = ""
        self.table: OfferTable | None = None
        self.pause: Callable[[], Awaitable[None]] | None = None

    async def offers(self) -> OfferTable:
        self.asked += 1
        if self.pause is not None:
            await self.pause()
        if self.trouble:
            raise Unwell(self.trouble)
        rows = [("tg", 6, self.price, 5, "", None), ("wa", 6, 2 * self.price, 1, "x", 0.5)]
        return self.table or OfferTable("one", self.currency, rows)

    async def aclose(self) -> None:
        pass


class Pupil(Shop):
    """It needs words that only its list tells."""

    def __init__(self, words: Any = None) -> None:
        super().__init__()
        self.words: Any = words

    def knowledge(self) -> Mapping[str, Any]:
        return {"words": self.words}

    def learn(self, knowledge: Mapping[str, Any]) -> None:
        if not isinstance(knowledge["words"], dict):
            raise TypeError("not words")
        self.words = knowledge["words"]


class Held:
    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def holds(self, name: str, /) -> bool:
        return name in self._names


@dataclass
class Member:
    """One process of a deployment, whose rounds a test runs."""

    gateway: Gateway
    watch: Watch
    shop: Shop

    async def refresh(self, seconds: float = 0.0) -> None:
        """After so much time by its own clock."""
        self.watch.now += seconds
        await self.gateway.price_lists.refresh("one")

    def hold(self, *names: str) -> None:
        """As if it had these leases from now on, for however long the test takes."""
        self.gateway.price_lists._leases = Held(names)

    @property
    def price(self) -> int | None:
        rows = self.gateway.house.market.listing_now(BUYER, "tg", 6)
        return next((row.price.micros for row in rows), None)

    @property
    def fetched_at(self) -> float | None:
        return self.gateway.house.market.list_of("one")[1]

    @property
    def trouble(self) -> str:
        return self.gateway.house.market.list_of("one")[2]


@dataclass
class Deployment:
    values: dict[str, str]
    directory: Path
    stack: AsyncExitStack
    redis: redis.Redis
    shop: Shop = field(default_factory=Shop)
    members: list[Member] = field(default_factory=list)

    async def member(self, *, directory: Path | None = None, shop: Shop | None = None, **values: str) -> Member:
        """Another process, on a clock of its own that shows what the first one's does."""
        watch = Watch(self.members[0].watch.now if self.members else START)
        given = {**self.values, **values}
        database = await asyncio.to_thread(open_database, given)
        gateway = Gateway(directory or self.directory, given, database, watch)
        house, chosen = gateway.house, shop or self.shop
        await gateway.house.upstreams["one"].aclose()
        house.upstreams = {"one": chosen}  # type: ignore[dict-item]
        made = Member(gateway, watch, chosen)
        self.members.append(made)
        return made

    async def leave_together(self, *members: Member) -> None:
        """These processes end."""
        for member in members:
            self.members.remove(member)
            await member.gateway.stop()

    async def pass_time(self, seconds: float) -> None:
        for member in self.members:
            member.watch.now += seconds

    async def refresh(self, *members: Member, seconds: float = 0.0) -> None:
        """Time passes for all; these look, one after the other."""
        await self.pass_time(seconds)
        for member in members:
            await member.refresh()

    def find(self) -> bytes:
        """What lies in Redis as the one list of the one upstream."""
        (key,) = self.mine()
        found = self.redis.get(key)
        assert isinstance(found, bytes)
        return found

    def leave(self, data: bytes) -> None:
        (key,) = self.mine()
        self.redis.set(key, data)

    def mine(self, kind: str = "list") -> list[bytes]:
        """The keys of this deployment: others may use the same Redis."""
        return sorted(self.redis.scan_iter(f"{self.members[0].gateway._channel()}:offers:{kind}:one:*"))


@pytest.fixture
async def deployment(
    tmp_path: Path, postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    monkeypatch.setattr(shared_lists, "ANSWER_SECONDS", 10.0)  # a slow machine is no outage
    async with AsyncExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(redis_url))
        values = environment(postgres_url, REDIS_URL=redis_url, ONE_API_KEY="k" * 32)
        made = Deployment(values, config_directory(tmp_path, STANZA), stack, client)
        yield made
        await made.leave_together(*made.members)


# The usual


async def test_the_upstream_is_asked_once_a_refresh_and_all_show_the_same(deployment: Deployment) -> None:
    first, second, third = [await deployment.member() for _ in range(3)]
    second.hold("poll:one")
    for number in range(1, 5):
        deployment.shop.price = number * 100_000
        await deployment.refresh(second, first, third, seconds=OFFERS_SECONDS + 1)
        assert deployment.shop.asked == number
        assert first.price == second.price == third.price
        assert first.fetched_at == second.fetched_at == third.fetched_at == second.watch.now
    assert second.price is not None


async def test_a_member_that_starts_finds_the_newest_list_without_asking(deployment: Deployment) -> None:
    first = await deployment.member()
    await first.refresh()
    await deployment.pass_time(OFFERS_SECONDS + 20)
    late = await deployment.member()
    await late.refresh()
    assert deployment.shop.asked == 1
    assert late.price == first.price
    assert late.fetched_at == START
    registry = late.gateway.house.metrics.registry
    assert registry.get_sample_value("simroute_offers_timestamp_seconds", {"upstream": "one"}) == START


async def test_members_that_start_at_once_ask_once(deployment: Deployment) -> None:
    members = [await deployment.member() for _ in range(3)]

    async def slowly() -> None:
        await asyncio.sleep(0.2)

    deployment.shop.pause = slowly
    await asyncio.gather(*(member.refresh() for member in members))
    await deployment.refresh(*members)
    assert deployment.shop.asked == 1
    assert {member.price for member in members} == {members[0].price} != {None}


async def test_a_list_that_came_while_a_turn_was_waited_for_is_not_asked_for_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await deployment.member(), await deployment.member()
    its_turn = SharedLists.turn

    @asynccontextmanager
    async def turn_after_the_first(shared: SharedLists, place: str) -> AsyncIterator[bool]:
        monkeypatch.undo()
        await first.refresh()
        async with its_turn(shared, place) as is_mine:
            yield is_mine

    monkeypatch.setattr(SharedLists, "turn", turn_after_the_first)
    await second.refresh()
    assert deployment.shop.asked == 1
    assert first.price == second.price
    assert second.price is not None


async def test_who_holds_nothing_leaves_reading_to_the_holder_until_the_list_is_late(deployment: Deployment) -> None:
    first, second = await deployment.member(), await deployment.member()
    first.hold("poll:one")
    await deployment.refresh(first, second)
    await deployment.refresh(second, seconds=1.5 * OFFERS_SECONDS)
    assert deployment.shop.asked == 1
    await deployment.refresh(second, first, seconds=OFFERS_SECONDS)
    assert deployment.shop.asked == 2
    assert first.fetched_at == second.fetched_at == START + 2.5 * OFFERS_SECONDS


async def test_who_takes_over_goes_on_at_the_usual_pace(deployment: Deployment) -> None:
    first, second = await deployment.member(), await deployment.member()
    first.hold("poll:one")
    await deployment.refresh(first, second)
    first.hold()
    second.hold("poll:one")
    await deployment.refresh(second, seconds=OFFERS_SECONDS - 2)
    assert deployment.shop.asked == 1
    await deployment.refresh(second, seconds=3)
    assert deployment.shop.asked == 2


async def test_a_hint_wakes_the_others(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricelists, "LOOK_SECONDS", 3600.0)
    first, second = await deployment.member(), await deployment.member()
    first.hold("poll:one")
    await deployment.refresh(first, second)
    await asyncio.gather(listening(first), listening(second))
    waiting = asyncio.create_task(second.gateway.price_lists.round("one"))
    await first.refresh(seconds=OFFERS_SECONDS + 1)
    await asyncio.wait_for(waiting, 30)
    await second.refresh()
    assert second.price == first.price
    assert deployment.shop.asked == 2


async def listening(member: Member) -> Bus:
    bus = member.gateway._bus
    assert bus is not None
    bus.start()
    await asyncio.wait_for(bus.heard.wait(), 30)
    bus.heard.clear()
    return bus


async def test_a_program_that_says_nothing_of_lists_is_understood(deployment: Deployment) -> None:
    bus = await listening(await deployment.member())
    words = {"from": "one of before", "changed": True, "asked": [], "delivered": [], "turned": {}}
    with structlog.testing.capture_logs() as logs:
        deployment.redis.publish(deployment.members[0].gateway._channel(), json.dumps(words))
        await asyncio.wait_for(bus.heard.wait(), 30)
    assert logs == []


async def test_what_went_wrong_is_known_to_all_until_it_went_well(deployment: Deployment) -> None:
    first, second = await deployment.member(), await deployment.member()
    first.hold("poll:one")
    await deployment.refresh(first, second)
    deployment.shop.trouble = "status 503"
    await deployment.refresh(first, second, seconds=OFFERS_SECONDS + 1)
    assert first.trouble == second.trouble == "status 503"
    assert first.price == second.price
    assert second.price is not None
    starting = await deployment.member()
    await starting.refresh()
    assert (starting.trouble, deployment.shop.asked) == ("status 503", 2)
    deployment.shop.trouble = ""
    await deployment.refresh(second, starting, seconds=LATE_SECONDS)
    assert (second.trouble, starting.trouble) == ("", "")
    assert deployment.shop.asked == 3


# Redis and others fail


async def test_without_what_was_in_redis_nobody_is_worse_off(deployment: Deployment) -> None:
    first, second = await deployment.member(), await deployment.member()
    first.hold("poll:one")
    await deployment.refresh(first, second)
    for key in deployment.redis.scan_iter("*:offers:*"):
        deployment.redis.delete(key)
    await deployment.refresh(second, seconds=OFFERS_SECONDS + 1)
    assert (second.price, deployment.shop.asked) == (first.price, 1)
    starting = await deployment.member()
    await starting.refresh()
    assert starting.price is not None
    await deployment.refresh(first, second)
    assert deployment.shop.asked == 2
    assert first.fetched_at == second.fetched_at == starting.fetched_at


@pytest.mark.parametrize("outage", [Redis.stop, Redis.freeze])
async def test_while_redis_is_away_each_reads_by_itself_and_none_gets_too_old(
    deployment: Deployment, outage: Callable[[Redis], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_lists, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(shared_lists, "REST_SECONDS", 0.3)
    with private_redis() as own:
        first, second = [await deployment.member(REDIS_URL=own.url) for _ in range(2)]
        first.hold("poll:one")
        await deployment.refresh(first, second)
        outage(own)
        with structlog.testing.capture_logs() as logs:
            for number in range(1, 9):
                deployment.shop.price = number * 100_000
                await deployment.refresh(first, second, seconds=OFFERS_SECONDS + 1)
                for member in (first, second):
                    assert member.fetched_at is not None
                    assert member.watch.now - member.fetched_at < LATE_SECONDS
        assert deployment.shop.asked == 1 + 8 + 4
        assert [one["upstream"] for one in logs if one["event"] == "offers.not_shared"] == ["one", "one"]
        starting = await deployment.member(REDIS_URL=own.url)
        await starting.refresh()
        assert starting.price == first.price
        own.thaw() if outage is Redis.freeze else own.start()
        await asyncio.sleep(0.4)
        await deployment.refresh(first, second, starting, seconds=OFFERS_SECONDS + 1)
        await deployment.refresh(second, starting)
        assert first.fetched_at == second.fetched_at == starting.fetched_at


async def test_a_turn_of_somebody_who_died_is_waited_for_and_no_longer(deployment: Deployment) -> None:
    first, second = await deployment.member(), await deployment.member()
    hanging = asyncio.Event()

    async def for_ever() -> None:
        hanging.set()
        await asyncio.Event().wait()

    dead = Shop()
    dead.pause = for_ever
    first.gateway.house.upstreams = {"one": dead}  # type: ignore[dict-item]
    dying = asyncio.create_task(first.refresh())
    await asyncio.wait_for(hanging.wait(), 10)
    await second.refresh()
    assert (second.price, deployment.shop.asked) == (None, 0)
    (key,) = deployment.mine("reader")
    assert 0 < deployment.redis.pttl(key) <= shared_lists.TURN_SECONDS * 1000
    deployment.redis.delete(key)  # as it runs out where nobody renews it
    await second.refresh()
    assert (second.price is not None, deployment.shop.asked) == (True, 1)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)


async def test_a_turn_that_never_ends_keeps_nobody_from_reading(deployment: Deployment, redis_url: str) -> None:
    member, ticks = await deployment.member(), Watch()
    gateway = member.gateway
    prefix = f"never-ending-{uuid.uuid4().hex}"
    shared = SharedLists(redis_url, prefix, "me", ticks)
    lists = PriceLists(gateway.house, gateway.leases, lambda _name, _upstream: None, shared, ticks)
    deployment.stack.push_async_callback(lists.aclose)
    place = lists._place("one", gateway.house.settings.upstreams["one"])
    another = SharedLists(redis_url, prefix, "another")
    deployment.stack.push_async_callback(another.aclose)
    async with another.turn(place):
        await lists.refresh("one")
        assert deployment.shop.asked == 0
        ticks.now += 130
        await lists.refresh("one")
        assert deployment.shop.asked == 1


async def test_a_holder_that_cannot_reach_the_upstream_keeps_no_list_from_the_others(deployment: Deployment) -> None:
    cut_off = Shop()
    cut_off.trouble = "no route"
    first, second = await deployment.member(shop=cut_off), await deployment.member()
    first.hold("poll:one")
    await deployment.refresh(first, second)
    assert second.price is not None
    await deployment.refresh(first)
    assert first.price == second.price
    assert (cut_off.asked, deployment.shop.asked) == (1, 1)


# Clocks


@pytest.mark.parametrize(("ahead_seconds", "is_taken"), [(2.0, True), (-2.0, True), (60.0, False), (-1000.0, False)])
async def test_clocks_may_differ_by_a_second_or_two(
    deployment: Deployment, ahead_seconds: float, is_taken: bool
) -> None:
    first = await deployment.member()
    first.watch.now += ahead_seconds
    await first.refresh()
    second = await deployment.member()
    second.watch.now = START
    await second.refresh()
    assert deployment.shop.asked == (1 if is_taken else 2)
    assert second.fetched_at is not None
    assert second.fetched_at <= START


async def test_a_list_that_is_too_old_to_sell_from_is_not_taken(deployment: Deployment) -> None:
    first = await deployment.member()
    await first.refresh()
    await deployment.pass_time(MAX_AGE_SECONDS + 1)
    deployment.shop.trouble = "status 503"
    second = await deployment.member()
    await second.refresh()
    assert second.fetched_at is None
    assert (first.price, second.price) == (None, None)


async def test_a_list_goes_from_redis_when_it_is_too_old(deployment: Deployment) -> None:
    first = await deployment.member()
    await first.refresh()
    (key,) = deployment.mine()
    assert 0 < deployment.redis.pttl(key) <= MAX_AGE_SECONDS * 1000


async def test_a_clock_that_was_set_back_does_not_make_a_list_last(deployment: Deployment) -> None:
    first = await deployment.member()
    await first.refresh()
    await first.refresh(seconds=-3600)
    assert (deployment.shop.asked, first.fetched_at) == (2, START - 3600)
    second = await deployment.member()
    second.watch.now = START - 3600
    await second.refresh()
    assert deployment.shop.asked == 2


# What is found was not written by us


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "proof": lambda data: flipped(data, 0),
    "when": lambda data: flipped(data, PROOF_BYTES + 20),
    "body": lambda data: flipped(data, len(data) - 9),
    "cut off": lambda data: data[:-7],
    "head alone": lambda data: data[:HEAD_BYTES],
    "less than a head": lambda data: data[:40],
    "noise": lambda data: bytes(range(256)) * 20,
    "pickle": lambda data: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "another's": lambda data: hmac.digest(b"?" * 32, data[PROOF_BYTES:HEAD_BYTES], sha256) + data[PROOF_BYTES:],
}


async def test_what_was_altered_is_not_sold_from(deployment: Deployment) -> None:
    """Whoever has nothing then reads the upstream, and leaves a good list for the others."""
    first = await deployment.member()
    await first.refresh()
    shop = deployment.shop
    for name, forged in FORGERIES.items():
        before = shop.asked
        deployment.leave(forged(deployment.find()))
        second, third = await deployment.member(), await deployment.member()
        with structlog.testing.capture_logs() as logs:
            await second.refresh()
            await second.refresh()
        assert (second.price, shop.asked - before) == (first.price, 1), name
        assert len([one for one in logs if one["event"] == "offers.refused"]) == 1, name
        await third.refresh()
        assert (third.price, shop.asked - before) == (first.price, 1), name
        await deployment.leave_together(second, third)


async def test_what_stands_behind_the_end_of_a_list_is_not_carried(deployment: Deployment) -> None:
    first = await deployment.member()
    await first.refresh()
    deployment.leave(deployment.find() + b"more")
    second = await deployment.member()
    await second.refresh()
    assert (second.price, deployment.shop.asked) == (first.price, 1)


async def test_a_key_of_another_kind_is_overwritten(deployment: Deployment) -> None:
    first = await deployment.member()
    await first.refresh()
    (key,) = deployment.mine()
    deployment.redis.delete(key)
    deployment.redis.rpush(key, "x")
    second, third = await deployment.member(), await deployment.member()
    await second.refresh()
    await third.refresh()
    assert (second.price, third.price, deployment.shop.asked) == (first.price, first.price, 2)


async def test_a_list_of_another_format_is_not_taken(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await deployment.member()
    monkeypatch.setattr(snapshots, "FORMAT", 0)
    await before.refresh()
    monkeypatch.undo()
    of_before = deployment.find()
    second = await deployment.member()
    await second.refresh()
    assert (deployment.shop.asked, len(deployment.mine())) == (2, 2)
    for key in deployment.mine():
        deployment.redis.set(key, of_before)
    third = await deployment.member()
    await third.refresh()
    assert deployment.shop.asked == 3


async def test_an_older_list_put_back_changes_nothing(deployment: Deployment) -> None:
    first, second = await deployment.member(), await deployment.member()
    await deployment.refresh(first, second)
    older = deployment.find()
    deployment.shop.price = 300_000
    first.hold("poll:one")
    await deployment.refresh(first, second, seconds=OFFERS_SECONDS + 1)
    newer = second.price
    deployment.leave(older)
    await deployment.refresh(second, first)
    assert first.price == second.price == newer
    assert deployment.shop.asked == 2


async def test_where_redis_takes_no_more_lists_it_is_said_once(deployment: Deployment) -> None:
    with private_redis() as own:
        with redis.Redis.from_url(own.url) as client:
            client.config_set("maxmemory", "1")
        member = await deployment.member(REDIS_URL=own.url)
        with structlog.testing.capture_logs() as logs:
            await member.refresh()
            await member.refresh(seconds=LATE_SECONDS)
        assert member.fetched_at == member.watch.now
        said = [one for one in logs if one["event"] == "offers.not_shared"]
        assert [(one["upstream"], one["error"]) for one in said] == [("one", "OutOfMemoryError")]


# Settings


OTHER_SETTINGS: tuple[tuple[str, dict[str, str]], ...] = (
    (STANZA.replace("127.0.0.1:9", "127.0.0.1:10"), {}),
    (STANZA + 'services = { tg = "other" }\n', {}),
    (STANZA + 'countries = { 6 = "77" }\n', {}),
    (STANZA + 'currency = "EUR"\n', {}),
    (STANZA.replace("herosms", "handler_api"), {}),
    (STANZA, {"ONE_API_KEY": "another account there"}),
    (STANZA, {"INDEX_KEY": "another deployment's index key, on the same Redis"}),
)


async def test_a_list_made_under_other_settings_is_not_taken(deployment: Deployment, tmp_path: Path) -> None:
    first = await deployment.member()
    await first.refresh()
    rates = 'as_of = 2025-06-15T00:00:00Z\n[rates]\nEUR = "1.1"\n'
    for stanza, values in OTHER_SETTINGS:
        directory, other = config_directory(tmp_path, stanza, rates=rates), Shop()
        other.currency = "EUR" if "EUR" in stanza else "USD"
        second, third = [await deployment.member(directory=directory, shop=other, **values) for _ in range(2)]
        await second.refresh()
        assert other.asked == 1, stanza
        await third.refresh()
        assert (other.asked, third.fetched_at) == (1, second.fetched_at), stanza
        await deployment.leave_together(second, third)


async def test_a_list_put_where_others_look_is_not_taken(deployment: Deployment, tmp_path: Path) -> None:
    first = await deployment.member()
    await first.refresh()
    data, (key,) = deployment.find(), deployment.mine()
    directory, other = config_directory(tmp_path, OTHER_SETTINGS[0][0]), Shop()
    second = await deployment.member(directory=directory, shop=other)
    await second.refresh()
    (its_key,) = set(deployment.mine()) - {key}
    deployment.redis.set(its_key, data)
    third = await deployment.member(directory=directory, shop=other)
    await third.refresh()
    assert other.asked == 2


async def test_what_does_not_change_a_list_does_not_part_those_who_share_it(
    deployment: Deployment, tmp_path: Path
) -> None:
    first = await deployment.member()
    await first.refresh()
    stanza = STANZA + "priority = 7\npoll_seconds = 3.0\noffers_seconds = 77.0\nbalance_low = 5\n"
    second = await deployment.member(directory=config_directory(tmp_path, stanza))
    await second.refresh()
    assert (second.price, deployment.shop.asked) == (first.price, 1)


async def test_new_settings_are_read_under_at_once(deployment: Deployment) -> None:
    member = await deployment.member()
    member.hold("poll:one")
    await member.refresh()
    (deployment.directory / "upstreams.toml").write_text(STANZA + 'services = { tg = "other" }\n')
    assert await member.gateway.reload()
    member.gateway.house.upstreams = {"one": deployment.shop}  # type: ignore[dict-item]
    deployment.shop.price = 500_000
    await member.refresh()
    assert deployment.shop.asked == 2
    assert member.fetched_at == member.watch.now


async def test_what_was_read_while_the_settings_changed_is_left_alone(deployment: Deployment) -> None:
    member = await deployment.member()

    async def change() -> None:
        deployment.shop.pause = None
        member.gateway.house.upstreams = {"one": Shop()}  # type: ignore[dict-item]

    deployment.shop.pause = change
    await member.refresh()
    assert (member.fetched_at, deployment.mine()) == (None, [])
    await member.refresh()
    assert member.fetched_at is not None


# What adapters learn


async def test_what_an_adapter_learnt_from_its_list_goes_with_it(deployment: Deployment) -> None:
    first = await deployment.member(shop=Pupil({"tg": "opt1"}))
    await first.refresh()
    pupil = Pupil()
    second = await deployment.member(shop=pupil)
    await second.refresh()
    assert (pupil.asked, pupil.words) == (0, {"tg": "opt1"})


async def test_a_list_whose_knowledge_makes_no_sense_is_not_taken(deployment: Deployment) -> None:
    first = await deployment.member(shop=Pupil("nonsense"))
    await first.refresh()
    pupil = Pupil({})
    second = await deployment.member(shop=pupil)
    await second.refresh()
    assert pupil.asked == 1


async def test_an_adapter_built_anew_is_taught_anew(deployment: Deployment) -> None:
    member = await deployment.member(shop=Pupil({"tg": "opt1"}))
    await member.refresh()
    anew = Pupil()
    member.gateway.house.upstreams = {"one": anew}  # type: ignore[dict-item]
    await member.refresh()
    assert (anew.asked, anew.words) == (0, {"tg": "opt1"})


# Who shares nothing


async def test_own_numbers_and_a_rule_are_looked_at_by_each(deployment: Deployment) -> None:
    own = Shop()
    own.is_kept_by_us = True  # type: ignore[attr-defined]
    first, second = [await deployment.member(shop=own) for _ in range(2)]
    await deployment.refresh(first, second)
    assert (own.asked, deployment.mine()) == (2, [])


async def test_who_no_longer_shares_is_not_woken_by_those_who_do(deployment: Deployment) -> None:
    own = Shop()
    member = await deployment.member(shop=own)
    await deployment.refresh(member)
    own.is_kept_by_us = True  # type: ignore[attr-defined]
    lists = member.gateway.price_lists
    lists.heard("one")
    assert await lists.round("one") > 0
    lists.heard("one")
    assert await lists.round("one") > 0


async def test_a_gateway_that_is_alone_leaves_nothing_in_redis(tmp_path: Path, sqlite_url: str, redis_url: str) -> None:
    values = environment(sqlite_url, REDIS_URL=redis_url, ONE_API_KEY="k" * 32)
    with redis.Redis.from_url(redis_url) as client:
        before = set(client.keys("*:offers:*"))
        watch, shop = Watch(), Shop()
        gateway = Gateway(config_directory(tmp_path, STANZA), values, open_database(values), watch)
        await gateway.house.upstreams["one"].aclose()
        gateway.house.upstreams = {"one": shop}  # type: ignore[dict-item]
        member = Member(gateway, watch, shop)
        assert await gateway.price_lists.round("one") == OFFERS_SECONDS
        assert (member.fetched_at, shop.asked) == (START, 1)
        assert not await gateway.price_lists.take("one")
        shop.trouble = "status 503"
        assert await gateway.price_lists.round("one") == 10.0
        assert member.trouble == "status 503"
        assert set(client.keys("*:offers:*")) == before
        await gateway.stop()


# Size


def many(rows: int) -> OfferTable:
    """A list as long as the longest there are: 600 services in a thousand countries."""
    words = [int.from_bytes(f"s{number:03d}".encode(), "big") for number in range(600)]
    keys = array("Q", ((country << 40) | word for country in range(rows // 600) for word in words))
    costs = array("q", (1000 + (number * 7919) % 999_983 for number in range(rows)))
    counts = array("i", (1 + number % 977 for number in range(rows)))
    columns = Columns(
        ("",), keys.tobytes(), costs.tobytes(), counts.tobytes(), bytes(4 * rows), array("f", [-1.0] * rows).tobytes()
    )
    return OfferTable.of_columns("one", "USD", columns)


async def test_the_longest_list_goes_through_while_the_loop_runs(deployment: Deployment) -> None:
    """A loop that stood still would turn once or twice, between the steps."""
    deployment.shop.table = many(600_000)
    first, second = await deployment.member(), await deployment.member()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    turning = asyncio.create_task(turn())
    await first.refresh()
    sealing, turns = turns, 0
    await second.refresh()
    turning.cancel()
    assert deployment.shop.asked == 1
    assert second.gateway.house.market.list_of("one")[0] == 600_000
    table = second.gateway.house.market._shelves["one"].table
    assert table is not None
    assert table.columns() == deployment.shop.table.columns()
    assert table.at("s599", 999)[0].cost == Money(1000 + (599_999 * 7919) % 999_983, "USD")
    assert min(sealing, turns) >= 5
