"""The training loop that anybody would write, on tensors that are on the device already."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from kdeov.models.student import VisualStudent
from pipeline.data.step_inputs import StepInputs

MAX_NORM = 1.0


class BareLoop:
    """Steps of feature matching with AdamW, one backward pass a step, without a look at the loss.

    Args:
        student: The student; it is copied.
        batches: What steps take in turn.
        bfloat16: Whether the forward pass is under autocast.
        channels_last: Whether weights and pixels are.
    """

    def __init__(
        self,
        student: VisualStudent,
        batches: Sequence[StepInputs],
        bfloat16: bool = True,
        channels_last: bool = True,
    ) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.student = copy.deepcopy(student).to(memory_format=layout)  # type: ignore[call-overload]
        self.student.train()
        self.inputs = [(b.pixels.contiguous(memory_format=layout), b.teacher) for b in batches]
        self.device = batches[0].pixels.device
        self.bfloat16 = bfloat16
        self.parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)

    def run(self, steps: int) -> float:
        """Takes steps, and waits until they are done.

        Returns:
            Seconds until the last kernel was launched; on a CPU, until it was done.
        """
        start = time.perf_counter()
        for step in range(steps):
            pixels, teacher = self.inputs[step % len(self.inputs)]
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                embedding = self.student(pixels)
            loss = (1 - F.cosine_similarity(embedding.float(), teacher, dim=-1)).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
            self.optimizer.step()
        launched = time.perf_counter() - start
        wait_for(self.device)
        return launched


def wait_for(device: str | torch.device) -> None:
    """Waits until all kernels of a device are done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
