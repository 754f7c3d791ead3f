"""The outcome of an ablation: gains, tables, the figure, and its place in the documents."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kdeov.evaluation.answers import answers_to_arrays
from kdeov.evaluation.bootstrap import Mean
from pipeline.ablation import table
from pipeline.ablation.document import write_document
from pipeline.ablation.figure import ablation_figure
from pipeline.ablation.gains import Outcome, outcome_of
from pipeline.ablation.question import Ablation
from pipeline.ablation.table import markdown_table, terminal_table
from pipeline.ablation.trials import Trial
from pipeline.compare.files import WorkspaceFiles
from pipeline.evaluation.shared.embeddings import write_arrays

QUESTION = Ablation(
    "names", "Which name?", [0, 1], {"a|b": [], "<b>": []}, {"top-1": "zero_shot.student.top1"}, []
)


def trial(folder: Path, variant: str, seed: int, right: list[bool], test: str = "64") -> Trial:
    """A trial whose student recognises some of the images."""
    scores = {"fingerprint": "f", "protocol": f"zero-shot/{test} images/64 px/1000"}
    arrays = answers_to_arrays({"student": {"top1": Mean.of(right)}})
    path = folder / variant / str(seed)
    write_arrays(
        path / "out/evaluation/zero_shot/answers.npz", fingerprint="f", size=len(right), **arrays
    )
    return Trial(
        variant, seed, WorkspaceFiles(path), {}, {"zero_shot": scores}, {"top-1": np.mean(right)}
    )


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """Both variants know 40 of 64 images; the second one 8 more, with each seed."""
    first = [number < 40 for number in range(64)]
    more = [number < 48 for number in range(64)]
    rows = (("a|b", 0, first), ("a|b", 1, first), ("<b>", 0, more), ("<b>", 1, more))
    return outcome_of(QUESTION, [trial(tmp_path / "runs", *row) for row in rows])


def test_gains_are_paired_over_images(outcome: Outcome) -> None:
    cell = outcome.rows["<b>"]["top-1"]
    assert cell.gain == 0.125 and cell.deviation == 0 and cell.is_certain
    # the 40 images that both know are not a part of the spread: sqrt(1/8 * 7/8 / 64) = 0.041
    assert cell.bounds is not None
    assert cell.bounds == pytest.approx((0.125 - 1.96 * 0.041, 0.125 + 1.96 * 0.041), abs=0.02)
    assert outcome.rows["a|b"]["top-1"].gain is None


def test_other_images_and_missing_answers_have_no_interval_and_say_why(tmp_path: Path) -> None:
    right = [True] * 32 + [False] * 32
    rows = [trial(tmp_path, "a|b", 0, right), trial(tmp_path, "<b>", 0, right, "65")]
    outcome = outcome_of(replace(QUESTION, seeds=[0]), rows)
    assert outcome.rows["<b>"]["top-1"].bounds is None and "other test" in outcome.remarks[0]
    rows[1] = trial(tmp_path, "<b>", 0, right)
    (tmp_path / "<b>" / "0/out/evaluation/zero_shot/answers.npz").unlink()
    outcome = outcome_of(replace(QUESTION, seeds=[0]), rows)
    assert outcome.rows["<b>"]["top-1"].bounds is None and "DVC's cache" in outcome.remarks[0]
    assert "One seed" in markdown_table(outcome) and outcome.remarks[0] in markdown_table(outcome)


def test_tables_show_names_as_text_and_every_gain(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = markdown_table(outcome)
    assert "| a\\|b | 0.625 ± 0.000 |" in text
    assert "| \\<b\\> | 0.750 ± 0.000<br>**+0.125 [+0.0" in text
    odd = replace(outcome.ablation, metrics={"[red]x": "zero_shot.student.top1"})
    rows = {v: {"[red]x": cells["top-1"]} for v, cells in outcome.rows.items()}
    for encoding, sign in (("ascii", "+/-"), ("utf-8", "±")):
        ascii_only = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        monkeypatch.setattr(table, "stdout", ascii_only)
        console = Console(file=io.StringIO(), width=200)
        console.print(terminal_table(replace(outcome, ablation=odd, rows=rows)))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert f"0.750 {sign} 0.000" in shown and "+0.125 [+0.0" in shown and "[red]x" in shown


def test_the_page_is_replaced_between_its_comments_and_nowhere_else(
    outcome: Outcome, tmp_path: Path, complains: Any
) -> None:
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("# Results\n\nBefore.\n", encoding="utf-8")
    assert write_document(outcome, tmp_path) == page
    once = page.read_text(encoding="utf-8")
    assert once.startswith("# Results\n\nBefore.\n\n## Which name?\n\n<!-- ablation names -->\n")
    assert markdown_table(outcome) in once and "(ablation-names.svg)" in once
    page.write_text(f"{once}\nAfter.\n", encoding="utf-8")
    write_document(outcome, tmp_path)
    assert page.read_text(encoding="utf-8") == f"{once}\nAfter.\n"
    page.write_text(once.replace("<!-- /ablation names -->", ""), encoding="utf-8")
    with complains(page, "<!-- /ablation names -->"):
        write_document(outcome, tmp_path)


def test_the_figure_is_the_same_for_an_equal_outcome_and_names_the_variants(
    outcome: Outcome,
) -> None:
    svg = ablation_figure(outcome)
    assert svg == ablation_figure(outcome)
    words = {
        "".join(e.itertext()).strip() for e in ET.fromstring(svg).iter() if e.tag.endswith("text")
    }
    assert {"a|b", "<b>", "top-1"} <= words


def test_an_unknown_ablation_is_answered_with_those_that_exist(complains: Any) -> None:
    with complains("'vews'", "did you mean views?", "losses"):
        Ablation.named("vews")


def test_a_recipe_without_its_data_is_refused_before_anything_runs(
    tmp_path: Path, complains: Any
) -> None:
    with complains("data/cifar10/cifar10.npz", "prepare.path", "--data"):
        Ablation.named("losses-embeddings").require_data(tmp_path)
    with complains("my/cifar10/cifar10.npz"):
        Ablation.named("losses-embeddings", Path("my")).require_data(tmp_path)
    with complains("views", "no recipe"):
        Ablation.named("views", Path("my"))


def test_the_last_of_several_values_of_a_param_counts() -> None:
    ablation = replace(QUESTION, variants={"a": ["x.y=2", "x.z=a=b"]}, settings=["x.y=1", "x.w=0"])
    assert ablation.params("a", 7) == {
        "x.w": "0", "x.y": "2", "x.z": "a=b", "distill.seed": "7"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["views", "losses", "losses-embeddings"])
def test_questions_name_params_of_the_schema(name: str) -> None:
    from pipeline.config.params import check_params, flatten
    from pipeline.config.reading.yaml_file import parse_yaml, read_yaml
    from tests.helpers import ROOT

    ablation = Ablation.named(name)
    text = ablation.recipe_params()
    base = parse_yaml(text, name) if text else read_yaml(ROOT / "params.yaml")
    for variant in ablation.variants:
        for key, value in ablation.params(variant, 0).items():
            assert key in flatten(base), key
            section, *keys, last = key.split(".")
            place = base[section]
            for part in keys:
                place = place[part]
            place[last] = parse_yaml(value, key)
        check_params(base, ROOT / "params.yaml")
