"""One trace from a request into the stages of a worker, as a collector receives it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.small import Service
from tests.e2e.test_outages import wait
from tests.processes import HOST

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP, as any collector does."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://{HOST}:{self._server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            [name] = [
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            ]
            for scope in resource.scope_spans:
                self.spans += [(name, span) for span in scope.spans]

    def of_trace(self) -> dict[str, list[tuple[str, Span]]]:
        """Spans of TRACE by name."""
        found: dict[str, list[tuple[str, Span]]] = {}
        for service, span in list(self.spans):
            if span.trace_id.hex() == TRACE:
                found.setdefault(span.name, []).append((service, span))
        return found

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


def service_with(tmp_path: Path, broker: str, endpoint: str) -> Service:
    database = f"sqlite:///{tmp_path / 'ledger.db'}"
    return Service(tmp_path, database, broker, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)


def test_one_trace_from_the_request_to_the_stages(
    tmp_path: Path, redis_url: str, collector: Collector
) -> None:
    service = service_with(tmp_path, redis_url, collector.url)
    with service.api, service.worker, service.client() as http:
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        job = http.post("/v1/jobs", json=service.body(), headers=headers).json()
        assert job["trace_id"] == TRACE
        wait(http, job["id"], "SUCCEEDED")
        logged = http.get(f"/v1/jobs/{job['id']}/logs").json()["logs"]
        assert {line["trace_id"] for line in logged} == {TRACE}
        service.worker.stop()
        service.api.stop()
    # Both have ended, and have sent everything before.
    spans = collector.of_trace()
    [(api, posted)] = spans["POST /v1/jobs"]
    assert api == "arrowquant-api"
    assert posted.parent_span_id.hex() == CALLER
    facts = {a.key: a.value.int_value or a.value.string_value for a in posted.attributes}
    assert facts["http.route"] == "/v1/jobs"
    assert facts["http.response.status_code"] == 202
    units = {name: spans[f"unit {name}"] for name in ("plan", "quantize", "publish")}
    for [(who, unit)] in units.values():
        assert who == "arrowquant-worker"
        assert unit.parent_span_id == posted.span_id
    [(_, quantize)] = units["quantize"]
    stages = {name: spans[name] for name in ("fetch", "encode", "write")}
    # Putting a part in place is a stage of its unit; the artifact's is one of PUBLISH.
    stages["publish"] = [
        entry for entry in spans["publish"] if entry[1].parent_span_id == quantize.span_id
    ]
    for [(who, stage)] in stages.values():
        assert who == "arrowquant-worker"
        assert stage.parent_span_id == quantize.span_id
        assert quantize.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano <= quantize.end_time_unix_nano
        facts = {attribute.key for attribute in stage.attributes}
        assert facts == {"busy_s", "steps", "bytes"}
    [(_, verify)] = spans["verify"]
    [(_, publish)] = units["publish"]
    assert verify.parent_span_id == publish.span_id
    # The message carried the context too.
    assert any(work.parent_span_id == posted.span_id for _, work in spans["work"])


def test_a_collector_that_never_answers_slows_nothing_down(tmp_path: Path, redis_url: str) -> None:
    with socket.create_server((HOST, 0)) as mute:
        service = service_with(tmp_path, redis_url, f"http://{HOST}:{mute.getsockname()[1]}")
        with service.api, service.worker, service.client() as http:
            job = http.post("/v1/jobs", json=service.body()).json()
            wait(http, job["id"], "SUCCEEDED")
            for process in (service.worker, service.api):
                began = time.monotonic()
                process.stop()
                assert time.monotonic() - began < 15
            said = service.worker.output.read_text() + service.api.output.read_text()
            assert "Traceback" not in said
