"""A simulated cTrader: quote paths and matching core (pure), Open API over TLS and control (the doors)."""
