"""The last linear map in closed form, before training.

A random head sends large random gradients into a pretrained backbone and distorts its features; a
fitted head does not (linear probing, then fine-tuning: Kumar et al., 2022, arXiv:2202.10054). The
fit is ridge regression of the teacher's unit embeddings on the pooled hidden features. It needs
sums over the images only, so it streams, and ranks add up their sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import DataError
from kdeov.models.student import VisualStudent
from kdeov.training.distributed import get_world_size, sum_over_ranks

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@torch.no_grad()
def fit_projection(student: VisualStudent, batches: Batches, strength: float) -> None:
    """Sets the projection's batch norms to the statistics of the images, and its linear map to the
    ridge solution.

    Args:
        student: Its projection is changed in place, equally on all ranks.
        batches: Starts a pass over this rank's share of the images: normalised pixels
            [B, 3, H, W] and teacher embeddings [B, D]. There are two passes.
        strength: Ridge penalty relative to the mean squared length of the centred features;
            positive.

    Raises:
        DataError: The images' features are all alike, or not finite.
    """
    training = student.training
    student.eval()
    _set_statistics(student, batches)
    projection = student.projection
    count = torch.zeros(1, dtype=torch.float64)
    hidden, width = projection.linear.in_features, projection.linear.out_features
    sums = torch.zeros(hidden + 1, hidden + width, dtype=torch.float64)
    for pixels, teacher in batches():
        h = projection.pooled(student.backbone(pixels)).double().cpu()
        both = torch.cat([h, F.normalize(teacher, dim=-1).double().cpu()], dim=1)
        sums += torch.cat([h, torch.ones(len(h), 1, dtype=torch.float64)], dim=1).T @ both
        count += len(h)
    count, sums = _total(count), _total(sums)
    means = sums[-1] / count
    centred = sums[:-1] - count * torch.outer(means[:hidden], means)
    products, targets = centred.split([hidden, width], dim=1)
    ridge = strength * products.diagonal().sum() / count
    if not (ridge.isfinite() and ridge > 0):
        raise DataError(
            "the backbone's features of all images are alike or not finite, and no linear map "
            "can be fitted; check its weights, or set distill.ridge_init to null"
        )
    weight = torch.linalg.solve(products + ridge * torch.eye(hidden, dtype=torch.float64), targets)
    projection.linear.weight.copy_(weight.T)
    projection.linear.bias.copy_(means[hidden:] - means[:hidden] @ weight)
    if get_world_size() > 1:  # ranks solved the same equations, perhaps on unlike processors
        for parameter in projection.linear.parameters():
            dist.broadcast(parameter, 0)
    student.train(training)


def _set_statistics(student: VisualStudent, batches: Batches) -> None:
    """Mean and variance over all locations of all images, for each batch norm."""
    norms = [m for m in student.projection.modules() if isinstance(m, nn.BatchNorm2d)]
    with _summed(norms) as sums:
        for pixels, _ in batches():
            student.projection(student.backbone(pixels))
    for norm, values in zip(norms, sums, strict=True):
        count, total, squares = _total(values)
        assert norm.running_mean is not None and norm.running_var is not None
        mean = total / count
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(squares / count - mean**2)


@contextmanager
def _summed(norms: list[nn.BatchNorm2d]) -> Iterator[list[Tensor]]:
    """For each norm, the number, sum and sum of squares of its inputs by channel, [3, C]."""
    sums = [torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms]

    def counting(place: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double()
            number = torch.full_like(x[0, :, 0, 0], x.numel() / x.shape[1])
            parts = [number, x.sum(dim=(0, 2, 3)), x.square().sum(dim=(0, 2, 3))]
            sums[place] += torch.stack(parts).cpu()

        return count

    hooks = [norm.register_forward_pre_hook(counting(n)) for n, norm in enumerate(norms)]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _total(values: Tensor) -> Tensor:
    """The sum over all ranks; NCCL only sums on GPUs."""
    if get_world_size() == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return sum_over_ranks(values.to(device)).cpu()
