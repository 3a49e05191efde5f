"""The one connection: open, bring everything up to date, pump, and open again, a bounded number of times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.gateway.desk import Desk
from services.gateway.feed import Feed
from services.gateway.link import Received
from services.gateway.protocol import oa
from services.gateway.refusals import CredentialsRefusedError, VenueError
from services.gateway.session import Credentials, Session
from services.gateway.transport import Place
from shared.bus import Bus
from shared.clock import monotonic_s
from shared.errors import UnavailableError
from shared.log import get_logger
from shared.messages import Severity

log = get_logger("gateway.connection")

HEALTHY_S = 60.0  # a session that lived so long was a good one: the tries are counted from the start again
FIRST_QUOTES_S = 5.0
INBOX_MAX = 200_000  # messages; more than this unread means that we have stopped reading


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how late a lost connection is tried again; the delay doubles."""

    first_s: float
    tries: int


class Connection:
    """Owns the session; nobody else dials."""

    def __init__(
        self,
        where: Callable[[], tuple[Place, Credentials]],
        bus: Bus,
        desk: Desk,
        feed: Feed,
        symbols: tuple[str, ...],
        retry: Retry,
    ) -> None:
        self._where = where
        self._bus = bus
        self._desk = desk
        self._feed = feed
        self._symbols = symbols
        self._retry = retry
        self.trouble = "not connected yet"

    async def run(self) -> None:
        """Stay connected.

        Raises:
            InputError: credentials, account or symbols are wrong.
            UnavailableError: the venue could not be reached in all the tries.
        """
        tries = 0
        while True:
            opened_s = monotonic_s()
            try:
                await self._one_session()
            except CredentialsRefusedError:
                raise
            except (UnavailableError, VenueError) as error:
                self.trouble = str(error)
            tries = 1 if monotonic_s() - opened_s > HEALTHY_S else tries + 1
            if tries > self._retry.tries:
                await self._desk.alarms.tell(
                    f"no connection after {self._retry.tries} tries: {self.trouble}", Severity.CRITICAL
                )
                raise UnavailableError(f"no connection after {self._retry.tries} tries: {self.trouble}")
            delay_s = self._retry.first_s * 2 ** (tries - 1)
            await self._desk.alarms.tell(
                f"connection lost ({self.trouble}); try {tries} of {self._retry.tries} in {delay_s:g} s",
                Severity.WARNING,
            )
            await asyncio.sleep(delay_s)

    async def _one_session(self) -> None:
        """Authorise, subscribe, learn the quotes, reconcile, backfill; then pump until the link ends."""
        inbox: asyncio.Queue[Received] = asyncio.Queue(INBOX_MAX)
        place, credentials = self._where()
        session = await Session.open(place, credentials, self._bus.book, self._symbols, inbox)
        alive = asyncio.create_task(session.link.keep_alive())
        try:
            await self._bus.write_contracts(session.contracts)
            await self._desk.account.open(session)
            self._feed.learn(session)
            await self._first_quotes(session, inbox)
            await self._desk.go_online(session)
            await self._feed.backfill(session)
            self.trouble = ""
            log.info("connection.ready", host=place.host, symbols=list(session.contracts))
            await self._pump(session, inbox)
        finally:
            self._desk.go_offline()
            session.link.abort("the session is over")
            alive.cancel()
        raise UnavailableError(session.link.why_ended)

    async def _first_quotes(self, session: Session, inbox: asyncio.Queue[Received]) -> None:
        """Wait for the first quote of every symbol, which tell the venue's time too."""
        missing = set(session.by_id)
        later: list[Received] = []
        try:
            async with asyncio.timeout(FIRST_QUOTES_S):
                while missing:
                    received = await inbox.get()
                    if isinstance(received.message, oa.ProtoOASpotEvent):
                        self._feed.stamp(received.message)
                        missing.discard(received.message.symbolId)
                    else:
                        later.append(received)
        except TimeoutError:
            names = ", ".join(session.by_id[symbol_id].symbol for symbol_id in missing)
            raise UnavailableError(f"no first quote of {names}") from None
        while not inbox.empty():  # what has come since then stays behind it
            later.append(inbox.get_nowait())
        for received in later:
            inbox.put_nowait(received)

    async def _pump(self, session: Session, inbox: asyncio.Queue[Received]) -> None:
        """Handle what comes, one after the other, in the venue's order, until the link ends."""
        ended = asyncio.create_task(session.link.ended.wait())
        try:
            while (received := await _next(inbox, ended)) is not None:
                await self._handle(received)
        finally:
            ended.cancel()

    async def _handle(self, received: Received) -> None:
        match received.message:
            case oa.ProtoOASpotEvent():
                await self._feed.on_spot(received.message)
            case oa.ProtoOAExecutionEvent():
                await self._desk.answers.on_execution(received.message)
            case oa.ProtoOAOrderErrorEvent() | oa.ProtoOAErrorRes():
                await self._desk.answers.on_refusal(received)
            case (
                oa.ProtoOAClientDisconnectEvent()
                | oa.ProtoOAAccountDisconnectEvent()
                | oa.ProtoOAAccountsTokenInvalidatedEvent()
            ):
                raise UnavailableError(f"the venue ended the session: {type(received.message).__name__}")
            case _:
                self._desk.changes.take(received.message)


async def _next(inbox: asyncio.Queue[Received], ended: asyncio.Task[Any]) -> Received | None:
    """Return what comes next, or None when the link has ended and all that it brought is handled."""
    if not inbox.empty():
        return inbox.get_nowait()
    waiting = asyncio.create_task(inbox.get())
    try:
        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
