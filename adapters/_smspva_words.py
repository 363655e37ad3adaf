"""SMSPVA's words for services and countries, and ours: defaults, which a stanza may override one by one.

The codes are those of its published list of services. Left out are words that stand for several of our services.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapters._words import one_usa, pairs

_SERVICES = """
tg 29, wa 20, go 1, fb 2, ig 16, vi 11, vk 69, ok 5, tw 41, wb 67, mm 15, mb 65, ub 72, av 59, ya 23, ma 33, lb 4,
mt 58, oi 9, am 44, ds 45, dr 132, lf 104, ts 83, nf 101, ka 48, dl 60, me 37, kt 71, fu 90, tn 8, wx 131, uk 46,
re 112, jg 30, bw 127, hb 205, xk 92, pm 10, qq 34, ot 19, acz 196, abe 189, abf 3, afz 175, agj 171, ahe 199,
aja 68, aok 116, aor 228, aq 108, aqt 117, axr 250, bex 231, bo 91, bqz 124, bz 78, cn 6, df 155, do 164, dp 57,
ee 66, et 98, fd 100, fh 180, gf 140, gp 52, gt 35, hc 184, ie 17, ij 133, im 111, it 226, iv 167, jq 122, jr 185,
kc 130, kk 165, kn 39, ls 89, mc 96, mg 126, mj 158, mo 145, mr 43, nc 162, nv 73, nz 115, pd 55, pf 84, py 121,
qv 56, qw 18, rr 163, sg 181, sn 70, tc 154, tl 233, tr 183, tu 75, tx 81, vm 230, vz 120, wc 26, wg 49, wr 227,
xr 82, yl 88, yw 110, za 94, zh 93, zk 53, zm 113, ac 40
"""

SERVICES = {code: f"opt{number}" for code, number in pairs(_SERVICES).items()}
"""Service code to SMSPVA's."""

_ODD_LETTERS = {"GB": "UK"}
"""Countries are upper-case ISO letters, but for this one."""


def country_words(iso2: Mapping[int, str]) -> dict[int, str]:
    """Country id to SMSPVA's letters."""
    return {number: _ODD_LETTERS.get(letters, letters) for number, letters in one_usa(iso2).items()}


def iso_letters(word: str) -> str:
    """ISO letters of SMSPVA's word for a country."""
    return next((letters for letters, odd in _ODD_LETTERS.items() if odd == word), word)
