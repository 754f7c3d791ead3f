"""The modules of this project that a stage script imports, directly or through others."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.helpers import ROOT

PACKAGES = ("kdeov", "pipeline", "stages")

# Wings that say where things run or how they are shown: no number depends on them, so no stage
# does, and what they import of other wings is not what a stage computes with.
UNLISTED = (
    "pipeline/ablation/", "pipeline/bench/", "pipeline/cli/", "pipeline/cluster/",
    "pipeline/compare/", "pipeline/config/", "pipeline/doctor/",
    "pipeline/inference/", "pipeline/runtime/", "pipeline/search/", "pipeline/serve/",
    "pipeline/storage/", "pipeline/tracking/",
    "pipeline/__init__.py", "pipeline/console.py", "pipeline/stage.py",
    "kdeov/__init__.py", "kdeov/errors.py",
)  # fmt: skip


def imports_of(path: Path) -> set[Path]:
    """Files of this project that a file imports, type-checking blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {file for name in names if (file := _file(name)) is not None}


def closure(start: Path) -> set[str]:
    """Paths, relative to the checkout, of what a stage computes with: all that its script imports,
    itself included, without unlisted wings.
    """
    found: set[Path] = set()
    queue = [start]
    while queue:
        path = queue.pop()
        if path not in found and not str(path.relative_to(ROOT)).startswith(UNLISTED):
            found.add(path)
            queue += imports_of(path)
    return {str(path.relative_to(ROOT)) for path in found}


def _file(module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
