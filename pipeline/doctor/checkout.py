"""Checks of the checkout: git can name the run, DVC and CLIP can be used, bytecode is kept."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys

from kdeov.weights.clip import import_clip
from pipeline.config.params import Params
from pipeline.config.paths import Layout
from pipeline.config.provenance import git_state
from pipeline.doctor.check import Check, error, ok, report_errors, warning

CLIP_SOURCES = ("tiny", "clip")  # values of teacher.source that need the clip package


def git(layout: Layout) -> list[Check]:
    """Checks that a commit names the run."""
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
    """Checks DVC and, where the teacher needs it, the clip package."""
    checks = []
    if not (layout.root / "dvc.yaml").is_file():
        checks.append(
            error(
                "dvc", f"{layout.root} has no dvc.yaml", "run `kdeov doctor` in a checkout of KDEOV"
            )
        )
    elif shutil.which("dvc") is None:
        checks.append(error("dvc", "the command `dvc` is not in PATH", "activate its environment"))
    else:
        checks.append(ok("dvc", importlib.metadata.version("dvc")))
    if params.teacher.source in CLIP_SOURCES:
        with report_errors("clip", checks):
            import_clip()
            setuptools = importlib.metadata.version("setuptools")
            checks.append(ok("clip", f"imports, with setuptools {setuptools}"))
    return checks


def bytecode() -> list[Check]:
    """Warns where Python keeps no bytecode, as images of containers often have it: every stage and
    every Ray worker then compiles the libraries again, torch alone in about two seconds.
    """
    if not sys.dont_write_bytecode:
        return []
    text = "PYTHONDONTWRITEBYTECODE is set: every process compiles torch and the others again"
    return [warning("bytecode", text, "unset it; a start then takes half as long")]
