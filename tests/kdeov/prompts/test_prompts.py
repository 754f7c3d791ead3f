"""Prompt templates."""

from __future__ import annotations

import numpy as np
import pytest

from kdeov.prompts import (
    TEMPLATES,
    as_templates,
    class_prompts,
    normalize_class_name,
    published_templates,
    templates,
    templates_digest,
)

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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("detic", ("a {}",)),
        ("a red {}", ("a red {}",)),
        (["a {}", "one {}"], ("a {}", "one {}")),
        (("{:>5}",), ("{:>5}",)),
    ],
)
def test_templates_are_a_set_by_name_or_a_list(given, expected):
    assert as_templates(given) == expected


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("deticc", "detic"), ("a photo of a cat", "a photo of a cat"), ("", "''"), (None, "None"),
        (3, "3"), (b"a {}", "b'a {}'"), ([], "template"), ([None], "None"), (["a cat"], "a cat"),
        (["a {}", "{} and {}"], "{} and {}"), (["a {name}"], "a {name}"), (["a {0}"], "a {0}"),
        (["a {"], "a {"), (["{:d}"], "{:d}"), (["{:{}}"], "{:{}}"), ([["a {}"]], "['a {}']"),
        ({"a": "a {}"}, "dict"), ({"a {}"}, "set"), (str.upper, "method"),
    ],
)  # fmt: skip
def test_templates_that_name_nothing_are_refused(given, word, mistake):
    with mistake(word):
        as_templates(given)


@pytest.mark.parametrize(
    "given",
    [
        ["cat", "dog"], ("cat", "dog"), np.array(["cat", "dog"]), {0: "cat", 1: "dog"},
        {1: "dog", 0: "cat"}, {"n02": "cat", "n01": "dog"}, {7: "cat", 3: "dog"},
        {0: "cat", 1: "dog"}.values(), (name for name in ("cat", "dog")), [" cat\t", "dog\n"],
    ],
)  # fmt: skip
def test_class_names_are_a_list_or_the_values_of_a_mapping(given):
    assert class_prompts(given) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("cat", "'cat'"), (None, "None"), (3, "3"), ([], "no class name"), ({}, "no class name"),
        ({"cat"}, "set"), (["cat", None], "class name 1"), ([0, 1], "class name 0"),
        ([["cat"]], "class name 0"), (["cat", float("nan")], "class name 1"),
        (["cat", " \t"], "class name 1"), (["\u200b\ufeff"], "class name 0"),
        ([b"cat"], "class name 0"), ({0: None}, "class name 0"), ({0: ["cat"]}, "class name 0"),
    ],
)  # fmt: skip
def test_names_that_name_nothing_are_refused(given, word, mistake):
    with mistake(word):
        class_prompts(given)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("  traffic \u00a0 light\n", "traffic light"),
        ("cafe\u0301", "caf\u00e9"),
        ("Dog", "Dog"),
        ("hot_dog", "hot_dog"),
    ],
)
def test_a_class_name_has_one_spelling(name, expected):
    assert normalize_class_name(name) == normalize_class_name(expected) == expected


def test_numbers_as_texts_of_json_are_in_the_order_of_the_numbers():
    names = [f"class {number}" for number in range(12)]
    sorted_as_texts = dict(sorted((str(number), name) for number, name in enumerate(names)))
    assert list(sorted_as_texts)[:3] == ["0", "1", "10"]
    assert class_prompts(sorted_as_texts) == names
    assert class_prompts({"10": "ten", "2": "two"}) == ["ten", "two"]  # no numbers of classes
