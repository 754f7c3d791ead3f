"""Where a student comes from and under which licenses: facts of the report and the model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdeov import __version__
from pipeline.artifacts.identity import read_teacher_identity
from pipeline.config.paths import Layout
from pipeline.config.provenance import git_state
from pipeline.report.registry.logged_model import CARD
from pipeline.report.results import Results
from pipeline.storage.checked import read_checked_json

SOFTWARE_LICENSE = "AGPL-3.0-only"  # as in pyproject.toml
LICENSE_LABELS = {"data": "images", "teacher": "teacher's weights", "backbone": "backbone"}


@dataclass(frozen=True)
class Provenance:
    """The origin of a student.

    Attributes:
        name: Name of the run.
        facts: What it was made from, each a label with its value.
        licenses: By part, the license or what is known of it.
        repeat: The commands that make it again.
        export: The card of the export, `card.json`.
    """

    name: str
    facts: list[tuple[str, str]]
    licenses: list[tuple[str, str]]
    repeat: list[str]
    export: dict[str, Any]

    @classmethod
    def read(cls, results: Results, paths: Layout) -> Provenance:
        """Collects the facts from the records of the run.

        Args:
            results: The results of the run.
            paths: Paths of the checkout.

        Raises:
            DataError: The export or the teacher's identity is missing, damaged or edited.
        """
        card = read_checked_json(paths.export / CARD, "export")
        teacher, run = read_teacher_identity(paths.teacher), results.run
        distill, weights = run.params["distill"], run.ingredients["backbone_weights"]
        facts = [
            ("fingerprint", run.fingerprint),
            ("teacher", f"{run.teacher} ({teacher['library']}, {_pixels(teacher)})"),
            ("teacher's weights, sha256", str(teacher.get("weights_sha256") or "not recorded")),
            ("embedding space", f"{card['embed_dim']} dimensions, {card['text']['space'][:16]}"),
            ("backbone", distill["backbone"]),
            ("backbone's weights at the start", weights or "random"),
            ("fusion", distill["fusion"] if run.fusion_is_trained else "not trained"),
            ("data", f"{results.dataset.name} ({results.dataset.source})"),
            *[
                (f"images of {split}, sha256 of the manifest", digest)
                for split, digest in results.dataset.manifests.items()
            ],
            ("code, digest", run.ingredients["code"]),
            ("KDEOV", __version__),
        ]
        licenses = [
            (label, str(card["licenses"].get(part, "not recorded")))
            for part, label in LICENSE_LABELS.items()
        ]
        return cls(
            name=run.name,
            facts=[(label, str(value)) for label, value in facts],
            licenses=[*licenses, ("KDEOV, which made it", SOFTWARE_LICENSE)],
            repeat=_repeat(paths),
            export=card,
        )


def _repeat(paths: Layout) -> list[str]:
    """The commands that make the run again; outside of git, as on a cluster, the last one alone."""
    state = git_state(paths.root)
    if not state:
        return ["dvc repro"]
    note = (
        "  # with the params below: files differed from it" if state["git.dirty"] == "true" else ""
    )
    return [f"git checkout {state['git.commit'][:12]}{note}", "dvc repro"]


def _pixels(teacher: dict[str, Any]) -> str:
    """The input size of a teacher; empty where it has no image tower."""
    transform = teacher.get("transform") or {}
    return f"{transform['size']} px" if "size" in transform else "embeddings alone"
