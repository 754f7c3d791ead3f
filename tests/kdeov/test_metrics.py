"""Metrics against loops that a reader can check at a glance."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdeov.metrics import (
    classification,
    mean_per_class_accuracy,
    retained,
    retrieval,
    retrieval_ranks,
    top_k_accuracy,
)


@st.composite
def classified(draw) -> tuple[Tensor, Tensor]:
    """Logits without ties, and labels."""
    rows, classes = draw(st.integers(1, 12)), draw(st.integers(2, 9))
    logits = [draw(st.permutations(range(classes))) for _ in range(rows)]
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    return torch.tensor(logits).float(), torch.tensor(labels)


@st.composite
def searched(draw) -> tuple[Tensor, Tensor]:
    """Similarities with ties, and the picture of each text; every picture has a text or more."""
    pictures = draw(st.integers(1, 7))
    extra = draw(st.lists(st.integers(0, pictures - 1), max_size=9))
    owners = draw(st.permutations([*range(pictures), *extra]))
    values = st.lists(st.integers(-4, 4), min_size=len(owners), max_size=len(owners))
    similarity = [draw(values) for _ in range(pictures)]
    return torch.tensor(similarity).float() / 4, torch.tensor(owners)


@given(classified(), st.integers(1, 9))
def test_top_k_counts_rows_whose_label_is_among_the_first_k(case, k):
    logits, labels = case
    hits = [
        label in sorted(range(len(row)), key=lambda c: -row[c])[:k]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert top_k_accuracy(logits, labels, k) == pytest.approx(sum(hits) / len(hits))


@given(classified())
def test_mean_per_class_weighs_every_class_alike(case):
    logits, labels = case
    hits: dict[int, list[bool]] = {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        hits.setdefault(label, []).append(row.index(max(row)) == label)
    expected = statistics.mean(sum(h) / len(h) for h in hits.values())
    assert mean_per_class_accuracy(logits, labels) == pytest.approx(expected)


@given(classified(), st.sets(st.integers(0, 8), max_size=4))
def test_seen_and_held_out_labels_are_counted_apart_against_all_classes(case, held_out):
    logits, labels = case
    result = classification(logits, labels, sorted(held_out))
    hits = (logits.argmax(dim=1) == labels).tolist()
    groups: dict[str, list[bool]] = {}
    for hit, label in zip(hits, labels.tolist(), strict=True):
        groups.setdefault("heldout_top1" if label in held_out else "seen_top1", []).append(hit)
    expected = {name: pytest.approx(sum(h) / len(h)) for name, h in groups.items()}
    assert {k: v for k, v in result.items() if k.endswith("_top1")} == (
        expected if held_out else {}
    )
    assert result["count"] == len(labels)
    assert result["top1"] == pytest.approx(sum(hits) / len(hits))
    assert result["top1"] <= result["top5"] == top_k_accuracy(logits, labels, 5)
    assert result["mean_per_class"] == mean_per_class_accuracy(logits, labels)


def _naive_ranks(similarity: Tensor, owners: Tensor) -> tuple[list[int], list[int]]:
    table, owners = similarity.tolist(), owners.tolist()
    text_ranks = [
        1 + sum(row[text] > table[owner][text] for row in table)
        for text, owner in enumerate(owners)
    ]
    picture_ranks = []
    for picture, row in enumerate(table):
        best = max(row[text] for text, owner in enumerate(owners) if owner == picture)
        picture_ranks.append(1 + sum(value > best for value in row))
    return text_ranks, picture_ranks


@given(searched())
def test_a_rank_is_that_of_the_best_match(case):
    ranks = retrieval_ranks(*case)
    assert tuple(r.tolist() for r in ranks) == _naive_ranks(*case)


@given(searched())
def test_recall_is_the_share_of_queries_with_a_match_among_the_first(case):
    result = retrieval(*case)
    for name, ranks in zip(("t2i", "i2t"), _naive_ranks(*case), strict=True):
        for k in (1, 5, 10):
            hits = [rank <= k for rank in ranks]
            assert result[f"{name}_r{k}"] == pytest.approx(sum(hits) / len(hits))
        assert result[f"{name}_median_rank"] == statistics.median_low(ranks)
    assert (result["images"], result["texts"]) == tuple(case[0].shape)


def test_one_caption_of_several_is_enough_for_a_picture():
    # Picture 0 has captions 0 and 1, picture 1 has caption 2
    similarity = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.4, 0.2]])
    result = retrieval(similarity, torch.tensor([0, 0, 1]))
    assert result["i2t_r1"] == 0.5  # picture 0 finds caption 1; picture 1 finds both others first
    assert result["t2i_r1"] == pytest.approx(2 / 3)  # caption 0 finds picture 1
    assert result["t2i_r5"] == result["i2t_r5"] == 1


def test_retained_is_the_students_share():
    teacher = {"top1": 0.8, "t2i_median_rank": 2.0, "count": 10, "images": 5, "texts": 25, "r1": 0}
    student = {"top1": 0.6, "t2i_median_rank": 4.0, "count": 10, "images": 5, "texts": 25, "r1": 1}
    assert retained(teacher, student) == {
        "top1": pytest.approx(0.75),
        "t2i_median_rank": pytest.approx(0.5),  # twice the rank is half as good
        "r1": None,
    }
    assert set(retained(teacher, teacher).values()) == {1.0, None}
