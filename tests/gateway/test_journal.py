"""The journal outlives whatever happens to the process."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.gateway.journal import FREE_POLL_S, Entry, Journal
from services.gateway.orders import Status
from shared.errors import InputError, InvariantError, UnavailableError
from shared.messages import ExecutionKind
from tests.gateway.builders import a_journal, a_request, an_execution

E = ExecutionKind

# A gateway that journals as fast as it can, and says each order only after it is journalled.
WRITER = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from services.gateway.orders import Status
from shared.messages import ExecutionKind
from tests.gateway.builders import CLOSE, a_journal, a_request, an_execution

async def main():
    journal = a_journal(Path(sys.argv[1]))
    for number in range(1, 100_000):
        request = a_request(close=CLOSE + timedelta(minutes=5 * number))
        await journal.begin([request], number)
        await journal.record([Entry(an_execution(number, ExecutionKind.SENT, request), Status.SENT, request)])
        print(request.client_order_id, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway" / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    opened = a_journal(path)
    yield opened
    opened.close()


async def test_order_begun_is_known_after_a_crash(journal: Journal, path: Path, tmp_path: Path) -> None:
    """The files as they lie on the disk at that moment are enough: nothing waits for a clean end."""
    request = a_request()
    await journal.begin([request], 1_000)
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed)
    reopened = a_journal(crashed / "journal.db")
    record = reopened.order(request.client_order_id)
    reopened.close()
    assert record is not None
    assert (record.request, record.status, record.sent_ms) == (request, Status.SENDING, 1_000)


@pytest.mark.process
def test_killed_writer_leaves_everything_it_said(path: Path) -> None:
    """Killed in the middle of a write, with whatever it was writing whole or not there at all."""
    command = [sys.executable, "-c", WRITER, str(path)]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line.strip())
            if len(said) == 50:
                process.send_signal(signal.SIGKILL)
    journal = a_journal(path)
    events = journal.events()
    orders = journal.orders(*Status)
    journal.close()
    assert [e.number for e in events] == list(range(1, len(events) + 1))
    known = [record.request.client_order_id for record in orders]
    assert set(said) <= {e.client_order_id for e in events} <= set(known)
    assert len(known) - len(events) in (0, 1)  # an order may be begun whose first event was not reached
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_second_gateway_on_a_journal_is_refused(journal: Journal, path: Path) -> None:
    """Two gateways on one journal would send twice."""
    with pytest.raises(UnavailableError, match=r"GATEWAY_JOURNAL .*journal.db: .*another gateway") as caught:
        a_journal(path)
    assert str(path) in str(caught.value)
    await journal.begin([a_request()], 1)  # and the first goes on


async def test_a_standby_opens_the_journal_when_the_one_before_lets_go(journal: Journal, path: Path) -> None:
    """A gateway that was paused has lost its lease, and holds the journal until it has noticed."""
    standby = Journal(path)
    waiting = asyncio.create_task(standby.open_when_free())
    await asyncio.sleep(3 * FREE_POLL_S)
    assert not waiting.done()
    journal.close()
    await waiting
    standby.close()


def test_journal_is_free_again_when_its_gateway_has_ended(path: Path) -> None:
    """A standby takes over at once: the lock is the process's, not a file's."""
    a_journal(path).close()
    journal = a_journal(path)
    assert journal.is_open
    journal.close()


@pytest.mark.parametrize("content", ["", "x" * 5000])
def test_file_that_is_no_journal_is_refused_in_words(path: Path, content: str) -> None:
    """A path that is mistyped must not end in a traceback, nor overwrite what is there."""
    path.parent.mkdir(parents=True)
    path.write_text(content)
    if not content:
        a_journal(path).close()  # an empty file is a journal that was never written to
        return
    for _ in range(2):  # and the lock is let go of
        with pytest.raises(InputError, match=r"GATEWAY_JOURNAL .*not a database"):
            a_journal(path)
    assert path.read_text() == content


def test_folder_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    """The volume is not mounted, or a file stands where its folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="GATEWAY_JOURNAL"):
        a_journal(tmp_path / "file" / "journal.db")


async def test_order_begins_once(journal: Journal) -> None:
    """What the code above forgets, the journal does not: a second begin is an error, and changes nothing."""
    await journal.begin([a_request()], 1)
    with pytest.raises(InvariantError, match="cannot be written"):
        await journal.begin([a_request()], 2)
    record = journal.order(a_request().client_order_id)
    assert record is not None
    assert record.sent_ms == 1


async def test_number_is_given_once(journal: Journal) -> None:
    """A number that is taken takes nothing with it: event and status are one step."""
    request = a_request()
    await journal.begin([request], 1)
    await journal.record([Entry(an_execution(1, E.SENT, request), Status.SENT, request)])
    with pytest.raises(InvariantError, match="cannot be written"):
        await journal.record([Entry(an_execution(1, E.FILLED, request), Status.FILLED, request)])
    record = journal.order(request.client_order_id)
    assert record is not None
    assert record.status is Status.SENT
    assert journal.last_number() == 1


async def test_events_come_back_as_they_were_in_order(journal: Journal) -> None:
    """The journal is the outbox: what is published again later is what was published."""
    requests = [a_request("EURUSD"), a_request("XAUUSD")]
    written = []
    for number, kind in enumerate((E.SENT, E.ACCEPTED, E.FILLED), 1):
        event = an_execution(number, kind, requests[number % 2], position_id=number)
        await journal.record([Entry(event, Status.SENT, requests[number % 2])])
        written.append(event)
    assert journal.events() == written
    assert journal.events(after=2) == written[2:]
    assert journal.events_of(requests[1].client_order_id) == [written[0], written[2]]


async def test_position_id_is_kept_when_an_event_has_none(journal: Journal) -> None:
    """An alarm or a repair without an id must not make the order forget its position."""
    request = a_request()
    await journal.begin([request], 1)
    await journal.record([Entry(an_execution(1, E.FILLED, request, position_id=7), Status.FILLED, request)])
    await journal.record([Entry(an_execution(2, E.REPAIRING, request), Status.FILLED, request)])
    record = journal.order(request.client_order_id)
    assert record is not None
    assert (record.position_id, record.sent_ms) == (7, 1)


async def test_orders_are_listed_by_status_oldest_first(journal: Journal) -> None:
    """The oldest question to the venue comes first."""
    for symbol, status in (("EURUSD", Status.SENT), ("XAUUSD", Status.FILLED), ("GBPUSD", Status.UNKNOWN)):
        request = a_request(symbol)
        await journal.begin([request], 1)
        number = journal.last_number() + 1
        await journal.record([Entry(an_execution(number, E.SENT, request), status, request)])
    listed = journal.orders(Status.UNKNOWN, Status.SENT)
    assert [record.request.symbol for record in listed] == ["EURUSD", "GBPUSD"]
    assert journal.orders() == []


async def test_facts_are_remembered_and_replaced(path: Path) -> None:
    """The peak of the equity survives a restart."""
    journal = a_journal(path)
    await journal.remember(peak_equity="10000.00", initial_equity="9000")
    await journal.remember(peak_equity="10100.00")
    journal.close()
    reopened = a_journal(path)
    facts = [reopened.fact(name) for name in ("peak_equity", "initial_equity", "nothing")]
    reopened.close()
    assert facts == ["10100.00", "9000", None]
