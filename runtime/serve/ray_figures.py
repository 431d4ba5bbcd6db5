"""A replica's figures among Ray's own, which each node tells Prometheus: `ray_latentrt_...`, by replica."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge


class RayFigures:
    """Hands the samples of a registry to Ray. Counters and buckets go as gauges: Ray takes no counter's value."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}

    def tell(self) -> None:
        """Tell all samples as they are now; within a replica, whose name Ray adds to them."""
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                if sample.name not in self._gauges:
                    self._gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                self._gauges[sample.name].set(sample.value, tags=sample.labels)
