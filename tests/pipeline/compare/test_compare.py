"""`kdeov compare` of revisions, experiments and the workspace."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.main import app
from pipeline.compare.comparison import Comparison, MetricRow, compare
from pipeline.compare.contents import read_run
from pipeline.compare.files import WorkspaceFiles
from pipeline.compare.find import find_run
from pipeline.config.paths import Layout
from pipeline.storage.checked import write_checked_json
from tests.helpers.checkouts import Checkout
from tests.helpers.run_files import write_run

BASE = {"prepare": {"dataset": "scenes"}}


def compared_in(root: Path, before: str, after: str) -> Comparison:
    """The comparison of two runs of a checkout."""
    return compare(*(read_run(find_run(name, Layout(root))) for name in (before, after)))


def row(comparison: Comparison, label: str) -> MetricRow:
    """The row of a metric."""
    (found,) = (row for row in comparison.metrics if row.label == label)
    return found


def run(*arguments: str) -> Result:
    """The command in this process, with room for its tables."""
    return CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "200"})


@pytest.mark.slow
def test_a_revision_and_an_experiment_are_paired_over_images_from_the_cache(
    compared: Checkout,
) -> None:
    comparison = compared_in(compared.path, "first", "second")
    top1 = row(comparison, "zero-shot top-1")
    assert (top1.before, top1.after, top1.difference) == (0.625, 0.75, 0.125)
    # the 40 images that both know are no part of the spread: 1.96 * sqrt(1/8 * 7/8 / 64) = 0.081
    assert top1.bounds == pytest.approx((0.044, 0.206), abs=0.02) and top1.verdict == "better"
    assert row(comparison, "image to text, median rank").difference == 0
    assert [(p.name, p.before, p.after) for p in comparison.params] == [
        ("distill.learning_rate", "0.1", "0.2")
    ]
    assert comparison.curves["val_cosine"] == ([0.625] * 3, [0.75] * 3)
    assert not comparison.remarks


def test_the_workspace_may_be_compared_and_places_are_no_params(compared: Checkout) -> None:
    comparison = compared_in(compared.path, "HEAD", "workspace")
    assert not comparison.params and row(comparison, "zero-shot top-1").verdict == "even"


def test_the_command_prints_tables_and_writes_a_page(
    here: Callable[[], Path], tmp_path: Path
) -> None:
    here()
    result = run("first", "second", "-o", str(tmp_path / "compare.html"))
    assert result.exit_code == 0, result.output
    for text in (
        "zero-shot top-1",
        "+0.125 [+0.0",
        "better",
        "distill.learning_rate",
        "val_cosine",
    ):
        assert text in result.output
    assert "+0.125 [+0.0" in (tmp_path / "compare.html").read_text(encoding="utf-8")


def test_an_unknown_name_is_answered_with_the_nearest(
    here: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here()
    result = run("first", "second2")
    assert result.exit_code == 1 and "second2" in result.output and "second?" in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert "first?" in run("first2", "second").output
    monkeypatch.chdir(tmp_path)
    assert "dvc.yaml" in run("a", "b").output


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Callable[..., Comparison]]:
    """Compares two workspaces; the second gets other metrics."""

    def build(change: Callable[[Path], object] = lambda _: None, **second: Any) -> Comparison:
        for name, known in (("a", 40), ("b", 48)):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            write_run(tmp_path / name, known, BASE, **(second if name == "b" else {}))
        change(tmp_path / "b")
        return compare(*(read_run(WorkspaceFiles(tmp_path / name, name)) for name in "ab"))

    yield build


def test_runs_of_different_data_are_not_paired_and_a_word_says_so(
    two: Callable[..., Comparison],
) -> None:
    other = row(two(dataset="cifar10"), "zero-shot top-1")
    assert (other.word, other.bounds, other.difference) == ("other data set", None, 0.125)
    assert row(two(test="images 00000000"), "zero-shot top-1").word == "other test"


def test_an_edited_metrics_file_is_no_result_and_the_others_are(
    two: Callable[..., Comparison],
) -> None:
    def edit(root: Path) -> None:
        path = root / "metrics" / "zero_shot.json"
        path.write_text(path.read_text(encoding="utf-8").replace("0.75", "0.99"), encoding="utf-8")

    comparison = two(edit)
    assert row(comparison, "zero-shot top-1").word == "missing"
    assert row(comparison, "image to text, R@1").verdict == "better"
    (remark,) = comparison.remarks
    assert remark.startswith("b: ") and "zero_shot.json" in remark and "dvc repro" in remark


def test_metrics_that_an_experiment_has_of_another_student_are_no_result(
    two: Callable[..., Comparison],
) -> None:
    def train_again(root: Path) -> None:
        write_checked_json(root / "metrics" / "distill.json", {"fingerprint": "of another"})

    comparison = two(train_again)
    assert {row.word for row in comparison.metrics} == {"missing"}
    assert "of another" in comparison.remarks[0] and "dvc repro zero_shot" in comparison.remarks[0]


@pytest.mark.parametrize("damage", ["missing", "edited", "of another run"])
def test_without_answers_of_the_run_nothing_is_paired_and_a_remark_says_what_to_do(
    two: Callable[..., Comparison], damage: str
) -> None:
    def spoil(root: Path) -> None:
        path = root / "out" / "evaluation" / "zero_shot" / "answers.npz"
        match damage:
            case "missing":
                path.unlink()
            case "edited":
                path.write_bytes(path.read_bytes()[:-1])
            case _:
                other = root.with_name("c")
                write_run(other, 10, BASE)
                shutil.rmtree(path.parent)
                shutil.copytree(other / "out" / "evaluation" / "zero_shot", path.parent)

    comparison = two(spoil)
    found = row(comparison, "zero-shot top-1")
    assert (found.word, found.difference) == ("not paired", 0.125)
    assert all("b: " in remark and "dvc" in remark for remark in comparison.remarks)
    assert comparison.remarks and row(comparison, "image to text, R@1").verdict == "better"


def test_a_cache_without_the_answers_asks_no_remote(compared: Checkout, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(compared.path), str(clone)], check=True)
    config = clone / ".dvc" / "config"
    text = config.read_text(encoding="utf-8")
    remote = '[remote "r"]\n    url = ssh://127.0.0.1:1/nowhere\n'
    config.write_text(f"{text}    remote = r\n{remote}", encoding="utf-8")
    comparison = compared_in(clone, "first", "HEAD")
    assert row(comparison, "zero-shot top-1").word == "not paired"
    assert any("dvc fetch" in remark for remark in comparison.remarks)


@pytest.mark.slow
def test_a_comparison_of_revisions_loads_neither_torch_nor_mlflow(compared: Checkout) -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from pipeline.cli.main import app\n"
        "result = CliRunner().invoke(app, ['compare', 'first', 'second'])\n"
        "assert result.exit_code == 0, result.output\n"
        "print([name for name in ('torch', 'mlflow', 'ray', 'matplotlib') if name in sys.modules])"
    )
    done = compared.run(sys.executable, "-c", script)
    assert done.stdout.splitlines() == ["[]"]
