"""Secrets: what seals numbers and messages, what makes digests, and where a first start gets them from."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_LENGTH = 32
KEY_ALPHABET = string.ascii_letters + string.digits
SECRET_NAMES = ("API_KEY_SALT", "DATA_ENCRYPTION_KEYS", "INDEX_KEY", "JWT_SECRET_KEY", "WEBHOOK_SECRET")
SESSION_SECRET_NAME = "JWT_SECRET_KEY"  # noqa: S105 — the name of one
SECRET_LENGTH_MIN = 32


class SecretsError(Exception):
    """Secrets are missing or malformed; the message says which, and what to do. It never holds a value."""


@dataclass(frozen=True)
class Secrets:
    """The five secrets, as text. Never in a repr.

    `api_key_salt` may be a list, `2:newer,1:older`: the first makes digests, all are tried in look-ups. `index_key` may
    carry a version, `1:key`; it is one key for good, since what it digested can't be read back and digested again.
    `data_encryption_keys` is a list too, newest first; old ones still open what they sealed. So is `jwt_secret_key`,
    which may be empty: then nobody can sign in.
    """

    api_key_salt: str = field(repr=False)
    data_encryption_keys: str = field(repr=False)
    index_key: str = field(repr=False)
    jwt_secret_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)


def read_secrets(environment: Mapping[str, str]) -> Secrets:
    """The secrets of an environment. Raises SecretsError naming each that is absent or too short."""
    values = {name: environment.get(name, "").strip() for name in SECRET_NAMES}
    problems = [name for name, value in values.items() if _is_short(name, value)]
    if problems:
        raise SecretsError(f"{', '.join(problems)}: missing, or shorter than {SECRET_LENGTH_MIN} characters")
    return Secrets(**{name.lower(): value for name, value in values.items()})


def _is_short(name: str, value: str) -> bool:
    if name == SESSION_SECRET_NAME:
        return any(len(part) < SECRET_LENGTH_MIN for part in listed(value))
    return len(value) < SECRET_LENGTH_MIN


def listed(text: str) -> Sequence[str]:
    """The parts of a list of secrets, newest first."""
    return [part.strip() for part in text.split(",") if part.strip()]


def create_secrets(path: Path) -> None:
    """Writes fresh secrets to `path`, readable by its owner only. Raises FileExistsError: none is ever replaced."""
    values = {name: secrets.token_urlsafe(32) for name in SECRET_NAMES}
    values["DATA_ENCRYPTION_KEYS"] = Fernet.generate_key().decode()
    lines = [
        "# Made for the database beside this file. Without them its numbers and messages can't be read: back both up."
    ]
    lines += [f"{name}={value}" for name, value in values.items()]
    write_private(path, "\n".join(lines) + "\n")


def write_private(path: Path, text: str) -> None:
    """Creates a file of mode 0600 that must not exist yet."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_secrets_file(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of a secrets file; empty where there is none."""
    if not path.exists():
        return {}
    pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def new_api_key() -> str:
    """32 of `[A-Za-z0-9]`, as the original's: one client refuses any other length."""
    return "".join(secrets.choice(KEY_ALPHABET) for _ in range(KEY_LENGTH))


def _versions(text: str) -> Sequence[tuple[str, bytes]]:
    found = []
    for part in text.split(","):
        version, colon, value = part.strip().partition(":")
        found.append((version, value.encode()) if colon and version.isdigit() else ("1", part.strip().encode()))
    return found


def _fernet_key(key: str) -> bytes:
    """A key in Fernet's own form, or any long text, from which one is derived."""
    try:
        Fernet(key)
    except ValueError:
        return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())
    return key.encode()


def _fingerprint(key: bytes) -> str:
    """A name for a key, from which nothing follows; the same for every way of writing it."""
    return hmac.digest(base64.urlsafe_b64decode(key), b"simroute data key", "sha256").hex()[:12]


class Vault:
    """Seals, opens and digests. Its methods are pure and may be called from any thread."""

    def __init__(self, values: Secrets) -> None:
        self._salted = [
            (version, hmac.new(salt, digestmod="sha256")) for version, salt in _versions(values.api_key_salt)
        ]
        self._index = _versions(values.index_key)[0]
        data_keys = listed(values.data_encryption_keys)
        self._data_keys = tuple(key.encode() for key in data_keys)
        keys = [_fernet_key(key) for key in data_keys]
        self._fernets = {_fingerprint(key): Fernet(key) for key in keys}
        self._ring = MultiFernet(list(self._fernets.values()))
        self.fingerprints = tuple(self._fernets)
        """What the keys of the ring are called where their names are shown, newest first."""
        self.webhook_secret = values.webhook_secret.encode()
        self.session_secrets = [secret.encode() for secret in listed(values.jwt_secret_key)]

    def __repr__(self) -> str:
        return "Vault(…)"

    def key_digests(self, key: str) -> Sequence[str]:
        """Every digest under which an API key may be stored, the newest version first."""
        plain = key.encode("utf-8", "surrogatepass")
        return [f"{version}:{_continued(salted, plain)}" for version, salted in self._salted]

    def index_digest(self, purpose: str, value: str | bytes) -> str:
        """A digest to look things up by; the same value for another purpose has another digest."""
        version, key = self._index
        plain = value if isinstance(value, bytes) else value.encode()
        return f"{version}:{hmac.digest(key, f'{purpose}:'.encode() + plain, 'sha256').hex()}"

    def account_webhook_secret(self, account_id: int, version: int) -> bytes:
        """What signs an account's notices: follows from the deployment's, which does not follow from it.

        Version 0 is the deployment's itself.
        """
        if version == 0:
            return self.webhook_secret
        purpose = f"webhooks of account {account_id}, version {version}".encode()
        return HKDF(SHA256(), SECRET_LENGTH_MIN, salt=None, info=purpose).derive(self.webhook_secret)

    def derived_keys(self, purpose: str) -> Sequence[bytes]:
        """32 bytes made of each key of the ring, newest first; those for another purpose say nothing of them."""
        return [HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(key) for key in self._data_keys]

    def seal(self, plain: str) -> str:
        return self._ring.encrypt(plain.encode()).decode()

    def open(self, sealed: str) -> str:
        """What `seal` was given, and empty for what has been deleted since, which is empty itself.

        Raises SecretsError when no key of the ring fits.
        """
        if not sealed:
            return ""
        try:
            return self._ring.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise SecretsError("DATA_ENCRYPTION_KEYS holds no key that opens this database's data") from None

    def fingerprint_of(self, sealed: str) -> str | None:
        """The key that opens it; None where none of the ring does."""
        for fingerprint, fernet in self._fernets.items():
            try:
                fernet.decrypt(sealed.encode())
            except InvalidToken:
                continue
            return fingerprint
        return None

    def reseal(self, sealed: str) -> str | None:
        """The same under the newest key; None where it is already. Raises SecretsError when no key fits."""
        if self.fingerprint_of(sealed) == self.fingerprints[0]:
            return None
        try:
            return self._ring.rotate(sealed.encode()).decode()
        except InvalidToken:
            raise SecretsError("no key of the ring fits") from None


def _continued(begun: hmac.HMAC, value: bytes) -> str:
    """The digest of a value, by a key that is worked in already: half of what it costs, once for each request."""
    copied = begun.copy()
    copied.update(value)
    return copied.hexdigest()
