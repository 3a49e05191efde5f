"""What the venue does wrong on purpose, so that clients can be tested. Pure.

A fault is asked for by its name, from a file or through the control door, and strikes where a message of
its kind passes: with a probability, so many times, within a time of the venue. Draws come from the seed
and the place of the fault in the list alone: the same seed and the same actions of the clients give the
same bytes.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import InputError
from venue.fault_names import FAULTS, OUTGOING_ACTS, REQUEST_ACTS, Act, Named

DELAY_MS_MAX = 7 * 24 * 3_600_000
_OPTIONS = ("delay_ms", "error_code", "byte", "field")
_WORDS_IN = frozenset({"request"})
_STAGES = ("accept", "fill", "partial_fill", "replace", "cancel", "expire", "reject", "cancel_reject", "swap")
_WORDS_OUT = frozenset(
    {"answer", "quote", "execution", *_STAGES, *(f"protective_{stage}" for stage in _STAGES)}
)
_OPEN_API = "Proto"


class FaultRequest(BaseModel):
    """A fault that is asked for: which, and when it strikes. What is left out sets no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fault: str  # its name in the table
    message: str = ""  # another message than the table's
    symbol: str = ""  # of this symbol alone
    probability: float = Field(default=1.0, gt=0, le=1)  # for each message that it may strike
    skip: int = Field(default=0, ge=0)  # so many messages pass first
    count: int | None = Field(default=None, ge=1)  # strikes at most so often
    since: AwareDatetime | None = None  # venue time, as until
    until: AwareDatetime | None = None
    lasts_ms: int = Field(
        default=0, ge=0, le=DELAY_MS_MAX
    )  # each strike goes on for so long, on every message
    delay_ms: int = Field(default=0, ge=0, le=DELAY_MS_MAX)  # venue time
    error_code: str = Field(default="", max_length=100)
    byte: int | None = Field(default=None, ge=0)  # how many bytes of the message still leave
    field: str = ""  # of the message, with dots for one within another: order.clientOrderId

    @model_validator(mode="after")
    def _is_sensible(self) -> FaultRequest:
        named = FAULTS.get(self.fault)
        if named is None:
            raise ValueError(f"no such fault: {self.fault}")
        given = {name for name in (*_OPTIONS, "lasts_ms") if getattr(self, name) not in ("", 0, None)}
        if missing := named.needs - given:
            raise ValueError(f"{self.fault} needs {', '.join(sorted(missing))}")
        if extra := given - named.needs - named.takes - {"lasts_ms"}:
            raise ValueError(f"{self.fault} takes no {', '.join(sorted(extra))}")
        if self.since and self.until and self.since >= self.until:
            raise ValueError("since is not before until")
        _check_message(named, self.message)
        return self


def _check_message(named: Named, message: str) -> None:
    if not (message or named.message):
        raise ValueError("this fault needs a message")
    if not message:
        return
    if message.startswith(_OPEN_API):
        incoming = message.endswith("Req")
    elif message in _WORDS_IN | _WORDS_OUT and named.act not in (Act.SHUT, Act.LEAVE_BARE):
        incoming = message in _WORDS_IN
    else:
        raise ValueError(f"no such message for this fault: {message}")
    if (named.act in OUTGOING_ACTS and incoming) or (named.act in REQUEST_ACTS and not incoming):
        raise ValueError(f"this fault does not strike {message}: it goes the other way")


class Fault:
    """A fault in force, and how often it struck."""

    def __init__(self, request: FaultRequest, seed: int, number: int) -> None:
        self.request = request
        self.named = FAULTS[request.fault]
        self.message = request.message or self.named.message
        self.error_code = request.error_code or self.named.error_code
        self.rng = np.random.default_rng([seed, number])
        self.met = 0  # messages that it could have struck
        self.begun = 0  # strikes, each with all that followed within lasts_ms
        self.fired = 0  # messages that it struck
        self.ends_ms: int | None = None  # of the strike that goes on
        self._since_ms = _ms(request.since)
        self._until_ms = _ms(request.until)

    def strikes(self, symbol: str, now_ms: int) -> bool:
        """Tell whether it strikes a message of its kind that passes now, and count it."""
        request = self.request
        if request.symbol and request.symbol != symbol:
            return False
        if self.ends_ms is not None and now_ms < self.ends_ms:
            self.met += 1
            self.fired += 1
            return True
        if (self._since_ms is not None and now_ms < self._since_ms) or (
            self._until_ms is not None and now_ms >= self._until_ms
        ):
            return False
        self.met += 1
        if self.met <= request.skip or (request.count is not None and self.begun >= request.count):
            return False
        if request.probability < 1 and self.rng.random() >= request.probability:
            return False
        self.begun += 1
        self.fired += 1
        self.ends_ms = now_ms + request.lasts_ms if request.lasts_ms else None
        return True

    def missed(self) -> None:
        """Take a strike back: there was nothing in the message to make wrong."""
        self.fired -= 1
        if self.ends_ms is None:
            self.begun -= 1

    def drawn_byte(self, length: int, *, whole: bool) -> int:
        """Return how many bytes of a message leave before it is broken; `whole`: perhaps none, or all."""
        low, high = (0, length) if whole else (1, length - 1)
        if self.request.byte is not None:
            return min(max(self.request.byte, low), high)
        return int(self.rng.integers(low, high + 1))

    def told(self) -> dict[str, Any]:
        """Return it for the control door."""
        asked = self.request.model_dump(mode="json", exclude_defaults=True)
        return {**asked, "message": self.message, "met": self.met, "fired": self.fired}


class Faults:
    """The faults that were asked for, oldest first: the first that strikes a message has it."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.asked: list[Fault] = []
        self._by_message: dict[str, list[Fault]] = {}

    def ask(self, request: dict[str, Any]) -> Fault:
        """Ask for a fault.

        Raises:
            InputError: no such fault, or what is asked of it makes no sense.
        """
        try:
            fault = Fault(FaultRequest.model_validate(request), self.seed, len(self.asked))
        except ValidationError as error:
            raise InputError(f"a fault cannot be had: {_sentence(error)}") from error
        self.asked.append(fault)
        self._by_message.setdefault(fault.message, []).append(fault)
        return fault

    @property
    def are_in_force(self) -> bool:
        """Whether any may strike: without, nobody need say what passes."""
        return bool(self._by_message)

    def end_all(self) -> None:
        """End every fault; what was counted stays."""
        self._by_message.clear()

    def fired(self) -> dict[str, int]:
        """Return how often each name struck."""
        counts: Counter[str] = Counter()
        for fault in self.asked:
            counts[fault.request.fault] += fault.fired
        return dict(counts)

    def told(self) -> dict[str, Any]:
        """Return all of it for the control door."""
        return {"seed": self.seed, "fired": self.fired(), "faults": [fault.told() for fault in self.asked]}

    def striking(
        self, words: Iterable[str], now_ms: int, *, acts: frozenset[Act] | None = None, symbol: str = ""
    ) -> Fault | None:
        """Return the fault that strikes a message known under these words, if one does.

        Args:
            words: the message's name and the other words for it.
            now_ms: venue time.
            acts: what can be done at this place; None is everything.
            symbol: which symbol the message is about.
        """
        for word in words:
            for fault in self._by_message.get(word, ()):
                if (acts is None or fault.named.act in acts) and fault.strikes(symbol, now_ms):
                    return fault
        return None

    def protection_delay_ms(self, now_ms: int) -> int | None:
        """Return how late the next protective order is; None if it never comes."""
        fault = self.striking(("protection",), now_ms)
        return 0 if fault is None else fault.request.delay_ms or None


def faults_of(text: str, seed: int) -> Faults:
    """Return the faults of a TOML file: an optional `seed`, and a table `[[fault]]` for each.

    Args:
        text: the file's content.
        seed: of the draws, where the file has none.

    Raises:
        InputError: it is not such a file, or one of its faults makes no sense.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the faults are not TOML: {error}") from error
    seed, listed = content.pop("seed", seed), content.pop("fault", [])
    if content or not isinstance(seed, int) or seed < 0 or not isinstance(listed, list):
        raise InputError(
            "a file of faults has a seed from 0 on and a table [[fault]] for each fault, no more"
        )
    faults = Faults(seed)
    for request in listed:
        faults.ask(request)
    return faults


def _ms(moment: AwareDatetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000)


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    said = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
