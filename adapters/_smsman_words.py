"""Names that sms-man gives to countries and services, and ours. Its ids are numbers that only its own lists explain.

Facts: `protocol/upstreams/others.md` §3. Names are compared in lower case, with letters and digits only. Country names
follow the catalogue; both tables add the spellings met elsewhere.
"""

from __future__ import annotations

from adapters._words import pairs

_COUNTRIES = """
afghanistan af, albania al, algeria dz, angola ao, anguilla ai, antiguaandbarbuda ag, argentina ar, armenia am, aruba
aw, australia au, austria at, azerbaijan az, bahamas bs, bahrain bh, bangladesh bd, barbados bb, belarus by, belgium
be, belize bz, benin bj, bermuda bm, bhutan bt, bolivia bo, bosnia ba, bosniaandherzegovina ba, botswana bw, brazil
br, brunei bn, bulgaria bg, burkinafaso bf, burma mm, burundi bi, cambodia kh, cameroon cm, canada ca, capeverde cv,
caymanislands ky, centralafricanrepublic cf, chad td, chile cl, china cn, colombia co, comoros km, costarica cr,
cotedivoire ci, croatia hr, cuba cu, cyprus cy, czech cz, czechia cz, czechrepublic cz, democraticrepublicofthecongo
cd, denmark dk, djibouti dj, dominica dm, dominicana do, dominicanrepublic do, drcongo cd, easttimor tl, ecuador ec,
egypt eg, elsalvador sv, england gb, equatorialguinea gq, eritrea er, estonia ee, eswatini sz, ethiopia et,
faroeislands fo, fiji fj, finland fi, france fr, frenchguiana gf, gabon ga, gambia gm, georgia ge, germany de, ghana
gh, gibraltar gi, greatbritain gb, greece gr, grenada gd, guadeloupe gp, guatemala gt, guinea gn, guineabissau gw,
guyana gy, haiti ht, holland nl, honduras hn, hongkong hk, hungary hu, iceland is, india in, indonesia id, iran ir,
iraq iq, ireland ie, israel il, italy it, ivorycoast ci, jamaica jm, japan jp, jersey je, jordan jo, kazakhstan kz,
kenya ke, korea kr, kosovo xk, kuwait kw, kyrgyzstan kg, laos la, latvia lv, lebanon lb, lesotho ls, liberia lr, libya
ly, liechtenstein li, lithuania lt, luxembourg lu, macao mo, macau mo, macedonia mk, madagascar mg, malawi mw,
malaysia my, maldives mv, mali ml, malta mt, mauritania mr, mauritius mu, mexico mx, moldova md, monaco mc, mongolia
mn, montenegro me, montserrat ms, morocco ma, mozambique mz, myanmar mm, namibia na, nepal np, netherlands nl,
newcaledonia nc, newzealand nz, nicaragua ni, niger ne, nigeria ng, niue nu, northkorea kp, northmacedonia mk, norway
no, oman om, pakistan pk, palestine ps, panama pa, papuanewguinea pg, paraguay py, peru pe, philippines ph, poland pl,
portugal pt, puertorico pr, qatar qa, republicofthecongo cg, reunion re, romania ro, russia ru, russianfederation ru,
rwanda rw, saintkittsandnevis kn, saintlucia lc, saintvincentandthegrenadines vc, salvador sv, samoa ws,
saotomeandprincipe st, saudiarabia sa, senegal sn, serbia rs, seychelles sc, sierraleone sl, singapore sg, slovakia
sk, slovenia si, solomonislands sb, somalia so, southafrica za, southkorea kr, southsudan ss, spain es, srilanka lk,
sudan sd, suriname sr, swaziland sz, sweden se, switzerland ch, syria sy, taiwan tw, tajikistan tj, tanzania tz,
thailand th, timorleste tl, togo tg, tonga to, trinidadandtobago tt, tunisia tn, turkey tr, turkiye tr, turkmenistan
tm, uae ae, uganda ug, uk gb, ukraine ua, unitedarabemirates ae, unitedkingdom gb, unitedstates us,
unitedstatesofamerica us, uruguay uy, usa us, uzbekistan uz, venezuela ve, vietnam vn, westernsahara eh, yemen ye,
zambia zm, zimbabwe zw
"""

_SERVICES = """
vkontakte vk, vk vk, odnoklassniki ok, mailru ma, google go, gmail go, youtube go, facebook fb, instagram ig, tiktok lf,
yandex ya, uber ub, microsoft mm, hotmail mm, outlook mm, openai dr, chatgpt dr, line me, alipay hw, aliexpress hx,
linkedin tn, tinder oi, apple wx, whatsapp wa, telegram tg, signal bw, other ot, anyother ot
"""


COUNTRIES = pairs(_COUNTRIES)
"""Plain name to ISO letters."""

SERVICES = pairs(_SERVICES)
"""Plain name to service code, where the catalogue's own names don't say it."""
