"""The committed `dvc.lock` is that of the committed code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from pipeline.config.provenance import is_code


def test_the_code_deps_of_the_lock_file_are_those_of_the_tree(root: Path) -> None:
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    locked = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    hashes = {
        dep["path"]: dep["md5"]
        for stage in locked.values()
        for dep in stage["deps"]
        if is_code(dep["path"])
    }
    deps = sorted({d for s in stages.values() for d in s["deps"] if is_code(d)})
    script = (
        "import sys; from dvc.repo import Repo; from dvc.dependency import loads_from\n"
        "repo = Repo('.')\n"
        "stage = repo.stage.create(single_stage=True, cmd='true', fname='x.dvc')\n"
        "for dep in loads_from(stage, sys.argv[1:]): print(dep, dep.get_hash().value)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *deps],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    tree = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    stale = [dep for dep in deps if hashes.get(dep) != tree[dep]]
    assert not stale, f"dvc.lock is of other code ({', '.join(stale)}): run `dvc repro`, and commit"
