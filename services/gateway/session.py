"""An authorised session: what the mesh asks of the venue, in our words, over one link."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from services.gateway import terms, translate
from services.gateway.link import Link, Received
from services.gateway.protocol import oa
from services.gateway.refusals import AlreadySoError, CredentialsRefusedError, TokenRefusedError
from services.gateway.slices import Bar
from services.gateway.terms import Trader
from services.gateway.transport import Place
from shared.account import Position
from shared.contracts import Contract
from shared.errors import InputError
from shared.log import get_logger
from shared.messages import Direction

_CHECK = "check CT_CLIENT_ID, CT_CLIENT_SECRET, CT_ACCESS_TOKEN, CT_ACCOUNT_ID"
_MARKET, _BUY, _SELL = 1, 1, 2
_CHUNK_MS = 302_400_000  # history is asked for in windows of 3.5 days, the smallest limit known
_LIST_WINDOW_MS = 6 * 86_400_000
_BACK_MS_MAX = 60 * 86_400_000  # how far back a history of so many bars may lie

log = get_logger("gateway.session")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are at the venue."""

    client_id: str
    client_secret: str
    access_token: str
    account_id: int


class Session:
    """Open from `Session.open` until its link ends."""

    def __init__(
        self,
        link: Link,
        book: str,
        account_id: int,
        contracts: dict[int, Contract],
        trader: Trader,
        assets: Mapping[int, str],
    ) -> None:
        self.link = link
        self._book = book
        self.trader = trader
        self.contracts = {contract.symbol: contract for contract in contracts.values()}
        self.by_id = contracts
        self._assets = assets
        self._ids = {contract.symbol: symbol_id for symbol_id, contract in contracts.items()}
        self._account_id = account_id

    @classmethod
    async def open(
        cls,
        place: Place,
        credentials: Credentials,
        book: str,
        symbols: Sequence[str],
        inbox: asyncio.Queue[Received],
    ) -> Session:
        """Connect, authorise, learn the terms, subscribe. May be done again on a new link at any time.

        Raises:
            InputError: credentials, account or symbols are wrong: it will not help to try again.
            UnavailableError, VenueError: not now.
        """
        link = await Link.connect(place, inbox)
        try:
            return await cls._authorise(link, credentials, book, symbols)
        except BaseException:
            link.abort("the session could not be opened")
            raise

    @classmethod
    async def _authorise(cls, link: Link, who: Credentials, book: str, symbols: Sequence[str]) -> Session:
        account = {"ctidTraderAccountId": who.account_id}
        try:
            await _asked(
                link, oa.ProtoOAApplicationAuthReq(clientId=who.client_id, clientSecret=who.client_secret)
            )
            await _asked(link, oa.ProtoOAAccountAuthReq(**account, accessToken=who.access_token))
        except (CredentialsRefusedError, TokenRefusedError) as error:
            raise CredentialsRefusedError(error.code, f"{error.description}; {_CHECK}") from error
        assets = {a.assetId: a.name for a in (await link.request(oa.ProtoOAAssetListReq(**account))).asset}
        trader = (await link.request(oa.ProtoOATraderReq(**account))).trader
        light = _resolve(symbols, (await link.request(oa.ProtoOASymbolsListReq(**account))).symbol)
        full = (await link.request(oa.ProtoOASymbolByIdReq(**account, symbolId=list(light)))).symbol
        contracts = {s.symbolId: terms.contract_of(light[s.symbolId], s, assets) for s in full}
        session = cls(
            link,
            book,
            who.account_id,
            {symbol_id: contracts[symbol_id] for symbol_id in light},
            terms.trader_of(trader, assets),
            assets,
        )
        await session._subscribe()
        return session

    async def _subscribe(self) -> None:
        account = {"ctidTraderAccountId": self._account_id}
        ids = list(self.by_id)
        await _asked(
            self.link, oa.ProtoOASubscribeSpotsReq(**account, symbolId=ids, subscribeToSpotTimestamp=True)
        )
        for symbol_id in ids:
            await _asked(
                self.link,
                oa.ProtoOASubscribeLiveTrendbarReq(**account, symbolId=symbol_id, period=translate.M5),
            )

    # --- asking ---------------------------------------------------------------------------------

    async def read_trader(self) -> Trader:
        """Return the account's terms and balance as they are now."""
        answer = await self.link.request(oa.ProtoOATraderReq(ctidTraderAccountId=self._account_id))
        return self.trader_of(answer.trader)

    def trader_of(self, trader: Any) -> Trader:  # noqa: ANN401
        """Return the account as the venue describes it."""
        return terms.trader_of(trader, self._assets)

    async def read_terms(self, symbol_ids: Sequence[int]) -> list[tuple[Contract, Contract]]:
        """Ask for the terms of symbols again, and take them over: `contracts` and `by_id` change in place.

        Returns:
            The terms that have changed, before and now. A symbol that is gone is not enabled any more.
        """
        asked = [symbol_id for symbol_id in symbol_ids if symbol_id in self.by_id]
        if not asked:
            return []
        account = {"ctidTraderAccountId": self._account_id}
        light = {s.symbolId: s for s in (await self.link.request(oa.ProtoOASymbolsListReq(**account))).symbol}
        listed = [symbol_id for symbol_id in asked if symbol_id in light]
        full = (await self.link.request(oa.ProtoOASymbolByIdReq(**account, symbolId=listed))).symbol
        now = {s.symbolId: terms.contract_of(light[s.symbolId], s, self._assets) for s in full}
        changed = []
        for symbol_id in asked:
            before = self.by_id[symbol_id]
            after = now.get(symbol_id, before.model_copy(update={"is_enabled": False}))
            if after != before:
                self.by_id[symbol_id] = self.contracts[before.symbol] = after
                changed.append((before, after))
        return changed

    async def history(self, symbol: str, count: int, to_ms: int) -> list[Bar[int]]:
        """Return at least the last `count` bars opened up to `to_ms`, oldest first, if there are so many.

        Asks window by window, further back until there are enough (weekends, holidays).
        """
        bars: dict[int, Bar[int]] = {}
        window_end = to_ms
        while len(bars) < count and to_ms - window_end < _BACK_MS_MAX:
            answer = await self.link.request(
                oa.ProtoOAGetTrendbarsReq(
                    ctidTraderAccountId=self._account_id,
                    symbolId=self._ids[symbol],
                    period=translate.M5,
                    fromTimestamp=max(0, window_end - _CHUNK_MS),
                    toTimestamp=window_end,
                    count=count,
                )
            )
            found = {b.open_time_ms: b for b in (translate.history_bar(symbol, t) for t in answer.trendbar)}
            bars |= found
            window_end = min(found, default=window_end - _CHUNK_MS) - 1
        return [bars[at] for at in sorted(bars)]

    async def positions(self) -> list[Position]:
        """Return all open positions of the account, ours and foreign."""
        answer = await self.link.request(oa.ProtoOAReconcileReq(ctidTraderAccountId=self._account_id))
        return [translate.position_of(p, self.by_id, self._book) for p in answer.position]

    def event(self, message: Any) -> translate.VenueEvent | None:  # noqa: ANN401
        """Return what an execution event says, or None when it is about no order."""
        return translate.event_of(message, self.by_id, self._book)

    async def orders_since(self, from_ms: int, to_ms: int) -> list[translate.OrderFound]:
        """Return the account's orders that were last changed between two venue times."""
        found = await self._listed(oa.ProtoOAOrderListReq, "order", "utcLastUpdateTimestamp", from_ms, to_ms)
        return [translate.order_found(order, self.by_id) for order in found]

    async def closes_since(self, from_ms: int, to_ms: int) -> list[translate.CloseFound]:
        """Return the deals that closed positions between two venue times."""
        deals = await self._listed(oa.ProtoOADealListReq, "deal", "executionTimestamp", from_ms, to_ms)
        found = (translate.close_found(deal, self.by_id) for deal in deals)
        return [close for close in found if close is not None]

    async def _listed(self, kind: Any, field: str, stamp: str, from_ms: int, to_ms: int) -> list[Any]:  # noqa: ANN401
        """Return all rows of one of the venue's lists: window by window, and page by page, newest first."""
        rows: dict[int, Any] = {}  # the row at a page's border comes twice
        while from_ms <= to_ms:
            window_end = page_end = min(to_ms, from_ms + _LIST_WINDOW_MS)
            while True:
                answer = await self.link.request(
                    kind(ctidTraderAccountId=self._account_id, fromTimestamp=from_ms, toTimestamp=page_end)
                )
                page = getattr(answer, field)
                rows |= {getattr(row, f"{field}Id"): row for row in page}
                oldest_ms = min((getattr(row, stamp) for row in page), default=page_end)
                if not answer.hasMore or oldest_ms >= page_end:
                    break
                page_end = oldest_ms
            from_ms = window_end + 1
        return list(rows.values())

    # --- doing: nothing is awaited, the answers come through the inbox ----------------------------

    def send_market_order(
        self,
        client_order_id: str,
        symbol: str,
        direction: Direction,
        volume_units: Decimal,
        *,
        stop_points: int,
        target_points: int,
    ) -> None:
        """Let a market order with relative stops leave now; answers carry `order:<client order id>`."""
        self.link.send(
            oa.ProtoOANewOrderReq(
                ctidTraderAccountId=self._account_id,
                symbolId=self._ids[symbol],
                orderType=_MARKET,
                tradeSide=_BUY if direction is Direction.LONG else _SELL,
                volume=int(volume_units * terms.CENTS_PER_UNIT),
                relativeStopLoss=stop_points,
                relativeTakeProfit=target_points,
                label=client_order_id,
                clientOrderId=client_order_id,
            ),
            f"order:{client_order_id}",
        )

    def send_amend(self, client_order_id: str, position_id: int, stop: Decimal, target: Decimal) -> None:
        """Set both levels of a position: one left out would be removed. Answers carry `amend:...`."""
        self.link.send(
            oa.ProtoOAAmendPositionSLTPReq(
                ctidTraderAccountId=self._account_id,
                positionId=position_id,
                stopLoss=float(stop),
                takeProfit=float(target),
            ),
            f"amend:{client_order_id}",
        )

    def send_close(self, client_order_id: str, position_id: int, volume_units: Decimal) -> None:
        """Close a position at the market. Answers carry `close:...`."""
        self.link.send(
            oa.ProtoOAClosePositionReq(
                ctidTraderAccountId=self._account_id,
                positionId=position_id,
                volume=int(volume_units * terms.CENTS_PER_UNIT),
            ),
            f"close:{client_order_id}",
        )


async def _asked(link: Link, request: Any) -> None:  # noqa: ANN401
    """Ask for something that may be so already."""
    try:
        await link.request(request)
    except AlreadySoError as error:
        log.info("session.already_so", request=request.DESCRIPTOR.name, code=error.code)


def _resolve(symbols: Sequence[str], offered: Sequence[Any]) -> dict[int, Any]:
    """Return the light symbols by id, in the book's order, found by exact name and enabled."""
    by_name = {light.symbolName: light for light in offered if light.enabled}
    missing = [symbol for symbol in symbols if symbol not in by_name]
    if missing:
        near = sorted(name for name in by_name if any(name.startswith(m[:6]) for m in missing))
        hint = f"; it offers {', '.join(near)}" if near else ""
        raise InputError(f"SYMBOLS: the venue has no enabled {', '.join(missing)}{hint}")
    return {by_name[symbol].symbolId: by_name[symbol] for symbol in symbols}
