"""The simulated venue as a process: wires market, books and doors, says where it is, waits to be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import uvloop

from shared.clock import monotonic_s
from shared.errors import InputError, UnavailableError
from shared.settings import exit_with, load
from venue.bars import BarStore
from venue.book import CHARGES, CONTRACTS
from venue.certificates import CA_NAME, server_context
from venue.connection import Lobby
from venue.control import ControlDoor
from venue.credentials import Credentials, Environment, load_credentials
from venue.directory import FIRST_LIVE_SYMBOL_ID, Directory
from venue.exchange import Exchange, Pace, Stepped
from venue.faults import Faults, faults_of
from venue.ledger import Ledger
from venue.liquidity import Liquidity
from venue.market_files import open_files, open_synthetic, start_ms
from venue.matching import Matching
from venue.money import CENTS
from venue.playback import Playback
from venue.playing import play
from venue.rest import TokenDesk, refused
from venue.server import Door, VenueServer
from venue.session import Floor
from venue.settings import ACCOUNTS, VenueSettings
from venue.terms import AccountKind, Terms
from venue.translation import Translator
from venue.web import WebDoor

WAIT_S_MAX = 0.25  # between two looks at the time, so that the books know it

# Every door takes bare TLS and WebSocket; those for JSON take WebSocket alone.
_DOORS = {
    "port": Door(),
    "json_port": Door(json_only=True),
    "live_port": Door(Environment.LIVE),
    "live_json_port": Door(Environment.LIVE, json_only=True),
}

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
    with contextlib.ExitStack() as ledgers:
        first = Ledger(settings.state_dir)  # whoever holds these books holds the folder
        ledgers.callback(first.close)
        credentials = load_credentials(
            settings.state_dir,
            applications=settings.applications,
            accounts=[ACCOUNTS[account] for account in settings.accounts],
            seed=settings.seed,
            token_life_s=settings.token_life_s,
        )
        books = [first]
        for account in credentials.accounts[1:]:
            folder = settings.state_dir / "accounts" / str(account.account_id)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            books.append(Ledger(folder))
            ledgers.callback(books[-1].close)
        async with _opened(settings, credentials, _floors(settings, credentials, books)) as running:
            yield running


@asynccontextmanager
async def _opened(
    settings: VenueSettings, credentials: Credentials, floors: list[Floor]
) -> AsyncIterator[RunningVenue]:
    exchange = floors[0].exchange
    lobby = Lobby(
        credentials,
        {floor.account.account_id: floor for floor in floors},
        exchange.faults,
        exchange,
        requests_per_s=settings.requests_per_s,
        history_requests_per_s=settings.history_requests_per_s,
    )
    server = VenueServer(lobby)
    stop = asyncio.Event()
    control = ControlDoor(floors, server, credentials, stop, stepped=settings.speed == 0)
    rest = WebDoor(TokenDesk(credentials, server.end_grant).answer, refused)
    player: asyncio.Task[None] | None = None
    try:
        await _open_doors(settings, credentials, server, rest, control)
        if settings.speed:
            player = asyncio.create_task(_play([floor.exchange for floor in floors], settings.speed))
            player.add_done_callback(lambda _: stop.set())  # a market that stands still is no market
        yield RunningVenue(_ready(settings, credentials, floors[0]), exchange, stop)
    finally:
        if player is not None:
            player.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await player
        await control.stop()
        await rest.stop()
        await server.stop()


async def _open_doors(
    settings: VenueSettings,
    credentials: Credentials,
    server: VenueServer,
    rest: WebDoor,
    control: ControlDoor,
) -> None:
    """Open every door, on its old port where none is asked for; what is open is kept for the next start."""
    context = server_context(settings.state_dir, settings.names)
    ports = credentials.ports
    has_live = any(account.environment is Environment.LIVE for account in credentials.accounts)
    try:
        for name, door in _DOORS.items():
            if door.environment is Environment.DEMO or has_live:
                asked = getattr(settings, name) or ports.get(name, 0)
                ports[name] = server.open(door, settings.host, asked, context)
        asked = settings.rest_port or ports.get("rest_port", 0)
        ports["rest_port"] = await rest.start(settings.host, asked, context)
        ports["control_port"] = await control.start(settings.control_port or ports.get("control_port", 0))
    except OSError as error:
        raise UnavailableError(f"the venue cannot listen: {error}") from error
    credentials.save()


def _floors(settings: VenueSettings, credentials: Credentials, books: list[Ledger]) -> list[Floor]:
    """Return what the sessions of each account work with."""
    store = _store(settings)
    faults = _faults(settings)
    directories = {
        Environment.DEMO: Directory(CONTRACTS),
        Environment.LIVE: Directory(CONTRACTS, FIRST_LIVE_SYMBOL_ID),
    }
    floors = []
    for account, ledger in zip(credentials.accounts, books, strict=True):
        directory = directories[account.environment]
        exchange = _exchange(settings, store, ledger, faults, account.kind)
        translator = Translator(directory, account.account_id)
        floors.append(Floor(account, exchange, ledger, directory, translator))
    return floors


def _exchange(
    settings: VenueSettings, store: BarStore, ledger: Ledger, faults: Faults, kind: AccountKind
) -> Exchange:
    """Return an account with its books, new or as they were left."""
    ledger.pledge("market", _market(settings))
    begin_ms = start_ms(store, settings.start, settings.history_slices)
    ledger.pledge("start_ms", str(begin_ms))
    marked = ledger.mark("time_ms")
    time_ms = begin_ms - 1 if marked is None else int(marked)
    pace: Pace = Paced(time_ms, settings.speed) if settings.speed else Stepped()
    return Exchange.resume(
        Playback(store, time_ms),
        Matching(
            _terms(settings, kind),
            liquidity=_liquidity(settings),
            protection_delay_ms=faults.protection_delay_ms,
        ),
        ledger,
        faults,
        pace,
        deposit_cents=int(settings.initial_balance * CENTS),
    )


def _terms(settings: VenueSettings, kind: AccountKind) -> Terms:
    """Return the rules under which the account trades."""
    return Terms(
        CONTRACTS,
        charges=CHARGES,
        kind=kind,
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


def _market(settings: VenueSettings) -> str:
    """Return which market it is: books belong to one."""
    if settings.data_dir is not None:
        return f"files {settings.data_dir.resolve()}"
    since = settings.market_start.isoformat()
    return f"synthetic seed {settings.seed} from {since}, {settings.slices} slices"


def _store(settings: VenueSettings) -> BarStore:
    folder = settings.state_dir
    if settings.data_dir is not None:
        return open_files(folder, settings.data_dir)
    return open_synthetic(folder, seed=settings.seed, start=settings.market_start, slices=settings.slices)


async def _play(exchanges: list[Exchange], speed: float) -> None:
    """Let time run until this is cancelled."""
    first = exchanges[0]
    while True:
        await play(exchanges, first.now_ms)
        next_ms = first.playback.next_quote_ms
        wait_s = WAIT_S_MAX if next_ms is None else (next_ms - first.now_ms) / 1_000 / speed
        await asyncio.sleep(min(max(wait_s, 0.0), WAIT_S_MAX))


def _ready(settings: VenueSettings, credentials: Credentials, floor: Floor) -> dict[str, Any]:
    """Return what the first line says: the doors, the first application and account, and all of them."""
    grant, application = credentials.grants[0], credentials.applications[0]
    return {
        "ready": True,
        "host": settings.host,
        **{name: credentials.ports.get(name) for name in (*_DOORS, "rest_port", "control_port")},
        "control_token": credentials.control_token,
        "ca_file": str((settings.state_dir / CA_NAME).resolve()),
        "client_id": application.client_id,
        "client_secret": application.client_secret,
        "access_token": grant.access_token,
        "refresh_token": grant.refresh_token,
        "account_id": floor.account.account_id,
        "applications": [asdict(each) for each in credentials.applications],
        "accounts": [asdict(each) for each in credentials.accounts],
        "symbols": list(floor.directory.contracts),
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
