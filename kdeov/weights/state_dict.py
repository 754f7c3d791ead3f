"""Reading and writing weight files. Nothing that a file holds is run.

open_clip has a reader too (`open_clip.factory.load_state_dict`), which refuses the TorchScript
archives in which OpenAI publishes CLIP and raises the error of whichever library failed.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from kdeov.errors import DataError, first_line
from kdeov.weights.folder import user_path

logger = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]
PLAIN = (
    "end pruning by torch.nn.utils.prune.remove, parametrizations by "
    "torch.nn.utils.parametrize.remove_parametrizations, and take off what wraps or replaces "
    "modules, such as DataParallel, adapters and quantization"
)
"""How a module gets back the tensors that a new one has."""


def read_state_dict(path: str | Path) -> StateDict:
    """Reads tensors from a safetensors file, a TorchScript archive or a `torch.save` file.

    Args:
        path: The file. `torch.save` files are read with `weights_only=True`: tensors in plain
            containers alone.

    Returns:
        Name to tensor, on the CPU, with the dtype of the file.

    Raises:
        DataError: The file is missing, damaged or holds something other than named tensors.
    """
    path = user_path(path)
    if not path.is_file():
        what = "a folder; name a weight file in it" if path.is_dir() else "no such weight file"
        raise DataError(f"{path}: {what}{'' if path.is_dir() else '; check the path'}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a readable weight file ({first_line(error)}); get it again"
        ) from error
    except (pickle.UnpicklingError, AttributeError, LookupError, TypeError) as error:
        # the library's own advice is to run what the file holds
        found = re.search(r"(?:GLOBAL |global:? )([\w.]+\.\w+)", str(error))
        reason = found[1] if found else type(error).__name__
        raise DataError(
            f"{path}: refused, for it holds more than tensors ({reason}); "
            "save its state_dict as safetensors and name that file"
        ) from error
    for name in ("state_dict", "model"):  # as open_clip, and as timm and DeiT save
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in loaded.items()
    ):
        raise DataError(
            f"{path}: holds no state dict (a mapping of names to tensors); save model.state_dict()"
        )
    return {plain_name(name.removeprefix("module.")): tensor for name, tensor in loaded.items()}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, the form in which OpenAI publishes CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def write_tensors(path: Path, state: StateDict) -> None:
    """Writes a safetensors file with the usual permissions; `save_file` of safetensors would let
    only the owner read it. Tensors of a compiled module get the names of the plain module, and
    tensors that share memory each get their own.
    """
    tensors = {plain_name(name): value.detach().cpu() for name, value in state.items()}
    own = torch.contiguous_format
    path.write_bytes(
        save({name: value.clone(memory_format=own) for name, value in tensors.items()})
    )


def plain_name(name: str) -> str:
    """The name of a tensor without the wrappers that torch.compile puts around modules."""
    return name.replace("_orig_mod.", "")


def half_where_exact(state: StateDict) -> StateDict:
    """Converts to float16 the tensors that float16 holds exactly, as it does most of CLIP's."""
    return {
        name: value.half()
        if value.dtype == torch.float32 and torch.equal(value.half().float(), value)
        else value
        for name, value in state.items()
    }


def state_dict_sha256(state: StateDict) -> str:
    """Digest of names, dtypes, shapes and values: one model has one digest in all file formats."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
