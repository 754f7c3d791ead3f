"""Metrics against loops that a reader can check at a glance."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdeov.evaluation.bootstrap import values_of
from kdeov.evaluation.metrics import (
    BLOCK,
    classification,
    compare,
    first_hits,
    intervals,
    retained,
    retrieval,
    retrieval_ceiling,
    retrieval_ranks,
)


def classified_scores(case: tuple[Tensor, Tensor], *held_out: int) -> dict[str, float]:
    return values_of(classification(*case, held_out), len(case[1]))


def searched_scores(similarity: Tensor, owners: Tensor) -> dict[str, float]:
    return values_of(retrieval(similarity, owners), len(similarity))


@st.composite
def classified(draw) -> tuple[Tensor, Tensor]:
    """Logits without ties, and labels."""
    rows, classes = draw(st.integers(1, 12)), draw(st.integers(2, 9))
    logits = [draw(st.permutations(range(classes))) for _ in range(rows)]
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    return torch.tensor(logits).float(), torch.tensor(labels)


@st.composite
def searched(draw) -> tuple[Tensor, Tensor]:
    """Similarities with ties, and the image of each text; every image has a text or more."""
    images = draw(st.integers(1, 7))
    extra = draw(st.lists(st.integers(0, images - 1), max_size=9))
    owners = draw(st.permutations([*range(images), *extra]))
    values = st.lists(st.integers(-4, 4), min_size=len(owners), max_size=len(owners))
    similarity = [draw(values) for _ in range(images)]
    return torch.tensor(similarity).float() / 4, torch.tensor(owners)


@given(classified())
def test_top_k_counts_rows_whose_label_is_among_the_first_k(case):
    logits, labels = case
    scores = classified_scores(case)
    for k in (1, 5):
        hits = [
            label in sorted(range(len(row)), key=lambda c: -row[c])[:k]
            for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
        ]
        if k <= logits.shape[1]:
            assert scores[f"top{k}"] == pytest.approx(sum(hits) / len(hits))
        else:
            assert f"top{k}" not in scores  # any answer would be right


@given(classified())
def test_mean_per_class_weighs_every_class_alike(case):
    logits, labels = case
    hits: dict[int, list[bool]] = {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        hits.setdefault(label, []).append(row.index(max(row)) == label)
    expected = statistics.mean(sum(h) / len(h) for h in hits.values())
    assert classified_scores(case)["mean_per_class"] == pytest.approx(expected)


@given(classified(), st.sets(st.integers(0, 8), max_size=4))
def test_seen_and_held_out_labels_are_counted_apart_against_all_classes(case, held_out):
    logits, labels = case
    scores = classified_scores(case, *held_out)
    hits = (logits.argmax(dim=1) == labels).tolist()
    groups: dict[str, list[bool]] = {}
    for hit, label in zip(hits, labels.tolist(), strict=True):
        groups.setdefault("heldout_top1" if label in held_out else "seen_top1", []).append(hit)
    expected = {name: pytest.approx(sum(h) / len(h)) for name, h in groups.items()}
    assert {k: v for k, v in scores.items() if k.endswith("_top1")} == (
        expected if held_out else {}
    )


def _naive_ranks(similarity: Tensor, owners: Tensor) -> tuple[list[int], list[int]]:
    table, owners = similarity.tolist(), owners.tolist()
    text_ranks = [
        1 + sum(row[text] >= table[owner][text] for n, row in enumerate(table) if n != owner)
        for text, owner in enumerate(owners)
    ]
    image_ranks = []
    for image, row in enumerate(table):
        best = max(row[text] for text, owner in enumerate(owners) if owner == image)
        others = [value for text, value in enumerate(row) if owners[text] != image]
        own = [value for text, value in enumerate(row) if owners[text] == image]
        image_ranks.append(1 + sum(v >= best for v in others) + sum(v > best for v in own))
    return text_ranks, image_ranks


@given(searched())
def test_a_rank_is_that_of_the_best_match(case):
    ranks = retrieval_ranks(*case)
    assert tuple(r.tolist() for r in ranks) == _naive_ranks(*case)


@given(searched())
def test_the_median_rank_is_the_lower_median(case):
    scores = searched_scores(*case)
    for name, ranks in zip(("t2i", "i2t"), _naive_ranks(*case), strict=True):
        assert scores[f"{name}_median_rank"] == statistics.median_low(ranks)


@given(searched())
def test_recall_is_the_share_of_queries_with_a_match_among_the_first(case):
    similarity, owners = case
    # every candidate at another place, so that the first k are the same for everybody
    similarity = similarity + torch.rand(similarity.shape, dtype=torch.float64) / 100
    scores = searched_scores(similarity, owners)
    for name, ranks in zip(("t2i", "i2t"), _naive_ranks(similarity, owners), strict=True):
        for k in (1, 5, 10):
            hits = [rank <= k for rank in ranks]
            assert scores[f"{name}_r{k}"] == pytest.approx(sum(hits) / len(hits))


@pytest.mark.parametrize("levels", [2, 1_000_000])
def test_blocks_of_queries_change_no_hit_and_no_rank(levels):
    torch.manual_seed(0)
    owners = torch.arange(2 * (BLOCK + 100)) // 2
    similarity = torch.randint(levels, (len(owners), BLOCK + 100)).float().T
    for scores in (similarity, similarity.T):
        assert torch.equal(first_hits(scores, 10), scores.topk(10, dim=1).indices)
    own = similarity[owners, torch.arange(len(owners))]
    t2i, i2t = retrieval_ranks(similarity, owners)
    assert torch.equal(t2i, (similarity >= own).sum(dim=0))
    best = own.view(-1, 2).max(dim=1).values
    matches = (own.view(-1, 2) == best[:, None]).sum(dim=1)
    assert torch.equal(i2t, (similarity >= best[:, None]).sum(dim=1) - matches + 1)


def test_one_caption_of_several_is_enough_for_a_image():
    # Image 0 has captions 0 and 1, image 1 has caption 2
    similarity = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.4, 0.2]])
    scores = searched_scores(similarity, torch.tensor([0, 0, 1]))
    assert scores["i2t_r1"] == 0.5  # image 0 finds caption 1; image 1 finds both others first
    assert scores["t2i_r1"] in (pytest.approx(1 / 3), pytest.approx(2 / 3))  # caption 2 ties
    assert scores["t2i_r5"] == scores["i2t_r5"] == 1


def class_prompts(sizes: list[int], templates: int) -> tuple[list[str], Tensor, Tensor]:
    """Texts of a class-labelled data set, their images, and the similarity of a classifier that is
    always right and prefers the first template.
    """
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    owners = torch.arange(len(labels)).repeat_interleave(templates)
    template = torch.arange(len(owners)) % templates
    texts = [f"prompt {t} of class {c}" for t, c in zip(template, labels[owners], strict=True)]
    similarity = (labels[:, None] == labels[owners]).float() - 0.01 * template
    return texts, owners, similarity


@pytest.mark.parametrize("templates", [1, 3])
@pytest.mark.parametrize("sizes", [[1] * 9, [7], [3, 4, 1, 12, 2], [40] * 5])
def test_a_perfect_classifier_of_class_prompts_reaches_the_ceiling(
    sizes: list[int], templates: int
) -> None:
    texts, owners, similarity = class_prompts(sizes, templates)
    ceiling, scores = retrieval_ceiling(texts, owners), searched_scores(similarity, owners)
    images = sum(sizes)
    for k in (1, 5, 10):
        expected = sum(min(k, size) for size in sizes) / images
        for way in ("i2t", "t2i"):
            assert ceiling[f"{way}_r{k}"] == pytest.approx(expected)
            assert scores[f"{way}_r{k}"] == pytest.approx(expected)


def test_the_ceiling_of_101_classes_in_288_images_is_their_ratio() -> None:
    texts, owners, _ = class_prompts([3] * 86 + [2] * 15, 1)
    ceiling = retrieval_ceiling(texts, owners)
    assert ceiling["t2i_r1"] == pytest.approx(101 / 288)
    assert ceiling["i2t_r1"] == pytest.approx(101 / 288)


def test_captions_that_no_two_images_share_leave_no_ceiling() -> None:
    assert set(retrieval_ceiling(["a", "b", "b", "c"], torch.tensor([0, 1, 1, 2])).values()) == {1}


def test_a_caption_that_an_image_has_twice_counts_twice() -> None:
    ceiling = retrieval_ceiling(["x", "x", "x", "y"], torch.tensor([0, 0, 1, 1]))
    # the query `x` finds one image first: two of its three texts are image 0's
    assert ceiling["t2i_r1"] == pytest.approx(3 / 4) and ceiling["t2i_r5"] == 1
    # a text `x` is image 0's in two of three cases; image 1 has `y` to itself
    assert ceiling["i2t_r1"] == pytest.approx((2 / 3 + 1) / 2) and ceiling["i2t_r5"] == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=20))
def test_no_model_finds_more_by_text_than_the_ceiling(pairs: list[tuple[int, int]]) -> None:
    images = sorted({image for _, image in pairs})
    owners = torch.tensor([images.index(image) for _, image in pairs])
    texts = [f"text {text}" for text, _ in pairs]
    random = torch.rand(len(images), 4)
    similarity = random[:, [text for text, _ in pairs]]  # equal texts have equal similarities
    ceiling, scores = retrieval_ceiling(texts, owners), searched_scores(similarity, owners)
    for k in (1, 5, 10):
        assert scores[f"t2i_r{k}"] <= ceiling[f"t2i_r{k}"] + 1e-9


def test_a_model_that_embeds_all_alike_finds_nothing():
    scores = searched_scores(torch.ones(100, 100), torch.arange(100))
    assert scores["t2i_r1"] == scores["i2t_r1"] == 0.01
    assert scores["t2i_median_rank"] == scores["i2t_median_rank"] == 100


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_refused(mistake, wrong):
    values = torch.zeros(6, 6)
    values[2, 3] = wrong
    with mistake("not finite"):
        classification(values, torch.arange(6))
    with mistake("not finite"):
        retrieval(values, torch.arange(6))


def test_retained_is_the_students_share():
    teacher = {"top1": 0.8, "t2i_median_rank": 2.0, "r1": 0.0}
    student = {"top1": 0.6, "t2i_median_rank": 4.0, "r1": 1.0}
    assert retained(teacher, student) == {
        "top1": pytest.approx(0.75),
        "t2i_median_rank": pytest.approx(0.5),  # twice the rank is half as good
        "r1": None,
    }
    assert set(retained(teacher, teacher).values()) == {1.0, None}


def scores_of_two(images: int = 300) -> dict[str, dict[str, Tensor]]:
    """A teacher, and a student that mostly repeats it."""
    labels = torch.randint(0, 8, (images,))
    teacher = torch.nn.functional.one_hot(labels, 8) + torch.randn(images, 8)
    student = teacher + 0.3 * torch.randn(images, 8)
    return {
        "teacher": classification(teacher, labels, [7]),
        "student": classification(student, labels, [7]),
    }


def test_every_metric_has_an_interval_around_it():
    scores = scores_of_two()
    result = compare(scores["teacher"], scores["student"], 300, 400, {"count": 300})
    for model in ("teacher", "student", "retained"):
        values = {k: v for k, v in result[model].items() if k not in ("interval", "count")}
        assert values.keys() == result[model]["interval"].keys()
        for name, value in values.items():
            low, high = result[model]["interval"][name]
            assert low <= value <= high and low < high
    assert result["teacher"]["count"] == result["student"]["count"] == 300
    assert "count" not in result["retained"]


def test_the_retained_share_is_paired():
    scores = scores_of_two()
    same = compare(scores["teacher"], scores["teacher"], 300, 200)["retained"]
    assert all(bounds == [1, 1] for bounds in same["interval"].values())
    result = compare(scores["teacher"], scores["student"], 300, 400)
    width = {
        model: high - low for model in result for low, high in [result[model]["interval"]["top1"]]
    }
    unpaired = (width["teacher"] + width["student"]) / result["teacher"]["top1"]
    assert width["retained"] < 0.75 * unpaired


def test_a_student_alone_is_measured_alone():
    student = scores_of_two()["student"]
    assert compare(None, student, 300, 50).keys() == {"student"}


def test_a_teacher_that_scores_nothing_leaves_no_share():
    labels = torch.arange(6).repeat(5)
    right = torch.nn.functional.one_hot(labels, 6).float()
    result = compare(classification(-right, labels), classification(right, labels), 30, 50)
    assert result["retained"]["top1"] is None
    assert "top1" not in result["retained"]["interval"]
    assert result["teacher"]["interval"]["top1"] == [0, 0]


def test_a_distribution_without_values_has_no_interval():
    draws = {"known": torch.linspace(0, 1, 101).numpy(), "unknown": torch.full((5,), torch.nan)}
    draws["unknown"] = draws["unknown"].numpy()
    assert intervals(draws) == {"known": [pytest.approx(0.025), pytest.approx(0.975)]}
