"""What the venue says unasked of the account and its symbols: terms, balance, margins, trailing stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from services.gateway.background import heed_cancellation
from services.gateway.context import Context
from services.gateway.outbox import PUBLISH_RETRY_S
from services.gateway.protocol import oa
from services.gateway.refusals import VenueError
from services.gateway.terms import UnclearError, money
from services.gateway.translate import rounded
from shared.bus import BusUnavailableError
from shared.contracts import Contract
from shared.errors import InputError
from shared.log import get_logger
from shared.messages import Severity

log = get_logger("gateway.changes")


class TermsWriter(Protocol):
    """What it needs of the bus."""

    async def write_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Store the venue's terms of every symbol."""


class Changes:
    """Follows what changes without an order of anybody."""

    def __init__(self, context: Context, bus: TermsWriter) -> None:
        self._bus = bus
        self._account = context.account
        self._line = context.line
        self._background = context.background
        self._timing = context.timing
        self._alarms = context.alarms

    def take(self, message: Any) -> None:  # noqa: ANN401 - generated class
        """Take a message that answers nothing; one that is about none of this is passed over."""
        try:
            self._take(message)
        except UnclearError as error:
            log.warning("venue.unclear", error=str(error))
            self._line.ask_books()  # they have the balance and the positions too

    def _take(self, message: Any) -> None:  # noqa: ANN401
        session = self._line.session
        match message:
            case oa.ProtoOASymbolChangedEvent():
                self._background.spawn(partial(self._read_terms, list(message.symbolId)))
            case oa.ProtoOATraderUpdatedEvent() if session is not None:
                self._account.take_trader(session.trader_of(message.trader))
            case oa.ProtoOAMarginChangedEvent():
                self._change_position(message.positionId, used_margin=money(message.usedMargin, message))
            case oa.ProtoOATrailingSLChangedEvent():
                self._move_stop(message)
            case oa.ProtoOAMarginCallTriggerEvent():
                level = message.marginCall.marginLevelThreshold
                self._alarms.tell_soon(f"margin call: the margin level is below {level:g} %", Severity.ERROR)
            case _:
                log.debug("venue.ignored", message=type(message).__name__)

    def _move_stop(self, message: Any) -> None:  # noqa: ANN401
        position = self._account.position(message.positionId)
        contract = self._account.model.contracts.get(position.symbol) if position else None
        if contract is not None:
            stop = rounded(message.stopPrice, contract.digits)
            self._change_position(message.positionId, stop_loss_price=stop)

    def _change_position(self, position_id: int, **changes: Any) -> None:  # noqa: ANN401
        position = self._account.position(position_id)
        if position is not None:
            self._account.model.positions[position_id] = replace(position, **changes)

    async def _read_terms(self, symbol_ids: Sequence[int]) -> None:
        """Learn the new terms and publish them: what is decided from now on is decided by them."""
        await self._line.up.wait()
        session = self._line.session
        if session is None:
            return
        try:
            changed = await session.read_terms(symbol_ids)
        except (VenueError, InputError) as error:
            session.link.abort(f"the changed terms cannot be read: {error}")  # a new session reads them all
            return
        await self.publish(session.contracts)
        for before, after in changed:
            self._alarms.tell_soon(f"{after.symbol}: {_difference(before, after)}", Severity.WARNING)

    async def publish(self, contracts: Mapping[str, Contract]) -> None:
        """Write the terms, however long the server is away: an account entry without its terms blocks."""
        while True:
            try:
                await self._bus.write_contracts(contracts)
            except BusUnavailableError as error:
                log.warning("terms.waiting", error=str(error))
                await self._timing.sleep(PUBLISH_RETRY_S)
                heed_cancellation()
            else:
                return


def _difference(before: Contract, after: Contract) -> str:
    """Return which terms changed, in words."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    said = [f"{name} {old[name]} is {new[name]} now" for name in new if old[name] != new[name]]
    return "the venue has changed its terms: " + "; ".join(said)
