"""The gallery holds the images that the page shows, and no others."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import open_cache
from pipeline.report.page.gallery import Gallery


def test_loaded_images_are_those_of_their_numbers_and_no_others(
    built: Layout, params: Params
) -> None:
    samples = list(open_cache(params, built, "test"))
    gallery = Gallery(params, built)
    gallery.load([11, 3])
    gallery.load([3, 9])  # shards hold ten images each
    assert gallery.loaded == [3, 9, 11]
    for number in (3, 9, 11):
        whole = Image.open(io.BytesIO(samples[number].jpeg)).convert("RGB")
        side = min(whole.size)
        assert gallery[number].size == (side, side)
        left, top = (whole.width - side) // 2, (whole.height - side) // 2
        square = whole.crop((left, top, left + side, top + side))
        assert np.array_equal(np.asarray(gallery[number]), np.asarray(square))
        caption, embedding = gallery.first_caption(number)
        assert caption == samples[number].captions[0]
        assert np.array_equal(
            embedding.numpy(), samples[number].text_embeddings[0].astype(np.float32)
        )
    assert len(gallery) == len(samples)
    assert gallery.captions == [text for sample in samples for text in sample.captions]
