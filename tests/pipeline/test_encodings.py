"""Every text that is read or written is UTF-8, whatever the locale."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = ("kdeov", "pipeline", "stages", "tests")
METHODS = {"read_text", "write_text", "TextIOWrapper", "NamedTemporaryFile", "TemporaryFile"}
MODE = re.compile("[rwa]t?[+]?|[rwax]?b[+]?|[rwax][+]?b")
PROCESSES = {"run", "Popen", "check_output"}


def calls_without_encoding(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each call that would take its encoding from the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in named or None in named:  # None: `**options`
            continue
        texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
        texts += [v.value for v in named.values() if isinstance(v, ast.Constant)]
        if name == "open":
            builtin = isinstance(node.func, ast.Name)
            modes = [t for t in texts if isinstance(t, str) and MODE.fullmatch(t)]
            owner = getattr(getattr(node.func, "value", None), "id", "")
            of_path = bool(modes) and owner not in ("tarfile", "storage")
            if any("b" in mode for mode in modes) or not (builtin or of_path):
                continue
        elif name in METHODS:
            positional = len(node.args) > (1 if name == "write_text" else 0)
            temporary = name.endswith("TemporaryFile") and "w" not in texts
            # a plain name is a function of our own, which writes UTF-8
            if isinstance(node.func, ast.Name) or positional or temporary:
                continue
        elif name not in PROCESSES or True not in (
            getattr(named.get(key), "value", None) for key in ("text", "universal_newlines")
        ):
            continue
        yield node.lineno, name


@pytest.mark.parametrize("folder", FOLDERS)
def test_reads_and_writes_name_their_encoding(root: Path, folder: str) -> None:
    found = [
        f"{path.relative_to(root)}:{line}: {name}"
        for path in sorted((root / folder).rglob("*.py"))
        for line, name in calls_without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(['give encoding="utf-8":', *found])
