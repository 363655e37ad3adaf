"""Price lists as bytes: what is packed comes out again, and whatever else is found is refused."""

from __future__ import annotations

import hmac
import random
import struct
import zlib
from array import array
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gateway import snapshots
from gateway.snapshots import HEAD_BYTES, Head, Unusable, read_head, read_trouble, seal, seal_trouble, unpack
from gateway.upstream import Columns, OfferTable

Rows = list[tuple[str, int, int, int, str, float | None]]
AT = 1_700_000_000.25


def prove(words: bytes) -> bytes:
    return hmac.digest(b"a key of the deployment's own", words, "sha256")


def forge(words: bytes) -> bytes:
    return hmac.digest(b"somebody else's key", words, "sha256")


def table(rows: Rows | None = None) -> OfferTable:
    given: Rows = [
        ("tg", 6, 120_000, 5, "", None),
        ("tg", 6, 90_000, 1, "telkomsel", 0.5),
        ("wa", 0, 1, 2**40, "x", 1.0),
    ]
    return OfferTable("one", "USD", given if rows is None else rows)


def opened(data: bytes, upstream: str = "one", currency: str = "USD") -> tuple[OfferTable, object]:
    return unpack(read_head(data[:HEAD_BYTES], prove), data[HEAD_BYTES:], upstream, currency)


rows_of_lists = st.lists(
    st.tuples(
        st.text(st.sampled_from("abz019"), min_size=1, max_size=5),
        st.integers(0, (1 << 20) - 1),
        st.integers(0, 2**63 - 1),
        st.integers(1, 2**40),
        st.text(max_size=8).filter(lambda word: word.isprintable()),
        st.none() | st.floats(0, 1, width=32),
    ),
    max_size=30,
)


@given(rows_of_lists)
@profile(deadline=None, database=None)
def test_a_list_comes_out_as_it_went_in(rows: Rows) -> None:
    before = table(rows)
    after, knowledge = opened(seal(before, {"services": {"tg": "ä"}}, AT, prove))
    assert after.columns() == before.columns()
    assert [after.at(*pair) for pair in after.pairs()] == [before.at(*pair) for pair in before.pairs()]
    assert knowledge == {"services": {"tg": "ä"}}


def test_the_head_says_what_is_behind_it() -> None:
    data = seal(table(), {}, AT, prove)
    head = read_head(data[:HEAD_BYTES], prove)
    assert (head.fetched_at, head.rows, head.total_bytes) == (AT, 3, len(data))


def test_no_byte_can_be_altered_added_or_left_out() -> None:
    data = seal(table(), {}, AT, prove)
    altered = [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in range(len(data))]
    for one in (*altered, *(data[:length] for length in range(len(data))), data + b"\0", data[1:]):
        with pytest.raises(Unusable):
            opened(one)


@given(st.binary(max_size=400))
@profile(deadline=None, database=None)
def test_whatever_is_found_is_refused_without_harm(found: bytes) -> None:
    with pytest.raises(Unusable):
        opened(found)
    with pytest.raises(Unusable):
        read_trouble(found, prove)


def test_who_has_not_the_key_cannot_make_one() -> None:
    with pytest.raises(Unusable):
        opened(seal(table(), {}, AT, forge))
    with pytest.raises(Unusable):
        read_trouble(seal_trouble("status 500", AT, forge), prove)


def test_a_good_body_behind_the_head_of_another_list_is_refused() -> None:
    """Cheaper by a tenth, as long, and whole: only the digest tells."""
    ours = seal(table([("tg", 6, 100_000, 5, "", None)]), {}, AT, prove)
    others = (seal(table([("tg", 6, cost, 5, "", None)]), {}, AT, prove) for cost in range(90_000, 100_000))
    cheaper = next(one for one in others if len(one) == len(ours))
    with pytest.raises(Unusable):
        opened(ours[:HEAD_BYTES] + cheaper[HEAD_BYTES:])


def test_another_upstream_or_currency_is_refused() -> None:
    data = seal(table(), {}, AT, prove)
    for upstream, currency in (("two", "USD"), ("one", "EUR")):
        with pytest.raises(Unusable):
            opened(data, upstream, currency)


def test_a_trouble_is_no_list_and_a_list_no_trouble() -> None:
    assert read_trouble(seal_trouble("status 500", AT, prove), prove) == ("status 500", AT)
    with pytest.raises(Unusable):
        read_trouble(seal(table(), {}, AT, prove), prove)
    with pytest.raises(Unusable):
        opened(seal_trouble("x" * 200, AT, prove))


def test_a_long_reason_is_cut_to_what_is_read() -> None:
    said = seal_trouble("ü" * 5000, AT, prove)
    assert len(said) <= snapshots.TROUBLE_BYTES_MAX
    assert read_trouble(said, prove)[0] == "ü" * snapshots.REASON_LETTERS_MAX


def test_another_format_is_refused_even_with_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "FORMAT", snapshots.FORMAT + 1)
    data, said = seal(table(), {}, AT, prove), seal_trouble("status 500", AT, prove)
    monkeypatch.undo()
    with pytest.raises(Unusable):
        opened(data)
    with pytest.raises(Unusable):
        read_trouble(said, prove)


def behind(head: Head, body: bytes) -> Head:
    """The head for another body, as if it had been proved: what is behind it is checked all the same."""
    return Head(head.raw, head.fetched_at, head.rows, head.facts_bytes, len(body), sha256(body).digest())


def test_what_is_behind_a_good_head_is_checked_all_the_same() -> None:
    """A process of ours that went wrong has the key, too."""
    data = seal(table(), {}, AT, prove)
    head, body = read_head(data[:HEAD_BYTES], prove), data[HEAD_BYTES:]
    rng = random.Random(1)
    for _ in range(300):
        place = rng.randrange(len(body))
        broken = body[:place] + rng.randbytes(rng.randrange(1, 6)) + body[place + rng.randrange(6) :]
        try:
            found, _ = unpack(behind(head, broken), broken, "one", "USD")
        except Unusable:
            continue
        assert all(found.at(*pair) for pair in found.pairs())


@pytest.mark.parametrize(
    "facts",
    [
        b"[]",
        b"7",
        b"{}",
        b"{" * 50_000,
        b"\xff",
        b'{"upstream":"one","currency":"USD","words":7,"knowledge":{}}',
        b'{"upstream":"one","currency":"USD","words":[],"knowledge":{}}',
        b'{"upstream":"one","currency":"USD","words":["",7],"knowledge":{}}',
        b'{"upstream":"one","currency":"USD","words":["x"],"knowledge":{}}',
        b'{"upstream":"one","currency":"USD","words":[""],"knowledge":[]}',
        b'{"upstream":"one","currency":"USD","words":[""]}',
    ],
    ids=range(11),
)
def test_facts_of_another_kind_are_refused(facts: bytes) -> None:
    body = zlib.compress(facts)
    head = Head(b"", AT, 0, len(facts), len(body), sha256(body).digest())
    with pytest.raises(Unusable):
        unpack(head, body, "one", "USD")


def test_a_small_body_cannot_become_a_large_one() -> None:
    data = seal(table([("tg", 6, 1, 1, "", None)] * 100_000), {}, AT, prove)
    head, body = read_head(data[:HEAD_BYTES], prove), data[HEAD_BYTES:]
    short = Head(head.raw, head.fetched_at, 1, head.facts_bytes, head.body_bytes, head.digest)
    with pytest.raises(Unusable):
        unpack(short, body, "one", "USD")


def test_more_than_any_list_holds_is_refused_by_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    data = seal(table(), {}, AT, prove)
    monkeypatch.setattr(snapshots, "ROWS_MAX", 2)
    with pytest.raises(Unusable):
        read_head(data[:HEAD_BYTES], prove)


def key(service: bytes, country: int) -> bytes:
    return struct.pack("=Q", (country << 40) | int.from_bytes(service.rjust(5, b"\0"), "big"))


GOOD = Columns(
    ("", "mts"),
    key(b"tg", 6) + key(b"wa", 6),
    array("q", [1, 2]).tobytes(),
    array("i", [1, 2]).tobytes(),
    array("I", [0, 1]).tobytes(),
    array("f", [-1.0, 1.0]).tobytes(),
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": key(b"wa", 6) + key(b"tg", 6)},
        {"keys": key(b"tg", 6) + key(b"", 7)},
        {"keys": key(b"tg", 6) + key(b"w\xe4", 6)},
        {"keys": key(b"tg", 6) + key(b"tg", 1 << 20)},
        {"keys": key(b"tg", 6)},
        {"keys": GOOD.keys + b"x"},
        {"keys": key(b"tg", 6) * 2, "costs": array("q", [2, 1]).tobytes()},
        {"costs": array("q", [-1, 2]).tobytes()},
        {"counts": array("i", [1, 0]).tobytes()},
        {"operators": array("I", [0, 2]).tobytes()},
        {"rates": array("f", [0.0, 1.5]).tobytes()},
        {"rates": array("f", [float("nan"), 0.5]).tobytes()},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_columns_that_no_list_has_are_refused(wrong: dict[str, bytes]) -> None:
    assert len(OfferTable.of_columns("one", "USD", GOOD)) == 2
    with pytest.raises(ValueError, match=r"\w"):
        OfferTable.of_columns("one", "USD", GOOD._replace(**wrong))  # type: ignore[arg-type]


def test_every_row_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those where one step of the check ends and the next one begins."""
    monkeypatch.setattr("gateway.upstream.CHECKED_TOGETHER", 4)
    good = table([("tg", country, country, 1, "", None) for country in range(17)]).columns()
    assert len(OfferTable.of_columns("one", "USD", good)) == 17
    for place in range(17):
        counts = array("i", good.counts)
        counts[place] = 0
        with pytest.raises(ValueError, match="rows"):
            OfferTable.of_columns("one", "USD", good._replace(counts=counts.tobytes()))
    for place in range(16):
        keys = array("Q", good.keys)
        keys[place] = keys[-1] + 1
        with pytest.raises(ValueError, match="rows"):
            OfferTable.of_columns("one", "USD", good._replace(keys=keys.tobytes()))
