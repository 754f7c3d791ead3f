"""Code that README and docs show: it compiles, loads or runs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.main import get_command

from kdeov.weights.clip import import_clip
from pipeline.cli.inference.search.index import Options, make_index
from pipeline.cli.main import app
from pipeline.config.params import check_params
from tests.helpers import ROOT
from tests.helpers.exported import write_export
from tests.helpers.pages import blocks, name, pages, prose

PAGES = pages()
SHOWN = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which lists old names too
COMMAND = get_command(app)
# of the values that blocks make, as their comments give them; D is 32 here
SHAPES = {
    "probabilities": {(1, 3), (2, 3)},
    "logits": {(1, 3)},
    "maps": {(1, 1, 64, 64)},
    "embeddings": {(2, 32)},
    "texts": {(2, 32)},
    "images": {(2, 32)},
    "similarities": {(2, 2)},
    "order": {(2,)},
    "scores": {(2,)},
}


def blocks_of(*languages: str) -> list[Any]:
    found = [block for page in PAGES for block in blocks(page, *languages)]
    return [pytest.param(block, id=f"{name(block.page)}-{i}") for i, block in enumerate(found)]


@pytest.mark.parametrize("block", blocks_of("python"))
def test_every_python_block_compiles(block: Any) -> None:
    compile(block.text, name(block.page), "exec")


@pytest.fixture
def checkout_with_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small student and its export, photographs with their index, and weights of a
    small CLIP.
    """
    write_export(tmp_path / "out" / "export", boxes=True).save(tmp_path / "out" / "student")
    for photograph in ("dog.jpg", "cat.jpg"):
        Image.effect_noise((80, 60), 50).convert("RGB").save(tmp_path / photograph)
    torch.manual_seed(0)
    clip = import_clip().model.CLIP(32, 224, 1, 64, 32, 28, 49408, 64, 1, 1)
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    for run in ("before", "after"):
        write_found(tmp_path / run / "found.npz")
    monkeypatch.chdir(tmp_path)
    make_index(tmp_path, Path("photos.index"), Options(False, False, None, None, None, False))
    return tmp_path


def write_found(path: Path) -> None:
    """What the stage `detection` leaves: an object in each of four images, three of them found."""
    path.parent.mkdir()
    boxes, numbers = np.array([[0.0, 0.0, 9.0, 9.0]] * 4), np.arange(4)
    of_objects = {"images": numbers, "boxes": boxes, "classes": numbers % 2, "crowd": numbers < 0}
    of_found = {"images": numbers[:3], "boxes": boxes[:3], "classes": numbers[:3] % 2}
    np.savez(
        path,
        keys=["a", "b", "c", "d"],
        held_out=np.array([False, True]),
        scores=np.array([0.9, 0.8, 0.7]),
        **of_found,
        **{f"object_{name}": values for name, values in of_objects.items()},
    )


@pytest.mark.slow
@pytest.mark.usefixtures("checkout_with_a_student")
def test_every_python_block_runs_on_a_student_of_the_pipeline() -> None:
    found = [block for page in SHOWN for block in blocks(page, "python")]
    assert len(found) >= 5
    for block in found:
        text = block.text.replace('"ViT-B/32"', '"clip.safetensors"').replace('"cuda"', '"cpu"')
        images = [Image.new("RGB", (224, 224), color) for color in ("red", "blue")]
        values: dict[str, Any] = {"your_dataloader": [(images, ["red", "blue"])]}
        exec(compile(text, name(block.page), "exec"), values)
        for key, shape in SHAPES.items():
            if key in values:
                assert tuple(values[key].shape) in shape, (name(block.page), key)
    assert Path("my_student", "student.safetensors").is_file()


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Params with a block's lines in the place of their own."""
    nested = {
        key: merged(base[key], value)
        for key, value in change.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **change, **nested}


@pytest.mark.parametrize("block", blocks_of("yaml"))
def test_every_yaml_block_fits_into_params(block: Any, tmp_path: Path) -> None:
    base, change = (
        yaml.safe_load(t) for t in ((ROOT / "params.yaml").read_text(encoding="utf-8"), block.text)
    )
    params = check_params(merged(base, change), tmp_path / "params.yaml")
    assert json.loads(params.model_dump_json())


def commands() -> Iterator[tuple[str, list[str]]]:
    """Calls of `kdeov`, in blocks of shell and in backticks, with the page that has them."""
    for page in SHOWN:
        shell = [block.text for block in blocks(page, "bash", "sh", "console")]
        inline = re.findall(r"`(kdeov [^`]+)`", prose(page))
        for text in ["\n".join(shell).replace("\\\n", " "), *inline]:
            for call in re.findall(r"(?:^|[\s$/])(kdeov +[a-z].*)", f" {text}"):
                yield name(page), shlex.split(re.split("[|>]", call)[0], comments=True)[1:]


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda v: v if isinstance(v, str) else " ".join(v)
)
def test_every_kdeov_command_exists_with_its_options(page: str, words: list[str]) -> None:
    found: Any = COMMAND
    while words and hasattr(found, "commands") and words[0] in found.commands:
        found, words = found.commands[words[0]], words[1:]
    assert found is not COMMAND, words
    assert not words or not hasattr(found, "commands"), words
    options = {option for parameter in found.params for option in parameter.opts}
    for word in words:
        assert not word.startswith("-") or word in {*options, "--help", "-"}, word
