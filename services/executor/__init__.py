"""Asset lock, limits, sizing, order requests."""
