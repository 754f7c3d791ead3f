"""A job uploads the code, and no more than a few megabytes."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.package import check_package, packaged


@pytest.fixture
def checkout(tmp_path: Path, root: Path) -> Path:
    """A checkout with code, data, caches and notes."""
    for name in (".gitignore", ".rayignore", "dvc.yaml", "params.yaml"):
        shutil.copy(root / name, tmp_path)
    for name in (
        "pipeline/stage.py", "stages/embed.py", "kdeov/prompts/templates.json", "README.md",
        "pipeline/__pycache__/stage.pyc", "out/images/train/000000.tar", "work/runs/a/step.pt",
        ".git/objects/pack", ".dvc/cache/files", ".venv/bin/python", "metrics/distill.json",
        "dvc.lock", "tests/test_a.py", "mlflow.db", "notes/.gitignore", "notes/a.txt", "notes/b.md",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("*.txt" if path.name == ".gitignore" else "x", encoding="utf-8")
    return tmp_path


def test_code_is_uploaded_and_data_is_not(checkout: Path) -> None:
    assert {str(path.relative_to(checkout)) for path in packaged(checkout)} == {
        ".gitignore", ".rayignore", "dvc.yaml", "pipeline/stage.py", "stages/embed.py",
        "kdeov/prompts/templates.json", "README.md", "notes/.gitignore", "notes/b.md",
    }  # fmt: skip


def test_the_size_is_that_of_what_ray_packs(checkout: Path, tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    target = tmp_path.parent / "package.zip"
    create_package(str(checkout), target, include_gitignore=True)
    packed = {name for name in zipfile.ZipFile(target).namelist() if not name.endswith("/")}
    assert packed == {str(path.relative_to(checkout)) for path in packaged(checkout)}


def test_this_checkout_is_small(root: Path) -> None:
    assert 100_000 < check_package(root) < 5_000_000


def test_a_heavy_checkout_is_refused_with_what_is_heavy(checkout: Path, complains: Any) -> None:
    (checkout / "weights").mkdir()
    for number, size in enumerate((3_000_000, 1_000_000, 500_000)):
        (checkout / "weights" / f"{number}.pt").write_bytes(bytes(size))
    with complains("5 MB", "at most 2", "weights/0.pt (3.0 MB), weights/1.pt", ".rayignore"):
        check_package(checkout, limit=2_000_000)
    (checkout / ".rayignore").write_text(
        (checkout / ".rayignore").read_text(encoding="utf-8") + "weights\n", encoding="utf-8"
    )
    check_package(checkout, limit=2_000_000)
