"""`dvc repro` from nothing to published metrics, on a small world."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.checkouts import Checkout
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


def metrics(checkout: Checkout, name: str) -> dict[str, Any]:
    return json.loads((checkout.path / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def test_metrics_stand_where_scripts_look_for_them(reproduced: Checkout) -> None:
    zero_shot = metrics(reproduced, "zero_shot")["scenes"]
    retrieval = metrics(reproduced, "retrieval")["scenes"]
    probe = metrics(reproduced, "linear_probe")["scenes"]
    for who in ("teacher", "student", "retained"):
        assert {"top1", "top5", "mean_per_class", "seen_top1", "heldout_top1"} <= zero_shot[
            who
        ].keys()
        assert {"i2t_r1", "i2t_r5", "t2i_r10", "t2i_median_rank"} <= retrieval[who].keys()
        assert {"top1", "mean_per_class"} <= probe[who].keys()
        assert all("interval" in scores[who] for scores in (zero_shot, retrieval, probe))
    assert zero_shot["student"]["count"] == 64
    assert retrieval["reranked"].keys() >= {"t2i_r1", "gain_t2i_r1", "verdict"}
    assert metrics(reproduced, "efficiency")["student"]["parameters"] > 1_000_000
    assert metrics(reproduced, "distill")["epochs"] == 3


def test_a_second_run_changes_nothing_and_takes_seconds(reproduced: Checkout) -> None:
    start = time.monotonic()
    result = reproduced.run("dvc", "repro")
    assert "Data and pipelines are up to date" in result.stdout
    assert "Running stage" not in result.stdout
    assert time.monotonic() - start < 20  # 5 s on a quiet machine
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def test_only_the_stages_that_read_a_param_are_changed_by_it(reproduced: Checkout) -> None:
    params = (reproduced.path / "params.yaml").read_text(encoding="utf-8")
    try:
        reproduced.change({"retrieval": {"rerank": 3}, "cluster": {"num_workers": 5}})
        changed = json.loads(reproduced.run("dvc", "status", "--json").stdout)
        assert set(changed) == {"retrieval"}
        reproduced.change({"zero_shot": {"class_names": {"red circle": "a red disc"}}})
        changed = json.loads(reproduced.run("dvc", "status", "--json").stdout)
        assert set(changed) == {"retrieval", "zero_shot", "export", "efficiency"}
    finally:
        (reproduced.path / "params.yaml").write_text(params, encoding="utf-8")


def test_metrics_and_plots_can_be_shown_and_compared(reproduced: Checkout) -> None:
    shown = json.loads(reproduced.run("dvc", "metrics", "show", "--json").stdout)
    assert "metrics/zero_shot.json" in shown[""]["data"]
    reproduced.run("dvc", "metrics", "diff", "HEAD~1")
    reproduced.run("dvc", "plots", "show")
    assert (reproduced.path / "dvc_plots" / "index.html").is_file()


def test_the_report_is_one_page_that_needs_nothing_else(reproduced: Checkout) -> None:
    page = (reproduced.path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    record = json.loads(
        (reproduced.path / "out" / "student" / "run.json").read_text(encoding="utf-8")
    )
    assert record["fingerprint"] in page
    assert "Teacher against student" in page and "red circle" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(s.startswith(("data:image/", "#")) for s in sources)
    assert "<script" not in page


def test_the_student_loads_and_classifies(reproduced: Checkout) -> None:
    from PIL import Image

    from kdeov import KDEOVModel

    model = KDEOVModel.load(reproduced.path / "out" / "student", "cpu")
    logits = model.zero_shot_classify(
        Image.new("RGB", (50, 40), "red"), ["red circle", "blue star"]
    )
    assert logits.shape == (1, 2)


def test_mlflow_has_one_run_with_one_point_an_epoch(reproduced: Checkout) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{reproduced.path / 'work' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("kdeov")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/total")] == [1, 2, 3]
    assert run.data.params["distill.epochs"] == "3"
    top1 = metrics(reproduced, "zero_shot")["scenes"]["student"]["top1"]
    assert run.data.metrics["accuracy/top1"] == pytest.approx(top1)
    assert {"kdeov.fingerprint", "git.commit", "dvc.stage"} <= run.data.tags.keys()
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {
        "scenes/train", "scenes/val", "scenes/test",
    }  # fmt: skip
    assert {a.path for a in client.list_artifacts(run.info.run_id)} >= {
        "figures",
        "metrics",
        "report",
    }
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert model.source_run_id == run.info.run_id


def test_publishing_again_changes_nothing(reproduced: Checkout) -> None:
    from mlflow import MlflowClient

    reproduced.run("kdeov", "publish")
    client = MlflowClient(f"sqlite:///{reproduced.path / 'work' / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    assert len(client.get_metric_history(run.info.run_id, "accuracy/top1")) == 1
    assert len(client.search_logged_models(["1"])) == 1


def test_the_published_student_becomes_champion_and_runs_by_its_alias(
    reproduced: Checkout,
) -> None:
    for _ in range(2):
        reproduced.run("kdeov", "publish")
    first = reproduced.run("kdeov", "promote").stdout
    assert first == "scenes: version 1 is the champion\n"
    again = reproduced.run("kdeov", "promote", "--metrics", "zeroshot/top1").stdout
    assert again == "scenes: version 1 is the champion already\n"
    image = next((reproduced.path / "out" / "report" / "figures").glob("*.png"))
    command = ("kdeov", "classify", str(image), "--labels", "cat, dog", "--json", "--model")
    by_alias, by_folder = (
        reproduced.run(*command, model).stdout
        for model in ("models:/scenes@champion", "out/export")
    )
    assert by_alias == by_folder


def test_the_summary_says_where_to_look(reproduced: Checkout) -> None:
    text = reproduced.run("kdeov", "summary").stdout
    assert "zero-shot top-1" in text and "retained" in text and "parameters" in text
    assert str(reproduced.path / "out" / "report" / "index.html") in text
    assert re.search(
        r"http://kdeov\.localhost:5000/#/experiments/1/runs/\w+\?workflowType=machine_learning",
        text,
    )


def test_same_params_give_the_same_shards_and_numbers(
    reproduced: Checkout, new_checkout: Callable[[], Checkout]
) -> None:
    again = new_checkout()
    evaluations = "zero_shot", "linear_probe", "retrieval"
    for stage in ("prepare", "teacher", "embed", "distill", *evaluations):
        again.stage(stage)
    for folder in ("images", "embeddings"):
        tars = sorted((reproduced.path / "out" / folder).rglob("*.tar"))
        assert tars
        for tar in tars:
            assert tar.read_bytes() == (again.path / tar.relative_to(reproduced.path)).read_bytes()
    for name in (*evaluations, "distill"):
        close(metrics(again, name), metrics(reproduced, name))


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    reproduced: Checkout, new_checkout: Callable[[], Checkout]
) -> None:
    checkout = new_checkout()
    for folder in ("images", "teacher", "embeddings"):
        (checkout.path / "out").mkdir(exist_ok=True)
        (checkout.path / "out" / folder).symlink_to(reproduced.path / "out" / folder)
    process = subprocess.Popen(
        ["python", "-m", "stages.distill"], cwd=checkout.path, env=checkout.environment,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: list(checkout.path.glob("work/runs/*/checkpoints/step-000000004.pt")))
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    result = checkout.stage("distill")
    assert re.search(r"after epoch \d", result.stderr)
    ours, theirs = (
        c.path / "out" / "student" / "student.safetensors" for c in (checkout, reproduced)
    )
    assert ours.read_bytes() == theirs.read_bytes()
    assert (checkout.path / "metrics" / "history.csv").read_text(encoding="utf-8") == (
        reproduced.path / "metrics" / "history.csv"
    ).read_text(encoding="utf-8")


def test_an_experiment_runs_with_other_params(reproduced: Checkout) -> None:
    try:
        reproduced.run(
            "dvc", "exp", "run", "-S", "linear_probe.bootstrap_samples=50", "-n", "plain"
        )
        assert "/50 bootstrap samples" in metrics(reproduced, "linear_probe")["scenes"]["protocol"]
        shown = reproduced.run("dvc", "exp", "show", "--json").stdout
        assert "plain" in shown
    finally:
        reproduced.run("git", "checkout", "-q", ".")
        reproduced.run("dvc", "checkout", "-q", check=False)


def close(ours: Any, theirs: Any) -> None:
    """Nested metrics equal to 1e-6."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            close(ours[key], theirs[key])
    elif isinstance(theirs, float | list):
        assert ours == pytest.approx(theirs, abs=1e-6)
    else:
        assert ours == theirs
