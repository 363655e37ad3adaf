"""5sim's words for countries and products, and ours: to buy by (a stanza may override them) and to serve its protocol.

Facts: `protocol/upstreams/fivesim.md` §11, and the last paragraph of `handler_api_family.md` §10.
"""

from __future__ import annotations

_COUNTRIES = """
afghanistan af, albania al, algeria dz, angola ao, argentina ar, armenia am, australia au, austria at,
azerbaijan az, bahrain bh, bangladesh bd, belarus by, belgium be, benin bj, bhutane bt, bih ba, bolivia bo, botswana bw,
brazil br, bulgaria bg, burkinafaso bf, burundi bi, cambodia kh, cameroon cm, canada ca, chad td, chile cl,
china cn, colombia co, costarica cr, croatia hr, cyprus cy, czech cz, denmark dk, djibouti dj, dominicana do,
easttimor tl, ecuador ec, egypt eg, england gb, estonia ee, ethiopia et, finland fi, france fr, gabon ga, gambia gm,
georgia ge, germany de, ghana gh, greece gr, guatemala gt, guinea gn, guyana gy, haiti ht, honduras hn, hongkong hk,
hungary hu, india in, indonesia id, ireland ie, israel il, italy it, ivorycoast ci, jamaica jm, japan jp, jordan jo,
kazakhstan kz, kenya ke, kuwait kw, kyrgyzstan kg, laos la, latvia lv, lesotho ls, liberia lr, lithuania lt,
luxembourg lu, macau mo, madagascar mg, malawi mw, malaysia my, maldives mv, mauritania mr, mauritius mu, mexico mx,
moldova md, mongolia mn, montenegro me, morocco ma, mozambique mz, myanmar mm, namibia na, nepal np, netherlands nl,
newzealand nz, nicaragua ni, niger ne, nigeria ng, northmacedonia mk, norway no, oman om, pakistan pk, panama pa,
papuanewguinea pg, paraguay py, peru pe, philippines ph, poland pl, portugal pt, puertorico pr, romania ro,
russia ru, rwanda rw, salvador sv, saudiarabia sa, senegal sn, serbia rs, sierraleone sl, singapore sg, slovakia sk,
slovenia si, southafrica za, southkorea kr, spain es, srilanka lk, suriname sr, swaziland sz, sweden se,
switzerland ch, taiwan tw, tajikistan tj, tanzania tz, thailand th, tit tt, togo tg, tunisia tn, turkey tr,
turkmenistan tm, uganda ug, ukraine ua, uruguay uy, usa us, uzbekistan uz, venezuela ve, vietnam vn, zambia zm,
zimbabwe zw
"""

_PRODUCTS = """
tg telegram, wa whatsapp, vi viber, vk vkontakte, ok odnoklassniki, go google, fb facebook, ig instagram,
tw twitter, wb wechat, mm microsoft, mb yahoo, ub uber, av avito, ya yandex, ma mailru, ym youla, mt steam,
oi tinder, am amazon, ds discord, dr openai, lf tiktok, ts paypal, nf netflix, ka shopee, dl lazada, me line,
kt kakaotalk, fu snapchat, tn linkedin, wx apple, uk airbnb, re coinbase, jg grabtaxi, ni gojek, bw signal,
hb twitch, dh ebay, xk didi, pm aol, kp tencentqq, ot other
"""


def _pairs(table: str) -> dict[str, str]:
    words = table.replace(",", " ").split()
    return dict(zip(words[::2], words[1::2], strict=True))


COUNTRIES = {letters.upper(): slug for slug, letters in _pairs(_COUNTRIES).items()}
"""ISO letters to slug. `congo` is left out: its letters and its dialling code name two different countries."""

PRODUCTS = _pairs(_PRODUCTS)
"""Service code to product."""
