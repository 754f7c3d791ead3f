"""The facts of every machine: of this one alone, or of all nodes of the Ray cluster that this
process is connected to.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from pipeline.doctor.node import NodeFacts, Questions, look

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0  # a node that has not answered by then does not work: imports take seconds
TRIPS = 5  # of which the shortest tells the difference of two clocks best
ENVIRONMENT = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # older Rays would hide the GPUs


@dataclass(frozen=True)
class Survey:
    """What is known of the machines of a run.

    Attributes:
        nodes: The machines that answered.
        silent: Why the others did not, by name.
    """

    nodes: list[NodeFacts]
    silent: dict[str, str]


class Visitor:
    """What runs on a node, as an actor of Ray."""

    def look(self, questions: Questions, name: str) -> NodeFacts:
        """See `pipeline.doctor.node.look`."""
        return look(questions, name)

    def time(self) -> float:
        """By this machine's clock."""
        return time.time()


def on_ray() -> bool:
    """Whether this process is connected to a Ray cluster."""
    ray = sys.modules.get("ray")  # not imported for the sake of this question
    return ray is not None and ray.is_initialized()


def survey(questions: Questions) -> Survey:
    """Looks at all machines; on Ray they do so at the same time."""
    if on_ray():
        return _survey_ray(questions)
    return Survey([look(questions, socket.gethostname())], {})


def _survey_ray(questions: Questions) -> Survey:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda node: node["NodeID"] != here)  # where two differ, this one is usual
    nodes = {node["NodeID"]: node for node in alive}
    visitor: Any = ray.remote(Visitor)
    visitors = {
        node: visitor.options(
            num_cpus=0,  # a node that is busy, or does no work, answers too
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            runtime_env={"env_vars": ENVIRONMENT},
        ).remote()
        for node in nodes
    }
    asked = {
        visitors[node].look.remote(questions, _name(facts)): node for node, facts in nodes.items()
    }
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE_S)
    found: list[NodeFacts] = []
    silent = {}
    for reference, node in asked.items():
        name = _name(nodes[node])
        if reference not in ready:
            silent[name] = f"did not answer within {PATIENCE_S:.0f} s"
            continue
        try:
            facts = ray.get(reference)
            clock, clock_error = _clock(visitors[node])
        except RayError as error:
            silent[name] = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
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
        ray.kill(visitors[node])
    gone = {_name(node) for node in ray.nodes() if not node["Alive"]}
    return Survey(found, {name: why for name, why in silent.items() if name not in gone})


def _clock(visitor: Any) -> tuple[float, float]:
    """Seconds that a node is ahead, and how wrong that may be: half the way there and back."""
    import ray

    trips = []
    for _ in range(TRIPS):
        sent = time.time()
        there = ray.get(visitor.time.remote(), timeout=PATIENCE_S)
        back = time.time()
        trips.append((back - sent, there - (sent + back) / 2))
    length, ahead = min(trips)
    return ahead, length / 2


def _name(node: dict[str, Any]) -> str:
    """The machine and its node: there may be several on one machine."""
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"
