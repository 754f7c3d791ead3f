"""Private parts of torch and timm are where we look for them."""

from __future__ import annotations

import torch
from timm.layers import DropBlock2d, DropPath
from torch import nn

from kdeov.models.compat import disable_dropout


def test_a_network_without_dropout_gives_the_same_twice():
    network = nn.Sequential(nn.Dropout(), nn.Dropout2d(), DropPath(0.5), DropBlock2d(0.5)).train()
    images = torch.ones(8, 3, 16, 16)
    disable_dropout(network)
    assert torch.equal(network(images), images)
