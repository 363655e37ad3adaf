"""What belongs to an account: its profile, its orders page by page, what was paid in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from compat import _fivesim_render as render
from compat._fivesim_hosting import Hosting
from compat._fivesim_http import Call, Common, Reply, Said, page, product_name
from compat._fivesim_orders import Orders
from gateway import history, ledger
from gateway.accounts import Caller
from gateway.errors import TooManyRequests
from gateway.live import Live


class Account:
    """The verbs that name nothing but the account."""

    def __init__(self, common: Common, orders: Orders, hosting: Hosting) -> None:
        self._common = common
        self._orders = orders
        self._hosting = hosting

    async def profile(self, call: Call, caller: Caller) -> Reply:
        if not call.is_within:
            raise TooManyRequests
        house, words = self._common.house, self._common.words
        balance = await house.store.read(ledger.balance, caller.account_id)
        newest = await house.store.read(history.newest, caller.account_id)
        home = house.settings.catalog.countries.get(house.settings.gateway.server.default_country)
        last = render.last_order(words, newest) if newest is not None else ""
        body = render.profile(caller.account_id, caller.account_name, balance, home, words, last)
        return Reply(body.encode())

    async def orders(self, call: Call, caller: Caller) -> Reply:
        """Sorted by id whatever `order` says: ids and times run alike. Counted as a change: it walks all orders."""
        await self._common.front.count_change(caller)
        category = call.values.get("category")
        if category == "hosting":
            return await self._hosting.orders(call, caller)
        if category != "activation":
            raise Said("bad category")
        offset, limit, newest_first = page(call.values)
        ids, total = await self._common.house.store.read(
            history.order_ids, caller.account_id, offset, limit, newest_first=newest_first
        )
        rows = [self._orders.rendered(live).body.decode() async for live in self._read(caller, ids)]
        return Reply(render.orders(rows, total).encode())

    async def _read(self, caller: Caller, ids: Sequence[int]) -> AsyncIterator[Live]:
        """Orders of a page; nearly all of those that anybody pages through often are in memory."""
        for activation_id in ids:
            live = self._common.front.activations.peek(caller.account_id, activation_id)
            if live is None:
                live = await self._common.front.activations.get(caller, activation_id)
            self._orders.show(caller, live)
            self._common.front.readers.saw(caller, live)
            yield live

    async def payments(self, call: Call, caller: Caller) -> Reply:
        # Counted as a change, because it reads the whole ledger.
        await self._common.front.count_change(caller)
        offset, limit, newest_first = page(call.values)
        rows = await self._common.house.store.read(history.deposits, ledger.available(caller.account_id))
        return Reply(render.payments(rows, offset, limit, newest_first=newest_first).encode())

    async def max_prices(self, call: Call, caller: Caller) -> Reply:
        """No account-wide limits are kept, and none may seem to be: each order has a cap of its own."""
        if call.scope["method"] == "GET":
            return Reply(b"[]")
        await self._common.front.count_change(caller)
        product = await product_name(call.receive)
        if not product:
            raise Said("product_name is empty")
        raise Said("record not found" if product in self._common.words.service_of else "product is incorrect")
