"""TextVerified's words for services and carriers, and our codes: defaults, which a stanza may override one by one.

Facts: `protocol/upstreams/textverified.md` §3 and §4. Their names are the English ones in small letters without blanks;
`/services` is asked before anything is offered, so a name that is not sold there costs nothing.
"""

from __future__ import annotations

from adapters._words import pairs

NOT_LISTED = "servicenotlisted"
"""Receives from services they do not list; `serviceNotListedName` says which is meant."""

ALL_SERVICES = "allservices"
"""A rental that receives for every service."""

CARRIERS = frozenset({"att", "tmo", "vz"})

_SERVICES = f"""
tg telegram, wa whatsapp, vi viber, go gmail, gf googlevoice, fb facebook, ig instagram, tw twitter, wb wechat,
mm microsoft, mb yahoo, ub uber, mt steam, oi tinder, am amazon, ds discord, dr openai, lf tiktok, ts paypal,
nf netflix, me line, fu snapchat, tn linkedin, wx apple, uk airbnb, re coinbase, bw signal, hb twitch, dh ebay, pm aol,
mo bumble, vz hinge, tu lyft, ac doordash, yy venmo, it cashapp, wc craigslist, ew nike, gp ticketmaster, wr walmart,
dp protonmail, tx bolt, qv badoo, yw grindr, zm offerup, vm okcupid, pf pof, bbq chime, zj robinhood, bnl reddit,
xr tango, im imo, rc skype, kt kakaotalk, nv naver, bz blizzard, aon binance, anj gemini, ti cryptocom, se feeld,
axr match, ef nextdoor, avm instacart, ip burgerking, sr starbucks, ry mcdonalds, bo wise, ij revolut, nu stripe,
bbg square, nc payoneer, acz claude, atw deepseek, ep temu, aez shein, hx aliexpress, ab alibaba, dg mercari,
oz poshmark, xy depop, alq etsy, cn fiverr, abq upwork, bwd fetch, ayn lime, aed booking, brk indeed, df happn,
wg skout, rt hily, akp her, ir chispa, box thumbtack, ajn gopuff, bow affirm, afz klarna, alj spotify, bxf disneyplus,
aiw roblox, blm epicgames, ccb nintendo, aml xbox, bnw medium, ada truthsocial, ot {NOT_LISTED}
"""


SERVICES = pairs(_SERVICES)
"""Service code to `serviceName`."""
