"""Configuration: what is accepted, what is refused, and how the refusal reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from gateway.settings import (
    PriceRule,
    RoutingRule,
    Settings,
    SettingsError,
    config_stamp,
    describe,
    load_settings,
    read_environment,
)

SHIPPED_CATALOG = Path(__file__).parents[2] / "config" / "catalog"
SECRET = "not-a-real-secret-" + "0" * 32


class PlainOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    base_url: str = "https://upstream.test/"
    quick_seconds: float = 1.0


def options_of(adapter: str) -> type[BaseModel]:
    if adapter in ("sandbox", "herosms", "named"):
        return PlainOptions
    raise LookupError(f"no adapter is called {adapter!r}; known: herosms, sandbox")


def secrets_of(adapter: str) -> dict[str, bool]:
    return {"api_key": adapter == "herosms", "username": adapter == "named", "push_secret": False}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED_CATALOG, tmp_path / "catalog")
    return tmp_path


def load(directory: Path, environment: Mapping[str, str] | None = None, **files: str) -> Settings:
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text, encoding="utf-8")
    return load_settings(directory, environment or {}, options_of, secrets_of)


def problems(directory: Path, environment: Mapping[str, str] | None = None, **files: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(directory, environment, **files)
    return caught.value.problems


def problem(directory: Path, environment: Mapping[str, str] | None = None, **files: str) -> str:
    (sentence,) = problems(directory, environment, **files)
    return sentence


# --- Defaults and files ----------------------------------------------------------------------------------------------


def test_missing_files_mean_defaults_with_the_sandbox_alone(directory: Path) -> None:
    settings = load(directory)
    assert settings.gateway.server.port == 8000
    assert list(settings.upstreams) == ["sandbox"]
    assert settings.upstreams["sandbox"].early_cancel == "deny"
    assert settings.pricing.default.fixed == Decimal("0.08")


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    assert "no such directory" in problem(tmp_path / "absent")


@pytest.mark.parametrize("name", ["pricing.toml", "gateway.toml"])
def test_a_file_that_can_not_be_read_is_refused_and_not_taken_for_a_missing_one(directory: Path, name: str) -> None:
    (directory / name).unlink(missing_ok=True)
    (directory / name).mkdir()
    assert f"{name}: can't be read: Is a directory" in problem(directory)


def test_missing_catalogue_is_refused(tmp_path: Path) -> None:
    assert all("catalog" in sentence for sentence in problems(tmp_path))


def test_empty_upstreams_file_means_no_upstream(directory: Path) -> None:
    assert load(directory, upstreams="").upstreams == {}


def test_settings_cannot_be_changed(directory: Path) -> None:
    settings = load(directory)
    with pytest.raises(ValueError, match="frozen"):
        settings.gateway.server.port = 1
    with pytest.raises(TypeError):
        settings.upstreams["other"] = settings.upstreams["sandbox"]  # type: ignore[index]


def test_decimals_are_exact_as_numbers_and_as_text(directory: Path) -> None:
    rules = '[[rule]]\nservices=["tg"]\nfixed = 0.1\n[[rule]]\nfixed = "0.10"\n[[rule]]\npercent = 25\nadd = 0.01'
    prices = load(directory, pricing=rules).pricing.rule
    assert [prices[0].fixed, prices[1].fixed] == [Decimal("0.1"), Decimal("0.10")]
    assert (prices[2].percent, prices[2].add) == (Decimal(25), Decimal("0.01"))


def test_version_follows_the_content_of_the_files(directory: Path) -> None:
    first = load(directory, gateway="[server]\nport = 8000\n").version
    assert len(first) == 12
    assert load(directory, gateway="[server]\nport = 8001\n").version != first
    assert load(directory, gateway="[server]\nport = 8000\n").version == first


def test_stamp_changes_when_a_file_is_written_or_appears(directory: Path) -> None:
    before = config_stamp(directory)
    (directory / "gateway.toml").write_text("[server]\nport = 1\n", encoding="utf-8")
    written = config_stamp(directory)
    os.utime(directory / "gateway.toml", (1, 1))
    assert len({before, written, config_stamp(directory)}) == 3


# --- What is refused -------------------------------------------------------------------------------------------------


def test_unknown_key_names_file_line_path_and_nearest_key(directory: Path) -> None:
    sentence = problem(directory, gateway="[server]\n\n[limits]\npols_per_minute = 5\n")
    assert sentence == (
        f"{directory / 'gateway.toml'} line 4: limits.pols_per_minute: unknown key; did you mean 'polls_per_minute'?"
    )


def test_unknown_key_like_no_other_lists_the_known_ones(directory: Path) -> None:
    assert "known here: below_cost, margin_percent" in problem(directory, pricing="[floor]\nzzz = 1")


def test_unknown_table_names_the_nearest_table(directory: Path) -> None:
    assert problem(directory, gateway="[helth]\n").endswith("line 1: helth: unknown key; did you mean 'health'?")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[server]\nport = "8000"', "line 2: server.port: should be a valid integer, not text"),
        ("[limits]\nopen_activations = true", "limits.open_activations: should be a valid integer, not true or false"),
        ("[limits]\nopen_activations = 0", "limits.open_activations: should be greater than or equal to 1"),
        ("[activations]\nlife_seconds = -1", "activations.life_seconds: should be greater than 0"),
        ("[activations]\nclaim_seconds = nan", "activations.claim_seconds: should be a finite number"),
        ('[activations]\ncancel_exposure = "much"', "should be a plain decimal number, not text"),
        ("[activations]\ncancel_exposure = inf", "activations.cancel_exposure: should be a finite number"),
        ("[health]\ndelivery_prior = 1.5", "health.delivery_prior: should be less than or equal to 1"),
        ("[webhooks]\nretry_seconds = [1, 'x']", "webhooks.retry_seconds[2]: should be a valid number, not text"),
        ("[webhooks]\nretry_seconds = []", "webhooks.retry_seconds: "),
        ("[webhooks]\npause_after = 0", "webhooks.pause_after: "),
        ("[webhooks]\npause_seconds = 0", "webhooks.pause_seconds: "),
        ("[webhooks]\ndisable_after_hours = 0", "webhooks.disable_after_hours: "),
        ("[webhooks]\nlog_days = 0", "webhooks.log_days: "),
        ("server = 1", "line 1: server: "),
        ('[server]\nlog_level = "loud"', "server.log_level: should be 'debug', 'info', 'warning' or 'error'"),
        ("[server]\ndefault_country = 999", "line 2: server.default_country: there is no such country"),
    ],
)
def test_wrong_value_names_file_line_path_and_what_is_wrong(directory: Path, text: str, words: str) -> None:
    sentence = problem(directory, gateway=text)
    assert sentence.startswith(str(directory / "gateway.toml"))
    assert words in sentence


def test_bad_toml_names_the_line(directory: Path) -> None:
    sentence = problem(directory, routing='policy = "value"\n[[rule]\n')
    assert sentence.startswith(f"{directory / 'routing.toml'} line 2: not valid TOML: ")


def test_toml_that_ends_too_soon_names_the_last_line(directory: Path) -> None:
    assert "line 2: not valid TOML" in problem(directory, routing='policy = "value"\nrule = [')


def test_text_that_is_not_utf8_names_the_line(directory: Path) -> None:
    (directory / "pricing.toml").write_bytes(b'currency = "USD"\n# \xff\n')
    assert problem(directory).endswith("line 2: not UTF-8 text")


def test_all_problems_of_all_files_are_told_at_once(directory: Path) -> None:
    found = problems(
        directory,
        {"PORT": "http", "JWT_SECRET_KEY": "short"},
        gateway="[server]\nport = 0\nhots = 1\n",
        upstreams="[herosms]\n",
        routing="policy = 1\n",
        pricing="not toml",
    )
    assert len(found) == 7
    assert all(part in "\n".join(found) for part in ("server.port", "server.hots", "HEROSMS_API_KEY", "policy", "PORT"))


def test_line_is_that_of_the_right_rule(directory: Path) -> None:
    rules = "[[rule]]\nfixed = 1\n\n[[rule]]\nfixed = 2\nservics = []\n"
    assert "line 6: rule[2].services" not in problem(directory, pricing=rules)
    assert "line 6: rule[2].servics: unknown key; did you mean 'services'?" in problem(directory, pricing=rules)


def test_line_is_found_past_lists_of_several_lines_and_quoted_keys(directory: Path) -> None:
    rules = '[[rule]]\nfixed = 1\nservices = [\n  "tg",  # a = b\n]\n"coun tries" = []\n'
    assert "line 6: rule[1].coun tries: unknown key" in problem(directory, pricing=rules)


# --- Rules -----------------------------------------------------------------------------------------------------------


def test_country_no_stays_norway(directory: Path) -> None:
    rule = load(directory, routing='[[rule]]\ncountries = ["no", 6, "US"]\n').routing.rule[0]
    assert rule.countries == {174, 6, 12, 187}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('services = ["tg", "telegram"]', "services: there is no service 'telegram'"),
        ('services = "tg"', "services: should be a list of service codes"),
        ("countries = [999]", "countries: there is no country 999"),
        ('countries = ["QQ"]', "countries: there is no country 'QQ'"),
        ("countries = [true]", "countries: should be a list of country ids and two-letter codes"),
        ('upstreams = ["sandbx"]', "upstreams: there is no upstream 'sandbx'; did you mean 'sandbox'?"),
        ('exclude = ["sandbx"]', "exclude: there is no upstream 'sandbx'; did you mean 'sandbox'?"),
        ("accounts = [1.5]", "accounts: should be a list of account names or ids"),
        ('policy = "cheap"', "policy: should be 'value' or 'priority'"),
    ],
)
def test_rule_that_names_what_does_not_exist_is_refused(directory: Path, rule: str, words: str) -> None:
    assert f"line 2: rule[1].{words}" in problem(directory, routing=f"[[rule]]\n{rule}\n")


def test_accounts_may_be_names_or_ids(directory: Path) -> None:
    rule = load(directory, routing='[[rule]]\naccounts = [7, "reseller-a"]\n').routing.rule[0]
    assert rule.accounts == {"7", "reseller-a"}


def test_upstreams_of_a_rule_keep_their_order(directory: Path) -> None:
    tables = "[sandbox]\n[b]\nadapter = 'sandbox'\n[a]\nadapter = 'sandbox'\n"
    rule = load(directory, upstreams=tables, routing='[[rule]]\nupstreams = ["b", "a"]\n').routing.rule[0]
    assert rule.upstreams == ("b", "a")


def test_unreadable_upstreams_do_not_make_rules_wrong_too(directory: Path) -> None:
    assert "upstreams.toml" in problem(directory, upstreams="[", routing='[[rule]]\nupstreams = ["herosms"]\n')


def test_unreadable_catalogue_does_not_make_rules_wrong_too(directory: Path) -> None:
    (directory / "catalog" / "services.toml").write_text("[", encoding="utf-8")
    sentence = problem(directory, routing='[[rule]]\nservices = ["zz9"]\ncountries = ["QQ", 999]\n')
    assert "services.toml" in sentence


def test_rules_made_in_code_keep_what_they_are_given() -> None:
    rule = PriceRule(fixed=Decimal(1), countries=frozenset({6}), services=frozenset({"tg"}))
    assert rule.countries == {6}
    assert rule.services == {"tg"}
    assert RoutingRule(upstreams=("b", "a"), exclude=frozenset({"c"})).exclude == {"c"}


@pytest.mark.parametrize("terms", ["", "fixed = 1\nadd = 1", "fixed = 1\npercent = 1"])
def test_price_is_made_in_exactly_one_way(directory: Path, terms: str) -> None:
    assert "rule[1]: needs exactly one of" in problem(directory, pricing=f"[[rule]]\n{terms}\n")


@pytest.mark.parametrize("terms", ["fixed = 0", "fixed = -1", "add = -1", "percent = -5", 'fixed = "0.1234567"'])
def test_price_out_of_bounds_is_refused(directory: Path, terms: str) -> None:
    assert "line 2: default." in problem(directory, pricing=f"[default]\n{terms}\n")


@pytest.mark.parametrize("rates", ["eur = 1", "EUR = 0", "EUR = 'x'", "USD = 2"])
def test_rate_that_makes_no_sense_is_refused(directory: Path, rates: str) -> None:
    assert "rates" in problem(directory, rates=f"as_of = 2026-11-22T08:00:00Z\n[rates]\n{rates}\n")


@pytest.mark.parametrize("as_of", ["", "as_of = 2026-11-22\n", "as_of = 2026-11-22T08:00:00\n", "as_of = 'today'\n"])
def test_rates_have_to_say_since_when_and_in_which_zone(directory: Path, as_of: str) -> None:
    assert "as_of" in problem(directory, rates=f"{as_of}[rates]\nEUR = 1.08\n")


def test_upstream_in_a_currency_without_a_rate_is_refused(directory: Path) -> None:
    table = '[sandbox]\ncurrency = "NGN"\n'
    assert "line 2: sandbox.currency: rates.toml has no rate for NGN" in problem(directory, upstreams=table)
    dated = "as_of = 2026-11-22T08:00:00Z\n[rates]\nNGN = 0.0006"
    assert load(directory, upstreams=table, rates=dated).rates.rates["NGN"] == Decimal("0.0006")
    assert load(directory, upstreams=f"{table}enabled = false", rates="").upstreams["sandbox"].currency == "NGN"


# --- Upstreams -------------------------------------------------------------------------------------------------------


def test_adapter_defaults_to_the_name_of_the_table(directory: Path) -> None:
    stanza = load(directory, {"HEROSMS_API_KEY": SECRET}, upstreams="[herosms]\npriority = 3\n").upstreams["herosms"]
    assert (stanza.adapter, stanza.priority, stanza.secret) == ("herosms", 3, SECRET)


def test_keys_of_the_adapter_are_parsed_by_its_own_model(directory: Path) -> None:
    stanza = load(directory, upstreams="[sandbox]\nquick_seconds = 2.5\n").upstreams["sandbox"]
    assert stanza.parsed == PlainOptions(quick_seconds=2.5)
    assert dict(stanza.options) == {"quick_seconds": Decimal("2.5")}


@pytest.mark.parametrize(("key", "nearest"), [("quik_seconds", "quick_seconds"), ("prioritty", "priority")])
def test_unknown_key_of_a_stanza_names_the_nearest_of_both_kinds(directory: Path, key: str, nearest: str) -> None:
    sentence = problem(directory, upstreams=f"[sandbox]\n{key} = 1\n")
    assert f"line 2: sandbox.{key}: unknown key; did you mean '{nearest}'?" in sentence


def test_unknown_adapter_is_refused_with_the_known_ones(directory: Path) -> None:
    assert "line 1: sandbx.adapter: no adapter is called 'sandbx'" in problem(directory, upstreams="[sandbx]\n")


@pytest.mark.parametrize("table", ["[Sandbox]", "[1sandbox]", "[a-b]", "sandbox = 1"])
def test_table_that_cannot_be_an_upstream_is_refused(directory: Path, table: str) -> None:
    assert "upstreams.toml line 1" in problem(directory, upstreams=table)


def test_missing_secret_names_the_variable(directory: Path) -> None:
    assert "HEROSMS_API_KEY is missing" in problem(directory, upstreams="[herosms]\n")
    assert "HEROSMS_API_KEY is missing" in problem(directory, {"HEROSMS_API_KEY": "  "}, upstreams="[herosms]\n")


def test_further_secrets_are_read_under_the_upstreams_name(directory: Path) -> None:
    assert "OTHER_USERNAME is missing" in problem(directory, upstreams='[other]\nadapter = "named"\n')
    given = {"OTHER_USERNAME": "ops", "OTHER_PUSH_SECRET": SECRET, "OTHER_UNHEARD_OF": SECRET}
    stanza = load(directory, given, upstreams='[other]\nadapter = "named"\n').upstreams["other"]
    assert (stanza.secret, stanza.secrets) == ("", {"username": "ops", "push_secret": SECRET})
    assert SECRET not in repr(stanza)


def test_switched_off_upstream_needs_no_secret(directory: Path) -> None:
    assert load(directory, upstreams="[herosms]\nenabled = false\n").upstreams["herosms"].secret == ""


@pytest.mark.parametrize("proxy", ["proxy.test:3128", "socks5://proxy.test"])
def test_proxy_that_is_no_web_address_is_refused(directory: Path, proxy: str) -> None:
    assert "sandbox.proxy: should be an http" in problem(directory, upstreams=f'[sandbox]\nproxy = "{proxy}"\n')


# --- Secrets and environment -----------------------------------------------------------------------------------------


def test_secrets_never_reach_a_repr(directory: Path) -> None:
    names = ("DATABASE_URL", "API_KEY_SALT", "DATA_ENCRYPTION_KEYS", "INDEX_KEY", "WEBHOOK_SECRET")
    environment = dict.fromkeys((*names, "JWT_SECRET_KEY", "HEROSMS_API_KEY"), SECRET)
    environment["REDIS_URL"] = f"redis://:{SECRET}@cache:6379/0"
    settings = load(directory, environment, upstreams=f'[herosms]\nproxy = "http://user:{SECRET}@proxy.test"\n')
    assert settings.environment.webhook_secret == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in repr(settings.upstreams["herosms"])


def test_secret_in_the_wrong_place_is_not_repeated(directory: Path) -> None:
    sentence = problem(directory, upstreams=f'[sandbox]\napi_key = "{SECRET}"\n')
    assert "secrets come from the environment" in sentence
    assert SECRET not in sentence


def test_environment_wins_over_the_file(directory: Path) -> None:
    values = {"HOST": "0.0.0.0", "PORT": "9000", "BACKUP_DIRECTORY": "/backups"}
    found = load(directory, values, gateway='[server]\nport = 8001\n[backup]\ndirectory = "elsewhere"\nhour = 5\n')
    assert (found.gateway.server.host, found.gateway.server.port) == ("0.0.0.0", 9000)
    assert (found.gateway.backup.directory, found.gateway.backup.hour) == ("/backups", 5)


def test_blank_variable_counts_as_absent(directory: Path) -> None:
    settings = load(directory, {"HOST": " ", "PORT": "", "DATABASE_URL": ""})
    assert settings.gateway.server.host == "127.0.0.1"
    assert settings.environment.database_url is None


def test_environment_can_be_read_by_itself() -> None:
    found = read_environment({"DATABASE_URL": "postgresql://db.test/simroute", "PORT": "8080"})
    assert (found.database_url, found.port, found.redis_url) == ("postgresql://db.test/simroute", 8080, None)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "8000.0"])
def test_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(SettingsError, match="PORT is not a number from 1 to 65535"):
        read_environment({"PORT": port})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "cache"),
        ("REDIS_URL", "redis://:horse/staple@cache:6379/0"),
        ("REDIS_URL", "redis://:horse#staple@cache:6379/0"),
        ("REDIS_URL", "http://cache:6379"),
        ("REDIS_URL", "unix://"),
        ("WEBHOOK_URL", "gw.example.test/webhooks/sms"),
        ("WEBHOOK_URL", "ftp://gw.example.test/webhooks/sms"),
        ("PAYMENT_HOOK_URL", "http://pay.example.test/hook"),
        ("PAYMENT_HOOK_URL", "https://"),
        ("NOTIFY_URLS", "tgram://staple/1 nonsense"),
    ],
)
def test_what_is_no_address_is_told_without_its_words(directory: Path, variable: str, value: str) -> None:
    values = {"PAYMENT_SECRET": "x" * 32, variable: value}
    with pytest.raises(SettingsError, match=f"environment: {variable} ") as caught:
        load(directory, values)
    assert len(caught.value.problems) == 1
    assert "staple" not in str(caught.value)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "redis://:horse%2Fstaple@cache:6379/0"),
        ("REDIS_URL", "rediss://cache"),
        ("REDIS_URL", "unix:///run/redis.sock?db=1"),
        ("WEBHOOK_URL", "https://gw.example.test/webhooks/sms"),
        ("PAYMENT_HOOK_URL", "https://pay.example.test:8443/hook?x=1"),
        ("NOTIFY_URLS", "tgram://token/1\n mailto://me:word@example.test,you@example.test"),
        ("NOTIFY_URLS", "tgram://token/1 , json://example.test,"),
    ],
)
def test_what_is_an_address_is_taken(directory: Path, variable: str, value: str) -> None:
    found = load(directory, {"PAYMENT_SECRET": "x" * 32, variable: value})
    assert getattr(found.environment, variable.lower()) == value


@pytest.mark.parametrize("variable", ["WEBHOOK_SECRET", "JWT_SECRET_KEY"])
def test_short_secret_is_refused_without_being_repeated(variable: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_environment({variable: "too-short"})
    assert caught.value.problems == (f"environment: {variable} is shorter than 32 characters",)


def test_a_list_of_session_secrets_is_as_long_as_its_shortest() -> None:
    assert read_environment({"JWT_SECRET_KEY": f"{SECRET}, {SECRET}"}).jwt_secret_key == f"{SECRET}, {SECRET}"
    with pytest.raises(SettingsError, match="JWT_SECRET_KEY is shorter"):
        read_environment({"JWT_SECRET_KEY": f"{SECRET},too-short"})


# --- The reference ---------------------------------------------------------------------------------------------------


def test_every_setting_describes_itself() -> None:
    described = describe()
    assert all(setting.sentence.endswith(".") for setting in described)
    assert len({(setting.file, setting.key) for setting in described}) == len(described)
    assert {setting.file for setting in described} == {
        "gateway.toml",
        "upstreams.toml",
        "routing.toml",
        "pricing.toml",
        "rates.toml",
        "environment",
    }
