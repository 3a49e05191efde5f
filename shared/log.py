"""Logging for every process: structured lines on stderr and a rotating debug file, without secrets.

Lines of the standard library's loggers (Twisted, asyncio, httpx) take the same way as ours. A secret is
hidden by value, wherever it stands (text, nested values, tracebacks), and by the name of its key.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import date, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Final, Literal
from urllib.parse import quote, urlsplit
from uuid import UUID

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from shared.errors import InputError

FILE_BYTES_MAX: Final = 50 * 1024 * 1024
FILES_MAX: Final = 10  # the current file and nine older ones
REDACTED: Final = "[redacted]"
SECRET_LENGTH_MIN: Final = 4  # a shorter one would blot out ordinary words
DEPTH_MAX: Final = 8  # of nested values; what lies deeper is written as text

CORRELATION: Final[ContextVar[UUID | None]] = ContextVar("CORRELATION", default=None)  # in every line of it

_SECRET_KEY = re.compile(
    r"token|secret|passw|passphrase|webhook|authorization|credential|cookie|api_?key|private_?key",
    re.IGNORECASE,
)
_SECRET_SHAPES = (  # what is a secret by its shape, known to us or not
    (re.compile(r"(/api/(?:v\d+/)?webhooks/)[^\s\"'<>?#]+"), rf"\1{REDACTED}"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]*:)[^\s/@]+(@)", re.IGNORECASE), rf"\1{REDACTED}\2"),
    (re.compile(r"(\bbearer\s+)[\w.~+/=-]+", re.IGNORECASE), rf"\1{REDACTED}"),
)
_CHATTY = {"httpx": logging.WARNING, "httpcore": logging.WARNING, "asyncio": logging.INFO}


class _Redactor:
    """The secrets known so far; they are never forgotten, because old ones may still be in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        forms = {form for form in _forms_of(secret) if len(form) >= SECRET_LENGTH_MIN}
        with self._lock:
            if not forms - self._known:
                return
            self._known |= forms
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """Return the text with every secret blotted out."""
        if self._pattern is not None:
            text = self._pattern.sub(REDACTED, text)
        for shape, replacement in _SECRET_SHAPES:
            text = shape.sub(replacement, text)
        return text

    def value(self, value: object, depth: int = 0) -> object:
        """Return the value as plain data that JSON can hold, with every secret blotted out."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Mapping) and depth < DEPTH_MAX:
            return {self.text(_text_of(k)): self.item(_text_of(k), v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset) and depth < DEPTH_MAX:
            return [self.value(item, depth + 1) for item in value]
        if isinstance(value, int | float):
            return _number(value, self.text(str(value)))
        return self.text(_text_of(value))

    def item(self, key: str, value: object, depth: int = 0) -> object:
        """Return the value of a key; what a key's name calls a secret is one, whatever it is."""
        if value is not None and not isinstance(value, bool) and _SECRET_KEY.search(key):
            return REDACTED
        return self.value(value, depth)


def _forms_of(secret: str) -> set[str]:
    """Return how a secret may be written: itself, in a URL, in JSON or a repr; a URL's path alone."""
    forms = {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    if "://" in secret:
        with contextlib.suppress(ValueError):  # not a URL after all
            path = urlsplit(secret).path.rstrip("/")
            if path.count("/") > 1:  # "/1", as in a Redis URL, would hide too much
                forms |= {path, path.rpartition("/")[2]}
    return forms


def _text_of(value: object) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes | bytearray):
        text = bytes(value).decode(errors="backslashreplace")
    elif isinstance(value, datetime | date):
        text = value.isoformat()
    elif isinstance(value, UUID | Path | BaseException) or type(value).__module__ == "decimal":
        text = str(value) or repr(value)
    else:
        text = repr(value)
    return text.encode(errors="backslashreplace").decode()  # lone surrogates have no UTF-8


def _number(value: int | float, text: str) -> int | float | str:
    """Return the number, or its text where it holds a secret or JSON has no such number."""
    hidden = text != str(value)
    too_large = isinstance(value, int) and value.bit_length() > 63
    not_finite = isinstance(value, float) and not math.isfinite(value)
    return text if hidden or too_large or not_finite else value


_redactor = _Redactor()


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    inner = {key: value for key, value in event.items() if key in ("_record", "_from_structlog")}
    return {key: _redactor.item(key, value) for key, value in event.items() if key not in inner} | inner


def _name_correlation(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    correlation = CORRELATION.get()
    if correlation is not None:
        event.setdefault("correlation_id", str(correlation))
    return event


def _chain(service: str) -> list[Processor]:
    """Return what every line passes through, ours or not; redaction last, so that it sees all."""

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return [
        _name_correlation,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        name_service,
        _redact,
    ]


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return orjson.dumps(event, default=repr).decode()


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders a line and looks over it once more."""

    def __init__(self, service: str, renderer: Processor) -> None:
        super().__init__(
            foreign_pre_chain=_chain(service),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )

    def format(self, record: logging.LogRecord) -> str:
        return _redactor.text(super().format(record))


class _Handler(logging.Handler):
    """Says that a line was lost without showing it: the library's own way prints it unredacted."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        error = sys.exc_info()[0]
        with contextlib.suppress(OSError, ValueError):  # stderr itself is gone
            sys.stderr.write(f"log: lost a line of {record.name}: {error.__name__ if error else 'unknown'}\n")


class _StderrHandler(_Handler):
    """Writes to what is standard error now, not to what it was at start."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - a line that cannot be written must not stop the caller
            self.handleError(record)


class _FileHandler(_Handler, RotatingFileHandler):
    """The rotating debug file."""


def configure_log(
    service: str,
    *,
    level: str = "INFO",
    format: Literal["console", "json"] = "console",
    folder: Path | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Set up logging for this process; calling it again replaces the earlier set-up.

    Args:
        service: the process's name, in every line and in the file's name.
        level: the lowest level on stderr; the file takes everything from DEBUG on.
        format: how lines look on stderr; the file is always JSON lines.
        folder: where `<service>.log` rotates, 50 MB × 10; None: no file.
        secrets: values that must never be written.

    Raises:
        InputError: the level is unknown, or the folder cannot be written.
    """
    lowest = logging.getLevelNamesMapping().get(level.upper())
    if lowest is None:
        raise InputError(f"log level {level!r}: use DEBUG, INFO, WARNING, ERROR or CRITICAL")
    for secret in secrets:
        add_secret(secret)
    handlers: list[logging.Handler] = [_StderrHandler(lowest)]
    handlers[0].setFormatter(_Formatter(service, _renderer(format)))
    if folder is not None:
        handlers.append(_file_handler(service, folder))
        lowest = logging.DEBUG
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(lowest)
    for name, floor in _CHATTY.items():
        logging.getLogger(name).setLevel(max(floor, lowest))
    logging.captureWarnings(True)
    sys.excepthook = _log_crash
    _configure_structlog(service, lowest)


def _renderer(format: Literal["console", "json"]) -> Processor:
    if format == "json":
        return _json_line
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def _file_handler(service: str, folder: Path) -> logging.Handler:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _FileHandler(
            folder / f"{service}.log",
            maxBytes=FILE_BYTES_MAX,
            backupCount=FILES_MAX - 1,
            encoding="utf-8",
        )
    except OSError as error:
        raise InputError(f"log folder {folder}: {error.strerror}; name one that can be written") from error
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(_Formatter(service, _json_line))
    return handler


def _configure_structlog(service: str, lowest: int) -> None:
    structlog.configure(
        processors=[*_chain(service), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # loggers made at import follow a later set-up
    )


def silence() -> None:
    """Log nothing from now on: in a simulation alarms come by the thousand, and tell nobody anything."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what nobody caught: Python's own way prints it unredacted."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    get_logger("process").critical("process.crashed", exc_info=(kind, error, trace))


def add_secret(secret: str) -> None:
    """Hide this value from now on, in every line; tokens are refreshed while the process runs."""
    _redactor.add(secret)


def redact(text: str) -> str:
    """Return the text without secrets: for what leaves the process by another way than the log."""
    return _redactor.text(text)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of that name; events are `noun.verb`, everything else is a key.

    Before `configure_log`, warnings and worse go to stderr, and nothing to stdout.
    """
    if not structlog.is_configured():
        _configure_structlog("tradeguard", logging.WARNING)
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger
