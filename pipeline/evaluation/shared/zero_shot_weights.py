"""Text heads, the class vectors of zero-shot classification, kept by what they follow from: a
thousand classes in eighty prompts take a text tower of CLIP hours on a CPU.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdeov.text.base import TextEncoder, TextTower
from kdeov.weights.state_dict import state_dict_sha256
from pipeline.storage.files import digest, writing

logger = logging.getLogger(__name__)

FORMAT = 1
VECTORS, HEAD = "vectors", "head"


def class_embeddings(
    encoder: TextEncoder, names: Sequence[str], prompts: Sequence[str], folder: Path
) -> Tensor:
    """Class vectors [K, D] on the CPU, from an earlier run where there was one.

    Args:
        encoder: Of texts; one that looks its texts up is asked each time.
        names: K class names.
        prompts: Templates.
        folder: Where heads are kept; a file that is damaged or no such head is made again.

    Raises:
        KdeovError: The encoder does not know a text.
    """
    if not isinstance(encoder, TextTower):
        return encoder.class_embeddings(names, prompts).cpu()
    identity = _identity(encoder, names, prompts)
    path = folder / f"{identity[:16]}.safetensors"
    what = f"text head of {len(names)} classes x {len(prompts)} prompts"
    kept = _read(path, identity, (len(names), encoder.embed_dim))
    if kept is not None:
        logger.info("%s: found in %s", what, path)
        return kept
    vectors = encoder.class_embeddings(names, prompts).cpu().contiguous()
    with writing(path) as file:
        file.write(save({VECTORS: vectors}, metadata={HEAD: _mark(identity, vectors)}))
    logger.info("%s: kept in %s", what, path)
    return vectors


def _identity(encoder: TextTower, names: Sequence[str], prompts: Sequence[str]) -> str:
    """A digest of the encoder's tensors, of names and prompts, and of what its tokenizer makes of
    them.
    """
    tokens = encoder.tokenize([*names, *prompts]).cpu().numpy()
    return digest(
        {
            "format": FORMAT,
            "encoder": type(encoder).__name__,
            # the same tensors mean something else with another activation
            "architecture": encoder.architecture,
            "tensors": state_dict_sha256(encoder.state_dict()),
            "tokens": hashlib.sha256(tokens.tobytes()).hexdigest(),
            "names": list(names),
            "prompts": list(prompts),
        }
    )


def _read(path: Path, identity: str, shape: tuple[int, int]) -> Tensor | None:
    """A kept head, or None where the file is not what was kept under its name."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            vectors = file.get_tensor(VECTORS)
    except (SafetensorError, OSError) as error:
        logger.warning("%s: not a text head (%s); it is made again", path, error)
        return None
    if vectors.shape != shape or metadata.get(HEAD) != _mark(identity, vectors):
        logger.warning("%s: damaged, or another text head; it is made again", path)
        return None
    return vectors


def _mark(identity: str, vectors: Tensor) -> str:
    """What a file says of itself; one entry, since safetensors orders several at random."""
    return f"{identity} {state_dict_sha256({VECTORS: vectors})}"
