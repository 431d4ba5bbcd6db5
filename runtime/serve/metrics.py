"""What a server tells Prometheus of itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ..turn import Turn

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.ready = Gauge("latentrt_ready", "1 while the engines are open and passed their probe.", registry=registry)
        self.waiting = Gauge("latentrt_queue_length", "Pictures that wait for their first step.", registry=registry)
        self.live = Gauge("latentrt_live_pictures", "Pictures with a step behind them.", registry=registry)
        self.requests = Gauge("latentrt_live_requests", "Requests that have no answer yet.", registry=registry)
        self.busy = Gauge(
            "latentrt_busy_seconds", "How long the engines' work under way has taken; 0 if none is.", registry=registry
        )
        self.stalled = Counter("latentrt_stalled", "Calls of an engine that never returned.", registry=registry)
        self.seconds = Histogram(
            "latentrt_request_seconds",
            "From a request's arrival to its end, by outcome.",
            ["outcome"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.turns = Histogram(
            "latentrt_turn_seconds",
            "One piece of the engines' work, by kind: encode, step, decode.",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rows = Histogram("latentrt_step_rows", "Rows of the UNet in one step.", buckets=_ROWS, registry=registry)
        self.pictures = Counter("latentrt_pictures", "Pictures drawn.", registry=registry)
        self.flagged = Counter("latentrt_flagged", "Pictures that the safety checker made black.", registry=registry)
        self.nan = Counter("latentrt_nan", "Requests that ended in NaN or infinity.", registry=registry)
        self.rejected = Counter("latentrt_rejected", "Requests not taken in, by reason.", ["reason"], registry=registry)
        self.opened = Counter("latentrt_opened", "How often the engines were opened.", registry=registry)
        self.answers = Counter("latentrt_http_answers", "HTTP answers by status.", ["status"], registry=registry)

    def turned(self, turn: Turn) -> None:
        """Count a piece of work; in the thread that did it."""
        self.turns.labels(turn.kind).observe(turn.seconds)
        if turn.kind == "step":
            self.rows.observe(turn.rows)

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self.registry)
