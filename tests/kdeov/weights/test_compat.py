"""Private parts of the `clip` package and of torch: there, and named where they are gone."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

from kdeov.weights.clip import load_clip_state_dict
from kdeov.weights.compat import CLIP_VERSION, add_each, copy_each, model_urls, move_each


def test_clip_still_has_the_private_parts_that_a_download_needs(clip):
    urls = model_urls(clip)
    assert sorted(urls) == sorted(clip.available_models())
    assert all(re.fullmatch("[0-9a-f]{64}", url.split("/")[-2]) for url in urls.values())
    assert list(inspect.signature(clip.clip._download).parameters) == ["url", "root"]


@pytest.mark.parametrize("part", ["_MODELS", "_download"])
def test_a_private_part_that_is_gone_is_named_with_the_version_that_has_it(
    clip, monkeypatch, tmp_path, mistake, part
):
    monkeypatch.delattr(clip.clip, part)
    with mistake(f"clip.clip.{part}", CLIP_VERSION):
        load_clip_state_dict("ViT-B/32", cache=tmp_path)


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
