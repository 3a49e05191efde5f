"""Market and portfolio columns of every slice."""
