"""Metrics: the belief, and what this process counts while it serves machines, for Prometheus.

Names, units and kinds follow https://prometheus.io/docs/practices/naming/; `promtool check metrics` takes all of it. No
label has a value that a machine chose.
"""

import platform
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rack.belief import Belief
from shared import __version__
from shared.networks import Network, within
from shared.tls import Certificate

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_BEGAN = web.RequestKey("began", float)


LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meters:
    """What one rack process counts, and all that it believes, in one registry."""

    def __init__(self, belief: Belief, certificate: Certificate | None = None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Believed(belief, certificate))
        self.requests = Counter(
            "bootferry_rack_requests", "Requests of machines, by status.", ["status"], registry=self.registry
        )
        self.latency = Histogram(
            "bootferry_rack_request_duration_seconds",
            "Seconds from a machine's request to the head of its answer.",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.sent = Counter("bootferry_rack_sent_bytes", "Bytes of files sent to machines.", registry=self.registry)

    def install(self, app: web.Application, addresses: Sequence[Network]) -> None:
        """Count what `app` answers, and let it answer /metrics to who asks from one of `addresses`."""

        @web.middleware
        async def timed(request: web.Request, handler: _Handler) -> web.StreamResponse:
            request[_BEGAN] = time.perf_counter()
            return await handler(request)

        async def count(request: web.Request, response: web.StreamResponse) -> None:
            self.requests.labels(response.status).inc()
            # What is no HTTP has never come as far as `timed`.
            if (began := request.get(_BEGAN)) is not None:
                self.latency.observe(time.perf_counter() - began)

        async def metrics(request: web.Request) -> web.StreamResponse:
            if not within(request.remote or "", addresses):
                return web.Response(status=403, text="RACK_METRICS_ADDRESSES does not name your address.\n")
            return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

        app.middlewares.append(timed)
        app.on_response_prepare.append(count)
        app.router.add_get("/metrics", metrics)


class _Believed(Collector):
    """The belief as metrics, read when somebody asks."""

    def __init__(self, belief: Belief, certificate: Certificate | None) -> None:
        self._belief, self._certificate = belief, certificate

    def collect(self) -> Iterator[Metric]:
        belief = self._belief
        built = GaugeMetricFamily(
            "bootferry_rack_build_info", "1; its labels say what runs.", labels=["version", "python"]
        )
        built.add_metric([__version__, platform.python_version()], 1)
        yield built
        epoch, serial = belief.manifest.order if belief.manifest else (0, 0)
        gauges = {
            "files_held": ("Files of the manifest that are whole on this rack.", len(belief.held)),
            "left_bytes": ("Bytes still to be pulled.", belief.bytes_left),
            "free_bytes": ("Bytes the rack may still write to its disk.", belief.bytes_free),
            "images": ("Images machines can boot from.", len(belief.tree.images()) if belief.tree else 0),
            "images_pending": ("Images of the manifest that machines do not get as it says.", len(belief.pending)),
            "manifest_epoch": ("Epoch of the accepted manifest.", epoch),
            "manifest_serial": ("Serial of the accepted manifest.", serial),
            "failing": ("1 when the last poll met an error.", int(belief.last_error is not None)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"bootferry_rack_{name}", text, value=value)
        polled = GaugeMetricFamily(
            "bootferry_rack_last_poll_timestamp_seconds", "When the last poll ended, in seconds since 1970."
        )
        if belief.last_poll_at is not None:
            polled.add_metric([], belief.last_poll_at.timestamp())
        yield polled
        expires = GaugeMetricFamily(
            "bootferry_rack_tls_certificate_expires_timestamp_seconds",
            "When the certificate in use ends; none without TLS.",
        )
        if self._certificate is not None:
            expires.add_metric([], self._certificate.pair.expires_at.timestamp())
        yield expires
        errors = GaugeMetricFamily("bootferry_rack_error", "1 for the code of the last poll's error.", labels=["code"])
        if belief.last_error is not None:
            errors.add_metric([belief.last_error.code], 1)
        yield errors
        yield CounterMetricFamily(
            "bootferry_rack_pulled_bytes", "Bytes of files that came whole from the region.", value=belief.bytes_pulled
        )
        polls = CounterMetricFamily("bootferry_rack_polls", "Polls by how they ended.", labels=["outcome"])
        for outcome, count in belief.polls.items():
            polls.add_metric([outcome], count)
        yield polls
