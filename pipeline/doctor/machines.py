"""Judges machines: whether they are alike, tell the same time, and have the devices that params ask
for.
"""

from __future__ import annotations

from collections import Counter

from pipeline.config.execution_params import ClusterParams
from pipeline.doctor.check import Check, counted, fault, listed, ok, warning
from pipeline.doctor.node import NodeFacts
from pipeline.doctor.nodes import Survey

CLOCKS_APART_S = 2.0  # logs are no longer in order
SIGNATURE_S = 300.0  # S3 signs requests with the time, and refuses those of other times
SHOWN = ("python", "torch", "ray")


def alike(survey: Survey) -> list[Check]:
    """Whether all machines answered, with the same packages and the same code."""
    checks = [
        fault("nodes", f"{name} {why}", "see its logs in the dashboard, or take it out")
        for name, why in survey.silent.items()
    ]
    nodes = survey.nodes
    odd = []
    for package in sorted({package for node in nodes for package in node.versions}):
        odd += _odd(package, {n.name: n.versions.get(package, "none") for n in nodes})
    where = f" on {counted(len(nodes), 'node')}" if len(nodes) > 1 else ""
    if odd:
        cure = "install requirements.lock on all nodes"
        checks.append(fault("versions", listed(odd), cure))
    elif nodes:
        shown = ", ".join(f"{name} {nodes[0].versions.get(name, 'none')}" for name in SHOWN)
        checks.append(ok("versions", f"{shown}{where}"))
    if code := _odd("code", {node.name: node.code for node in nodes}):
        cure = "submit from one checkout, and install no other kdeov on the nodes"
        checks.append(fault("code", listed(code), cure))
    elif len(nodes) > 1:
        checks.append(ok("code", f"{nodes[0].code}{where}"))
    return checks


def _odd(what: str, values: dict[str, str]) -> list[str]:
    """The machines whose value differs from that of most of them."""
    if not values:
        return []
    usual = Counter(values.values()).most_common(1)[0][0]
    return [
        f"{name} has {what} {value}, others have {usual}"
        for name, value in values.items()
        if value != usual
    ]


def clocks(nodes: list[NodeFacts]) -> list[Check]:
    """Whether several machines tell the same time."""
    if len(nodes) < 2:
        return []
    first, last = (choose(nodes, key=lambda node: node.clock) for choose in (min, max))
    apart = last.clock - first.clock
    sure = apart - first.clock_error - last.clock_error
    found = f"{last.name} is {apart:.1f} s ahead of {first.name}"
    if sure > SIGNATURE_S:
        return [fault("clock", f"{found}, and S3 refuses requests of another time", "run NTP")]
    if sure > CLOCKS_APART_S:
        return [warning("clock", found, "run NTP on all nodes")]
    error = max(node.clock_error for node in nodes)
    return [ok("clock", f"{counted(len(nodes), 'node')} within {max(apart, error):.2g} s")]


def devices(nodes: list[NodeFacts], cluster: ClusterParams) -> list[Check]:
    """Whether there are the GPUs and CPUs that params ask for."""
    if not nodes:
        return []
    inline = cluster.mode == "inline"
    most, fewest = (1, 1) if inline else (cluster.max_workers, cluster.min_workers)
    gpus = sum(node.usable_gpus for node in nodes)
    cpus = sum(node.cpus for node in nodes)
    kinds = sorted({gpu.name for node in nodes for gpu in node.gpus})
    found = f"{counted(cpus, 'CPU')}, {counted(gpus, 'GPU')}"
    found += f" ({listed(kinds)})" if kinds and gpus else ""
    workers = f"cluster.num_workers = {cluster.num_workers}"
    checks = _gpus_of_ray(nodes) if cluster.use_gpu else []
    grows = cluster.mode == "cluster"  # machines may come while training waits
    if cluster.use_gpu is True and (not gpus or (gpus < fewest and not grows)):
        wanted = "cluster.use_gpu is true" + ("" if inline else f" with {workers}")
        cure = "set cluster.use_gpu to auto or false" + ("" if inline else ", or ask for fewer")
        return [*checks, fault("devices", f"{found}, but {wanted}", cure)]
    on_gpus = cluster.use_gpu is True or (bool(cluster.use_gpu) and gpus >= fewest)
    there = gpus if on_gpus else cpus
    few = f"{found}, fewer than {workers}"
    if not on_gpus and cluster.use_gpu and gpus > 0:
        cure = f"set cluster.num_workers to {gpus}"
        checks.append(warning("devices", f"{few}: training would leave GPUs idle", cure))
    elif there < fewest and grows:
        checks.append(warning("devices", f"{few}: training waits for more", "add nodes"))
    elif there < fewest:
        checks.append(warning("devices", f"{few}: they would share", f"set it to {cpus}"))
    else:
        start = f", {there} of up to {most} workers" if there < most else ""
        checks.append(ok("devices", f"{found}: {'GPUs' if on_gpus else 'CPUs'} train{start}"))
    if old := [f"{n.name}: {g.name}" for n in nodes for g in n.gpus if not g.bfloat16]:
        cure = "training there is slow; leave them out where there are others"
        if on_gpus:
            checks.append(warning("bfloat16", f"not computed by {listed(old)}", cure))
    return checks


def _gpus_of_ray(nodes: list[NodeFacts]) -> list[Check]:
    """GPUs that Ray gives out and torch cannot use."""
    blind = [
        f"{node.name}: Ray has {counted(node.gpus_of_ray, 'GPU')}, torch sees {len(node.gpus)}"
        for node in nodes
        if node.gpus_of_ray is not None and len(node.gpus) < node.gpus_of_ray
    ]
    cure = "install torch for CUDA and a driver that fits it, or start the node with --num-gpus=0"
    return [fault("gpu", listed(blind), cure)] if blind else []
