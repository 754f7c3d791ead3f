"""Publishing that is killed at any moment ends, when repeated, with everything once."""

from __future__ import annotations

import pickle
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from tests.helpers.kills import kill_after, kill_at_commit

pytestmark = pytest.mark.slow

KILLS, LONGEST_S, COMMITS = 10, 1.2, (4, 16)  # publishing takes 5 s and 36 commits
BOUND_S = 150


def publish_under_kills(checkout: str) -> None:
    """Publishes from a fresh process: what is imported once takes no time of those killed."""
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    from pipeline.report.publish import publish
    from pipeline.report.publish_model import export_files
    from pipeline.report.registry.logged_model import write_logged_model

    layout = Layout(Path(checkout))
    model: Any = SimpleNamespace(artifact_location="", source_run_id="", model_id="")
    write_logged_model(model, export_files(layout.export), layout.root / "warm-up")
    params: Params = pickle.loads((layout.root / "params.pickle").read_bytes())
    moments = random.Random(10)
    for number in range(KILLS):
        if number % 2:
            kill_after(lambda: publish(params, layout), moments.uniform(0, LONGEST_S))
        else:
            kill_at_commit(lambda: publish(params, layout), moments.randint(*COMMITS))
    publish(params, layout)


def test_after_ten_kills_there_is_one_finished_run_with_one_model_and_everything_once(
    copied: tuple[Layout, Params], run_python: Callable[..., Any]
) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import list_artifacts

    from pipeline.artifacts.run import RunRecord
    from pipeline.report.headline import headline_metrics
    from pipeline.report.results import Results
    from pipeline.storage.storage import open_storage
    from pipeline.tracking.watch import STEP_LOSS
    from pipeline.training.step_curve import whole_curve

    layout, params = copied
    tracking = params.tracking.model_copy(update={"experiment": "kills"})
    params = params.model_copy(update={"tracking": tracking})
    (layout.root / "params.pickle").write_bytes(pickle.dumps(params))
    began = time.monotonic()
    done = run_python("-m", __name__, str(layout.root))
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < BOUND_S

    uri = f"sqlite:///{layout.tracking_database}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("kills")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["kdeov.fingerprint"] == RunRecord.read(layout.student).fingerprint
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert (str(model.status), model.source_run_id) == ("READY", run.info.run_id)
    assert [o.model_id for o in run.outputs.model_outputs] == [model.model_id]
    (version,) = client.search_model_versions("name = 'scenes'")
    assert (version.source, version.run_id) == (f"models:/{model.model_id}", run.info.run_id)
    assert client.get_registered_model("scenes").aliases == {"candidate": version.version}
    assert version.tags.keys() >= {"kdeov.fingerprint", "kdeov.scores"}
    names = [entry.dataset.name for entry in run.inputs.dataset_inputs]
    assert sorted(names) == ["scenes/test", "scenes/train", "scenes/val"]

    results = Results.read(params, layout)
    headline = headline_metrics(results)
    assert {m.key: m.value for m in model.metrics} == pytest.approx(headline)
    steps = len(whole_curve(open_storage(str(layout.runs / results.run.fingerprint / "steps"))))
    counts = {**dict.fromkeys(headline, 1), STEP_LOSS: steps}
    assert run.data.metrics.keys() > counts.keys()
    for name in run.data.metrics:
        points = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
        assert set(points.values()) == {1}, name
        assert len(points) == counts.get(name, len(results.history)), name
    files = list_artifacts(run_id=run.info.run_id, artifact_path="metrics", tracking_uri=uri)
    assert {Path(file.path).name for file in files} == {p.name for p in layout.metrics.iterdir()}
    left = {path.name for path in layout.tracking_database.parent.iterdir()}
    assert left - {".mlflow.db.lock", ".publish.lock"} == {"mlflow.db", "artifacts"}


if __name__ == "__main__":
    publish_under_kills(sys.argv[1])
