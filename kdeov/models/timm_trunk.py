"""Backbones of timm (PyTorch Image Models, Apache-2.0; Wightman, 2019), by their names there."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdeov.errors import ConfigError, DataError, KdeovError
from kdeov.models.compat import disable_dropout
from kdeov.models.trunk import Trunk
from kdeov.weights.state_dict import StateDict, read_state_dict

PREFIX = "timm:"
LEVELS = 3
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""Options with which networks with position embeddings, or with windows, take any image size."""


class TimmTrunk(Trunk):
    """The last feature levels of a timm network: up to three, each with half the sides of the one
    before. A plain ViT has one.

    Args:
        name: `timm:` and a name of `timm.list_models()`, with or without the tag of pretrained
            weights (`timm:resnet18.a1_in1k`), which decides the normalisation.

    Raises:
        ConfigError: The name is unknown to timm, or the network has no feature maps of images of
            any size.
    """

    def __init__(self, name: str) -> None:
        import timm  # takes seconds, and students with other backbones do without

        super().__init__()
        self.name, self.model_name = name, name.removeprefix(PREFIX)
        if not timm.is_model(
            self.model_name
        ):  # also rejects names that timm would download: hf-hub:...
            raise _unknown(name)
        try:
            self._config = timm.get_pretrained_cfg(self.model_name)
        except RuntimeError as error:  # a tag that it does not have
            raise _unknown(name) from error
        try:
            features = self._features(LEVELS)
            levels = _halving(features.feature_info.reduction())
            if levels < LEVELS:
                features = self._features(levels)
            self.network, self._indices = features.model, features.out_indices
            self.channels = tuple(features.feature_info.channels())
            self.strides = tuple(features.feature_info.reduction())
            self.mean, self.std = (tuple(features.pretrained_cfg[key]) for key in ("mean", "std"))
            self._probe()
        # raised by networks without feature maps, or of fixed size
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
            raise ConfigError(
                f"{name} cannot be a backbone: it has no feature maps of images of any size "
                f"({' '.join(str(error).split()) or type(error).__name__}); choose another one, "
                "for instance timm:resnet18"
            ) from error

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`."""
        network: Any = self.network
        return network.forward_intermediates(
            images, indices=self._indices, output_fmt="NCHW", intermediates_only=True
        )

    def read(self, path: Path) -> StateDict:
        """A safetensors file or a state dict of the whole timm network."""
        if not path.is_file():
            raise DataError(f"{path}: no such weight file; {self._source()}")
        return read_state_dict(path)

    def simplify(self) -> None:
        """See `Trunk`: merges the parallel branches of networks that are reparameterised."""
        from timm.utils import reparameterize_model

        reparameterize_model(self.network, inplace=True)

    def _features(self, levels: int) -> Any:
        network = self._create(levels)
        # the two passes of a micro-batch (see `kdeov.training.grad_cache`) must be equal
        disable_dropout(network)
        return network

    def _create(self, levels: int) -> Any:
        import timm

        fixed = self._config is not None and self._config.fixed_input_size
        for options in ANY_SIZE if fixed else ANY_SIZE[-1:]:
            try:
                return timm.create_model(
                    self.model_name,
                    pretrained=False,
                    features_only=True,
                    feature_cls="getter",  # keeps the names of the weights, and gives NCHW
                    out_indices=tuple(range(-levels, 0)),
                    **options,
                )
            except TypeError as error:  # this network has no such option
                refused = error
        raise refused

    def _probe(self) -> None:
        """Checks the maps of the smallest image that is no square, and freezes parameters that no
        map depends on: DDP waits for the gradient of every parameter.
        """
        height, width = self.strides[-1], 2 * self.strides[-1]
        with torch.enable_grad():
            maps = self.eval()(torch.zeros(1, 3, height, width))
            self.train()
            expected = [
                (1, channels, height // stride, width // stride)
                for channels, stride in zip(self.channels, self.strides, strict=True)
            ]
            found = [tuple(x.shape) for x in maps]
            if found != expected:
                raise RuntimeError(f"maps of {found} where timm says {expected}")
            trained = [p for p in self.network.parameters() if p.requires_grad]
            grads = torch.autograd.grad(sum(x.sum() for x in maps), trained, allow_unused=True)
        for parameter, grad in zip(trained, grads, strict=True):
            parameter.requires_grad_(grad is not None)

    def _source(self) -> str:
        if self._config is None or not self._config.hf_hub_id:
            return f"timm publishes none for {self.name}: null starts from random ones"
        return (
            f"timm's own are model.safetensors of {self._config.hf_hub_id} on the Hugging Face "
            "Hub: put that file there; null starts from random ones"
        )


def _unknown(name: str) -> KdeovError:
    import timm

    network = name.removeprefix(PREFIX).partition(".")[0]
    near = difflib.get_close_matches(network, timm.list_models(), n=1)
    hint = f"did you mean {PREFIX}{near[0]}?" if near else "see timm.list_models()"
    return ConfigError(f"backbone {name!r} is unknown to timm {timm.__version__}; {hint}")


def _halving(strides: list[int]) -> int:
    """The number of last levels that each have half the sides of the level before."""
    count = 1
    while count < len(strides) and 2 * strides[-count - 1] == strides[-count]:
        count += 1
    return count
