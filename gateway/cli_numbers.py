"""`simroute numbers`: the pool of an upstream that sells numbers of one's own, and the messages that came in for it.

Numbers are shown without their middle unless `--full` is said, texts not at all unless `--show-text` is. A command
takes a number, or the id that lists show. What is changed here holds for the next purchase, without a restart.
"""

from __future__ import annotations

import csv
import difflib
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gateway import audit, roster
from gateway.catalog import Catalog
from gateway.database import Database
from gateway.roster import NumbersError, NumberSpec, services_column, specify
from gateway.settings import Settings
from gateway.store import Row, Tx
from gateway.terminal import Context, common, moment, show, tell, with_database
from gateway.vault import Vault

ACTOR = "cli"
ADAPTER = "receive_sms"
COLUMNS = ("number", "country", "carrier", "source", "services", "device", "daily_cap", "enabled")
PROBLEMS_MAX = 50
HISTORY_MAX = 20

_WORDS = {"yes": 1, "true": 1, "1": 1, "on": 1, "": 1, "no": 0, "false": 0, "0": 0, "off": 0}
_SEPARATORS = re.compile(r"[\s+().-]")
_NUMBER = re.compile(r"[1-9]\d{6,14}", re.ASCII)
_SOURCE = re.compile(r"[a-z0-9_]{0,32}")
_DEVICE = re.compile(r"[\x21-\x7e]{1,128}")


@click.group("numbers")
def numbers_group() -> None:
    """Numbers of your own: SIM cards, modems, numbers rented from a carrier."""


# Filling the pool


@numbers_group.command("add")
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@click.option("--country", help="Country id or two letters, such as 16 or GB.")
@click.option("--carrier", help="The operator clients may ask for.")
@click.option("--source", help="Whose messages count, such as twilio or generic; any unless given.")
@click.option("--services", help="Codes it may be leased for, such as tg,wa; or those it may not, such as !go,!fb.")
@click.option("--device", help="Where the source tells no number: the phone's id and SIM, gammu's PhoneID, the modem.")
@click.option("--daily-cap", type=click.IntRange(1), help="Leases in 24 hours at most; else what the upstream says.")
@click.option("--upstream", "name", help="Whose pool, where there are several.")
@common
@click.pass_obj
def add(context: Context, /, numbers: tuple[str, ...], name: str | None, **options: Any) -> None:
    """Put numbers into the pool, or change those that are there."""
    given = {key: value for key, value in options.items() if value is not None}
    _put(context, name, [(f"number {number}", {"number": number, **given}) for number in numbers])


@numbers_group.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--upstream", "name", help="Whose pool, where there are several.")
@common
@click.pass_obj
def import_file(context: Context, file: Path, name: str | None) -> None:
    """Put the numbers of a file into the pool: all of them, or none and the reasons why.

    CSV with a header line, or TOML with a [[number]] table for each. Only `number` is needed everywhere, and `country`
    for new numbers: number, country, carrier, source, services, device, daily_cap, enabled. A column that is left out
    leaves numbers that are there as they are; an empty cell means the default.
    """
    _put(context, name, list(_read_toml(file) if file.suffix.lower() == ".toml" else _read_csv(file)))


def _put(context: Context, name: str | None, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    settings = context.settings()
    upstream = _pool_name(settings, name)

    async def write(database: Database) -> roster.Put:
        specs, now = _specs(database.vault, settings.catalog, entries), time.time()

        def unit(tx: Tx) -> roster.Put:
            done = roster.put(tx, upstream, specs, now)
            audit.note(tx, now, ACTOR, "numbers.put", f"upstream:{upstream}", **asdict(done))
            return done

        return await database.store.run(unit)

    try:
        done = with_database(context, write)
    except NumbersError as error:
        left = len(error.problems) - PROBLEMS_MAX
        more = [f"… and {left} more"] if left > 0 else []
        raise NumbersError([*error.problems[:PROBLEMS_MAX], *more, "nothing was changed"]) from None
    facts = {"upstream": upstream, "added": done.added, "changed": done.changed, "unchanged": done.unchanged}
    tell(context, facts, f"{upstream}: {done.added} added, {done.changed} changed, {done.unchanged} as they were")


def _pool_name(settings: Settings, name: str | None) -> str:
    pools = [known for known, stanza in settings.upstreams.items() if stanza.adapter == ADAPTER]
    if name is not None and name not in pools:
        raise NumbersError([f"there is no upstream {name} with the adapter {ADAPTER} in upstreams.toml"])
    if not pools:
        click.echo(f"no upstream sells these numbers yet: upstreams.toml needs a table [{ADAPTER}]", err=True)
    if name is None and len(pools) > 1:
        raise NumbersError([f"there are several pools: say --upstream and one of {', '.join(pools)}"])
    return name or (pools[0] if pools else ADAPTER)


# Files


def _read_csv(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each line under the header, with its place. Raises NumbersError for what can't be a list of numbers at all."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise NumbersError([f"{file}: not UTF-8"]) from None
    first = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    header = [cell.strip().lower() for cell in next(reader, [])]
    unknown = [_unknown_column(name) for name in header if name not in COLUMNS]
    if unknown or "number" not in header or len(set(header)) < len(header):
        reasons = unknown or ["the header needs a column number, and each column once"]
        raise NumbersError([f"{file}, line 1: {reason}" for reason in reasons])
    problems = []
    for cells in reader:
        place = f"line {reader.line_num}"
        if len(cells) > len(header):
            problems.append(f"{place}: {len(cells)} cells under a header of {len(header)}")
        elif any(cell.strip() for cell in cells) and not cells[0].startswith("#"):
            padded = [*cells, *[""] * (len(header) - len(cells))]
            yield place, dict(zip(header, padded, strict=True))
    if problems:
        raise NumbersError(problems)


def _unknown_column(name: str) -> str:
    near = difflib.get_close_matches(name, COLUMNS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no column {name!r}{hint} (known: {', '.join(COLUMNS)})"


def _read_toml(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = file.read_text(encoding="utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NumbersError([f"{file}: {error}"]) from None
    entries = data.get("number")
    if set(data) != {"number"} or not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise NumbersError([f"{file}: only [[number]] tables belong there"])
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*number\s*\]\]", line)]
    for place, entry in enumerate(entries):
        line = f"line {lines[place]}" if len(lines) == len(entries) else f"number {place + 1}"
        yield line, entry


# From words to values


def _specs(vault: Vault, catalog: Catalog, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[NumberSpec]:
    """Raises NumbersError with every problem there is."""
    specs, problems = [], []
    for place, entry in entries:
        try:
            specs.append(_spec(vault, catalog, place, entry))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise NumbersError(problems)
    return specs


def _spec(vault: Vault, catalog: Catalog, place: str, entry: Mapping[str, Any]) -> NumberSpec:
    unknown = [name for name in entry if name not in COLUMNS]
    if unknown:
        raise ValueError(_unknown_column(unknown[0]))
    number = _number(entry.get("number", ""))
    values: dict[str, Any] = {}
    if str(entry.get("country", "")).strip():
        values["country"] = _country(str(entry["country"]).strip(), catalog, number)
    if "carrier" in entry:
        values["carrier"] = re.sub(r"\s+", "_", str(entry["carrier"]).strip().lower())[:64]
    if "source" in entry:
        values["source"] = _matching(_SOURCE, str(entry["source"]).strip().lower(), "source")
    if "services" in entry:
        values["services"] = _services(entry["services"], catalog)
    if "device" in entry:
        device = str(entry["device"]).strip()
        values["device"] = _matching(_DEVICE, device, "device") if device else None
    if "daily_cap" in entry:
        values["daily_cap"] = _cap(str(entry["daily_cap"]).strip())
    if "enabled" in entry:
        values["is_enabled"] = _switch(str(entry["enabled"]).strip().lower())
    return specify(vault, number, place, values)


def _number(told: Any) -> str:
    number = _SEPARATORS.sub("", str(told)).removeprefix("00")
    if not _NUMBER.fullmatch(number):
        raise ValueError("a number has 7 to 15 digits and begins with its country's prefix")
    return number


def _country(word: str, catalog: Catalog, number: str) -> int:
    found = sorted(catalog.countries_of(word)) if word.isalpha() else [int(word)] if word.isdecimal() else []
    known = [one for one in found if one in catalog.countries]
    if not known:
        raise ValueError(f"there is no country {word!r} in the catalogue")
    if len(known) > 1:
        raise ValueError(f"{word.upper()} is more than one country: say one of {', '.join(map(str, known))}")
    prefix = catalog.country_prefix[known[0]]
    if not number.startswith(prefix):
        raise ValueError(f"a number of country {known[0]} begins with {prefix}")
    return known[0]


def _services(told: Any, catalog: Catalog) -> str:
    words = [str(word) for word in told] if isinstance(told, list) else re.split(r"[\s,;|]+", str(told))
    words = [word.strip().lower() for word in words if word.strip()]
    excepted = [word.lstrip("!-") for word in words if word.startswith(("!", "-"))]
    if excepted and len(excepted) < len(words):
        raise ValueError("services are either allowed (tg) or excepted (!tg), not both")
    codes = excepted or words
    unknown = [code for code in codes if code not in catalog.services]
    if unknown:
        raise ValueError(f"there is no service {unknown[0]!r} in the catalogue")
    return services_column(codes, is_except=bool(excepted))


def _matching(pattern: re.Pattern[str], value: str, name: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"no sensible {name}")
    return value


def _cap(word: str) -> int | None:
    if not word:
        return None
    if not (word.isascii() and word.isdigit() and 1 <= int(word) <= 100_000):
        raise ValueError("a daily cap is a whole number above nought")
    return int(word)


def _switch(word: str) -> int:
    if word not in _WORDS:
        raise ValueError("enabled is yes or no")
    return _WORDS[word]


# Looking at it


@numbers_group.command("list")
@click.option("--upstream", "name", help="Only this one's pool.")
@click.option("--country", type=int, help="Only of this country id.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Rows at most; JSON has them all.")
@click.option("--full", is_flag=True, help="Show whole numbers.")
@common
@click.pass_obj
def list_numbers(context: Context, name: str | None, country: int | None, limit: int, full: bool) -> None:
    """Every number with its state."""
    now = time.time()

    async def read(database: Database) -> list[dict[str, Any]]:
        found = await database.store.read(roster.overview, name, country, now)
        return [_shown(database.vault, row, now, full=full) for row in found]

    rows = with_database(context, read)
    columns = ("id", "upstream", "number", "country", "carrier", "source", "services", "state", "open", "day", "used")
    show(context, rows if context.is_json else rows[:limit], columns)
    if len(rows) > limit and not context.is_json:
        click.echo(f"… and {len(rows) - limit} more", err=True)


def _shown(vault: Vault, row: Row, now: float, *, full: bool) -> dict[str, Any]:
    cap = f"/{row['daily_cap']}" if row["daily_cap"] is not None else ""
    return {
        "id": row["id"],
        "upstream": row["upstream"],
        "number": masked(vault.open(row["number_sealed"]), full=full),
        "country": row["country"],
        "carrier": row["carrier"] or None,
        "source": row["source"] or None,
        "services": services_words(row["services"]) or None,
        "device": row["device"],
        "state": _state(row, now),
        "open": int(row["open_count"]),
        "day": f"{row['day_count']}{cap}",
        "used": moment(row["used_at"] or None),
        "quarantined_until": moment(row["quarantined_until"]) if row["quarantined_until"] > now else None,
    }


def _state(row: Row, now: float) -> str:
    if not row["is_enabled"]:
        return "disabled"
    if row["open_count"]:
        return "leased"
    return "quarantined" if row["quarantined_until"] > now else "free"


def masked(number: str, *, full: bool) -> str:
    """A number without its middle, enough to tell it from others; names of senders as they are."""
    if full or len(number) < 7 or not number.isdigit():
        return number
    return f"{number[:4]}{'*' * (len(number) - 6)}{number[-2:]}"


def services_words(column: str) -> str:
    """As it would be typed."""
    sign = "!" if column.startswith("-") else ""
    return ",".join(sign + code for code in column[1:].split())


@numbers_group.command("show")
@click.argument("number")
@click.option("--full", is_flag=True, help="Show the whole number.")
@common
@click.pass_obj
def show_number(context: Context, number: str, full: bool) -> None:
    """One number: what it is, its last leases, and when it can be leased again for their services."""
    now = time.time()

    async def read(database: Database) -> tuple[dict[str, Any], Sequence[Row]]:
        store = database.store
        (picked,) = await store.read(roster.pick, database.vault, [number])
        found = await store.read(roster.overview, picked["upstream"], picked["country"], now)
        (row,) = [one for one in found if one["id"] == picked["id"]]
        return _shown(database.vault, row, now, full=full), await store.read(roster.history, row["id"], HISTORY_MAX)

    facts, leases = with_database(context, read)
    history = [
        {
            "lease": row["id"],
            "service": row["service"],
            "state": row["state"],
            "messages": row["messages"],
            "opened": moment(row["opened_at"]),
            "ended": moment(row["ended_at"]),
            "again_from": moment(row["cool_until"]) if row["cool_until"] > now else None,
        }
        for row in leases
    ]
    if context.is_json:
        tell(context, {**facts, "leases": history}, "")
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):18} {'-' if value is None else value}")
    if history:
        click.echo()
        show(context, history, tuple(history[0]))


@numbers_group.command("messages")
@click.option("--unmatched", is_flag=True, help="Only those that were given to no lease.")
@click.option("--upstream", "name", help="Only this one's pool.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Rows at most.")
@click.option("--show-text", is_flag=True, help="Show what they say.")
@click.option("--full", is_flag=True, help="Show whole numbers.")
@common
@click.pass_obj
def list_messages(context: Context, unmatched: bool, name: str | None, limit: int, show_text: bool, full: bool) -> None:
    """What came in, the newest first, and whose it is or why it is nobody's."""

    async def read(database: Database) -> list[dict[str, Any]]:
        found = await database.store.read(roster.messages, name, limit, only_unmatched=unmatched)
        return [_message(database.vault, row, full=full, show_text=show_text) for row in found]

    columns = ["id", "received", "upstream", "source", "to", "sender", "lease", "service", "reason"]
    show(context, with_database(context, read), [*columns, *(["text"] if show_text else [])])


def _message(vault: Vault, row: Row, *, full: bool, show_text: bool) -> dict[str, Any]:
    to = vault.open(row["number_sealed"] if row["number_sealed"] is not None else row["to_sealed"])
    facts = {
        "id": row["id"],
        "received": moment(row["received_at"]),
        "recorded": moment(row["recorded_at"]),
        "upstream": row["upstream"],
        "source": row["source"],
        "to": masked(to, full=full) or row["device"] or None,
        "sender": masked(vault.open(row["sender_sealed"]), full=full) or None,
        "lease": row["lease_id"],
        "service": row["service"],
        "reason": row["reason"] or None,
    }
    return {**facts, "text": vault.open(row["text_sealed"])} if show_text else facts


# Switches


@numbers_group.command("enable")
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@common
@click.pass_obj
def enable(context: Context, numbers: tuple[str, ...]) -> None:
    """Let numbers be leased."""
    _switch_all(context, numbers, is_enabled=True)


@numbers_group.command("disable")
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@common
@click.pass_obj
def disable(context: Context, numbers: tuple[str, ...]) -> None:
    """Keep numbers from new leases, for as long as nobody enables them. Leases that are open go on."""
    _switch_all(context, numbers, is_enabled=False)


def _switch_all(context: Context, numbers: tuple[str, ...], *, is_enabled: bool) -> None:
    word = "enable" if is_enabled else "disable"
    count = _change(
        context, numbers, word, lambda tx, vault: roster.set_enabled(tx, vault, numbers, is_enabled=is_enabled)
    )
    _tell_count(context, f"{word}d", count)


@numbers_group.command("quarantine")
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@click.option("--hours", type=click.FloatRange(0, 24 * 3650, min_open=True), default=24.0, help="For how long.")
@common
@click.pass_obj
def quarantine(context: Context, numbers: tuple[str, ...], hours: float) -> None:
    """Keep numbers from new leases for a while. Leases that are open go on."""
    until = time.time() + hours * 3600
    count = _change(
        context, numbers, "quarantine", lambda tx, vault: roster.quarantine(tx, vault, numbers, until), until=until
    )
    _tell_count(context, f"quarantined until {moment(until)} UTC", count)


@numbers_group.command("release")
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@click.option("--cooldowns", is_flag=True, help="Let them be leased again for services they had, too.")
@common
@click.pass_obj
def release(context: Context, numbers: tuple[str, ...], cooldowns: bool) -> None:
    """End the quarantine of numbers."""

    def end(tx: Tx, vault: Vault) -> int:
        if cooldowns:
            roster.end_cooldowns(tx, vault, numbers, time.time())
        return roster.quarantine(tx, vault, numbers, 0.0)

    _tell_count(context, "released", _change(context, numbers, "release", end, cooldowns=cooldowns))


@numbers_group.command("remove")
@click.argument("numbers", nargs=-1, required=True, metavar="NUMBER...")
@common
@click.pass_obj
def remove(context: Context, numbers: tuple[str, ...]) -> None:
    """Take numbers out of the pool. One that is put back keeps its cool-downs."""
    count = _change(context, numbers, "remove", lambda tx, vault: roster.remove(tx, vault, numbers, time.time()))
    _tell_count(context, "removed", count)


def _change(
    context: Context, numbers: Sequence[str], word: str, change: Callable[[Tx, Vault], int], **detail: Any
) -> int:
    """Changes numbers, each with its entry in the audit log; how many. Raises NumbersError."""

    async def work(database: Database) -> int:
        def unit(tx: Tx) -> int:
            for row in roster.pick(tx, database.vault, numbers):
                subject = f"number:{row['id']}"
                audit.note(tx, time.time(), ACTOR, f"number.{word}", subject, upstream=row["upstream"], **detail)
            return change(tx, database.vault)

        return await database.store.run(unit)

    return with_database(context, work)


def _tell_count(context: Context, word: str, count: int) -> None:
    tell(context, {"numbers": count, "state": word}, f"{count} {word}")
