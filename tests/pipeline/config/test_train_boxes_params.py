"""The section `train_boxes`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.sections.train_boxes import TrainBoxesParams


def test_data_without_boxes_needs_no_other_key() -> None:
    assert TrainBoxesParams.model_validate({"kind": "none"}).kind == "none"


@pytest.mark.parametrize("kind", ["trained", "pretrained"])
def test_another_kind_needs_every_key(values: dict[str, Any], kind: str) -> None:
    section = {**values["train_boxes"], "kind": kind}
    assert TrainBoxesParams.model_validate(section).kind == kind
    for key in section.keys() - {"kind"}:
        with pytest.raises(ValidationError, match=key):
            TrainBoxesParams.model_validate({k: v for k, v in section.items() if k != key})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "some"), ("image_size", 100), ("image_size", 32), ("mosaic", 1.5),
        ("vocabulary", "words"), ("ignore_quantile", -0.1), ("ema_decay", 1.0),
        ("learning_rate", 0),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_refused(
    values: dict[str, Any], key: str, value: object
) -> None:
    with pytest.raises(ValidationError, match=key):
        TrainBoxesParams.model_validate({**values["train_boxes"], key: value})


def test_streams_and_micro_batches_divide_a_step(values: dict[str, Any]) -> None:
    for key in ("num_streams", "micro_batch_size"):
        section = {**values["train_boxes"], key: 7}
        with pytest.raises(ValidationError, match=rf"multiple of train_boxes\.{key} = 7"):
            TrainBoxesParams.model_validate(section)
