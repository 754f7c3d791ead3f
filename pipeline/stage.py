"""The frame of every stage script: logging, params, and errors in one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from kdeov.errors import KdeovError
from pipeline.cluster.driver import EXIT_USER_ERROR, drive
from pipeline.cluster.submit import run_on_cluster, runs_on_cluster
from pipeline.config.params import Params, load_params
from pipeline.config.paths import Layout
from pipeline.console import setup_logging
from pipeline.runtime.lifetime import end_with_dvc
from pipeline.runtime.node import on_cluster

logger = logging.getLogger(__name__)


def run_stage(name: str, work: Callable[[Params, Layout], None]) -> None:
    """Runs a stage on the checkout in the current folder, here or as a job of a cluster, as
    `cluster.mode` says. Exits the process where the stage fails.

    Args:
        name: Name of the stage, with which every error message begins.
        work: Function of the stage.
    """
    setup_logging()
    layout = Layout.here()
    try:
        if on_cluster():  # a job outlives the machine that submitted it
            # imported here: it takes seconds, in every process that `prepare` starts too
            from pipeline.doctor.examine import preflight

            drive(name, work, preflight)
            return
        params = load_params(layout.params)
        as_job = runs_on_cluster(name, params)
        end_with_dvc(interrupt=not as_job)
        if as_job:
            run_on_cluster(name, params, layout)
        else:
            if name == "distill":  # a job asks in its preflight
                from pipeline.doctor.storages import require_class_names

                require_class_names(params, layout)
            work(params, layout)
    except KdeovError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR if on_cluster() else 1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; `dvc repro` goes on from here", file=sys.stderr)
        sys.exit(130)
