"""The example cluster files are valid for Ray and KubeRay."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pipeline.cluster.examples import example
from pipeline.config.params import check_params
from pipeline.config.recipe import Recipe
from tests.helpers import ROOT

SCHEMA = json.loads((ROOT / "tests" / "data" / "kuberay-1.6.2.json").read_text(encoding="utf-8"))


def aws() -> dict[str, Any]:
    return yaml.safe_load(example("aws"))


def kuberay() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all(example("kuberay"))}


def check(document: dict[str, Any]) -> None:
    """Against the schema of its kind, which names the fault better than all of them."""
    schema = {**SCHEMA, "$ref": f"#/$defs/{document['kind']}"}
    del schema["oneOf"]
    jsonschema.Draft202012Validator(schema).validate(document)


def test_an_unknown_cluster_file_is_answered_with_those_that_exist(complains: Any) -> None:
    with complains("'asw'", "aws, kuberay"):
        example("asw")


def test_ray_up_takes_the_file_for_aws_as_it_is() -> None:
    config = prepare_config(aws())
    validate_config(config)
    assert config["available_node_types"]["gpu"]["max_workers"] == config["max_workers"] == 8
    assert not config["available_node_types"]["head"]["resources"].get("GPU")


@pytest.mark.parametrize("place", [(), ("available_node_types", "gpu")])
def test_ray_up_refuses_a_misspelt_key(place: tuple[str, ...]) -> None:
    config = prepare_config(aws())
    part = config
    for key in place:
        part = part[key]
    part["min_wrokers"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


def test_the_cluster_on_aws_is_closed_and_holds_no_key() -> None:
    config = aws()
    assert not re.search(r"AKIA|aws_secret|aws_access", example("aws"))
    for kind in config["available_node_types"].values():
        assert "IamInstanceProfile" in kind["node_config"]
    (start,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in shlex.split(start)
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_what_aws_installs_is_what_this_checkout_has() -> None:
    (lock,) = [mine for mine in aws()["file_mounts"].values() if mine.startswith("./")]
    assert (ROOT / lock).is_file()


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_kuberay_takes_what_the_file_describes(kind: str) -> None:
    check(kuberay()[kind])


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("RayCluster", "spec"),
        ("RayCluster", "spec.authOptions"),
        ("RayCluster", "spec.workerGroupSpecs.0"),
        ("RayCluster", "spec.workerGroupSpecs.0.template.spec"),
        ("RayCluster", "spec.workerGroupSpecs.0.template.spec.containers.0"),
        ("RayCluster", "spec.workerGroupSpecs.0.template.spec.containers.0.env.0"),
        ("RayCluster", "spec.headGroupSpec.template.spec.volumes.0.emptyDir"),
        ("RayJob", "spec"),
    ],
)
def test_a_misspelt_key_is_refused_wherever_it_stands(kind: str, path: str) -> None:
    document = copy.deepcopy(kuberay()[kind])
    part: Any = document
    for key in path.split("."):
        part = part[int(key)] if isinstance(part, list) else part[key]
    part["replcias"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replcias"):
        check(document)


def test_pods_ask_for_gpus_shared_memory_and_a_token() -> None:
    spec = kuberay()["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "kdeov-token"}
    (group,) = spec["workerGroupSpecs"]
    assert 0 == group["minReplicas"] < group["maxReplicas"]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    (volume,) = pod["volumes"]
    assert volume["emptyDir"]["medium"] == "Memory"


def test_ray_has_one_version_on_all_machines() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ray==(.+)$", lock, re.M)
    assert kuberay()["RayCluster"]["spec"]["rayVersion"] == version
    assert f"rayproject/ray:{version}-" in example("kuberay")


def test_the_job_changes_params_that_exist(tmp_path: Path) -> None:
    """Its entrypoint is a line of shell, and `kdeov use` takes what it sets."""
    shell, flag, script = shlex.split(kuberay()["RayJob"]["spec"]["entrypoint"])
    assert (shell, flag) == ("bash", "-c")
    words = shlex.split(script)
    name = words[words.index("use") + 1]
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    recipe = Recipe.named(name).with_changes(Path("/data"), changes)
    params = check_params(yaml.safe_load(recipe.text), tmp_path / "params.yaml")
    assert params.cluster.mode == "cluster" and params.cluster.num_workers == (1, 8)
    assert params.data.storage == "s3://BUCKET/kdeov"


@pytest.mark.parametrize("name", ["aws", "kuberay"])
def test_params_that_a_file_recommends_exist(name: str, tmp_path: Path) -> None:
    lines = re.findall(r"^#   ((?:data|cluster|tracking): .+)$", example(name), re.M)
    assert len(lines) == 3
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in yaml.safe_load("\n".join(lines)).items():
        params[section] |= values
    check_params(params, tmp_path / "params.yaml")
