"""Numbers open upstream that the gateway knows nothing of."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway import settling
from tests.harness import config_directory, environment, house
from tests.simulators import handler_api
from tests.simulators._serve import serve


@pytest.mark.parametrize(("is_exclusive", "left_open"), [(True, 0), (False, 1)])
async def test_a_stranger_is_cancelled_only_where_the_account_is_ours_alone(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, is_exclusive: bool, left_open: int
) -> None:
    monkeypatch.setattr(settling, "STRANGER_SECONDS_MIN", -2.0)
    app = handler_api.build(brand="herosms", early_cancel_seconds=0, sms_delay_seconds=None)
    with serve(app) as base:
        query = {"api_key": handler_api.DEFAULT_KEY, "action": "getNumber", "service": "tg", "country": "6"}
        async with httpx.AsyncClient() as client:
            bought = await client.get(base + handler_api.PATH, params=query)
        assert bought.text.startswith("ACCESS_NUMBER:")
        upstreams = f'[herosms]\nbase_url = "{base}{handler_api.PATH}"\nexclusive = {str(is_exclusive).lower()}\n'
        values = environment(sqlite_url, HEROSMS_API_KEY=handler_api.DEFAULT_KEY)
        async with house(config_directory(tmp_path, upstreams), values, is_demo=False) as running:
            await running.gateway.settling.sweep_strangers()
            assert len(app.state.sim.open) == left_open
            assert (await running.client.get("/metrics")).text.count('simroute_strangers{upstream="herosms"} 1.0') == 1
