"""The errors that a user can fix."""


class KdeovError(Exception):
    """An error that a user can fix.

    Its text is one line: what is wrong, where, and what to do. Command lines print it without a
    stack trace. It is no `ValueError`, so that code which expects a library's error never takes
    this one for it.
    """


class ConfigError(KdeovError):
    """Params, options or arguments are wrong."""


class DataError(KdeovError):
    """Data, weights or files that a stage wrote are missing, damaged or do not fit together."""


class StorageError(KdeovError):
    """A disk, bucket or server cannot be reached, read or written."""
