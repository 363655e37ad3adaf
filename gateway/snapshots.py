"""A price list as bytes for the other processes of a deployment, and proof that one of them made it.

A head of fixed length says when the list was fetched and what is behind it; who made it is proved by the head alone,
so that nothing else has to be read, or carried, before that. What is behind is held to the head's digest. Everything is
checked as if anybody had written it, and nothing but numbers, text and JSON is ever made of it. Pure: runs on threads.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from itertools import islice
from typing import Any

from gateway.upstream import Columns, OfferTable

FORMAT = 1
"""Part of where a list is kept as well: programs of two formats do not meet. To be raised, too, where what a list or an
adapter's knowledge says comes to mean something else."""

ROWS_MAX = 4_000_000
FACTS_BYTES_MAX = 16 << 20
BODY_BYTES_MAX = 128 << 20

REASON_LETTERS_MAX = 300

_LIST_MARK = b"simroute list"
_TROUBLE_MARK = b"simroute trouble"
_FIELDS = struct.Struct("<13sBdQIQ32s")
_SINCE = struct.Struct("<16sBd")
PROOF_BYTES = 32
HEAD_BYTES = PROOF_BYTES + _FIELDS.size
TROUBLE_BYTES_MAX = PROOF_BYTES + _SINCE.size + 4 * REASON_LETTERS_MAX

_WIDTHS = (8, 8, 4, 4, 4)
"""Bytes a row of each column of `Columns`."""

Prove = Callable[[bytes], bytes]
"""32 bytes that nobody can tell who does not hold the deployment's secret."""


class Unusable(ValueError):
    """Not what a process of this deployment wrote. Its words hold nothing of it."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a list before it is read. `raw` is the head itself, another for each list."""

    raw: bytes
    fetched_at: float
    rows: int
    facts_bytes: int
    body_bytes: int
    digest: bytes

    @property
    def total_bytes(self) -> int:
        """Head and body."""
        return HEAD_BYTES + self.body_bytes


def seal(table: OfferTable, knowledge: Mapping[str, Any], fetched_at: float, prove: Prove) -> bytes:
    """The list with what was learnt from it."""
    columns = table.columns()
    facts = _json(table, columns.words, knowledge)
    packing = zlib.compressobj(1)
    packed = [packing.compress(facts)]
    for column, width in zip(columns[1:], _WIDTHS, strict=True):
        # The same byte of every row together: that is what makes them alike.
        packed += [packing.compress(column[place::width]) for place in range(width)]
    packed.append(packing.flush())
    body = b"".join(packed)
    fields = _FIELDS.pack(_LIST_MARK, FORMAT, fetched_at, len(table), len(facts), len(body), sha256(body).digest())
    return prove(fields) + fields + body


def read_head(data: bytes, prove: Prove) -> Head:
    """What the first HEAD_BYTES say. Raises Unusable."""
    proof, fields = data[:PROOF_BYTES], data[PROOF_BYTES:HEAD_BYTES]
    if len(fields) != _FIELDS.size or not compare_digest(proof, prove(fields)):
        raise Unusable("a head that is not ours")
    mark, number, fetched_at, rows, facts_bytes, body_bytes, digest = _FIELDS.unpack(fields)
    if mark != _LIST_MARK or number != FORMAT:
        raise Unusable("another format")
    if rows > ROWS_MAX or facts_bytes > FACTS_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
        raise Unusable("too large")
    return Head(data[:HEAD_BYTES], fetched_at, rows, facts_bytes, body_bytes, digest)


def unpack(head: Head, body: bytes, upstream: str, currency: str) -> tuple[OfferTable, Mapping[str, Any]]:
    """The list of that upstream, in that currency, and what was learnt from it. Raises Unusable."""
    if len(body) != head.body_bytes or sha256(body).digest() != head.digest:
        raise Unusable("cut off, or altered")
    try:
        facts, columns = _columns(_inflated(head, body), head)
        words, knowledge = _read_facts(facts, upstream, currency)
        return OfferTable.of_columns(upstream, currency, Columns(words, *columns)), knowledge
    except Unusable:
        raise
    except (ValueError, TypeError, LookupError, RecursionError, zlib.error):
        pass
    raise Unusable("no price list")


def seal_trouble(reason: str, at: float, prove: Prove) -> bytes:
    """Why no newer list could be had."""
    said = _SINCE.pack(_TROUBLE_MARK, FORMAT, at) + reason[:REASON_LETTERS_MAX].encode("utf-8", "replace")
    return prove(said) + said


def read_trouble(data: bytes, prove: Prove) -> tuple[str, float]:
    """The reason, and since when it holds. Raises Unusable."""
    proof, said = data[:PROOF_BYTES], data[PROOF_BYTES:]
    if len(said) < _SINCE.size or not compare_digest(proof, prove(said)):
        raise Unusable("not ours")
    mark, number, at = _SINCE.unpack(said[: _SINCE.size])
    if mark != _TROUBLE_MARK or number != FORMAT:
        raise Unusable("another format")
    return said[_SINCE.size :].decode("utf-8", "replace"), at


def _json(table: OfferTable, words: tuple[str, ...], knowledge: Mapping[str, Any]) -> bytes:
    facts = {"upstream": table.upstream, "currency": table.currency, "words": words, "knowledge": knowledge}
    return json.dumps(facts, separators=(",", ":")).encode()


def _read_facts(facts: bytes, upstream: str, currency: str) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    said = json.loads(facts)
    words, knowledge = tuple(said["words"]), said["knowledge"]
    if (said["upstream"], said["currency"]) != (upstream, currency):
        raise Unusable("somebody else's")
    if words[:1] != ("",) or not all(isinstance(word, str) for word in words) or not isinstance(knowledge, dict):
        raise Unusable("no price list")
    return words, knowledge


def _inflated(head: Head, body: bytes) -> bytes:
    """As long as the head says, whatever is in it."""
    expected = head.facts_bytes + head.rows * sum(_WIDTHS)
    unpacking = zlib.decompressobj()
    plain = unpacking.decompress(body, expected + 1)
    if len(plain) != expected or not unpacking.eof:
        raise Unusable("of another length than it says")
    return plain


def _columns(plain: bytes, head: Head) -> tuple[bytes, list[bytes]]:
    """The facts, and the columns put together again."""
    start = head.facts_bytes
    planes = (plain[at : at + head.rows] for at in range(start, len(plain), head.rows or 1))
    return plain[:start], [_column(list(islice(planes, width)), width) for width in _WIDTHS]


def _column(planes: list[bytes], width: int) -> bytes:
    column = bytearray(sum(map(len, planes)))
    for place, plane in enumerate(planes):
        column[place::width] = plane
    return bytes(column)
