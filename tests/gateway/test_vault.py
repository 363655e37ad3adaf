"""Secrets: sealed text, digests that outlive a rotation, and where secrets come from."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from gateway.database import DatabaseError, open_database
from gateway.vault import (
    KEY_LENGTH,
    SECRET_NAMES,
    SESSION_SECRET_NAME,
    SecretsError,
    Vault,
    create_secrets,
    new_api_key,
    read_secrets,
    read_secrets_file,
)
from tests.harness import fresh_secrets

LONG = "x" * 40


def vault(**changes: str) -> Vault:
    return Vault(read_secrets({**fresh_secrets(), **changes}))


def test_what_is_sealed_opens_again_and_shows_nothing() -> None:
    box = vault()
    sealed = box.seal("your code is 12345")
    assert box.open(sealed) == "your code is 12345"
    assert "12345" not in sealed
    assert box.seal("your code is 12345") != sealed


def test_an_older_key_of_the_ring_still_opens() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = vault(DATA_ENCRYPTION_KEYS=old).seal("text")
    rotated = vault(DATA_ENCRYPTION_KEYS=f"{new},{old}")
    assert rotated.open(sealed) == "text"
    fresh = rotated.seal("text")
    assert vault(DATA_ENCRYPTION_KEYS=new).open(fresh) == "text"


def test_a_foreign_key_is_told_in_words() -> None:
    with pytest.raises(SecretsError, match="DATA_ENCRYPTION_KEYS"):
        vault().open(vault().seal("text"))


def test_what_was_deleted_opens_as_nothing() -> None:
    assert vault().open("") == ""


def test_a_value_is_brought_under_the_newest_key_once() -> None:
    old, new = Fernet.generate_key().decode(), LONG
    sealed = vault(DATA_ENCRYPTION_KEYS=old).seal("text")
    rotated = vault(DATA_ENCRYPTION_KEYS=f"{new},{old}")
    newest, oldest = rotated.fingerprints
    assert rotated.fingerprint_of(sealed) == oldest
    fresh = rotated.reseal(sealed)
    assert fresh is not None
    assert rotated.fingerprint_of(fresh) == newest
    assert rotated.reseal(fresh) is None
    assert vault(DATA_ENCRYPTION_KEYS=new).open(fresh) == "text"
    assert vault().fingerprint_of(sealed) is None
    with pytest.raises(SecretsError):
        vault().reseal(sealed)


def test_fingerprints_name_keys_and_tell_nothing_of_them() -> None:
    key = Fernet.generate_key().decode()
    one, same = vault(DATA_ENCRYPTION_KEYS=f"{key},{LONG}"), vault(DATA_ENCRYPTION_KEYS=f"{LONG},{key}")
    assert one.fingerprints == tuple(reversed(same.fingerprints))
    assert all(re.fullmatch("[0-9a-f]{12}", fingerprint) for fingerprint in one.fingerprints)


def test_any_long_text_serves_as_encryption_key() -> None:
    assert vault(DATA_ENCRYPTION_KEYS=LONG).open(vault(DATA_ENCRYPTION_KEYS=LONG).seal("text")) == "text"


def test_key_digests_survive_a_new_salt() -> None:
    key = new_api_key()
    stored = vault(API_KEY_SALT=LONG).key_digests(key)[0]
    rotated = vault(API_KEY_SALT=f"2:{'y' * 40},1:{LONG}")
    newest, older = rotated.key_digests(key)
    assert older == stored
    assert newest.startswith("2:")
    assert rotated.key_digests(new_api_key())[0] != newest


def test_index_digests_differ_by_purpose_and_by_key() -> None:
    box = vault(INDEX_KEY=LONG)
    assert box.index_digest("message:1", "a") == vault(INDEX_KEY=LONG).index_digest("message:1", "a")
    digests = {box.index_digest("message:1", "a"), box.index_digest("message:2", "a"), vault().index_digest("x", "a")}
    assert len(digests) == 3


def test_keys_are_32_letters_and_digits() -> None:
    keys = {new_api_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(re.fullmatch(r"[A-Za-z0-9]{32}", key) for key in keys)
    assert KEY_LENGTH == 32


def test_nothing_shows_a_secret() -> None:
    values = fresh_secrets()
    secrets = read_secrets(values)
    shown = repr(secrets) + repr(Vault(secrets)) + str(Vault(secrets))
    assert not any(value in shown for value in values.values())


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_missing_or_short_secret_is_named_without_its_value(name: str) -> None:
    # Without the secret of sessions nobody can sign in, and everything else works.
    for value in (LONG + ",short-but-telling",) if name == SESSION_SECRET_NAME else ("", "short-but-telling"):
        with pytest.raises(SecretsError) as refusal:
            read_secrets({**fresh_secrets(), name: value})
        assert name in str(refusal.value)
        assert "telling" not in str(refusal.value)


def test_the_secret_of_sessions_may_be_absent_or_several_newest_first() -> None:
    assert vault(JWT_SECRET_KEY="").session_secrets == []
    newer, older = "n" * 32, "o" * 32
    assert vault(JWT_SECRET_KEY=f"{newer}, {older},").session_secrets == [newer.encode(), older.encode()]


def test_created_secrets_are_complete_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    create_secrets(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = read_secrets_file(path)
    assert sorted(values) == sorted(SECRET_NAMES)
    Vault(read_secrets(values)).seal("works")
    with pytest.raises(FileExistsError):
        create_secrets(path)
    assert read_secrets_file(path) == values


def test_a_new_embedded_database_gets_secrets_and_an_old_one_never_new_ones(tmp_path: Path) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path}/simroute.db"}
    sealed = open_database(environment).vault.seal("text")
    assert open_database(environment).vault.open(sealed) == "text"
    (tmp_path / "secrets.env").rename(tmp_path / "elsewhere")
    with pytest.raises(SecretsError, match=re.escape(str(tmp_path / "secrets.env"))):
        open_database(environment)
    assert not (tmp_path / "secrets.env").exists()


def test_a_server_database_takes_its_secrets_from_the_environment_only(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match="With PostgreSQL every secret comes from the environment"):
        open_database({"DATABASE_URL": "postgresql://127.0.0.1:9/none"})
    with pytest.raises(DatabaseError, match="does not answer"):
        open_database({"DATABASE_URL": "postgresql://127.0.0.1:9/none", **fresh_secrets()})
