"""How every stage script starts and ends: logging, params, and errors in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from kdeov.errors import KdeovError
from pipeline.console import setup_logging
from pipeline.layout import Layout
from pipeline.params import Params, load_params

logger = logging.getLogger(__name__)


def run_stage(name: str, work: Callable[[Params, Layout], None]) -> None:
    """Runs a stage in the current folder and leaves with its exit status.

    Args:
        name: Of the stage, which begins every error message.
        work: The stage.
    """
    setup_logging()
    layout = Layout.here()
    try:
        work(load_params(layout.params), layout)
    except KdeovError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(f"{name}: interrupted; `dvc repro` goes on from here", file=sys.stderr)
        sys.exit(130)
