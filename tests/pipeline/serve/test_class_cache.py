"""Class embeddings are computed once a label, whichever labels stand beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.serve.class_cache import ClassCache


class Lengths:
    """Embeds a label as its length and the number of prompts; counts labels."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def __call__(self, labels: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        self.computed += labels
        return np.array([[len(label), len(prompts)] for label in labels], np.float32)


def test_a_label_is_computed_once_for_each_list_of_prompts() -> None:
    embed = Lengths()
    cache = ClassCache(embed)
    assert cache.known(["a", "bb"], ["{}"]) is None
    assert cache.embed(["a", "bb"], ["{}"]).tolist() == [[1, 1], [2, 1]]
    assert cache.embed(["ccc", "bb"], ["{}"]).tolist() == [[3, 1], [2, 1]]
    assert embed.computed == ["a", "bb", "ccc"]
    assert cache.embed(["bb"], ["{}", "a {}"]).tolist() == [[2, 2]]
    known = cache.known(["bb", "a"], ["{}"])
    assert known is not None and known.tolist() == [[2, 1], [1, 1]]
    assert embed.computed == ["a", "bb", "ccc", "bb"]


def test_labels_of_long_ago_go_first() -> None:
    embed = Lengths()
    cache = ClassCache(embed, size=2)
    cache.embed(["a", "bb"], ["{}"])
    cache.embed(["a"], ["{}"])
    assert cache.embed(["ccc", "dddd", "a"], ["{}"]).shape == (3, 2)
    assert cache.known(["ccc"], ["{}"]) is None or cache.known(["bb"], ["{}"]) is None
