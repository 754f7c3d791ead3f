"""Prompt templates."""

from __future__ import annotations

import pytest

from kdeov.prompts import TEMPLATES, templates, templates_digest


def test_an_unknown_set_is_told_with_the_known_ones(mistake):
    with mistake("'openai-80'", *TEMPLATES):
        templates("openai-80")


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_names_the_class_once(name):
    prompts = templates(name)
    assert len(set(prompts)) == len(prompts) > 0
    assert all(prompt.format("cat").count("cat") == 1 for prompt in prompts)


def test_the_digest_tells_lists_of_templates_apart():
    lists = [*TEMPLATES.values(), TEMPLATES["plain"][::-1], TEMPLATES["plain"][:-1]]
    digests = {templates_digest(prompts) for prompts in lists}
    assert len(digests) == len(lists)
    assert {len(digest) for digest in digests} == {8}
    assert templates_digest(("a photo of a {}.",)) == templates_digest(templates("simple"))
