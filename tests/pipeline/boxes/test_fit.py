"""The numbers of a score are the same on machines of any number of cores."""

from __future__ import annotations

import torch

from pipeline.boxes.fit import fit_scale
from pipeline.runtime.device import cpu_threads


def test_scale_and_bias_are_equal_to_the_last_digit_for_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(20_000, 12, generator=generator)
    classes = cosines.argmax(1)
    fitted = []
    for threads in (1, 2, 3):
        with cpu_threads(threads):
            fitted.append(fit_scale(cosines, classes))
            assert torch.get_num_threads() == threads
    assert fitted[0] == fitted[1] == fitted[2]
