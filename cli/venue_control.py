"""The supervisor's side of the simulated venue's control door: plain HTTP on loopback."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any

from shared.clock import monotonic_s
from shared.errors import InputError, UnavailableError

ANSWER_S = 60.0
AWAY_S = 30.0  # how long a venue that is being restarted is waited for
RETRY_S = 0.1


class VenueControl:
    """Steps the venue and reads its books; waits while the venue is restarted. Every call may be repeated."""

    def __init__(self, ready_file: Path) -> None:
        self._ready_file = ready_file
        self._connection: http.client.HTTPConnection | None = None
        self._token = ""

    async def step(self, until_ms: int) -> dict[str, Any]:
        """Let the venue's time run to a moment; return its state."""
        return await self._call("POST", "/step", {"until_ms": until_ms})

    async def state(self) -> dict[str, Any]:
        """Return where the venue stands."""
        return await self._call("GET", "/state")

    async def ledger(self) -> dict[str, Any]:
        """Return all the venue's books."""
        return await self._call("GET", "/ledger")

    async def timing(self) -> dict[str, Any]:
        """Return when bars began on the wire and orders arrived, by the machine's monotonic clock."""
        return await self._call("GET", "/timing")

    async def fault(self, name: str, **how: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
        """Ask the venue for a fault; return what it says of all faults."""
        return await self._call("POST", "/faults", {"fault": name, **how})

    async def faults(self) -> dict[str, Any]:
        """Return the faults that were asked for, and how often each struck."""
        return await self._call("GET", "/faults")

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        deadline = monotonic_s() + AWAY_S
        while True:
            try:
                return await asyncio.to_thread(self._exchange, method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if monotonic_s() > deadline:
                    raise UnavailableError(f"the venue's control door does not answer: {error}") from error
                await asyncio.sleep(RETRY_S)

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if self._connection is None:
            told = json.loads(self._ready_file.read_text())
            self._token = told["control_token"]
            self._connection = http.client.HTTPConnection("127.0.0.1", told["control_port"], timeout=ANSWER_S)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self._connection.getresponse()
        told = json.loads(answer.read())
        if answer.status != http.client.OK:
            raise InputError(f"venue control {path}: {told}")
        return dict(told)
