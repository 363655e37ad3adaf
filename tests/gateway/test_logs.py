"""What can't reach a log, whoever writes the line."""

from __future__ import annotations

import jwt
import pytest
from argon2 import PasswordHasher

from gateway.logs import redact
from gateway.vault import new_api_key

TOKEN = jwt.encode({"sub": "7", "jti": "x" * 20}, "s" * 32, algorithm="HS256")
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse battery")
SECRETS = [TOKEN, HASH, new_api_key(), "+447700900123"]


@pytest.mark.parametrize("secret", SECRETS, ids=("token", "hash", "key", "number"))
@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "x={}&y=1",
        "'authorization': 'Bearer {}'",
        '{{"error": "{}"}}',
        "Bearer {} no",
        "next=%2Fx%3Fk%3D{}%26a%3D1",
    ],
)
def test_a_secret_is_blotted_out_wherever_it_stands(secret: str, line: str) -> None:
    redacted = redact(line.format(secret))
    assert secret not in redacted
    assert all(len(part) < 16 or part not in redacted for part in secret.replace("$", ".").split("."))


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("ACCESS_NUMBER:5:79991234567", "79991234567"),
        ('{"phone":79991234567}', "79991234567"),
        ("sent to 79991234567.", "79991234567"),
        ("79991234567: no route", "79991234567"),
        ("connect to postgresql://gate:horse-staple@db/simroute", "horse-staple"),
        ("redis://:horse/staple@cache:6379/0", "staple"),
        ("amqps://u:horse@h, https://h/p", "horse"),
        ("Authorization: Bearer horse.battery-staple", "horse"),
        ("{'authorization': 'Basic aG9yc2U6c3RhcGxl'}", "aG9yc2U6c3RhcGxl"),
        ("sent Bearer horse-battery-staple", "horse"),
        ("whsec_aG9yc2U6c3RhcGxl+/==", "aG9yc2U"),
    ],
)
def test_a_secret_is_known_by_what_stands_around_it(line: str, secret: str) -> None:
    assert secret not in redact(line)


def test_a_password_by_its_name_is_blotted_out() -> None:
    assert "horse" not in redact('{"password": "horse-battery-staple"}')


@pytest.mark.parametrize(
    "line",
    [
        "session.opened user=7 role=operator at=2025-06-01T12:00:00Z",
        "listening on http://127.0.0.1:8000, see https://example.org/a:b@c",
        "took 1750000000.25 s, 4f1e0a9c-1750000000-aa, v1:1234567890ab",
        "bearer of bad news: basic trouble",
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert redact(line) == line
