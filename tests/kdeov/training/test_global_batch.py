"""What is gathered from two ranks is what one process would have, and so are its gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from kdeov.training.distributed import gather, get_rank, get_world_size, sum_over_ranks

RANKS, ROWS, WIDTH = 2, 3, 8
SHARES = [4, 2]  # rows of each rank


def _global_batch() -> list[Tensor]:
    """Images [rows, width, 2, 2], teacher embeddings and unit texts of all ranks."""
    generator = torch.Generator().manual_seed(7)
    shapes = ((WIDTH, 2, 2), (WIDTH,), (WIDTH,))
    images, teacher, texts = (
        torch.randn(RANKS * ROWS, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    )
    return [images, teacher, torch.nn.functional.normalize(texts, dim=-1)]


def _share(batch: Tensor) -> Tensor:
    return batch.split(SHARES)[get_rank()] if get_world_size() > 1 else batch


def _gathered(local: Tensor) -> Tensor:
    return gather(local, SHARES)


def _sum_of_two_gathers() -> dict[str, Tensor]:
    images, teacher, _ = _global_batch()
    first = _share(images).clone().requires_grad_()
    second = _share(teacher)[..., None, None].expand(-1, -1, 2, 2).clone().requires_grad_()
    (_gathered(first) + _gathered(second)).pow(3).mean().backward()
    return {"gradient of the first": first.grad, "gradient of the second": second.grad}


def _transposed_rows() -> dict[str, Tensor]:
    images = _share(_global_batch()[0]).transpose(1, 2)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    return {"transposed": _gathered(images), "channels last": _gathered(channels_last)}


CASES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "sum of two gathers": _sum_of_two_gathers,
    "transposed rows": _transposed_rows,
}


def _run(case: str) -> dict[str, Tensor] | str:
    try:
        return CASES[case]()
    except RuntimeError as error:
        return str(error)


def _work(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS
    )
    torch.save({case: _run(case) for case in CASES}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """The results of each of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_work, args=(folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_global_batch_and_its_gradients_are_those_of_one_process(ranks, case):
    found, single = [results[case] for results in ranks], CASES[case]()
    assert not any(isinstance(result, str) for result in found), found[0]
    for name, expected in single.items():
        values = [result[name] for result in found]
        if name.startswith("gradient"):  # each rank has its own rows, and DDP would average
            values = [torch.cat(values) / RANKS]
        for value in values:
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9, msg=name)


def test_without_a_process_group_nothing_is_gathered():
    rows = torch.randn(2, 3, requires_grad=True)
    assert (get_rank(), get_world_size()) == (0, 1)
    assert gather(rows) is rows
    assert sum_over_ranks(rows) is rows
