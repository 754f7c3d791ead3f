"""Facts of all machines: of this one, of all nodes of the Ray cluster that this process is
connected to, or of a remote cluster, through a job (`python -m pipeline.doctor.nodes`) whose log
carries the answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from kdeov.errors import StorageError
from pipeline.doctor.node import NodeFacts, Questions, inspect_node

if TYPE_CHECKING:
    from pipeline.cluster.client import Dashboard

NODE_TIMEOUT_S = 120.0  # imports take seconds: a node without an answer by then does not work
ROUND_TRIPS = 5  # of clock readings; the shortest has the smallest error
ENVIRONMENT = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # older Rays would hide the GPUs
JOB_TIMEOUT_S = 300.0  # a cluster may have to install packages first
POLL_S = 0.5
QUESTIONS_VARIABLE = "KDEOV_DOCTOR"  # holds the questions of a job
ANSWER_PREFIX = "kdeov-doctor: "  # starts the line of the log that holds the answer


@dataclass(frozen=True)
class Survey:
    """Facts of the machines of a run.

    Attributes:
        nodes: Machines that answered.
        unreachable: Reasons why other machines did not, by name.
    """

    nodes: list[NodeFacts]
    unreachable: dict[str, str]


QUESTIONS, SURVEY = TypeAdapter(Questions), TypeAdapter(Survey)


class NodeInspector:
    """An actor of Ray, one a node."""

    def inspect(self, questions: Questions, name: str) -> NodeFacts:
        """Calls `inspect_node`."""
        return inspect_node(questions, name)

    def time(self) -> float:
        """This machine's clock."""
        return time.time()


def connected_to_ray() -> bool:
    """Whether this process is connected to a Ray cluster; does not import Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def survey(questions: Questions) -> Survey:
    """Inspects all machines that this process reaches; nodes of Ray at the same time."""
    if connected_to_ray():
        return _survey_ray(questions)
    return Survey([inspect_node(questions, socket.gethostname())], {})


def _survey_ray(questions: Questions) -> Survey:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda node: node["NodeID"] != here)  # of two that differ, this one is usual
    nodes = {node["NodeID"]: node for node in alive}
    inspector: Any = ray.remote(NodeInspector)
    inspectors = {
        node: inspector.options(
            num_cpus=0,  # busy nodes, and nodes without CPUs for work, answer too
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            runtime_env={"env_vars": ENVIRONMENT},
        ).remote()
        for node in nodes
    }
    references = {
        inspectors[node].inspect.remote(questions, _name(facts)): node
        for node, facts in nodes.items()
    }
    ready, _ = ray.wait(list(references), num_returns=len(references), timeout=NODE_TIMEOUT_S)
    found: list[NodeFacts] = []
    unreachable = {}
    for reference, node in references.items():
        name = _name(nodes[node])
        if reference not in ready:
            unreachable[name] = f"did not answer within {NODE_TIMEOUT_S:.0f} s"
            continue
        try:
            facts = ray.get(reference)
            clock, clock_error = _clock(inspectors[node])
        except RayError as error:
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            unreachable[name] = last[:200]
            continue
        resources = nodes[node]["Resources"]
        found.append(
            replace(
                facts,
                cpus=int(resources.get("CPU", 0)),
                gpus_of_ray=int(resources.get("GPU", 0)),
                clock=clock,
                clock_error=clock_error,
            )
        )
    for node in nodes:
        ray.kill(inspectors[node])
    gone = {_name(node) for node in ray.nodes() if not node["Alive"]}
    return Survey(found, {name: why for name, why in unreachable.items() if name not in gone})


def _clock(inspector: Any) -> tuple[float, float]:
    """Seconds that a node's clock is ahead, and the error bound: half of a round trip."""
    import ray

    trips = []
    for _ in range(ROUND_TRIPS):
        sent = time.time()
        there = ray.get(inspector.time.remote(), timeout=NODE_TIMEOUT_S)
        back = time.time()
        trips.append((back - sent, there - (sent + back) / 2))
    length, ahead = min(trips)
    return ahead, length / 2


def _name(node: dict[str, Any]) -> str:
    """Host name and node id: one machine may run several nodes."""
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"


def survey_by_job(address: str, root: Path, questions: Questions) -> Survey:
    """Inspects all machines of a remote cluster by a small job.

    Args:
        address: Address of the cluster's dashboard.
        root: The checkout, whose code is sent along.
        questions: Asked of every machine.

    Raises:
        StorageError: The job fails or takes more than `JOB_TIMEOUT_S`.
        KdeovError: Nothing answers at the address.
    """
    from pipeline.cluster.client import Dashboard
    from pipeline.cluster.package import check_package
    from pipeline.runtime.ray_session import set_ray_environment

    check_package(root)
    dashboard = Dashboard(address)
    job = f"kdeov-doctor-{uuid.uuid4().hex[:16]}"
    variables = {QUESTIONS_VARIABLE: QUESTIONS.dump_json(questions).decode()}
    command = "exec python -m pipeline.doctor.nodes"
    dashboard.submit(job, command, root, set_ray_environment() | variables)
    with contextlib.ExitStack() as undo:
        undo.callback(dashboard.stop, job)
        _wait_for_end(dashboard, job)
        undo.pop_all()  # the job has ended by itself
    lines = dashboard.log(job).splitlines()
    answers = [line.removeprefix(ANSWER_PREFIX) for line in lines if line.startswith(ANSWER_PREFIX)]
    if not answers:
        last = lines[-1][:200] if lines else "no log"
        raise StorageError(
            f"{address}: the job {job} failed ({last}); see its log in the dashboard"
        )
    return SURVEY.validate_json(answers[0])


def _wait_for_end(dashboard: Dashboard, job: str) -> None:
    end = time.monotonic() + JOB_TIMEOUT_S
    while (info := dashboard.info(job)) is not None and not info.status.is_terminal():
        if time.monotonic() > end:
            raise StorageError(
                f"{dashboard.address}: the job {job} did not end within {JOB_TIMEOUT_S:.0f} s; see "
                "its log in the dashboard"
            )
        time.sleep(POLL_S)


def answer() -> None:
    """Runs as the job: inspects all nodes and writes one line into the job's log."""
    import ray

    from pipeline.console import setup_logging, stdout

    setup_logging()
    ray.init(address="auto", logging_level=logging.WARNING)
    found = survey(QUESTIONS.validate_json(os.environ[QUESTIONS_VARIABLE]))
    stdout.file.write(f"{ANSWER_PREFIX}{SURVEY.dump_json(found).decode()}\n")


if __name__ == "__main__":
    answer()
