"""`simroute`, on a clock that is as many seconds ahead of the machine's as a file says, whenever the file changes.

    python -m tests.chaos.launcher FILE serve --port 8000

Only the time of day is moved: what is measured by the monotonic clock goes on as in any process. It ends with whoever
started it, however that ended.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

LOOK_SECONDS = 0.02


def follow(path: Path) -> None:
    """Moves `time.time` for everything that is imported after this call."""
    real = time.time
    ahead, parent = _read(path, 0.0), os.getppid()

    def moved() -> float:
        return real() + ahead

    def watch() -> None:
        nonlocal ahead
        while True:
            time.sleep(LOOK_SECONDS)
            if os.getppid() != parent:
                os._exit(1)
            ahead = _read(path, ahead)

    time.time = moved
    threading.Thread(target=watch, name="clock", daemon=True).start()


def _read(path: Path, before: float) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return before


if __name__ == "__main__":
    follow(Path(sys.argv.pop(1)))
    from gateway.cli import main

    main()
