"""Text encoders of saved models."""

from __future__ import annotations

import json

import pytest

from kdeov.text.load import load_text_encoder


@pytest.mark.parametrize(
    "text", [None, "{", "[]", "{}", '{"kind": []}', '{"kind": "clip"}', '{"kind": "table"}']
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, mistake, text):
    if text is not None:
        (tmp_path / "text_encoder.json").write_text(text, encoding="utf-8")
    with mistake(tmp_path):
        load_text_encoder(tmp_path)


def test_a_kind_of_a_later_version_is_named(tmp_path, mistake):
    (tmp_path / "text_encoder.json").write_text(json.dumps({"kind": "hearsay"}), encoding="utf-8")
    with mistake(tmp_path, "hearsay"):
        load_text_encoder(tmp_path)
