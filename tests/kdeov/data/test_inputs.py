"""The forms in which callers have images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import pil_to_tensor

from kdeov import ClipTeacher
from kdeov.data.inputs import _warn_of_shares
from kdeov.errors import ConfigError

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
TENSOR = pil_to_tensor(IMAGE)
OPAQUE = np.full((50, 70, 1), 255, np.uint8)
NORMALIZED = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))

SAME = {
    "image": IMAGE,
    "list": [IMAGE],
    "tuple": (IMAGE,),
    "array": PIXELS,
    "array of channels first": PIXELS.transpose(2, 0, 1),
    "array in Fortran's order": np.asfortranarray(PIXELS),
    "batch in an array": PIXELS[None],
    "list of arrays": [PIXELS],
    "array with alpha": np.concatenate([PIXELS, OPAQUE], axis=2),
    "array of int64": PIXELS.astype(np.int64),
    "array of 16 bits": PIXELS.astype(np.uint16) * 257,
    "tensor": TENSOR,
    "tensor of channels last": TENSOR.permute(1, 2, 0),
    "batch in a tensor": TENSOR[None],
    "list of tensors": [TENSOR],
    "tensor of int64": TENSOR.long(),
    "batch of int32": TENSOR[None].int(),
}


@pytest.mark.parametrize("form", SAME)
def test_every_form_of_an_image_has_one_embedding(model_of, apart, form):
    model = model_of()
    expected = model.encode_image(IMAGE.copy())
    assert apart(model.encode_image(SAME[form]), expected) < 1e-5


def test_images_of_several_sizes_and_forms_are_one_batch(model_of, image, apart):
    model, other = model_of(), image((64, 90), 1)
    mixed = [TENSOR, np.asarray(other), IMAGE]
    expected = torch.cat([model.encode_image(one) for one in (IMAGE, other, IMAGE)])
    assert apart(model.encode_image(mixed), expected) < 1e-5
    assert apart(model.encode_image(one for one in mixed), expected) < 1e-5


def test_gray_is_gray_in_every_form(model_of, apart):
    model, gray = model_of(), IMAGE.convert("L")
    array = np.asarray(gray)
    expected = model.encode_image(gray)
    for same in (array, array[..., None], torch.from_numpy(array.copy())[None]):
        assert apart(model.encode_image(same), expected) < 1e-5


def test_floats_are_normalized_already_and_keep_their_size(model_of):
    model = model_of()
    for same in (NORMALIZED, NORMALIZED[None], [NORMALIZED], NORMALIZED.numpy()):
        assert torch.equal(model.preprocess(same), NORMALIZED[None])
    assert torch.equal(model.preprocess(NORMALIZED.double()), NORMALIZED[None])


def test_a_teacher_takes_what_a_model_takes(clip_file):
    teacher = ClipTeacher.load(clip_file)
    expected = teacher.preprocess([IMAGE])
    for same in (PIXELS, TENSOR, [TENSOR]):
        assert torch.equal(teacher.preprocess(same), expected)


REFUSED = {
    "None": (None, "NoneType"),
    "a number": (3, "int"),
    "a path": (Path("a.jpg"), "a.jpg", "PIL.Image.open"),
    "the text of a path": ("a.jpg", "a.jpg", "PIL.Image.open"),
    "a list of paths": (["a.jpg"], "image 0", "PIL.Image.open"),
    "bytes": (b"\xff\xd8", "bytes"),
    "an empty list": ([], "no image"),
    "an empty batch": (torch.zeros(0, 3, 8, 8), "(0, 3, 8, 8)"),
    "an empty batch of pixels": (np.zeros((0, 8, 8, 3), np.uint8), "(0, 8, 8, 3)"),
    "an image without pixels": (Image.new("RGB", (0, 5)), "0 x 5"),
    "a batch of a data set": ({"image": IMAGE, "label": 1}, "'image'", "'label'"),
    "a set": ({IMAGE.tobytes()}, "set"),
    "a nested list": ([[IMAGE]], "image 0", "list"),
    "None in a list": ([IMAGE, None], "image 1", "NoneType"),
    "booleans": (PIXELS > 9, "bool"),
    "boolean tensors": (TENSOR > 9, "bool"),
    "objects": (np.array([IMAGE, None], dtype=object), "object"),
    "complex numbers": (PIXELS.astype(complex), "complex"),
    "sparse tensors": (NORMALIZED[None].to_sparse(), "sparse"),
    "floats of channels last": (PIXELS / 255, "(50, 70, 3)", "[B, 3, H, W]"),
    "floats of two sizes": ([NORMALIZED, NORMALIZED[:, :20]], "20 x 32", "32 x 32"),
    "a list of batches": ([TENSOR[None]], "image 0", "(1, 3, 50, 70)"),
    "floats of 0 to 255": (TENSOR.float(), "0 to 255", "uint8"),
    "a batch of floats of 0 to 255": (TENSOR[None].double(), "not normalized"),
    "floats without an end": (NORMALIZED / 0, "images", "not finite"),
    "a NaN in a list": ([NORMALIZED * float("nan")], "image 0", "not finite"),
    "seven channels": (torch.zeros(7, 8, 9, dtype=torch.uint8), "(7, 8, 9)"),
    "negative pixels": (PIXELS.astype(int) - 300, "image 0", "-300"),
    "a data loader": (DataLoader(TensorDataset(TENSOR[None])), "image 0", "list"),
    "a data set": (TensorDataset(TENSOR[None]), "TensorDataset"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_everything_else_is_refused_in_one_line(model_of, mistake, form):
    images, *words = REFUSED[form]
    with mistake(*words):
        model_of().encode_image(images)


def test_every_method_has_the_same_door(model_of):
    model = model_of()
    calls = (
        lambda: model.dense_features("a.jpg"),
        lambda: model.heatmap("a.jpg", ["a cat"]),
        lambda: model.zero_shot_classify("a.jpg", ["cat"]),
        lambda: model.compute_similarity("a.jpg", ["a cat"]),
        lambda: model.rank("a.jpg", "a cat"),
        lambda: model("a.jpg", ["a cat"]),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=r"a\.jpg"):
            call()


def test_floats_that_seem_to_lack_their_normalization_are_told_once(model_of, caplog):
    _warn_of_shares.cache_clear()
    model = model_of()
    model.encode_image(NORMALIZED)
    model.encode_image(torch.zeros(1, 3, 32, 32))
    assert caplog.text == ""
    for _ in range(2):
        model.encode_image(TENSOR / 255)
    assert len(caplog.records) == 1 and "`transform`" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_are_refused(model_of, mistake):
    with mistake("float32", "give PIL images"):
        model_of().encode_image(torch.nested.nested_tensor([NORMALIZED, NORMALIZED[:, :20]]))
