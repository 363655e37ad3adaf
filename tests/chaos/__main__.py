"""`python -m tests.chaos`: one storm, or several with rising seeds; the exit status is 1 where a check failed."""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import run
from tests.chaos.stage import Settings


def main() -> int:
    flags = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    flags.add_argument("--seed", type=int, help="what breaks and what clients want; unless given, one by chance")
    flags.add_argument("--seconds", type=float, default=120.0, help="how long the storm lasts (120)")
    flags.add_argument("--processes", type=int, default=1, help="serving processes (1)")
    flags.add_argument("--workers", type=int, default=0, help="working processes beside them (0)")
    flags.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    flags.add_argument("--clients", type=int, default=24, help="an even number of clients (24)")
    flags.add_argument("--no-redis", action="store_true", help="without Redis")
    flags.add_argument("--times", type=int, default=1, help="so many storms, the seed rising by one (1)")
    given = flags.parse_args()
    if given.processes + given.workers > 1 and (given.no_redis or given.database == "sqlite"):
        flags.error("several processes need PostgreSQL and Redis")
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # the storm's own connections break with the rest
    first = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    status = 0
    for seed in range(first, first + given.times):
        settings = Settings(
            seed, given.seconds, given.database, given.processes, given.workers, given.clients, not given.no_redis
        )
        directory = Path(tempfile.mkdtemp(prefix=f"simroute-chaos-{seed}-"))
        sys.stdout.write(f"seed {seed}, {len(settings.plan)} blows, logs in {directory}\n")
        sys.stdout.flush()
        report = asyncio.run(run(settings, directory))
        sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
        status |= bool(report.problems)
    return status


if __name__ == "__main__":
    sys.exit(main())
