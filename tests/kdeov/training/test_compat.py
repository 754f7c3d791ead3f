"""Torch's operations on lists of tensors do what a loop does."""

from __future__ import annotations

import torch

from kdeov.training.compat import add_each, copy_each, move_each


def test_operations_on_lists_equal_a_loop_to_the_bit():
    targets = [torch.randn(3), torch.randn(2, 5), torch.zeros(0)]
    sources = [torch.randn_like(target) for target in targets]
    sums = [target + source for target, source in zip(targets, sources, strict=True)]
    add_each(targets, sources)
    assert all(map(torch.equal, targets, sums))
    moved = [target.lerp(source, 0.3) for target, source in zip(targets, sources, strict=True)]
    move_each(targets, sources, 0.3)
    assert all(map(torch.equal, targets, moved))
    copy_each(targets, sources)
    assert all(map(torch.equal, targets, sources))


def test_empty_lists_are_left_alone():
    add_each([], [])
    copy_each([], [])
    move_each([], [], 0.3)
