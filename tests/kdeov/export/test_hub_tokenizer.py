"""The tokenizer of an open_clip tower that comes from the transformers package."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdeov.export.text import write_text
from kdeov.runtime.card import HF_TOKENIZER
from kdeov.runtime.tokenizer import open_tokenizer
from kdeov.text.open_clip import OpenClipTextEncoder
from kdeov.text.tokenizer import OpenClipTokenizer
from kdeov.weights.towers import build_text_tower, tower_config

SPECIAL = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "<cls>", "sep": "<sep>"}
WORDS = [*SPECIAL.values(), "<s>", "a", "cat", "two", "dogs", "on", "beach"]
TEXTS = ["a cat", "Two DOGS on a beach!", "", "cat " * 40, "something else"]
TEXT = {
    "context_length": 12, "vocab_size": 64, "hf_tokenizer_name": "someone/tiny", "width": 64,
    "heads": 1, "layers": 1, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
}  # fmt: skip
VISION = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16}


@pytest.fixture(params=[{"clean": "canonicalize"}, {"strip_sep_token": True}, "clips"], ids=str)
def encoder(request, tmp_path):
    raw = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, "<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[(t, WORDS.index(t)) for t in ("<cls>", "<sep>")]
    )
    tokens = {f"{kind}_token": token for kind, token in SPECIAL.items()}
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", **tokens)
    fast.save_pretrained(tmp_path / "tokenizer")
    clips = request.param == "clips"
    options = {"tokenizer_mode": "clips"} if clips else {"tokenizer_kwargs": request.param}
    config = tower_config(
        {"embed_dim": 32, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT | options},
        "tiny",
    )
    torch.manual_seed(0)
    state = build_text_tower(config, "tiny").state_dict()
    return OpenClipTextEncoder(
        config,
        {**{f"text.{name}": value for name, value in state.items()}, "logit_scale": torch.ones([])},
        OpenClipTokenizer(config["text_cfg"], tmp_path / "tokenizer"),
        "tiny",
    )


@pytest.mark.slow
def test_the_exported_tokenizer_gives_the_tokens_of_the_tower(encoder, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    encoder.tokenize(TEXTS)  # its files must not hold the cuts and paddings of a call
    card, parity, golden = write_text(folder, encoder)
    tokenizer = open_tokenizer(folder / HF_TOKENIZER, card.tokenizer)
    assert tokenizer(TEXTS).tolist() == encoder.tokenize(TEXTS).tolist()
    assert tokenizer(list(golden["texts"])).tolist() == golden["tokens"].tolist()
    assert parity.cosine >= 0.9999
    assert {path.name for path in folder.iterdir()} == {"text.onnx", "tokenizer.json"}
