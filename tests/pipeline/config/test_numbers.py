"""Numbers of `params.yaml`: what no stage can use is refused when params load."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from kdeov.errors import ConfigError
from pipeline.config.params import Params, check_params, load_params
from pipeline.config.reading.explain import section_of
from pipeline.config.reading.yaml_file import parse_yaml
from pipeline.config.source_params import SOURCES
from tests.helpers.params_file import load, put

NO_NUMBERS = (
    math.inf, -math.inf, math.nan, -1, -1e9, 10**40, -(10**40), 1e300, True, False, "5", "1e-3",
    "inf", "", [], {}, "1:30", "yes",
)  # fmt: skip


def kinds(annotation: Any) -> set[Any]:
    """The plain types of an annotation."""
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(kinds, get_args(annotation)))
    return kinds(get_args(annotation)[0]) if get_origin(annotation) is Annotated else {annotation}


def number_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The keys of a schema that hold numbers."""
    for name, field in model.model_fields.items():
        if (section := section_of(field)) is not None and get_origin(field.annotation) is not list:
            yield from number_keys(section, f"{prefix}{name}.")
        elif kinds(field.annotation) & {int, float}:
            yield f"{prefix}{name}"


NUMBER_KEYS = sorted(number_keys(Params))


@pytest.fixture(scope="session")
def complete(values: dict[str, Any]) -> dict[str, Any]:
    """Params with the sections of all sources."""
    examples = {name: parse_yaml(source.example, name) for name, source in SOURCES.items()}
    examples["flickr"]["shares"] = {"val": 0.1, "test": 0.1}
    return values | {"prepare": {**values["prepare"], **examples}}


def test_the_keys_of_numbers_are_found() -> None:
    assert {"cluster.num_workers", "distill.losses.fusion", "prepare.coco.val"} < set(NUMBER_KEYS)
    assert len(NUMBER_KEYS) > 50


@pytest.mark.parametrize("key", NUMBER_KEYS)
def test_a_number_that_no_stage_can_use_is_refused_with_its_key(
    complete: dict[str, Any], key: str
) -> None:
    taken = []
    for value in NO_NUMBERS:
        try:
            check_params(put(complete, key, value), Path("/checkout/params.yaml"))
            taken.append(value)
        except ConfigError as error:
            message = str(error)
            assert key in message and "\n" not in message and "pydantic" not in message
    assert taken == []


@pytest.mark.parametrize("value", [math.inf, 0, "10", [True], [], [1, math.nan]])
def test_a_list_of_numbers_holds_nothing_else(
    tmp_path: Path, values: dict[str, Any], complains: Any, value: Any
) -> None:
    with complains("linear_probe.C_grid"):
        load(tmp_path, put(values, "linear_probe.C_grid", value))


@pytest.mark.parametrize("value", [[2, 1], [1], [1, 2, 3], [1, "2"], [True, 2], "2", 0, 2.5, None])
def test_a_number_of_workers_that_is_none_is_answered_with_both_ways_to_write_it(
    tmp_path: Path, values: dict[str, Any], complains: Any, value: Any
) -> None:
    with complains("params.yaml: cluster.num_workers"):
        load(tmp_path, put(values, "cluster.num_workers", value))


@pytest.mark.parametrize("key", ["distill.freeze_batch_norm", "cluster.compile", "cluster.use_gpu"])
@pytest.mark.parametrize("value", [1, 0, "yes", "true", "on", None])
def test_true_and_false_are_the_only_truth_values(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str, value: Any
) -> None:
    with complains(key, "true or false"):
        load(tmp_path, put(values, key, value))


def test_whole_numbers_serve_where_fractions_are_allowed(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    params = load(tmp_path, put(put(values, "embed.blur_prob", 1), "distill.weight_decay", 0))
    assert (params.embed.blur_prob, params.distill.weight_decay) == (1.0, 0.0)


def test_a_number_without_a_dot_before_its_exponent_is_one_as_for_dvc(
    root: Path, tmp_path: Path
) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    assert "learning_rate: 2.0e-3" in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("learning_rate: 2.0e-3", "learning_rate: 2e-3"), encoding="utf-8")
    assert load_params(path).distill.learning_rate == 0.002


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_gets_more_than_one_value_a_channel(
    tmp_path: Path, values: dict[str, Any], complains: Any, frozen: bool
) -> None:
    small = put(put(values, "distill.image_size", 32), "distill.micro_batch_size", 1)
    small = put(small, "distill.losses.mosaic", 0.0)  # one image makes no mosaic
    if frozen:
        small = put(small, "distill.backbone_weights", "w.pt")
        small = put(small, "distill.freeze_batch_norm", True)
    with complains("distill.micro_batch_size", "image_size"):
        load(tmp_path, small)
    load(tmp_path, put(small, "distill.image_size", 33))
    load(tmp_path, put(small, "distill.micro_batch_size", 2))
