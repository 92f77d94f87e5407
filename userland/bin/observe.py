"""Metrics in Prometheus' format and traces by OpenTelemetry: programs that ask, like any other.

    sys.stats, proc.list ──> collector ──> /metrics          (engram metrics --serve)
    sys.trace --follow   ──> spans     ──> an OTLP collector (engram traces)

Nothing of it runs unless it is asked for, and the kernel knows neither format.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

from syscalls.calls.proc import ListCall, Processes
from syscalls.calls.sys import Info, Stats, StatsCall, SystemInfo, Trace
from syscalls.errors import EINVAL, ENODEV
from userland.context import Context, reference

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from syscalls.shapes import TraceLine

PROCESS_FIGURES = ("calls", "inflight", "mailbox", "rss", "nice", "restarts")
"""Fields of a process that are measured."""
SECOND = 1_000_000_000
FLUSH = 10.0
"""Seconds that the last spans are given."""


def _absent(error: ImportError) -> ENODEV:
    return ENODEV(f"a library is missing: {error.name}", hint="install `engramos[observe]`")


# --- metrics


def metrics_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, if they are to be served."""
    parser.add_argument(
        "--serve", metavar="HOST:PORT", help="answer scrapes at /metrics until Ctrl-C"
    )


def metrics(context: Context, options: argparse.Namespace) -> int:
    """The figures of every part in Prometheus' text format, once or for as long as it runs."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    except ImportError as error:
        raise _absent(error) from error
    registry = CollectorRegistry()
    registry.register(Figures(context))
    if options.serve is None:
        context.screen.line(generate_latest(registry).decode().rstrip())
        return 0
    host, port = _address(options.serve)
    server, thread = start_http_server(port, host, registry)
    context.screen.line(f"metrics at http://{host}:{server.server_port}/metrics; Ctrl-C ends it")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise EINVAL(f"{text!r} is no address", hint="such as 127.0.0.1:9464")
    return host or "127.0.0.1", int(port)


class Figures:
    """What a scrape gets: asked for when it is scraped, nothing is kept."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        """Scrapes come in threads of their own; a client serves one."""

    def describe(self) -> list[Any]:
        """Nothing: the names are known when they are asked for."""
        return []

    def collect(self) -> Iterator[Any]:
        """The families of all figures."""
        from prometheus_client.core import GaugeMetricFamily, UntypedMetricFamily

        with self._lock:
            info: SystemInfo = self._context.client.call(Info())
            stats: Stats = self._context.client.call(StatsCall())
            found: Processes = self._context.client.call(ListCall())
        up = GaugeMetricFamily(
            "engram_driver_ready", "1 where a driver can serve", labels=("driver", "kind")
        )
        for driver in info.drivers:
            up.add_metric([driver.name, driver.kind], float(driver.state == "ready"))
        yield up
        for name, value in flat(stats.stats, "engram"):
            yield UntypedMetricFamily(name, "see sys.stats", value=value)
        for field in PROCESS_FIGURES:
            family = UntypedMetricFamily(
                f"engram_process_{field}", f"{field} of a process", labels=("apid", "name")
            )
            for process in found.processes:
                family.add_metric([str(process.apid), process.name], getattr(process, field))
            yield family


def flat(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The numbers of a tree by names that Prometheus takes."""
    for key, value in tree.items():
        name = f"{prefix}_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in str(key))
        if isinstance(value, dict):
            yield from flat(value, name)
        elif isinstance(value, (int, float)):
            yield name, float(value)


# --- traces


def traces_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose calls, and where to."""
    parser.add_argument("--to", required=True, metavar="URL", help="an OTLP collector over HTTP")
    parser.add_argument("-e", "--call", help="only this call, such as llm.generate")
    parser.add_argument("-n", "--limit", type=int, help="end after so many")
    parser.add_argument("target", nargs="?", help="APID or name; default: every process")


def traces(context: Context, options: argparse.Namespace) -> int:
    """Send each syscall to come as a span; the calls of one process are one trace."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise _absent(error) from error
    boot = context.client.call(Info()).boot
    provider = TracerProvider(resource=Resource.create({"service.name": "engramos"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=options.to)))
    tracer = provider.get_tracer("engramos")
    target = None if options.target is None else reference(options.target)
    sent = 0
    try:
        with context.client.stream(Trace(target=target, call=options.call, follow=True)) as stream:
            for line in stream:
                record(tracer, line, boot)
                sent += 1
                if sent == options.limit:
                    break
    except KeyboardInterrupt:
        pass  # how it is ended at a terminal; what was seen is still sent
    finally:
        provider.force_flush(int(FLUSH * 1000))
        provider.shutdown()
    context.value({"spans": sent}, f"{sent} spans sent to {options.to}")
    return 0


def record(tracer: Any, line: TraceLine, boot: int) -> None:
    """One finished call as a span of its process's trace."""
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

    digest = hashlib.sha256(f"{boot} {line.apid}".encode()).digest()
    process = SpanContext(
        trace_id=int.from_bytes(digest[:16], "big"),
        span_id=int.from_bytes(digest[16:24], "big"),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    end = int(line.at * SECOND) + int(line.micros * 1000)
    span = tracer.start_span(
        line.call,
        context=trace.set_span_in_context(NonRecordingSpan(process)),
        kind=SpanKind.SERVER,
        start_time=int(line.at * SECOND),
        attributes={
            "engram.apid": line.apid,
            "engram.boot": boot,
            "engram.seq": line.seq,
            "engram.arguments": line.arguments,
            "engram.result": line.result,
        },
    )
    if not line.ok:
        span.set_status(Status(StatusCode.ERROR, line.result))
    span.end(end_time=end)
