"""Zero-shot classifier weights, cached in files named after all that they are computed from.

The text tower of CLIP takes hours on a CPU for a thousand classes in eighty prompts.
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

FORMAT = 2
TENSOR_KEY, METADATA_KEY = "weights", "identity"


def zero_shot_weights(
    encoder: TextEncoder, names: Sequence[str], prompts: Sequence[str], folder: Path
) -> Tensor:
    """Computes classifier weights by prompt ensembling (CLIP, arXiv:2103.00020, section 3.1.4), or
    reads them from the cache.

    Args:
        encoder: Text encoder. The cache serves text towers alone; a table of precomputed
            embeddings is fast enough.
        names: K class names.
        prompts: Templates with `{}` for the class name.
        folder: The cache. A damaged or foreign file is computed again.

    Returns:
        [K, D] unit weights on the CPU, one row a class.

    Raises:
        KdeovError: The encoder cannot embed one of the texts.
    """
    if not isinstance(encoder, TextTower):
        return encoder.class_embeddings(names, prompts).cpu()
    identity = _identity(encoder, names, prompts)
    path = folder / f"{identity[:16]}.safetensors"
    label = f"zero-shot weights of {len(names)} classes x {len(prompts)} prompts"
    cached = _read(path, identity, (len(names), encoder.embed_dim))
    if cached is not None:
        logger.info("%s: read from %s", label, path)
        return cached
    weights = encoder.class_embeddings(names, prompts).cpu().contiguous()
    with writing(path) as file:
        file.write(save({TENSOR_KEY: weights}, metadata={METADATA_KEY: _mark(identity, weights)}))
    logger.info("%s: written to %s", label, path)
    return weights


def _identity(encoder: TextTower, names: Sequence[str], prompts: Sequence[str]) -> str:
    """Digest of the encoder's tensors, the names, the prompts and their tokens."""
    tokens = encoder.tokenize([*names, *prompts]).cpu().numpy()
    return digest(
        {
            "format": FORMAT,
            "encoder": type(encoder).__name__,
            # equal tensors give other embeddings with another activation function
            "architecture": encoder.architecture,
            "tensors": state_dict_sha256(encoder.state_dict()),
            "tokens": hashlib.sha256(tokens.tobytes()).hexdigest(),
            "names": list(names),
            "prompts": list(prompts),
        }
    )


def _read(path: Path, identity: str, shape: tuple[int, int]) -> Tensor | None:
    """Cached weights; None if the file is missing, damaged or belongs to another identity."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = file.get_tensor(TENSOR_KEY)
    except (SafetensorError, OSError) as error:
        logger.warning("%s: not zero-shot weights (%s); computing them again", path, error)
        return None
    if weights.shape != shape or metadata.get(METADATA_KEY) != _mark(identity, weights):
        logger.warning("%s: damaged, or weights of other classes; computing them again", path)
        return None
    return weights


def _mark(identity: str, weights: Tensor) -> str:
    """The file's metadata: a single entry, since safetensors orders several at random."""
    return f"{identity} {state_dict_sha256({TENSOR_KEY: weights})}"
