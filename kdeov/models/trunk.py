"""The interface of a network family that can be a student's backbone."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from kdeov.errors import DataError
from kdeov.weights.state_dict import StateDict

logger = logging.getLogger(__name__)

Channels = tuple[float, float, float]


class Trunk(nn.Module, ABC):
    """A network that turns images into feature maps.

    Attributes:
        name: The `backbone_type` that it was built for.
        network: Holds all tensors, under the names of the published weights.
        channels: Channels of the feature levels, finest first.
        strides: Strides of the feature levels, each twice the one before.
        mean: Mean by which published weights expect pixels in [0, 1] to be normalised.
        std: Standard deviation of the same.
    """

    name: str
    network: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Channels
    std: Channels

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W], whose sides are multiples of the last stride, to maps
        [B, C, H/stride, W/stride].
        """

    @abstractmethod
    def read(self, path: Path) -> StateDict:
        """The tensors of a weight file, under the names that they have in `network`.

        Raises:
            DataError: The file cannot be read.
        """

    def recognize(self, state: StateDict) -> str | None:
        """The name of the network with tensors of these shapes, if it is of this family."""
        return None

    def simplify(self) -> None:
        """Makes `network`, in evaluation mode, faster without changing what it computes."""

    def load(self, path: Path) -> None:
        """Loads all tensors of `network` from a file, whose other tensors are ignored.

        Raises:
            DataError: A tensor is absent or has another shape; names the first one.
        """
        own, state = self.network.state_dict(), self.read(path)
        # few files hold the counts of batches, and no network here reads them
        needed = [name for name in own if not name.endswith("num_batches_tracked")]
        for name in needed:
            found = tuple(state[name].shape) if name in state else "absent"
            if found != tuple(own[name].shape):
                kin = self.recognize(state)
                raise DataError(
                    f"{path}: does not fit {self.name}: layer {name} should be "
                    f"{tuple(own[name].shape)} and is {found}; "
                    + (f"these look like weights of {kin}: " if kin else "")
                    + f"name the weights of {self.name}"
                )
        self.network.load_state_dict(
            {name: state.get(name, own[name]).to(own[name].dtype) for name in own}
        )
        logger.info("%s: loaded %s", self.name, path)
