"""`make_app`: a served model over HTTP by the Open Inference Protocol (KServe v2), with its metrics.

/v2                                     the server, and its extensions
/v2/health/live, /v2/health/ready       200, or 503 with the reason
/v2/models/NAME, .../ready              the model: inputs, outputs, fields
/v2/models/NAME/infer                   JSON or binary tensors
/metrics                                for Prometheus
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from streams.dashboard.access import Access
from streams.errors import StreamsError
from streams.telemetry.collector import FigureCollector
from streams.telemetry.figures import Figure
from streams.telemetry.latency import LatencyHistogram
from trainer.errors import KeyRangeError, ReplicaError, RequestError, TrainerError
from trainer.serving.inference import VERSION, answer, describe_model, state_of
from trainer.serving.inference_messages import decode_request, encode_response
from trainer.serving.predictor import Predictor

__all__ = ["InferenceServer", "process_registry"]

logger = logging.getLogger(__name__)

_HEADER = "Inference-Header-Content-Length"
_STATUS: list[tuple[type[Exception], int]] = [(RequestError, 400), (KeyRangeError, 400), (ReplicaError, 503)]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class InferenceServer:
    """The application of one model.

    Args:
        predictor: the model.
        name: its name in paths.
        access: who may ask.
        max_bytes: of a request, after decompression.
        figures: further figures of the process.
        expose: what `/metrics` answers to a header `Accept`, and its type; blocks; None for this process's `registry`.

    Attributes:
        app: serves it.
        registry: the metrics of this process.
    """

    def __init__(
        self,
        predictor: Predictor,
        name: str,
        access: Access,
        *,
        max_bytes: int = 64 << 20,
        figures: Callable[[], Iterable[Figure]] = tuple,
        expose: Callable[[str], tuple[bytes, str]] | None = None,
    ) -> None:
        self._predictor, self._name, self._figures = predictor, name, figures
        self._counts, self._delay = Counter[str](), LatencyHistogram()
        self.registry, self._expose = process_registry(self.figures), expose or self._expose_own
        self.app = web.Application(middlewares=[access.middleware, self._explain], client_max_size=max_bytes)
        self.app.router.add_get("/metrics", self._metrics)
        self.app.router.add_get("/v2", self._describe)
        self.app.router.add_get("/v2/health/live", self._live)
        self.app.router.add_get("/v2/health/ready", self._ready)
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            self.app.router.add_get(path, self._model)
            self.app.router.add_get(f"{path}/ready", self._model_ready)
            self.app.router.add_post(f"{path}/infer", self._infer)

    def figures(self) -> Iterator[Figure]:
        """The figures of the requests and of the model; may be called in any thread."""
        for status, count in sorted(self._counts.items()):
            yield Figure("serve_requests_total", count, {"status": status})
        yield Figure("serve_request_seconds", self._delay)
        yield from self._predictor.figures()
        yield from self._figures()

    @web.middleware
    async def _explain(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers errors as the protocol has them: a JSON object with `error`."""
        try:
            return await handler(request)
        except (TrainerError, StreamsError) as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
            return web.json_response({"error": str(error)}, status=status)
        except web.HTTPException as error:
            return web.json_response({"error": error.text or error.reason}, status=error.status, headers=_allow(error))

    # ---- what is there ----

    async def _metrics(self, request: web.Request) -> web.Response:
        body, kind = await asyncio.to_thread(self._expose, request.headers.get("Accept") or "")
        return web.Response(body=body, headers={"Content-Type": kind})

    def _expose_own(self, accept: str) -> tuple[bytes, str]:
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind

    async def _describe(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"name": "hotstream", "version": version("hotstream"), "extensions": ["binary_tensor_data"]}
        )

    async def _live(self, _request: web.Request) -> web.Response:
        why_not = self._predictor.why_not_live
        return web.json_response({"live": why_not is None} | _reason(why_not), status=503 if why_not else 200)

    async def _ready(self, _request: web.Request) -> web.Response:
        why_not = self._predictor.why_not_ready
        return web.json_response({"ready": why_not is None} | _reason(why_not), status=503 if why_not else 200)

    async def _model(self, request: web.Request) -> web.Response:
        self._check_name(request)
        return web.json_response(describe_model(self._name, self._predictor.shape))

    async def _model_ready(self, request: web.Request) -> web.Response:
        self._check_name(request)
        why_not = self._predictor.why_not_ready
        content = {"name": self._name, "ready": why_not is None} | _reason(why_not)
        return web.json_response(content, status=503 if why_not else 200)

    def _check_name(self, request: web.Request) -> None:
        name, number = request.match_info["name"], request.match_info.get("version", VERSION)
        if (name, number) != (self._name, VERSION):
            raise web.HTTPNotFound(
                text=f"model {name[:60]!r}, version {number[:60]!r}: expected {self._name!r}, {VERSION!r}"
            )

    # ---- inference ----

    async def _infer(self, request: web.Request) -> web.Response:
        started_s, status = time.perf_counter(), 500
        try:
            self._check_name(request)
            body = await request.read()
            content, size = await asyncio.to_thread(self._compute, body, request.headers.get(_HEADER))
            status = 200
        except web.HTTPException as error:
            status = error.status
            raise
        except (TrainerError, StreamsError) as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
            raise
        finally:
            self._counts[str(status)] += 1
            self._delay.add_one((time.perf_counter() - started_s) * 1000)
        if size is None:
            return web.Response(body=content, content_type="application/json")
        return web.Response(body=content, content_type="application/octet-stream", headers={_HEADER: str(size)})

    def _compute(self, body: bytes, header_length: str | None) -> tuple[bytes, int | None]:
        request = decode_request(body, header_length)
        found = answer(self._predictor, request)
        head: dict[str, Any] = {"model_name": self._name, "model_version": VERSION}
        if request.id is not None:
            head["id"] = request.id
        head["parameters"] = state_of(self._predictor)
        outputs = [(name, array, request.outputs.get(name, request.is_binary)) for name, array in found.items()]
        return encode_response(head, outputs)


def process_registry(figures: Callable[[], Iterable[Figure]]) -> CollectorRegistry:
    """The metrics of this process and of its interpreter."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(FigureCollector(figures))
    return registry


def _reason(why_not: str | None) -> dict[str, str]:
    return {} if why_not is None else {"error": why_not}


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
