"""What the streams say happened, gathered from outside: for the demo's table, its pace and its audit."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import dropwhile

from shared import streams
from shared.messages import (
    EntryRefused,
    ExecutionKind,
    ExecutionReported,
    OrderRequested,
    SignalEmitted,
    Verdict,
)
from shared.redis_bus import RedisBus
from shared.streams import Stream

WATCHED = (streams.SIGNALS, streams.ORDERS, streams.EXECUTIONS)
SETTLED = (  # nothing more is to come of such an order by itself
    ExecutionKind.PROTECTED,
    ExecutionKind.CLOSED,
    ExecutionKind.REJECTED,
    ExecutionKind.EXPIRED,
    ExecutionKind.REFUSED,
    ExecutionKind.NOT_SENT,
)
_SILENT = (ExecutionKind.PARTIALLY_FILLED,)  # says nothing about where the order stands


@dataclass
class MeshView:
    """All signals, decisions and executions of a book so far."""

    signals: dict[str, SignalEmitted] = field(default_factory=dict)
    requests: dict[str, OrderRequested] = field(default_factory=dict)
    refusals: dict[str, EntryRefused] = field(default_factory=dict)
    executions: dict[str, list[ExecutionReported]] = field(default_factory=dict)
    _unsettled: dict[str, ExecutionKind | None] = field(default_factory=dict)  # kept, not searched for
    _after: dict[Stream, str] = field(default_factory=lambda: dict.fromkeys(WATCHED, "0"))

    @property
    def is_fresh(self) -> bool:
        """Whether nothing live has been seen yet."""
        return not any(signal.live for signal in self.signals.values())

    def after_warm_up(self) -> list[SignalEmitted]:
        """Return all signals from the first live one on: a week's last slice may come too late to trade."""
        signals = sorted(self.signals.items(), key=lambda item: streams.id_parts(item[0]))
        return [signal for _, signal in dropwhile(lambda item: not item[1].live, signals)]

    async def follow(self, bus: RedisBus, block_ms: int) -> bool:
        """Take what is new, waiting at most `block_ms` for it; return whether there was something."""
        found = await bus.tail(self._after, block_ms)
        for stream, entries in found.items():
            for entry_id, message in entries:
                self._after[stream] = entry_id
                match message:
                    case SignalEmitted():
                        self.signals[entry_id] = message
                    case OrderRequested():
                        self.requests[message.client_order_id] = message
                        self._follow_status(message.client_order_id)
                    case EntryRefused():
                        self.refusals[message.client_order_id] = message
                    case ExecutionReported():
                        self.executions.setdefault(message.client_order_id, []).append(message)
                        self._follow_status(message.client_order_id)
        return bool(found)

    def status(self, client_order_id: str) -> ExecutionKind | None:
        """Return the last thing that happened to an order; None: nothing yet."""
        kinds = [e.kind for e in self.executions.get(client_order_id, ()) if e.kind not in _SILENT]
        return kinds[-1] if kinds else None

    def unsettled(self) -> dict[str, ExecutionKind | None]:
        """Return the orders something is still to come of, with where they stand."""
        return dict(self._unsettled)

    def _follow_status(self, order: str) -> None:
        status = self.status(order)
        if order not in self.requests or status in SETTLED:
            self._unsettled.pop(order, None)
        else:
            self._unsettled[order] = status

    def missing_of(self, book: str, close_ms: int, symbols: int) -> list[str]:
        """Return what is not there yet of a slice: signals, and the decisions they ask for."""
        missing = []
        for index in range(symbols):
            entry_id = f"{close_ms}-{index}"
            signal = self.signals.get(entry_id)
            if signal is None:
                missing.append(f"signal {entry_id}")
            elif signal.verdict is Verdict.ALLOW:
                order = f"TG-{book}-{signal.close_time:%Y%m%dT%H%M}-{signal.symbol}"
                if order not in self.requests and order not in self.refusals:
                    missing.append(f"decision {order}")
        return missing
