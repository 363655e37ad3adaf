"""What tests of webhooks stand on: a house's settings, and a database with its schema."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway import migrations
from gateway.settings import Settings
from tests.gateway.noticing import empty_sqlite, plain_settings


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_sqlite(tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return plain_settings(tmp_path_factory.mktemp("config"))


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with its schema: SQLite unless the test is parametrised with another kind."""
    if getattr(request, "param", "sqlite") == "postgresql":
        url = str(request.getfixturevalue("postgres_url"))
        migrations.upgrade(url)
        return url
    shutil.copy(request.getfixturevalue("empty_database"), tmp_path / "simroute.db")
    return f"sqlite:///{tmp_path / 'simroute.db'}"
