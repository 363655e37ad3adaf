"""Pushes from upstreams: proven, told apart, delivered at once, so that no client waits for the next poll.

An upstream that signs what it sends is believed, and its message delivered before it gets its answer. Whatever else
arrives is a hint: the lease is read where it was bought, and what is read there counts. Either way it ends in
`Activations.deliver`, for which a repeat is nothing new.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from gateway import moves
from gateway.activations import Activations
from gateway.errors import CallerError, PushRefused, PushUnreadable, Unavailable, UpstreamError
from gateway.house import House
from gateway.live import Live
from gateway.model import Sms
from gateway.records import load
from gateway.settling import Settling
from gateway.store import Tx
from gateway.upstream import Pushed, Pushes, PushRequest, PushTaken
from gateway.vault import Vault

SECRET_LENGTH = 32
NATIVE_MEMBERS = ("event", "verification_id", "phone_number", "message", "timestamp")
"""The brief's payload, in the order its signature is made over."""

LOOK_PAUSE_SECONDS = 1.0
"""Between two looks at one lease: hints may come as fast as they like."""

LOOKS_MAX = 200
"""Leases looked at at once: a flood of hints must not become a flood of calls."""

TALLY_SECONDS = 60.0
"""Between two lines of the log about pushes turned away for the same reason."""

_Told = tuple[Pushed, Live | None]
"""A part of a push, and what it was of."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Tally:
    """Pushes of one kind that were turned away since the log last said so."""

    unlogged: int = 0
    logged_at: float = float("-inf")


class Inbox:
    """Takes pushes. One per process."""

    def __init__(self, house: House, activations: Activations, settling: Settling) -> None:
        self._house = house
        self._activations = activations
        self._settling = settling
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def secret(self, upstream: str) -> str:
        """The part of the path that only the upstream of that name is told."""
        return push_secret(self._house.vault, upstream)

    async def take(self, upstream: str, request: PushRequest) -> PushTaken:
        """Brings in what an upstream pushed. Safe to repeat: senders do.

        Raises PushRefused (nobody we know, or not proven), PushUnreadable, or Unavailable and Unwell, after which the
        sender should send it again.
        """
        there = self._house.upstreams.get(upstream)
        if not isinstance(there, Pushes):
            error = PushRefused("no upstream of that name takes pushes")
            self._refused("", error)
            raise error
        try:
            taken = await there.take_push(request)
        except UpstreamError as error:
            self._refused(upstream, error)
            raise
        told = [(pushed, await self._bring_in(upstream, pushed)) for pushed in taken.pushed]
        if told:
            await self._note(upstream, request, told)
        self._count(upstream, "taken" if taken.pushed else "ignored")
        return taken

    async def take_native(self, request: PushRequest) -> None:
        """Brings in the brief's own payload, signed with WEBHOOK_SECRET: a message for one of our activations.

        Raises PushRefused, PushUnreadable, Unavailable.
        """
        try:
            live, sms = await self._native(request)
            await self._activations.deliver(live, live.round, [sms])
        except UpstreamError as error:
            self._refused("", error)
            raise
        await self._note("", request, [(Pushed("", (sms,)), live)])
        self._count("", "taken")

    async def drain(self) -> None:
        """Waits for the looks under way."""
        while self._looks:
            await asyncio.wait(set(self._looks.values()))

    # From an upstream

    async def _bring_in(self, upstream: str, pushed: Pushed) -> Live | None:
        """What it was of; None where nothing is known by that reference."""
        if not pushed.reference:
            self._soon(f"{upstream}/", self._settle(f"{upstream}/"))
            return None
        live = await self._lease(upstream, pushed.reference)
        if live is None:
            # The answer to its purchase may be on its way still; the poll after it shows whatever was pushed.
            log.info("push.unknown_lease", upstream=upstream)
            return None
        if pushed.messages and live.reference == pushed.reference:
            await self._activations.deliver(live, live.round, pushed.messages)
        else:
            # Of a reference that the lease has left behind it may be the message of before: reading it tells.
            self._look_soon(live)
        return live

    async def _lease(self, upstream: str, reference: str) -> Live | None:
        live = self._house.live.at_upstream(upstream).get(reference)
        if live is not None:
            return live
        found = await self._house.store.read(moves.activation_of, upstream, reference)
        if found is None:
            return None
        loaded = self._house.live.get(found) or await load(self._house.store, self._house.vault, found)
        # Its purchase may have put it into the map meanwhile, and there is to be one of it only.
        return self._house.live.get(found) or loaded

    def look(self, upstream: str, reference: str) -> None:
        """Reads a lease soon, if it is open."""
        live = self._house.live.at_upstream(upstream).get(reference)
        if live is not None:
            self._look_soon(live)

    def _look_soon(self, live: Live) -> None:
        """At most one look at a lease at a time; a hint that comes meanwhile makes another one follow."""
        key = f"{live.upstream}/{live.reference}"
        if key in self._looks:
            self._again.add(key)
        elif len(self._looks) < LOOKS_MAX:  # above that the poller is as good
            self._soon(key, self._look(live, key))

    async def _look(self, live: Live, key: str) -> None:
        try:
            while True:
                self._again.discard(key)
                await self._activations.look(live)
                if key not in self._again:
                    return
                await asyncio.sleep(LOOK_PAUSE_SECONDS)
        except CallerError:
            return  # the poller looks again
        finally:
            self._again.discard(key)
            del self._looks[key]

    async def _settle(self, key: str) -> None:
        try:
            await self._settling.settle()
        except Unavailable:
            return
        finally:
            del self._looks[key]

    def _soon(self, key: str, work: Any) -> None:
        if key in self._looks:
            work.close()
            return
        self._looks[key] = asyncio.ensure_future(work)

    # The brief's own payload

    async def _native(self, request: PushRequest) -> tuple[Live, Sms]:
        payload = _native_payload(request.body)
        secret = self._house.vault.webhook_secret
        if not _is_signed(payload, request, secret):
            raise PushRefused("the signature does not fit")
        if payload["event"] != "sms_received":
            raise PushUnreadable("an unknown event")
        number = str(payload["phone_number"]).lstrip("+")
        identity = str(payload["verification_id"]).removeprefix("ver_")
        is_id = identity.isascii() and identity.isdigit() and len(identity) <= 12
        live = self._house.live.get(int(identity)) if is_id else None
        if live is None and is_id:
            live = await load(self._house.store, self._house.vault, int(identity))
        if live is None or live.number != number:
            raise PushUnreadable("no such verification with that number")
        text = str(payload["message"])
        # Only a keyed digest of this is kept. It stays as it is: made otherwise, what was delivered before an update
        # would be another message when it is repeated after it.
        told = hashlib.sha256(text.encode()).hexdigest()
        return live, Sms("", text, identity=f"native:{payload['timestamp']}:{told}")

    # What is kept of it

    async def _note(self, upstream: str, request: PushRequest, told: Sequence[_Told]) -> None:
        """Every push that was proven, by the digest of its body. What was not proven is counted only: anybody may
        send that, as often as they like."""
        vault = self._house.vault
        signature = " ".join(value for name, value in sorted(request.headers.items()) if "signature" in name)
        account_id, activation_id = _whose(told)
        noted = _Noted(
            upstream=upstream,
            source=request.source[:64],
            digest=vault.index_digest("push", request.body),
            # Sealed, since not every one is made with a secret: some senders' is a plain hash of the body.
            signature_sealed=vault.seal(signature[:500]) if signature else "",
            leases=len(told),
            account_id=account_id,
            activation_id=activation_id,
            at=self._house.clock(),
        )
        await self._house.store.run(_note, noted)

    def _refused(self, upstream: str, error: UpstreamError) -> None:
        """Counts every one. The log has the first at once and then a line a minute at most, or anybody could fill it.

        `upstream` is one of ours or empty, never what a stranger called it: so there are only so many tallies.
        """
        outcome = _OUTCOMES.get(type(error), "unwell")
        self._count(upstream, outcome)
        if type(error) not in _OUTCOMES:
            return
        now, tally = self._house.clock(), self._tallies.setdefault((upstream, outcome), _Tally())
        tally.unlogged += 1
        if now - tally.logged_at >= TALLY_SECONDS:
            log.warning(f"push.{outcome}", upstream=upstream, reason=str(error), times=tally.unlogged)
            tally.unlogged, tally.logged_at = 0, now

    def _count(self, upstream: str, outcome: str) -> None:
        self._house.metrics.pushes.labels(upstream, outcome).inc()


_OUTCOMES: dict[type[UpstreamError], str] = {PushRefused: "refused", PushUnreadable: "unreadable"}


def push_secret(vault: Vault, upstream: str) -> str:
    """Follows from INDEX_KEY, so that there is one secret less to keep; receivers of our webhooks do not know it."""
    return vault.index_digest("push address", upstream).rpartition(":")[2][:SECRET_LENGTH]


def native_signature(payload: Mapping[str, Any], secret: bytes) -> str:
    """The brief's `signature` member: over the JSON without it, its keys in their order, no spaces."""
    plain = {name: payload[name] for name in NATIVE_MEMBERS}
    canonical = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
    return "sha256=" + hmac.new(secret, canonical, "sha256").hexdigest()


def _native_payload(body: bytes) -> Mapping[str, Any]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict) or not all(isinstance(payload.get(name), str) for name in NATIVE_MEMBERS):
        raise PushUnreadable("not the payload of a received message")
    return payload


def _is_signed(payload: Mapping[str, Any], request: PushRequest, secret: bytes) -> bool:
    """By the member in the body, or by a header over the raw body."""
    over_body = "sha256=" + hmac.new(secret, request.body, "sha256").hexdigest()
    try:
        inside = native_signature(payload, secret)
    except UnicodeEncodeError:  # half a character: nothing that was ever signed
        return False
    given = (str(payload.get("signature", "")), request.headers.get("x-signature", ""))
    wanted = (inside, over_body)
    return any(
        hmac.compare_digest(told.encode("utf-8", "replace"), right.encode())
        for told, right in zip(given, wanted, strict=True)
    )


def _whose(told: Sequence[_Told]) -> tuple[int | None, int | None]:
    """The account whose term holds for a push and the activation it goes with; None where there are several, or none.

    A hint that nothing answers to says nothing of anybody: some senders' leave two references possible.
    """
    meant = [live for pushed, live in told if live is not None or pushed.messages]
    owners = [(live.account_id, live.id) if live is not None else (None, None) for live in meant]
    return _sole(account_id for account_id, _ in owners), _sole(activation_id for _, activation_id in owners)


def _sole(ids: Iterable[int | None]) -> int | None:
    found = set(ids)
    return found.pop() if len(found) == 1 else None


# Units of work


@dataclass(frozen=True, slots=True)
class _Noted:
    """What the log keeps of a push. Nothing of its body can be guessed by it without our keys."""

    upstream: str
    source: str
    digest: str = field(repr=False)
    signature_sealed: str = field(repr=False)
    leases: int
    account_id: int | None
    activation_id: int | None
    at: float


def drop_pushes(tx: Tx, before: float) -> None:
    """Forgets pushes that were processed before then."""
    tx.execute("delete from pushes where processed_at < :before", before=before)


def _note(tx: Tx, noted: _Noted) -> None:
    # `body_digest` and `signature` are columns of older programs, which kept a plain hash there.
    tx.execute(
        "insert into pushes (upstream, source, digest, signature_sealed, leases, account_id, activation_id,"
        " processed_at, body_digest, signature) values (:upstream, :source, :digest, :signature_sealed, :leases,"
        " :account_id, :activation_id, :at, '', '')",
        **asdict(noted),
    )
