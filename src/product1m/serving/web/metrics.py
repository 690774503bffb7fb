"""Figures of a server for Prometheus."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from product1m.serving.live import ServedModel
from product1m.serving.web.schema import ModelRole
from product1m.serving.web.workers import WorkerThreads

SECONDS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1, 2, 5, 10, 20)
BOXES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)
IN_CATALOGUE = "in_catalogue"
"""Key of a box's answers that says whether its product is in the catalogue, where a model says."""


class ServerMetrics:
    """The figures of one server; each has its own registry, so that tests can have several."""

    def __init__(self, workers: WorkerThreads) -> None:
        self._registry = _process_figures()
        self.requests = Counter(
            "product1m_requests",
            "Requests that were answered, by path and status.",
            ("path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "product1m_search_seconds",
            "Time from the complete request to its answer, waiting included.",
            ("model",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._boxes = Histogram(
            "product1m_boxes_per_photo",
            "Boxes that were answered in a photo.",
            ("model",),
            buckets=BOXES,
            registry=self._registry,
        )
        self._not_in_catalogue = Counter(
            "product1m_boxes_not_in_catalogue",
            "Boxes whose product is not in the catalogue, where the model says so; divided by "
            "product1m_boxes_per_photo_sum it is their share.",
            ("model",),
            registry=self._registry,
        )
        waiting = Gauge(
            "product1m_photos_waiting", "Photos that wait for a worker.", registry=self._registry
        )
        waiting.set_function(lambda: workers.num_waiting)
        self._served = Info(
            "product1m_served",
            "Digests of the model and the catalogue that answer.",
            ("model",),
            registry=self._registry,
        )

    def answered(self, role: ModelRole, seconds: float, boxes: list[Mapping[str, Any]]) -> None:
        """Count a photo that was answered."""
        self._seconds.labels(role).observe(seconds)
        self._boxes.labels(role).observe(len(boxes))
        absent = sum(box.get(IN_CATALOGUE) is False for box in boxes)
        self._not_in_catalogue.labels(role).inc(absent)

    def page(self, served: Mapping[ModelRole, ServedModel]) -> bytes:
        """The figures as text."""
        for role, model in served.items():
            self._served.labels(role).info(
                {
                    "name": model.name,
                    "model_digest": model.model_digest,
                    "catalogue_digest": model.catalogue_digest,
                    "items": str(len(model.service.searcher.gallery)),
                }
            )
        return generate_latest(self._registry)


def _process_figures() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry
