"""Common code of the mesh: messages, streams, bus, runtime, settings, clock, log, units, account."""
