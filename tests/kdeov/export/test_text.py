"""The text side of an export against the text encoder."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdeov.errors import ConfigError
from kdeov.export.onnx import Session
from kdeov.export.text import halve_weights, text_space, write_text
from kdeov.runtime.card import BPE, HF_TOKENIZER
from kdeov.text.base import TextEncoder
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.text.open_clip import OpenClipTextEncoder
from kdeov.text.table import PrecomputedTextEncoder
from kdeov.text.tokenizer import OpenClipTokenizer
from kdeov.weights.towers import tower_config
from tests.helpers.exported import TABLE_TEXTS

TEXTS = ["a dog", "Zwei Hunde &amp; 3 猫", "very " * 100, "", "a red ball on a beach"]


@pytest.fixture
def encoder_of(open_clip, open_clip_models):
    """Makes the text tower of one of `OPEN_CLIP`'s architectures."""

    def build(name: str) -> OpenClipTextEncoder:
        config = tower_config(open_clip.get_model_config(name), name)
        state = open_clip_models(name).state_dict()
        wanted = ("logit_scale", "logit_bias", "text.")
        if not any(key.startswith("text.") for key in state):  # of plain CLIPs
            state = {
                key if key == "logit_scale" else f"text.{key}": value
                for key, value in state.items()
                if not key.startswith("visual.")
            }
        kept = {key: value for key, value in state.items() if key.startswith(wanted)}
        return OpenClipTextEncoder(config, kept, OpenClipTokenizer(config["text_cfg"]), name)

    return build


def check(folder, encoder):
    """Compares `text.onnx` with the encoder, for a number of texts that the export did not see."""
    tokens = encoder.tokenize(TEXTS).long()
    found = Session((folder / "text.onnx").read_bytes())({"tokens": tokens.numpy()})
    expected = F.normalize(encoder(tokens), dim=-1)
    cosines = (torch.from_numpy(found["text_embedding"]) * expected).sum(dim=-1)
    assert cosines.min() >= 0.9999
    return found["text_embedding"], expected.numpy()


def test_the_text_file_embeds_as_the_tower_does(yolo):
    check(yolo.folder, yolo.model.text_encoder)
    assert yolo.card.text.logit_scale == pytest.approx(yolo.model.text_encoder.logit_scale.exp())


@pytest.mark.slow
def test_weights_take_half_the_bytes_and_those_of_half_precision_stay(tmp_path, tiny_clips):
    state = {name: value.half() for name, value in tiny_clips["vit"].state_dict().items()}
    encoder = FrozenCLIPTextEncoder.from_state_dict(state)
    write_text(tmp_path, encoder)
    found, expected = check(tmp_path, encoder)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert (tmp_path / "text.onnx").stat().st_size < 2.1 * parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-vit-quickgelu", "tiny-siglip", "tiny-mobileclip"])
def test_towers_of_open_clip_are_exported(tmp_path, encoder_of, name):
    encoder = encoder_of(name)
    card, _, golden = write_text(tmp_path, encoder)
    check(tmp_path, encoder)
    assert card.tokenizer.kind == "clip-bpe" and (tmp_path / BPE).is_file()
    assert card.tokenizer.special_tokens == ("<start_of_text>", "<end_of_text>")
    assert card.tokenizer.clean == ("canonicalize" if name == "tiny-siglip" else "lower")
    assert (golden["tokens"] == encoder.tokenize(list(golden["texts"])).numpy()).all()


def test_a_table_is_written_as_texts_and_unit_embeddings(timm):
    texts = json.loads(timm.read("texts.json"))
    embeddings = np.load(timm.folder / "texts.npy", allow_pickle=False)
    assert texts == list(TABLE_TEXTS)
    expected = timm.model.encode_text(texts).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    assert embeddings.dtype == np.float32
    assert (timm.card.text.kind, timm.card.text.tokenizer) == ("table", None)


def test_encoders_share_a_space_if_their_embeddings_are_equal(clip_files, tmp_path):
    encoder = FrozenCLIPTextEncoder(clip_files["vit"])
    encoder.save(tmp_path)
    space = text_space(encoder)
    assert text_space(FrozenCLIPTextEncoder.load(tmp_path)) == space
    assert text_space(FrozenCLIPTextEncoder(clip_files["resnet"])) != space


def test_tables_of_other_texts_are_other_spaces():
    embeddings = torch.eye(2)
    spaces = {text_space(PrecomputedTextEncoder(t, embeddings)) for t in (["a", "b"], ["a", "c"])}
    assert len(spaces) == 2


def test_towers_that_differ_in_their_activation_are_other_spaces(encoder_of):
    plain, quick = encoder_of("tiny-vit"), encoder_of("tiny-vit-quickgelu")
    quick.load_state_dict(plain.state_dict())
    assert text_space(plain) != text_space(quick)


def test_weights_beyond_the_range_of_half_precision_stay():
    values = np.full((32, 32), 1e6, np.float32)
    weight = onnx.numpy_helper.from_array(values, "weight")
    io = [onnx.helper.make_tensor_value_info(name, 1, ["n", 32]) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = onnx.helper.make_graph([node], "g", io[:1], io[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 10
    outputs = Session(halve_weights(model.SerializeToString()))({"x": np.eye(32, dtype=np.float32)})
    assert (outputs["y"] == 1e6).all()


def test_a_text_encoder_without_files_is_refused(tmp_path):
    class Other(TextEncoder):
        embed_dim = 4
        logit_scale = nn.Parameter(torch.zeros([]))

        def forward(self, texts):
            return torch.ones(len(texts), 4)

        def save(self, folder): ...

        @classmethod
        def load(cls, folder): ...

    with pytest.raises(ConfigError, match="Other"):
        write_text(tmp_path, Other())
    assert not (tmp_path / HF_TOKENIZER).exists()
