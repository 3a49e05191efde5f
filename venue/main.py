"""The simulated venue as a process: wires market, books and doors, says where it is, waits to be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import uvloop

from shared.clock import monotonic_s
from shared.errors import InputError, UnavailableError
from shared.settings import exit_with, load
from venue.bars import BarStore
from venue.book import CHARGES, CONTRACTS
from venue.certificates import CA_NAME, server_context
from venue.control import ControlDoor
from venue.credentials import Credentials, load_credentials
from venue.directory import Directory
from venue.exchange import Exchange, Pace, Stepped
from venue.faults import Faults, faults_of
from venue.ledger import Ledger
from venue.liquidity import Liquidity
from venue.market_files import open_files, open_synthetic, start_ms
from venue.matching import Matching
from venue.money import CENTS
from venue.playback import Playback
from venue.server import VenueServer
from venue.session import Floor
from venue.settings import VenueSettings
from venue.terms import Terms
from venue.translation import Translator

WAIT_S_MAX = 0.25  # between two looks at the time, so that the books know it

log = logging.getLogger(__name__)


class Paced:
    """Time runs `speed` times as fast as real time, from where it stood."""

    def __init__(self, from_ms: int, speed: float) -> None:
        self._from_ms, self._speed, self._since_s = from_ms, speed, monotonic_s()

    def now_ms(self, played_ms: int) -> int:
        """Return the venue's time; never before the last moment played."""
        return max(played_ms, self._from_ms + int((monotonic_s() - self._since_s) * 1_000 * self._speed))


@dataclass(frozen=True, slots=True)
class RunningVenue:
    """A venue that is open."""

    ready: dict[str, Any]  # where it is, and the secrets to get in
    exchange: Exchange
    stop: asyncio.Event  # set it, or wait for it


@asynccontextmanager
async def serve(settings: VenueSettings) -> AsyncIterator[RunningVenue]:
    """Open a venue; it closes when the context ends.

    Raises:
        InputError: the settings do not fit the market or the books.
        UnavailableError: another venue holds the folder, or a port is taken.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    ledger = Ledger(settings.state_dir)
    try:
        async with _opened(settings, ledger) as running:
            yield running
    finally:
        ledger.close()


@asynccontextmanager
async def _opened(settings: VenueSettings, ledger: Ledger) -> AsyncIterator[RunningVenue]:
    exchange = _exchange(settings, ledger)
    credentials = load_credentials(settings.state_dir)
    directory = Directory(CONTRACTS)
    translator = Translator(directory, credentials.account_id)
    floor = Floor(
        exchange,
        ledger,
        directory,
        translator,
        credentials,
        requests_per_s=settings.requests_per_s,
        history_requests_per_s=settings.history_requests_per_s,
    )
    server = VenueServer(floor)
    exchange.listener = server
    stop = asyncio.Event()
    door = ControlDoor(exchange, server, credentials, stop, stepped=settings.speed == 0)
    context = server_context(settings.state_dir, settings.names)
    player: asyncio.Task[None] | None = None
    try:
        try:
            credentials.port = await server.start(settings.host, settings.port or credentials.port, context)
            credentials.control_port = await door.start(settings.control_port or credentials.control_port)
        except OSError as error:
            raise UnavailableError(f"the venue cannot listen: {error}") from error
        credentials.save()
        if settings.speed:
            player = asyncio.create_task(_play(exchange, settings.speed))
            player.add_done_callback(lambda _: stop.set())  # a market that stands still is no market
        yield RunningVenue(_ready(settings, credentials, directory), exchange, stop)
    finally:
        if player is not None:
            player.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await player
        await door.stop()
        await server.stop()


def _exchange(settings: VenueSettings, ledger: Ledger) -> Exchange:
    """Return the venue's core, new or as its books left it."""
    store = _market(settings, ledger)
    begin_ms = start_ms(store, settings.start, settings.history_slices)
    ledger.pledge("start_ms", str(begin_ms))
    marked = ledger.mark("time_ms")
    time_ms = begin_ms - 1 if marked is None else int(marked)
    faults = _faults(settings)
    pace: Pace = Paced(time_ms, settings.speed) if settings.speed else Stepped()
    return Exchange.resume(
        Playback(store, time_ms),
        Matching(
            _terms(settings),
            liquidity=_liquidity(settings),
            protection_delay_ms=faults.protection_delay_ms,
        ),
        ledger,
        faults,
        pace,
        deposit_cents=int(settings.initial_balance * CENTS),
    )


def _terms(settings: VenueSettings) -> Terms:
    """Return the rules under which the account trades."""
    return Terms(
        CONTRACTS,
        charges=CHARGES,
        deposit_asset=settings.deposit_asset,
        leverage=settings.leverage,
        margin_sum=settings.margin_sum,
        stop_out_percent=settings.stop_out_percent,
        latency_ms=settings.latency_ms,
        commission=settings.commission,
        swap_free=settings.swap_free,
        conversion_fee=settings.conversion_fee,
    )


def _liquidity(settings: VenueSettings) -> Liquidity:
    """Return the depth behind the quotes; its draws come from the market's seed."""
    return Liquidity(settings.seed, settings.slippage_ticks_max, settings.partial_fill_fraction)


def _faults(settings: VenueSettings) -> Faults:
    """Return the faults of the settings' file; their draws come from the market's seed unless it has one."""
    if settings.faults is None:
        return Faults(settings.seed)
    try:
        text = settings.faults.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"VENUE_FAULTS: {settings.faults} cannot be read: {error}") from error
    return faults_of(text, settings.seed)


def _market(settings: VenueSettings, ledger: Ledger) -> BarStore:
    """Return the market of the settings, once it is sure that the books were begun with it."""
    folder = settings.state_dir
    if settings.data_dir is not None:
        ledger.pledge("market", f"files {settings.data_dir.resolve()}")
        return open_files(folder, settings.data_dir)
    since = settings.market_start.isoformat()
    ledger.pledge("market", f"synthetic seed {settings.seed} from {since}, {settings.slices} slices")
    return open_synthetic(folder, seed=settings.seed, start=settings.market_start, slices=settings.slices)


async def _play(exchange: Exchange, speed: float) -> None:
    """Let time run until this is cancelled."""
    while True:
        await exchange.play(exchange.now_ms)
        next_ms = exchange.playback.next_quote_ms
        wait_s = WAIT_S_MAX if next_ms is None else (next_ms - exchange.now_ms) / 1_000 / speed
        await asyncio.sleep(min(max(wait_s, 0.0), WAIT_S_MAX))


def _ready(settings: VenueSettings, credentials: Credentials, directory: Directory) -> dict[str, Any]:
    return {
        "ready": True,
        "host": settings.host,
        "port": credentials.port,
        "ws_port": None,
        "rest_port": None,
        "control_port": credentials.control_port,
        "control_token": credentials.control_token,
        "ca_file": str((settings.state_dir / CA_NAME).resolve()),
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
        "access_token": credentials.access_token,
        "refresh_token": credentials.refresh_token,
        "account_id": credentials.account_id,
        "symbols": list(directory.contracts),
    }


async def run(settings: VenueSettings) -> None:
    """Serve until SIGTERM, SIGINT or the control door says stop."""
    async with serve(settings) as venue:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, venue.stop.set)
        sys.stdout.write(orjson.dumps(venue.ready).decode() + "\n")
        sys.stdout.flush()
        await venue.stop.wait()


def main() -> None:
    """Run the venue as its own process."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(load(VenueSettings)))
    except InputError as error:
        exit_with(error)
    except UnavailableError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
