"""Actions of the original for which this house has nothing: each says so in the original's own word.

`docs/protocol.md` shows this table, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compat._core import Core, Handler
from compat._reply import Call, Reply, as_json, text
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


_RENTALS = "numbers are sold for one activation, not for a time"
_NO_RENTAL = "there are no rentals, so no id is one's"
_ONE_SERVICE = "an upstream sells a number for one service"
_NO_RENEWAL = "a number that was given back may be somebody else's by now"
_NO_CALLS = "only SMS are received"

UNSERVED: Mapping[str, Unserved] = {
    "getAdditionalService": Unserved("WRONG_ADDITIONAL_SERVICE", _ONE_SERVICE, "id"),
    "getMultiServiceNumber": Unserved("NOT_AVAILABLE", _ONE_SERVICE),
    "checkExtraActivation": Unserved("RENEW_ACTIVATION_NOT_AVAILABLE", _NO_RENEWAL, "activationId"),
    "getExtraActivation": Unserved("RENEW_ACTIVATION_NOT_AVAILABLE", _NO_RENEWAL, "activationId"),
    "parseCall": Unserved("NO_CALL", _NO_CALLS, "id"),
    "getIncomingCallStatus": Unserved("NOT_INCOMING", _NO_CALLS, "activationId", "INVALID_ACTIVATION_ID"),
    "buyPartnerProduct": Unserved("BAD_DATA", "nothing but numbers is sold"),
}

RENTALS: Mapping[str, Unserved] = {
    "getRentServicesAndCountries": Unserved("OUT_OF_STOCK", _RENTALS),
    "getRentNumber": Unserved("NO_NUMBERS", _RENTALS),
    "getRentList": Unserved("NO_NUMBERS", _NO_RENTAL),
    "getRentStatus": Unserved("NO_ID_RENT", _NO_RENTAL),
    "setRentStatus": Unserved("NO_ID_RENT", _NO_RENTAL),
    "continueRentNumber": Unserved("RENT_DIE", _NO_RENTAL),
    "getContinueRentPriceNumber": Unserved("RENT_DIE", _NO_RENTAL),
    "continueRentInfo": Unserved("RENT_DIE", _NO_RENTAL),
}
"""Refused as JSON: `{"status":"error","message":WORD}`."""


def unserved_actions(core: Core) -> dict[str, Handler]:
    """A handler for each."""
    tokens = {action: _token(core, row) for action, row in UNSERVED.items()}
    return {**tokens, **{action: _rental(row) for action, row in RENTALS.items()}}


def _token(core: Core, row: Unserved) -> Handler:
    async def refuse(call: Call) -> Reply:
        if row.id_name:
            try:
                # One client of getExtraActivation says `id`.
                await core.find(call, row.id_name if row.id_name in call.values else "id")
            except (BadActivationId, UnknownActivation):
                return text(row.unknown)
        return text(row.word)

    return refuse


def _rental(row: Unserved) -> Handler:
    async def refuse(_call: Call) -> Reply:
        return as_json({"status": "error", "message": row.word})

    return refuse
