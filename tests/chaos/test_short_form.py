"""A short storm on each database. `make chaos` makes longer ones, and repeats the plan of one that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.stage import Settings

SECONDS = 10.0
STORMS = [
    pytest.param(
        Settings(seed, SECONDS, database, clients=16, has_redis=has_redis, processes=served, workers=served - 1),  # type: ignore[arg-type]
        marks=pytest.mark.xdist_group(f"chaos {database}"),
        id=database,
    )
    for seed, database, has_redis, served in ((340, "sqlite", False, 1), (155, "postgresql", True, 2))
]
CHOSEN_FOR = {
    "sqlite": {"kill", "stop", "freeze", "fill_disk", "denied", "any.nul"},
    "postgresql": {"stop", "swallow_postgres", "restart_postgres", "buy.lie", "any.cesu8"},
}
"""What the seeds of the short storms were chosen for."""


@pytest.mark.parametrize("settings", STORMS)
def test_a_short_storm_has_what_its_seed_was_chosen_for(settings: Settings) -> None:
    assert CHOSEN_FOR[settings.database] <= {blow.fault or blow.kind for blow in settings.plan}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("settings", STORMS)
async def test_after_a_storm_everything_is_accounted_for(settings: Settings, tmp_path: Path) -> None:
    report = await run(settings, tmp_path)
    assert not report.problems, f"\n{report}"
    assert report.facts["charged"], "nobody bought anything"
