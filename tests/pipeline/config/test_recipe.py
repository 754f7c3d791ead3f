"""Recipes: each is a complete params file, and putting one in place loses nobody's work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.config.params import load_params
from pipeline.config.recipe import DATA, Recipe, use_recipe

NAMES = ("cc3m-cluster", "cifar10-embeddings", "coco-detection", "coco", "flickr8k", "scenes")


def test_the_recipes_that_are_promised_are_there() -> None:
    assert tuple(recipe.name for recipe in Recipe.all()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_fits_the_schema_and_leaves_nothing_to_defaults(
    name: str, tmp_path: Path
) -> None:
    use_recipe(Recipe.named(name), tmp_path / "params.yaml")
    params = load_params(tmp_path / "params.yaml")
    assert params.tracking.model == name  # the name of its students in the registry
    sections = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    assert set(sections) == set(yaml.safe_load(Recipe.named("scenes").text))


def test_the_params_of_the_repository_are_the_recipe_scenes(root: Path) -> None:
    assert (root / "params.yaml").read_text(encoding="utf-8") == Recipe.named("scenes").text


@pytest.mark.parametrize("name", NAMES)
def test_what_a_recipe_reads_lies_in_the_checkout_where_git_does_not_look(
    name: str, root: Path
) -> None:
    needs = Recipe.named(name).needs
    assert bool(needs) == (name != "scenes")
    for place in needs.values():
        assert place.startswith(DATA) and ".." not in Path(place).parts
        ignored = subprocess.run(["git", "check-ignore", "-q", place], cwd=root)
        assert ignored.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_command_says_what_to_get_from_where_and_under_which_license(name: str) -> None:
    recipe = Recipe.named(name)
    result = CliRunner().invoke(app, ["recipes", name])
    assert result.exit_code == 0 and recipe.summary in result.output
    for place in recipe.needs.values():
        _, _, after = result.output.partition(place)
        about, _, _ = after.partition("\ndata/")  # the next thing to get
        assert "https://" in about and "License" in about, place


def test_data_may_lie_elsewhere(tmp_path: Path) -> None:
    recipe = Recipe.named("cifar10-embeddings")
    assert recipe.needs.keys() == {"prepare.path", "teacher.path", "distill.backbone_weights"}
    elsewhere = recipe.with_changes(tmp_path / "my data #1", [])
    assert elsewhere.needs == {
        key: place.replace(DATA, f"{tmp_path / 'my data #1'}/", 1)
        for key, place in recipe.needs.items()
    }
    assert use_recipe(elsewhere, tmp_path / "params.yaml") == elsewhere.needs  # none is there
    for place in elsewhere.needs.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    assert use_recipe(elsewhere, tmp_path / "params.yaml") == {}


@pytest.mark.slow
def test_the_list_of_recipes_is_whole_on_a_narrow_stream_and_in_every_encoding(root: Path) -> None:
    for variables in (
        {"PYTHONIOENCODING": "ascii", "COLUMNS": "40"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ):
        for arguments in (["recipes"], ["recipes", "coco"], ["params"]):
            done = subprocess.run(
                [sys.executable, "-c", "from pipeline.cli.main import app; app()", *arguments],
                env={**os.environ, **variables}, cwd=root, capture_output=True, encoding="ascii",
            )  # fmt: skip
            assert done.returncode == 0 and done.stderr == ""
            if arguments == ["recipes"]:
                for recipe in Recipe.all():
                    words = (recipe.name, recipe.summary, *recipe.needs.values())
                    assert all(word in done.stdout for word in words)


def test_values_are_changed_and_comments_stay() -> None:
    changed = Recipe.named("scenes").with_changes(None, ["distill.epochs=3", "teacher.sha256=null"])
    assert yaml.safe_load(changed.text)["distill"]["epochs"] == 3
    comments = [line.partition("#")[2] for line in Recipe.named("scenes").text.splitlines()]
    assert [line.partition("#")[2] for line in changed.text.splitlines()] == comments


@pytest.mark.parametrize("change", ["distill.epochs", "distil.epochs=3", "distill.losses.a.b=1"])
def test_a_change_that_fits_nowhere_is_refused(change: str, complains: Any) -> None:
    with complains(f"--set {change}", "section.key=value"):
        Recipe.named("scenes").with_changes(None, [change])


def test_a_recipe_that_a_change_made_wrong_is_not_put_in_place(
    tmp_path: Path, complains: Any
) -> None:
    wrong = Recipe.named("scenes").with_changes(None, ["distill.epoch=3"])
    with complains("distill.epoch is not a key", "did you mean epochs?"):
        use_recipe(wrong, tmp_path / "params.yaml")
    assert not (tmp_path / "params.yaml").exists()


def test_edits_that_git_does_not_have_are_not_lost(tmp_path: Path, complains: Any) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(Recipe.named("scenes").text + "# mine\n", encoding="utf-8")
    with complains("holds changes that git does not have", "--force"):
        use_recipe(Recipe.named("coco"), params)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with complains("holds changes that git does not have"):
        use_recipe(Recipe.named("coco"), params)
    identity = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    subprocess.run(["git", "add", "params.yaml"], cwd=tmp_path, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "mine"], cwd=tmp_path, check=True)
    use_recipe(Recipe.named("coco"), params)
    use_recipe(Recipe.named("flickr8k"), params)  # a recipe can be had again
    assert params.read_text(encoding="utf-8") == Recipe.named("flickr8k").text
    use_recipe(Recipe.named("flickr8k").with_changes(None, ["distill.epochs=3"]), params)
    use_recipe(Recipe.named("coco"), params)  # and so can what was put here, and not edited since
    params.write_text(
        params.read_text(encoding="utf-8").replace("seed: 0", "seed: 1"), encoding="utf-8"
    )
    with complains("holds changes that git does not have"):
        use_recipe(Recipe.named("coco"), params)


def test_the_commands_list_recipes_and_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outside = CliRunner().invoke(app, ["use", "coco"])
    assert outside.exit_code == 1 and "run in a checkout" in outside.output
    assert not (tmp_path / "params.yaml").exists()
    (tmp_path / "dvc.yaml").touch()
    listed = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0 and all(name in listed.output for name in NAMES)
    used = CliRunner().invoke(app, ["use", "coco", "--data", str(tmp_path / "data")])
    assert used.exit_code == 0 and "is missing" in used.output
    assert "`kdeov recipes coco`" in used.output
    assert "--set prepare.path=PATH" in used.output
    unknown = CliRunner().invoke(app, ["use", "cocoa"])
    assert unknown.exit_code == 1 and "no recipe is called 'cocoa'" in unknown.output


def test_the_address_of_a_bucket_is_no_folder_of_data(complains: Any) -> None:
    with complains("--data", "prepare.path=s3://"):
        Recipe.named("coco").with_changes(Path("s3://bucket/x"), [])


def test_what_lies_in_a_bucket_or_in_the_home_folder_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pt").touch()
    changes = ["prepare.path=s3://bucket/cc3m", "distill.backbone_weights=~/w.pt"]
    recipe = Recipe.named("cc3m-cluster").with_changes(None, changes)
    assert use_recipe(recipe, tmp_path / "params.yaml") == {}
