"""The shipped catalogue, and what is refused in place of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.catalog import CatalogError, load_catalog

SHIPPED = Path(__file__).parents[2] / "config" / "catalog"
COUNTRY = '6 = {iso2 = "ID", eng = "Indonesia", rus = "Индонезия", chn = "印度尼西亚", prefix = "62"}'


def write(directory: Path, *, services: str = '[services]\ntg = "Telegram"', countries: str = "") -> Path:
    (directory / "services.toml").write_text(services, encoding="utf-8")
    (directory / "countries.toml").write_text(countries or f"[countries]\n{COUNTRY}", encoding="utf-8")
    return directory


def problems_of(directory: Path) -> str:
    with pytest.raises(CatalogError) as caught:
        load_catalog(directory)
    return "\n".join(caught.value.problems)


def test_shipped_catalogue_is_the_protocols_list_with_the_scenarios() -> None:
    catalog = load_catalog(SHIPPED)
    assert len(catalog.services) == 2040 + 6
    assert catalog.service_names["tg"] == "Telegram"
    assert catalog.sandbox_services == {"xnone", "xmute", "xtwo", "xslow", "xban", "xlock"}
    assert sorted(catalog.countries) == list(range(205))


def test_countries_carry_letters_names_and_dialling_prefix() -> None:
    catalog = load_catalog(SHIPPED)
    assert catalog.countries[6].rus == "Индонезия"
    assert catalog.countries[6].chn == "印度尼西亚"
    assert catalog.country_iso2[203] == "XK"
    assert catalog.country_prefix[203] == "383"


def test_no_two_countries_share_a_name() -> None:
    countries = load_catalog(SHIPPED).countries.values()
    for language in ("eng", "rus", "chn"):
        assert len({getattr(country, language) for country in countries}) == len(countries)


def test_letters_stand_for_every_country_that_has_them() -> None:
    catalog = load_catalog(SHIPPED)
    assert catalog.countries_of("us") == {12, 187}
    assert catalog.countries_of("no") == {174}
    assert catalog.countries_of("QQ") == frozenset()


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    text = problems_of(tmp_path)
    assert "services.toml: the file is missing" in text
    assert "countries.toml: the file is missing" in text


def test_syntax_error_names_the_line(tmp_path: Path) -> None:
    assert "line 2" in problems_of(write(tmp_path, services="[services]\ntg = \n"))


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ('[services]\ntoolong = "x"', "'toolong' is not one to five"),
        ("[services]\ntg = 1", "'tg' has no name"),
        ('[services]\ntg = "a"\n[sandbox]\ntg = "b"', "both sold and a sandbox scenario"),
        ('[service]\ntg = "a"', "'service' is not one of the tables services, sandbox"),
        ("services = 3", "'services' is not a table"),
    ],
)
def test_unusable_services_are_refused(tmp_path: Path, services: str, words: str) -> None:
    assert words in problems_of(write(tmp_path, services=services))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (COUNTRY.replace("6 =", "x ="), "country 'x' is not a number"),
        (COUNTRY.replace('"ID"', '"id"'), "country 6: iso2"),
        (COUNTRY.replace('"62"', '"+62"'), "country 6: prefix"),
        (COUNTRY.replace('"Индонезия"', '""'), "country 6: rus is not a name"),
        ('6 = {iso2 = "ID"}', "country 6 needs exactly"),
    ],
)
def test_unusable_countries_are_refused(tmp_path: Path, row: str, words: str) -> None:
    assert words in problems_of(write(tmp_path, countries=f"[countries]\n{row}"))
