"""What our requests hold: slots, symbols, margin, and the positions that came of them.

Executions arrive when they arrive, but a slice is decided on its account entry. So each request keeps the
numbers of the executions that settled it, and a decision asks what was settled as of the account's
number: executions that came later change nothing, live or replayed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.executor.streaks import Result
from shared.errors import InvariantError
from shared.messages import AccountReported, Direction, ExecutionKind, ExecutionReported

_OPENS = (ExecutionKind.PARTIALLY_FILLED, ExecutionKind.FILLED)
_ENDS = (ExecutionKind.REJECTED, ExecutionKind.EXPIRED, ExecutionKind.REFUSED, ExecutionKind.NOT_SENT)
_UNDER_WAY = (ExecutionKind.SENT, ExecutionKind.ACCEPTED, ExecutionKind.UNKNOWN, *_OPENS)
_ID_TIME = "%Y%m%dT%H%M"
_ID_REST = re.compile(r"(\d{8}T\d{4})-[^-]+")


def client_order_id(book: str, close_time: datetime, symbol: str) -> str:
    """Return the one id of a symbol's order at a close, the same on every retry and replay."""
    return f"TG-{book}-{close_time.astimezone(UTC).strftime(_ID_TIME)}-{symbol}"


def close_time_of(key: str, *, book: str) -> datetime | None:
    """Return the close in an id of this book; None: not one of ours."""
    beginning = f"TG-{book}-"
    found = _ID_REST.fullmatch(key, len(beginning)) if key.startswith(beginning) else None
    if found is None:
        return None
    try:
        return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    except ValueError:
        return None


class Request(BaseModel):
    """An order we asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    symbol: str
    direction: Direction
    close_time: AwareDatetime
    margin: Decimal | None  # None: learnt from its executions alone, so its size is not known
    notional: Decimal | None
    filled_at: int | None = None  # number of the execution
    ended_at: int | None = None  # ended without a position

    @property
    def settled_at(self) -> int | None:
        """The execution since when it holds nothing any more: a position does, or nobody."""
        numbers = [number for number in (self.filled_at, self.ended_at) if number is not None]
        return min(numbers, default=None)  # "not sent" may be followed by a fill

    def holds_as_of(self, number: int) -> bool:
        """Whether its slot, symbol and margin are still reserved after that execution."""
        return self.settled_at is None or self.settled_at > number


class OurPosition(BaseModel):
    """A position that a request of ours opened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client_order_id: str
    symbol: str
    close_requested: bool = False


class Ledger(BaseModel):
    """Requests and positions of a book, as far as executions were read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: dict[str, Request] = Field(default_factory=dict)
    positions: dict[int, OurPosition] = Field(default_factory=dict)
    last_execution: int = 0
    is_known: bool = True  # False after an unreadable state, until an account entry tells the positions
    decided_until: AwareDatetime | None = None  # close of the last slice decided
    results: tuple[Result, ...] = ()  # of our trades that ended since the last slice's account

    @property
    def is_flat(self) -> bool:
        """Whether no request is open and none of our positions remains."""
        return (
            self.is_known
            and not self.positions
            and all(r.settled_at is not None for r in self.requests.values())
        )

    def holding_as_of(self, number: int) -> dict[str, Request]:
        """Return the requests that still hold their slot after that execution."""
        return {key: request for key, request in self.requests.items() if request.holds_as_of(number)}

    def closable(self, *, again: bool = False) -> dict[int, OurPosition]:
        """Return our positions that can be closed now; `again`: those asked for before too.

        While its request is open a position may still grow, and closing it would leave the rest.
        """
        return {
            number: position
            for number, position in self.positions.items()
            if (again or not position.close_requested) and not self._is_open(position.client_order_id)
        }

    def with_request(self, key: str, request: Request) -> Ledger:
        """Return the ledger with a request that holds its slot from now on."""
        return self.model_copy(update={"requests": self.requests | {key: request}})

    def with_closing(self, numbers: Mapping[int, OurPosition]) -> Ledger:
        """Return the ledger after these positions were asked to close."""
        closing = {key: each.model_copy(update={"close_requested": True}) for key, each in numbers.items()}
        return self.model_copy(update={"positions": self.positions | closing})

    def without_settled(self, number: int, close_time: datetime) -> Ledger:
        """Return the ledger after a slice: what was settled as of its account needs no remembering.

        But for slices that are still to come: an id of theirs that is known is not decided anew.
        """
        later = {key: request for key, request in self.requests.items() if request.close_time > close_time}
        changes = {
            "requests": self.holding_as_of(number) | later,
            "results": tuple(result for result in self.results if result.number > number),
            "decided_until": close_time,
        }
        return self.model_copy(update=changes)

    def results_as_of(self, number: int) -> tuple[Result, ...]:
        """Return how our trades ended up to that execution, as far as no slice has counted it."""
        return tuple(result for result in self.results if result.number <= number)

    def _is_open(self, key: str) -> bool:
        return key in self.requests and self.requests[key].settled_at is None


def after_execution(ledger: Ledger, execution: ExecutionReported, *, book: str) -> Ledger:
    """Return the ledger after an execution; the same one for an execution that was read before.

    A request that is not known was lost with the server's memory and written again: it is adopted.

    Raises:
        InvariantError: an execution is missing before this one.
    """
    last = ledger.last_execution
    if execution.number <= last:
        return ledger
    if ledger.is_known and execution.number != last + 1:
        raise InvariantError(f"execution {execution.number} follows {last}: those between are missing")
    changes: dict[str, object] = {"last_execution": execution.number}
    close_time = close_time_of(execution.client_order_id, book=book)
    if ledger.is_known and close_time is not None:
        changes["requests"] = _requests_after(ledger, execution, close_time)
        changes["positions"] = _positions_after(ledger, execution)
        if execution.kind is ExecutionKind.CLOSED:
            at = execution.meta.event_time
            changes["results"] = (*ledger.results, Result(number=execution.number, at=at, pnl=execution.pnl))
    return ledger.model_copy(update=changes)


def after_account(ledger: Ledger, account: AccountReported, *, book: str) -> Ledger:
    """Return the ledger that an account entry tells of, for one that could not be read.

    It stays unknown while the entry is older than the executions read.
    """
    if account.execution_number < ledger.last_execution:
        return ledger
    ours = {
        each.position_id: OurPosition(client_order_id=each.client_order_id, symbol=each.symbol)
        for each in account.positions
        if each.client_order_id and close_time_of(each.client_order_id, book=book)
    }
    return Ledger(positions=ours, last_execution=account.execution_number)


def _requests_after(ledger: Ledger, execution: ExecutionReported, close_time: datetime) -> dict[str, Request]:
    key = execution.client_order_id
    request = ledger.requests.get(key) or _adopted(ledger, execution, close_time)
    if request is None:
        return ledger.requests
    changes: dict[str, int] = {}
    if request.filled_at is None:
        if execution.kind in (ExecutionKind.FILLED, ExecutionKind.CLOSED):
            changes["filled_at"] = execution.number
        elif execution.kind in _ENDS and request.ended_at is None:
            changes["ended_at"] = execution.number
    if not changes and key in ledger.requests:
        return ledger.requests
    return ledger.requests | {key: request.model_copy(update=changes)}


def _adopted(ledger: Ledger, execution: ExecutionReported, close_time: datetime) -> Request | None:
    """Return a request for an execution of an id not known; None where it was settled and forgotten."""
    forgotten = ledger.decided_until is not None and close_time <= ledger.decided_until
    if forgotten or execution.kind not in (*_UNDER_WAY, *_ENDS):
        return None
    return Request(
        symbol=execution.symbol,
        direction=execution.direction,
        close_time=close_time,
        margin=None,
        notional=None,
    )


def _positions_after(ledger: Ledger, execution: ExecutionReported) -> dict[int, OurPosition]:
    key, number = execution.client_order_id, execution.position_id
    if execution.kind in _OPENS and number is not None and number not in ledger.positions:
        return ledger.positions | {number: OurPosition(client_order_id=key, symbol=execution.symbol)}
    if execution.kind is not ExecutionKind.CLOSED:
        return ledger.positions
    return {
        each: position
        for each, position in ledger.positions.items()
        if each != number and not (number is None and position.client_order_id == key)
    }
