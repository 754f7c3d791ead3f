"""Numbers equal those of CLIP_benchmark, whose own code is run on the same embeddings."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdeov import FrozenCLIPTextEncoder
from kdeov.evaluation.bootstrap import values_of
from kdeov.evaluation.metrics import classification, retrieval
from kdeov.prompts import published_templates, templates

pytestmark = [
    pytest.mark.slow,  # installs a package
    pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true"),
]

VERSION = "1.6.2"
# numpy no longer makes a number of an array that holds one, as this version's `accuracy` asks it to
OLD, NEW = "keepdim=True).cpu().numpy())", "keepdim=True).item())"
RENAMED = {"openai-80": "imagenet1k"}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """CLIP_benchmark's metrics and its folder, installed for this module alone."""
    folder = tmp_path_factory.mktemp("clip_benchmark")
    install = ["-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check"]
    target = ["--target", str(folder), f"clip-benchmark=={VERSION}"]
    subprocess.run([sys.executable, *install, *target], check=True, capture_output=True)
    path = folder / "clip_benchmark" / "metrics" / "zeroshot_classification.py"
    assert path.read_text(encoding="utf-8").count(OLD) == 1
    path.write_text(path.read_text(encoding="utf-8").replace(OLD, NEW), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(
            folder=folder / "clip_benchmark",
            classification=importlib.import_module(
                "clip_benchmark.metrics.zeroshot_classification"
            ),
            retrieval=importlib.import_module("clip_benchmark.metrics.zeroshot_retrieval"),
        )
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.startswith("clip_benchmark")]:
            del sys.modules[name]


class Embedded:
    """What CLIP_benchmark takes for a model: images and texts are embeddings already."""

    encode_image = encode_text = staticmethod(lambda embeddings: embeddings)


class Batches(list):
    """What it takes for a loader."""

    def __init__(self, batches: list[Any], classes: int = 0) -> None:
        super().__init__(batches)
        self.dataset = SimpleNamespace(classes=[str(n) for n in range(classes)])


def their_classification(benchmark: Any, images: Tensor, classes: Tensor, labels: Tensor) -> Any:
    """`evaluate` with a text embedding for each class, in batches of 64."""
    rows = {str(n): classes[n] for n in range(len(classes))}
    batches = list(zip(images.split(64), labels.split(64), strict=True))
    return benchmark.classification.evaluate(
        Embedded(), Batches(batches, len(classes)),
        lambda names: torch.stack([rows[name] for name in names]),
        list(rows), ["{c}"], "cpu", amp=False,
    )  # fmt: skip


def our_classification(images: Tensor, classes: Tensor, labels: Tensor) -> dict[str, float]:
    logits = F.normalize(images, dim=-1) @ F.normalize(classes, dim=-1).T
    return values_of(classification(logits, labels), len(labels))


def check_classification(
    benchmark: Any, images: Tensor, classes: Tensor, labels: Tensor
) -> dict[str, float]:
    theirs = their_classification(benchmark, images, classes, labels)
    ours = our_classification(images, classes, labels)
    names = {"top1": "acc1", "top5": "acc5", "mean_per_class": "mean_per_class_recall"}
    if len(classes) < 5:
        assert "top5" not in ours and np.isnan(theirs["acc5"])
        del names["top5"]
    for name, their_name in names.items():
        assert ours[name] == pytest.approx(theirs[their_name], abs=1e-6), name
    return ours


def check_retrieval(benchmark: Any, images: Tensor, texts: Tensor, owners: Tensor) -> None:
    """Texts are in the order of their images, as its loader gives them."""
    captions = [[str(n) for n in torch.nonzero(owners == p).flatten().tolist()]
                for p in range(len(images))]  # fmt: skip
    batches = [(images[n : n + 50], captions[n : n + 50]) for n in range(0, len(images), 50)]
    theirs = benchmark.retrieval.evaluate(
        Embedded(), batches, lambda names: torch.stack([texts[int(name)] for name in names]),
        "cpu", amp=False, recall_k_list=[1, 5, 10],
    )  # fmt: skip
    unit = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    ours = values_of(retrieval((unit[1] @ unit[0].T).T, owners), len(images))
    for k in (1, 5, 10):
        assert ours[f"t2i_r{k}"] == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert ours[f"i2t_r{k}"] == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)


def noisy(embeddings: Tensor, noise: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return embeddings + noise * torch.randn(embeddings.shape, generator=generator)


@pytest.mark.parametrize(("count", "width"), [(3, 8), (10, 16), (100, 32)])
def test_classification_of_random_embeddings(benchmark: Any, count: int, width: int) -> None:
    classes = torch.randn(count, width)
    labels = torch.randint(0, count, (300,))
    scores = check_classification(benchmark, noisy(classes[labels], 1.5, 1), classes, labels)
    assert 0.1 < scores["top1"] < 1


def test_classification_with_duplicates_ties_and_classes_without_images(benchmark: Any) -> None:
    classes = torch.randn(12, 16)
    classes[5] = classes[2]  # two names for one thing: their logits tie
    labels = torch.randint(0, 10, (200,))  # 10 and 11 never occur
    images = noisy(classes[labels], 0.8, 2)
    images[50:100] = images[:50]
    check_classification(benchmark, images, classes, labels)


def test_classification_of_a_collapsed_student_is_chance(benchmark: Any) -> None:
    labels = torch.arange(8).repeat(10)
    images = torch.randn(1, 16).expand(80, 16)
    scores = check_classification(benchmark, images, torch.randn(8, 16), labels)
    assert scores["top1"] == pytest.approx(1 / 8)


@pytest.mark.parametrize("captions", [1, 5])
def test_retrieval_of_random_embeddings(benchmark: Any, captions: int) -> None:
    images = torch.randn(120, 16)
    owners = torch.arange(120).repeat_interleave(captions)
    check_retrieval(benchmark, images, noisy(images[owners], 1.5, 3), owners)


def test_retrieval_with_uneven_captions_and_duplicates(benchmark: Any) -> None:
    images = torch.randn(90, 16)
    images[30:40] = images[:10]  # the same image twice
    owners = torch.arange(90).repeat_interleave(torch.arange(90) % 4 + 1)
    texts = noisy(images[owners], 0.8, 4)
    texts[100:120] = texts[:20]  # the same caption of several images
    check_retrieval(benchmark, images, texts, owners)


def test_retrieval_of_a_collapsed_student_finds_nothing(benchmark: Any) -> None:
    images, owners = torch.randn(1, 16).expand(60, 16), torch.arange(60)
    check_retrieval(benchmark, images, torch.randn(60, 16), owners)


def test_genuine_embeddings_of_clip(benchmark: Any, shared_data: Path) -> None:
    """ViT-B/32's embeddings of 500 CIFAR-10 images, and of class names of LVIS; it has no ship."""
    folder = shared_data / "clip_vitb32"
    images = torch.load(folder / "cifar10_500" / "image_embeddings.pt", weights_only=True)
    labels = torch.from_numpy(np.load(folder / "cifar10_500" / "image_labels.npy")).long()
    texts = torch.from_numpy(np.load(folder / "class_names" / "lvis_v1_clip_a+cname.npy")).float()
    categories = json.loads(
        (folder / "class_names" / "lvis_v1_train_cat_info.json").read_text(encoding="utf-8")
    )
    numbers = {category["name"]: category["id"] - 1 for category in categories}
    called = ["airplane", "car_(automobile)", "bird", "cat", "deer", "dog", "frog", "horse",
              None, "truck"]  # fmt: skip
    kept = [n for n, name in enumerate(called) if name]
    rows = torch.isin(labels, torch.tensor(kept))
    place = torch.tensor([kept.index(n) if n in kept else -1 for n in range(10)])
    classes = texts[[numbers[str(called[n])] for n in kept]]
    scores = check_classification(benchmark, images[rows].float(), classes, place[labels[rows]])
    assert scores["top1"] > 0.85  # CLIP's own embeddings separate these
    every = images.float()
    nearest = F.normalize(every, dim=-1) @ F.normalize(texts, dim=-1).T
    check_retrieval(
        benchmark, every, noisy(texts[nearest.argmax(dim=1)], 0.02, 5), torch.arange(500)
    )


def test_class_embeddings_are_its_classifier(benchmark: Any, clip_file: Path) -> None:
    encoder = FrozenCLIPTextEncoder(clip_file)
    names, prompts = ["cat", "fire hydrant", "traffic light"], templates("cifar10")
    model = SimpleNamespace(encode_text=encoder)
    theirs = benchmark.classification.zero_shot_classifier(
        model, encoder.tokenize, names, [p.replace("{}", "{c}") for p in prompts], "cpu", amp=False
    )
    ours = encoder.class_embeddings(names, prompts)
    torch.testing.assert_close(ours, theirs.T, rtol=0, atol=1e-6)


def test_published_templates_are_its_own(benchmark: Any) -> None:
    path = benchmark.folder / "datasets" / "en_zeroshot_classification_templates.json"
    theirs = json.loads(path.read_text(encoding="utf-8"))
    for name, prompts in published_templates().items():
        expected = [prompt.replace("{c}", "{}") for prompt in theirs[RENAMED.get(name, name)]]
        assert list(prompts) == expected, name
