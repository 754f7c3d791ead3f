"""Zero-shot classifier weights are cached by all that they depend on; bad files are replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdeov.text.clip import FrozenCLIPTextEncoder
from pipeline.evaluation.shared.zero_shot_weights import zero_shot_weights

NAMES, PROMPTS = ["cat", "dog", "traffic light"], ("a {}", "a photo of a {}.")


@pytest.fixture(scope="module")
def encoder(weights: Path) -> FrozenCLIPTextEncoder:
    return FrozenCLIPTextEncoder(weights)


def test_cached_weights_are_bit_equal(
    encoder: FrozenCLIPTextEncoder, tmp_path: Path, log: Any
) -> None:
    made = zero_shot_weights(encoder, NAMES, PROMPTS, tmp_path)
    found = zero_shot_weights(encoder, NAMES, PROMPTS, tmp_path)
    assert torch.equal(made, encoder.class_embeddings(NAMES, PROMPTS)) and torch.equal(made, found)
    (path,) = tmp_path.iterdir()
    first, second = (record.getMessage() for record in log.records)
    assert first.endswith(f"3 classes x 2 prompts: written to {path}")
    assert second.endswith(f"3 classes x 2 prompts: read from {path}")


def test_another_encoder_name_or_prompt_has_weights_of_its_own(
    encoder: FrozenCLIPTextEncoder, weights: Path, tmp_path: Path
) -> None:
    other = FrozenCLIPTextEncoder(weights)
    with torch.no_grad():
        other.text_projection[0, 0] += 1
    made = [
        zero_shot_weights(encoder, NAMES, PROMPTS, tmp_path),
        zero_shot_weights(other, NAMES, PROMPTS, tmp_path),
        zero_shot_weights(encoder, NAMES[::-1], PROMPTS, tmp_path),
        zero_shot_weights(encoder, NAMES, PROMPTS[:1], tmp_path),
        zero_shot_weights(encoder, NAMES, PROMPTS[::-1], tmp_path),
    ]
    assert len(list(tmp_path.iterdir())) == len(made)
    assert torch.equal(made[2], made[0].flip(0)) and not torch.equal(made[1], made[0])


@pytest.mark.parametrize("damage", ["cut", "bit", "foreign", "other classes", "empty"])
def test_a_damaged_or_foreign_file_is_replaced(
    encoder: FrozenCLIPTextEncoder, weights: Path, tmp_path: Path, log: Any, damage: str
) -> None:
    made = zero_shot_weights(encoder, NAMES, PROMPTS, tmp_path / "weights")
    (path,) = (tmp_path / "weights").iterdir()
    whole = path.read_bytes()
    if damage == "other classes":
        zero_shot_weights(encoder, ["wolf", "fox", "hare"], PROMPTS, tmp_path / "other")
        (other,) = (tmp_path / "other").iterdir()
    data = {
        "cut": whole[:-5],
        "bit": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "foreign": weights.read_bytes(),
        "other classes": other.read_bytes() if damage == "other classes" else b"",
        "empty": b"",
    }[damage]
    path.write_bytes(data)
    log.clear()
    assert torch.equal(zero_shot_weights(encoder, NAMES, PROMPTS, tmp_path / "weights"), made)
    assert str(path) in log.text and "written to" in log.text
    assert path.read_bytes() == whole


def test_a_table_of_embeddings_is_not_cached(tmp_path: Path) -> None:
    class Table(torch.nn.Module):
        def class_embeddings(self, names: list[str], prompts: list[str]) -> torch.Tensor:
            return torch.eye(len(names))

    assert torch.equal(zero_shot_weights(Table(), NAMES, PROMPTS, tmp_path), torch.eye(3))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
