"""Figures of a server for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts requests, seconds, batches and models of one application.

    Attributes:
        requests: By path and status.
        seconds: Of requests, by path.
        batches: Sizes of forward passes, by kind.
        active: Requests that are being answered.
        model: 1 for the digest of the model that answers.
        swaps: Models that have replaced another, by outcome.
    """

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        by_path = ("path",)
        self.requests = Counter("kdeov_requests", "Requests.", ("path", "status"), registry=own)
        self.seconds = Histogram(
            "kdeov_request_seconds", "Of a request.", by_path, buckets=SECONDS, registry=own
        )
        self.batches = Histogram(
            "kdeov_batch_size", "Items of a forward pass.", ("kind",), buckets=SIZES, registry=own
        )
        self.active = Gauge("kdeov_active_requests", "Requests being answered.", registry=own)
        self.model = Gauge("kdeov_model", "The model that answers.", ("digest",), registry=own)
        self.swaps = Counter("kdeov_model_swaps", "By outcome.", ("outcome",), registry=own)

    def text(self) -> bytes:
        """All of them in Prometheus's format."""
        return generate_latest(self.registry)
