"""The output of other libraries, as debug messages."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Logs standard output, standard error and warnings of a block as debug messages, and drops
    what it logs below `ERROR` itself.

    Args:
        what: The step, for the messages.
    """
    printed, disabled = io.StringIO(), logging.root.manager.disable
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        warnings.simplefilter("always")
        logging.disable(max(disabled, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(disabled)
            lines = printed.getvalue().splitlines() + [str(entry.message) for entry in caught]
            for line in filter(None, map(str.strip, lines)):
                logger.debug("%s: %s", what, line)
