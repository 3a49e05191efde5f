"""Data sets, environments, fits, evaluation, bundles."""
