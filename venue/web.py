"""A small HTTP/1.1 server for the venue's own doors: whole calls in, whole answers out, all of it bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 100_000
HEADERS_MAX = 64
IDLE_S_MAX = 600.0
HANDSHAKE_S_MAX = 10.0
CLOSE_S_MAX = 1.0

_REASONS = {
    200: "OK",
    302: "Found",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    409: "Conflict",
    429: "Too Many Requests",
}


class BadCallError(Exception):
    """A call that cannot be answered, with the status to say so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    path: str
    query: dict[str, str]  # the last value of each name
    token: str  # of the Authorization header
    content: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    content: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class WebDoor:
    """An HTTP door on a port, with or without TLS."""

    def __init__(
        self, answer: Callable[[Call], Awaitable[Reply]], refuse: Callable[[BadCallError], Reply]
    ) -> None:
        """Take who answers calls, and in which form errors are told."""
        self._answer = answer
        self._refuse = refuse
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
        """Open the door; return its port."""
        timeout_s = None if context is None else HANDSHAKE_S_MAX
        self._server = await asyncio.start_server(
            self._serve, host, port, ssl=context, ssl_handshake_timeout=timeout_s
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the door and every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            while await self._exchange_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            log.debug("an HTTP connection ended")
        except asyncio.CancelledError:
            log.debug("the venue closes an HTTP connection")
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await writer.wait_closed()

    async def _exchange_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one call; tell whether another may follow."""
        keep_alive = False
        try:
            async with asyncio.timeout(IDLE_S_MAX):
                call = await _read_call(reader)
            keep_alive = call.keep_alive
            reply = await self._answer(call)
        except BadCallError as error:
            reply = self._refuse(error)
        headers = {
            "Content-Type": reply.content_type,
            "Content-Length": str(len(reply.content)),
            "Connection": "keep-alive" if keep_alive else "close",
            **reply.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(
            f"HTTP/1.1 {reply.status} {_REASONS[reply.status]}\r\n{head}\r\n".encode() + reply.content
        )
        await writer.drain()
        return keep_alive


async def _read_call(reader: asyncio.StreamReader) -> Call:
    words = (await reader.readuntil(b"\r\n")).decode("latin-1").split()
    if len(words) != 3:
        raise BadCallError(400, "Not a request line")
    headers = {}
    for _ in range(HEADERS_MAX):
        line = (await reader.readuntil(b"\r\n")).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    else:
        raise BadCallError(400, "Too many headers")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
        raise BadCallError(400, f"A body has a Content-Length of at most {BODY_BYTES_MAX}")
    content = await reader.readexactly(int(length))
    address = urlsplit(words[1])
    return Call(
        method=words[0],
        path=address.path,
        query=dict(parse_qsl(address.query)),
        token=headers.get("authorization", "").removeprefix("Bearer "),
        content=content,
        keep_alive=headers.get("connection", "").lower() != "close",
    )
