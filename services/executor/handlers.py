"""What the executor does with each message: one method a type. The decisions are in `decisions.py`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from pydantic import ValidationError

from services.executor.control import unreadable
from services.executor.decisions import decide_slice
from services.executor.exits import reversed_on
from services.executor.flattening import after_command, flatten_on
from services.executor.policy import Policy
from services.executor.reservations import Ledger, after_execution
from services.executor.state import ExecutorState
from shared.contracts import Contract, contracts_hash
from shared.errors import InputError
from shared.log import get_logger
from shared.messages import AccountReported, CommandGiven, ExecutionReported, Message, SignalEmitted

log = get_logger("executor")


class AccountReader(Protocol):
    """Reads account entries."""

    async def account(self, entry_id: str) -> AccountReported:
        """Return the entry; UnavailableError if it is not there."""


class ContractReader(Protocol):
    """Reads the venue's terms."""

    async def contracts(self) -> Mapping[str, Contract]:
        """Return the terms of every symbol of the book."""


class Inputs(Protocol):
    """Knows how far each stream was read."""

    def last_ids(self) -> dict[str, str]:
        """Return the last id read of every stream."""


class Streams(AccountReader, ContractReader, Inputs, Protocol):
    """All that the executor reads beside its messages."""


class ExecutorHandlers:
    """Asset lock, limits, sizing and order requests of one book. Holds the control state."""

    def __init__(self, streams: Streams, policy: Policy) -> None:
        self._streams = streams
        self._policy = policy
        self._state = ExecutorState()
        self._held: dict[int, SignalEmitted] = {}  # of the slice that is not complete yet, by index
        self._held_close: datetime | None = None
        self._contracts: tuple[str, Mapping[str, Contract]] = ("", {})  # with their hash

    @property
    def state(self) -> ExecutorState:
        """What the executor remembers."""
        return self._state

    async def on_command(self, command: CommandGiven) -> list[Message]:
        """Change the control state; the next message is decided under it."""
        inputs = self._streams.last_ids()
        messages, self._state = after_command(self._state, command, self._policy.losses, inputs)
        return messages

    async def on_execution(self, execution: ExecutionReported) -> list[Message]:
        """Settle reservations and positions; ask for reversals; while flattening, close what was filled."""
        ledger = after_execution(self._state.ledger, execution, book=self._policy.book)
        if ledger is self._state.ledger:  # read before
            return []
        inputs = self._streams.last_ids()
        state = self._state.model_copy(update={"ledger": ledger})
        turned, state = reversed_on(state, execution, inputs)
        closed, self._state = flatten_on(state, execution, inputs)
        return turned + closed

    async def on_signal(self, signal: SignalEmitted) -> list[Message] | None:
        """Hold a slice's signals until its last one, then decide them together."""
        if self._held_close != signal.close_time:
            self._held.clear()  # if the slice before did not get through, the runtime has said so
            self._held_close = signal.close_time
        self._held[signal.index] = signal
        if signal.index != signal.slice_size - 1:
            return None
        missing = sorted(set(range(signal.slice_size)) - self._held.keys())
        if missing:
            self._held.clear()
            raise InputError(f"slice {signal.close_time.isoformat()}: no signals of places {missing}")
        signals = [self._held[index] for index in range(signal.slice_size)]
        inputs = self._streams.last_ids()
        account = await self._streams.account(signal.account_id)
        contracts = await self._contracts_of(account)
        decided, state = decide_slice(signals, account, self._state, contracts, self._policy, inputs)
        closed, self._state = flatten_on(state, signal, inputs)
        self._held.clear()
        return decided + closed

    def snapshot(self) -> bytes:
        """Return the state as JSON."""
        return self._state.model_dump_json().encode()

    def restore(self, data: bytes | None) -> None:
        """Become the state saved with the last commit. One that cannot be read means HALTED."""
        self._held.clear()
        try:
            self._state = ExecutorState.model_validate_json(data) if data else ExecutorState()
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]["msg"]
            log.critical("control.unreadable", error=problem)
            self._state = ExecutorState(control=unreadable(problem), ledger=Ledger(is_known=False))

    def trouble(self) -> str:
        """Return why the executor is degraded; '' when all is well."""
        control = self._state.control
        return "" if self._state.ledger.is_known else f"{control.state}: {control.why}"

    async def _contracts_of(self, account: AccountReported) -> Mapping[str, Contract]:
        """Return the terms that go with an account entry; none if those stored are others."""
        if self._contracts[0] != account.contracts_hash:
            found = await self._streams.contracts()
            self._contracts = (contracts_hash(found), found)
        known, contracts = self._contracts
        return contracts if known == account.contracts_hash else {}
