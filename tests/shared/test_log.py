"""What stands in the log, and what never does."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import log as log_module
from shared.errors import InputError
from shared.log import CORRELATION, add_secret, configure_log, get_logger, redact

SECRET = "hunter2-correct/horse+battery=="  # noqa: S105 - made up
SLICE = uuid4()
WEBHOOK = "https://discord.com/api/webhooks/123456/AbCdEf-ghij_klmn"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    levels = {name: logging.getLogger(name).level for name in log_module._CHATTY}
    config = dict(structlog.get_config())
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(False)
    sys.excepthook = hook
    structlog.configure(**config)


class Err:
    """What was written to standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._text = capsys, ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def err(capsys: pytest.CaptureFixture[str]) -> Err:
    return Err(capsys)


def lines(err: Err) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.getvalue().splitlines()]


def fail(error: Exception) -> None:
    raise error


@dataclass
class Pair:
    token: str


def test_line_is_json_with_service_time_level_and_logger(err: Err) -> None:
    """A machine reads the log before a human does."""
    configure_log("gateway", format="json")
    get_logger("bars").info("bar.closed", symbol="EURUSD", count=3, price=Decimal("1.10000"))
    (line,) = lines(err)
    assert line["event"] == "bar.closed"
    assert (line["service"], line["logger"], line["level"]) == ("gateway", "bars", "info")
    assert (line["symbol"], line["count"], line["price"]) == ("EURUSD", 3, "1.10000")
    assert line["timestamp"].endswith("Z")


def test_console_line_is_readable(err: Err) -> None:
    """Whoever runs the demo reads it as it is."""
    configure_log("gateway", format="console")
    get_logger("bars").warning("bar.late", symbol="EURUSD")
    assert "bar.late" in err.getvalue()
    assert "symbol=EURUSD" in err.getvalue()


def test_standard_librarys_loggers_take_the_same_way(err: Err) -> None:
    """Twisted, asyncio and httpx say important things, and know our secrets too."""
    configure_log("gateway", format="json", secrets=[SECRET])
    token = CORRELATION.set(SLICE)
    logging.getLogger("twisted").error("lost %s", SECRET)
    CORRELATION.reset(token)
    (line,) = lines(err)
    assert line["event"] == "lost [redacted]"
    assert (line["service"], line["logger"], line["level"]) == ("gateway", "twisted", "error")
    assert line["correlation_id"] == str(SLICE)


def test_correlation_id_is_in_every_line_while_it_is_set_and_in_none_after_it(err: Err) -> None:
    """One id follows a slice from the broker to Discord."""
    configure_log("gateway", format="json")
    log = get_logger("x")
    token = CORRELATION.set(SLICE)
    log.info("in.side")
    CORRELATION.reset(token)
    log.info("out.side")
    inside, outside = lines(err)
    assert inside["correlation_id"] == str(SLICE)
    assert "correlation_id" not in outside


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["console", "json"])
def test_known_secret_is_hidden_wherever_it_stands(err: Err, tmp_path: Path, format: Any) -> None:
    """A log is copied into tickets and chats."""
    configure_log("gateway", level="DEBUG", format=format, folder=tmp_path, secrets=[SECRET, WEBHOOK])
    log = get_logger("x")
    log.info(f"event {SECRET}", text=f"<{SECRET}>", nested={"a": [SECRET, {"b": (SECRET,)}], SECRET: 1})
    log.info("objects", pair=Pair(SECRET), raw=SECRET.encode(), error=ValueError(SECRET), posted=WEBHOOK)
    log.info(
        "forms", url=f"https://x/?q={SECRET.replace('/', '%2F').replace('+', '%2B').replace('=', '%3D')}"
    )
    logging.getLogger("httpx").warning("POST %s?wait=true", WEBHOOK)
    for logger in (log, logging.getLogger("y")):
        try:
            fail(ValueError(f"refused: {SECRET}"))
        except ValueError:
            logger.exception("it.failed")
    for text in (err.getvalue(), (tmp_path / "gateway.log").read_text()):
        assert "it.failed" in text
        assert "ValueError: refused: [redacted]" in text
        assert "hunter2" not in text
        assert "AbCdEf" not in text


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "accessToken",
        "refresh_token",
        "client_secret",
        "password",
        "webhook_url",
        "API_KEY",
        "Authorization",
    ],
)
def test_key_named_like_a_secret_hides_its_value(err: Err, key: str) -> None:
    """Not every secret is known beforehand."""
    configure_log("gateway", format="json")
    get_logger("x").info("a.b", **{key: "plain", "inside": {key: ["plain", 1]}})
    (line,) = lines(err)
    assert line[key] == "[redacted]"
    assert line["inside"] == {key: "[redacted]"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "POST https://discord.com/api/v10/webhooks/1/abc?wait=true",
            "POST https://discord.com/api/v10/webhooks/[redacted]?wait=true",
        ),
        ("redis://user:pass@host:6379/0", "redis://user:[redacted]@host:6379/0"),
        ("rediss://:pass@host", "rediss://:[redacted]@host"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("at 10:05, mail a@b.c", "at 10:05, mail a@b.c"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_nothing_else(text: str, shown: str) -> None:
    """Addresses with passwords in them come from libraries' own errors."""
    assert redact(text) == shown


def test_secret_added_later_is_hidden_from_then_on_and_the_old_one_still(err: Err) -> None:
    """Tokens are refreshed while the process runs; the old one is valid a while longer."""
    configure_log("gateway", format="json", secrets=["first-token"])
    add_secret("second-token")
    get_logger("x").info("a.b", text="first-token second-token")
    assert lines(err)[0]["text"] == "[redacted] [redacted]"


def test_empty_and_tiny_secrets_blot_out_nothing(err: Err) -> None:
    """An unset variable is an empty secret, and stands everywhere."""
    configure_log("gateway", format="json", secrets=["", "a"])
    get_logger("x").info("a.b", text="banana")
    assert lines(err)[0]["text"] == "banana"


def test_number_that_is_a_secret_is_hidden(err: Err) -> None:
    """Passwords are numbers now and then; the line stays JSON."""
    configure_log("gateway", format="json", secrets=["86420975"])
    get_logger("x").info("a.b", text=86420975, other=1.5)
    assert lines(err)[0]["text"] == "[redacted]"


def test_uncaught_exception_is_logged_without_secrets(err: Err) -> None:
    """The interpreter's own traceback would show it in the clear."""
    configure_log("gateway", format="json", secrets=[SECRET])
    try:
        fail(RuntimeError(SECRET))
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)
    (line,) = lines(err)
    assert line["event"] == "process.crashed"
    assert "RuntimeError: [redacted]" in line["exception"]


def test_line_that_cannot_be_made_is_named_and_not_shown(err: Err) -> None:
    """The library's own complaint prints the arguments, secrets included."""
    configure_log("gateway", format="json", secrets=[SECRET])
    record = logging.LogRecord("lib", logging.WARNING, "lib.py", 1, "%s %s", (SECRET,), None)
    (ours,) = (one for one in logging.getLogger().handlers if isinstance(one, log_module._Handler))
    ours.handle(record)
    assert err.getvalue() == "log: lost a line of lib: TypeError\n"


LEAVES: list[st.SearchStrategy[Any]] = [
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
]
LEAVES += [st.decimals(), st.datetimes(), st.uuids(), st.just("\ud800"), st.just(SECRET)]
KEYS = st.text() | st.integers()
VALUES = st.recursive(
    st.one_of(LEAVES), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=10
)


@settings(max_examples=100)
@given(value=VALUES)
def test_any_value_becomes_one_line_of_json_without_the_secret(value: Any) -> None:
    """A log call must never be what stops the process."""
    add_secret(SECRET)
    event = log_module._redact(None, "info", {"event": "a.b", "value": value})
    line = log_module._json_line(None, "info", event)
    assert isinstance(line, str)
    assert "\n" not in line
    assert orjson.loads(line)["event"] == "a.b"
    assert SECRET not in line


def test_value_that_holds_itself_ends() -> None:
    """A loop in an object must not become a loop in the log."""
    value: list[Any] = []
    value.append(value)
    assert log_module._redact(None, "info", {"event": "a.b", "value": value})


# --- where it goes --------------------------------------------------------------------------------


def test_file_has_debug_lines_whatever_the_console_shows(err: Err, tmp_path: Path) -> None:
    """The detail is wanted after the accident."""
    configure_log("gateway", level="WARNING", format="json", folder=tmp_path / "logs")
    get_logger("x").debug("small.thing", unit="ü")
    get_logger("x").warning("large.thing")
    in_file = [json.loads(line) for line in (tmp_path / "logs" / "gateway.log").read_text().splitlines()]
    assert [line["event"] for line in in_file] == ["small.thing", "large.thing"]
    assert [line["event"] for line in lines(err)] == ["large.thing"]


def test_file_rotates_at_50_mb_and_ten_files_stay(tmp_path: Path) -> None:
    """These are the promised numbers: at most 500 MB a service."""
    configure_log("gateway", folder=tmp_path)
    (handler,) = (one for one in logging.getLogger().handlers if isinstance(one, log_module._FileHandler))
    assert handler.maxBytes == 50 * 1024 * 1024
    assert handler.backupCount + 1 == 10


def test_old_files_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs for years must not fill the disk."""
    monkeypatch.setattr(log_module, "FILE_BYTES_MAX", 2000)
    configure_log("gateway", level="ERROR", folder=tmp_path)
    for number in range(300):
        get_logger("x").info("a.b", number=number)
    files = list(tmp_path.iterdir())
    assert len(files) == 10
    assert all(file.stat().st_size <= 2000 for file in files)
    assert '"number":299' in (tmp_path / "gateway.log").read_text()


def test_setting_up_again_replaces_the_earlier_set_up(err: Err, tmp_path: Path) -> None:
    """Lines that appear twice are counted twice; loggers made at import follow."""
    early = get_logger("early")
    configure_log("one", format="json", folder=tmp_path)
    configure_log("two", format="json")
    early.info("a.b")
    assert [line["service"] for line in lines(err)] == ["two"]


def test_unknown_level_and_unwritable_folder_are_refused_in_words(tmp_path: Path) -> None:
    """A service must not start with a log that is not there."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="log level 'LOUD'"):
        configure_log("x", level="LOUD")
    with pytest.raises(InputError, match="log folder"):
        configure_log("x", folder=tmp_path / "taken")


def test_before_the_set_up_nothing_goes_to_stdout() -> None:
    """Commands print JSON there, and a library function may log before anything is set up."""
    program = "from shared.log import get_logger\nlog = get_logger('x')\nlog.info('a.b')\nlog.warning('c.d')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "a.b" not in done.stderr
    assert "c.d" in done.stderr


def test_ids_and_times_are_written_as_everywhere_else(err: Err) -> None:
    """What is searched for must look the same in logs and streams."""
    configure_log("gateway", format="json")
    some_id = UUID("6c1ff3a1-7f0e-5c39-9a53-0f6f1d8f6f6e")
    get_logger("x").info("a.b", id=some_id, path=Path("a/b"))
    (line,) = lines(err)
    assert (line["id"], line["path"]) == (str(some_id), "a/b")
