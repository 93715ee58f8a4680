"""Figures for Prometheus. The one door to its client; each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry, "namespace": "luthier"}
        self.requests = Counter("requests", "Requests by route and status.", ["route", "status"], **own)
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts that were answered.", **own)
        self.generated_tokens = Counter("generated_tokens", "Tokens of answers.", **own)
        self.cancelled = Counter("cancelled", "Requests whose client went away.", **own)
        self.first_token = Histogram("first_token_seconds", "From request to first token.", buckets=SECONDS, **own)
        self.seconds = Histogram("request_seconds", "From request to the end of its answer.", buckets=SECONDS, **own)
        self._gauges = {
            name: Gauge(name, help, **own)
            for name, help in (
                ("running", "Answers being written."),
                ("waiting", "Answers that wait for their turn."),
                ("cached_tokens", "Tokens held in the cache."),
                ("cache_tokens", "Tokens that the cache has room for."),
            )
        }
        self._figures = figures

    def page(self) -> bytes:
        for name, value in self._figures().items():
            self._gauges[name].set(value)
        return generate_latest(self._registry)
