"""Meters: what this process counts while it works, for /metrics. Everything else there is read when somebody asks.

Names, units and kinds follow https://prometheus.io/docs/practices/naming/. No label has a value that a stranger chose,
and none a rack: what is told costs the same with one rack and with thousands.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meters:
    """The counters of one region process, in a registry of their own: none is shared by two regions in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.latency = Histogram(
            "bootferry_http_request_duration_seconds",
            "Seconds from a request to the head of its answer, by the route (below /api/v1) that took it.",
            ["method", "route", "status"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.sent = Counter(
            "bootferry_http_sent_bytes",
            "Bytes of answers, by who asked. What an nginx in front sends by X-Accel-Redirect is not among them.",
            ["to"],
            registry=self.registry,
        )
        self.fetched = Counter(
            "bootferry_source_fetched_bytes",
            "Bytes of files that came whole from a source.",
            ["source"],
            registry=self.registry,
        )
