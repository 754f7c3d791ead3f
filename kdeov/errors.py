"""The errors that a user can fix."""


class KdeovError(Exception):
    """An error that a user can fix.

    The text is one line: what is wrong, where, and what to do. Commands print it without a stack
    trace. The class is no `ValueError`, so code that expects a library's error never catches one
    of ours by accident.
    """


class ConfigError(KdeovError):
    """Params, options or arguments are wrong."""


class DataError(KdeovError):
    """Data, weights or files that a stage wrote are missing, damaged or do not fit together."""


class StorageError(KdeovError):
    """A disk, bucket or server cannot be reached, read or written."""


def one_line(text: str) -> str:
    """A text whose line breaks and other characters without ink are written as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 160 characters; its type's name without one."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
