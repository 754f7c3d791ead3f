"""Fixtures of the doctor's tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.artifacts.manifest import Manifest
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.storage.storage import open_storage
from tests.helpers.doctor import change, git


@pytest.fixture
def here(
    built: Layout,
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Layout:
    """A prepared checkout in git, without a student; the current folder of the test."""
    shutil.copytree(built.root, tmp_path / "checkout", symlinks=True)
    layout = Layout(tmp_path / "checkout")
    layout.params.write_text(yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8")
    (layout.root / ".gitignore").write_text("/out/\n/work/\n", encoding="utf-8")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    git(layout, "init", "-q")
    git(layout, "add", "-A")
    git(layout, "commit", "-qm", "start")
    monkeypatch.setattr("sys.dont_write_bytecode", False)  # a matter of the machine
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.chdir(layout.root)
    return layout


@pytest.fixture
def in_bucket(here: Layout, bucket: str) -> Layout:
    """The checkout with its shards in a bucket."""
    change(here, data={"storage": f"{bucket}/data"})
    for manifest in here.root.glob("out/*/*/manifest.json"):
        for shard in Manifest.read(manifest.parent).shards:
            path = manifest.parent / shard.name
            open_storage(f"{bucket}/data").upload(path, f"shards/{shard.sha256}.tar")
            path.unlink()
    return here
