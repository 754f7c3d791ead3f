"""What a family of networks brings to be a student's backbone."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from kdeov.errors import KdeovError
from kdeov.weights.state_dict import StateDict

logger = logging.getLogger(__name__)

Channels = tuple[float, float, float]


class Trunk(nn.Module, ABC):
    """A network that turns images into feature maps.

    Attributes:
        name: The `backbone_type` that it was built for.
        network: Holds all tensors, under the names of the published weights.
        channels: Of the feature levels, finest first.
        strides: Of the feature levels; each is twice the one before.
        mean: What published weights expect to be subtracted from pixels in [0, 1].
        std: What they expect the rest to be divided by.
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
            KdeovError: The file cannot be read.
        """

    def recognise(self, state: StateDict) -> str | None:
        """Whose weights these are, where that is easily told."""
        return None

    def simplify(self) -> None:
        """Makes `network`, in evaluation mode, faster without changing what it computes."""

    def load(self, path: Path) -> None:
        """Takes all tensors of `network` from a file; what else the file holds is left.

        Raises:
            KdeovError: A tensor is absent or has another shape; names the first one.
        """
        own, state = self.network.state_dict(), self.read(path)
        # how many batches made the statistics is told by few files, and read by no network here
        needed = [name for name in own if not name.endswith("num_batches_tracked")]
        for name in needed:
            found = tuple(state[name].shape) if name in state else "absent"
            if found != tuple(own[name].shape):
                kin = self.recognise(state)
                raise KdeovError(
                    f"{path}: does not fit {self.name}: layer {name} should be "
                    f"{tuple(own[name].shape)} and is {found}; "
                    + (f"these look like weights of {kin}: " if kin else "")
                    + f"name the weights of {self.name}"
                )
        self.network.load_state_dict(
            {name: state.get(name, own[name]).to(own[name].dtype) for name in own}
        )
        logger.info("%s: loaded %s", self.name, path)
