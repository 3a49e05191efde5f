"""The `tradeguard` program."""
