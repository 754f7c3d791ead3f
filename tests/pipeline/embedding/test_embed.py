"""The teacher cache: vectors of exactly what was shown, made once, and refused where they belong to
something else.
"""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from kdeov.data.views import render
from kdeov.weights.state_dict import read_state_dict, write_tensors
from pipeline.artifacts.dataset import SPLITS
from pipeline.artifacts.identity import (
    cache_identity,
    differences,
    read_teacher_identity,
    require_identity,
    view_plan,
)
from pipeline.artifacts.shards import Manifest, read_shard
from pipeline.artifacts.teacher_shards import PairedSample
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.data.paired_shards import PairedShards, open_cache
from pipeline.embedding.embed import write_teacher_shards
from pipeline.teachers.load import load_teacher
from pipeline.teachers.make_teacher import write_teacher
from tests.helpers.teachers import clip_file

MakeParams = Callable[..., Params]


def identity_of(layout: Layout, params: Params, split: str = "train") -> dict[str, Any]:
    return cache_identity(read_teacher_identity(layout.teacher), params.embed, split)


def paired(layout: Layout, params: Params, split: str = "train") -> PairedShards:
    return open_cache(params, layout, split)


def run(params: Params, layout: Layout, out: Path | None = None) -> None:
    out = out or layout.embeddings
    write_teacher_shards(params.embed, params.cluster, layout.images, layout.teacher, out)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ages(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.tar")
    }


def tokens(sample: PairedSample) -> np.ndarray:
    return np.concatenate([sample.view_embeddings, sample.text_embeddings]).astype(np.float32)


@pytest.mark.parametrize(("split", "views"), [("train", 3), ("val", 1), ("test", 1)])
def test_every_view_and_caption_has_a_unit_vector(
    built: Layout, params: Params, split: str, views: int
) -> None:
    samples = list(paired(built, params, split))
    assert len(samples) == {"train": 24, "val": 12, "test": 12}[split]
    for sample in samples:
        assert sample.view_embeddings.shape == (views, 32) and len(sample.views) == views
        assert sample.text_embeddings.shape == (3, 32) and len(sample.captions) == 3
        assert np.linalg.norm(tokens(sample), axis=1) == pytest.approx(1, abs=1e-3)


def test_cached_vectors_are_the_live_teacher_on_the_very_views_and_captions(
    built: Layout, params: Params
) -> None:
    teacher = load_teacher(built.teacher)
    samples = list(paired(built, params))
    views = [view for sample in samples for view in sample.views]
    assert any(view.flip for view in views) and any(view.width < 96 for view in views)
    pixels = np.stack(
        [
            render(Image.open(io.BytesIO(s.jpeg)).convert("RGB"), view, teacher.transform.size)
            for s in samples
            for view in s.views
        ]
    )
    images = teacher.transform.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    live = F.normalize(teacher.encode_image(images), dim=-1)
    cached = torch.from_numpy(np.concatenate([s.view_embeddings for s in samples])).float()
    cosines = cached @ live.T
    assert cosines.diagonal().min() >= 0.9995
    others = cosines - 2 * torch.eye(len(cosines))
    assert (others.max(dim=1).values < 0.9995).float().mean() > 0.9  # one can tell them apart
    texts = F.normalize(teacher.encode_text([c for s in samples for c in s.captions]), dim=-1)
    stored = torch.from_numpy(np.concatenate([s.text_embeddings for s in samples])).float()
    assert (stored * texts).sum(dim=-1).min() >= 0.9995


def test_views_of_a_image_are_drawn_the_same_way_everywhere(built: Layout, params: Params) -> None:
    plan = view_plan(read_teacher_identity(built.teacher), params.embed, "train")
    for sample in paired(built, params):
        size = Image.open(io.BytesIO(sample.jpeg)).size
        assert sample.views == plan.draw_all(sample.key, size)


def test_embedding_twice_gives_the_same_bytes(
    built: Layout, params: Params, tmp_path: Path
) -> None:
    run(params, built, tmp_path / "again")
    assert files(tmp_path / "again") == files(built.embeddings)


def test_a_second_run_keeps_every_finished_shard(
    checkout: Layout, params: Params, log: Any
) -> None:
    before = ages(checkout.embeddings)
    run(params, checkout)
    assert ages(checkout.embeddings) == before and len(before) == 7
    assert "keeping 3 of 3 finished shards" in log.text


def damage_bytes(folder: Path) -> None:
    data = bytearray((folder / "000001.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "000001.tar").write_bytes(data)


def damage_identity(folder: Path) -> None:
    note = json.loads((folder / "000001.json").read_text())
    note["identity"]["views"]["seed"] += 1
    (folder / "000001.json").write_text(json.dumps(note))


def damage_images(folder: Path) -> None:
    note = json.loads((folder / "000001.json").read_text())
    (folder / "000001.json").write_text(json.dumps(note | {"images_sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_bytes, "its bytes changed"),
        (damage_identity, "views.seed is 1, wanted 0"),
        (damage_images, "its images changed"),
        (
            lambda folder: (folder / "000001.json").write_text("{"),
            "tar: its record is damaged",
        ),
        (
            lambda folder: (folder / "000001.json").write_text("[]"),
            "tar: its record is damaged",
        ),
        (lambda folder: (folder / "000001.json").unlink(), "keeping 2 of 3"),
        (lambda folder: (folder / "000001.tar").unlink(), "000001.tar: it is missing"),
    ],
)
def test_only_the_shard_that_does_not_fit_is_made_again(
    checkout: Layout, params: Params, log: Any, damage: Callable[[Path], Any], reason: str
) -> None:
    contents, before = files(checkout.embeddings), ages(checkout.embeddings)
    damage(checkout.embeddings / "train")
    run(params, checkout)
    assert files(checkout.embeddings) == contents
    after = ages(checkout.embeddings)
    assert {name for name in after if after[name] != before[name]} == {"train/000001.tar"}
    assert reason in log.text


def test_a_change_of_views_embeds_the_training_split_again_and_no_other_image(
    checkout: Layout, make_params: MakeParams
) -> None:
    before = ages(checkout.embeddings)
    more = make_params(embed={"views": 4})
    run(more, checkout)
    after = ages(checkout.embeddings)
    assert {name for name in after if after[name] != before[name]} == {
        f"train/00000{n}.tar" for n in range(3)
    }
    assert all(len(sample.views) == 4 for sample in paired(checkout, more))


def test_what_is_no_longer_listed_is_deleted(checkout: Layout, params: Params) -> None:
    contents = files(checkout.embeddings)
    folder = checkout.embeddings / "train"
    for name in ("000099.tar", "000099.json", "000000.tar.77.partial", "notes.txt"):
        (folder / name).write_text("stranger")
    run(params, checkout)
    assert files(checkout.embeddings) == contents


def test_a_stray_folder_is_deleted_too(checkout: Layout, params: Params) -> None:
    contents = files(checkout.embeddings)
    (checkout.embeddings / "train" / ".ipynb_checkpoints").mkdir()
    run(params, checkout)
    assert files(checkout.embeddings) == contents
    assert not (checkout.embeddings / "train" / ".ipynb_checkpoints").exists()


def damaged_image(layout: Layout) -> Path:
    """An image shard in which the first image is no JPEG any more."""
    path = layout.images / "val" / "000001.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xff\xd8\xff", b"\0\0\0", 1))
    return path


def test_damaged_image_shards_are_named_and_not_embedded(
    checkout: Layout, params: Params, complains: Any
) -> None:
    path = damaged_image(checkout)
    shutil.rmtree(checkout.embeddings)
    with complains(path, "dvc repro"):
        run(params, checkout)
    assert not (checkout.embeddings / "val" / "manifest.json").exists()


def test_a_flipped_bit_in_a_image_is_never_embedded(
    checkout: Layout, params: Params, complains: Any
) -> None:
    path = checkout.images / "val" / "000001.tar"
    data = bytearray(path.read_bytes())
    data[1500] ^= 1  # within the first image, which still decodes
    path.write_bytes(data)
    shutil.rmtree(checkout.embeddings)
    with complains(path):
        run(params, checkout)


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("teacher", "weights_sha256", "f" * 64, "teacher.weights_sha256 is '"),
        ("teacher", "tokenizer", "other", "teacher.tokenizer is 'clip-bpe-"),
        ("teacher", "transform.mean", [0.5] * 3, "teacher.transform.mean is [0.48145466, "),
        ("teacher", "transform.std", [0.5] * 3, "teacher.transform.std is [0.26862954, "),
        ("teacher", "transform.interpolation", "nearest", "(teacher.transform.interpolation is "),
        (
            "teacher",
            "transform.crop",
            "none",
            "(teacher.transform.crop is 'center', wanted 'none')",
        ),
        ("teacher", "transform.size", 224, "(teacher.transform.size is 64, wanted 224)"),
        ("views", "seed", 7, "(views.seed is 0, wanted 7)"),
        ("views", "count", 4, "(views.count is 3, wanted 4)"),
        ("", "precision", "bfloat16", "(precision is 'float32', wanted 'bfloat16')"),
        ("", "dtype", "float32", "(dtype is 'float16', wanted 'float32')"),
        ("", "normalised", False, "(normalised is True, wanted False)"),
        ("", "code", "0" * 16, "wanted '0000000000000000')"),
    ],
)
def test_a_cache_of_something_else_is_refused_and_just_the_difference_named(
    built: Layout, params: Params, complains: Any, section: str, key: str, value: Any, words: str
) -> None:
    wanted = copy.deepcopy(identity_of(built, params))
    part: Any = wanted[section] if section else wanted
    *path, last = key.split(".")
    for name in path:
        part = part[name]
    part[last] = value
    with complains(built.embeddings / "train", words, "run `dvc repro embed`"):
        PairedShards(built.images / "train", built.embeddings / "train", wanted)
    assert len(differences(wanted, identity_of(built, params))) == 1


def test_every_difference_is_named_at_once(complains: Any) -> None:
    wanted = {"a": {"b": 1, "c": [1, 2]}, "dtype": "float16"}
    found = {"a": {"b": 2, "c": [1, 2]}, "extra": True}
    with complains(
        "here: ", "a.b is 2, wanted 1", "dtype is None, wanted 'float16'", "extra is True"
    ):
        require_identity(wanted, found, "here")
    require_identity(wanted, json.loads(json.dumps(wanted)), "here")


def test_teacher_shards_of_other_images_are_refused_with_both_keys(
    checkout: Layout, params: Params, complains: Any
) -> None:
    folder = checkout.embeddings / "train"
    first, second = folder / "000000.tar", folder / "000001.tar"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    with complains(first, "train-0000010", "train-0000000", "run `dvc repro -f embed`"):
        list(paired(checkout, params))


def test_a_change_of_the_code_that_embeds_makes_every_shard_again(
    checkout: Layout, params: Params, log: Any
) -> None:
    for note in checkout.embeddings.rglob("0*.json"):
        values = json.loads(note.read_text())
        values["identity"]["code"] = "of yesterday"
        note.write_text(json.dumps(values))
    before, contents = ages(checkout.embeddings), files(checkout.embeddings)
    run(params, checkout)
    after = ages(checkout.embeddings)
    assert all(after[name] != before[name] for name in before)
    assert {n: b for n, b in files(checkout.embeddings).items() if n.endswith(".tar")} == {
        n: b for n, b in contents.items() if n.endswith(".tar")
    }
    assert "recomputing 000000.tar, 000001.tar, 000002.tar: code is 'of yesterday'" in log.text


def test_a_teacher_that_is_not_its_identity_is_refused(
    checkout: Layout, params: Params, complains: Any
) -> None:
    path = checkout.teacher / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer": "another"}))
    with complains(path, "tokenizer is 'another', wanted 'clip-bpe-", "dvc repro -f teacher"):
        load_teacher(checkout.teacher)


def test_one_changed_weight_of_the_teacher_is_told_from_the_cache(
    checkout: Layout, make_params: MakeParams, params: Params, tmp_path: Path, complains: Any
) -> None:
    state = read_state_dict(checkout.teacher / "model.safetensors")
    state["text_projection"].view(-1)[3] += 1e-3
    write_tensors(tmp_path / "other.safetensors", state)
    name = read_teacher_identity(checkout.teacher)["name"]
    (tmp_path / "other.safetensors").rename(tmp_path / name)
    other = make_params(teacher=clip_file(tmp_path / name))
    write_teacher(other.teacher, checkout.images, checkout.teacher)
    with complains("(teacher.weights_sha256 is ", "run `dvc repro embed`"):
        paired(checkout, params)


def test_a_teacher_with_other_weights_than_its_identity_says_is_refused(
    checkout: Layout, complains: Any
) -> None:
    path = checkout.teacher / "model.safetensors"
    state = read_state_dict(path)
    state["text_projection"] = state["text_projection"] + 1
    write_tensors(path, state)
    with complains(checkout.teacher, "not those of identity.json", "dvc repro -f teacher"):
        load_teacher(checkout.teacher)


def test_a_teacher_is_checked_against_the_digest_that_params_name(
    built: Layout, make_params: MakeParams, weights: Path, tmp_path: Path, complains: Any
) -> None:
    found = read_teacher_identity(built.teacher)["weights_sha256"]
    right = make_params(teacher={**clip_file(weights), "sha256": found})
    write_teacher(right.teacher, built.images, tmp_path / "teacher")
    assert files(tmp_path / "teacher") == files(built.teacher)
    wrong = make_params(teacher={**clip_file(weights), "sha256": "0" * 64})
    with complains(found, "0" * 64):
        write_teacher(wrong.teacher, built.images, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_vectors_that_are_no_numbers_are_refused(
    checkout: Layout, make_params: MakeParams, params: Params, tmp_path: Path, complains: Any
) -> None:
    state = read_state_dict(checkout.teacher / "model.safetensors")
    state["visual.attnpool.c_proj.bias"] += float("nan")
    write_tensors(tmp_path / "broken.safetensors", state)
    broken = make_params(teacher=clip_file(tmp_path / "broken.safetensors"))
    write_teacher(broken.teacher, checkout.images, checkout.teacher)
    with complains("train-0000000 are not finite", "check the weights"):
        run(params, checkout)
    assert not any((checkout.embeddings / split / "manifest.json").exists() for split in ["train"])


def test_manifests_of_the_cache_state_what_it_was_made_from(built: Layout, params: Params) -> None:
    for split in SPLITS:
        manifest = Manifest.read(built.embeddings / split, "embed")
        assert manifest.identity == identity_of(built, params, split)
        assert manifest.identity["dtype"] == "float16" and manifest.identity["normalised"] is True
        transform = manifest.identity["teacher"]["transform"]
        assert (transform["size"], transform["interpolation"], transform["crop"]) == (
            64, "bicubic", "center",
        )  # fmt: skip


def test_a_lower_precision_gives_nearly_the_same_vectors_and_says_so(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    low = make_params(embed={"precision": "bfloat16"})
    run(low, built, tmp_path / "low")
    manifest = Manifest.read(tmp_path / "low" / "val", "embed")
    assert manifest.identity["precision"] == "bfloat16"
    shards = PairedShards(built.images / "val", tmp_path / "low" / "val", manifest.identity)
    for one, two in zip(shards, paired(built, make_params(), "val"), strict=True):
        cosines = (tokens(one) * tokens(two)).sum(axis=1)
        assert cosines.min() > 0.99 and not np.array_equal(tokens(one), tokens(two))


@pytest.mark.parametrize("batch", [1, 7])
def test_how_many_views_are_embedded_at_once_changes_no_vector(
    built: Layout, make_params: MakeParams, tmp_path: Path, batch: int
) -> None:
    run(make_params(cluster={"embed_batch": batch}), built, tmp_path / "out")
    for split in SPLITS:
        for tar in (built.embeddings / split).glob("*.tar"):
            for (_, one), (_, two) in zip(
                read_shard(tar), read_shard(tmp_path / "out" / split / tar.name), strict=True
            ):
                ours, theirs = (np.frombuffer(s["fp16"], "<f2").astype(float) for s in (one, two))
                assert np.abs(ours - theirs).max() < 1e-3 and one["views"] == two["views"]


def test_a_run_that_is_killed_keeps_its_finished_shards_and_ends_with_the_same_bytes(
    checkout: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    """A real SIGKILL of the stage while it makes its second shard or a later one."""
    slow = make_params(embed={"views": 60})
    (checkout.root / "params.yaml").write_text(yaml.safe_dump(slow.model_dump(mode="json")))
    shutil.rmtree(checkout.embeddings)
    run(slow, checkout, tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.embed"],
        cwd=checkout.root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    folder = checkout.embeddings / "train"
    while not (folder / "000000.json").exists():
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        time.sleep(0.001)
    process.kill()
    process.wait()
    finished = {path.stem for path in folder.glob("*.json")}
    before = ages(checkout.embeddings)
    assert "000000" in finished and not (folder / "manifest.json").exists()
    run(slow, checkout)
    assert files(checkout.embeddings) == files(tmp_path / "whole")
    after = ages(checkout.embeddings)
    made_again = {name for name in before if after[name] != before[name]}
    assert made_again <= {name for name in before if Path(name).stem not in finished}
    assert len(made_again) <= 1


def test_a_disk_that_fills_up_is_told_in_one_line_and_the_stage_goes_on_later(
    checkout: Layout, make_params: MakeParams, run_python: Any
) -> None:
    """A limit of the size of files stands for the disk."""
    script = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["embed"]
import runpy
runpy.run_module("stages.embed", run_name="__main__")
"""
    params = make_params()
    (checkout.root / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    contents = files(checkout.embeddings)
    limit = (checkout.embeddings / "train" / "000000.tar").stat().st_size - 1
    shutil.rmtree(checkout.embeddings)
    failed = run_python("-c", script, str(limit), cwd=checkout.root)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith(
        f"embed: {checkout.embeddings / 'train' / '000000.tar'}: cannot be written (File too large)"
    )
    assert files(checkout.embeddings) == {}
    run(params, checkout)
    assert files(checkout.embeddings) == contents
