"""What was decided on is what the venue says there was: prices exactly, the volume within a tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.gateway import history_check
from services.gateway.history_check import VOLUME_TOLERANCE_TICKS, difference
from services.gateway.slices import Bar
from tests.conftest import RedisServer
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import M5_MS, a_gateway, a_place

BAR = Bar("EURUSD", 0, 110_000, 110_020, 109_990, 110_010, 50)
SYNTHETIC = Bar("EURUSD", 0, 110_000, 110_000, 110_000, 110_000, 0, synthetic=True)


def test_equal_bars_do_not_differ() -> None:
    """A few ticks of the ask that came after the last bid are no difference."""
    assert difference(BAR, BAR) is None
    assert difference(BAR, BAR._replace(volume=50 + VOLUME_TOLERANCE_TICKS)) is None
    assert difference(BAR._replace(volume=5_100), BAR._replace(volume=5_000)) is None
    assert difference(SYNTHETIC, None) is None


@pytest.mark.parametrize(
    ("seen", "kept", "words"),
    [
        (BAR, BAR._replace(close=110_011), "EURUSD: close 110010 is 110011"),
        (BAR, BAR._replace(high=110_021, low=109_989), "EURUSD: high 110020 is 110021, low 109990 is 109989"),
        (BAR, BAR._replace(volume=53), "EURUSD: volume 50 is 53"),
        (BAR, None, "EURUSD: the venue has none"),
        (SYNTHETIC, BAR, "EURUSD: none was seen, the venue has one"),
    ],
)
def test_difference_is_said_in_words(seen: Bar[int], kept: Bar[int] | None, words: str) -> None:
    """Prices agree to the last point."""
    assert difference(seen, kept) == words


@pytest.fixture
def checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_LOOK_S", "LOOK_AGAIN_S", "PAUSE_S"):
        monkeypatch.setattr(history_check, name, 0.0)
    monkeypatch.setattr(history_check, "LOOKS", 2)


@pytest.mark.redis
@pytest.mark.usefixtures("history_at_once", "checked_at_once")
@on_loop
async def test_bars_as_they_come_agree_with_the_history(tmp_path: Path, valkey: RedisServer) -> None:
    """Every live bar is looked up, and none differs."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        for _ in range(4):
            await place.step(M5_MS)
        check = gateway.feed._history_check
        await until(lambda: check.checked >= 8, within_s=30)
        assert check.different == 0
        assert not await place.has_alarm("differ from the venue's history")


@pytest.mark.redis
@pytest.mark.usefixtures("history_at_once", "checked_at_once")
@pytest.mark.parametrize(
    ("fault", "how", "words"),
    [
        (
            "quotes_ask_only",
            {"count": 2_000, "symbol": "EURUSD"},
            "differ from the venue's history: EURUSD: ",
        ),
        ("history_late", {"count": 1_000}, "EURUSD: the venue has none"),
    ],
)
@on_loop
async def test_bar_that_differs_is_an_alarm_and_is_counted(
    tmp_path: Path, valkey: RedisServer, fault: str, how: dict[str, Any], words: str
) -> None:
    """Whoever trades on bars that never were should hear of it."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        await place.step(M5_MS)
        place.fault(fault, **how)
        for _ in range(3):
            await place.step(M5_MS)
        await until_so(lambda: place.has_alarm(words), within_s=30)
        assert gateway.feed._history_check.different >= 1
