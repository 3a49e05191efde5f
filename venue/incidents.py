"""What happens to whole connections and accounts: by a fault, or because a token ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from venue.account_answers import trader_of
from venue.connection import Connection, Lobby
from venue.credentials import Grant
from venue.fault_names import Act
from venue.faults import Fault
from venue.protocol import messages


class Incidents:
    """All connections, as those who end them see them."""

    def __init__(self, lobby: Lobby, connections: Iterable[Connection]) -> None:
        """Take what is shared, and the connections themselves, whoever is there at the time."""
        self._lobby = lobby
        self._connections = connections
        self._shut_until_ms = 0

    def strike(self, fault: Fault, connection: Connection) -> None:
        """Do what a fault does because of a message of this connection."""
        _STRIKES[fault.named.act](self, fault, connection)

    def is_shut(self) -> bool:
        """Tell whether a client that connects now is turned away."""
        now_ms = self._lobby.agenda.now_ms
        if now_ms < self._shut_until_ms:
            return True
        return self._lobby.faults.striking(("handshake",), now_ms) is not None

    def end_grant(self, grant: Grant, reason: str) -> None:
        """End every session that a pair of tokens opened."""
        for connection in self._connections:
            ended = [
                account_id
                for account_id, session in connection.sessions.items()
                if session.grant.access_token == grant.access_token
            ]
            if not ended:
                continue
            connection.send(
                messages.ProtoOAAccountsTokenInvalidatedEvent(ctidTraderAccountIds=ended, reason=reason)
            )
            for account_id in ended:
                _leave(connection, account_id)

    def end_expired(self) -> None:
        """End the sessions of tokens whose life is over."""
        open_grants = {
            session.grant.access_token: session.grant
            for connection in self._connections
            for session in connection.sessions.values()
        }
        for grant in open_grants.values():
            if self._lobby.credentials.is_expired(grant):
                self.end_grant(grant, "The access token has expired")

    def _disconnect(self, fault: Fault, connection: Connection) -> None:
        connection.outbox.end()
        if fault.request.delay_ms:
            self._shut_until_ms = self._lobby.agenda.now_ms + fault.request.delay_ms

    def _freeze(self, _: Fault, connection: Connection) -> None:
        connection.outbox.freeze()

    def _tell_and_disconnect(self, _: Fault, connection: Connection) -> None:
        connection.send(messages.ProtoOAClientDisconnectEvent(reason="The venue ends this connection"))
        connection.outbox.end()

    def _leave_accounts(self, _: Fault, connection: Connection) -> None:
        for account_id in list(connection.sessions):
            _leave(connection, account_id)

    def _void_token(self, _: Fault, connection: Connection) -> None:
        for grant in {session.grant for session in connection.sessions.values()}:
            self._lobby.credentials.void_access(grant)
            self.end_grant(grant, "The access token was revoked")

    def _change_symbols(self, _: Fault, connection: Connection) -> None:
        for session in connection.sessions.values():
            session.send(
                messages.ProtoOASymbolChangedEvent(
                    ctidTraderAccountId=session.account_id, symbolId=list(session.floor.directory.symbols)
                )
            )

    def _renumber_symbols(self, _: Fault, __: Connection) -> None:
        for connection in self._connections:
            connection.outbox.end()
        for directory in {
            id(floor.directory): floor.directory for floor in self._lobby.floors.values()
        }.values():
            directory.renumber()

    def _tell_trader(self, _: Fault, connection: Connection) -> None:
        for session in connection.sessions.values():
            session.send(
                messages.ProtoOATraderUpdatedEvent(
                    ctidTraderAccountId=session.account_id, trader=trader_of(session)
                )
            )


def _leave(connection: Connection, account_id: int) -> None:
    del connection.sessions[account_id]
    connection.send(messages.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=account_id))


_Strike: TypeAlias = Callable[[Incidents, Fault, Connection], None]
_STRIKES: Mapping[Act, _Strike] = {
    Act.DISCONNECT: Incidents._disconnect,
    Act.FREEZE: Incidents._freeze,
    Act.TELL_AND_DISCONNECT: Incidents._tell_and_disconnect,
    Act.LEAVE_ACCOUNT: Incidents._leave_accounts,
    Act.VOID_TOKEN: Incidents._void_token,
    Act.CHANGE_SYMBOLS: Incidents._change_symbols,
    Act.RENUMBER_SYMBOLS: Incidents._renumber_symbols,
    Act.TELL_TRADER: Incidents._tell_trader,
}
