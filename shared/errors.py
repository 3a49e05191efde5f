"""The four kinds of failure. An error's class says what the caller does next."""


class MeshError(Exception):
    """The root of every error this project raises on purpose."""


class InputError(MeshError):
    """Wrong, and will stay wrong: say which field and how to mend it; dead-letter it, never retry it."""


class UnavailableError(MeshError):
    """The other side does not answer now: back off and retry, a bounded number of times."""


class OutcomeUnknownError(MeshError):
    """A command may have reached the venue: reconcile, never resend."""


class InvariantError(MeshError):
    """A bug or a corrupt state: stop the process before it trades."""


class LeaseLostError(InvariantError):
    """Another instance is active, or this one's lease ran out: stop, write nothing more."""
