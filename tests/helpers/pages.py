"""Pages of prose (README, docs/, READMEs of wings): links, anchors and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page, with its language."""

    page: Path
    language: str
    text: str


def pages() -> list[Path]:
    """Markdown files that people read, in order."""
    tops = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    wings = [*(ROOT / "kdeov").rglob("README.md"), *(ROOT / "pipeline").rglob("README.md")]
    return [*tops, *sorted((ROOT / "docs").glob("*.md")), *sorted(wings)]


def name(page: Path) -> str:
    """Path of a page in the checkout."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[Block]:
    """Code blocks of a page in these languages."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page, kind, text) for kind, text in found if kind in languages]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Names that links may jump to: GitHub's form of every heading."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.replace(" ", "-") for text in plain}


def links(page: Path) -> list[str]:
    """Targets of a page's links and images that stay in the checkout."""
    return [link for link in LINK.findall(prose(page)) if not re.match(r"\w+:", link)]


def generated() -> set[str]:
    """Pages and figures that `make docs` writes."""
    return set(re.findall(r"docs/\S+", (ROOT / "Makefile").read_text(encoding="utf-8"))) - {"docs/"}
