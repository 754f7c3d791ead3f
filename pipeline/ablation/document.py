"""The part of `docs/results.md` that shows an ablation: between two comments, and replaced."""

from __future__ import annotations

from pathlib import Path

from kdeov.errors import ConfigError
from pipeline.ablation.figure import ablation_figure
from pipeline.ablation.gains import Outcome
from pipeline.ablation.table import markdown_table
from pipeline.storage.files import write_text, writing

PAGE = Path("docs") / "results.md"


def write_document(outcome: Outcome, root: Path) -> Path:
    """Writes an ablation's table and figure, and leaves the rest of the page as it is. A page
    without the comments gets a section at its end.

    Args:
        outcome: The outcome.
        root: Folder of the checkout.

    Returns:
        The page.

    Raises:
        ConfigError: One of the two comments is missing or there twice.
        StorageError: The files cannot be written.
    """
    ablation, page = outcome.ablation, root / PAGE
    figure = page.with_name(f"ablation-{ablation.name}.svg")
    begin, end = f"<!-- ablation {ablation.name} -->", f"<!-- /ablation {ablation.name} -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    if (
        text.count(begin) != text.count(end)
        or text.count(begin) > 1
        or _is_crossed(text, begin, end)
    ):
        raise ConfigError(f"{page}: must have `{begin}` and then `{end}` once; correct the page")
    if begin not in text:
        text = f"{text.rstrip()}\n\n## {ablation.question}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    block = (
        f"`kdeov ablation {ablation.name}`:\n\n{markdown_table(outcome)}\n\n"
        f"![{ablation.question}]({figure.name})"
    )
    with writing(figure) as file:
        file.write(ablation_figure(outcome))
    write_text(page, f"{before}{begin}\n\n{block}\n\n{end}{after}")
    return page


def _is_crossed(text: str, begin: str, end: str) -> bool:
    return begin in text and text.index(end) < text.index(begin)
