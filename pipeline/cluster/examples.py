"""Cluster files to start from: `aws` for `ray up`, `kuberay` for Kubernetes."""

from __future__ import annotations

from pathlib import Path

from kdeov.errors import ConfigError

FOLDER = Path(__file__).parent


def example(name: str) -> str:
    """The text of a cluster file, with comments on what to change and how to use it.

    Raises:
        ConfigError: There is none of this name.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"no cluster file is called {name!r}; choose from {', '.join(names)}")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
