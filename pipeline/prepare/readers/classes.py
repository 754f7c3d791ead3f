"""The classes of a data set: those of which an image is stored."""

from __future__ import annotations

import logging
from collections.abc import Collection

from pipeline.console import printable

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5


def warn_of_classes(classes: Collection[str], stored: Collection[str]) -> None:
    """Names the classes that are left out, as no image of them can be stored."""
    warn_of_some("no image", set(classes) - set(stored), len(classes))


def warn_of_some(words: str, few: Collection[str], total: int) -> None:
    """Logs how many of all classes have few images, with examples."""
    if few:
        some = ", ".join(map(printable, sorted(few)[:NUM_EXAMPLES]))
        more = ", ..." if len(few) > NUM_EXAMPLES else ""
        logger.warning("%d of %d classes have %s: %s%s", len(few), total, words, some, more)
