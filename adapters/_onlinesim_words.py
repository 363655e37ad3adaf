"""OnlineSim's words for services, and ours: defaults, which a stanza may override one by one.

Facts: `protocol/upstreams/others.md` §2. A service is the `slug` of the statistics, in lower case.
"""

from __future__ import annotations

from adapters._words import pairs

_SERVICES = """
tg telegram, wa whatsapp, vi viber, vk vkcom, ok odnoklassniki, go google, fb facebook, ig instagram, tw twitter,
wb wechat, mm microsoft, mb yahoo, ub uber, av avito, ya yandex, ma mailru, mt steam, oi tinder, am amazon, ds discord,
dr openai, lf tiktok, ts paypal, nf netflix, ka shopee, dl lazada, me line, kt kakaotalk, fu snapchat, tn linkedin,
wx apple, uk airbnb, re coinbase, bw signal, hb twitch, dh ebay, pm aol, dp protonmail, ot other
"""


SERVICES = pairs(_SERVICES)
"""Service code to slug."""

SOLE_OWNERS = {"1": 187, "7": 0, "44": 16, "212": 37}
"""A country is a dialling prefix there, so one of ours has to stand for each prefix that several share.

The United States (the physical ones, not 12), Russia, the United Kingdom and Morocco. The others with these prefixes
(Canada, the Caribbean, Kazakhstan, Jersey, Western Sahara) are sold only where a stanza names a word for them.
"""
