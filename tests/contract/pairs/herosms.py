from tests.contract._pair import Pair, Rented, Reused
from tests.simulators import handler_api

SHELF = {"service": "tg", "country": "16"}

PAIRS = {
    "herosms": Pair(
        "herosms",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        rented=Rented(SHELF, tells_finish=False, closes_silently=True),
        reused=Reused(),
    )
}
