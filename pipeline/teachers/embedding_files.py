"""Reading embeddings from `.npy`, `.safetensors` or `.pt` files, whole or in numbered parts."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from kdeov.errors import DataError

SUFFIXES = (".npy", ".safetensors", ".pt")
MAX_NORM = 1e3  # no embedding is longer, and the sum of squares cannot overflow


def numbered_files(folder: Path, pattern: str, option: str) -> dict[str, Path]:
    """Finds the files of a pattern, `part_2` before `part_10`.

    Args:
        folder: Folder of the files.
        pattern: A name, or a pattern with `*`, within the folder.
        option: The key of `params.yaml` that holds the pattern, for errors.

    Returns:
        The files in order, by the parts of their names that the `*` matched.

    Raises:
        DataError: No file matches.
    """
    found = {
        path.relative_to(folder).as_posix(): path for path in folder.glob(pattern) if path.is_file()
    }
    if not found:
        raise DataError(f"{folder / pattern}: no such file; check {option}")
    stars = re.compile(re.escape(pattern).replace(r"\*", "(.*)"))
    names = sorted(found, key=lambda name: [_number(part) for part in re.split(r"(\d+)", name)])
    matches = {name: stars.fullmatch(name) for name in names}
    return {" ".join(m.groups()) if m else name: found[name] for name, m in matches.items()}


def read_embeddings(path: Path) -> np.ndarray:
    """Reads the embeddings of one file, mapped into memory where its format allows it.

    Args:
        path: A `.npy` array, or a `.safetensors` or `.pt` file that holds a single tensor.

    Returns:
        [N, D] floating-point numbers.

    Raises:
        DataError: The file is missing, damaged, holds something else, or could run code.
    """
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt}
    if path.suffix not in readers:
        raise DataError(f"{path}: embeddings are read from {', '.join(SUFFIXES)}; convert it")
    try:
        embeddings = readers[path.suffix](path)
    except (
        OSError, ValueError, EOFError, RuntimeError, TypeError, AttributeError, SafetensorError,
    ) as error:  # fmt: skip
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or not embeddings.size:
        raise DataError(
            f"{path}: holds {embeddings.dtype} {list(embeddings.shape)}; save "
            "floating-point numbers [embeddings, dimensions]"
        )
    return embeddings


def unit_rows(embeddings: np.ndarray, where: object) -> Iterator[np.ndarray]:
    """Normalizes rows to float16 unit embeddings, in blocks of 8192 rows.

    Args:
        embeddings: [N, D].
        where: The file or part, for errors.

    Raises:
        DataError: Rows are zero, not finite or longer than `MAX_NORM`; counts them and names the
            first.
    """
    wrong: list[int] = []
    for first in range(0, len(embeddings), 8192):
        block = np.asarray(embeddings[first : first + 8192], dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(block, axis=1, keepdims=True)
        good = (lengths > 0) & (lengths < MAX_NORM)
        wrong += (first + np.flatnonzero(~good)).tolist()
        yield (block / np.where(good, lengths, 1)).astype(np.float16)
    if wrong:
        raise DataError(
            f"{where}: {len(wrong)} of {len(embeddings)} embeddings are zero, not finite or longer "
            f"than {MAX_NORM:g}, the first in row {wrong[0]}; compute them again"
        )


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_safetensors(path: Path) -> np.ndarray:
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} tensors; save the embeddings alone")
        return _numpy(file.get_tensor(names[0]))


def _read_pt(path: Path) -> np.ndarray:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError, LookupError, TypeError) as error:
        raise ValueError("refused, for it holds more than a tensor; save the tensor") from error
    if isinstance(loaded, dict) and len(loaded) == 1:
        (loaded,) = loaded.values()
    if not isinstance(loaded, torch.Tensor):
        raise ValueError(f"it holds {type(loaded).__name__} and no single tensor")
    return _numpy(loaded)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)
