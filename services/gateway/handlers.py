"""What the gateway does with each message: thin; bars and orders have their own files."""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.desk import Desk
from services.gateway.journal import Journal
from shared.messages import CloseRequested, Command, CommandGiven, Message, OrderRequested


class GatewayHandlers:
    """Orders and commands in; what becomes of them goes out through the desk's outbox."""

    def __init__(self, desk: Desk, journal: Journal) -> None:
        self._desk = desk
        self._journal = journal
        self._control: Command | None = None  # the operator's last stop; None: running
        self._taken: list[OrderRequested] = []  # read together, to be sent together

    async def on_order_requested(self, request: OrderRequested) -> Sequence[Message]:
        """Take it; what was read with it comes first, then all leave at once."""
        self._taken.append(request)
        return ()

    async def settle(self) -> None:
        """Do. Runs again after a crash: the journal knows what may have left, the venue what arrived."""
        taken, self._taken = self._taken, []
        await self._desk.place(taken, self._control)

    async def on_close_requested(self, request: CloseRequested) -> Sequence[Message]:
        """Close one of our positions; its order may have been read with it."""
        await self.settle()
        await self._desk.closing.close(request.client_order_id, request.reason)
        return ()

    async def on_command(self, given: CommandGiven) -> Sequence[Message]:
        """From the next request on, an operator's stop holds here too, whatever is still queued.

        It is journalled first: a server that comes back older than the stop does not lift it.
        """
        await self._journal.remember(command=given.model_dump_json())
        self._obey(given.command)
        return ()

    def take_up(self) -> None:
        """Obey the last command that the journal knows: it never comes back older than it was."""
        text = self._journal.fact("command") if self._journal.is_open else None
        if text is not None:
            self._obey(CommandGiven.model_validate_json(text).command)

    def _obey(self, command: Command) -> None:
        self._control = None if command is Command.RESUME else command

    def snapshot(self) -> bytes:
        """Return the operator's last stop."""
        return (self._control or Command.RESUME).value.encode()

    def restore(self, data: bytes | None) -> None:
        """Take up the operator's last stop, the server's or the journal's; what cannot be read means halt.

        What was taken and not settled comes again.
        """
        self._taken.clear()
        try:
            command = Command(data.decode()) if data else Command.RESUME
        except ValueError:
            self._obey(Command.HALT)
        else:
            self._obey(command)
            self.take_up()
