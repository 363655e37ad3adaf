"""Files sealed in chunks: read and written as a stream; whoever has the key knows them to be whole and unaltered.

    magic, length of the header (4 bytes), header, salt (16 bytes), chunks

Each file has a key of its own, derived from the one given and the salt. A chunk's nonce is its place and whether it is
the last one, and everything before the chunks is bound to each: a file that was cut short, put together anew or given
another header does not open.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK_BYTES = 256 * 1024
TAG_BYTES = 16
SALT_BYTES = 16
HEADER_BYTES_MAX = 4096
_LENGTH = struct.Struct(">I")


class NotWhole(Exception):
    """The file is not what was written, or another key sealed it."""


def write_sealed(target: BinaryIO, magic: bytes, header: bytes, key: bytes, plain: Iterable[bytes]) -> None:
    """Seals what `plain` yields. The header can be read by anybody."""
    salt = os.urandom(SALT_BYTES)
    prefix = magic + _LENGTH.pack(len(header)) + header + salt
    target.write(prefix)
    cipher = _cipher(key, salt)
    for place, (chunk, is_last) in enumerate(_chunks(plain)):
        target.write(cipher.encrypt(_nonce(place, is_last=is_last), chunk, prefix))


def read_header(source: BinaryIO, magic: bytes) -> bytes:
    """The header; nothing says yet that it is the one written. Raises NotWhole where this is no such file."""
    if source.read(len(magic)) != magic:
        raise NotWhole
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    if length > HEADER_BYTES_MAX:
        raise NotWhole
    return _exactly(source, length)


def read_sealed(source: BinaryIO, magic: bytes, key: bytes) -> Iterator[bytes]:
    """What was sealed, from the file's beginning. Raises NotWhole, be it after much was yielded."""
    header = read_header(source, magic)
    salt = _exactly(source, SALT_BYTES)
    prefix = magic + _LENGTH.pack(len(header)) + header + salt
    cipher = _cipher(key, salt)
    place, chunk = 0, source.read(CHUNK_BYTES + TAG_BYTES)
    while True:
        following = source.read(CHUNK_BYTES + TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(place, is_last=not following), chunk, prefix)
        except (InvalidTag, ValueError):  # ValueError: shorter than a tag
            raise NotWhole from None
        if not following:
            return
        place, chunk = place + 1, following


def _chunks(plain: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The same bytes in chunks of one size, the last with what is left; one empty chunk for nothing at all."""
    rest = bytearray()
    for piece in plain:
        rest += piece
        while len(rest) > CHUNK_BYTES:  # not at equal: it might be the last
            yield bytes(rest[:CHUNK_BYTES]), False
            del rest[:CHUNK_BYTES]
    yield bytes(rest), True


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=salt, info=b"sealed stream").derive(key))


def _nonce(place: int, *, is_last: bool) -> bytes:
    return place.to_bytes(11, "big") + bytes([is_last])


def _exactly(source: BinaryIO, length: int) -> bytes:
    found = source.read(length)
    if len(found) != length:
        raise NotWhole
    return found
