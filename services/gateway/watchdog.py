"""Sees that every symbol is quoted while its market is open: subscribe again, reconnect, then say so."""

from __future__ import annotations

from services.gateway.context import Context
from services.gateway.refusals import VenueError
from services.gateway.schedule import why_closed
from services.gateway.session import Session
from services.gateway.silence import Silence, Step
from shared.errors import UnavailableError
from shared.log import get_logger
from shared.messages import Severity
from shared.streams import from_milliseconds

log = get_logger("gateway.watchdog")

LOOKS_A_QUIET = 10  # how often it looks in the time that a symbol may be silent


class Watchdog:
    """Watches the quotes; a venue whose time stands still cannot be watched."""

    def __init__(self, context: Context, quiet_s: float) -> None:
        self._line = context.line
        self._timing = context.timing
        self._alarms = context.alarms
        self._quiet_s = quiet_s
        self._silence = Silence(quiet_s)

    def heard(self, symbol: str, stamp_ms: int, at_s: float) -> None:
        """Take a quote that came at a moment of the machine."""
        step = self._silence.heard(symbol, stamp_ms, at_s)
        if step is not Step.NOTHING:
            self._alarms.tell_soon(f"{symbol} is quoted again", Severity.INFO)

    def restart(self) -> None:
        """Begin anew on a fresh session."""
        self._silence.restart()

    def trouble(self) -> str:
        """Return which symbols are not quoted although all was tried; "" when all is well."""
        silent = self._silence.degraded()
        return f"no quotes of {', '.join(silent)}" if silent else ""

    async def subscribe_again(self, symbol: str) -> None:
        """Do at once what is done about a symbol that is silent, if there is a session."""
        session = self._line.session
        if session is not None and self._line.up.is_set():
            await self._take(Step.SUBSCRIBE, symbol, session)

    async def run(self) -> None:
        """Watch, for as long as the venue's time runs."""
        while self._timing.speed:
            await self._timing.sleep(self._quiet_s / LOOKS_A_QUIET)
            session = self._line.session
            if session is not None and self._line.up.is_set():
                await self._look(session)

    async def _look(self, session: Session) -> None:
        now = from_milliseconds(self._timing.now_ms())
        for symbol, contract in session.contracts.items():
            is_open = why_closed(contract, now) is None
            step = self._silence.due(symbol, self._timing.monotonic_s(), is_open=is_open)
            if step is not Step.NOTHING:
                await self._take(step, symbol, session)

    async def _take(self, step: Step, symbol: str, session: Session) -> None:
        silent = f"{symbol}: no quote for {self._quiet_s:g} s while its market is open"
        match step:
            case Step.SUBSCRIBE:
                self._alarms.tell_soon(f"{silent}; subscribing again", Severity.WARNING)
                try:
                    await session.subscribe_again(symbol)
                except (UnavailableError, VenueError) as error:
                    log.warning("watchdog.not_subscribed", symbol=symbol, error=str(error))
            case Step.RECONNECT:
                self._alarms.tell_soon(
                    f"{silent}, though subscribed again; connecting anew", Severity.WARNING
                )
                session.link.abort(f"no quotes of {symbol}")
            case Step.DEGRADE:
                self._alarms.tell_soon(f"{silent}, though connected anew: it is not traded", Severity.ERROR)
