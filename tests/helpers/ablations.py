"""A git checkout whose pipeline takes no time, and an ablation of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.ablation.question import Ablation
from pipeline.config.paths import Layout
from tests.helpers.checkouts import Checkout

STAGE = """
import os, sys, time
from pathlib import Path
import numpy as np, yaml
from kdeov.evaluation.answers import answers_to_arrays
from kdeov.evaluation.bootstrap import Mean, values_of
from pipeline.storage.checked import write_checked_json
from pipeline.storage.files import sha256_file

params = yaml.safe_load(Path("params.yaml").read_text())
assert Path("data/set/data.txt").read_text() == "data"
assert Path("../beside/weights.pt").read_text() == "weights"
assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{sys.argv[1]}", "of the checkout"
if "KDEOV_TEST_MARK" in os.environ:  # leaves something half-made, and is killed once
    half_made = Path("work/half-made")
    half_made.parent.mkdir(exist_ok=True)
    print("goes on" if half_made.exists() else "begins", file=sys.stderr, flush=True)
    if not half_made.exists():
        half_made.touch()
        Path(os.environ["KDEOV_TEST_MARK"]).touch()
        time.sleep(600)
right = np.arange(100) < 100 * params["distill"]["learning_rate"]
statistics = {"top1": Mean.of(right)}
fingerprint = f"{params['distill']['learning_rate']} {params['distill']['seed']}"
scores = {"student": values_of(statistics, 100), "fingerprint": fingerprint,
          "protocol": "zero-shot/scenes 100 test images/64 px/1000 bootstrap samples"}
write_checked_json(Path("metrics/zero_shot.json"), {"scenes": scores})
folder = Path("out/evaluation/zero_shot")
folder.mkdir(parents=True, exist_ok=True)
np.savez(folder / "answers.npz", fingerprint=fingerprint, size=100,
         **answers_to_arrays({"student": statistics}))
write_checked_json(folder / "answers.json", {"answers.npz": sha256_file(folder / "answers.npz")})
"""
"""Stands for the pipeline: the share of images that are recognised is the learning rate."""


RATES = Ablation(
    name="rates",
    question="Does the rate matter?",
    seeds=[3],
    variants={"fast": [], "slow": ["distill.learning_rate=0.25"]},
    metrics={"top-1": "zero_shot.student.top1"},
    stages=["zero_shot"],
    settings=["distill.learning_rate=0.75"],
)


def trivial_checkout(new_checkout: Callable[[], Checkout]) -> Checkout:
    """A git checkout with a stage that takes no time, and data that git does not have."""
    checkout = new_checkout()
    stage = {
        "cmd": f"python stage.py {Layout(checkout.path).tracking_database}",
        "deps": ["stage.py", "${prepare.path}"],
        "params": ["distill"],
        "outs": ["out/evaluation/zero_shot"],
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


@pytest.fixture(scope="session")
def git_identity() -> dict[str, str]:
    """Variables with which git commits."""
    return {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "t"), ("EMAIL", "t@t.invalid"))
    }
