"""`kdeov ablation`: the table comes out, and the checkout's files stay as they are."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipeline.cli.ablation import Ablation, ablation_table, run_ablation
from pipeline.config.paths import Layout
from tests.helpers import ROOT
from tests.helpers.checkouts import Checkout
from tests.helpers.waiting import wait_for

STAGE = """
import json, os, sys, yaml
from pathlib import Path
rate = yaml.safe_load(Path("params.yaml").read_text())["distill"]["learning_rate"]
assert Path("data/set/data.txt").read_text() == "data"
assert Path("../beside/weights.pt").read_text() == "weights"
assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{sys.argv[1]}", "of the checkout"
Path("metrics").mkdir(exist_ok=True)
scores = {"scenes": {"student": {"top1": rate}}}
Path("metrics/zero_shot.json").write_text(json.dumps(scores))
"""
"""Stands for the pipeline: its metric is the learning rate."""


RATES = Ablation(
    question="Does the rate matter?",
    seeds=[3],
    variants={"fast": [], "slow": ["distill.learning_rate=1.0e-5", "distill.ridge_init=null"]},
    metrics={"top-1": "zero_shot.student.top1"},
    stages=["zero_shot"],
    settings=["distill.learning_rate=1.0e-2"],
)


@pytest.fixture
def git_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@t.invalid")


@pytest.fixture
def checkout(new_checkout: Callable[[], Checkout], git_identity: None) -> Checkout:
    """A git checkout with a stage that takes no time."""
    checkout = new_checkout()
    database = Layout(checkout.path).tracking_database
    stage = {
        "cmd": f"python stage.py {database}",
        "deps": ["stage.py", "${prepare.path}"],
        "params": ["distill"],
        "metrics": [{"metrics/zero_shot.json": {"cache": False}}],
    }
    (checkout.path / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"zero_shot": stage}}), encoding="utf-8"
    )
    (checkout.path / "stage.py").write_text(STAGE, encoding="utf-8")
    for path in ("data/set/data.txt", "../beside/weights.pt"):
        (checkout.path / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout.path / path).write_text(Path(path).stem, encoding="utf-8")
    checkout.change({
        "prepare": {"path": "data/set"}, "distill": {"backbone_weights": "../beside/weights.pt"}
    })  # fmt: skip
    for name in ("README.md", "NOTES.md"):
        (checkout.path / name).write_text("committed\n", encoding="utf-8")
    checkout.run("git", "add", "-A")
    checkout.run("git", "commit", "-qm", "texts")
    return checkout


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
def test_an_ablation_keeps_edits_made_before_and_while_it_runs(
    checkout: Checkout, editor: Callable[[], int], log: Any
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
    before = state()
    rows = run_ablation(RATES, Layout(checkout.path))
    assert editor() > 10
    assert readme.read_text(encoding="utf-8") == "edited before\n" and "README.md" in log.text
    assert state() == before and len(before.splitlines()) == 4
    assert (checkout.path / "untracked.txt").read_text(encoding="utf-8") == "new\n"
    assert (
        (checkout.path / "stage.py").read_text(encoding="utf-8").endswith("# edited, not staged\n")
    )
    assert checkout.run("git", "stash", "list").stdout == ""
    assert not (checkout.path / "metrics").exists()  # the variants ran elsewhere
    assert not any((checkout.path / "work" / "ablations").rglob("dvc.yaml"))
    assert rows == [("fast", [{"top-1": 0.01}]), ("slow", [{"top-1": 1e-5}])]
    table = Console(file=io.StringIO(), width=100)
    table.print(ablation_table(RATES, rows))
    assert "0.010 ± 0.000" in table.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_variant_runs_once_for_a_commit_and_its_params(
    checkout: Checkout, log: Any, complains: Any
) -> None:
    layout, fast = Layout(checkout.path), replace(RATES, variants={"fast": []})
    rows = run_ablation(fast, layout)
    assert "fast-seed-3: running" in log.text
    log.clear()
    assert run_ablation(fast, layout) == rows and "running" not in log.text
    with complains("fast-seed-3", "distill.learning_rate", "dvc exp remove"):
        run_ablation(replace(fast, settings=["distill.learning_rate=1.0e-3"]), layout)
    checkout.run("git", "commit", "-q", "--allow-empty", "-m", "another")
    assert run_ablation(fast, layout) == rows and "fast-seed-3: running" in log.text


def test_a_folder_without_a_commit_is_refused(tmp_path: Path, complains: Any) -> None:
    with complains(tmp_path, "git"):
        run_ablation(Ablation("", [0], {"a": []}, {}, []), Layout(tmp_path))


def test_an_unknown_ablation_is_answered_with_those_that_exist(complains: Any) -> None:
    with complains("'vews'", "views, losses"):
        Ablation.named("vews")


def test_the_last_of_several_values_of_a_param_counts() -> None:
    ablation = Ablation("", [7], {"a": ["x.y=2", "x.z=a=b"]}, {}, [], ["x.y=1", "x.w=0"])
    assert ablation.params("a", 7) == {
        "x.w": "0", "x.y": "2", "x.z": "a=b", "distill.seed": "7"
    }  # fmt: skip


def test_the_table_is_whole_on_a_narrow_stream_and_on_one_that_knows_ascii_alone() -> None:
    script = (
        "from pipeline.cli.ablation import *; from pipeline.console import print_table\n"
        "metrics = dict.fromkeys(map(str, range(9)), '')\n"
        "a = Ablation('Question?', [0, 1], {'variant': []}, metrics, [])\n"
        "row = {column: 0.5 for column in a.metrics}\n"
        "print_table(ablation_table(a, [('a long name of a variant', [row, row])]))"
    )
    for encoding, cell in (("ascii", "0.500 +/- 0.000"), ("utf-8", "0.500 ± 0.000")):
        variables = {"PYTHONIOENCODING": encoding, "COLUMNS": "40", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, encoding="utf-8",
            env={**os.environ, **variables},
        )  # fmt: skip
        assert done.stdout.count(cell) == 9 and "a long name of a variant" in done.stdout
