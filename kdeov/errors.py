"""The one exception that stands for a person's mistake."""


class KdeovError(ValueError):
    """A mistake that a person can mend.

    Its text is one line: what happened, where, and what to do. Command lines print it without a
    stack trace.
    """
