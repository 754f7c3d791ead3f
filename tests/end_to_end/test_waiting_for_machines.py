"""A job that asks a real Ray cluster for more than it has waits, says for what, and gives up."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.runtime.room import wait_for_room

pytestmark = pytest.mark.slow


def test_machines_that_are_there_are_not_waited_for_and_missing_ones_are_named(
    ray_cluster: None, complains: Any, log: pytest.LogCaptureFixture
) -> None:
    import ray
    from ray.util import placement_group_table

    cpus = int(ray.cluster_resources()["CPU"])
    wait_for_room(cpus, False, 0)
    assert log.messages == []
    with complains("cluster.node_wait_s", f"{cpus + 1} workers need 1 CPU each", f"{cpus} CPUs"):
        wait_for_room(cpus + 1, False, 1.5)
    (line,) = log.messages  # said once, however often the cluster is asked
    assert "cluster.node_wait_s" in line
    with complains("1 worker needs 1 CPU and 1 GPU", "0 GPUs"):
        wait_for_room(1, True, 0)
    states = {group["state"] for group in placement_group_table().values()}
    assert states <= {"REMOVED"}  # no machine is asked for any more
