"""The whole notifier on a real server: streams in, web posts out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.notifier.main import build
from services.notifier.settings import NotifierSettings
from shared.errors import InputError
from shared.redis_bus import RedisBus
from shared.runtime import Runtime
from shared.settings import load
from tests.notifier.builders import an_event
from tests.notifier.webhook import Webhook, a_webhook

_BOOKS = itertools.count()
WAIT_S = 5.0


@asynccontextmanager
async def running(settings: NotifierSettings) -> AsyncIterator[RedisBus]:
    """Run the service for the length of the block, and stop it cleanly."""
    async with (
        RedisBus.connect(settings.redis_url, settings.book, "notifier") as bus,
        build(settings, bus) as service,
    ):
        runtime = Runtime("notifier", service, bus, settings)
        task = asyncio.create_task(runtime.run())
        try:
            yield bus
        finally:
            runtime.stop()
            await task


async def until_told(webhook: Webhook, title: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while title not in webhook.titles:  # noqa: ASYNC110 - it happens at the other end of a socket
            await asyncio.sleep(0.01)


def holds(file: Path, text: str) -> bool:
    return file.exists() and text in file.read_text()


@pytest.mark.redis
async def test_each_event_is_told_once_over_restarts(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean stops and new starts: nothing lost between them, nothing said twice."""
    async with a_webhook() as webhook:
        monkeypatch.setenv("REDIS_URL", redis_url)
        monkeypatch.setenv("BOOK", f"notify{next(_BOOKS)}")
        monkeypatch.setenv("DISCORD_WEBHOOK_URL", webhook.url)
        settings = load(NotifierSettings)
        async with RedisBus.connect(redis_url, settings.book, "cli") as writer:
            for number in range(3):
                first, second = f"a{number}", f"b{number}"
                await writer.append(an_event(first, service=first))  # while nobody listens
                async with running(settings):
                    await until_told(webhook, f"{first}: alarm")
                    await writer.append(an_event(second, service=second))
                    await until_told(webhook, f"{second}: alarm")
    alarms = [title for title in webhook.titles if title.endswith("alarm")]
    assert alarms == [f"{name}{number}: alarm" for number in range(3) for name in "ab"]
    assert webhook.titles.count("notifier: started") == 3
    assert webhook.titles.count("notifier: stopped") == 3


@pytest.mark.redis
async def test_without_a_webhook_alerts_stand_in_the_file(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Discord is a choice; being told is not."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("BOOK", f"notify{next(_BOOKS)}")
    monkeypatch.setenv("LOG_DIR", str(tmp_path))
    settings = load(NotifierSettings)
    async with RedisBus.connect(redis_url, settings.book, "cli") as writer:
        await writer.append(an_event("torn", service="gateway"))
        async with running(settings), asyncio.timeout(WAIT_S):
            while not holds(tmp_path / "alerts.jsonl", "torn"):  # noqa: ASYNC110 - another task writes it
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "url",
    [
        "https://discord.com/api/webhooks/1/abc",
        "http://127.0.0.1:8080/hook",
        "http://localhost/x",
        "http://[::1]/x",
    ],
)
def test_webhook_is_https_or_on_this_machine(url: str) -> None:
    """Tests and local relays need no certificate; everything else would send the secret in the clear."""
    settings = NotifierSettings(DISCORD_WEBHOOK_URL=url)
    assert settings.discord_webhook_url is not None
    assert "webhooks" not in repr(settings)


@pytest.mark.parametrize(
    "url", ["http://discord.com/x", "discord.com", "ftp://x/y", "https://", "http://[oops"]
)
def test_other_addresses_are_refused_without_being_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped secret is still a secret."""
    monkeypatch.setenv("DISCORD_WEBHOOK_URL", f"{url}/api/webhooks/1/sEcReT")
    with pytest.raises(InputError, match="DISCORD_WEBHOOK_URL: ") as caught:
        load(NotifierSettings)
    assert "sEcReT" not in str(caught.value)


def test_settings_cannot_be_changed_after_the_start() -> None:
    """They are read once; what the log says of them stays true."""
    with pytest.raises(ValidationError):
        NotifierSettings().queue_max = 5  # type: ignore[misc]
