"""What happens to whole connections and accounts: by a fault, or because a token ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from venue.account_answers import trader_of
from venue.fault_names import Act
from venue.faults import Fault
from venue.protocol import messages
from venue.session import Floor, Session


class Incidents:
    """All connections, as those who end them see them."""

    def __init__(self, floor: Floor, sessions: Iterable[Session]) -> None:
        """Take what all sessions share, and the sessions themselves, whoever is there at the time."""
        self._floor = floor
        self._sessions = sessions
        self._shut_until_ms = 0

    def strike(self, fault: Fault, session: Session) -> None:
        """Do what a fault does because of a message of this session."""
        _STRIKES[fault.named.act](self, fault, session)

    def is_shut(self) -> bool:
        """Tell whether a client that connects now is turned away."""
        now_ms = self._floor.exchange.now_ms
        if now_ms < self._shut_until_ms:
            return True
        return self._floor.exchange.faults.striking(("handshake",), now_ms) is not None

    def end_logins(self, reason: str) -> None:
        """End every session of the account: its token is void."""
        account_id = self._floor.credentials.account_id
        for session in self._sessions:
            if session.is_authorized:
                session.leave()
                session.send(
                    messages.ProtoOAAccountsTokenInvalidatedEvent(
                        ctidTraderAccountIds=[account_id], reason=reason
                    )
                )
                session.send(messages.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=account_id))

    def _disconnect(self, fault: Fault, session: Session) -> None:
        session.outbox.end()
        if fault.request.delay_ms:
            self._shut_until_ms = self._floor.exchange.now_ms + fault.request.delay_ms

    def _freeze(self, _: Fault, session: Session) -> None:
        session.outbox.freeze()

    def _tell_and_disconnect(self, _: Fault, session: Session) -> None:
        session.send(messages.ProtoOAClientDisconnectEvent(reason="The venue ends this connection"))
        session.outbox.end()

    def _leave_account(self, _: Fault, session: Session) -> None:
        session.leave()
        session.send(messages.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=session.account_id))

    def _void_token(self, _: Fault, __: Session) -> None:
        self._floor.credentials.void_access()
        self.end_logins("The access token was revoked")

    def _change_symbols(self, _: Fault, session: Session) -> None:
        session.send(
            messages.ProtoOASymbolChangedEvent(
                ctidTraderAccountId=session.account_id, symbolId=list(self._floor.directory.symbols)
            )
        )

    def _renumber_symbols(self, _: Fault, __: Session) -> None:
        for session in self._sessions:
            session.outbox.end()
        self._floor.directory.renumber()

    def _tell_trader(self, _: Fault, session: Session) -> None:
        session.send(
            messages.ProtoOATraderUpdatedEvent(
                ctidTraderAccountId=session.account_id, trader=trader_of(session)
            )
        )


_Strike: TypeAlias = Callable[[Incidents, Fault, Session], None]
_STRIKES: Mapping[Act, _Strike] = {
    Act.DISCONNECT: Incidents._disconnect,
    Act.FREEZE: Incidents._freeze,
    Act.TELL_AND_DISCONNECT: Incidents._tell_and_disconnect,
    Act.LEAVE_ACCOUNT: Incidents._leave_account,
    Act.VOID_TOKEN: Incidents._void_token,
    Act.CHANGE_SYMBOLS: Incidents._change_symbols,
    Act.RENUMBER_SYMBOLS: Incidents._renumber_symbols,
    Act.TELL_TRADER: Incidents._tell_trader,
}
