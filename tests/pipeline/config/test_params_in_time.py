"""What would fail later, after hours or with a stack trace, is refused when params load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdeov.errors import ConfigError
from kdeov.training.losses import TERMS
from pipeline.config.params import check_params, load_params
from pipeline.config.stage_params import IMAGE_TERMS
from tests.helpers.params_file import load, put

NOBODY = "~nobody-of-this-name/x"
TEACHERS = {"clip": {"model": NOBODY}, "open_clip": {"architecture": "a", "pretrained": NOBODY}}


@pytest.mark.parametrize(
    "key", ["distill.backbone_weights", "zero_shot.class_names", "data.storage", "cluster.storage"]
)
def test_a_home_that_this_machine_lacks_is_named(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str
) -> None:
    with complains("params.yaml: ", NOBODY, "no home ~nobody-of-this-name", "write all of it"):
        load(tmp_path, put(values, key, NOBODY))


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_home_in_the_name_of_a_teacher_is_named_too(
    tmp_path: Path, values: dict[str, Any], complains: Any, kind: str
) -> None:
    with complains(NOBODY, "write all of it"):
        load(tmp_path, put(values, f"teacher.{kind}", TEACHERS[kind]))


def test_a_name_of_a_teacher_may_be_longer_than_a_name_of_a_file(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    params = load(tmp_path, put(values, "teacher.clip", {"model": "x" * 300}))
    assert params.teacher.clip and params.teacher.clip.model == "x" * 300


@pytest.mark.parametrize("section", ["data", "cluster"])
@pytest.mark.parametrize("address", ["http://host/x", "S3://bucket/x", "file:///x"])
def test_an_address_that_is_no_storage_is_named_with_its_key(
    tmp_path: Path, values: dict[str, Any], complains: Any, section: str, address: str
) -> None:
    with complains(f"params.yaml: {section}.storage: ", address, "correct it"):
        load(tmp_path, put(values, f"{section}.storage", address))


@pytest.mark.parametrize("key", ["distill.backbone_weights", "teacher.path"])
@pytest.mark.parametrize("address", ["s3://bucket/w.pt", "https://host/w.pt"])
def test_an_address_in_the_place_of_a_file_is_refused(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str, address: str
) -> None:
    with complains(f"params.yaml: {key}: give a path of this machine", address):
        load(tmp_path, put(values, key, address))


def test_losses_that_train_no_student_are_refused_before_embedding(
    tmp_path: Path, values: dict[str, Any], complains: Any
) -> None:
    assert IMAGE_TERMS == TERMS
    others = {**dict.fromkeys(values["distill"]["losses"], 1.0), **dict.fromkeys(IMAGE_TERMS, 0)}
    with complains("distill.losses: every weight is 0", "feature"):
        load(tmp_path, put(values, "distill.losses", {**others, "regions": 0}))


@pytest.mark.parametrize(
    ("backbone", "weights"), [("yolov8n", None), ("timm:resnet18", "resnet18.safetensors")]
)
def test_a_pretrained_box_head_without_a_yolo_is_refused_before_training(
    tmp_path: Path, values: dict[str, Any], complains: Any, backbone: str, weights: str | None
) -> None:
    changed = put(put(values, "train_boxes.kind", "pretrained"), "distill.backbone", backbone)
    with complains("train_boxes.kind", "distill.backbone_weights"):
        load(tmp_path, put(changed, "distill.backbone_weights", weights))
    right = put(put(changed, "distill.backbone", "yolov8n"), "distill.backbone_weights", "y.pt")
    assert load(tmp_path, right).train_boxes.kind == "pretrained"


@pytest.mark.parametrize("key", [1, 1.5, True, None, (1, 2)])
@pytest.mark.parametrize("section", ["", "distill"])
def test_a_key_that_is_no_text_is_no_key(values: dict[str, Any], section: str, key: Any) -> None:
    changed = put(values, "report.examples", 8)
    (changed[section] if section else changed)[key] = 2
    with pytest.raises(ConfigError) as caught:
        check_params(changed, Path("/checkout/params.yaml"))
    where = f"{section}.{key}" if section else str(key)
    assert str(caught.value).startswith(f"params.yaml: {where} is not a key")
    assert "its keys are" in str(caught.value) or "did you mean" in str(caught.value)


@pytest.mark.parametrize("key", ['"a\\nb"', '"\\e[31mred"'])
def test_a_key_without_ink_is_written_as_an_escape(root: Path, tmp_path: Path, key: str) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    for changed in (f"{text}{key}: 1\n", f"{text}{key}: 1\n{key}: 1\n"):
        (tmp_path / "params.yaml").write_text(changed, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"is not a key|is given twice") as caught:
            load_params(tmp_path / "params.yaml")
        assert str(caught.value).isprintable()


def test_no_advice_of_the_yaml_library_is_passed_on(root: Path, tmp_path: Path) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(f"{text}1: 1\n0x1: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="duplicate key") as caught:
        load_params(tmp_path / "params.yaml")
    assert "suppress" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "address"),
    [
        ("cluster.address", "http://anna:hush@host:8265"),
        ("cluster.storage", "s3://anna:hush@bucket/x"),
        ("data.storage", "s3://anna:hush@bucket/x"),
        ("prepare.path", "s3://anna:hush@bucket/x"),
        ("distill.backbone_weights", "https://anna:hush@host/w.pt"),
    ],
)
def test_a_login_in_an_address_is_refused_and_not_shown(
    tmp_path: Path, values: dict[str, Any], complains: Any, key: str, address: str
) -> None:
    with complains(key) as caught:
        load(tmp_path, put(values, key, address))
    assert "hush" not in str(caught.value)
