"""What the entries of one slice are decided on, and what positions and reserved slots take together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

from services.executor.limits import Limit, LimitName
from services.executor.policy import Policy
from services.executor.reservations import Request
from services.executor.sizing import Funds
from services.executor.state import ExecutorState
from shared.contracts import Contract
from shared.messages import AccountReported, PositionReported, QuoteReported, SignalEmitted

_UNKNOWN = Decimal("NaN")


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one position or reserved slot is worth in account currency, and which way it stands."""

    symbol: str
    sign: int
    notional: Decimal | None


@dataclass(frozen=True)
class Situation:
    """What one symbol's entry is decided on. The state's ledger grows with each request of the slice."""

    signal: SignalEmitted
    account: AccountReported
    state: ExecutorState
    contracts: Mapping[str, Contract]
    policy: Policy
    inputs: dict[str, str]
    is_known: bool
    measured: Mapping[LimitName, Limit] = field(default_factory=dict)  # what no entry of the slice can change

    @property
    def live(self) -> bool:
        """Whether the slice was decided as it closed, not caught up on."""
        return self.signal.live and self.account.live

    @property
    def quote(self) -> QuoteReported | None:
        """The latest quote of the signal's symbol."""
        return self.account.quotes.get(self.signal.symbol)

    @cached_property
    def held(self) -> dict[str, Request]:
        """Requests that hold a slot as of the account."""
        return self.state.ledger.holding_as_of(self.account.execution_number)

    @property
    def holders(self) -> int:
        """Positions and requests of the signal's symbol, whoever owns them."""
        symbol = self.signal.symbol
        positions = sum(position.symbol == symbol for position in self.account.positions)
        return positions + sum(request.symbol == symbol for request in self.held.values())

    @property
    def slots_taken(self) -> int:
        """Positions of any owner, and reserved slots that have no position yet."""
        labels = {position.client_order_id for position in self.account.positions}
        return len(self.account.positions) + len(self.held.keys() - labels)

    @cached_property
    def used_notional(self) -> Decimal | None:
        """What positions and reserved slots are worth; None if one is not known."""
        return _total(exposure.notional for exposure in self.exposures())

    @cached_property
    def reserved_margin(self) -> Decimal | None:
        """What reserved slots bind, before their orders do."""
        return _total(request.margin for request in self.held.values())

    @property
    def currency_exposure(self) -> Decimal | None:
        """The larger exposure, in the entry's own direction, to the two currencies that it trades.

        What stands in a symbol whose terms are not known counts against both. None: not known.
        """
        contract, sign = self.contracts.get(self.signal.symbol), self.signal.direction.sign
        if contract is None or sign == 0:
            return None
        base = quote = Decimal(0)
        for exposure in self.exposures():
            if exposure.notional is None:
                return None
            for asset, side in _sides(self.contracts.get(exposure.symbol), exposure.sign):
                base += exposure.notional * _share(asset, side, contract.base_asset, sign)
                quote += exposure.notional * _share(asset, side, contract.quote_asset, -sign)
        return max(base, quote)

    @property
    def usd_conversion(self) -> Decimal | None:
        """Account currency for one US dollar, in which commissions are stated; None: no rate."""
        if self.account.currency == "USD":
            return Decimal(1)
        for symbol, contract in sorted(self.contracts.items()):
            quote = self.account.quotes.get(symbol)
            if quote is not None and contract.quote_asset == "USD":
                return quote.conversion
            if quote is not None and contract.base_asset == "USD":
                return quote.ask * quote.conversion
        return None

    @property
    def funds(self) -> Funds:
        """What the account has, and what is taken of it."""
        return Funds(
            equity=self.account.equity,
            free_margin=self.account.free_margin,
            leverage=self.account.leverage,
            used_notional=_or_unknown(self.used_notional),
            reserved_margin=_or_unknown(self.reserved_margin),
            currency_exposure=_or_unknown(self.currency_exposure),
        )

    def exposures(self) -> Iterator[Exposure]:
        """Yield what positions and reserved slots take."""
        for position in self.account.positions:
            yield Exposure(position.symbol, position.direction.sign, self._notional_of(position))
        for request in self.held.values():
            yield Exposure(request.symbol, request.direction.sign, request.notional)

    def _notional_of(self, position: PositionReported) -> Decimal | None:
        quote = self.account.quotes.get(position.symbol)
        if quote is not None:
            return position.volume_units * quote.ask * quote.conversion
        # a foreign position in a symbol that we do not watch: its margin says how large it is
        return position.used_margin * self.account.leverage if position.used_margin > 0 else None


def _sides(contract: Contract | None, sign: int) -> tuple[tuple[str | None, int], ...]:
    """Return the currencies of a position, each held or owed: a long EURUSD holds euros and owes dollars."""
    if contract is None:
        return ((None, 1),)
    return (contract.base_asset, sign), (contract.quote_asset, -sign)


def _share(asset: str | None, side: int, wanted: str, sign: int) -> int:
    """Return how a holding counts for an entry that wants a currency in that direction."""
    if asset is None:
        return 1
    return side * sign if asset == wanted else 0


def _total(parts: Iterable[Decimal | None]) -> Decimal | None:
    total = Decimal(0)
    for part in parts:
        if part is None:
            return None
        total += part
    return total


def _or_unknown(value: Decimal | None) -> Decimal:
    return _UNKNOWN if value is None else value
