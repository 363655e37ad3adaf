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
    for seed, database, has_redis, served in ((29, "sqlite", False, 1), (11, "postgresql", True, 2))
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("settings", STORMS)
async def test_after_a_storm_everything_is_accounted_for(settings: Settings, tmp_path: Path) -> None:
    report = await run(settings, tmp_path)
    assert not report.problems, f"\n{report}"
    assert report.facts["charged"], "nobody bought anything"
