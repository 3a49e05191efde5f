"""The gateway: the one connection to the venue. Slices, account and executions out, orders in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from services.gateway.protocol import HOSTS, LOOP, PORT  # first: it installs the reactor

# isort: split
from services.gateway.access import Credentials
from services.gateway.bars import SliceAssembler
from services.gateway.connection import Connection, Retry
from services.gateway.desk import Desk, Patience
from services.gateway.feed import HISTORY_SPARE, Feed
from services.gateway.handlers import GatewayHandlers
from services.gateway.journal import Journal
from services.gateway.settings import GatewaySettings
from services.gateway.timing import Timing
from services.gateway.tokens import Tokens
from services.gateway.transport import Address, Place
from services.gateway.trimming import Trimming
from shared import streams
from shared.bus import Bus
from shared.clock import Clock, SystemClock
from shared.errors import InputError, UnavailableError
from shared.log import add_secret
from shared.messages import BarClosed, CloseRequested, CommandGiven, OrderRequested
from shared.runtime import Service, on, run


def venue_of(settings: GatewaySettings) -> tuple[Address, Credentials]:
    """Return where the venue is and who we are there; a simulated one says so itself, in a file.

    Raises:
        UnavailableError: the simulated venue has not written its file yet.
        InputError: the file is not its.
    """
    if settings.ct_host_type != "sim":
        assert settings.ct_client_id and settings.ct_client_secret  # noqa: S101, PT018 - the settings have looked
        assert settings.ct_access_token and settings.ct_refresh_token and settings.ct_account_id  # noqa: S101, PT018
        given = settings.ct_access_token.get_secret_value(), settings.ct_refresh_token.get_secret_value()
        return Address(HOSTS[settings.ct_host_type], PORT, kind=settings.ct_transport), Credentials(
            settings.ct_client_id,
            settings.ct_client_secret.get_secret_value(),
            settings.ct_account_id,
            Tokens(settings.token_dir, *given),
            is_live=settings.ct_host_type == "live",
        )
    return _simulated(settings)


def _simulated(settings: GatewaySettings) -> tuple[Address, Credentials]:
    path = settings.sim_venue_file
    try:
        told = json.loads(path.read_text())
    except FileNotFoundError:
        raise UnavailableError(
            f"SIM_VENUE_FILE {path} is not there: start `tradeguard venue` first"
        ) from None
    try:
        for name in ("client_secret", "access_token", "refresh_token"):
            add_secret(told[name])
        address = Address(told["host"], told["port"], Path(told["ca_file"]), settings.ct_transport)
        tokens = Tokens(settings.token_dir, told["access_token"], told["refresh_token"])
        who = Credentials(told["client_id"], told["client_secret"], told["account_id"], tokens)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"SIM_VENUE_FILE {path}: not what `tradeguard venue` prints: {error!r}") from error
    return address, who


@asynccontextmanager
async def build(settings: GatewaySettings, bus: Bus) -> AsyncIterator[Service]:
    """Wire settings to adapters to handlers."""
    journal = Journal(settings.journal)
    try:
        yield wire(settings, bus, journal, lambda: venue_of(settings))
    finally:
        journal.close()


def wire(
    settings: GatewaySettings,
    bus: Bus,
    journal: Journal,
    where: Callable[[], tuple[Place, Credentials]],
    *,
    clock: Clock | None = None,
    history_spare: int = HISTORY_SPARE,
) -> Service:
    """Wire journal, bus and venue to handlers: the only function that knows them all.

    Args:
        settings: the gateway's.
        bus: the streams.
        journal: the book's.
        where: tells, whenever it is dialled, where the venue is and who we are there.
        clock: of the machine, unless it is a simulated one.
        history_spare: bars asked for beyond those that are needed.
    """
    timing = Timing(settings.venue_speed, clock or SystemClock())
    patience = Patience(settings.protection_s, settings.order_answer_s, settings.absent_after_s)
    desk = Desk(journal, bus, timing, patience, settings.halt_file)
    assembler = SliceAssembler(
        settings.symbols, bar_close_ms=settings.bar_close_ms, deadline_ms=settings.slice_deadline_ms
    )
    feed = Feed(
        bus.book,
        desk.context,
        desk.outbox,
        assembler,
        settings.warmup_slices,
        settings.feed_quiet_s,
        history_spare,
    )
    retry = Retry(settings.reconnect_first_s, settings.reconnect_tries)
    connection = Connection(where, bus.book, desk, feed, settings.symbols, retry)
    handlers = GatewayHandlers(desk, journal)

    async def start() -> None:
        await journal.open_when_free()  # a standby leaves it to the active one
        handlers.take_up()
        account, bar = await bus.last(streams.ACCOUNT), await bus.last(streams.BARS)
        await desk.start(account[0] if account else None)
        await feed.start(cast(BarClosed, bar[1]) if bar else None)

    async def reconcile() -> None:
        await desk.reconcile.run(settings.reconcile_s)

    return Service(
        routes=(
            on(CommandGiven, handlers.on_command),
            on(OrderRequested, handlers.on_order_requested),
            on(CloseRequested, handlers.on_close_requested),
        ),
        state=handlers,
        start=start,
        settle=handlers.settle,
        tasks=(
            connection.run,
            feed.keep_time,
            feed.watchdog.run,
            desk.background.run,
            desk.outbox.run,
            desk.recovery.run,
            reconcile,
            Trimming(bus, timing, settings.keep_days).run,
        ),
        trouble=lambda: connection.trouble or feed.watchdog.trouble(),
    )


if __name__ == "__main__":
    run("gateway", build, GatewaySettings, loop_factory=lambda: LOOP)
