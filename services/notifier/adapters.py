"""The doors to people: a Discord webhook, and a file where there is none or it does not answer.

A webhook's address is a secret: it stands in no log line and in no error of this module.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx
import orjson

from services.notifier.embeds import Card, embed_of
from shared.clock import Clock, SystemClock
from shared.errors import InputError, UnavailableError
from shared.log import add_secret, get_logger, redact
from shared.messages import Severity

ALERTS_BYTES_MAX: Final = 50 * 1024 * 1024  # then the file is put aside, and the one before it goes
NOTE_MAX: Final = 2000  # Discord's limit of a post's own text
ERROR_TEXT_MAX: Final = 200

log = get_logger("outlet")

_LEVELS: Final = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.ERROR: logging.ERROR,
    Severity.CRITICAL: logging.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a post is tried again."""

    tries_max: int = 5
    timeout_s: float = 10.0
    backoff_first_s: float = 1.0  # doubles with each try
    backoff_max_s: float = 30.0
    retry_after_max_s: float = 300.0  # the longest that Discord can make us wait at once


class DiscordOutlet:
    """Posts cards to a Discord webhook, one post after the other.

    A post that timed out may have arrived all the same; it is sent again, because a webhook cannot be
    asked, and an alert twice is better than none.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        webhook_url: str,
        *,
        thread_name: str = "",
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        add_secret(webhook_url)
        self._client = client
        self._url = httpx.URL(webhook_url).copy_merge_params({"wait": "true"})
        self._thread_name = thread_name
        self._thread_id = ""  # of the thread that our first post made
        self._policy = policy or RetryPolicy()
        self._clock = clock or SystemClock()
        self._not_before_s = 0.0  # monotonic; Discord said so with its last answer

    @classmethod
    @asynccontextmanager
    async def open(
        cls, webhook_url: str, *, thread_name: str = "", policy: RetryPolicy | None = None
    ) -> AsyncIterator[DiscordOutlet]:
        """Open the door; nothing is sent before the first post."""
        async with httpx.AsyncClient(follow_redirects=False) as client:
            yield cls(client, webhook_url, thread_name=thread_name, policy=policy)

    async def post(self, cards: Sequence[Card], *, note: str = "") -> None:
        """Post the cards; wait and try again where that can help, a bounded number of times.

        Raises:
            UnavailableError: no answer, 429 or 5xx to the last try.
            InputError: Discord refuses the post or the webhook; another try would be refused too.
        """
        problem = ""
        for attempt in range(self._policy.tries_max):
            if attempt:
                log.warning("discord.retry", attempt=attempt + 1, cards=len(cards), problem=problem)
            await self._clock.sleep(max(0.0, self._not_before_s - self._clock.monotonic_s()))
            wait_s = min(self._policy.backoff_first_s * 2**attempt, self._policy.backoff_max_s)
            try:
                response = await self._send(cards, note)
            except (TimeoutError, httpx.TransportError) as error:
                problem = type(error).__name__  # its text may hold the address
            else:
                if response.is_success:
                    self._learn(response)
                    return
                problem = _problem_of(response)
                if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    wait_s = _seconds_asked(response, "retry-after", otherwise=wait_s)
                elif not response.is_server_error:
                    self._refuse(response, problem)
            self._wait(wait_s)
        raise UnavailableError(f"Discord: {problem}, after {self._policy.tries_max} tries")

    async def _send(self, cards: Sequence[Card], note: str) -> httpx.Response:
        body: dict[str, Any] = {
            "embeds": [embed_of(card) for card in cards],
            "allowed_mentions": {"parse": []},  # whatever a text holds, nobody is pinged
        }
        if note:
            body["content"] = note[:NOTE_MAX]
        if self._thread_name and not self._thread_id:
            body["thread_name"] = self._thread_name
        url = self._url.copy_merge_params({"thread_id": self._thread_id}) if self._thread_id else self._url
        async with asyncio.timeout(self._policy.timeout_s):  # the client's own time-outs are for each read
            return await self._client.post(
                url, content=orjson.dumps(body), headers={"content-type": "application/json"}
            )

    def _learn(self, response: httpx.Response) -> None:
        """Note how long to wait before the next post, and which thread the first one made."""
        if response.headers.get("x-ratelimit-remaining") == "0":
            self._wait(_seconds_asked(response, "x-ratelimit-reset-after", otherwise=0.0))
        if self._thread_name and not self._thread_id:  # the name again would make another thread
            self._thread_id = str(_body_of(response).get("channel_id") or "")

    def _refuse(self, response: httpx.Response, problem: str) -> NoReturn:
        if response.status_code == httpx.codes.NOT_FOUND:
            self._thread_id = ""  # if only the thread is gone, the next post makes a new one
        log.error("discord.refused", problem=problem)
        raise InputError(f"Discord refused the post: {problem}")

    def _wait(self, seconds: float) -> None:
        self._not_before_s = self._clock.monotonic_s() + min(seconds, self._policy.retry_after_max_s)


def _body_of(response: httpx.Response) -> dict[str, Any]:
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _problem_of(response: httpx.Response) -> str:
    """Return what an answer says: status, code and sentence, never the address."""
    body = _body_of(response)
    said = f"{body.get('code', '')} {body.get('message', '')}".strip()[:ERROR_TEXT_MAX]
    return redact(f"status {response.status_code} {said}".strip())


def _seconds_asked(response: httpx.Response, header: str, *, otherwise: float) -> float:
    """Return the wait an answer asks for: the longer of its header and its JSON."""
    asked = [response.headers.get(header), _body_of(response).get("retry_after")]
    seconds = []
    for value in asked:
        with suppress(TypeError, ValueError):  # absent, or a date: some proxy's, not Discord's
            seconds.append(float(value))
    usable = [value for value in seconds if math.isfinite(value) and value >= 0]
    return max(usable, default=otherwise)


class FileOutlet:
    """Writes cards to the log and, where a folder is set, as JSON lines to `alerts.jsonl`; never fails."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "alerts.jsonl" if folder else None

    async def post(self, cards: Sequence[Card], *, note: str = "") -> None:
        """Write the cards; a file that cannot be written is an error in the log."""
        if note:
            log.warning("alerts.note", text=note)
        for card in cards:
            level = _LEVELS[card.severity]
            log.log(level, "alert.told", title=card.title, text=card.description, fields=dict(card.fields))
        if self._path:
            lines = b"".join(orjson.dumps(asdict(card)) + b"\n" for card in cards)
            try:
                await asyncio.to_thread(_append, self._path, lines)
            except OSError as error:
                log.error("alerts.not_written", error=str(error))  # noqa: TRY400 - the log has the cards


def _append(path: Path, lines: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size + len(lines) > ALERTS_BYTES_MAX:
        path.replace(path.with_suffix(".1.jsonl"))
    with path.open("ab") as file:
        file.write(lines)
