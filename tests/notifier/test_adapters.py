"""The doors to people, against a real web server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import orjson
import pytest

from services.notifier import adapters
from services.notifier.adapters import DiscordOutlet, FileOutlet, RetryPolicy
from services.notifier.embeds import Card, card_of
from shared.errors import InputError, UnavailableError
from tests.notifier.builders import an_event
from tests.notifier.webhook import PATH, Answer, SteppingClock, Webhook, a_webhook

Open = Callable[..., DiscordOutlet]


def cards(*texts: str) -> list[Card]:
    made = [card_of(an_event(text, service=text)) for text in texts or ("one",)]
    return [card for card in made if card]


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
async def outlet(clock: SteppingClock) -> AsyncIterator[Open]:
    async with httpx.AsyncClient() as client:

        def open_outlet(webhook: Webhook, *, thread_name: str = "", timeout_s: float = 5.0) -> DiscordOutlet:
            policy = RetryPolicy(timeout_s=timeout_s)
            return DiscordOutlet(client, webhook.url, thread_name=thread_name, policy=policy, clock=clock)

        yield open_outlet


@pytest.mark.parametrize("answer", [Answer(204), Answer(200, body={"id": "1", "channel_id": "2"})])
async def test_cards_arrive_in_order_in_one_post(outlet: Open, answer: Answer) -> None:
    """One post for what happened together; both answers of Discord mean that it is there."""
    async with a_webhook(answer) as webhook:
        await outlet(webhook).post(cards("a", "b", "ü🙂"))
    assert webhook.titles == ["a: alarm", "b: alarm", "ü🙂: alarm"]
    assert len(webhook.posts) == 1
    assert webhook.targets == [f"{PATH}?wait=true"]


async def test_nobody_is_pinged_by_a_text(outlet: Open) -> None:
    """A reason that comes from outside may hold @everyone."""
    async with a_webhook() as webhook:
        await outlet(webhook).post(cards("@everyone"), note="3 cards were left out")
    assert webhook.posts[0]["allowed_mentions"] == {"parse": []}
    assert webhook.posts[0]["content"] == "3 cards were left out"


async def test_query_of_the_webhooks_own_address_is_kept(outlet: Open) -> None:
    """People paste addresses with a thread's id in them."""
    async with a_webhook() as webhook:
        webhook.url += "?thread_id=77"
        await outlet(webhook).post(cards())
    assert webhook.targets == [f"{PATH}?thread_id=77&wait=true"]


async def test_thread_name_is_sent_only_if_set(outlet: Open) -> None:
    """A text channel refuses a post that names a thread."""
    async with a_webhook() as webhook:
        await outlet(webhook).post(cards())
        await outlet(webhook, thread_name="alerts").post(cards())
    assert "thread_name" not in webhook.posts[0]
    assert webhook.posts[1]["thread_name"] == "alerts"


async def test_later_posts_go_into_the_thread_that_the_first_one_made(outlet: Open) -> None:
    """The name makes a new thread each time; an alert is not worth a thread."""
    async with a_webhook(Answer(200, body={"channel_id": "42"})) as webhook:
        door = outlet(webhook, thread_name="alerts")
        await door.post(cards())
        await door.post(cards())
    assert "thread_name" not in webhook.posts[1]
    assert webhook.targets[1] == f"{PATH}?wait=true&thread_id=42"


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (Answer(429, {"Retry-After": "2"}), 2.0),
        (Answer(429, body={"retry_after": 0.75, "global": False}), 0.75),
        (Answer(429, {"Retry-After": "1"}, {"retry_after": 1.25}), 1.25),
        (Answer(429, {"Retry-After": "86400"}), 300.0),
        (Answer(429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 1.0),
        (Answer(429, {"Retry-After": "nan"}, {"retry_after": -1}), 1.0),
        (Answer(429, body=[]), 1.0),
    ],
    ids=["header", "JSON", "the longer one", "bounded", "date", "nonsense", "nothing"],
)
async def test_too_many_requests_waits_as_long_as_asked(
    outlet: Open, clock: SteppingClock, answer: Answer, wait_s: float
) -> None:
    """Who does not wait is banned; who waits for ever tells nobody."""
    async with a_webhook(answer) as webhook:
        await outlet(webhook).post(cards("a"))
    assert clock.waits == [wait_s]
    assert webhook.posts[0] == webhook.posts[1]
    assert len(webhook.posts) == 2


async def test_used_up_allowance_delays_the_next_post(outlet: Open, clock: SteppingClock) -> None:
    """Discord says beforehand when the next post would be one too many."""
    used_up = Answer(204, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.5"})
    async with a_webhook(used_up) as webhook:
        door = outlet(webhook)
        await door.post(cards("a"))
        assert clock.waits == []
        await door.post(cards("b"))
    assert clock.waits == [1.5]


@pytest.mark.parametrize(
    "failure", [Answer(500), Answer(503), Answer(hangs=True)], ids=["500", "503", "hangs"]
)
async def test_fault_of_discord_is_retried_with_growing_waits_and_an_end(
    outlet: Open, clock: SteppingClock, failure: Answer
) -> None:
    """Most faults last seconds; the ones that last hours must not hold the queue for hours."""
    async with a_webhook(*[failure] * 9) as webhook:
        with pytest.raises(UnavailableError):
            await outlet(webhook, timeout_s=0.1).post(cards())
        assert len(webhook.posts) == 5
    assert clock.waits == [1.0, 2.0, 4.0, 8.0]


async def test_post_succeeds_when_discord_is_well_again(outlet: Open) -> None:
    """A retry sends the same cards."""
    async with a_webhook(Answer(500), Answer(hangs=True), Answer(429, {"Retry-After": "1"})) as webhook:
        await outlet(webhook, timeout_s=0.2).post(cards("a", "b"))
    assert webhook.posts[3] == webhook.posts[0]
    assert len(webhook.posts) == 4


async def test_nobody_listening_is_retried_and_then_said(outlet: Open, clock: SteppingClock) -> None:
    """A refused connection is a fault like any other."""
    async with a_webhook() as webhook:
        pass
    with pytest.raises(UnavailableError, match="ConnectError"):
        await outlet(webhook).post(cards())
    assert len(clock.waits) == 4


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
async def test_refusal_is_not_retried_and_is_an_alarm(
    outlet: Open, clock: SteppingClock, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """What is refused once is refused again, and repeated refusals get an address banned."""
    refusal = Answer(status, {"Location": "/elsewhere"}, {"message": "Unknown Webhook", "code": 10015})
    async with a_webhook(refusal) as webhook:
        with pytest.raises(InputError, match=f"status {status} 10015 Unknown Webhook"):
            await outlet(webhook).post(cards())
    assert clock.waits == []
    assert len(webhook.posts) == 1
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_webhooks_address_is_never_logged_nor_in_an_error(
    outlet: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has the address can write to the channel; the answer below even quotes it."""
    caplog.set_level(logging.DEBUG)
    errors = []
    async with a_webhook() as webhook:
        quoting = Answer(400, body={"message": f"cannot post to {webhook.url}", "code": 1})
        for failure in (quoting, Answer(500), Answer(hangs=True)):
            webhook.script = [failure] * 5
            with pytest.raises((InputError, UnavailableError)) as caught:
                await outlet(webhook, timeout_s=0.05).post(cards())
            errors.append(str(caught.value))
    with pytest.raises(UnavailableError) as caught:  # the server is gone
        await outlet(webhook).post(cards())
    errors.append(str(caught.value))
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    text = "\n".join([*errors, *(str(record.msg) + str(record.args) for record in ours)])
    assert "discord.retry" in text
    assert "sEcReT" not in text
    assert "/webhooks/123" not in text


# --- the file -------------------------------------------------------------------------------------


async def test_cards_without_a_webhook_stand_in_a_file_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mesh without Discord tells all the same."""
    await FileOutlet(tmp_path / "new").post(cards("a", "ü"))
    await FileOutlet(tmp_path / "new").post(cards("c"))
    lines = (tmp_path / "new" / "alerts.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["title"] for line in lines] == ["a: alarm", "ü: alarm", "c: alarm"]
    assert sum("alert.told" in str(record.msg) for record in caplog.records) == 3


async def test_file_that_cannot_be_written_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This is the last outlet: it may not fail, and the log still has the card."""
    (tmp_path / "taken").write_text("")
    await FileOutlet(tmp_path / "taken").post(cards())
    assert any("alerts.not_written" in str(record.msg) for record in caplog.records)


def test_file_of_alerts_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh that runs for years must not fill the disk."""
    monkeypatch.setattr(adapters, "ALERTS_BYTES_MAX", 1000)
    for number in range(20):
        asyncio.run(FileOutlet(tmp_path).post(cards(str(number))))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["alerts.1.jsonl", "alerts.jsonl"]
    assert all(file.stat().st_size <= 1000 for file in files)
