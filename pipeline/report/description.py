"""The description of a run on its MLflow page, in Markdown: a sentence, the table of teacher and
student, the command that repeats the run, and links to its files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from shlex import quote

from pipeline.config.origin import OWN, Origin
from pipeline.config.params import Params
from pipeline.report.results import MetricValue, Results, format_percent, format_score

LONGEST = 8_000  # characters that MLflow takes in a tag
LONGEST_COMMAND = 3_000  # characters; the run's params have every value


def describe_run(results: Results, params: Params, tags: Mapping[str, str], page: str) -> str:
    """The description of a run.

    Args:
        results: The results of all stages.
        params: Params of the checkout.
        tags: Tags of the run, for its commit.
        page: Address of the run on MLflow's page, without a host: `#/experiments/1/runs/2`.

    Returns:
        Markdown. Names and values from outside are escaped.
    """
    links = [
        f"[{title}]({page}/artifacts/{path})"
        for title, path in (("Report", "report/index.html"), ("metrics", "metrics"))
    ]
    lines = [_sentence(results), "", *_table(results), ""]
    lines += _command(params, tags)
    lines += ["", f"{links[0]} with figures and examples; all {links[1]} as files.", ""]
    for remark in results.remarks():
        lines += [markdown_text(remark), ""]
    lines += ["In brackets: 95% bootstrap intervals over the test images. Protocols:", ""]
    lines += [f"- {_code(line)}" for line in results.protocols()]
    lines += results.detection.markdown() if results.detection else []
    lines += ["", f"Fingerprint `{results.run.fingerprint}`."]
    return "\n".join(lines)[:LONGEST]


def markdown_text(text: str) -> str:
    """A text as Markdown shows it, whatever marks and HTML are in it; line breaks become spaces."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$-])", r"\\\1", " ".join(text.split()))


def _sentence(results: Results) -> str:
    """What was distilled into what, and how well, in one sentence."""
    run = results.run
    backbone = str(run.params["distill"]["backbone"]).removeprefix("timm:")
    text = (
        f"{markdown_text(run.teacher)} distilled into {markdown_text(backbone)} "
        f"on {markdown_text(run.dataset)}"
    )
    for scores, key, label in (
        (results.zero_shot, "top1", "zero-shot top-1"),
        (results.retrieval, "t2i_r5", "text to image R@5"),
    ):
        if (own := MetricValue.of(scores.get("student"), key)) is None:
            continue
        kept = MetricValue.of(scores.get("retained"), key)
        share = f", {format_percent(kept)} of the teacher's" if kept else ""
        return f"**{text}: {label} {format_score(own)}{share}.**"
    return f"**{text}.**"


def _table(results: Results) -> list[str]:
    head = [
        f"| test split | {' | '.join(results.columns)} |",
        f"|---|{'---:|' * len(results.columns)}",
    ]
    return head + [f"| {' | '.join(cells)} |" for cells in results.table()]


def _command(params: Params, tags: Mapping[str, str]) -> list[str]:
    """The command that repeats the run, as a block of code."""
    origin = Origin.of(params)
    lines = []
    if commit := tags.get("git.commit"):
        changed = "  # files of the checkout differed from it" if is_dirty(tags) else ""
        lines.append(f"git checkout {commit}{changed}")
    if experiment := tags.get("dvc.exp_name"):
        lines.append(f"dvc exp apply {quote(experiment)}")
    elif origin.recipe == OWN:
        lines.append("# params.yaml is no recipe's; the page's params are its values")
    else:
        lines.append(_use(origin))
    lines.append("dvc repro")
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return ["To repeat it:", "", f"{fence}bash", text, fence]


def _use(origin: Origin) -> str:
    """The command that writes the params."""
    command, left = f"kdeov use {origin.recipe}", len(origin.changes)
    for key, value in origin.changes.items():
        change = quote(f"{key}={json.dumps(value, ensure_ascii=False)}")
        if len(command) + len(change) > LONGEST_COMMAND:
            return f"{command}  # and {left} other params: see the page's params"
        command += f" \\\n    --set {change}"
        left -= 1
    return command


def is_dirty(tags: Mapping[str, str]) -> bool:
    """Whether files of the checkout differed from the run's commit."""
    return tags.get("git.dirty") == "true"


def _code(text: str) -> str:
    """A text as code within a line."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"
