"""One message on its way to those who get it, and what faults know it by."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from venue.protocol import Generated, messages, model

_STAGES = {
    "accepted": "accept",
    "filled": "fill",
    "replaced": "replace",
    "cancelled": "cancel",
    "expired": "expire",
    "rejected": "reject",
    "cancel_rejected": "cancel_reject",
}


class Packet:
    """A message, encoded once for all who get it. What only faults ask for is found when they do."""

    __slots__ = ("_symbol", "_symbols", "body", "kind", "message")

    def __init__(
        self, message: Message, *, symbol: str = "", symbols: Mapping[int, str] | None = None
    ) -> None:
        """Take a message; the symbol that it is about, or the symbols by the numbers that it may say."""
        self.message: Generated = message
        self.kind: int = self.message.payloadType
        self.body: bytes = message.SerializeToString()
        self._symbol, self._symbols = symbol, symbols

    @property
    def symbol(self) -> str:
        """The symbol that it is about, "" for none or several."""
        if self._symbol or not self._symbols:
            return self._symbol
        number = getattr(self.message, "symbolId", None)
        return self._symbols.get(number, "") if isinstance(number, int) else ""

    @property
    def words(self) -> tuple[str, ...]:
        """The message's name, and the other words by which a fault can choose it."""
        return (type(self.message).__name__, *_known_as(self.message))


def _known_as(message: Generated) -> tuple[str, ...]:
    if isinstance(message, messages.ProtoOASpotEvent):
        return ("quote",)
    if isinstance(message, messages.ProtoOAExecutionEvent):
        stage = model.ProtoOAExecutionType.Name(message.executionType).removeprefix("ORDER_").lower()
        stage = _STAGES.get(stage, stage)
        protective = message.order.orderType == model.STOP_LOSS_TAKE_PROFIT
        return (f"protective_{stage}" if protective else stage, "execution")
    is_event = type(message).__name__.endswith("Event") and not isinstance(
        message, messages.ProtoOAOrderErrorEvent
    )
    return () if is_event else ("answer",)
