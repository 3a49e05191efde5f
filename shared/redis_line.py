"""One connection to Redis for the calls that a bar waits for, and the client library's errors as ours."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any

import redis.asyncio as redis
from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.bus import BusUnavailableError
from shared.errors import InvariantError

SOCKET_TIMEOUT_S = 3.0


class Translated:
    """Turns the client library's errors into ours, and gives back a cancellation that it swallowed.

    It waits with `asyncio.wait_for`, which on Python 3.11 loses a cancellation that comes together with
    the answer: the task would run on, and a stop would wait for it for ever.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        if error is None and task is not None and task.cancelling():
            raise asyncio.CancelledError
        if isinstance(error, (RedisConnectionError, RedisTimeoutError, TimeoutError, OSError)):
            raise BusUnavailableError(f"redis: {str(error) or type(error).__name__}") from error
        if isinstance(error, ResponseError) and str(error).startswith(("LOADING", "BUSY ", "MASTERDOWN")):
            raise BusUnavailableError(f"redis: {error}") from error
        if isinstance(error, RedisError):
            raise InvariantError(f"redis: {error}") from error


class Line:
    """One connection for the calls that a bar waits for, one call at a time.

    The library's client takes a connection from its pool for every call, packs in Python and waits in a
    task of its own: several times the processor time of the call itself (`bench/bus.py`).
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        settings = {**pool.connection_kwargs, "socket_timeout": None}  # its own costs a task for every call
        self._connection: Any = pool.connection_class(**settings)
        self._lock = asyncio.Lock()

    async def call(self, *command: str | bytes | int, wait_s: float = 0.0) -> Any:  # noqa: ANN401
        """Send a command and return its answer; `wait_s` is how long the server may hold it back."""
        async with self._lock, asyncio.timeout(SOCKET_TIMEOUT_S + wait_s):
            try:
                packed = pack_command(command)  # type: ignore[arg-type] # its stub knows tuples of one only
                await self._connection.send_packed_command(packed, check_health=False)
                return await self._connection.read_response(timeout=math.inf)
            except ResponseError:
                raise
            except BaseException:  # an answer that nobody waits for would be taken for the next one's
                await self._connection.disconnect(nowait=True)
                raise

    async def close(self) -> None:
        """End the connection."""
        await self._connection.disconnect(nowait=True)
