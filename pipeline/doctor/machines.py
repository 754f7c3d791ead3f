"""Checks of machines: equal packages, code and clocks, and the devices that params ask for."""

from __future__ import annotations

from collections import Counter

from pipeline.cluster.local import LocalCluster
from pipeline.config.execution_params import ClusterParams
from pipeline.config.paths import Layout
from pipeline.doctor.check import Check, error, first_few, ok, quantity, warning
from pipeline.doctor.node import NodeFacts
from pipeline.doctor.nodes import Survey
from pipeline.runtime.compat import LOOPBACK
from pipeline.runtime.ray_requirements import find_obstacles

MAX_CLOCK_SKEW_S = 2.0  # with more, lines of several logs are out of order
S3_MAX_CLOCK_SKEW_S = 300.0  # S3 refuses requests that were signed at another time
REPORTED_PACKAGES = ("python", "torch", "ray")


def consistency(survey: Survey) -> list[Check]:
    """Checks that all machines answered, with equal packages and equal code."""
    checks = [
        error("nodes", f"{name} {why}", "see its logs in the dashboard, or remove the node")
        for name, why in survey.unreachable.items()
    ]
    nodes = survey.nodes
    differences = []
    for package in sorted({package for node in nodes for package in node.versions}):
        differences += _outliers(package, {n.name: n.versions.get(package, "none") for n in nodes})
    where = f" on {quantity(len(nodes), 'node')}" if len(nodes) > 1 else ""
    if differences:
        fix = "install requirements.lock on all nodes"
        checks.append(error("versions", first_few(differences), fix))
    elif nodes:
        shown = ", ".join(
            f"{name} {nodes[0].versions.get(name, 'none')}" for name in REPORTED_PACKAGES
        )
        checks.append(ok("versions", f"{shown}{where}"))
    if code := _outliers("code", {node.name: node.code for node in nodes}):
        fix = "submit from one checkout, and install no other kdeov on the nodes"
        checks.append(error("code", first_few(code), fix))
    elif len(nodes) > 1:
        checks.append(ok("code", f"{nodes[0].code}{where}"))
    return checks


def ray(cluster: ClusterParams) -> list[Check]:
    """Checks that Ray can start on this machine, where a run starts it."""
    if cluster.mode != "local":
        return []
    if obstacles := list(find_obstacles()):
        return [error("ray", obstacle) for obstacle in obstacles]
    return [ok("ray", f"can start, and listens on {LOOPBACK} alone")]


def local_cluster(layout: Layout) -> list[Check]:
    """Names the ports of `kdeov cluster up` that other machines reach."""
    cluster = LocalCluster.read(layout.local_cluster)
    if cluster is None or not cluster.alive:
        return []
    if not (ports := cluster.open_ports):
        return [ok("kdeov cluster", "no other machine reaches its ports")]
    count = quantity(len(ports), "port")
    return [
        warning(
            "kdeov cluster",
            f"other machines reach {count} ({', '.join(map(str, ports))}), guarded by Ray's token",
            "close them in the firewall, or run `kdeov cluster down` after use",
        )
    ]


def _outliers(subject: str, values: dict[str, str]) -> list[str]:
    """Machines whose value differs from the most common one."""
    if not values:
        return []
    usual = Counter(values.values()).most_common(1)[0][0]
    return [
        f"{name} has {subject} {value}, others have {usual}"
        for name, value in values.items()
        if value != usual
    ]


def clocks(nodes: list[NodeFacts]) -> list[Check]:
    """Checks that the clocks of several machines agree."""
    if len(nodes) < 2:
        return []
    first, last = (choose(nodes, key=lambda node: node.clock) for choose in (min, max))
    apart = last.clock - first.clock
    sure = apart - first.clock_error - last.clock_error
    found = f"{last.name} is {apart:.1f} s ahead of {first.name}"
    if sure > S3_MAX_CLOCK_SKEW_S:
        return [error("clock", f"{found}, and S3 refuses such requests", "run NTP on all nodes")]
    if sure > MAX_CLOCK_SKEW_S:
        return [warning("clock", found, "run NTP on all nodes")]
    bound = max(node.clock_error for node in nodes)
    return [ok("clock", f"{quantity(len(nodes), 'node')} within {max(apart, bound):.2g} s")]


def devices(
    nodes: list[NodeFacts], cluster: ClusterParams, one_process: bool = False
) -> list[Check]:
    """Checks for the GPUs and CPUs that params ask for.

    Args:
        nodes: Facts of the machines.
        cluster: What params ask for.
        one_process: Whether the run is one process, whatever `num_workers` says, as an evaluation.
    """
    if not nodes:
        return []
    inline = one_process or cluster.mode == "inline"
    most, fewest = (1, 1) if inline else (cluster.max_workers, cluster.min_workers)
    gpus = sum(node.usable_gpus for node in nodes)
    cpus = sum(node.cpus for node in nodes)
    kinds = sorted({gpu.name for node in nodes for gpu in node.gpus})
    found = f"{quantity(cpus, 'CPU')}, {quantity(gpus, 'GPU')}"
    found += f" ({first_few(kinds)})" if kinds and gpus else ""
    workers = f"cluster.num_workers = {cluster.num_workers}"
    checks = _gpus_of_ray(nodes) if cluster.use_gpu else []
    grows = cluster.mode == "cluster"  # nodes may join while a job waits
    if cluster.use_gpu is True and gpus < fewest and not grows:
        wanted = "cluster.use_gpu is true" + ("" if inline else f" with {workers}")
        fix = "set cluster.use_gpu to auto or false" + ("" if inline else ", or ask for fewer")
        return [*checks, error("devices", f"{found}, but {wanted}", fix)]
    on_gpus = cluster.use_gpu is True or (bool(cluster.use_gpu) and gpus >= fewest)
    there = gpus if on_gpus else cpus
    work = "compute" if one_process else "train"
    few = f"{found}, fewer than {workers}"
    if not on_gpus and cluster.use_gpu and gpus > 0:
        fix = f"set cluster.num_workers to {gpus}"
        checks.append(warning("devices", f"{few}: training would leave GPUs idle", fix))
    elif there < fewest and grows:
        fix = "add nodes, where the cluster starts none by itself"
        checks.append(warning("devices", f"{few}: a job waits for more", fix))
    elif there < fewest:
        checks.append(warning("devices", f"{few}: workers would share CPUs", f"set it to {cpus}"))
    else:
        start = f", {there} of up to {most} workers" if there < most else ""
        checks.append(ok("devices", f"{found}: {'GPUs' if on_gpus else 'CPUs'} {work}{start}"))
    if old := [f"{n.name}: {g.name}" for n in nodes for g in n.gpus if not g.bfloat16]:
        fix = "training on them is slow; use others if you have some"
        if on_gpus:
            checks.append(warning("bfloat16", f"not supported by {first_few(old)}", fix))
    return checks


def _gpus_of_ray(nodes: list[NodeFacts]) -> list[Check]:
    """Checks that torch can use the GPUs that Ray assigns."""
    unusable = [
        f"{node.name}: Ray has {quantity(node.gpus_of_ray, 'GPU')}, torch sees {len(node.gpus)}"
        for node in nodes
        if node.gpus_of_ray is not None and len(node.gpus) < node.gpus_of_ray
    ]
    fix = "install torch for CUDA and a driver that fits it, or start the node with --num-gpus=0"
    return [error("gpu", first_few(unusable), fix)] if unusable else []
