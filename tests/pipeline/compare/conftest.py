"""A git checkout with DVC, of which two commits hold runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT
from tests.helpers.checkouts import Checkout, merged
from tests.helpers.run_files import write_run

PARAMS = merged(
    yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")),
    {"distill": {"learning_rate": 0.1}},
)


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the runs `first` (a tag), `second` (a DVC experiment) and the workspace."""
    checkout = Checkout(tmp_path_factory.mktemp("compared"))
    root = checkout.path
    outs = [f"out/evaluation/{name}" for name in ("zero_shot", "retrieval")]
    stage = {"cmd": "true", "outs": [{out: {"persist": True}} for out in outs]}
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"run": stage}}), encoding="utf-8")
    (root / ".gitignore").write_text("/out/\n/work/\n", encoding="utf-8")
    checkout.run("git", "init", "-q", "-b", "main")
    write_run(root, 40, PARAMS)
    checkout.run("dvc", "commit", "-q", "-f")
    checkout.run("git", "add", "-A")
    checkout.run("git", "commit", "-qm", "first")
    checkout.run("git", "tag", "first")
    write_run(root, 48, merged(PARAMS, {"distill": {"learning_rate": 0.2}}))
    checkout.run("dvc", "commit", "-q", "-f")
    checkout.run("git", "add", "-A")
    checkout.run("git", "commit", "-qm", "second")
    commit = checkout.run("git", "rev-parse", "HEAD").stdout.strip()
    first = checkout.run("git", "rev-parse", "first").stdout.strip()
    # as `dvc exp run` names an experiment
    checkout.run("git", "update-ref", f"refs/exps/{first[:2]}/{first[2:]}/second", commit)
    checkout.run("git", "reset", "-q", "--hard", "first")
    write_run(root, 40, merged(PARAMS, {"cluster": {"mode": "inline"}}))
    return checkout


@pytest.fixture
def here(compared: Checkout, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Goes into the checkout."""

    def go() -> Path:
        monkeypatch.chdir(compared.path)
        return compared.path

    return go
