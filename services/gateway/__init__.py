"""The one connection to the venue: slices, account and executions out, orders in."""
