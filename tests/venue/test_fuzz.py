"""Whatever clients send, however they leave: the venue serves the others, and keeps nothing of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.venue.client import Control, VenueClient, logged_in
from tests.venue.conftest import a_setting
from tests.venue.fuzz import garbage, requests
from tests.venue.test_trading import begin_ms
from venue.calendar import M5_MS
from venue.main import RunningVenue, serve
from venue.protocol import messages

SEED = int(os.environ.get("TRADEGUARD_FUZZ_SEED", "20250106"))
CONNECTIONS = 200
LEFT_S = 20.0


@pytest.fixture
def rng() -> Random:
    print(f"TRADEGUARD_FUZZ_SEED={SEED}")
    return Random(SEED)  # noqa: S311 - no secret


@pytest.fixture(autouse=True)
def no_mistake_of_the_venues_own(caplog: pytest.LogCaptureFixture) -> Any:
    """Refusing is an answer, an exception is none: it is in the log, and fails the test."""
    caplog.set_level(logging.ERROR)  # what the loop says of broken connections would be kept, and counted
    yield
    mistakes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not mistakes, mistakes[0].exc_text or mistakes[0].getMessage()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def throw(ready: dict[str, Any], content: bytes, rng: Random) -> None:
    """Send bytes in pieces and leave: politely, abruptly, or not before the venue does."""
    context = ssl.create_default_context(cafile=ready["ca_file"])
    port = ready[rng.choice(["port", "json_port"])]
    reader, writer = await asyncio.open_connection(ready["host"], port, ssl=context)
    with contextlib.suppress(OSError):
        while content:
            size = rng.randrange(1, len(content) + 1)
            writer.write(content[:size])
            await writer.drain()
            content = content[size:]
        if rng.random() < 0.3:
            await asyncio.wait_for(reader.read(1_000), 0.05)
        if rng.random() < 0.5:
            writer.transport.abort()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def alone(control: Control) -> tuple[int, int, int]:
    """Wait until one client is left; return how many descriptors, tasks and objects there are."""
    for _ in range(round(LEFT_S / 0.02)):
        if (await control.get("/state"))["connections"] == 1:
            break
        await asyncio.sleep(0.02)
    gc.collect()
    return descriptors(), len(asyncio.all_tasks()), len(gc.get_objects())


async def test_random_bytes_leave_nothing_behind(venue: RunningVenue, control: Control, rng: Random) -> None:
    """No task, no descriptor, no object; and who speaks properly is served before and after."""
    async with logged_in(venue.ready) as client:
        for _ in range(5):
            await asyncio.gather(*(throw(venue.ready, garbage(rng), rng) for _ in range(10)))
        before = await alone(control)
        for _ in range(15):
            await asyncio.gather(*(throw(venue.ready, garbage(rng), rng) for _ in range(10)))
        after = await alone(control)
        assert isinstance(await client.ask(messages.ProtoOAVersionReq()), messages.ProtoOAVersionRes)
    print(f"descriptors, tasks, objects: {before} -> {after}")
    assert after[0] <= before[0] + 2  # one may still be closing
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] * 1.01  # 150 connections that were kept would be more


async def test_requests_of_any_content_are_answered_or_refused(tmp_path: Path, rng: Random) -> None:
    """Every kind, forty of each: numbers that do not fit, prices that are none, ids that are real."""
    settings = a_setting(
        tmp_path / "v", requests_per_s=100_000, history_requests_per_s=100_000, accounts=("demo-netted",)
    )
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        control = Control(venue.ready)
        ids = await client.symbol_ids()
        await client.ask(client.market_order(ids["EURUSD"], relativeStopLoss=900))
        await control.step(await begin_ms(control) + M5_MS)
        books = await control.get("/ledger")
        known = {
            "symbolId": tuple(ids.values()),
            "positionId": tuple(position["position_id"] for position in books["positions"]),
            "orderId": tuple(order["order_id"] for order in books["orders"]),
            "volume": (100_000, 200_000),
            "fromTimestamp": (books["time_ms"] - M5_MS,),
            "toTimestamp": (books["time_ms"],),
        }
        sent = 0
        for request in requests(rng, 40, client.account_id, known):
            client.send(request, f"f{sent}")
            sent += 1
            if sent % 100 == 0:
                await client.collect()
                await control.step(await begin_ms(control) + 20_000)
        await client.collect()
        state = await control.step(await begin_ms(control) + M5_MS)
        assert isinstance(await client.ask(messages.ProtoOAVersionReq()), messages.ProtoOAVersionRes)
        assert sent > 1_000
        assert state["connections"] == 1


async def test_two_hundred_connections_are_served_and_forgotten(tmp_path: Path, rng: Random) -> None:
    """All get the same quotes; half of them leave without a word."""
    async with serve(a_setting(tmp_path / "v")) as venue:
        control = Control(venue.ready)
        await control.get("/state")
        before = descriptors()
        async with contextlib.AsyncExitStack() as left:
            clients = []
            for _ in range(CONNECTIONS):
                clients.append(await (await VenueClient.connect(venue.ready)).log_in())
                left.push_async_callback(clients[-1].close)
            ids = await clients[0].symbol_ids()
            await asyncio.gather(*(client.subscribe(ids["EURUSD"]) for client in clients))
            for client in clients:
                await client.collect()
            await control.step(await begin_ms(control) + M5_MS)
            told = {tuple(spot.SerializeToString() for spot in await client.collect()) for client in clients}
            assert len(told) == 1
            assert len(told.pop()) > 10
            assert (await control.get("/state"))["connections"] == CONNECTIONS
            for client in rng.sample(clients, CONNECTIONS // 2):
                client.writer.transport.abort()
        for _ in range(round(LEFT_S / 0.02)):
            connections = (await control.get("/state"))["connections"]
            if connections == 0 and descriptors() <= before + 2:
                break
            await asyncio.sleep(0.02)
        assert connections == 0
        assert descriptors() <= before + 2  # one call of the control door may still be closing


async def test_half_open_sockets_are_let_go(venue: RunningVenue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handshake, without a byte, within a frame: each has its time."""
    monkeypatch.setattr("venue.server.HANDSHAKE_S_MAX", 0.3)
    monkeypatch.setattr("venue.server.CLIENT_SILENCE_S_MAX", 0.5)
    where = (venue.ready["host"], venue.ready["port"])
    context = ssl.create_default_context(cafile=venue.ready["ca_file"])
    silent = socket.create_connection(where)
    silent.setblocking(False)
    idle, _ = await asyncio.open_connection(*where, ssl=context)
    half, writer = await asyncio.open_connection(*where, ssl=context)
    writer.write(VenueClient.frame(messages.ProtoOAVersionReq())[:6])
    loop = asyncio.get_running_loop()
    for ended in (loop.sock_recv(silent, 1), idle.read(), half.read()):
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(ended, LEFT_S) == b""
    silent.close()
    async with logged_in(venue.ready) as client:
        assert isinstance(await client.ask(messages.ProtoOAVersionReq()), messages.ProtoOAVersionRes)
