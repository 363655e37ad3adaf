"""Structured logs that can't give a secret away: whatever a line holds, it is redacted as it is written."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

QUIET = (
    "httpx",
    "httpcore",
    "aiohttp",
    "asyncio",
    "alembic",
    "sqlalchemy",
    "psycopg",
    "psycopg.pool",
    "uvicorn.access",
)
"""Libraries that log addresses with keys in them, or nothing an operator needs below a warning."""

_SECRET = re.compile(
    r"(?P<name>(?:api_?key|token|secret|password|authorization|bearer)[\"']?\s*[=:]\s*[\"']?)"
    r"(?:(?:bearer|basic|token)\s+)?[^\s&\"',;}]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<name>\b(?:bearer|basic)\s+)[\w+/~.-]{12,}=*", re.IGNORECASE)
_PASSWORD = re.compile(r"(?P<name>\b[a-z][a-z0-9+.-]*://[^\s:/@\"']*:)[^\s@\"']+(?=@)", re.IGNORECASE)
_SIGNING = re.compile(r"whsec_[\w+/=-]+")
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_HASH = re.compile(r"\$argon2\w+\$[^\s\"']+")
# What stands before a value in an address may be written as %3D or %2B.
_KEY = re.compile(r"(?:(?<=%[0-9A-Fa-f]{2})|(?<![A-Za-z0-9]))[A-Za-z0-9]{32}(?![A-Za-z0-9])")
_NUMBER = re.compile(r"(?:(?<=%[0-9A-Fa-f]{2})|(?<![\w.-]))\+?\d{10,15}(?![\w-]|[.:]\d)")


def redact(line: str) -> str:
    """The line with API keys, tokens, secrets, passwords, their hashes and phone numbers blotted out."""
    line = _HASH.sub("[hash]", _TOKEN.sub("[token]", line))
    line = _PASSWORD.sub(r"\g<name>[secret]", _SIGNING.sub("[secret]", line))
    line = _BEARER.sub(r"\g<name>[secret]", line)
    return _NUMBER.sub("[number]", _KEY.sub("[key]", _SECRET.sub(r"\g<name>[secret]", line)))


def _redacted(_logger: Any, _method: str, line: Any) -> str:
    return redact(str(line))


class _Lossy:
    """Standard error, where a line that can't be written is lost: a full disk must not end what was about to go on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def configure(level: str, form: str) -> None:
    """Sets up structlog and the standard library's logging alike, to standard error.

    `level` is debug, info, warning or error; `form` is console, json, or auto (console on a terminal).
    """
    stream = _Lossy(sys.stderr)
    is_console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if is_console
        else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    exceptions: list[Any] = [] if is_console else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *exceptions, renderer, _redacted],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, stream)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer, _redacted],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
