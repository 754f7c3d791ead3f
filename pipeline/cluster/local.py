"""A Ray cluster on this machine: one process a node, with an address of its own, 127.0.0.2 and up.

It is for trying out jobs; one machine trains faster with `cluster.mode: local`. Its dashboard
listens on 127.0.0.1. Some of Ray's other ports listen on all interfaces, and ask for the token:
Ray connects no second node at 127.0.0.1, and only there it listens on loopback alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from kdeov.errors import ConfigError, StorageError
from pipeline.cluster.compat import RAY_COMMAND
from pipeline.runtime.compat import (
    DASHBOARD_VARIABLE,
    LOOPBACK,
    LOOPBACK_VARIABLE,
    temporary_folder,
)
from pipeline.runtime.lifetime import created_at, find_process
from pipeline.runtime.ray_requirements import require_ray_can_start
from pipeline.runtime.ray_session import bypass_proxies, free_ports, set_ray_environment
from pipeline.storage.checked import read_record, write_checked_json

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0  # a node takes 20 s on a slow machine
STOP_TIMEOUT_S = 15.0  # then a node is killed
OBJECT_STORE_BYTES = 200_000_000  # a node; shards do not pass through Ray


@dataclass
class LocalCluster:
    """The nodes of a cluster that `start_cluster` started.

    Attributes:
        address: Address of the dashboard, for `cluster.address`.
        gcs: Address of the head node, for other nodes and for `ray.init`.
        temporary: Folder of Ray's sessions and logs.
        processes: Process id and time of creation of each node, the head first.
    """

    address: str
    gcs: str
    temporary: str
    processes: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> LocalCluster | None:
        """Reads `cluster.json`; None where no cluster was started."""
        path = folder / "cluster.json"
        return read_record(cls, path) if path.is_file() else None

    def write(self, folder: Path) -> None:
        """Writes `cluster.json`, which `stop_cluster` reads."""
        write_checked_json(folder / "cluster.json", asdict(self))

    @property
    def alive(self) -> list[psutil.Process]:
        """The processes of `processes` that still run."""
        found = (find_process(pid, created) for pid, created in self.processes)
        return [process for process in found if process is not None]

    @property
    def open_ports(self) -> list[int]:
        """Ports on which its processes listen for other machines, sorted."""
        found = set()
        for node in self.alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (node, *node.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        found |= {
                            connection.laddr.port
                            for connection in process.net_connections("tcp")
                            if connection.status == psutil.CONN_LISTEN
                            and not _is_loopback(connection.laddr.ip)
                        }
        return sorted(found)

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Adds a node's process."""
        self.processes.append((process.pid, created_at(psutil.Process(process.pid))))


def start_cluster(folder: Path, nodes: int, cpus: int) -> LocalCluster:
    """Starts nodes and waits until all are alive.

    Args:
        folder: Folder for logs and `cluster.json`.
        nodes: Number of nodes.
        cpus: CPUs of each node.

    Raises:
        ConfigError: A cluster of this folder is up already, or this machine lacks something that
            Ray needs.
        StorageError: A node did not start.
    """
    left = LocalCluster.read(folder)
    if left is not None and left.alive:
        raise ConfigError(
            f"{len(left.alive)} nodes are up already, at {left.address}; stop them with `kdeov "
            "cluster down`"
        )
    # short, because the paths of Ray's sockets must be
    temporary = temporary_folder() / f"kdeov-ray-{uuid.uuid4().hex[:8]}"
    require_ray_can_start(temporary / "00")
    set_ray_environment()
    bypass_proxies(*map(ip_of, range(nodes)))
    _ensure_token()
    temporary.mkdir(mode=0o700)
    port, dashboard, client = free_ports(3)
    cluster = LocalCluster(f"http://{LOOPBACK}:{dashboard}", f"{ip_of(0)}:{port}", str(temporary))
    folder.mkdir(parents=True, exist_ok=True)
    head = ["--head", f"--port={port}", f"--dashboard-host={LOOPBACK}",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]  # fmt: skip
    with contextlib.ExitStack() as undo:
        undo.callback(stop_cluster, folder)
        add_node(folder, cluster, cpus, head)
        for _ in range(1, nodes):
            add_node(folder, cluster, cpus)
        undo.pop_all()  # all are alive
    return cluster


def add_node(
    folder: Path, cluster: LocalCluster, cpus: int, place: Sequence[str] | None = None
) -> None:
    """Starts one more node, and waits until it is alive.

    Args:
        folder: See `start_cluster`.
        cluster: The cluster, which the node joins.
        cpus: CPUs of the node.
        place: Arguments of `ray start` for the head; None joins the cluster.

    Raises:
        StorageError: The node did not start.
    """
    number, alive = len(cluster.processes), len(cluster.alive)
    bypass_proxies(ip_of(number))
    log = folder / f"node-{number}.log"
    own = [f"--node-ip-address={ip_of(number)}", f"--temp-dir={cluster.temporary}/{number}"]
    process = _start_node(
        [*(place or [f"--address={cluster.gcs}"]), *own], cpus, log, cluster.address
    )
    cluster.add(process)
    cluster.write(folder)
    _wait(cluster, process, log, alive + 1)
    logger.info("node %d is alive", number + 1)


def stop_cluster(folder: Path) -> int:
    """Stops the processes that `start_cluster` started, and their children, and no other.

    Returns:
        Number of nodes that were alive.
    """
    cluster = LocalCluster.read(folder)
    if cluster is None:
        return 0
    nodes = cluster.alive
    tree = nodes + [child for node in nodes for child in node.children(recursive=True)]
    for node in reversed(nodes):  # the head last
        with contextlib.suppress(psutil.NoSuchProcess):
            node.terminate()
    _, left = psutil.wait_procs(tree, timeout=STOP_TIMEOUT_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
    shutil.rmtree(cluster.temporary, ignore_errors=True)
    (folder / "cluster.json").unlink()
    return len(nodes)


def _is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback  # ::ffff:127.0.0.1


def ip_of(number: int) -> str:
    """Loopback address of a node, 127.0.0.2 and up: Ray replaces 127.0.0.1 by the address in the
    network. Only Linux has more than one without configuration.
    """
    return f"127.0.0.{2 + number}" if sys.platform == "linux" else LOOPBACK


def _ensure_token() -> None:
    """Makes a token for Ray's authentication, where the user has none."""
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not given and not (Path.home() / ".ray" / "auth_token").is_file():
        done = subprocess.run(
            [*RAY_COMMAND, "get-auth-token", "--generate"],
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        if done.returncode:
            raise StorageError(f"Ray could not make a token ({_reason(done.stderr)})")


def _start_node(place: list[str], cpus: int, log: Path, address: str) -> subprocess.Popen[bytes]:
    agent = free_ports(1)[0]
    command = [
        *RAY_COMMAND, "start", "--block", "--disable-usage-stats",
        f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0",
        *place,
    ]  # fmt: skip
    # jobs run `python`, which must be this one
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, LOOPBACK_VARIABLE: "1"}
    # Ray Train reads it; else it takes that of another cluster in Ray's usual folder
    environment[DASHBOARD_VARIABLE] = address
    environment.pop("RAY_ADDRESS", None)
    with open(log, "wb") as file:
        return subprocess.Popen(
            command, cwd=tempfile.gettempdir(), env=environment, stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _wait(cluster: LocalCluster, process: subprocess.Popen[bytes], log: Path, count: int) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while _count_alive(cluster.address) < count:
        if process.poll() is not None or time.monotonic() > end:
            ended = process.poll() is not None
            text = log.read_text(encoding="utf-8", errors="replace")
            why = _reason(text) if ended else f"no answer within {START_TIMEOUT_S:.0f} s"
            raise StorageError(f"a node of Ray did not start ({why}); see its log, {log}")
        time.sleep(0.5)


def _reason(log: str) -> str:
    """The last line of a log that names an error; else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception|fatal|cannot|fail", line, re.I)]
    return ((errors or lines or ["no output"])[-1])[:200]


def _count_alive(address: str) -> int:
    from ray.exceptions import RayError
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        # without a filter: Ray warns of the nodes that a filter leaves out
        nodes = list_nodes(address=address, timeout=5)
    except (RayStateApiException, RayError, OSError):  # it is not up yet
        return 0
    return sum(node.state == "ALIVE" for node in nodes)
