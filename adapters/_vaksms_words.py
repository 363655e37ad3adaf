"""vak-sms' codes for services, and ours: defaults, which a stanza may override one by one.

Facts: `protocol/upstreams/others.md` §4, and the table in the provider's documentation. Its codes look like those of
SMS-Activate and often mean something else, so only those named in that table are here.
"""

from __future__ import annotations

from adapters._words import pairs

_SERVICES = """
tg tg, wa wa, vi vi, vk vk, ok ok, go gl, fb fb, ig ig, tw tw, wb wc, mm ms, mb yh, ub ub, av av, ya ya, ma mr, mt st,
oi td, am am, ds dc, dr dr, lf tk, ts pp, nf nf, me lm, kt kt, tn ln, uk ab, dh eb, pm ao, dp pm, qq qq, hx ai, ew nk,
xk dd, nv nv, cn fr, qw qw
"""


SERVICES = pairs(_SERVICES)
"""Service code to vak-sms' code."""
