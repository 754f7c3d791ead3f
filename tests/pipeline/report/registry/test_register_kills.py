"""A student whose registration is killed before any commit is, when repeated, one version."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.execution_params import TrackingParams
from pipeline.config.paths import Layout
from pipeline.tracking.registry import register
from pipeline.tracking.target import TrackingTarget
from tests.helpers.exported import write_export
from tests.helpers.kills import kill_at_commit
from tests.helpers.mlflow_databases import WithDatabase
from tests.helpers.registry import NAME, Registry

pytestmark = pytest.mark.slow

TAGS = {"kdeov.scores": "{}", "dataset": "scenes"}
DONE = "done"


def register_under_kills(checkout: str) -> None:
    """Registers a model under one name after the other, killed before the first commit, the second,
    ... until one needs fewer commits; each is then repeated without a kill. Prints the names.
    """
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    registry = Registry(TrackingTarget.of(TrackingParams(), Layout(Path(checkout))))
    (model,) = registry.client.search_logged_models(["1"])
    done = Path(checkout) / DONE
    for number in itertools.count(1):
        name = f"{NAME}-{number}"

        def run(name: str = name) -> None:
            register(registry.client, registry.target.uri, name, model, TAGS)

        def run_whole(run: Callable[[], None] = run) -> None:
            run()
            done.touch()

        kill_at_commit(run_whole, number)
        run()
        print(name)
        if done.exists():
            return


def test_after_a_kill_before_each_commit_there_is_one_version(
    tmp_path: Path, with_database: WithDatabase, run_python: Callable[..., Any]
) -> None:
    write_export(tmp_path / "export", boxes=True)
    registry = Registry(with_database(tmp_path / "there"))
    registry.publish(tmp_path / "export")
    done = run_python("-m", __name__, str(tmp_path / "there"))
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert len(names) > 5
    (model,) = registry.client.search_logged_models(["1"])
    for name in names:
        (version,) = registry.client.search_model_versions(f"name = '{name}'")
        assert version.source == f"models:/{model.model_id}"
        assert version.tags.items() >= TAGS.items()
        assert registry.aliases(name) == {"candidate": "1"}


if __name__ == "__main__":
    register_under_kills(*sys.argv[1:])
