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
from collections.abc import Mapping
from dataclasses import dataclass
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
        for pushed in taken.pushed:
            await self._bring_in(upstream, pushed)
        if taken.pushed:
            await self._note(upstream, request, len(taken.pushed))
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
        await self._note("", request, 1)
        self._count("", "taken")

    async def drain(self) -> None:
        """Waits for the looks under way."""
        while self._looks:
            await asyncio.wait(set(self._looks.values()))

    # From an upstream

    async def _bring_in(self, upstream: str, pushed: Pushed) -> None:
        if not pushed.reference:
            self._soon(f"{upstream}/", self._settle(f"{upstream}/"))
            return
        live = await self._lease(upstream, pushed.reference)
        if live is None:
            # The answer to its purchase may be on its way still; the poll after it shows whatever was pushed.
            log.info("push.unknown_lease", upstream=upstream)
        elif pushed.messages and live.reference == pushed.reference:
            await self._activations.deliver(live, live.round, pushed.messages)
        else:
            # Of a reference that the lease has left behind it may be the message of before: reading it tells.
            self._look_soon(live)

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
        return live, Sms("", text, identity=f"native:{payload['timestamp']}:{_digest(text.encode())}")

    # What is kept of it

    async def _note(self, upstream: str, request: PushRequest, leases: int) -> None:
        """Every push that was proven, by the digest of its body. What was not proven is counted only: anybody may
        send that, as often as they like."""
        signature = " ".join(value for name, value in sorted(request.headers.items()) if "signature" in name)
        await self._house.store.run(
            _note, upstream, request.source, _digest(request.body), signature[:500], leases, self._house.clock()
        )

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


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Units of work


def drop_pushes(tx: Tx, before: float) -> None:
    """Forgets pushes that were processed before then."""
    tx.execute("delete from pushes where processed_at < :before", before=before)


def _note(tx: Tx, upstream: str, source: str, digest: str, signature: str, leases: int, at: float) -> None:
    tx.execute(
        "insert into pushes (upstream, source, body_digest, signature, leases, processed_at)"
        " values (:upstream, :source, :digest, :signature, :leases, :at)",
        upstream=upstream,
        source=source[:64],
        digest=digest,
        signature=signature,
        leases=leases,
        at=at,
    )
