"""Losses of distillation. Each takes tensors and compares unit embeddings; teacher tensors never
receive gradients.

On several ranks the inputs are the global batch (see `kdeov.training.distributed.gather`), and each
rank may compute the loss of its local rows alone. The mean over the ranks is then the value of one
process, and no rank holds more similarities than its rows against the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import ConfigError

TERMS = ("feature", "affinity", "relation", "contrastive", "interactive")
NEEDS_TEXT = ("affinity", "contrastive")
ALL_ROWS = slice(None)
COUPLED = ("affinity", "relation", "contrastive", "interactive")  # compare with others of the batch


class DistillationLoss(nn.Module):
    """Feature matching: the student's embedding against the teacher's of the same view.

    `cosine` is 1 - cos; `l2` is the squared distance of the unit embeddings, FD in CLIP-KD (Yang et
    al., 2024, arXiv:2307.12732), which carries most of the gain there.

    Args:
        kind: `cosine` or `l2`.

    Raises:
        ConfigError: Unknown kind.
    """

    def __init__(self, kind: str = "cosine"):
        super().__init__()
        if kind not in ("cosine", "l2"):
            raise ConfigError(f"feature loss {kind!r} is unknown; choose cosine or l2")
        self.kind = kind

    def forward(self, student: Tensor, teacher: Tensor, local_rows: slice = ALL_ROWS) -> Tensor:
        """Embeddings [B, D] of student and teacher to the scalar mean over the local rows."""
        student = F.normalize(student[local_rows], dim=-1)
        teacher = F.normalize(teacher.detach()[local_rows], dim=-1)
        if self.kind == "l2":
            return (student - teacher).square().sum(dim=-1).mean()
        return (1 - (student * teacher).sum(dim=-1)).mean()


class CrossModalAlignmentLoss(nn.Module):
    """Symmetric InfoNCE with a learnable temperature (CLIP, Radford et al., 2021,
    arXiv:2103.00020).

    Args:
        temperature: Initial temperature; its inverse is learnt in log space and kept at most 100.
    """

    def __init__(self, temperature: float = 0.07):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self, images: Tensor, texts: Tensor, local_rows: slice = ALL_ROWS) -> Tensor:
        """Student images [B, D] and the teacher's embeddings [B, D] of the same rows to a scalar:
        the mean over the local rows, each against the whole batch in both directions.
        """
        images, texts = F.normalize(images, dim=-1), F.normalize(texts.detach(), dim=-1)
        scale = self.log_scale.exp().clamp(max=100)
        target = torch.arange(len(images), device=images.device)[local_rows]
        image_loss = F.cross_entropy(scale * images[local_rows] @ texts.T, target)
        return (image_loss + F.cross_entropy(scale * texts[local_rows] @ images.T, target)) / 2


class AffinityDistillationLoss(nn.Module):
    """KL of the teacher's similarity matrix: of images with texts, CKD in CLIP-KD
    (arXiv:2307.12732); with the teacher's images in the place of texts, of images with
    images, as in SEED (Fang et al., 2021, arXiv:2101.04731).

    Args:
        temperature: Temperature of both softmaxes.
    """

    def __init__(self, temperature: float = 0.02):
        super().__init__()
        self.temperature = temperature

    def forward(
        self, student: Tensor, teacher: Tensor, texts: Tensor, local_rows: slice = ALL_ROWS
    ) -> Tensor:
        """Student images, teacher images and teacher texts, [B, D] each, to a scalar: the mean
        over the local rows, each against the whole batch in both directions.
        """
        texts = F.normalize(texts.detach(), dim=-1) / self.temperature
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher.detach(), dim=-1)
        image_loss = _kl(student[local_rows] @ texts.T, teacher[local_rows] @ texts.T)
        return (image_loss + _kl(texts[local_rows] @ student.T, texts[local_rows] @ teacher.T)) / 2


class FeatureAlignmentLoss(nn.Module):
    """The weighted sum of the terms whose weight is positive.

    Args:
        weights: Weight of each term: `feature` (student to teacher image), `affinity` (KL of the
            similarities of images with texts), `relation` (the same with images),
            `contrastive` (InfoNCE of student images with the teacher's caption embeddings: ICL of
            CLIP-KD from the side of images), `interactive` (InfoNCE of student
            images with teacher images). Terms of weight 0 are not computed.
        kind: Kind of the feature term, `cosine` or `l2`.

    Raises:
        ConfigError: Unknown term, negative weight, or no positive one.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, kind: str = "cosine"):
        super().__init__()
        if not isinstance(weights, Mapping | None):
            raise ConfigError(f"loss weights are {weights!r}; give a mapping of terms to numbers")
        weights = {"feature": 1.0} if weights is None else dict(weights)
        unknown = [name for name in weights if name not in TERMS]
        if unknown:
            raise ConfigError(
                f"loss term {unknown[0]!r} is unknown; choose from {', '.join(TERMS)}"
            )
        for name, weight in weights.items():
            if not isinstance(weight, Real) or not math.isfinite(weight):
                raise ConfigError(f"the weight of loss {name!r} is {weight!r}; give a number")
        negative = [name for name, weight in weights.items() if weight < 0]
        if negative:
            raise ConfigError(f"the weight of loss {negative[0]!r} is negative; give 0 or more")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight > 0}
        if not self.weights:
            raise ConfigError(
                f"every loss weight is 0; give one of {', '.join(TERMS)} a positive weight"
            )
        modules: dict[str, nn.Module] = {
            "feature": DistillationLoss(kind),
            "affinity": AffinityDistillationLoss(),
            "relation": AffinityDistillationLoss(),
            "contrastive": CrossModalAlignmentLoss(),
            "interactive": CrossModalAlignmentLoss(),
        }
        # only used terms: a temperature is a parameter, and DDP needs a gradient of each parameter
        self.terms = nn.ModuleDict({name: modules[name] for name in self.weights})

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        texts: Tensor | None = None,
        local_rows: slice = ALL_ROWS,
    ) -> dict[str, Tensor]:
        """The named terms, unweighted, and their weighted `total`.

        Args:
            student: [B, D] student images.
            teacher: [B, D] teacher images.
            texts: [B, D] teacher texts; may be None or [B, 0] where no term needs them.
            local_rows: Rows of the global batch whose loss is computed; all by default.

        Raises:
            ConfigError: A term needs texts and there are none, or the widths differ.
        """
        if (texts is None or not texts.shape[1]) and any(n in self.weights for n in NEEDS_TEXT):
            raise ConfigError(
                "the affinity and contrastive losses need captions; set their weights to 0"
            )
        if student.shape != teacher.shape:
            raise ConfigError(
                f"student embeddings of shape {tuple(student.shape)} cannot be compared with "
                f"teacher embeddings of shape {tuple(teacher.shape)}; build the student for this "
                "teacher"
            )
        inputs = {
            "feature": (student, teacher),
            "affinity": (student, teacher, texts),
            "relation": (student, teacher, teacher),
            "contrastive": (student, texts),
            "interactive": (student, teacher),
        }
        terms = {name: term(*inputs[name], local_rows) for name, term in self.terms.items()}
        terms["total"] = sum(self.weights[name] * value for name, value in terms.items())
        return terms


def cosine_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos of embeddings [..., D] of student and teacher, one by one: [...]."""
    return 1 - F.cosine_similarity(student, teacher.detach(), dim=-1)


def _kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return F.kl_div(
        F.log_softmax(student_logits, dim=1), F.log_softmax(teacher_logits, dim=1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
