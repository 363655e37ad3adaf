"""Hands SMS of your own SIM cards to the gateway: for gammu-smsd and for SMS Server Tools 3.

This file needs Python 3.8 or later and nothing else. It can be copied to the machine with the modem and run there:

    # gammu-smsdrc
    RunOnReceive = python3 /opt/forward.py gammu --url https://sms.example.com/… --secret-file /etc/forward.key
                   --spool /var/spool/forward --own-number +447700900123

    # smsd.conf; the file is `exec python3 /opt/forward.py smstools --url … --secret-file … --spool … "$@"`
    eventhandler = /usr/local/bin/forward-sms

(on one line; smsd wants the path of a program, so it gets a script. `simroute forward` is the same). The address is
that of the gateway's generic inbound format, the key file holds that format's secret. Both programs append what they
have to say: gammu ids beside an environment, the Tools an event and a file.

Every message is first written to the spool, then everything in the spool is posted, oldest first, and what was taken
is removed. Without a connection it stays there, and goes with the next message or with `flush`, which belongs into a
timer. A message keeps its id however often it is posted, so the gateway takes it once. The signature is made anew each
time, since it holds the time; keep the clock right.

The own number is not part of what these programs tell. `--own-number` names it where there is one; `--own-numbers` is a
file of lines `PhoneID = number` (gammu), `modem = number` or `IMSI = number` (the Tools). Without either, the PhoneID
or the modem is sent in the place of the number, for the gateway to look up.

gammu-smsd needs a UTF-8 locale (`LC_ALL=C.UTF-8`): in others it turns what is not ASCII into question marks itself.

Exit codes:

    0  everything was taken, or there was nothing to do
    2  wrong arguments or settings; a message that could be read was posted or is in the spool all the same
    3  not everything was taken: it is in the spool, for the next run
    4  the gateway called a message senseless: it is in `refused` in the spool, and the others went on
    5  a message could be neither spooled (disk, limit) nor posted: gammu and the Tools still have their own copy

Facts: `protocol/upstreams/inbound_sms.md` §5 (signature), §7 (gammu), §8 (Tools), §9.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

try:
    import fcntl
except ImportError:  # not a Unix: two runs at once may both post a message, which the gateway takes once
    fcntl = None  # type: ignore[assignment]

DONE, MISCONFIGURED, KEPT, REFUSED, NOT_KEPT = 0, 2, 3, 4, 5

SPOOL_MAX = 10_000
RUN_SECONDS = 60.0
"""gammu waits for about two minutes."""

POST_SECONDS = 15.0
LOCK_STEP_SECONDS = 0.1

_SENSELESS = frozenset({400, 413, 422})
"""The gateway read the message and will never take it. Anything else (key, clock, address, limit) may be set right."""

_NUMBER = re.compile(r"\+?[0-9]{3,20}")
_UNFIT_FOR_A_DEVICE = re.compile(r"[^\x21-\x7e]+")
_ALPHABETS = {
    "ISO": "iso8859-15",  # what the Tools mean by it: Latin-9, with a euro sign
    "LATIN": "iso8859-15",
    "ANSI": "iso8859-15",
    "GSM": "iso8859-15",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UCS2": "utf-16-be",
    "UCS": "utf-16-be",
    "UNICODE": "utf-16-be",
}


class Mistake(Exception):
    """Something a person has to set right; the message is fit for a log."""


class SpoolFull(OSError):
    """As many messages wait as may."""


class Settings(NamedTuple):
    url: str
    secret_file: Path
    spool: Path
    own_number: str
    own_numbers: Path | None
    spool_max: int
    deadline: float


class Message(NamedTuple):
    """One SMS. `places` are the names under which the own number may be listed, the best first."""

    id: str
    places: tuple[str, ...]
    sender: str
    text: str
    received_at: str


# --- gammu-smsd -------------------------------------------------------------------------------------------------------


def from_gammu(environment: Mapping[bytes, bytes], ids: Sequence[str], now: float) -> Message:
    """The message gammu-smsd tells of. Raises Mistake where there is none."""
    told = _Environment(environment)
    sender = told.first("SMS_{}_NUMBER")
    decoded, parts = told.all("DECODED_{}_TEXT", "DECODED_PARTS"), told.all("SMS_{}_TEXT", "SMS_MESSAGES")
    if not decoded and not parts:
        raise Mistake("no message in the environment: to be run by gammu-smsd")
    text = "".join(decoded or parts)
    place = told.get("PHONE_ID")
    seen = tuple(ids) or (str(now),)
    return Message(_identity("gammu", place, sender, text, *seen), (place,), sender, text, _utc(now))


class _Environment:
    """Bytes, since the locale this runs under says nothing of the one gammu wrote them in."""

    def __init__(self, variables: Mapping[bytes, bytes]) -> None:
        self._variables = variables

    def get(self, name: str) -> str:
        return self._variables.get(name.encode(), b"").decode("utf-8", "replace")

    def first(self, pattern: str) -> str:
        return next((value for number in (0, 1) if (value := self.get(pattern.format(number)))), "")

    def all(self, pattern: str, count_name: str) -> list[str]:
        """Counted from 1 as the manual says, or from 0, as some builds may."""
        count = self.get(count_name)
        if not re.fullmatch("[1-9][0-9]{0,2}", count):
            return []
        names = (pattern.format(number) for number in range(int(count) + 1))
        return [self.get(name) for name in names if name.encode() in self._variables]


# --- SMS Server Tools 3 -----------------------------------------------------------------------------------------------


def from_smstools(path: Path, now: float) -> Message | None:
    """The message in a file of the incoming folder; None where it is no text. Raises Mistake."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Mistake(f"the incoming file can't be read ({type(error).__name__})") from None
    headers, body = _parted(content)
    if "from" not in headers:
        raise Mistake("the incoming file has no From header")
    alphabet = headers.get("alphabet", "ISO").upper()
    if alphabet not in _ALPHABETS:
        return None  # binary: a picture, a setting, anything but a text
    text = _decoded(body, _ALPHABETS[alphabet])
    places = tuple(headers[name] for name in ("imsi", "subject") if headers.get(name))
    stamp = headers.get("received", "")
    identity = _identity("smstools", path.name, headers["from"], stamp, text)
    return Message(identity, places, _sender(headers), text, _utc(_local_time(stamp, now)))


def _parted(content: bytes) -> tuple[dict[str, str], bytes]:
    """Header lines up to the first empty one, and the rest as it is."""
    head, body = [*re.split(rb"\r?\n\r?\n", content, maxsplit=1), b""][:2]
    lines = head.decode("utf-8", "replace").splitlines()
    fields = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in fields}, body


def _decoded(body: bytes, encoding: str) -> str:
    if encoding != "utf-16-be":
        return body.decode(encoding, "replace").rstrip("\r\n")
    whole = body[: len(body) // 2 * 2]
    return whole.decode(encoding, "replace").lstrip("\ufeff").rstrip("\r\n")


def _sender(headers: Mapping[str, str]) -> str:
    """With its plus sign where the type of address (91) says that it is an international number."""
    sender = headers["from"]
    is_international = headers.get("from_toa", "").startswith("91")
    return f"+{sender}" if is_international and sender.isascii() and sender.isdigit() else sender


def _local_time(stamp: str, now: float) -> float:
    """`YY-MM-DD HH:MM:SS` by this machine's clock, or now."""
    try:
        return time.mktime(time.strptime(stamp, "%y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        return now


# --- the message on the wire ------------------------------------------------------------------------------------------


def body_of(message: Message, own: str) -> bytes:
    """The JSON the gateway takes; where the own number is unknown, it names the device instead."""
    device = _UNFIT_FOR_A_DEVICE.sub("_", next(iter(message.places[-1:]), ""))[:128] or "modem"
    data = {
        "id": message.id,
        **({"to": own} if own else {"device": device}),
        "from": message.sender,
        "text": message.text,
        "received_at": message.received_at,
    }
    return json.dumps(data, separators=(",", ":")).encode()


def own_number(places: Sequence[str], settings: Settings) -> str:
    """Empty where it is not known. Raises Mistake where the list is unreadable."""
    listed = _listed_numbers(settings.own_numbers) if settings.own_numbers else {}
    return next((listed[place] for place in places if place in listed), settings.own_number)


def _listed_numbers(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise Mistake(f"the list of own numbers can't be read ({type(error).__name__})") from None
    found = {}
    for place, line in enumerate(lines, 1):
        name, _, number = (part.strip() for part in line.partition("#")[0].partition("="))
        if not name and not number:
            continue
        if not name or not _NUMBER.fullmatch(number):
            raise Mistake(f"line {place} of the list of own numbers is not `name = number`")
        found[name] = number
    return found


def _identity(*parts: str) -> str:
    """The same for the same message, however often it is told."""
    told = "\0".join(parts).encode("utf-8", "surrogatepass")
    return f"{parts[0]}-{hashlib.sha256(told).hexdigest()[:32]}"


def _utc(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def signature(secret: bytes, body: bytes, stamp: str) -> str:
    """The hex HMAC-SHA256 of the body followed by the time stamp."""
    return hmac.new(secret, body + stamp.encode(), hashlib.sha256).hexdigest()


def read_secret(path: Path) -> bytes:
    """Raises Mistake."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise Mistake(f"the key file can't be read ({type(error).__name__})") from None
    if not secret:
        raise Mistake("the key file is empty")
    return secret


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would go on as a GET."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def post(url: str, secret: bytes, body: bytes, seconds: float) -> int:
    """The status of the answer, 0 where there was none."""
    stamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "simroute-forward",
        "X-Timestamp": stamp,
        "X-Signature": signature(secret, body, stamp),
    }
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - checked to be http or https
    try:
        with _OPENER.open(request, timeout=seconds) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError) as error:
        _say(f"not connected ({type(getattr(error, 'reason', error)).__name__})")
    except Exception as error:  # http.client has errors of its own: a broken answer is no answer
        _say(f"no answer ({type(error).__name__})")
    return 0


# --- the spool --------------------------------------------------------------------------------------------------------


class Spool:
    """Messages as files, in the order of their names, which begin with the time they came at.

    A file appears whole or not at all, and survives a loss of power from then on.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._refused = directory / "refused"
        self._limit = limit

    def keep(self, body: bytes) -> None:
        """Raises OSError; SpoolFull where there is no room."""
        self._refused.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(self.waiting()) >= self._limit:
            raise SpoolFull("the spool is full")
        name = f"{time.time_ns():020d}-{os.getpid()}"
        unfinished, finished = self._directory / f".{name}", self._directory / f"{name}.json"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(finished)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        self._settle()

    def _settle(self) -> None:
        """Makes the new name itself last, where the system can."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY)
        except OSError:
            return
        with suppress(OSError):
            os.fsync(descriptor)
        os.close(descriptor)

    def waiting(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._directory.glob("*.json"))

    def set_aside(self, path: Path) -> None:
        """Keeps a message that will never be taken, for a person to look at; the oldest of too many go."""
        path.replace(self._refused / path.name)
        for old in sorted(self._refused.glob("*.json"))[: -self._limit]:
            old.unlink(missing_ok=True)

    @contextmanager
    def claimed(self, deadline: float) -> Iterator[bool]:
        """True once no other run is posting; false where one was until the deadline."""
        if fcntl is None:
            yield True
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._directory / ".lock", "wb") as lock:
            yield _locked(lock.fileno(), deadline)


def _locked(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(LOCK_STEP_SECONDS)


# --- a run ------------------------------------------------------------------------------------------------------------


def forward(message: Message, settings: Settings) -> int:
    """Keeps the message, then posts what is kept. A wrong list of numbers loses no message. Raises Mistake."""
    try:
        own, listed = own_number(message.places, settings), DONE
    except Mistake as mistake:
        _say(str(mistake))
        own, listed = settings.own_number, MISCONFIGURED
    return _forward_body(body_of(message, own), settings) or listed


def _forward_body(body: bytes, settings: Settings) -> int:
    try:
        Spool(settings.spool, settings.spool_max).keep(body)
    except OSError as error:
        _say(f"the spool takes no message ({type(error).__name__})")
        return _forward_unkept(body, settings)
    return flush(settings)


def _forward_unkept(body: bytes, settings: Settings) -> int:
    """Older ones first, where they can be read at all: that may make room, too."""
    secret = read_secret(settings.secret_file)
    with suppress(OSError):
        flush(settings)
    status = post(settings.url, secret, body, POST_SECONDS)
    return DONE if 200 <= status < 300 else NOT_KEPT


def flush(settings: Settings) -> int:
    """Posts what is in the spool, oldest first, until it is empty or something is in the way. Raises Mistake."""
    spool = Spool(settings.spool, settings.spool_max)
    secret = read_secret(settings.secret_file)
    outcome = DONE
    with spool.claimed(settings.deadline) as is_mine:
        while is_mine and (waiting := spool.waiting()):
            for path in waiting:
                status = _post_file(path, secret, settings)
                if 200 <= status < 300:
                    path.unlink()
                elif status in _SENSELESS:
                    _say(f"the gateway refused a message (status {status})")
                    spool.set_aside(path)
                    outcome = REFUSED
                else:
                    _say(f"{len(spool.waiting())} messages wait (status {status})")
                    return KEPT
    return outcome if is_mine else KEPT


def _post_file(path: Path, secret: bytes, settings: Settings) -> int:
    seconds = min(POST_SECONDS, settings.deadline - time.monotonic())
    return post(settings.url, secret, path.read_bytes(), seconds) if seconds > 0 else 0


def _say(words: str) -> None:
    """To the log of whoever runs this: never a number, a text or a key."""
    sys.stderr.write(f"forward: {words}\n")


# --- arguments --------------------------------------------------------------------------------------------------------


def parser(program: str = "forward.py") -> argparse.ArgumentParser:
    """The arguments, also for the command line of the gateway."""
    whole = argparse.ArgumentParser(program, description="Hands SMS of your own SIM cards to the gateway.")
    kinds = whole.add_subparsers(dest="kind", required=True)
    gammu = kinds.add_parser("gammu", help="run by gammu-smsd (RunOnReceive)")
    tools = kinds.add_parser("smstools", help="run by SMS Server Tools 3 (eventhandler)")
    timer = kinds.add_parser("flush", help="post what is in the spool")
    for one in (gammu, tools, timer):
        one.add_argument("--url", required=True, type=_address, help="the gateway's generic inbound address")
        one.add_argument("--secret-file", required=True, type=Path, help="a file with the shared secret")
        one.add_argument("--spool", required=True, type=Path, help="a folder of its own for messages not yet taken")
        one.add_argument("--spool-max", type=_positive, default=SPOOL_MAX, help="as many messages may wait")
        one.add_argument("--seconds", type=float, default=RUN_SECONDS, help="how long one run may take")
    for one in (gammu, tools):
        one.add_argument("--own-number", type=_number, help="the number of the SIM card")
        one.add_argument("--own-numbers", type=Path, help="a file of lines `PhoneID, modem or IMSI = number`")
    gammu.add_argument("ids", nargs="*", help="appended by gammu-smsd")
    tools.add_argument("event", help="SENT, RECEIVED, FAILED, REPORT or CALL; appended by the Tools")
    tools.add_argument("file", type=Path, help="likewise")
    tools.add_argument("rest", nargs="*", help="likewise")
    return whole


def _address(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise argparse.ArgumentTypeError("must begin with https:// or http://")
    return text


def _number(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError("must be a number such as +447700900123")
    return text


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


def run(given: argparse.Namespace) -> int:
    """What the arguments ask for; the exit code."""
    settings = Settings(
        url=given.url,
        secret_file=given.secret_file,
        spool=given.spool,
        own_number=getattr(given, "own_number", None) or "",
        own_numbers=getattr(given, "own_numbers", None),
        spool_max=given.spool_max,
        deadline=time.monotonic() + given.seconds,
    )
    try:
        message = _message(given)
        return flush(settings) if message is None else forward(message, settings)
    except Mistake as mistake:
        _say(str(mistake))
        return MISCONFIGURED
    except OSError as error:  # of the spool: what is in it stays there
        _say(f"the spool can't be used ({type(error).__name__})")
        return KEPT


def _message(given: argparse.Namespace) -> Message | None:
    """None where there is only the spool to look after. Raises Mistake."""
    if given.kind == "gammu":
        return from_gammu(_environment(), given.ids, time.time())
    if given.kind == "smstools" and given.event == "RECEIVED":
        return from_smstools(given.file, time.time())
    return None


def _environment() -> Mapping[bytes, bytes]:
    if os.supports_bytes_environ:
        return os.environb
    return {name.encode(): value.encode("utf-8", "replace") for name, value in os.environ.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    return run(parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
