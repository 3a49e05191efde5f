"""Answers about what is traded: assets, symbols and their terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from venue.directory import FOREX_CATEGORY_ID, METALS_CATEGORY_ID
from venue.money import CENTS, MONEY_DIGITS, conversion_chain
from venue.protocol import messages, model
from venue.session import AnswerTo, Request, RequestError, Session, symbol_name

ASSET_CLASSES = {FOREX_CATEGORY_ID: "Forex", METALS_CATEGORY_ID: "Metals"}
CATEGORIES = {FOREX_CATEGORY_ID: "Majors", METALS_CATEGORY_ID: "Precious metals"}  # one of each class


def asset_list(session: Session, _: Request) -> Iterable[Message]:
    """List the currencies and metals."""
    assets = [
        model.ProtoOAAsset(assetId=number, name=name, displayName=name, digits=MONEY_DIGITS)
        for name, number in session.floor.directory.asset_ids.items()
    ]
    return [messages.ProtoOAAssetListRes(ctidTraderAccountId=session.account_id, asset=assets)]


def symbols_list(session: Session, _: Request) -> Iterable[Message]:
    """List the symbols."""
    symbols = [session.floor.translator.light_symbol(symbol) for symbol in session.floor.directory.contracts]
    return [messages.ProtoOASymbolsListRes(ctidTraderAccountId=session.account_id, symbol=symbols)]


def symbol_by_id(session: Session, request: Request) -> Iterable[Message]:
    """Return the terms of the symbols asked for, in the order asked."""
    exchange = session.floor.exchange
    symbols = [
        session.floor.translator.symbol(
            symbol_name(session, number), exchange.matching.terms, exchange.now_ms
        )
        for number in request.symbolId
    ]
    return [messages.ProtoOASymbolByIdRes(ctidTraderAccountId=session.account_id, symbol=symbols)]


def symbols_for_conversion(session: Session, request: Request) -> Iterable[Message]:
    """Return the symbols that lead from one asset to another."""
    directory = session.floor.directory
    first, last = (directory.assets.get(n) for n in (request.firstAssetId, request.lastAssetId))
    chain = conversion_chain(directory.contracts, first, last) if first and last else None
    if chain is None:
        raise RequestError("INVALID_REQUEST", "No symbols convert these assets")
    symbols = [session.floor.translator.light_symbol(step.symbol) for step in chain]
    return [messages.ProtoOASymbolsForConversionRes(ctidTraderAccountId=session.account_id, symbol=symbols)]


def asset_classes(session: Session, _: Request) -> Iterable[Message]:
    """List the classes of assets."""
    classes = [model.ProtoOAAssetClass(id=number, name=name) for number, name in ASSET_CLASSES.items()]
    return [messages.ProtoOAAssetClassListRes(ctidTraderAccountId=session.account_id, assetClass=classes)]


def symbol_categories(session: Session, _: Request) -> Iterable[Message]:
    """List the categories of symbols, each with its class of assets."""
    categories = [
        model.ProtoOASymbolCategory(id=number, assetClassId=number, name=name)
        for number, name in CATEGORIES.items()
    ]
    return [
        messages.ProtoOASymbolCategoryListRes(
            ctidTraderAccountId=session.account_id, symbolCategory=categories
        )
    ]


def dynamic_leverage(session: Session, request: Request) -> Iterable[Message]:
    """Return the leverage of a symbol's open volume, tier by tier; volumes are cents of a dollar."""
    symbol = session.floor.directory.leverages.get(request.leverageId)
    if symbol is None:
        raise RequestError("ENTITY_NOT_FOUND", f"Leverage not found with id {request.leverageId}")
    tiers = session.floor.exchange.matching.terms.charges_of(symbol).tiers
    leverage = model.ProtoOADynamicLeverage(
        leverageId=request.leverageId,
        tiers=[
            model.ProtoOADynamicLeverageTier(volume=tier.usd_volume_max * CENTS, leverage=tier.leverage)
            for tier in tiers
        ],
    )
    return [
        messages.ProtoOAGetDynamicLeverageByIDRes(ctidTraderAccountId=session.account_id, leverage=leverage)
    ]


ANSWERS: Mapping[str, AnswerTo] = {
    "ProtoOAAssetListReq": asset_list,
    "ProtoOASymbolsListReq": symbols_list,
    "ProtoOASymbolByIdReq": symbol_by_id,
    "ProtoOASymbolsForConversionReq": symbols_for_conversion,
    "ProtoOAAssetClassListReq": asset_classes,
    "ProtoOASymbolCategoryListReq": symbol_categories,
    "ProtoOAGetDynamicLeverageByIDReq": dynamic_leverage,
}
