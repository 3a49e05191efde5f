"""What the gateway does with each message: thin; bars and orders have their own files."""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.desk import Desk
from shared.messages import CloseRequested, Command, CommandGiven, Message, OrderRequested


class GatewayHandlers:
    """Orders and commands in; what becomes of them goes out through the desk's outbox."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._control: Command | None = None  # the operator's last stop; None: running

    async def on_order_requested(self, request: OrderRequested) -> Sequence[Message]:
        """Do. Runs again after a crash: the journal knows what may have left, the venue what arrived."""
        await self._desk.place_once(request, self._control)
        return ()

    async def on_close_requested(self, request: CloseRequested) -> Sequence[Message]:
        """Close one of our positions."""
        await self._desk.closing.close(request.client_order_id, request.reason)
        return ()

    async def on_command(self, given: CommandGiven) -> Sequence[Message]:
        """From the next request on, an operator's stop holds here too, whatever is still queued.

        It is journalled first: a server that comes back older than the stop does not lift it.
        """
        await self._desk.remember_control(given.command)
        self._control = None if given.command is Command.RESUME else given.command
        return ()

    def snapshot(self) -> bytes:
        """Return the operator's last stop."""
        return (self._control or Command.RESUME).value.encode()

    def restore(self, data: bytes | None) -> None:
        """Take up the operator's last stop, the server's or the journal's; what cannot be read means halt."""
        try:
            command = Command(data.decode()) if data else Command.RESUME
        except ValueError:
            command = Command.HALT
        self._control = self._desk.stop_that_was_lost() if command is Command.RESUME else command
