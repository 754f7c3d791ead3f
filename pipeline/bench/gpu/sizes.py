"""Sizes of `kdeov bench gpu`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.bench.sizes import BenchSizes, Precision


@dataclass(frozen=True)
class GpuSizes:
    """Sizes of `kdeov bench gpu`; the defaults take some minutes of a large GPU.

    Attributes:
        teacher: See `BenchSizes`.
        precision: Of the teacher; see the section `embed`.
        batch: Images a training step.
        batches: Different batches, which steps take in turn.
        steps: Training steps between two looks at the clock.
        embed_views: Views that one repeat embeds.
        embed_batch: Views a forward pass of the teacher; `auto` fills the GPU.
        repeats: Rounds.
        compile: Whether torch.compile is measured, which takes a minute to start.
    """

    teacher: tuple[int, ...] = (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
    precision: Precision = "bfloat16"
    batch: int = 512
    batches: int = 4
    steps: int = 20
    embed_views: int = 8192
    embed_batch: int | str = "auto"
    repeats: int = 7
    compile: bool = True

    @property
    def data(self) -> BenchSizes:
        """Sizes of the same student, with which `distill_params` makes its section."""
        return BenchSizes(teacher=self.teacher, step_batch=self.batch)
