"""The embeddings of training images that an export keeps."""

from __future__ import annotations

import numpy as np
import pytest

from kdeov.runtime.card import BACKGROUND
from kdeov.runtime.model import Model
from tests.helpers.exported import small_images
from tests.kdeov.runtime.copies import npy, write_copy


def test_the_background_are_the_embeddings_of_the_images(tower):
    model = Model.open(tower.folder, threads=1)
    found = model.background()
    assert found.dtype == np.float32 and found.shape == (16, 32)
    np.testing.assert_allclose(found, model.embed_pixels(small_images(16)), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_an_export_without_a_background_gives_none(tower, tmp_path):
    folder = write_copy(tower.folder, tmp_path / "export", {BACKGROUND: None})
    assert Model.open(folder, threads=1).background() is None


@pytest.mark.parametrize(
    "content",
    [b"no array", npy(np.ones((3, 7), np.float16)), npy(np.ones(32, np.float16)),
     npy(np.array([{}], dtype=object))],
    ids=["text", "another width", "one row", "pickle"],
)  # fmt: skip
def test_a_file_that_is_no_background_is_refused(tower, tmp_path, mistake, content):
    folder = write_copy(tower.folder, tmp_path / "export", {BACKGROUND: content})
    with mistake(BACKGROUND, "export again"):
        Model.open(folder, threads=1).background()
