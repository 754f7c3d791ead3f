"""Training on regions and mosaics: terms, the metric, resumed runs and several ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.embedding.embed import embed
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from pipeline.training.region_cosines import BANDS, RegionCosines, region_metrics
from pipeline.training.state import EpochMetrics
from tests.helpers.training_runs import (
    Killed,
    MakeParams,
    assert_equal,
    config,
    latest,
    steady,
    trained,
)

REGIONS = {"count": 3, "kind": "random"}
WEIGHTS = {"regions": 0.5, "mosaic": 0.3}
ALL = "val_region_cosine"


@pytest.fixture(scope="module")
def with_regions(
    built: Layout, make_params: MakeParams, tmp_path_factory: pytest.TempPathFactory
) -> Layout:
    """A checkout whose cache has regions. For reading alone."""
    layout = Layout(tmp_path_factory.mktemp("regions") / "checkout")
    shutil.copytree(built.root, layout.root, symlinks=True)
    embed(make_params(embed={"regions": REGIONS}), layout)
    return layout


@pytest.fixture(scope="module")
def weighted(make_params: MakeParams) -> Params:
    return make_params(embed={"regions": REGIONS}, distill={"losses": WEIGHTS})


def test_both_terms_and_the_metric_stand_in_the_history(
    with_regions: Layout, weighted: Params, tmp_path: Path
) -> None:
    rows, _ = trained(config(with_regions, weighted, tmp_path))
    for row in rows:
        assert 0 < row["train_regions"] < 2 and 0 < row["train_mosaic"] < 2
        added = 0.1 * (row["train_contrastive"] + row["train_fusion"])
        added += 0.5 * row["train_regions"] + 0.3 * row["train_mosaic"]
        assert row["train_total"] == pytest.approx(row["train_feature"] + added)
        found = region_metrics(row)["region_cosine"]
        assert set(found) <= {"all", *BANDS} and len(found) > 2
        assert min(found.values()) <= row[ALL] == found["all"] <= max(found.values()) <= 1


def test_mosaics_serve_a_cache_without_regions(
    built: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    rows, _ = trained(config(built, make_params(distill={"losses": {"mosaic": 1.0}}), tmp_path))
    assert all("train_mosaic" in row and ALL not in row for row in rows)
    assert region_metrics(rows[-1]) == {}


@pytest.mark.slow
def test_a_killed_run_with_regions_ends_with_the_very_weights(
    with_regions: Layout, weighted: Params, tmp_path: Path
) -> None:
    rows, whole = trained(config(with_regions, weighted, tmp_path / "whole"))

    def die(_: EpochMetrics) -> None:
        raise Killed

    killed = config(with_regions, weighted, tmp_path / "killed")
    with pytest.raises(Killed):
        train(killed, die)
    more, resumed = trained(killed)
    assert steady(more) == steady(rows[1:])
    assert steady(resumed.pop("history")) == steady(whole.pop("history"))
    assert_equal(resumed, whole)


def work(rank: int, settings: TrainConfig, meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    train(settings, lambda _: None)


@pytest.mark.slow
def test_two_ranks_train_on_the_regions_and_mosaics_of_one(
    with_regions: Layout, make_params: MakeParams, tmp_path: Path
) -> None:
    changes = {"losses": WEIGHTS, "epochs": 1, "learning_rate": 1e-5}
    params = make_params(embed={"regions": REGIONS}, distill=changes)
    alone, pair = (config(with_regions, params, tmp_path / name) for name in ("alone", "pair"))
    _, expected = trained(alone)
    mp.spawn(work, (pair, tmp_path / "meeting"), nprocs=2)
    (one,), (two,) = expected["history"], latest(pair)["history"]
    names = [name for name in one if name.startswith(("train_", "val_"))]
    assert "train_regions" in names and "train_mosaic" in names and ALL in names
    for name in names:
        assert two[name] == pytest.approx(one[name], rel=1e-4), name


def test_the_metric_is_the_mean_by_area() -> None:
    class Constant(torch.nn.Module):
        """A student whose regions all have the same embedding."""

        def encode_regions(self, pixels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[[1.0, 0.0]] * boxes.shape[1]])

    cosines = RegionCosines(Constant(), 4)  # type: ignore[arg-type]
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 40, 40], [5, 5, 95, 95], [0, 0, 0, 0]]])
    targets = torch.tensor([[[1.0, 0], [0, 1], [-1, 0], [1, 0]]])
    cosines.add(torch.zeros(1, 3, 100, 100), boxes, targets)
    assert cosines.means("cpu") == {
        ALL: 0.0, f"{ALL} 1/36-1/16": 1.0, f"{ALL} 1/16-1/4": 0.0, f"{ALL} 1/4-1": -1.0,
    }  # fmt: skip
    assert RegionCosines(Constant(), 0).means("cpu") == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"distill": {"losses": {"regions": 1.0}}}, ("distill.losses.regions", "embed.regions")),
        (
            {"distill": {"losses": {"mosaic": 1.0}, "micro_batch_size": 2}},
            ("losses.mosaic", "micro_batch_size"),
        ),
        ({"embed": {"regions": {"min_area": 0.6}}}, ("embed.regions.min_area", "max_area")),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    make_params: MakeParams, complains: Any, sections: dict[str, Any], words: tuple[str, ...]
) -> None:
    with complains(*words):
        make_params(**sections)
