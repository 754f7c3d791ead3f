"""Tags of a run are those that people filter by, and are written where they differ."""

from __future__ import annotations

from pathlib import Path

from pipeline.tracking.compat import DESCRIPTION_TAG
from pipeline.tracking.mlflow_run import LiveTracker
from pipeline.tracking.tags import DESCRIBED_TAG, ON_GPU, machine_tags, set_tags
from pipeline.tracking.view import TAG_COLUMNS, set_view
from pipeline.training.history import SPEED_COLUMNS
from tests.helpers.mlflow_databases import WithDatabase
from tests.helpers.mlflow_runs import row, runs


def test_the_machines_of_an_epoch_are_tags_and_no_curve(
    with_database: WithDatabase, tmp_path: Path
) -> None:
    target = with_database(tmp_path)
    with LiveTracker(target, "a" * 16, "run", {}, {}) as live:
        live.log_epoch(row(1, on_gpu=0.0))
        live.log_epoch(row(2, on_gpu=1.0, workers=4))
    (run,) = runs(target.uri, "a" * 16)
    assert (run.data.tags["world_size"], run.data.tags["device"]) == ("4", "cuda")
    assert not [name for name in run.data.metrics if "gpu" in name]
    assert ON_GPU in SPEED_COLUMNS  # metrics/history.csv is the same on every machine


def test_a_history_of_an_older_version_has_no_device() -> None:
    assert machine_tags({"epoch": 1, "workers": 2.0}) == {"world_size": "2"}
    assert machine_tags({"epoch": 1, "on_gpu": 0.0}) == {"device": "cpu"}


def test_tags_and_views_are_written_once(with_database: WithDatabase, tmp_path: Path) -> None:
    target = with_database(tmp_path)
    LiveTracker(target, "b" * 16, "run", {}, {"recipe": "scenes"}).start()
    (run,) = runs(target.uri, "b" * 16)
    client = target.client()
    set_tags(client, run, {"recipe": "coco"})
    set_tags(client, run, {"recipe": "coco"})
    experiment = run.info.experiment_id
    for _ in range(2):
        set_view(client, experiment, ["accuracy/top1"])
    tags = client.get_experiment(experiment).tags
    assert all(f"tags.`{name}`" in tags["mlflow.sharedViewState.kdeov"] for name in TAG_COLUMNS)
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert runs(target.uri, "b" * 16)[0].data.tags["recipe"] == "coco"


def test_a_description_that_a_person_wrote_stays(
    with_database: WithDatabase, tmp_path: Path
) -> None:
    target = with_database(tmp_path)
    LiveTracker(target, "c" * 16, "run", {}, {}).start()
    client = target.client()

    def publish(text: str) -> str:
        (run,) = runs(target.uri, "c" * 16)
        set_tags(client, run, {DESCRIPTION_TAG: text, "recipe": text})
        (run,) = runs(target.uri, "c" * 16)
        assert run.data.tags["recipe"] == text
        return run.data.tags[DESCRIPTION_TAG]

    def write(text: str) -> None:
        (run,) = runs(target.uri, "c" * 16)
        client.set_tag(run.info.run_id, DESCRIPTION_TAG, text)

    write("tried while it trained")
    assert publish("first") == "tried while it trained"
    write("")  # whoever empties it gets the pipeline's again
    assert publish("second") == "second"
    assert publish("third") == "third"
    write("third, and a remark")
    assert publish("fourth") == "third, and a remark"
    (run,) = runs(target.uri, "c" * 16)
    client.delete_tag(run.info.run_id, DESCRIBED_TAG)  # as older versions left it
    write("**Old.**\n\n| a | b |\n|---|---|")
    assert publish("fifth") == "fifth"
