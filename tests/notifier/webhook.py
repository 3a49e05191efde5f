"""A real web server on loopback that answers like Discord's webhooks, by script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

PATH = "/api/webhooks/123456789/sEcReT-tOkEn_abcdefghij"


@dataclass(frozen=True)
class Answer:
    """What the server says to one post."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    hangs: bool = False


@dataclass
class Webhook:
    """The server: what it was sent, and what it shall answer; 204 when the script has run out."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    posts: list[dict[str, Any]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # posts wait for it
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def titles(self) -> list[str]:
        """Every card's title, in the order received."""
        return [embed["title"] for post in self.posts for embed in post["embeds"]]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
                body = await reader.readexactly(int(headers["content-length"]))
                await self.gate.wait()
                self.targets.append(head.split(" ")[1])
                self.posts.append(json.loads(body))
                answer = self.script.pop(0) if self.script else Answer()
                if answer.hangs:
                    await self.closing.wait()
                    return
                content = b"" if answer.body is None else json.dumps(answer.body).encode()
                lines = [f"HTTP/1.1 {answer.status} Said", f"Content-Length: {len(content)}"]
                lines += [f"{name}: {value}" for name, value in answer.headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def a_webhook(*script: Answer) -> AsyncIterator[Webhook]:
    """Run the server for the length of the block."""
    webhook = Webhook(script=list(script))
    webhook.gate.set()
    server = await asyncio.start_server(webhook.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    webhook.url = f"http://127.0.0.1:{port}{PATH}"
    try:
        yield webhook
    finally:
        webhook.closing.set()
        webhook.gate.set()
        server.close()
        await asyncio.sleep(0.01)


class SteppingClock:
    """A clock on which every wait is over at once, and remembered."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._seconds = 0.0

    def now(self) -> datetime:
        return datetime(2025, 1, 6, tzinfo=UTC) + timedelta(seconds=self._seconds)

    def monotonic_s(self) -> float:
        return self._seconds

    async def sleep(self, delay_s: float) -> None:
        if delay_s > 0:
            self.waits.append(round(delay_s, 6))
            self._seconds += delay_s
        await asyncio.sleep(0)
