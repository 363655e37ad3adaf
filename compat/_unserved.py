"""Actions of the original for which this house has nothing: each says so in the original's own word.

`docs/protocol.md` shows this table, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compat._core import Core, Handler
from compat._reply import Call, Reply, text
from gateway.errors import BadActivationId, UnknownActivation


@dataclass(frozen=True, slots=True)
class Unserved:
    """`word` is what is answered, and `why` the reason for the documentation.

    Where `id_name` is set, the call names an activation of the caller's; `unknown` is the word where there is none.
    """

    word: str
    why: str
    id_name: str = ""
    unknown: str = "WRONG_ACTIVATION_ID"


_NO_CALLS = "only SMS are received"

UNSERVED: Mapping[str, Unserved] = {
    "parseCall": Unserved("NO_CALL", _NO_CALLS, "id"),
    "getIncomingCallStatus": Unserved("NOT_INCOMING", _NO_CALLS, "activationId", "INVALID_ACTIVATION_ID"),
    "buyPartnerProduct": Unserved("BAD_DATA", "nothing but numbers is sold"),
}


def unserved_actions(core: Core) -> dict[str, Handler]:
    """A handler for each."""
    return {action: _token(core, row) for action, row in UNSERVED.items()}


def _token(core: Core, row: Unserved) -> Handler:
    async def refuse(call: Call) -> Reply:
        if row.id_name:
            try:
                await core.find(call, row.id_name)
            except (BadActivationId, UnknownActivation):
                return text(row.unknown)
        return text(row.word)

    return refuse
