"""Answers about images go through arrays unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kdeov.evaluation.answers import answers_from_arrays, answers_to_arrays
from kdeov.evaluation.bootstrap import distributions, values_of
from kdeov.evaluation.metrics import classification, retrieval


def test_metrics_of_read_answers_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 8
    image_of_text = torch.arange(90) % 40  # some images have more captions than others
    scores = {
        "student": {
            **classification(torch.randn(40, 8), labels, held_out=[2, 5]),
            **retrieval(torch.randn(40, 90), image_of_text),
        }
    }
    arrays = answers_to_arrays(scores)
    assert max(array.itemsize for array in arrays.values()) <= 4
    found = answers_from_arrays({**arrays, "fingerprint": np.array("f")})
    assert found.keys() == scores.keys()
    assert values_of(found["student"], 40) == values_of(scores["student"], 40)
    before, after = (distributions(s["student"], 40, 50) for s in (scores, found))
    assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)


def test_a_file_of_another_version_is_one_line(complains: Any) -> None:
    with complains("student", "top1", "version"):
        answers_from_arrays({"student/top1/Mode/answers": np.zeros(3)})
