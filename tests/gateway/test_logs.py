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


def test_a_password_by_its_name_is_blotted_out() -> None:
    assert "horse" not in redact('{"password": "horse-battery-staple"}')


def test_what_is_no_secret_stays() -> None:
    line = "session.opened user=7 role=operator at=2025-06-01T12:00:00Z"
    assert redact(line) == line
