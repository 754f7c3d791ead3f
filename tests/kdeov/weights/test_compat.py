"""Private parts of the `clip` package: there, and named where they are gone."""

from __future__ import annotations

import inspect
import re

import pytest

from kdeov.weights.clip import load_clip_state_dict
from kdeov.weights.compat import CLIP_VERSION, model_urls


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
