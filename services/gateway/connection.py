"""The one connection: open, bring everything up to date, pump, and open again, a bounded number of times."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.gateway.access import Credentials, open_link
from services.gateway.desk import Desk
from services.gateway.feed import Feed
from services.gateway.inbox import Inbox
from services.gateway.link import Link, Received
from services.gateway.protocol import oa
from services.gateway.refusals import VenueError
from services.gateway.session import Session
from services.gateway.transport import Place
from shared.clock import monotonic_s, utc_now
from shared.errors import InputError, UnavailableError
from shared.log import get_logger
from shared.messages import Severity

log = get_logger("gateway.connection")

HEALTHY_S = 60.0  # a session that stood so long was a good one: the tries are counted from the start again
SESSIONS_MAX = 3  # on one link, one after the other, none of them healthy
DUE_LOOK_S = 3_600.0  # another gateway may have refreshed the token meanwhile
FIRST_QUOTES_S = 5.0
_NOTHING = Received(None, "")  # is put behind the last message when a session has ended


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how late a lost connection is tried again; the delay doubles."""

    first_s: float
    tries: int
    jitter: float = 0.1  # of the delay, more or less: gateways that were cut together do not dial together

    def delay_s(self, number: int) -> float:
        """Return how long to wait before a try; the first one has the number 1."""
        return self.first_s * 2.0 ** (number - 1) * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311


class Connection:
    """Owns the link and the session; nobody else dials."""

    def __init__(
        self,
        where: Callable[[], tuple[Place, Credentials]],
        book: str,
        desk: Desk,
        feed: Feed,
        symbols: tuple[str, ...],
        retry: Retry,
    ) -> None:
        self._where = where
        self._book = book
        self._desk = desk
        self._feed = feed
        self._symbols = symbols
        self._retry = retry
        self._ready_s: float | None = None  # since when the session is healthy
        self.trouble = "not connected yet"

    async def run(self) -> None:
        """Stay connected.

        Raises:
            InputError: credentials, account or symbols are wrong.
            UnavailableError: the venue could not be reached in all the tries.
        """
        tries = 0
        while True:
            try:
                await self._one_link()
            except InputError as error:
                await self._tell(f"the venue cannot be used: {error}", Severity.CRITICAL)
                raise
            except (UnavailableError, VenueError) as error:
                self.trouble = str(error)
            tries = 1 if self._was_healthy() else tries + 1
            if tries > self._retry.tries:
                text = f"no connection after {self._retry.tries} tries: {self.trouble}"
                await self._tell(text, Severity.CRITICAL)
                raise UnavailableError(text)
            delay_s = self._retry.delay_s(tries)
            await self._tell(
                f"connection lost ({self.trouble}); try {tries} of {self._retry.tries} in {delay_s:.3g} s",
                Severity.WARNING,
            )
            await asyncio.sleep(delay_s)

    def _was_healthy(self) -> bool:
        """Whether the session that has just ended had stood for long enough; asked once."""
        ready_s, self._ready_s = self._ready_s, None
        return ready_s is not None and monotonic_s() - ready_s >= HEALTHY_S

    async def _tell(self, text: str, severity: Severity) -> None:
        await self._desk.alarms.tell(text, severity, kind="connection")

    async def _one_link(self) -> None:
        """Keep a session open on one link, again and again when the account alone is dropped."""
        inbox: Inbox[Received] = Inbox()
        place, who = self._where()
        link = await open_link(place, who, inbox)
        alive = asyncio.create_task(link.keep_alive())
        try:
            short_lived = 0
            while short_lived < SESSIONS_MAX:
                session = await self._one_session(link, who, inbox, place.host)
                await self._tell(f"session lost ({session.why_ended}); authorising again", Severity.WARNING)
                was_good = self._was_healthy() or session.was_planned
                short_lived = 0 if was_good else short_lived + 1
            raise UnavailableError(f"{SESSIONS_MAX} sessions ended at once: {session.why_ended}")
        finally:
            link.abort("the session is over")
            alive.cancel()

    async def _one_session(self, link: Link, who: Credentials, inbox: Inbox[Received], host: str) -> Session:
        """Authorise, subscribe, learn the quotes, backfill, reconcile; then pump until the session ends."""
        session = await Session.open(link, who, self._book, self._symbols)
        due = asyncio.create_task(_end_when_due(session, who))
        try:
            await self._desk.changes.publish(session.contracts)
            await self._desk.account.open(session)
            self._feed.learn(session)
            await self._first_quotes(session, inbox)
            await self._desk.go_online(session)
            await self._feed.backfill(session)
            await self._desk.start_trading()
            await self._tell(f"connected to {host}", Severity.INFO)
            self.trouble, self._ready_s = "", monotonic_s()
            await self._pump(session, inbox, due)
        finally:
            self._desk.go_offline()
            due.cancel()
        self.trouble = link.why_ended or session.why_ended
        if link.ended.is_set():
            raise UnavailableError(link.why_ended)
        return session

    async def _first_quotes(self, session: Session, inbox: Inbox[Received]) -> None:
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
        inbox.put_back(later)

    async def _pump(self, session: Session, inbox: Inbox[Received], due: asyncio.Task[None]) -> None:
        """Handle what comes, one after the other, in the venue's order, until the session ends."""
        waits = [asyncio.create_task(each.ended.wait()) for each in (session.link, session)]
        ends: list[asyncio.Task[Any]] = [*waits, due]
        has_ended = False

        def wake(_: asyncio.Task[Any]) -> None:
            nonlocal has_ended
            has_ended = True
            inbox.put(_NOTHING)  # with a full one it is awake

        for end in ends:
            end.add_done_callback(wake)
        try:
            while not has_ended or len(inbox):
                await self._handle(await inbox.get(), session)
        finally:
            for end in ends:
                end.remove_done_callback(wake)
            for wait in waits:
                wait.cancel()
        if due.done():
            due.result()  # raises what it failed with

    async def _handle(self, received: Received, session: Session) -> None:
        message = received.message
        match message:
            case None:
                pass  # only to wake the pump
            case oa.ProtoOASpotEvent():
                await self._feed.on_spot(message)
            case oa.ProtoOAExecutionEvent():
                await self._desk.answers.on_execution(message)
            case oa.ProtoOAOrderErrorEvent() | oa.ProtoOAErrorRes():
                await self._desk.answers.on_refusal(received)
            case oa.ProtoOAAccountsTokenInvalidatedEvent() | oa.ProtoOAAccountDisconnectEvent():
                if not await session.is_authorised():
                    session.end(f"the venue has ended the account's session: {_name_of(message)}")
            case oa.ProtoOAClientDisconnectEvent():
                session.link.abort(f"the venue ends the connection: {message.reason}")
            case _:
                self._desk.changes.take(message)


def _name_of(message: Any) -> str:  # noqa: ANN401 - generated classes have no types
    return str(message.DESCRIPTOR.name)


async def _end_when_due(session: Session, who: Credentials) -> None:
    """End the session when its token should be refreshed: that is done between two sessions."""
    while True:
        left_s = (who.tokens.current().due_at - utc_now()).total_seconds()
        if left_s <= 0:
            session.end("the access token is due to be refreshed", planned=True)
            return
        await asyncio.sleep(min(left_s, DUE_LOOK_S))
