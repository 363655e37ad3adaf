"""Whose things who may touch: every endpoint of the JSON API and every action of every dialect, on everybody's objects.

The endpoints come from the table that routes are made from and the actions from the dialects, so that none is missed:
each needs an entry here. For whoever may not, the answer is the one for an object that nobody has, byte for byte, at
the same number of calls to the database, and nothing has changed.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

import compat
from compat import fivesim, rest
from compat._rest_access import Access
from compat._rest_http import Operation, Resource
from compat._rest_models import NoBody
from gateway import accounts, deposits, ledger, users, vouchers, webhook_log
from gateway.money import Money
from gateway.passwords import Passwords
from gateway.store import Tx
from gateway.webhook_log import Attempt
from tests.compat.test_rest_people import PASSWORD, QUICK
from tests.harness import config_directory, environment
from tests.wire import NOON, StillHouse, still_house

SECRET = "s" * 64
GATEWAY = "[limits]\nchanges_per_minute = 1000000\npolls_per_minute = 1000000\n"
ME, PARENT, SIBLING, CHILD, TWIN, STRANGER = "Qme", "Qabove", "Qbeside", "Qme.kid", "Qme.twin", "Qelse"
TREE = {PARENT: None, ME: PARENT, SIBLING: PARENT, CHILD: ME, TWIN: ME, STRANGER: None}
NOBODY = {
    "account": "Qnone", "key": "999999", "activation": "100999999", "rental": "100999999", "user": "999999",
    "batch": "999999", "payment": "999999", "notice": "999999",
}  # fmt: skip


@dataclass(frozen=True)
class Try:
    """One request that names an object as `{it}`. `{me}` is whoever asks, `{n}` a number that never comes twice."""

    path: str = ""
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """What an endpoint names: an `account`, `key`, `activation`, `rental`, `user`, `batch`, `payment` or `notice`.

    Or nobody's thing (""). Without `tries` the object is in the path, and the body is empty.
    """

    names: str
    tries: Sequence[Try] = ()


ONCE = {"idempotency-key": "word-{n}"}
ACTIVATION = Entry("activation")
RENTAL = Entry("rental")
ACCOUNT = Entry("account")
KEY = Entry("key")
NOTICE = Entry("notice")
NOTHING = Entry("")

VOUCHER = "222222-222222-222222"
RECHARGE = {"source": "hook", "threshold": "0.01", "amount": "1", "month_max": "5"}

ENDPOINTS: dict[str, Entry] = {
    "activation": ACTIVATION, "messages": ACTIVATION, "events": ACTIVATION,
    "finish": ACTIVATION, "another_sms": ACTIVATION, "cancel": ACTIVATION,
    "balance": NOTHING, "services": NOTHING, "countries": NOTHING, "prices": NOTHING, "activations": NOTHING,
    "price_again": ACTIVATION, "again": ACTIVATION,
    "add_service": Entry("activation", [Try(body={"service": "wa"})]),
    "rental": RENTAL, "finish_rental": RENTAL, "cancel_rental": RENTAL,
    "extend_rental": Entry("rental", [Try(body={"hours": 4}), Try(body={"hours": 4}, headers=ONCE)]),
    "rental_extensions": Entry("rental", [Try(), Try("/api/v1/rentals/{it}/extensions?hours=4")]),
    "rental_offers": NOTHING, "rentals": NOTHING, "rent": NOTHING,
    "purchase": NOTHING, "webhook": NOTHING, "set_webhook": NOTHING, "test_webhook": NOTHING, "enable_webhook": NOTHING,
    "webhook_secret": NOTHING, "rotate_webhook_secret": NOTHING, "webhook_attempts": NOTHING,
    "webhook_notices": NOTHING, "replay_notice": NOTICE, "replay_notices": NOTHING,
    "sign_in": NOTHING, "sign_out": NOTHING, "sign_out_everywhere": NOTHING, "me": NOTHING,
    "change_password": NOTHING, "users": NOTHING, "add_user": NOTHING,
    "disable_user": Entry("user"), "enable_user": Entry("user"),
    "accounts": Entry("account", [Try("/api/v1/accounts?parent={it}")]),
    "create_account": Entry("account", [Try(body={"name": "{it}.new{n}", "parent": "{it}"})]),
    "account": ACCOUNT, "suspend_account": ACCOUNT, "resume_account": ACCOUNT, "rules": ACCOUNT,
    "set_rules": Entry("account", [Try(body={})]),
    "terms": ACCOUNT, "accept_terms": Entry("account", [Try(body={"version": "1"})]),
    "keys": ACCOUNT, "issue_key": Entry("account", [Try(body={})]),
    "key": KEY, "set_key": Entry("key", [Try(body={})]), "key_rules": KEY,
    "set_key_rules": Entry("key", [Try(body={})]),
    "suspend_key": KEY, "resume_key": KEY, "fuse": KEY, "reset_fuse": KEY, "alerts": NOTHING,
    "rotate_key": Entry("key", [Try(body={})]), "revoke_key": KEY,
    "transfer": Entry("account", [
        Try(body={"from": "{me}", "to": "{it}", "amount": "0.01"}, headers=ONCE),
        Try(body={"from": "{it}", "to": "{me}", "amount": "0.01"}, headers=ONCE),
        Try(body={"from": "{it}", "to": "{it}", "amount": "all"}, headers=ONCE),
    ]),
    "transfers": Entry("account", [Try("/api/v1/transfers?account={it}")]),
    "vouchers": ACCOUNT, "issue_vouchers": Entry("account", [Try(body={"amount": "0.01"})]),
    "redeem_voucher": Entry("account", [Try(body={"code": VOUCHER})]),
    "batch": Entry("batch"), "revoke_vouchers": Entry("batch"),
    "deposit": Entry("account", [Try(body={"account": "{it}", "amount": "0.01", "reference": "ref-{n}"})]),
    "deposits": Entry("account", [Try("/api/v1/deposits?account={it}")]),
    "assign_payment": Entry("payment", [Try(body={"account": "{me}"})]),
    "dismiss_payment": Entry("payment", [Try(body={})]),
    "recharge": ACCOUNT, "set_recharge": Entry("account", [Try(body=RECHARGE)]), "end_recharge": ACCOUNT,
    "statement": ACCOUNT, "statement_csv": ACCOUNT, "audit": NOTHING,
    "usage": ACCOUNT, "usage_csv": Entry("account", [Try("/api/v1/accounts/{it}/usage.csv?by=account,key")]),
    "markups": ACCOUNT, "set_markups": Entry("account", [Try(body={"markups": []})]), "end_markups": ACCOUNT,
    "retention": ACCOUNT, "set_retention": Entry("account", [Try(body={"days": 7})]), "end_retention": ACCOUNT,
}  # fmt: skip
"""By the operation's name."""

HOW_TO = """add it to ENDPOINTS in {file}:
    "{name}": Entry("account" | "key" | "activation" | "rental" | "user", [Try(path, body, headers)])
where {{it}} stands for the object's name or id (no tries: it is in the path and there is no body), or
    "{name}": NOTHING
if it names nothing that belongs to anybody. An object of a new kind needs a line in NOBODY and in World.it as well."""

ID = {"id": "{it}"}
ACTIVATION_ID = {"activationId": "{it}"}
ACTIONS: dict[str, Sequence[Mapping[str, str]]] = {
    "getStatus": [ID, {**ID, "text": "1"}], "getStatusV2": [ID], "getFullSms": [ID], "getAllSms": [ID],
    "setStatus": [{**ID, "status": status} for status in ("1", "3", "6", "8", "-1", "2")],
    "finishActivation": [ID], "cancelActivation": [ID], "keep": [ID], "setAutoRenew": [ID],
    "getAdditionalService": [{**ID, "service": "wa"}],
    "checkExtraActivation": [ACTIVATION_ID, ID], "getExtraActivation": [ACTIVATION_ID, ID],
    "reactivate": [ID], "reactivateOptions": [ID], "reactivationPrice": [ID],
    "parseCall": [ID], "getIncomingCallStatus": [ACTIVATION_ID],
    "getRentStatus": [ID, {**ID, "size": "2", "page": "1"}],
    "setRentStatus": [{**ID, "status": "2"}, {**ID, "status": "1"}],
    "continueRentNumber": [{**ID, "rent_time": "4"}], "getContinueRentPriceNumber": [{**ID, "rent_time": "4"}],
    "continueRentInfo": [{**ID, "hours": "4", "needHistory": "1"}],
    "prolong": [{**ID, "duration": "4"}], "prolongOptions": [ID], "prolongHistory": [ID],
    **dict.fromkeys((
        "getActiveActivations", "getBalance", "getBalanceAndCashBack", "getCountries", "getCurrentActivations",
        "getHistory", "getListOfActiveActivations", "getListOfTopCountriesByService", "getNumber", "getNumberV2",
        "getNumbersStatus", "getOperators", "getPrices", "getPricesExtended", "getPricesV2", "getPricesV3",
        "getPricesVerification", "getServicesList", "getTopCountriesByService", "getTopCountriesByServiceRank",
        "getWebhook", "setWebhook", "getMultiServiceNumber", "buyPartnerProduct", "getRentServicesAndCountries",
        "getRentNumber", "getRentList", "getRentPrices", "serviceCountRent", "getFreePrices", "updateApiCurrency",
    ), ()),
}  # fmt: skip
"""What each action of a dialect names as `{it}`, an activation or a rental; nothing where it names nobody's."""


FIVESIM: dict[str, Sequence[str]] = {
    "check": ["check/{it}"], "finish": ["finish/{it}"], "cancel": ["cancel/{it}"], "ban": ["ban/{it}"],
    "inbox": ["sms/inbox/{it}", "sms/inbox/{it}?limit=1&reverse=true"],
    "reuse": ["reuse/telegram/{number}"],
    "profile": (), "orders": (), "payments": (), "max-prices": (), "buy": (), "hosting": (),
}  # fmt: skip
"""What each verb of 5sim's protocol names as `{it}`, or by its `{number}`, under `/v1/user/`; nothing as above."""

FIVESIM_LISTS = ("profile", "orders?category=activation", "orders?category=hosting", "payments", "max-prices")


@dataclass(frozen=True)
class Role:
    """Somebody who asks. `sees` are the accounts that are there for it, `own` the one it acts for."""

    name: str
    own: str
    sees: frozenset[str]
    may_manage: bool = True
    is_operator: bool = False
    is_session: bool = False


ROLES = [
    Role("reseller key", ME, frozenset({ME, CHILD, TWIN})),
    Role("session", ME, frozenset({ME, CHILD, TWIN}), is_session=True),
    Role("sub-key", ME, frozenset({ME, CHILD, TWIN}), may_manage=False),
    Role("leaf key", CHILD, frozenset({CHILD})),
    Role("operator", "", frozenset(TREE), is_operator=True, is_session=True),
]


@dataclass
class World:
    """Six accounts of a tree, each with keys, a person and numbers."""

    house: StillHouse
    client: httpx.AsyncClient
    tokens: dict[str, str] = field(default_factory=dict)
    objects: dict[str, dict[str, str]] = field(default_factory=lambda: {name: {} for name in TREE})
    calls: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def it(self, kind: str, account: str) -> str:
        """What that account has of a kind, by name or id."""
        return account if kind == "account" else self.objects[account][kind]

    def operations(self) -> list[Operation]:
        return [
            operation
            for route in rest.routes(self.house.gateway.front)
            if isinstance(route.app, Resource)
            for operation in route.app._operations.values()
            if operation.name not in ("openapi", "docs")
        ]

    async def ask(self, role: Role, operation: Operation, path: str, entry: Entry, one: Try, it: str) -> httpx.Response:
        words = {"{it}": it, "{me}": role.own or ME, "{n}": str(next(self._numbers))}
        target = one.path or path
        for place in ("{id}", "{account}", "{key_id}", "{user_id}", "{batch_id}", "{payment_id}"):
            target = target.replace(place, "{it}")
        body = filled(one.body, words)
        if body is None and operation.body is not None and operation.body is not NoBody:
            body = {}
        headers = {name: filled(value, words) for name, value in one.headers.items()}
        headers["authorization"] = f"Bearer {self.tokens[role.name]}"
        return await self.client.request(operation.method, filled(target, words), json=body, headers=headers)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts what is asked of the database."""
        store = self.house.database.store
        run, read = store.run, store.read

        async def counted_run(*args: Any, **more: Any) -> Any:
            self.calls += 1
            return await run(*args, **more)

        async def counted_read(*args: Any, **more: Any) -> Any:
            self.calls += 1
            return await read(*args, **more)

        with patch.multiple(store, run=counted_run, read=counted_read):
            yield

    async def rows(self) -> list[Any]:
        """Everything that could have changed."""

        def read(tx: Tx) -> list[Any]:
            tables = (
                "accounts",
                "activations",
                "balances",
                "ledger",
                "rules",
                "api_keys",
                "users",
                "transfers",
                "payments",
                "markups",
                "retention_terms",
                "audit",
                "notices",
                "webhook_secrets",
                "webhook_endpoints",
            )
            return [[dict(row) for row in tx.all(f"select * from {name} order by 1")] for name in tables]  # noqa: S608 — constant names

        return await self.house.database.store.read(read)


def filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(word, text)
        return value
    if isinstance(value, Mapping):
        return {name: filled(inner, words) for name, inner in value.items()}
    return value


@asynccontextmanager
async def peopled(directory: Path, values: dict[str, str]) -> AsyncIterator[World]:
    async with still_house(directory, values) as house:
        house.gateway.is_stopping = lambda: True  # whoever would wait is answered at once
        house.gateway.sessions.passwords = Passwords(QUICK)
        transport = httpx.ASGITransport(app=house.gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            world = World(house, client)
            await house.database.store.run(_people, world)
            for role, name in zip(ROLES, ("first", "", "second", "first", ""), strict=True):
                world.tokens[role.name] = (
                    await _token(world, role) if role.is_session else world.objects[role.own][f"{name} key in plain"]
                )
            for name in TREE:
                await _numbers(world, name)
            await house.passes(2.0)
            await house.database.store.run(_give_up, world)
            yield world


def _people(tx: Tx, world: World) -> None:
    vault = world.house.database.vault
    for name, parent in TREE.items():
        account_id = accounts.create(tx, name, "USD", NOON, is_demo=True, parent=parent)
        ledger.deposit(tx, account_id, Money(10_000_000, "USD"), NOON, actor="test")
        accounts.set_webhook(tx, vault, account_id, "https://example.com/hook")
        has = world.objects[name]
        for which in ("first", "second", "third"):
            made = accounts.new_key(tx, vault, name, NOON)
            has[f"{which} key in plain"], has["key"] = made.key, str(made.id)
        user_id = users.add(tx, f"{name}@example.com", QUICK.hash(PASSWORD), users.Role.RESELLER, name, NOON)
        has["user"] = str(user_id)
        told = deposits.Told("generic", f"paid by {name}", f"{name}!", Money(10_000, "USD"))
        deposits.receive(tx, told, NOON)
        has["payment"] = str(deposits.payments(tx, is_open=True)[-1]["id"])
        has["batch"] = str(vouchers.issue(tx, vault, account_id, 1, Money(10_000, "USD"), NOON, "test").id)
    users.add(tx, "op@example.com", QUICK.hash(PASSWORD), users.Role.OPERATOR, None, NOON)


def _give_up(tx: Tx, world: World) -> None:
    """Each account's notices could not be delivered."""
    tx.execute("update notices set state = 'dead', ended_at = :now", now=NOON)
    for row in tx.all("select max(n.id) as id, a.id as account_id, a.name from notices n join accounts a"
                      " on a.id = n.account_id group by a.id, a.name"):  # fmt: skip
        world.objects[row["name"]]["notice"] = str(row["id"])
        attempt = Attempt(NOON, "native", "http 500", 500, 0.1, "digest", "sha256=0")
        webhook_log.note_attempt(tx, row["account_id"], row["id"], attempt)


async def _token(world: World, role: Role) -> str:
    email = "op@example.com" if role.is_operator else f"{role.own}@example.com"
    response = await world.client.post("/api/v1/sessions", json={"email": email, "password": PASSWORD})
    return str(response.json()["token"])


async def _numbers(world: World, name: str) -> None:
    """One that waits, one with a code, which is the one asked for, and a rental with a message."""
    key = world.objects[name]["first key in plain"]
    for service in ("xmute", "tg"):
        response = await world.client.post(
            "/purchase", json={"service": service, "country": "ID"}, headers={"x-api-key": key}
        )
        assert response.status_code == 201, response.text
        world.objects[name]["activation"] = response.json()["id"].removeprefix("ver_")
        world.objects[name][f"number of {service}"] = response.json()["phone_number"].removeprefix("+")
    response = await world.client.post(
        "/api/v1/rentals", json={"service": "tg", "country": "ID", "hours": 24}, headers={"x-api-key": key}
    )
    assert response.status_code == 201, response.text
    world.objects[name]["rental"] = response.json()["id"].removeprefix("rent_")
    world.objects[name]["number of a rental"] = response.json()["phone_number"].removeprefix("+")


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncIterator[World]:
    values = environment(sqlite_url, JWT_SECRET_KEY=SECRET)
    async with peopled(config_directory(tmp_path, gateway=GATEWAY), values) as found:
        yield found


def may(role: Role, operation: Operation, entry: Entry, account: str) -> bool:
    """Who may do what: all that this page is about."""
    if operation.access is Access.OPERATOR:
        return role.is_operator
    if operation.access is Access.MANAGER:
        return role.is_operator or (role.may_manage and account in role.sees)
    return not role.is_operator and account == role.own


async def known(world: World) -> None:
    """Everybody has asked before: who a key belongs to is looked up once, and not counted."""
    for role in ROLES:
        await world.client.get("/api/v1/me", headers={"authorization": f"Bearer {world.tokens[role.name]}"})


def seen(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    return response.status_code, dict(response.headers), response.content


async def test_every_endpoint_has_an_entry(world: World) -> None:
    names = {operation.name for operation in world.operations()}
    missing = sorted(names - set(ENDPOINTS))
    assert not missing, "\n".join(HOW_TO.format(name=name, file=__file__) for name in missing)
    assert set(ENDPOINTS) <= names, "entries of endpoints that are gone"


async def test_every_action_has_an_entry() -> None:
    found = {action for dialect in compat.DIALECTS.values() for action in _actions(dialect)}
    missing = sorted(found - set(ACTIONS))
    assert not missing, f"add to ACTIONS what these name as {{it}}, or () for nothing: {missing}"
    assert set(ACTIONS) <= found, "entries of actions that are gone"


def _actions(dialect: type[Any]) -> set[str]:
    class Nothing:
        """Stands for a front that is not asked for anything."""

        def __getattr__(self, name: str) -> Any:
            return Nothing()

    return set(dialect(Nothing(), Nothing()).actions)


async def test_what_is_not_ones_own_answers_as_what_nobody_has(world: World) -> None:
    before, tried = await world.rows(), 0
    await known(world)
    with world.counted():
        for role, operation in itertools.product(ROLES, world.operations()):
            entry = ENDPOINTS[operation.name]
            for path, one in itertools.product(operation.paths, entry.tries or (Try(),) if entry.names else ()):
                for account in TREE:
                    if may(role, operation, entry, account):
                        continue
                    world.calls = 0
                    wanted = seen(await world.ask(role, operation, path, entry, one, NOBODY[entry.names]))
                    wanted_calls, world.calls = world.calls, 0
                    got = seen(await world.ask(role, operation, path, entry, one, world.it(entry.names, account)))
                    what = f"{role.name}: {operation.name} on {account}'s ({one})"
                    assert wanted[0] in (401, 403, 404, 422), what
                    assert got == wanted, what
                    assert world.calls == wanted_calls, what
                    tried += 1
    assert await world.rows() == before
    assert tried > 400


async def test_whoever_may_finds_it(world: World) -> None:
    for role, account, operation in itertools.product(ROLES, TREE, world.operations()):
        entry = ENDPOINTS[operation.name]
        for path, one in itertools.product(operation.paths, entry.tries or (Try(),) if entry.names else ()):
            if not may(role, operation, entry, account):
                continue
            nothing = await world.ask(role, operation, path, entry, one, NOBODY[entry.names])
            found = await world.ask(role, operation, path, entry, one, world.it(entry.names, account))
            what = f"{role.name}: {operation.name} on {account}'s ({one}): {found.text}"
            assert nothing.status_code in (404, 409, 422), what
            assert found.status_code != 404, what
            assert found.status_code < 500, what
            assert (found.status_code, found.content) != (nothing.status_code, nothing.content), what
    assert await world.house.problems() == []


async def test_lists_show_nothing_of_others(world: World) -> None:
    everything = [
        operation for operation in world.operations() if operation.method == "GET" and "{" not in operation.paths[0]
    ]
    shown = 0
    for role, operation in itertools.product(ROLES, everything):
        response = await world.ask(role, operation, operation.paths[0], NOTHING, Try(), "")
        for account in set(TREE) - role.sees:
            for mark in marks(world, account, role):
                assert mark not in response.text, f"{role.name}: {operation.name} shows {mark} of {account}"
        shown += sum(mark in response.text for account in role.sees for mark in marks(world, account, role))
    assert shown > 20


def marks(world: World, account: str, role: Role) -> list[str]:
    """What nobody else may read. An account below another has its name in its own."""
    has = world.objects[account]
    found = [
        f'"{account}"',
        has["number of tg"],
        has["number of xmute"],
        has["number of a rental"],
        f"ver_{has['activation']}",
        f"rent_{has['rental']}",
        f'"msg_{has["notice"]}"',
        f"{account}@example",
    ]
    return found if account not in role.own else found[1:]


@pytest.mark.parametrize("dialect", sorted(compat.DIALECTS))
async def test_actions_on_what_is_not_ones_own(world: World, dialect: str) -> None:
    """By key alone: no session is taken there, and nobody has what is a child's or a parent's."""
    path, before = f"/{dialect}/stubs/handler_api.php", await world.rows()

    async def said(role: Role, action: str, values: Mapping[str, str], it: str) -> tuple[int, dict[str, str], bytes]:
        query = {"api_key": world.tokens[role.name], "action": action, **filled(values, {"{it}": it})}
        return seen(await world.client.get(path, params=query))

    await known(world)
    with world.counted():
        for role in (role for role in ROLES if not role.is_session):
            for action in sorted(_actions(compat.DIALECTS[dialect])):
                for values, account in itertools.product(ACTIONS[action], set(TREE) - {role.own}):
                    world.calls = 0
                    wanted = await said(role, action, values, NOBODY["activation"])
                    wanted_calls = world.calls
                    for kind in ("activation", "rental"):
                        world.calls = 0
                        found = await said(role, action, values, world.it(kind, account))
                        assert found == wanted, (action, account, kind)
                        assert world.calls == wanted_calls, (action, account, kind)
    assert await world.rows() == before
    for role in (role for role in ROLES if not role.is_session):
        for action in sorted(_actions(compat.DIALECTS[dialect]) - {"getNumber", "getNumberV2", "setWebhook"}):
            if not ACTIONS[action]:
                _, _, body = await said(role, action, {"service": "tg", "country": "6"}, "")
                for account in set(TREE) - {role.own}:
                    for mark in ("number of tg", "number of a rental"):
                        assert world.objects[account][mark].encode() not in body, (action, account)
    own = await said(ROLES[0], "getStatus", ID, world.it("activation", ME))
    assert own != await said(ROLES[0], "getStatus", ID, NOBODY["activation"])


def fivesim_verbs(world: World) -> set[str]:
    """Those that need a key."""
    routes = fivesim.FiveSim(world.house.gateway.front)._routes.values()
    return {route.verb for route in routes if route.for_caller is not None}


async def fivesim_said(world: World, role: Role, path: str, it: str, number: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"authorization": f"Bearer {world.tokens[role.name]}"}
    target = filled(path, {"{it}": it, "{number}": number})
    return seen(await world.client.get(f"/v1/user/{target}", headers=headers))


async def test_every_verb_of_5sims_has_an_entry(world: World) -> None:
    assert fivesim_verbs(world) == set(FIVESIM), "add to FIVESIM what it names, or () for nothing"


async def test_verbs_of_5sims_on_what_is_not_ones_own(world: World) -> None:
    before, tried = await world.rows(), 0
    await known(world)
    with world.counted():
        for role in (role for role in ROLES if not role.is_session):
            for path, account in itertools.product(itertools.chain(*FIVESIM.values()), set(TREE) - {role.own}):
                world.calls = 0
                wanted = await fivesim_said(world, role, path, NOBODY["activation"], "62899999999999")
                wanted_calls = world.calls
                assert wanted[0] in (400, 404), path
                for kind, which in (("activation", "number of tg"), ("rental", "number of a rental")):
                    world.calls = 0
                    number = world.objects[account][which]
                    found = await fivesim_said(world, role, path, world.it(kind, account), number)
                    assert found == wanted, (role.name, path, account, kind)
                    assert world.calls == wanted_calls, (role.name, path, account, kind)
                    tried += 1
    assert await world.rows() == before
    assert tried == 3 * 7 * 5 * 2


async def test_lists_of_5sims_show_nothing_of_others(world: World) -> None:
    shown = 0
    for role, path in itertools.product([role for role in ROLES if not role.is_session], FIVESIM_LISTS):
        status, _, body = await fivesim_said(world, role, path, "", "")
        assert status == 200, (path, body)
        for account in set(TREE) - {role.own}:
            ids = [f'"id":{world.it(kind, account)},' for kind in ("activation", "rental")]
            numbers = [world.objects[account][f"number of {which}"] for which in ("tg", "xmute", "a rental")]
            for mark in (*ids, *numbers):
                assert mark.encode() not in body, (role.name, path, account)
        shown += sum(world.objects[role.own][f"number of {which}"].encode() in body for which in ("tg", "a rental"))
    assert shown == 6


async def test_what_is_ones_own_is_found_by_5sims_verbs(world: World) -> None:
    nobody = NOBODY["activation"]
    for role in (ROLES[0], ROLES[3]):
        number = world.objects[role.own]["number of tg"]
        for verb, kind in (("check", "activation"), ("check", "rental"), ("inbox", "rental"), ("ban", "activation"),
                           ("cancel", "activation"), ("finish", "activation"), ("finish", "rental"),
                           ("reuse", "activation")):  # fmt: skip
            path = FIVESIM[verb][0]
            wanted = await fivesim_said(world, role, path, nobody, "62899999999999")
            found = await fivesim_said(world, role, path, world.it(kind, role.own), number)
            assert found != wanted, (role.name, verb, kind)
            assert found[0] < 500, (role.name, verb, kind)


@pytest.mark.parametrize("path", ["/api/v1/me", "/stubs/handler_api.php?action=getBalance"])
async def test_keys_that_do_not_work_cost_the_same_and_say_the_same(world: World, path: str) -> None:
    """Unknown, revoked, suspended, past its time, or none at all but as long as one."""
    house, name = world.house, "third key in plain"

    def end(tx: Tx) -> None:
        accounts.revoke_key(tx, int(world.objects[ME]["key"]), NOON)
        accounts.set_key_rules(tx, int(world.objects[CHILD]["key"]), {"suspended_at": NOON}, NOON)
        accounts.set_key_rules(tx, int(world.objects[TWIN]["key"]), {"expires_at": NOON}, NOON)

    await house.database.store.run(end)
    ended = [world.objects[account][name] for account in (ME, CHILD, TWIN)]
    statements: list[list[int]] = []
    for key in ("x" * 32, *ended, "é" * 32, "-" * 32, "1234 567" * 4):
        await house.gateway.callers.refresh()
        house.gateway.callers._unknown.clear()
        counts = []
        for _ in range(2):
            made = await _statements(world, path, key)
            counts.append(made)
        statements.append(counts)
    assert len({tuple(counts) for counts in statements}) == 1, statements


async def _statements(world: World, path: str, key: str) -> int:
    """How many statements one request with a key takes; it is refused, like every other."""
    count = 0
    one, every = Tx.one, Tx.all

    def counted_one(tx: Tx, sql: str, **values: Any) -> Any:
        nonlocal count
        count += 1
        return one(tx, sql, **values)

    def counted_all(tx: Tx, sql: str, **values: Any) -> Any:
        nonlocal count
        count += 1
        return every(tx, sql, **values)

    with patch.object(Tx, "one", counted_one), patch.object(Tx, "all", counted_all):
        response = await world.client.get(path, params={"api_key": key, **dict(httpx.URL(path).params)})
    assert response.text == "BAD_KEY" or response.json()["code"] == "bad_key"
    return count
