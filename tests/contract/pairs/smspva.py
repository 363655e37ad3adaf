from dataclasses import replace

from tests.contract._pair import Pair
from tests.simulators import smspva

PLAIN = Pair(
    "smspva",
    smspva.build,
    smspva.DEFAULT_KEY,
    smspva.PATH,
    {"service": "opt29", "country": "UK"},
    cancel_wait_option=None,
    tells_cost=False,
    tells_finish=False,
)

PAIRS = {
    "smspva": PLAIN,
    "smspva told to stop": replace(PLAIN, options={"finish": "stopsms"}, tells_finish=True),
}
