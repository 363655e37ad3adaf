"""Plivo messaging (message URL of an application).

Its ways:

* a form by POST, or a query by GET, as the application is set up;
* SMS are signed by version 2: the URL without its query, and a nonce. **The body is not covered**, so whoever saw one
  request can make others up. Let the path carry the secret part, too;
* version 3 covers URL and fields. Where a request brings both, either will do: a stranger would leave one away;
* a subaccount's request brings the main account's signature, too (`-Ma-`);
* the vendor's package compares version 2 by `==`, and makes the digest of version 3 only; so version 2 is made here;
* receipts (`Status`) may share the address.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence

from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3

from adapters._inbound import NOTHING, Inbound
from adapters._inbound._checks import equal, header, keys, refusing, require
from adapters._inbound._reading import form, identity, lists, number, parsing, sender, single, text
from adapters._values import Unreadable
from gateway.errors import PushRefused
from gateway.upstream import PushRequest

SECRETS = {"plivo_auth_token": True}
ANSWER = NOTHING

_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SHOWN = ("From", "To", "Text", "Type", "MessageUUID", "Status")


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], _now: float) -> None:
    """Raises PushRefused."""
    candidates = keys(secrets, "plivo_auth_token")
    claims = list(_claims(request))
    if not claims:
        raise PushRefused("no signature")
    require(any(_fits(request, key, *claim) for key in candidates for claim in claims))


def _fits(request: PushRequest, token: str, version: int, nonce: str, shown: Sequence[str]) -> bool:
    signature = _sign(request, token, version, nonce)
    return any(equal(signature, one.strip()) for one in shown)


def _claims(request: PushRequest) -> Iterator[tuple[int, str, Sequence[str]]]:
    """Version, nonce and values of every header with signatures; there may be more than one in each."""
    for version in (3, 2):
        for name in (f"x-plivo-signature-v{version}", f"x-plivo-signature-ma-v{version}"):
            if name in request.headers:
                nonce = header(request, f"x-plivo-signature-v{version}-nonce")
                yield version, nonce, header(request, name).split(",")


def _sign(request: PushRequest, token: str, version: int, nonce: str) -> str:
    if version == 2:
        covered = request.url.partition("?")[0] + nonce
        return base64.b64encode(hmac.digest(token.encode(), covered.encode(), "sha256")).decode()
    if request.method == "GET":
        covered_url = construct_get_url(request.url, {})
    else:
        covered_url = construct_post_url(request.url, lists(form(request)))
    signature: bytes = get_signature_v3(token.encode(), covered_url.decode(), nonce)
    return signature.decode()


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    every = lists(form(request))
    fields = single((name, value) for name in _SHOWN for value in every.get(name, ()))
    if "Text" not in fields and ("Status" in fields or "CallUUID" in every):
        return ()
    if fields.get("Type", "sms") not in ("sms", "mms"):
        return ()
    if "MessageUUID" not in fields:
        raise Unreadable("nothing of Plivo's")
    return (
        Inbound(
            id=identity(fields["MessageUUID"], _ID),
            to=number(fields.get("To")),
            sender=sender(fields.get("From")),
            text=text(fields.get("Text", "" if fields.get("Type") == "mms" else None)),
        ),
    )
