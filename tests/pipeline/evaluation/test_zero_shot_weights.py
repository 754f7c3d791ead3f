"""Text heads are kept by what they follow from; what else lies under their name is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdeov.text.clip import FrozenCLIPTextEncoder
from pipeline.evaluation.shared.zero_shot_weights import class_embeddings

NAMES, PROMPTS = ["cat", "dog", "traffic light"], ("a {}", "a photo of a {}.")


@pytest.fixture(scope="module")
def encoder(weights: Path) -> FrozenCLIPTextEncoder:
    return FrozenCLIPTextEncoder(weights)


def test_a_kept_head_is_the_very_same(
    encoder: FrozenCLIPTextEncoder, tmp_path: Path, log: Any
) -> None:
    made = class_embeddings(encoder, NAMES, PROMPTS, tmp_path)
    found = class_embeddings(encoder, NAMES, PROMPTS, tmp_path)
    assert torch.equal(made, encoder.class_embeddings(NAMES, PROMPTS)) and torch.equal(made, found)
    (path,) = tmp_path.iterdir()
    kept, again = (record.getMessage() for record in log.records)
    assert kept == f"text head of 3 classes x 2 prompts: kept in {path}"
    assert again == f"text head of 3 classes x 2 prompts: found in {path}"


def test_another_encoder_another_name_and_another_prompt_are_other_heads(
    encoder: FrozenCLIPTextEncoder, weights: Path, tmp_path: Path
) -> None:
    other = FrozenCLIPTextEncoder(weights)
    with torch.no_grad():
        other.text_projection[0, 0] += 1
    made = [
        class_embeddings(encoder, NAMES, PROMPTS, tmp_path),
        class_embeddings(other, NAMES, PROMPTS, tmp_path),
        class_embeddings(encoder, NAMES[::-1], PROMPTS, tmp_path),
        class_embeddings(encoder, NAMES, PROMPTS[:1], tmp_path),
        class_embeddings(encoder, NAMES, PROMPTS[::-1], tmp_path),
    ]
    assert len(list(tmp_path.iterdir())) == len(made)
    assert torch.equal(made[2], made[0].flip(0)) and not torch.equal(made[1], made[0])


@pytest.mark.parametrize("damage", ["cut", "bit", "foreign", "other head", "empty"])
def test_a_file_that_is_no_such_head_is_made_again(
    encoder: FrozenCLIPTextEncoder, weights: Path, tmp_path: Path, log: Any, damage: str
) -> None:
    made = class_embeddings(encoder, NAMES, PROMPTS, tmp_path / "heads")
    (path,) = (tmp_path / "heads").iterdir()
    whole = path.read_bytes()
    if damage == "other head":
        class_embeddings(encoder, ["wolf", "fox", "hare"], PROMPTS, tmp_path / "other")
        (other,) = (tmp_path / "other").iterdir()
    data = {
        "cut": whole[:-5],
        "bit": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "foreign": weights.read_bytes(),
        "other head": other.read_bytes() if damage == "other head" else b"",
        "empty": b"",
    }[damage]
    path.write_bytes(data)
    log.clear()
    assert torch.equal(class_embeddings(encoder, NAMES, PROMPTS, tmp_path / "heads"), made)
    assert "it is made again" in log.text and "kept in" in log.text
    assert path.read_bytes() == whole


def test_a_vocabulary_that_is_looked_up_is_asked_each_time(tmp_path: Path) -> None:
    class Table(torch.nn.Module):
        def class_embeddings(self, names: list[str], prompts: list[str]) -> torch.Tensor:
            return torch.eye(len(names))

    assert torch.equal(class_embeddings(Table(), NAMES, PROMPTS, tmp_path), torch.eye(3))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
