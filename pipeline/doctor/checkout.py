"""Judges the checkout: whether what a run is made from is in git, and its tools are at hand."""

from __future__ import annotations

import importlib.metadata
import shutil

from kdeov.weights.clip import import_clip
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import git_state
from pipeline.doctor.check import Check, complaints, fault, ok, warning

NEEDS_CLIP = ("tiny", "clip")  # sources of teachers


def git(layout: Layout) -> list[Check]:
    """Whether the run can be named by a commit."""
    state = git_state(layout.root)
    if not state:
        text = f"{layout.root} has no commit"
        return [warning("git", text, "`git init` and commit, so that results can be rebuilt")]
    commit = state["git.commit"][:8]
    if state["git.dirty"] == "true":
        text = f"files differ from commit {commit}"
        return [warning("git", text, "commit them, so that results can be rebuilt")]
    return [ok("git", f"at commit {commit}, nothing changed")]


def tools(params: Params, layout: Layout) -> list[Check]:
    """Whether DVC and, where the teacher needs it, CLIP can be used."""
    checks = []
    if not (layout.root / "dvc.yaml").is_file():
        checks.append(fault("dvc", f"{layout.root} has no dvc.yaml", "run in a checkout of KDEOV"))
    elif shutil.which("dvc") is None:
        checks.append(fault("dvc", "the command is not found", "put its environment into PATH"))
    else:
        checks.append(ok("dvc", importlib.metadata.version("dvc")))
    if params.teacher.source in NEEDS_CLIP:
        with complaints("clip", checks):
            import_clip()
            setuptools = importlib.metadata.version("setuptools")
            checks.append(ok("clip", f"imports, with setuptools {setuptools}"))
    return checks
