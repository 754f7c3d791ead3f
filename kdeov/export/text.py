"""The text side of an export: a tower as `text.onnx` with its tokenizer, or a table of texts."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kdeov.errors import ConfigError
from kdeov.export.graphs import TextGraph
from kdeov.export.noise import quietly
from kdeov.export.onnx import Session, to_onnx, without_traces
from kdeov.export.parity import Arrays, Parity, require_parity
from kdeov.runtime.card import (
    BPE,
    HF,
    HF_TOKENIZER,
    OPEN_CLIP_SPECIAL_TOKENS,
    TABLE,
    TABLE_EMBEDDINGS,
    TABLE_TEXTS,
    TEXT,
    TOWER,
    TextCard,
    TokenizerCard,
)
from kdeov.text.base import TextEncoder, TextTower
from kdeov.text.clip import FrozenCLIPTextEncoder
from kdeov.text.open_clip import OpenClipTextEncoder
from kdeov.text.table import PrecomputedTextEncoder
from kdeov.weights.clip import import_clip
from kdeov.weights.digests import digest
from kdeov.weights.state_dict import state_dict_sha256

PROBES = (
    "a photo of a cat", "Two DOGS,  on a beach at 10:30!", "it's naïve: café 猫 Straße ½",
    "&amp;amp; <b>_tag_</b> 123456789", "a " + "very " * 90 + "long text", "a",
)  # fmt: skip
"""Texts whose embeddings are compared and kept as golden ones; the long one is cut."""
HALF_SIZE = 256  # smallest number of weights in a tensor that is stored as float16


def write_text(folder: Path, encoder: TextEncoder) -> tuple[TextCard, Parity | None, Arrays]:
    """Writes the text files of an export.

    Args:
        folder: It exists.
        encoder: A tower or a table, on the CPU in float32.

    Returns:
        Its part of the card; parity and golden arrays of a tower (None and none for a table).

    Raises:
        ConfigError: The encoder is of a kind that has no files.
        DataError: The tower cannot be exported, or its file differs from PyTorch.
    """
    space, scale = text_space(encoder), float(encoder.logit_scale.detach().double().exp())
    if isinstance(encoder, PrecomputedTextEncoder):
        texts = json.dumps(encoder.texts, indent=1, ensure_ascii=False)
        (folder / TABLE_TEXTS).write_text(f"{texts}\n", encoding="utf-8")
        unit = F.normalize(encoder.embeddings, dim=-1).numpy()
        np.save(folder / TABLE_EMBEDDINGS, unit.astype(np.float32), allow_pickle=False)
        return TextCard(TABLE, space, round(scale, 6)), None, {}
    if not isinstance(encoder, TextTower):
        raise ConfigError(
            f"texts of {type(encoder).__name__} cannot be exported; use a tower or a table"
        )
    tokenizer = _write_tokenizer(folder, encoder)
    parity, golden = _write_tower(folder, encoder)
    return TextCard(TOWER, space, round(scale, 6), tokenizer), parity, golden


def text_space(encoder: TextEncoder) -> str:
    """Digest of all that a text's embedding depends on: architecture, tokenizer, tensors."""
    parts: dict[str, Any] = {
        "kind": type(encoder).__name__,
        "tensors": state_dict_sha256(encoder.state_dict()),
    }
    if isinstance(encoder, PrecomputedTextEncoder):
        parts["texts"] = encoder.texts
    if isinstance(encoder, TextTower):
        parts["architecture"] = encoder.architecture
        parts["context_length"] = encoder.context_length
    if isinstance(encoder, OpenClipTextEncoder):
        parts["tokenizer"] = encoder.tokenizer_digest()
    return digest(parts)


def _write_tower(folder: Path, encoder: TextTower) -> tuple[Parity, Arrays]:
    with quietly(TEXT):  # one of them is cut
        tokens = encoder.tokenize(PROBES).long()
    graph, batch = TextGraph(encoder).eval(), torch.export.Dim("n", min=1)
    model = to_onnx(graph, {"tokens": tokens[:3]}, ["text_embedding"], [{0: batch}], TEXT)
    model = halve_weights(model)
    (folder / TEXT).write_bytes(model)

    def expected(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            return {"text_embedding": graph(torch.from_numpy(arrays["tokens"])).numpy()}

    batches = [{"tokens": tokens[start:].numpy()} for start in (0, len(tokens) - 1)]
    # the weights have half the digits
    parity = require_parity(TEXT, Session(model), expected, batches, max_abs=None)
    return parity, {"texts": np.array(PROBES), "tokens": tokens.numpy(), **expected(batches[0])}


def halve_weights(model: bytes) -> bytes:
    """Stores the large float32 tensors of an ONNX model as float16; they are converted back when it
    is loaded. Weights that were published in half precision, as most of CLIP's, lose nothing.

    Args:
        model: Serialized, and so is the result.
    """
    import onnx

    proto = onnx.load_from_string(model)
    casts = []
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        exceeds = np.isfinite(values) & ~np.isfinite(half)
        if values.dtype != np.float32 or values.size < HALF_SIZE or exceeds.any():
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=1)
        )
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    without_traces(proto)
    return proto.SerializeToString(deterministic=True)


def _write_tokenizer(folder: Path, encoder: TextTower) -> TokenizerCard:
    if isinstance(encoder, FrozenCLIPTextEncoder):
        shutil.copyfile(_clip_vocabulary(), folder / BPE)
        return TokenizerCard(context_length=encoder.context_length)
    if not isinstance(encoder, OpenClipTextEncoder):
        raise ConfigError(
            f"the tokenizer of {type(encoder).__name__} cannot be exported; use CLIP or open_clip"
        )
    section = encoder.config["text_cfg"]
    options: Mapping[str, Any] = section.get("tokenizer_kwargs") or {}
    if not encoder.tokenizer.needs_files:
        shutil.copyfile(_clip_vocabulary(), folder / BPE)
        return TokenizerCard(
            context_length=encoder.context_length,
            clean=options.get("clean", "lower"),
            special_tokens=(
                *OPEN_CLIP_SPECIAL_TOKENS,
                *(options.get("additional_special_tokens") or ()),
            ),
        )
    with tempfile.TemporaryDirectory() as saved:
        encoder.tokenizer.save(saved)
        shutil.copyfile(Path(saved) / "tokenizer.json", folder / HF_TOKENIZER)
        ids, sides = _hub_settings(Path(saved))
    return TokenizerCard(
        kind=HF,
        context_length=encoder.context_length,
        clean=options.get("clean", "whitespace"),
        special_tokens=(),
        mode=section.get("tokenizer_mode") or "",
        strip_sep_token=bool(options.get("strip_sep_token")),
        ids=ids,
        **sides,
    )


def _hub_settings(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Numbers of the special tokens, and sides of padding and truncation, of a saved tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    found = {
        name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "sep", "bos", "eos", "cls")
    }
    sides = {name: getattr(tokenizer, name) for name in ("padding_side", "truncation_side")}
    return {name: number for name, number in found.items() if number is not None}, sides


def _clip_vocabulary() -> Path:
    """The byte pairs of CLIP, of which open_clip has a copy."""
    return Path(import_clip().__file__).with_name(BPE)
