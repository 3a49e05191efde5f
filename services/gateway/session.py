"""An authorised session: what the mesh asks of the venue, in our words, over one link."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from services.gateway import terms, translate
from services.gateway.access import Credentials, asked, authorise
from services.gateway.link import Link
from services.gateway.protocol import oa
from services.gateway.refusals import SessionEndedError, TokenRefusedError
from services.gateway.slices import Bar
from services.gateway.terms import Trader
from shared.account import Position
from shared.contracts import Contract
from shared.errors import InputError
from shared.log import get_logger
from shared.messages import Direction

_MARKET, _BUY, _SELL = 1, 1, 2
_CHUNK_MS = 302_400_000  # history is asked for in windows of 3.5 days, the smallest limit known
_LIST_WINDOW_MS = 6 * 86_400_000
_BACK_MS_MAX = 60 * 86_400_000  # how far back a history of so many bars may lie

log = get_logger("gateway.session")


class Session:
    """An account's session on a link. Ends with the link, or alone when the venue drops the account."""

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
        self._numbers = itertools.count(1)  # of what may be sent again: each time under an id of its own
        self.ended = asyncio.Event()  # the account's session; the link may live on
        self.why_ended = ""
        self.was_planned = False  # its end was ours

    @classmethod
    async def open(cls, link: Link, who: Credentials, book: str, symbols: Sequence[str]) -> Session:
        """Authorise the account, learn the terms, subscribe. May be done again at any time.

        Raises:
            InputError: credentials, account or symbols are wrong: it will not help to try again.
            UnavailableError, VenueError: not now.
        """
        await authorise(link, who)
        account = {"ctidTraderAccountId": who.account_id}
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
        await session._subscribe(list(session.by_id))
        return session

    def end(self, why: str, *, planned: bool = False) -> None:
        """The account's session is over; the link may be good for another one."""
        if not self.ended.is_set():
            self.why_ended, self.was_planned = why, planned
            self.ended.set()
            log.warning("session.ended", why=why)

    async def is_authorised(self) -> bool:
        """Whether the account's session still stands: asked, because word of its end may be an old one's."""
        try:
            await self.link.request(oa.ProtoOATraderReq(ctidTraderAccountId=self._account_id))
        except (SessionEndedError, TokenRefusedError):
            return False
        return True

    async def _ask(self, request: Any, timeout_s: float | None = None) -> Any:  # noqa: ANN401 - generated
        """Ask within the session; an answer that says that it is over ends it."""
        try:
            return await self.link.request(request, timeout_s=timeout_s)
        except (SessionEndedError, TokenRefusedError) as error:
            self.end(str(error))
            raise

    async def subscribe_again(self, symbol: str) -> None:
        """Subscribe to a symbol anew; its last price follows at once.

        Raises:
            UnavailableError, VenueError: not now.
        """
        symbol_id = self._ids[symbol]
        await self._ask(
            oa.ProtoOAUnsubscribeSpotsReq(ctidTraderAccountId=self._account_id, symbolId=[symbol_id])
        )
        await self._subscribe([symbol_id])

    async def _subscribe(self, ids: Sequence[int]) -> None:
        account = {"ctidTraderAccountId": self._account_id}
        await asked(
            self._ask, oa.ProtoOASubscribeSpotsReq(**account, symbolId=ids, subscribeToSpotTimestamp=True)
        )
        for symbol_id in ids:
            await asked(
                self._ask,
                oa.ProtoOASubscribeLiveTrendbarReq(**account, symbolId=symbol_id, period=translate.M5),
            )

    # --- asking ---------------------------------------------------------------------------------

    async def read_trader(self) -> Trader:
        """Return the account's terms and balance as they are now."""
        answer = await self._ask(oa.ProtoOATraderReq(ctidTraderAccountId=self._account_id))
        return self.trader_of(answer.trader)

    def trader_of(self, trader: Any) -> Trader:  # noqa: ANN401
        """Return the account as the venue describes it."""
        return terms.trader_of(trader, self._assets)

    async def read_terms(self, symbol_ids: Sequence[int]) -> list[tuple[Contract, Contract]]:
        """Ask for the terms of symbols again, and take them over: `contracts` and `by_id` change in place.

        Returns:
            The terms that have changed, before and now. A symbol that is gone is not enabled any more.
        """
        ours = [symbol_id for symbol_id in symbol_ids if symbol_id in self.by_id]
        if not ours:
            return []
        account = {"ctidTraderAccountId": self._account_id}
        light = {s.symbolId: s for s in (await self._ask(oa.ProtoOASymbolsListReq(**account))).symbol}
        listed = [symbol_id for symbol_id in ours if symbol_id in light]
        full = (await self._ask(oa.ProtoOASymbolByIdReq(**account, symbolId=listed))).symbol
        now = {s.symbolId: terms.contract_of(light[s.symbolId], s, self._assets) for s in full}
        changed = []
        for symbol_id in ours:
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
            answer = await self._ask(
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

    async def positions(self, timeout_s: float) -> list[Position]:
        """Return all open positions of the account, ours and foreign."""
        request = oa.ProtoOAReconcileReq(ctidTraderAccountId=self._account_id)
        answer = await self._ask(request, timeout_s)
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
                answer = await self._ask(
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
        """Set both levels: one left out would be removed. Answers carry `amend:<id>:<number>`."""
        self.link.send(
            oa.ProtoOAAmendPositionSLTPReq(
                ctidTraderAccountId=self._account_id,
                positionId=position_id,
                stopLoss=float(stop),
                takeProfit=float(target),
            ),
            f"amend:{client_order_id}:{next(self._numbers)}",
        )

    def send_close(self, client_order_id: str, position_id: int, volume_units: Decimal) -> None:
        """Close a position at the market. Answers carry `close:<id>:<number>`."""
        self.link.send(
            oa.ProtoOAClosePositionReq(
                ctidTraderAccountId=self._account_id,
                positionId=position_id,
                volume=int(volume_units * terms.CENTS_PER_UNIT),
            ),
            f"close:{client_order_id}:{next(self._numbers)}",
        )


def _resolve(symbols: Sequence[str], offered: Sequence[Any]) -> dict[int, Any]:
    """Return the light symbols by id, in the book's order, found by exact name and enabled."""
    by_name = {light.symbolName: light for light in offered if light.enabled}
    missing = [symbol for symbol in symbols if symbol not in by_name]
    if missing:
        near = sorted(name for name in by_name if any(name.startswith(m[:6]) for m in missing))
        hint = f"; it offers {', '.join(near)}" if near else ""
        raise InputError(f"SYMBOLS: the venue has no enabled {', '.join(missing)}{hint}")
    return {by_name[symbol].symbolId: by_name[symbol] for symbol in symbols}
