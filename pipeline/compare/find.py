"""Which run a name stands for: the workspace, a git revision, a DVC experiment, a run of MLflow."""

from __future__ import annotations

from difflib import get_close_matches

from kdeov.errors import ConfigError
from pipeline.compare.files import RevisionFiles, RunFiles, WorkspaceFiles
from pipeline.compare.git import experiments, find_commit, git, is_checkout
from pipeline.compare.mlflow_files import PREFIX, find_in_mlflow
from pipeline.config.paths import Layout

WORKSPACE = ("workspace", ".")


def find_run(name: str, layout: Layout) -> RunFiles:
    """The files of the run that a name stands for. Git comes first, then DVC's experiments.

    Args:
        name: `workspace`, a git revision, a DVC experiment, or the id or name of a run in MLflow.
        layout: The checkout.

    Raises:
        ConfigError: There is none; the line names the nearest.
        StorageError: MLflow cannot be read.
    """
    if not (layout.root / "dvc.yaml").is_file():
        raise ConfigError(f"{layout.root}: no dvc.yaml here; run in a checkout of KDEOV")
    if name in WORKSPACE:
        return WorkspaceFiles(layout.root)
    names: list[str] = []
    if not name.startswith(PREFIX) and is_checkout(layout.root):
        by_name = experiments(layout.root)
        commit = find_commit(layout.root, name) or by_name.get(name)
        if commit is not None:
            return RevisionFiles(layout.root, commit, name)
        names = [*by_name, *_branches_and_tags(layout)]
    run, others = find_in_mlflow(name, layout)
    if run is not None:
        return run
    near = get_close_matches(name.removeprefix(PREFIX), dict.fromkeys([*names, *others]), n=1)
    hint = f"did you mean {near[0]}?" if near else "`dvc exp list -A` and `kdeov ui` list them"
    raise ConfigError(f"{name}: no git revision, DVC experiment or MLflow run; {hint}")


def _branches_and_tags(layout: Layout) -> list[str]:
    form = "--format=%(refname:short)"
    return git(layout.root, "for-each-ref", form, "refs/heads", "refs/tags").splitlines()
