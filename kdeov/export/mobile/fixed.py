"""The image graph for one image of the student's size, in the forms that converters take."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import DataError, first_line
from kdeov.export.noise import quietly
from kdeov.export.onnx import require_packages, to_onnx
from kdeov.runtime.card import IMAGE, PROGRAM, read_card, require_file
from kdeov.weights.folder import user_path
from kdeov.weights.state_dict import state_dict_sha256

if TYPE_CHECKING:
    from kdeov.models.model import KDEOVModel

COUNT = 4  # images on which a file is compared


@dataclass(frozen=True)
class FixedImage:
    """A student's image side for batches of one image.

    Attributes:
        module: From pixels [1, 3, S, S] of 0 to 255, uint8 or float32, to unit embeddings [1, D].
        preprocessing: `size` S, `interpolation` and `crop` of the `ImageTransform` before it.
        embed: PyTorch's unit embedding [1, D] of pixels uint8 [1, 3, S, S].
        onnx: Makes the graph as a serialized ONNX model; its sizes may be free.
    """

    module: nn.Module
    preprocessing: Mapping[str, Any]
    embed: Callable[[np.ndarray], np.ndarray]
    onnx: Callable[[], bytes]

    @classmethod
    def from_model(cls, model: KDEOVModel) -> FixedImage:
        """The image side of a student, which stays as it is."""
        # a converter's environment reads exports and may have none of the packages of models
        from kdeov.export.graphs import ImageGraph
        from kdeov.export.images import Reference

        student = copy.deepcopy(model.student).cpu().float().eval()
        reference, size = Reference(student, model.transform), model.transform.size
        graph = _padded(ImageGraph(student, model.transform), size, student.backbone.strides[-1])
        return cls(
            graph,
            _preprocessing(model.transform.to_dict()),
            lambda pixels: reference.embedding({"pixels": pixels})["embedding"],
            lambda: _to_onnx(graph, size),
        )

    @classmethod
    def from_export(cls, folder: str | Path) -> FixedImage:
        """The image side of an export folder: its `image.pt2` and `image.onnx`.

        Raises:
            DataError: A file is missing or damaged, or this PyTorch cannot read it.
        """
        folder = user_path(folder)
        card = read_card(folder)
        path = require_file(folder, card, PROGRAM)
        try:
            with quietly(PROGRAM):
                module = torch.export.load(path).module(check_guards=False)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataError(
                f"{path}: PyTorch {torch.__version__} cannot read it ({first_line(error)}); "
                "install the version of the export"
            ) from error
        _without_dtype_checks(module)
        size = card.transform["size"]
        graph = _padded(module, size, card.stride)

        @torch.no_grad()
        def embed(pixels: np.ndarray) -> np.ndarray:
            return graph(torch.from_numpy(pixels)).numpy()

        def onnx() -> bytes:
            if graph is not module:
                return _to_onnx(graph, size)
            return require_file(folder, card, IMAGE).read_bytes()

        return cls(graph, _preprocessing(card.transform), embed, onnx)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixels: (1, 3, S, S)."""
        return _shape(self.preprocessing["size"])

    @property
    def weights(self) -> str:
        """Digest of the weights: files of equal digests go together."""
        return state_dict_sha256(self.module.state_dict())

    def example(self, dtype: torch.dtype = torch.uint8) -> Tensor:
        """Zeros [1, 3, S, S]."""
        return torch.zeros(self.shape, dtype=dtype)

    def program(self, dtype: torch.dtype = torch.uint8) -> torch.export.ExportedProgram:
        """The graph as a program of `torch.export` whose pixels have a dtype."""
        with torch.no_grad():
            return torch.export.export(self.module, (self.example(dtype),))

    def pixels(self) -> list[np.ndarray]:
        """Drawn images uint8 [1, 3, S, S], `COUNT` of them, on which a file is compared."""
        from kdeov.export.images import smooth_pixels

        size = self.preprocessing["size"]
        return [smooth_pixels(1, size, size, seed=seed) for seed in range(COUNT)]


class _Padded(nn.Module):
    """A graph of multiples of a stride, for images of a size that is none: the right and lower
    edges are repeated, as the backbone does.
    """

    def __init__(self, graph: nn.Module, extra: int) -> None:
        super().__init__()
        self.inner, self.extra = graph, extra  # `graph` is taken in modules of torch.fx
        self.training = False  # a module of a program takes no `eval`

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, S, S] to unit embeddings [1, D]."""
        return self.inner(F.pad(pixels.float(), (0, self.extra, 0, self.extra), mode="replicate"))


def _padded(graph: nn.Module, size: int, stride: int) -> nn.Module:
    extra = -size % stride
    return _Padded(graph, extra) if extra else graph


def _to_onnx(graph: nn.Module, size: int) -> bytes:
    require_packages()
    pixels = torch.zeros(_shape(size), dtype=torch.uint8)
    return to_onnx(graph, {"pixels": pixels}, ["embedding"], [{}], IMAGE)


def _shape(size: int) -> tuple[int, int, int, int]:
    return 1, 3, size, size


def _preprocessing(transform: Mapping[str, Any]) -> dict[str, Any]:
    return {key: transform[key] for key in ("size", "interpolation", "crop")}


def _without_dtype_checks(module: torch.fx.GraphModule) -> None:
    """Removes the checks that pixels are uint8, in place: CoreML takes none."""
    check = torch.ops.aten._assert_tensor_metadata.default
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is check:
            module.graph.erase_node(node)
    module.recompile()
