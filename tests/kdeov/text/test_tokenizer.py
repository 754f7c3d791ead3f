"""Teachers of open_clip whose tokenizer is one of the transformers package (SigLIP, CLIPA)."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdeov.teachers.open_clip import OpenClipTeacher
from kdeov.text.open_clip import OpenClipTextEncoder
from tests.helpers.damage import flips

WORDS = ["a", "cat", "two", "dogs", "on", "beach", "word", "traffic", "light", "at", "night"]
TEXTS = ["a cat", "two dogs on a beach", "", "Traffic light, at night!"]
TEXT = {
    "context_length": 16, "vocab_size": 64, "hf_tokenizer_name": "someone/tiny", "width": 64,
    "heads": 1, "layers": 1, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
}  # fmt: skip
VISION = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16}
KINDS = {
    "siglip": {"tokenizer_kwargs": {"clean": "canonicalize"}},
    "clipa": {"tokenizer_kwargs": {"strip_sep_token": True}},
    "clips": {"tokenizer_mode": "clips"},
}


def write_tokenizer(folder, kind):
    """Unigrams as SigLIP's, where pad and end are one token, or words as BERT's."""
    special = ["<pad>", "</s>", "<unk>", "<s>", "<cls>", "<sep>"]
    if kind == "siglip":
        pieces = special + ["▁" + word for word in WORDS] + list("abcdefghijklmnopqrstuvwxyz▁")
        raw = Tokenizer(models.Unigram([(p, -float(n)) for n, p in enumerate(pieces)], unk_id=2))
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        ends, pad = "$A </s>", "</s>"
    else:
        raw = Tokenizer(models.WordLevel({w: n for n, w in enumerate(special + WORDS)}, "<unk>"))
        raw.normalizer = normalizers.Lowercase()
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        ends, pad = "<cls> $A <sep>", "<pad>"
    raw.post_processor = processors.TemplateProcessing(
        single=ends, special_tokens=[(t, special.index(t)) for t in ("</s>", "<cls>", "<sep>")]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=pad, eos_token="</s>", unk_token="<unk>",
        bos_token="<s>", cls_token="<cls>", sep_token="<sep>",
    ).save_pretrained(folder)  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def weights(open_clip, kind, tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    config = {
        "embed_dim": 32, "custom_text": True, "vision_cfg": VISION,
        "text_cfg": {**TEXT, **KINDS[kind]},
    }  # fmt: skip
    (configs / f"tiny-hf-{kind}.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(configs)
    torch.manual_seed(0)
    model = open_clip.create_model(f"tiny-hf-{kind}", load_weights=False)
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(model.state_dict(), folder / "weights.safetensors")
    write_tokenizer(folder, kind)
    return folder / "weights.safetensors"


def test_tokenizer_beside_the_weights_is_kept_without_a_network(open_clip, kind, weights, tmp_path):
    teacher = OpenClipTeacher.load(f"tiny-hf-{kind}", weights)
    assert teacher.text.tokenizer_digest().startswith("someone/tiny-")
    expected = open_clip.tokenizer.HFTokenizer(
        str(weights.parent), context_length=16, tokenizer_mode=KINDS[kind].get("tokenizer_mode"),
        **KINDS[kind].get("tokenizer_kwargs", {}),
    )(TEXTS)  # fmt: skip
    assert torch.equal(teacher.text.tokenize(TEXTS), expected)
    teacher.save(tmp_path / "teacher")
    teacher.text.save(tmp_path / "text")
    for again in (
        OpenClipTeacher.open(tmp_path / "teacher").text,
        OpenClipTextEncoder.load(tmp_path / "text"),
    ):
        assert torch.equal(again.tokenize(TEXTS), expected)
        assert torch.equal(again(TEXTS), teacher.encode_text(TEXTS))
        assert again.tokenizer_digest() == teacher.text.tokenizer_digest()
    twice = OpenClipTeacher.open(tmp_path / "teacher")
    twice.encode_text(TEXTS)
    twice.save(tmp_path / "twice")
    for file in (tmp_path / "teacher").iterdir():
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes(), file.name
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'teacher'}")
    assert torch.equal(theirs(TEXTS), expected)


def test_long_texts_are_cut_with_one_warning(kind, weights, caplog):
    encoder = OpenClipTeacher.load(f"tiny-hf-{kind}", weights).text
    ends = {"siglip": 1, "clipa": 2, "clips": 3}[kind]
    whole = " ".join(["cat"] * (16 - ends))
    with caplog.at_level(logging.WARNING):
        encoder([*TEXTS, whole, whole[4:]])
        assert caplog.messages == []
        same = encoder([whole + " word", whole + " cat cat"])
        encoder([whole + " word"])
    assert len(caplog.messages) == 1 and "16 tokens" in caplog.text
    torch.testing.assert_close(same, same[:1].expand(2, -1))


def test_another_tokenizer_is_refused(kind, weights, tmp_path, mistake):
    OpenClipTeacher.load(f"tiny-hf-{kind}", weights).save(tmp_path / "teacher")
    write_tokenizer(tmp_path / "teacher", "clipa" if kind == "siglip" else "siglip")
    with mistake(tmp_path / "teacher", "tokenizer"):
        OpenClipTeacher.open(tmp_path / "teacher")


def test_a_tokenizer_that_brings_code_is_refused(kind, weights, tmp_path, mistake):
    path = weights.parent / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoTokenizer": [None, "code.Tokenizer"]}
    config["tokenizer_class"] = "Tokenizer"
    path.write_text(json.dumps(config), encoding="utf-8")
    (weights.parent / "code.py").write_text("open('ran', 'w')\n", encoding="utf-8")
    with mistake("someone/tiny", weights.parent):
        OpenClipTeacher.load(f"tiny-hf-{kind}", weights)


def test_a_missing_tokenizer_is_reported_at_once(
    kind, weights, monkeypatch, tmp_path, mistake, caplog
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (weights.parent / name).unlink()
    with mistake("someone/tiny", "tokenizer_config.json"):
        OpenClipTeacher.load(f"tiny-hf-{kind}", weights, cache_dir=tmp_path)
    assert "Retry" not in caplog.text


def test_a_flipped_bit_of_any_file_of_a_teacher_is_reported(kind, weights, tmp_path, mistake):
    folder = tmp_path / "teacher"
    OpenClipTeacher.load(f"tiny-hf-{kind}", weights).save(folder)
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in folder.iterdir()}
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for damaged in [b"", whole[: len(whole) // 2], *flips(whole, 6, seed=4)]:
            path.write_bytes(damaged)
            with mistake(path, "again"):
                OpenClipTeacher.open(folder)
        path.write_bytes(whole)
    OpenClipTeacher.open(folder)
