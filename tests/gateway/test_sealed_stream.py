"""Sealed files: what was written comes back, and nothing else ever does."""

from __future__ import annotations

import io

import pytest

from gateway.sealed_stream import CHUNK_BYTES, TAG_BYTES, NotWhole, read_header, read_sealed, write_sealed

MAGIC = b"a test\n"
KEY = b"k" * 32
SEALED_BYTES = CHUNK_BYTES + TAG_BYTES


def sealed(*pieces: bytes, header: bytes = b"{}") -> bytes:
    target = io.BytesIO()
    write_sealed(target, MAGIC, header, KEY, pieces)
    return target.getvalue()


def opened(file: bytes, key: bytes = KEY) -> bytes:
    return b"".join(read_sealed(io.BytesIO(file), MAGIC, key))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_was_sealed_comes_back(size: int) -> None:
    plain = bytes(index % 251 for index in range(size))
    pieces = [plain[start : start + 100_003] for start in range(0, size, 100_003)]
    file = sealed(*pieces, header=b'{"a":1}')
    assert opened(file) == plain
    assert read_header(io.BytesIO(file), MAGIC) == b'{"a":1}'
    assert plain[:64] not in file or size < 64


def test_the_same_content_never_looks_the_same() -> None:
    assert sealed(b"content") != sealed(b"content")


def test_any_byte_altered_is_found() -> None:
    file = sealed(b"content")
    for place in range(len(file)):
        altered = bytearray(file)
        altered[place] ^= 1
        with pytest.raises(NotWhole):
            opened(bytes(altered))


def test_any_end_missing_is_found() -> None:
    file = sealed(b"content")
    for length in range(len(file)):
        with pytest.raises(NotWhole):
            opened(file[:length])


def test_chunks_missing_at_the_end_swapped_or_repeated_are_found() -> None:
    file = sealed(b"a" * CHUNK_BYTES, b"b" * CHUNK_BYTES, b"c" * CHUNK_BYTES)
    start = len(file) - 3 * SEALED_BYTES
    prefix, parts = file[:start], [file[start + n * SEALED_BYTES :][:SEALED_BYTES] for n in range(3)]
    assert opened(prefix + b"".join(parts)) == opened(file)
    for order in ([0, 1], [0], [1, 0, 2], [0, 2], [0, 1, 1, 2], [0, 1, 2, 2], []):
        with pytest.raises(NotWhole):
            opened(prefix + b"".join(parts[place] for place in order))


def test_another_key_and_another_kind_of_file_do_not_open() -> None:
    with pytest.raises(NotWhole):
        opened(sealed(b"content"), b"x" * 32)
    with pytest.raises(NotWhole):
        opened(b"SQLite format 3\x00" + b"\x00" * 100)
