"""Limits of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a server accepts and how it waits.

    Attributes:
        max_bytes: Of the body of a request.
        max_pixels: Of an image.
        max_labels: Of a request.
        max_prompts: Of a request: labels times templates.
        max_text: Characters of a label or a text.
        timeout_s: For a request, its upload included.
        batch_size: Images of a forward pass.
        batch_wait_s: How long the first image of a pass waits for others.
        capacity: Requests at a time, waiting or computed; more are answered with 503.
        follow_s: Between looks at an alias of MLflow's registry.
        token: That requests must show; None asks for none.
        hosts: Names of this server, with which a page of another origin cannot reach it by a DNS
            entry of its own; None accepts any.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 50_000_000
    max_labels: int = 1000
    max_prompts: int = 10_000
    max_text: int = 1000
    timeout_s: float = 30.0
    batch_size: int = 32
    batch_wait_s: float = 0.005
    capacity: int = 256
    follow_s: float = 5.0
    token: str | None = None
    hosts: tuple[str, ...] | None = None
