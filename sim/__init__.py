"""The services' own handlers in one process, on streams in memory: what is simulated is what runs."""
