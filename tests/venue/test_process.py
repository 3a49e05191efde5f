"""The venue as a process: it says where it is, survives being killed, and refuses what makes no sense."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InputError, UnavailableError
from tests.venue.client import Control, VenueClient, logged_in
from tests.venue.conftest import a_setting
from venue.calendar import M5_MS
from venue.main import serve
from venue.protocol import messages

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 20.0

pytestmark = pytest.mark.process


async def start(state_dir: Path, **fields: str) -> asyncio.subprocess.Process:
    values = {"SEED": "7", "SLICES": "700", "HISTORY_SLICES": "400", **fields}
    environment = {f"VENUE_{name}": value for name, value in values.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "venue.main",
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VENUE_STATE_DIR": str(state_dir), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def a_process(state_dir: Path, **fields: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """Yield a venue's process and its ready line; killed at the end if it still runs."""
    process = await start(state_dir, **fields)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        assert line, (await process.communicate())[1].decode()
        yield process, json.loads(line)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_killed_venue_comes_back_with_books_time_ports_and_secrets(tmp_path: Path) -> None:
    """SIGKILL leaves no time for anything: whatever a client was told is on disk already."""
    async with a_process(tmp_path / "v") as (process, ready):
        control = Control(ready)
        client = await (await VenueClient.connect(ready)).log_in()
        ids = await client.symbol_ids()
        await client.ask(client.market_order(ids["EURUSD"], relativeStopLoss=900, clientOrderId="a"))
        state = await control.step((await control.get("/state"))["time_ms"] + 2 * M5_MS + 1_234)
        await client.ask(client.market_order(ids["GBPUSD"], relativeStopLoss=900, clientOrderId="b"))
        books = await control.get("/ledger")
        process.send_signal(signal.SIGKILL)
        await process.wait()
        with pytest.raises(asyncio.IncompleteReadError):
            await client.wait_for(messages.ProtoOAClientDisconnectEvent)  # nothing says goodbye
        await client.close()
    async with a_process(tmp_path / "v") as (process, again):
        assert again == ready
        control = Control(again)
        assert await control.get("/ledger") == books
        async with logged_in(again) as client:
            back = await client.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=client.account_id))
            assert [order.clientOrderId for order in back.order] == ["b"]
            assert len(back.position) == 1
            await control.step(state["time_ms"] + M5_MS)
            books = await control.get("/ledger")
            assert [position["symbol"] for position in books["positions"]] == ["EURUSD", "GBPUSD"]
            assert len({order["order_id"] for order in books["orders"]}) == 4
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def streamed(state_dir: Path, *runs_ms: int) -> list[tuple[Any, ...]]:
    """Return all that is streamed when the venue plays so long, is stopped, and plays on."""
    spots: list[Any] = []
    for play_ms in runs_ms:
        async with serve(a_setting(state_dir)) as venue, logged_in(venue.ready) as client:
            control = Control(venue.ready)
            await client.subscribe(*(await client.symbol_ids()).values(), bars=True)
            await client.collect()
            await control.step((await control.get("/state"))["time_ms"] + play_ms)
            spots += await client.collect()
    return [(spot.symbolId, spot.timestamp, spot.bid, spot.ask, str(spot.trendbar)) for spot in spots]


async def test_restart_plays_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Quotes and bars after a restart in the middle of a bar are those of an unbroken run."""
    whole = await streamed(tmp_path / "whole", 3 * M5_MS)
    broken = await streamed(tmp_path / "broken", M5_MS + 100_000, 2 * M5_MS - 100_000)
    assert whole == broken
    assert len(whole) > 200


async def test_shutdown_by_the_control_door_ends_the_process(tmp_path: Path) -> None:
    """A supervisor on any system can stop the venue without signals."""
    async with a_process(tmp_path / "v") as (process, ready):
        await Control(ready).call("POST", "/shutdown")
        assert await process.wait() == 0


async def test_time_runs_by_itself_at_speed_and_cannot_be_stepped(tmp_path: Path) -> None:
    """At 600 times real time half a second is five minutes of quotes."""
    async with serve(a_setting(tmp_path / "v", speed=600)) as venue, logged_in(venue.ready) as client:
        await client.subscribe(*(await client.symbol_ids()).values())
        stamps = [(await client.wait_for(messages.ProtoOASpotEvent)).timestamp for _ in range(60)]
        assert stamps[-1] > stamps[0]
        status, _ = await Control(venue.ready).call("POST", "/step", {"until_ms": stamps[-1] + 10**9})
        assert status == 409


async def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    """The folder of the venue holds tokens and keys."""
    async with serve(a_setting(tmp_path / "v")):
        for name in ("credentials.json", "ca-key.pem", "server.pem"):
            assert stat.S_IMODE((tmp_path / "v" / name).stat().st_mode) == 0o600


async def test_books_are_held_by_one_venue_and_belong_to_one_market(tmp_path: Path) -> None:
    """Two venues on one ledger, or one ledger on two markets, would be books about nothing."""
    async with serve(a_setting(tmp_path / "v")):
        with pytest.raises(UnavailableError):
            async with serve(a_setting(tmp_path / "v")):
                pass
    with pytest.raises(InputError, match="use another folder"):
        async with serve(a_setting(tmp_path / "v", seed=8)):
            pass


async def test_bad_settings_end_with_one_sentence_and_status_two(tmp_path: Path) -> None:
    """Who starts a venue by hand is told which setting to mend."""
    process = await start(tmp_path / "v", SPEED="-1")
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().count("\n") == 1
    assert "VENUE_SPEED" in said.decode()


async def test_bars_from_files_are_played_with_modelled_volumes(tmp_path: Path) -> None:
    """The files are read once; what they lack in volume the quote path supplies, live and in history."""
    rows = ["symbol,time,open,high,low,close"]
    prices = {
        "EURUSD": "1.1,1.101,1.099,1.1005",
        "GBPUSD": "1.3,1.301,1.299,1.3",
        "USDJPY": "110,110.1,109.9,110",
        "USDCHF": "0.98,0.981,0.979,0.98",
        "XAUUSD": "1300,1301,1299,1300.5",
    }
    for minute in range(0, 50, 5):
        rows += [f"{symbol},2018-01-02T10:{minute:02d}:00Z,{row}" for symbol, row in prices.items()]
    (tmp_path / "bars.csv").write_text("\n".join(rows) + "\n")
    settings = a_setting(tmp_path / "v", data_dir=tmp_path / "bars.csv", history_slices=5)
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        control = Control(venue.ready)
        await control.step((await control.get("/state"))["time_ms"] + 2 * M5_MS)
        ids = await client.symbol_ids()
        history = await client.ask(
            messages.ProtoOAGetTrendbarsReq(
                ctidTraderAccountId=client.account_id,
                fromTimestamp=0,
                toTimestamp=2_000_000_000_000,
                period=5,
                symbolId=ids["EURUSD"],
                count=100,
            )
        )
        assert len(history.trendbar) == 7
        assert all(12 <= bar.volume <= 60 for bar in history.trendbar)
        assert history.trendbar[-1].low + history.trendbar[-1].deltaClose == 110_050
