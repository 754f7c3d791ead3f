"""Names in params that stand for nothing are refused when params load, and not after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.params import load_params


def changed(values: dict[str, Any], section: str, key: str, value: Any) -> dict[str, Any]:
    return values | {section: values[section] | {key: value}}


@pytest.mark.parametrize("key", ["zero_shot", "detection", "train_boxes"])
def test_an_unknown_template_set_is_refused_before_anything_is_trained(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(values, key, "templates", "plane")), encoding="utf-8")
    with complains(f"{key}.templates", "plain", "'plane'"):
        load_params(path)


@pytest.mark.parametrize(
    ("key", "value"), [("prepare.path", "~nobody-of-this-name/images"), ("prepare.dataset", "..")]
)
def test_a_path_of_an_unknown_home_and_a_name_of_dots_are_one_line(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str, value: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(values, *key.split("."), value)), encoding="utf-8")
    with complains(key, value):
        load_params(path)
