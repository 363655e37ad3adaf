"""Notices to clients: which addresses they may go to, how they are signed, sent, tried again and given up.

`activations` queues a notice in the transaction of the delivery it tells of. A courier claims it by moving its
`next_at` past the time an attempt can take: whoever crashes on the way leaves a notice that falls due again, so each is
delivered at least once, and a receiver tells repeats by their `webhook-id`.

    pending ──2xx──> sent
       │ ^──later──┐
       └──anything else──┴──pauses used up, or no address any more──> dead
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from urllib.parse import SplitResult, urlsplit

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks.webhooks import Webhook

from gateway.accounts import URL_LENGTH_MAX
from gateway.catalog import Catalog
from gateway.ds_words import service_words
from gateway.errors import BadWebhookUrl, CallerError, Unavailable, WebhookNotHttps, WebhookUrlTooLong
from gateway.house import House
from gateway.inbox import native_signature
from gateway.settings import WebhooksSettings
from gateway.store import Row, Tx
from gateway.vault import Vault

PAUSE_SECONDS = 0.25
IN_FLIGHT_MAX = 64
"""Attempts under way at once, per process. Each is a socket and a task that mostly wait."""

IN_FLIGHT_PER_ACCOUNT_MAX = 2
"""So that a receiver that never answers takes two places, and not everybody's."""

LEASE_EXTRA_SECONDS = 5.0
"""How long, beyond the time-out, an attempt may take to be written down before another process may repeat it."""

CLOSING_SECONDS = 2.0
RESOLVER_THREADS = 16
RESPONSE_BUFFER_BYTES = 1024

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NEVER_PUBLIC = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's metadata server, though in public address space
    ipaddress.ip_network("192.0.0.0/24"),  # protocol assignments; Python 3.11 knows only parts of it as private
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, which lead anywhere
    ipaddress.ip_network("3fff::/20"),  # documentation, newer than Python 3.11
)

_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")

log = structlog.get_logger()

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PrivateAddress(OSError):
    """A connection was about to be made to an address that no notice may go to."""


# Addresses


def check_url(url: str, settings: WebhooksSettings) -> None:
    """What an account may set. Raises WebhookUrlTooLong, BadWebhookUrl, WebhookNotHttps.

    A courtesy to whoever sets it: what a name leads to is known, and refused, only when a connection is made.
    """
    host = _host(_parsed(url, settings))
    if not settings.allow_private_addresses and _is_plainly_private(host):
        raise BadWebhookUrl


def is_public(address: str) -> bool:
    """Whether an IP address lies in the public internet; one that wraps an IPv4 address is judged by that."""
    return _is_public(ipaddress.ip_address(address))


def _parsed(url: str, settings: WebhooksSettings) -> SplitResult:
    """A URL of acceptable form and scheme. Raises as `check_url`."""
    if len(url) > URL_LENGTH_MAX:
        raise WebhookUrlTooLong
    parts = _split(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.allow_http):
        raise WebhookNotHttps
    return parts


def _split(url: str) -> SplitResult:
    if _NOT_IN_URL.search(url):
        raise BadWebhookUrl
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:
        raise BadWebhookUrl from None
    if not is_whole or "@" in parts.netloc:
        raise BadWebhookUrl
    return parts


def _host(parts: SplitResult) -> str:
    """The host as a resolver would be asked for it: full-width digits and dots, too, are those they stand for."""
    host = parts.hostname or ""
    if ":" in host:
        return host
    if "[" in parts.netloc:
        raise BadWebhookUrl
    try:
        name = host.encode("idna").decode().lower()
    except UnicodeError:
        raise BadWebhookUrl from None
    if not _HOST_NAME.fullmatch(name):
        raise BadWebhookUrl
    return name.removesuffix(".")


def _is_plainly_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _literal(host)
    return address is not None and not _is_public(address)


def _literal(host: str) -> Address | None:
    """The address a host spells out; None for a name. Raises BadWebhookUrl on spellings that have no honest use."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if ":" in host or _is_odd_address(host):
            raise BadWebhookUrl from None
        return None


def _is_odd_address(host: str) -> bool:
    """Whether the C library, and so a resolver, takes a host for an address: `127.1`, `0x7f000001`, `017700000001`."""
    try:
        return bool(socket.inet_aton(host))
    except OSError:
        return False


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if inner := _embedded(address):
            return all(map(_is_public, inner))
        if address not in GLOBAL_UNICAST:
            return False
    is_special = address.is_multicast or address.is_reserved or address.is_private or not address.is_global
    return not is_special and not any(address in network for network in NEVER_PUBLIC)


def _embedded(address: ipaddress.IPv6Address) -> Sequence[ipaddress.IPv4Address]:
    """The IPv4 addresses that a packet to this one ends up at; none for an address of its own."""
    if address in NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    single = address.ipv4_mapped or address.sixtofour
    return (single,) if single else address.teredo or ()


# What is sent


@dataclass(frozen=True, slots=True, repr=False)
class Told:
    """What a notice tells. `service_word` is DS SMS HUB's name for the service; `received_at` is in UTC.

    `sender` is empty where the upstream does not tell; `message_id` is ours.
    """

    activation_id: int
    number: str
    service: str
    service_word: str
    country: int
    text: str
    code: str
    received_at: datetime
    sender: str = ""
    message_id: int = 0


def sms_activate_body(told: Told, _secret: bytes) -> Mapping[str, object]:
    """The original's push."""
    return {
        "activationId": told.activation_id,
        "service": told.service,
        "text": told.text,
        "code": told.code,
        "country": told.country,
        "receivedAt": told.received_at.strftime("%Y-%m-%d %H:%M:%S"),
    }


def ds_body(told: Told, _secret: bytes) -> Mapping[str, object]:
    """DS SMS HUB's."""
    return {
        "rental_id": str(told.activation_id),
        "number": f"+{told.number}",
        "service": told.service_word,
        "text": told.text,
        "received_at": told.received_at.strftime("%Y-%m-%d %H:%M:%S"),
    }


def hero_body(told: Told, _secret: bytes) -> Mapping[str, object]:
    """HeroSMS's: the id is text, the sender is told, the time has its zone."""
    return {
        "activationId": str(told.activation_id),
        "service": told.service,
        "phoneFrom": told.sender,
        "text": told.text,
        "code": told.code or None,
        "country": told.country,
        "receivedAt": told.received_at.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
    }


def daisy_body(told: Told, secret: bytes) -> Mapping[str, object]:
    """DaisySMS's: the original's push, and which message it is."""
    original = sms_activate_body(told, secret)
    return {"activationId": told.activation_id, "messageId": told.message_id, **original}


def native_body(told: Told, secret: bytes) -> Mapping[str, object]:
    """The brief's own: signed inside, over its other members, beside the signatures of the whole in the headers."""
    content = {
        "event": "sms_received",
        "verification_id": f"ver_{told.activation_id}",
        "phone_number": f"+{told.number}",
        "message": told.text,
        "timestamp": told.received_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {**content, "signature": native_signature(content, secret)}


BODIES: Mapping[str, Callable[[Told, bytes], Mapping[str, object]]] = {
    "sms_activate": sms_activate_body,
    "ds": ds_body,
    "hero": hero_body,
    "daisy": daisy_body,
    "native": native_body,
}
"""By an account's `webhook_format`, which follows from how its address was set."""


def _body(vault: Vault, catalog: Catalog, row: Row) -> str:
    """The members in the form's order, no spaces. Raises SecretsError."""
    is_ds = row["format"] == "ds"
    told = Told(
        activation_id=row["activation_id"],
        number=vault.open(row["number_sealed"]) if row["number_sealed"] else "",
        service=row["service"],
        service_word=service_words(catalog).get(row["service"], row["service"]) if is_ds else "",
        country=row["country"],
        text=vault.open(row["text_sealed"]),
        code=vault.open(row["code_sealed"]),
        received_at=datetime.fromtimestamp(row["received_at"], UTC),
        sender=vault.open(row["sender_sealed"]) if row["sender_sealed"] else "",
        message_id=row["message_id"],
    )
    content = BODIES[row["format"]](told, vault.webhook_secret)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _rent_body(vault: Vault, row: Row) -> str:
    """The original's push for a rented number. Raises SecretsError."""
    sms = {
        "phoneFrom": vault.open(row["sender_sealed"]) if row["sender_sealed"] else "",
        "text": vault.open(row["text_sealed"]),
        "date": datetime.fromtimestamp(row["received_at"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
    }
    content = {"rentId": row["activation_id"], "sms": sms}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


RENT = "rent"
"""The format of notices that go to a rental's own address, not to its account's."""


def _headers(vault: Vault, notice_id: int, body: str, at: float) -> Mapping[str, str]:
    """Two signatures of the same body: a plain one, and that of standardwebhooks.com, which covers id and time too."""
    message_id, moment = f"msg_{notice_id}", datetime.fromtimestamp(int(at), UTC)
    plain = hmac.new(vault.webhook_secret, body.encode(), hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "User-Agent": _USER_AGENT,
        "X-Signature": f"sha256={plain}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": Webhook(vault.webhook_secret).sign(message_id, moment, body),
    }


def user_agent() -> str:
    try:
        return f"simroute/{metadata.version('simroute')}"
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "simroute/dev"


_USER_AGENT = user_agent()


# How it is sent


class _Names(AbstractResolver):
    """Resolves on threads of its own: a client's name server that never answers must not hold up upstreams' names."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)
        return [_resolved(host, port, info[0], info[2], info[4][0]) for info in found]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> Sequence[aiohttp.AddrInfoType]:
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def _resolved(host: str, port: int, family: int, protocol: int, address: object) -> ResolveResult:
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=protocol, flags=flags)


class Wire:
    """The HTTP client of notices and of the payment hook.

    No proxy, no cookies, no redirects, no reuse; nothing of an answer but its status.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status answered. Raises ClientError (PrivateAddress as its `os_error`), TimeoutError, ValueError."""
        timeout = aiohttp.ClientTimeout(total=self._house.settings.gateway.webhooks.timeout_seconds)
        async with self._opened().post(
            url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            return response.status

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Names(), socket_factory=self._socket, force_close=True, limit=IN_FLIGHT_MAX
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=RESPONSE_BUFFER_BYTES,
                trust_env=False,
            )
        return self._session

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """The one door to the network: what it is given is what gets connected to, whatever a name said before."""
        family, kind, protocol, _, address = info
        if not self._house.settings.gateway.webhooks.allow_private_addresses and not is_public(str(address[0])):
            raise PrivateAddress("not a public address")
        return socket.socket(family, kind, protocol)


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of an attempt. `words` come from a closed set: no URL, number or text."""

    words: str
    is_sent: bool = False
    is_refused: bool = False
    is_final: bool = False
    digest: str = ""


def _answered(status: int, digest: str) -> _Result:
    return _Result(f"http {status}", is_sent=200 <= status < 300, digest=digest)


_FAILURES: Sequence[tuple[type[Exception], str]] = (
    (TimeoutError, "timed out"),
    (aiohttp.ClientConnectorDNSError, "name not found"),
    (aiohttp.ClientSSLError, "tls failed"),
    (aiohttp.ClientConnectorCertificateError, "tls failed"),
    (aiohttp.ClientConnectorError, "not reached"),
    (aiohttp.InvalidURL, "bad address"),
    (aiohttp.ClientResponseError, "unreadable answer"),
    (aiohttp.ClientError, "connection lost"),
)


def _failed(error: Exception, digest: str) -> _Result:
    return _Result(failure(error), is_refused=_is_refused(error), digest=digest)


def failure(error: Exception) -> str:
    """A failure in words; only ever the class of an error, as messages tend to quote the URL."""
    if isinstance(error, CallerError):
        return f"refused: {error.code}"
    if _is_refused(error):
        return "refused: private address"
    return next((words for kind, words in _FAILURES if isinstance(error, kind)), f"failed: {type(error).__name__}")


def _is_refused(error: Exception) -> bool:
    """Whether it was we who would not send it."""
    is_private = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PrivateAddress)
    return is_private or isinstance(error, CallerError)


# The queue


class Courier:
    """Carries notices out of the outbox. Several, in one process or many, may work on one database."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._wire = Wire(house)
        self._in_flight: dict[asyncio.Task[None], int] = {}

    async def round(self) -> float:
        """Starts what is due, as far as there is room, and waits a moment for it; seconds until the next round.

        A slow receiver is left under way and does not hold the next round up. Raises Unavailable.
        """
        house = self._house
        due = await house.store.read(_due, house.clock())
        chosen = self._fitting(due)
        if chosen:
            lease = house.settings.gateway.webhooks.timeout_seconds + LEASE_EXTRA_SECONDS
            for row in await house.store.run(_claim, chosen, house.clock() + lease):
                self._start(row)
        is_more = len(chosen) < len(due)
        await self._wait(asyncio.FIRST_COMPLETED if is_more else asyncio.ALL_COMPLETED)
        return 0.0 if is_more or self._in_flight else PAUSE_SECONDS

    async def aclose(self) -> None:
        """Waits a little for what is under way, then lets go: what is cut off is sent again by the next to start.

        The store must still be open.
        """
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=CLOSING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._wire.aclose()

    async def _wait(self, until: str) -> None:
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=PAUSE_SECONDS, return_when=until)

    def _fitting(self, due: Sequence[Row]) -> list[Row]:
        """Those there is a place for, in the process and in the share of their account."""
        busy, room = Counter(self._in_flight.values()), IN_FLIGHT_MAX - len(self._in_flight)
        chosen: list[Row] = []
        for row in due:
            if len(chosen) < room and busy[row["account_id"]] < IN_FLIGHT_PER_ACCOUNT_MAX:
                busy[row["account_id"]] += 1
                chosen.append(row)
        return chosen

    def _start(self, row: Row) -> None:
        task = asyncio.create_task(self._carry(row), name=f"notice:{row['id']}")
        self._in_flight[task] = row["account_id"]
        task.add_done_callback(self._in_flight.pop)

    async def _carry(self, row: Row) -> None:
        house = self._house
        result = await self._attempt(row)
        pauses = house.settings.gateway.webhooks.retry_seconds
        ending = _ending(result, row["tries"], row["next_at"], pauses, house.clock())
        try:
            await house.store.run(_note, row["id"], ending)
        except Unavailable:
            log.warning("notice.unrecorded", notice=row["id"], result=result.words)
            return
        house.metrics.notices.labels(ending.label).inc()
        log.info(f"notice.{ending.label}", notice=row["id"], result=result.words, tries=ending.tries)

    async def _attempt(self, row: Row) -> _Result:
        house, digest = self._house, ""
        is_rent = row["format"] == RENT
        sealed = row["rent_url_sealed"] if is_rent else row["webhook_url_sealed"]
        if not sealed:
            return _Result("no webhook set", is_final=True)
        try:
            url = house.vault.open(sealed)
            _parsed(url, house.settings.gateway.webhooks)  # the command line may set what a dialect would refuse
            body = _rent_body(house.vault, row) if is_rent else _body(house.vault, house.settings.catalog, row)
            digest = house.vault.index_digest("notice", body)
            headers = _headers(house.vault, row["id"], body, house.clock())
            return _answered(await self._wire.post(url, headers, body.encode()), digest)
        except Exception as error:  # one notice that cannot be sent must not keep the others
            return _failed(error, digest)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How an attempt leaves its notice. `leased_until` is the claim it was made under."""

    state: str
    label: str
    tries: int
    next_at: float
    at: float
    leased_until: float
    words: str
    digest: str = field(repr=False)


def _ending(result: _Result, tries: int, leased_until: float, pauses: Sequence[float], now: float) -> _Ending:
    """`tries` counts the attempts before this one; after the first failure the first pause follows, and so on."""
    made = tries + (not result.is_final)
    if result.is_sent:
        state, label, next_at = "sent", "sent", now
    elif result.is_final or tries >= len(pauses):
        state, label, next_at = "dead", "dead", now
    else:
        state, label, next_at = "pending", "refused" if result.is_refused else "retry", now + pauses[tries]
    return _Ending(state, label, made, next_at, now, leased_until, result.words, result.digest)


# Units of work


def _due(tx: Tx, now: float) -> Sequence[Row]:
    """What is due, longest first: of each account one more than it may have under way.

    So no backlog hides another account's notices, and yet shows that there is more. Enough rows that those of busy
    accounts can be passed over and every place still be filled.
    """
    return tx.all(
        "select id, account_id, next_at from ("
        "select id, account_id, next_at, row_number() over (partition by account_id order by next_at, id) as place"
        " from notices where state = 'pending' and next_at <= :now) as due"
        " where place <= :each order by next_at, id limit :most",
        now=now,
        each=IN_FLIGHT_PER_ACCOUNT_MAX + 1,
        most=IN_FLIGHT_MAX * (IN_FLIGHT_PER_ACCOUNT_MAX + 2),
    )


def _claim(tx: Tx, chosen: Sequence[Row], until: float) -> list[Row]:
    """Those of the chosen that nobody else claimed since they were read, with all that is needed to send them."""
    # In one order everywhere, so that two processes cannot wait for each other.
    return [row for seen in sorted(chosen, key=lambda seen: int(seen["id"])) if (row := _claim_one(tx, seen, until))]


def _claim_one(tx: Tx, seen: Row, until: float) -> Row | None:
    is_ours = tx.execute(
        "update notices set next_at = :until, format = case when format = :rent then format else coalesce("
        "(select webhook_format from accounts where accounts.id = notices.account_id), 'sms_activate') end"
        " where id = :id and state = 'pending' and next_at = :seen",
        until=until,
        rent=RENT,
        id=seen["id"],
        seen=seen["next_at"],
    )
    return _whole(tx, seen["id"]) if is_ours else None


def _whole(tx: Tx, notice_id: int) -> Row | None:
    return tx.one(
        "select n.id, n.account_id, n.activation_id, n.message_id, n.tries, n.next_at, n.format, v.service, v.country,"
        " v.number_sealed, m.text_sealed, m.code_sealed, m.sender_sealed, m.received_at, a.webhook_url_sealed,"
        " v.webhook_url_sealed as rent_url_sealed"
        " from notices n join messages m on m.id = n.message_id join activations v on v.id = n.activation_id"
        " join accounts a on a.id = n.account_id where n.id = :id",
        id=notice_id,
    )


def _note(tx: Tx, notice_id: int, ending: _Ending) -> None:
    """Writes an attempt down. A failure counts only under its own claim; a success, however late, always does."""
    tx.execute(
        "update notices set state = :state, tries = :tries, next_at = :next_at, ended_at = :ended_at,"
        " last_result = :words, body_digest = :digest"
        " where id = :id and state = 'pending' and (next_at = :leased_until or :state = 'sent')",
        id=notice_id,
        state=ending.state,
        tries=ending.tries,
        next_at=ending.next_at,
        ended_at=None if ending.state == "pending" else ending.at,
        words=ending.words,
        digest=ending.digest,
        leased_until=ending.leased_until,
    )
