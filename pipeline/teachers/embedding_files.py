"""Vectors as others store them: `.npy`, `.safetensors` or `.pt`, in one file or numbered parts."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from kdeov.errors import KdeovError

SUFFIXES = (".npy", ".safetensors", ".pt")
LARGEST = 1e3  # no embedding is longer; a sum of so many squares cannot overflow


def numbered_files(folder: Path, pattern: str, option: str) -> dict[str, Path]:
    """The files of a pattern by what its `*` stand for, `part_2` before `part_10`.

    Args:
        folder: Where they are.
        pattern: A name, or a pattern with `*`, within the folder.
        option: The key of `params.yaml` that gives it.

    Raises:
        KdeovError: There is none.
    """
    found = {
        path.relative_to(folder).as_posix(): path for path in folder.glob(pattern) if path.is_file()
    }
    if not found:
        raise KdeovError(f"{folder / pattern}: no such file; check {option}")
    stars = re.compile(re.escape(pattern).replace(r"\*", "(.*)"))
    names = sorted(found, key=lambda name: [_number(part) for part in re.split(r"(\d+)", name)])
    matches = {name: stars.fullmatch(name) for name in names}
    return {" ".join(m.groups()) if m else name: found[name] for name, m in matches.items()}


def read_vectors(path: Path) -> np.ndarray:
    """The vectors of one file, mapped into memory where its format allows it.

    Args:
        path: A `.npy` array, or a `.safetensors` or `.pt` file that holds a single tensor.

    Returns:
        [N, D] floating-point numbers.

    Raises:
        KdeovError: The file is missing, damaged, holds something else, or could run code.
    """
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt}
    if path.suffix not in readers:
        raise KdeovError(f"{path}: vectors are read from {', '.join(SUFFIXES)}; convert it")
    try:
        vectors = readers[path.suffix](path)
    except (
        OSError, ValueError, EOFError, RuntimeError, TypeError, AttributeError, SafetensorError,
    ) as error:  # fmt: skip
        raise KdeovError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.size:
        raise KdeovError(
            f"{path}: holds {vectors.dtype} {list(vectors.shape)}; save floating-point numbers "
            "[vectors, dimensions]"
        )
    return vectors


def unit_rows(vectors: np.ndarray, where: object) -> Iterator[np.ndarray]:
    """The rows as float16 unit vectors, some thousands at a time.

    Args:
        vectors: [N, D].
        where: What errors call them.

    Raises:
        KdeovError: Rows are zero, not finite, or far too long for embeddings; counts them and names
            the first.
    """
    wrong: list[int] = []
    for first in range(0, len(vectors), 8192):
        block = np.asarray(vectors[first : first + 8192], dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(block, axis=1, keepdims=True)
        good = (lengths > 0) & (lengths < LARGEST)
        wrong += (first + np.flatnonzero(~good)).tolist()
        yield (block / np.where(good, lengths, 1)).astype(np.float16)
    if wrong:
        raise KdeovError(
            f"{where}: {len(wrong)} of {len(vectors)} vectors are zero, not finite or longer than "
            f"{LARGEST:g}, the first in row {wrong[0]}; compute them again"
        )


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_safetensors(path: Path) -> np.ndarray:
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} tensors; save the vectors alone")
        return _numpy(file.get_tensor(names[0]))


def _read_pt(path: Path) -> np.ndarray:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError, LookupError, TypeError) as error:
        raise ValueError("refused, since it holds more than a tensor; save the tensor") from error
    if isinstance(loaded, dict) and len(loaded) == 1:
        (loaded,) = loaded.values()
    if not isinstance(loaded, torch.Tensor):
        raise ValueError(f"it holds {type(loaded).__name__} and no single tensor")
    return _numpy(loaded)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)
