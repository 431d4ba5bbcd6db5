"""The service's figures among Triton's own, on its metrics port."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

_COUNTED = ("_total", "_count", "_sum")
_LEFT_OUT = ("_bucket", "_created")  # a histogram is told as its sum and its count


class Figures:
    """Tells a registry's figures to Triton, labelled with the model's instance."""

    def __init__(self, backend: Any, registry: CollectorRegistry, instance: str) -> None:
        self._backend, self._registry, self._instance = backend, registry, instance
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Any, float]] = {}

    def tell(self) -> None:
        """Bring Triton's up to date."""
        for family in self._registry.collect():
            for sample in family.samples:
                if not sample.name.endswith(_LEFT_OUT):
                    self._tell(sample, family.documentation)

    def _tell(self, sample: Sample, words: str) -> None:
        counted = sample.name.endswith(_COUNTED)
        key = (sample.name, tuple(sorted(sample.labels.items())))
        if key not in self._metrics:
            self._metrics[key] = (self._metric(sample, words, counted), 0.0)
        metric, before = self._metrics[key]
        if sample.value != before:
            metric.increment(sample.value - before)
            self._metrics[key] = (metric, sample.value)

    def _metric(self, sample: Sample, words: str, counted: bool) -> Any:
        kinds = self._backend.MetricFamily
        if sample.name not in self._families:
            kind = kinds.COUNTER if counted else kinds.GAUGE
            self._families[sample.name] = kinds(name=sample.name, description=words, kind=kind)
        return self._families[sample.name].Metric(labels={**sample.labels, "instance": self._instance})
