"""What we have of the venue at the moment: a session, or none, and whether its books should be asked."""

from __future__ import annotations

import asyncio

from services.gateway.session import Session


class Line:
    """The session that is open now. Sessions come and go; who needs one waits here for it."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.up = asyncio.Event()  # the session is open, and its books have been compared with ours
        self.trading = asyncio.Event()  # the gap of its absence is filled too: orders may leave
        self.sent_here: set[str] = set()  # orders whose answer is still to come on this session
        self.books_asked = asyncio.Event()

    def go_on(self, session: Session) -> None:
        """Take over a fresh session; nothing was sent on it."""
        self.session = session
        self.sent_here.clear()

    def go_down(self) -> None:
        """The session has ended: what was sent on it and not answered is unknown from now on."""
        self.up.clear()
        self.trading.clear()
        self.session = None

    def ask_books(self) -> None:
        """Have the venue's books compared with ours soon: something does not fit, or was not heard."""
        self.books_asked.set()
