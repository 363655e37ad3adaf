"""DS SMS HUB's words for services, and ours: defaults, which a stanza may override one by one.

The brief names `google` and `facebook`; the others follow their pattern (the plain name in lower case). A word
the price list has and this table lacks shows among the unmapped ones.
"""

from __future__ import annotations

from adapters._words import pairs

_SERVICES = """
go google, fb facebook, wa whatsapp, tg telegram, ig instagram, tw twitter, ds discord, lf tiktok, fu snapchat,
tn linkedin, mm microsoft, mb yahoo, wx apple, am amazon, ts paypal, oi tinder, mo bumble, vz hinge, qv badoo,
vm okcupid, pf pof, axr match, mt steam, hb twitch, bz blizzard, aiw roblox, blm epicgames, nf netflix, alj spotify,
dr openai, acz claude, ub uber, tu lyft, tx bolt, ac doordash, avm instacart, uk airbnb, aed booking, dh ebay, alq etsy,
oz poshmark, gd surveytime, zm offerup, wc craigslist, wr walmart, ep temu, aez shein, hx aliexpress, ab alibaba,
re coinbase, aon binance, abn bybit, aor okx, it cashapp, yy venmo, bbq chime, bo wise, ij revolut, nc payoneer,
aiv remitly, aqt skrill, aok neteller, qo moneylion, vi viber, wb wechat, bw signal, me line, kt kakaotalk, im imo,
rc skype, gf googlevoice, pm aol, dp protonmail, zh zoho, cn fiverr, abq upwork, bnl reddit, ef nextdoor,
gp ticketmaster, vk vkontakte, ya yandex, ma mailru, an adidas, ew nike, sr starbucks, ry mcdonalds, ot other
"""


SERVICES = pairs(_SERVICES)
"""Service code to word."""
