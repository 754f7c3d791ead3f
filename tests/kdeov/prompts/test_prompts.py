"""Prompt templates."""

from __future__ import annotations

import pytest

from kdeov.prompts import TEMPLATES, published_templates, templates, templates_digest

ALL = TEMPLATES | published_templates()


def test_an_unknown_set_is_answered_with_the_nearest_one(mistake):
    with mistake("'openai-81'", "openai-80"):
        templates("openai-81")
    with mistake("'none of these'", "simple"):
        templates("none of these")


@pytest.mark.parametrize("name", ALL)
def test_every_template_names_the_class_once(name):
    prompts = templates(name)
    assert len(set(prompts)) == len(prompts) > 0
    assert all(prompt.format("zebra").count("zebra") == 1 for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "count"),
    [("openai-80", 80), ("cifar10", 18), ("cifar100", 18), ("food101", 1), ("flowers", 1),
     ("pets", 1), ("dtd", 8), ("eurosat", 3), ("sun397", 2), ("caltech101", 34), ("cars", 8)],
)  # fmt: skip
def test_benchmarks_have_the_sets_of_clips_authors(name, count):
    assert len(templates(name)) == count


def test_the_eighty_are_those_of_open_clip_in_their_order():
    import open_clip

    theirs = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert list(templates("openai-80")) == theirs


def test_detic_is_the_prompt_of_the_published_class_embeddings():
    assert templates("detic") == ("a {}",)


def test_lists_of_templates_that_differ_have_other_digests():
    lists = {*ALL.values(), TEMPLATES["plain"][::-1], TEMPLATES["plain"][:-1]}
    digests = {templates_digest(prompts) for prompts in lists}
    assert len(digests) == len(lists)
    assert {len(digest) for digest in digests} == {8}
    assert templates_digest(("a photo of a {}.",)) == templates_digest(templates("simple"))
