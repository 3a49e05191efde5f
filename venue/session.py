"""A client's session with one account: what it is subscribed to, and what its answers are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import Message

from venue.credentials import Account, Grant
from venue.directory import Directory
from venue.exchange import Answer, Exchange
from venue.ledger import Ledger
from venue.outbox import Outbox
from venue.periods import Period
from venue.protocol import Generated, Packet
from venue.translation import Translator

Request: TypeAlias = Generated


class RequestError(Exception):
    """A request cannot be answered as asked; the connection lives on."""

    def __init__(self, code: str, description: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Floor:
    """What all sessions of an account share."""

    account: Account
    exchange: Exchange
    ledger: Ledger
    directory: Directory
    translator: Translator


class Session:
    """One login to an account; it belongs to its connection and ends with it."""

    def __init__(self, floor: Floor, outbox: Outbox, grant: Grant) -> None:
        self.floor = floor
        self.outbox = outbox
        self.grant = grant
        self.spots: dict[str, bool] = {}  # symbol -> with time stamps
        self.depth: set[str] = set()
        self.bars: dict[str, tuple[Period, ...]] = {}  # symbol -> whose forming bars come with its quotes

    @property
    def account_id(self) -> int:
        """The account's number."""
        return self.floor.account.account_id

    def send(self, message: Message, client_msg_id: str | None = None) -> None:
        """Put a message on the way; it leaves with the next flush."""
        self.outbox.send(Packet(message, symbols=self.floor.directory.symbols), client_msg_id)


AnswerTo: TypeAlias = Callable[[Session, Request], Iterable[Message] | Answer]


def symbol_name(session: Session, number: int) -> str:
    """Return a symbol by its id."""
    symbol = session.floor.directory.symbols.get(number)
    if symbol is None:
        raise RequestError("SYMBOL_NOT_FOUND", f"Symbol not found with id {number}")
    return symbol
