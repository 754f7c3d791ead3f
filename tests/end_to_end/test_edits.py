"""What an edit of the code re-runs, in a small checkout after a real `dvc repro`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.checkouts import Checkout

pytestmark = pytest.mark.slow

UNLISTED = ("config", "storage", "runtime", "tracking", "cluster", "doctor", "bench", "cli")


@pytest.fixture
def edited(reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A copy of the finished checkout, to edit."""
    path = tmp_path_factory.mktemp("edited") / "checkout"
    shutil.copytree(reproduced.path, path, symlinks=True)
    yield Checkout(path)
    shutil.rmtree(path)


def changed(checkout: Checkout) -> set[str]:
    """Stages that `dvc repro` would run first."""
    return set(json.loads(checkout.run("dvc", "status", "--json").stdout))


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_an_edit_of_what_only_places_or_shows_re_runs_no_stage(edited: Checkout) -> None:
    for wing in UNLISTED:
        sources = sorted((edited.path / "pipeline" / wing).rglob("*.py"))
        assert sources, wing
        for source in sources:
            append(source, "\n# a remark\n")
    for package in ("kdeov", "pipeline"):
        for readme in (edited.path / package).rglob("README.md"):
            append(readme, "\nA remark.\n")
        caches = edited.path / package / "models" / "__pycache__"
        caches.mkdir(parents=True, exist_ok=True)
        (caches / "stale.cpython-311.pyc").write_bytes(os.urandom(16))
    assert changed(edited) == set()
    assert "Running stage" not in edited.run("dvc", "repro").stdout


def test_a_comment_in_the_report_re_runs_the_report_alone(edited: Checkout) -> None:
    append(edited.path / "pipeline" / "report" / "figures.py", "\n# a remark\n")
    assert changed(edited) == {"report"}
    lines = edited.run("dvc", "repro").stdout.splitlines()
    assert [line for line in lines if line.startswith("Running stage")] == [
        "Running stage 'report':"
    ]


def test_a_docstring_of_a_teacher_re_embeds_nothing(edited: Checkout) -> None:
    shards = sorted((edited.path / "out" / "embeddings").rglob("*.tar"))
    before = {shard: (shard.stat().st_mtime_ns, shard.read_bytes()) for shard in shards}
    assert before
    source = edited.path / "kdeov" / "teachers" / "clip.py"
    text = source.read_text(encoding="utf-8")
    assert text.startswith('"""')
    source.write_text(text.replace('"""', '"""A remark. ', 1), encoding="utf-8")
    result = edited.run("dvc", "repro", "embed")
    assert "Running stage 'embed'" in result.stdout
    assert {s: (s.stat().st_mtime_ns, s.read_bytes()) for s in shards} == before
