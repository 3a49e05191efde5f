"""Alpha, Risk, TradeGuard: one signal per symbol and slice."""
