"""The modules of this project that a stage script imports, directly or through others."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kdeov", "pipeline", "stages")

# Modules that say where things run or how they are shown: no number depends on them, so no stage
# does.
SUBMISSION = {
    f"pipeline/cluster/{path.name}" for path in (ROOT / "pipeline" / "cluster").glob("*.py")
}
SHOWN_NOT_COUNTED = (
    {
        f"pipeline/{name}.py"
        for name in (
            "__init__",
            "console",
            "stage",
            "layout",
            "launch",
            "embed_queue",
            "lease",
            "on_ray",
            "step_log",
            "tracking",
            "tracking_target",
            "ui",
            "publish",
            "params",
            "place_params",
            "schema",
            "storage",
            "bucket",
            "upload",
            "source_params",
            "teacher_params",
            "cli",
        )
    }
    | SUBMISSION
    | {f"pipeline/doctor/{path.name}" for path in (ROOT / "pipeline" / "doctor").glob("*.py")}
    | {"kdeov/__init__.py", "kdeov/errors.py", "pipeline/sources/base.py"}
)


def imports_of(path: Path) -> set[Path]:
    """Files of this project that a file imports, type-checking blocks left out."""
    tree = ast.parse(path.read_text())
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
    """Paths, relative to the checkout, of all that a file imports, itself included."""
    found: set[Path] = set()
    queue = [start]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            # what a submission uses, to upload shards say, is not what the stage computes with
            if str(path.relative_to(ROOT)) not in SUBMISSION:
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
