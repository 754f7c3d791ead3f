"""Trials of an ablation: the checkout's files stay as they are, and each runs once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from pipeline.ablation.clones import Clones, drop_locks_of_ended
from pipeline.ablation.gains import outcome_of
from pipeline.ablation.mlflow_runs import show_in_mlflow
from pipeline.ablation.trials import run_ablation
from pipeline.compare.git import EXPERIMENTS, experiments, git
from pipeline.config.paths import Layout
from tests.helpers.ablations import RATES, STAGE
from tests.helpers.checkouts import Checkout
from tests.helpers.waiting import is_gone, wait_for


@pytest.fixture
def editor(checkout: Checkout) -> Iterator[Callable[[], int]]:
    """Saves NOTES.md all the time; the function stops it and returns how often it did."""
    notes, stop, saved = checkout.path / "NOTES.md", threading.Event(), [0]
    lost = []

    def edit() -> None:
        while not stop.wait(0.02):
            if saved[0] and notes.read_text(encoding="utf-8") != f"{saved[0]}\n":
                lost.append(saved[0])
            saved[0] += 1
            notes.write_text(f"{saved[0]}\n", encoding="utf-8")

    thread = threading.Thread(target=edit, daemon=True)
    thread.start()

    def finish() -> int:
        stop.set()
        thread.join(timeout=10)
        assert not lost and notes.read_text(encoding="utf-8") == f"{saved[0]}\n"
        return saved[0]

    yield finish
    stop.set()


@pytest.mark.slow
def test_an_ablation_keeps_edits_and_runs_a_variant_once_for_a_commit_and_its_params(
    checkout: Checkout, editor: Callable[[], int], log: Any, complains: Any
) -> None:
    readme = checkout.path / "README.md"
    readme.write_text("edited before\n", encoding="utf-8")
    checkout.run("git", "add", "README.md")
    (checkout.path / "stage.py").write_text(f"{STAGE}# edited, not staged\n", encoding="utf-8")
    (checkout.path / ".rayignore").unlink()
    (checkout.path / "untracked.txt").write_text("new\n", encoding="utf-8")

    def state() -> str:
        return checkout.run("git", "status", "--porcelain", "--untracked-files=no").stdout

    wait_for(lambda: "NOTES.md" in state())
    before, layout = state(), Layout(checkout.path)
    trials = run_ablation(RATES, layout)
    assert editor() > 10
    assert readme.read_text(encoding="utf-8") == "edited before\n" and "README.md" in log.text
    assert state() == before and len(before.splitlines()) == 4
    assert (checkout.path / "untracked.txt").read_text(encoding="utf-8") == "new\n"
    assert (checkout.path / "stage.py").read_text(encoding="utf-8").endswith("not staged\n")
    assert checkout.run("git", "stash", "list").stdout == ""
    assert not (checkout.path / "metrics").exists()  # the variants ran elsewhere
    assert not any((checkout.path / "work" / "ablations").rglob("dvc.yaml"))
    assert [(t.variant, t.metrics) for t in trials] == [
        ("fast", {"top-1": 0.75}), ("slow", {"top-1": 0.25})
    ]  # fmt: skip
    outcome = outcome_of(RATES, trials)
    cell = outcome.rows["slow"]["top-1"]
    assert cell.gain == -0.5 and cell.bounds and -0.65 < cell.bounds[0] < -0.5 < cell.bounds[1]
    assert not outcome.remarks

    log.clear()
    assert run_ablation(RATES, layout)[0].metrics == trials[0].metrics and "running" not in log.text
    with complains("rates-fast-seed-3", "distill.learning_rate", "dvc exp remove"):
        run_ablation(replace(RATES, settings=["distill.learning_rate=0.5"]), layout)

    shutil.rmtree(checkout.path / ".dvc" / "cache")  # as after a fresh clone with its experiments
    outcome = outcome_of(RATES, run_ablation(RATES, layout))
    assert outcome.rows["slow"]["top-1"].bounds is None and "zero_shot" in outcome.remarks[0]

    show_in_mlflow(outcome, trials, layout)
    show_in_mlflow(outcome_of(RATES, trials), trials[:1], layout)  # again, with fewer trials
    client = MlflowClient(f"sqlite:///{layout.tracking_database}")
    runs = client.search_runs(["1"], order_by=["attributes.start_time ASC"])
    (parent,) = (run for run in runs if "kdeov.ablation" in run.data.tags)
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {
        "table.md", "figure.svg"
    }  # fmt: skip
    children = {run.data.metrics["accuracy/top1"]: run.data.tags for run in runs if run != parent}
    assert children[0.75]["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in children[0.25] and len(children) == 2


@pytest.mark.slow
def test_a_killed_ablation_goes_on_where_it_was(checkout: Checkout, tmp_path: Path) -> None:
    mark, log = tmp_path / "mark", tmp_path / "log"
    script = (
        "from pipeline.ablation.trials import *; from pipeline.config.paths import Layout\n"
        "from pipeline.console import setup_logging; setup_logging()\n"
        "a = Ablation('once', '?', [0], {'a': []}, "
        "{'top-1': 'zero_shot.student.top1'}, ['zero_shot'], ['distill.learning_rate=0.5'])\n"
        "print(run_ablation(a, Layout.here())[0].metrics, flush=True)"
    )
    environment = {**checkout.environment, "KDEOV_TEST_MARK": str(mark)}
    command = [sys.executable, "-c", script]
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=checkout.path, env=environment, stderr=file)
        wait_for(mark.exists, log)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: all(is_gone(child) for child in started if "stage.py" not in _line(child)))
    for child in started:
        if not is_gone(child):  # this stage, unlike those of the project, ends with nobody
            os.kill(child.pid, signal.SIGKILL)
    done = subprocess.run(
        command, cwd=checkout.path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.stdout == "{'top-1': 0.5}\n" and "goes on" in done.stderr, done.stderr
    assert not any((checkout.path / "work" / "ablations").rglob("dvc.yaml"))


def test_a_lock_of_dvc_goes_with_its_last_holder_though_nobody_waited_for_it(
    tmp_path: Path,
) -> None:
    lock = tmp_path / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: is_gone(psutil.Process(ended.pid)))  # a zombie until `wait`
    held = {"a": {"pid": ended.pid, "cmd": "dvc"}, "b": {"pid": os.getpid(), "cmd": "dvc"}}
    lock.write_text(json.dumps({"read": {}, "write": held}), encoding="utf-8")
    drop_locks_of_ended(tmp_path)
    assert lock.exists()
    lock.write_text(json.dumps({"write": {"a": held["a"]}}), encoding="utf-8")
    drop_locks_of_ended(tmp_path)
    assert not lock.exists()
    ended.wait()


@pytest.mark.slow
def test_an_experiment_that_was_killed_before_its_ref_came_back_is_not_run_again(
    checkout: Checkout, capfd: pytest.CaptureFixture[str]
) -> None:
    head = git(checkout.path, "rev-parse", "HEAD")
    clones = Clones(Layout(checkout.path), head)
    for _ in range(2):
        clones.run("e", {"distill.learning_rate": "0.5"}, ["zero_shot"])
        commit = experiments(checkout.path, head)["e"]
        git(checkout.path, "update-ref", "-d", f"{EXPERIMENTS}{head[:2]}/{head[2:]}/e", commit)
    assert capfd.readouterr().err.count("Running stage") == 1


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_folder_without_a_commit_is_refused(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path, "git"):
        run_ablation(RATES, Layout(tmp_path))
