"""Whole lives of an activation, on both databases."""

from __future__ import annotations

from pathlib import Path

from tests.harness import config_directory, environment, house


async def test_buy_wait_code_another_code_finish(tmp_path: Path, database_url: str) -> None:
    async with house(config_directory(tmp_path), environment(database_url)) as running:
        activation_id = await running.buy("tg", 6)
        assert await running.balance() == (10_000_000 - 80_000, 80_000)
        first = await running.until(activation_id, "STATUS_OK:")
        assert await running.call("setStatus", id=activation_id, status=8) == "BAD_STATUS"
        assert await running.call("setStatus", id=activation_id, status=3) == "ACCESS_RETRY_GET"
        assert await running.call("getStatus", id=activation_id) == first.replace("OK", "WAIT_RETRY")
        second = await running.until(activation_id, "STATUS_OK:")
        assert second != first
        assert await running.call("setStatus", id=activation_id, status=6) == "ACCESS_ACTIVATION"
        assert await running.call("setStatus", id=activation_id, status=6) == "ACCESS_ACTIVATION"
        assert await running.call("getStatus", id=activation_id) == "STATUS_CANCEL"
        assert await running.balance() == (10_000_000 - 80_000, 0)
        assert await running.problems() == []


async def test_cancel_gives_the_money_back(tmp_path: Path, database_url: str) -> None:
    async with house(config_directory(tmp_path), environment(database_url)) as running:
        activation_id = await running.buy("xmute", 6)
        assert await running.call("setStatus", id=activation_id, status=8) == "ACCESS_CANCEL"
        assert await running.call("setStatus", id=activation_id, status=-1) == "ACCESS_CANCEL"
        assert await running.call("getStatus", id=activation_id) == "STATUS_CANCEL"
        assert await running.call("setStatus", id=activation_id, status=6) == "BAD_STATUS"
        assert await running.balance() == (10_000_000, 0)
        assert await running.problems() == []
