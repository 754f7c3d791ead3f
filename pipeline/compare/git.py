"""Commands of git, and the experiments that DVC keeps as refs of git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kdeov.errors import ConfigError

EXPERIMENTS = "refs/exps/"
NOT_NAMED = ("exec", "stash", "celery")  # refs of DVC's own work, beside those of experiments


def git(folder: Path, *arguments: str) -> str:
    """What a command of git prints.

    Raises:
        ConfigError: git is missing or fails.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"git: {error.strerror}; install git") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ConfigError(f"`git {' '.join(arguments)}` failed in {folder}: {lines[-1]}")
    return done.stdout.strip()


def is_checkout(folder: Path) -> bool:
    """Whether a folder lies in a git checkout, and git is installed."""
    try:
        return bool(git(folder, "rev-parse", "--git-dir"))
    except ConfigError:
        return False


def git_file(folder: Path, commit: str, path: str) -> bytes | None:
    """The bytes of a file of a commit; None where it has none."""
    command = ["git", "cat-file", "blob", f"{commit}:./{path}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True)
    except OSError as error:
        raise ConfigError(f"git: {error.strerror}; install git") from error
    return None if done.returncode else done.stdout


def find_commit(folder: Path, name: str) -> str | None:
    """The commit that git knows by a name; None if there is none."""
    try:
        return git(
            folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
    except ConfigError:
        return None


def experiments(folder: Path, baseline: str | None = None) -> dict[str, str]:
    """The experiments of DVC: the commit of each by its name, the newest where commits have
    experiments of one name.

    Args:
        folder: A git checkout.
        baseline: The commit that they are experiments of; None for those of all commits.
    """
    prefix = EXPERIMENTS if baseline is None else f"{EXPERIMENTS}{baseline[:2]}/{baseline[2:]}/"
    form = "--format=%(refname) %(objectname)"
    lines = git(folder, "for-each-ref", "--sort=creatordate", form, prefix).splitlines()
    found = {}
    for ref, commit in map(str.split, lines):
        parts = ref.removeprefix(EXPERIMENTS).split("/", 2)
        if len(parts) == 3 and parts[0] not in NOT_NAMED:
            found[parts[2]] = commit
    return found
